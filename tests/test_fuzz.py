"""Mutated videos by the hundred: each is an error or a measurement that says what is broken, never a crash."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isinf
from pathlib import Path

import clips
import pytest

from kling_sweeps import metrics
from kling_sweeps.errors import VideoError
from kling_sweeps.measurement import workers
from kling_sweeps.measurement.measurement import Measurement
from kling_sweeps.measurement.workers import Workers
from kling_sweeps.metric import Requested

SPEC = (metrics.specification("default"), Requested(16 / 9, 1.0))
FRAMES = 24
# Of each mutation, of each of the two clips.
FILES = 14
Mutation = Callable[[bytearray, random.Random], bytearray]


def flip_bits(data: bytearray, luck: random.Random) -> bytearray:
    """Flip up to 64 bits anywhere."""
    for _ in range(luck.choice((1, 8, 64))):
        data[luck.randrange(len(data))] ^= 1 << luck.randrange(8)
    return data


def flip_bits_of_the_frames(data: bytearray, luck: random.Random) -> bytearray:
    """Flip up to 64 bits of what was encoded."""
    begin, end = box(data, b"mdat")
    for _ in range(luck.choice((1, 8, 64))):
        data[luck.randrange(begin + 8, end)] ^= 1 << luck.randrange(8)
    return data


def flip_bits_of_the_index(data: bytearray, luck: random.Random) -> bytearray:
    """Flip a few bits of the sizes, offsets and times of the frames."""
    begin, end = box(data, b"moov")
    for _ in range(luck.choice((1, 4, 16))):
        data[luck.randrange(begin, end)] ^= 1 << luck.randrange(8)
    return data


def fill_a_number_of_the_index(data: bytearray, luck: random.Random) -> bytearray:
    """Set four bytes of the index to the largest or the smallest number."""
    begin, end = box(data, b"moov")
    at = luck.randrange(begin, end - 4)
    data[at : at + 4] = luck.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x80\0\0\0"))
    return data


def rename_a_box(data: bytearray, luck: random.Random) -> bytearray:
    """Give a part of the file a name that nobody knows."""
    names = (
        b"ftyp",
        b"moov",
        b"mdat",
        b"trak",
        b"mdia",
        b"minf",
        b"stbl",
        b"stsd",
        b"stts",
        b"stsz",
        b"stco",
        b"avcC",
        b"mdhd",
    )
    name = luck.choice([name for name in names if name in data])
    return data.replace(name, bytes(luck.randrange(97, 123) for _ in range(4)), 1)


def truncate(data: bytearray, luck: random.Random) -> bytearray:
    """Cut the end off."""
    return data[: luck.randrange(len(data))]


def truncate_by_little(data: bytearray, luck: random.Random) -> bytearray:
    """Cut off a few bytes."""
    return data[: -luck.randrange(1, 200)]


def behead(data: bytearray, luck: random.Random) -> bytearray:
    """Cut the beginning off."""
    return data[luck.randrange(1, len(data)) :]


def zero_a_block(data: bytearray, luck: random.Random) -> bytearray:
    """Overwrite a block with zeros, as a hole of a file does."""
    length = luck.choice((16, 512, 4096))
    at = luck.randrange(len(data) - 16)
    data[at : at + length] = bytes(len(data[at : at + length]))
    return data


def swap_blocks(data: bytearray, luck: random.Random) -> bytearray:
    """Exchange two blocks of equal length."""
    length = luck.choice((16, 512))
    first, second = (luck.randrange(len(data) - length) for _ in range(2))
    one, other = data[first : first + length], data[second : second + length]
    data[first : first + length], data[second : second + length] = other, one
    return data


def insert_bytes(data: bytearray, luck: random.Random) -> bytearray:
    """Put in bytes that belong to nothing."""
    at = luck.randrange(len(data))
    return data[:at] + luck.randbytes(luck.choice((1, 3, 188, 4096))) + data[at:]


def repeat_a_block(data: bytearray, luck: random.Random) -> bytearray:
    """Write a part twice, as a download that is resumed at the wrong place does."""
    at = luck.randrange(len(data))
    back = luck.randrange(at + 1)
    return data[:at] + data[back:]


def replace_by_noise(data: bytearray, luck: random.Random) -> bytearray:
    """Keep the beginning, and go on with noise."""
    keep = luck.choice((0, 12, 40, len(data) // 2))
    return data[:keep] + luck.randbytes(len(data) - keep)


MUTATIONS: tuple[Mutation, ...] = (
    flip_bits,
    flip_bits_of_the_frames,
    flip_bits_of_the_index,
    fill_a_number_of_the_index,
    rename_a_box,
    truncate,
    truncate_by_little,
    behead,
    zero_a_block,
    swap_blocks,
    insert_bytes,
    repeat_a_block,
    replace_by_noise,
)
# Those that leave the index whole, by which a missing frame is noticed.
OF_THE_FRAMES = (flip_bits_of_the_frames, truncate_by_little)
every_mutation = pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)


def box(data: bytes, name: bytes) -> tuple[int, int]:
    """Return where a box of an mp4 file begins and ends, its header included."""
    at = data.index(name) - 4
    return at, min(len(data), at + max(16, int.from_bytes(data[at : at + 4], "big")))


@dataclass(frozen=True)
class Fate:
    """What came of a file: what `verify` and `measure` raised, and what was measured."""

    name: str
    verified: BaseException | None
    error: BaseException | None
    measured: Measurement | None
    seconds: float


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Make a clip with its index in front, as fal's are, and one with it behind."""
    folder = tmp_path_factory.mktemp("originals")
    usual = {"crf": "28", "preset": "veryfast", "g": "12", "bf": "2"}
    pictures = list(clips.pan(4, frames=FRAMES, size=(192, 108)))
    front = clips.write(folder / "front.mp4", pictures, options=usual)
    behind = clips.write(folder / "behind.mov", pictures, options=usual)
    return [front.read_bytes(), behind.read_bytes()]


@pytest.fixture(scope="module")
def fates(originals: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Fate]]:
    """Verify and measure every mutation of every clip."""
    folder = tmp_path_factory.mktemp("mutants")
    files = {mutation.__name__: list(mutants(mutation, originals, folder)) for mutation in MUTATIONS}

    async def all_of_them(scheduler: Workers) -> dict[str, list[Fate]]:
        return {
            name: await asyncio.gather(*(fate(scheduler, file) for file in own))
            for name, own in files.items()
        }

    with Workers(len(MUTATIONS), timeout_s=20) as scheduler:
        return asyncio.run(all_of_them(scheduler))


def mutants(mutation: Mutation, originals: list[bytes], folder: Path) -> Iterator[Path]:
    for clip, original in enumerate(originals):
        for number in range(FILES):
            luck = random.Random(f"{mutation.__name__} {clip} {number}")
            path = folder / f"{mutation.__name__}-{clip}-{number}.mp4"
            path.write_bytes(mutation(bytearray(original), luck))
            yield path


async def fate(scheduler: Workers, file: Path) -> Fate:
    begin = time.monotonic()
    folder = file.with_suffix("")
    verified, _ = await outcome(scheduler.verify(file))
    error, _ = await outcome(scheduler.measure(folder, file, *SPEC))
    measured = None if error else Measurement.load(folder)
    return Fate(file.name, verified, error, measured, time.monotonic() - begin)


async def outcome(work) -> tuple[BaseException | None, object]:
    try:
        return None, await work
    except Exception as error:
        return error, None


@every_mutation
def test_it_ends_in_an_error_of_ours_or_in_a_measurement(fates, mutation):
    """Raises nothing but a VideoError, whatever the file does to the decoder."""
    for one in fates[mutation.__name__]:
        assert one.verified is None or isinstance(one.verified, VideoError), one
        assert one.error is None or isinstance(one.error, VideoError), one


@every_mutation
def test_no_decoder_hangs_or_is_killed(fates, mutation):
    """Ends by itself, within seconds."""
    for one in fates[mutation.__name__]:
        types = {getattr(error, "error_type", "") for error in (one.verified, one.error) if error}
        assert not types & {"decoder_crashed", "decoder_hung"}, one


@every_mutation
def test_each_number_is_one_or_is_missing(fates, mutation):
    """Measures finite numbers within what a metric can be, or none, in the table of frames too."""
    ranges = {row.name: row.range for row in metrics.describe("default")}
    for one in (fate for fate in fates[mutation.__name__] if fate.measured):
        for name, value in one.measured.values.items():
            low, high = ranges[name]
            assert value != value or (low <= value <= high and not isinf(value)), (one.name, name, value)
        assert not one.measured.frames.isin([float("inf"), float("-inf")]).any().any(), one.name
        assert len(one.measured.frames) == one.measured.values["frames"], one.name


@pytest.mark.parametrize("mutation", OF_THE_FRAMES, ids=lambda mutation: mutation.__name__)
def test_what_is_missing_is_marked(fates, mutation):
    """Says so in the record where a video has fewer frames than its index."""
    for one in (fate for fate in fates[mutation.__name__] if fate.measured):
        if one.measured.values["frames"] < FRAMES:
            assert "frames" in one.measured.errors["video"], one.name


def test_a_cut_off_download_is_never_taken_for_whole(fates):
    """Finds each file that lacks a frame before it is kept, and marks its numbers all the same."""
    for one in fates["truncate"] + fates["truncate_by_little"]:
        is_whole = one.measured and one.measured.values["frames"] == FRAMES and not one.measured.errors
        assert bool(one.verified) == (not is_whole), one.name
        assert one.error or is_whole or "video" in one.measured.errors, one.name


@pytest.mark.slow
def test_a_whole_file_passes(originals, tmp_path):
    """Finds nothing wrong with the clips themselves."""
    with Workers(1) as scheduler:
        for number, original in enumerate(originals):
            file = tmp_path / f"{number}.mp4"
            file.write_bytes(original)
            one = asyncio.run(fate(scheduler, file))
            assert (one.verified, one.error, one.measured.errors) == (None, None, {})
            assert one.measured.values["frames"] == FRAMES


def crash(*args: object) -> None:
    signal.raise_signal(signal.SIGSEGV)


def hang(*args: object) -> None:
    time.sleep(60)


@pytest.mark.slow
def test_a_decoder_that_crashes_is_a_record_and_costs_one_worker(originals, tmp_path, monkeypatch):
    """Reports a process that died under a file, and goes on with the next file."""
    file = tmp_path / "video.mp4"
    file.write_bytes(originals[0])
    with Workers(1) as scheduler:
        with monkeypatch.context() as patch, pytest.raises(VideoError, match="crashed") as caught:
            patch.setattr(workers, "_verify", crash)
            asyncio.run(scheduler.verify(file))
        assert caught.value.error_type == "decoder_crashed"
        asyncio.run(scheduler.verify(file))


@pytest.mark.slow
def test_a_decoder_that_hangs_is_a_record_and_costs_one_worker(originals, tmp_path, monkeypatch):
    """Ends a process that does not end by itself, and goes on with the next file."""
    file = tmp_path / "video.mp4"
    file.write_bytes(originals[0])
    with Workers(1, timeout_s=1) as scheduler:
        with monkeypatch.context() as patch, pytest.raises(VideoError, match="not done") as caught:
            patch.setattr(workers, "_verify", hang)
            asyncio.run(scheduler.verify(file))
        assert caught.value.error_type == "decoder_hung"
        scheduler.timeout_s = 60
        asyncio.run(scheduler.verify(file))


@pytest.mark.slow
def test_a_crash_takes_no_other_file_with_it(originals, tmp_path, monkeypatch):
    """Measures the others while one after another kills its worker."""
    good, bad = tmp_path / "good.mp4", tmp_path / "bad.mp4"
    for file in (good, bad):
        file.write_bytes(originals[0])
    monkeypatch.setattr(workers, "_verify", crash)

    async def mixed(scheduler: Workers) -> list:
        measured = (scheduler.measure(tmp_path / str(n), good, *SPEC) for n in range(4))
        crashed = (scheduler.verify(bad) for _ in range(4))
        return await asyncio.gather(*crashed, *measured, return_exceptions=True)

    with Workers(2) as scheduler:
        ended = asyncio.run(mixed(scheduler))
    assert [getattr(end, "error_type", "measured") for end in ended] == ["decoder_crashed"] * 4 + [
        "measured"
    ] * 4


@pytest.mark.slow
def test_what_is_to_be_measured_holds_no_download_up(originals, tmp_path):
    """Verifies a file that came last as soon as a worker is free."""
    file = tmp_path / "video.mp4"
    file.write_bytes(originals[0])
    ended = []

    async def noted(name: str, work) -> None:
        await work
        ended.append(name)

    async def all_of(scheduler: Workers) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(4):
                measured = scheduler.measure(tmp_path / str(number), file, *SPEC)
                group.create_task(noted("measured", measured))
            group.create_task(noted("verified", scheduler.verify(file)))

    with Workers(1) as scheduler:
        asyncio.run(all_of(scheduler))
    assert ended == ["measured", "verified", *["measured"] * 3]
