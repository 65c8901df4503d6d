"""Small copies of videos that fit into a page, cached beside each video, and strips of several side by side."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from kling_sweeps.store.journal import written_whole
from kling_sweeps.video import opencv as cv2
from kling_sweeps.video.decode import frames
from kling_sweeps.video.frame import view
from kling_sweeps.video.preview import TICK, encode, small

# In pixels: the longer side of a clip and of a picture of a filmstrip, and what decoders take at most.
LONG, FILM_LONG, WIDEST = 320, 160, 4096
FILM_PICTURES = 6
# Clips of one strip, and up to how many each is a file of its own.
STRIP, SINGLE = 12, 12
CLIP, FILM = "clip.mp4", "clip.webp"


@dataclass(frozen=True)
class Clip:
    """A small silent copy of a video, as a file, and its filmstrip; `times` are those of its frames, in ticks."""

    path: Path
    film: Path
    width: int
    height: int
    times: tuple[int, ...]

    @property
    def duration_s(self) -> float:
        """Return the seconds until the end of the last frame, which lasts as long as the one before."""
        last = self.times[-1] - self.times[-2] if len(self.times) > 1 else 3750
        return float((self.times[-1] + last) * TICK)


@dataclass(frozen=True)
class Strip:
    """Clips of the same times side by side in one video: `clips` are their numbers, `lefts` where each begins."""

    content: bytes
    clips: tuple[int, ...]
    lefts: tuple[int, ...]


def clip_of(video: Path, folder: Path) -> Clip:
    """Return the clip of a video in a folder, made unless it is there; raise VideoError or OSError where it can't be."""
    clip, film = folder / CLIP, folder / FILM
    made = min((path.stat().st_mtime_ns if path.exists() else 0) for path in (clip, film))
    if made < video.stat().st_mtime_ns:
        _make(video, clip, film)
    with av.open(os.fspath(clip)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.pts is not None]
        times = sorted(round((packet.pts or 0) * packet.time_base / TICK) for packet in packets)
        return Clip(clip, film, stream.width, stream.height, tuple(times))


def _make(video: Path, clip: Path, film: Path) -> None:
    pictures: list[np.ndarray] = []

    def shrunk() -> Iterator[av.VideoFrame]:
        for frame in frames(video, threads=1):
            picture = small(frame, LONG / max(frame.width, frame.height))
            pictures.append(picture.to_ndarray(format="bgr24"))
            yield picture

    with written_whole(clip) as part:
        encode(part, shrunk())
    with written_whole(film) as part:
        part.write_bytes(_film(pictures))


def _film(pictures: Sequence[np.ndarray]) -> bytes:
    """Join evenly spaced pictures, the first and the last among them, into one WebP image."""
    chosen = np.linspace(0, len(pictures) - 1, FILM_PICTURES).round().astype(int)
    height, width = pictures[0].shape[:2]
    share = min(1.0, FILM_LONG / max(height, width))
    size = max(1, round(width * share)), max(1, round(height * share))
    joined = np.hstack([cv2.resize(pictures[index], size, interpolation=cv2.INTER_AREA) for index in chosen])
    encoded: np.ndarray = cv2.imencode(".webp", joined, [cv2.IMWRITE_WEBP_QUALITY, 55])[1]
    return encoded.tobytes()


def groups(clips: Sequence[Clip]) -> list[list[int]]:
    """Return which clips, by their numbers, go into one video each: alone where they are few, or else in strips."""
    if len(clips) <= SINGLE:
        return [[number] for number in range(len(clips))]
    found: list[list[int]] = []
    open_strips: dict[tuple[object, ...], list[int]] = {}
    for number, clip in enumerate(clips):
        key = clip.height, clip.times
        strip = open_strips.get(key, [])
        width = sum(clips[one].width for one in strip) + clip.width
        if not strip or len(strip) == STRIP or width > WIDEST:
            strip = open_strips[key] = []
            found.append(strip)
        strip.append(number)
    return found


def strip_of(clips: Sequence[Clip], numbers: Sequence[int]) -> Strip:
    """Return a video of some of the clips side by side, kept beside the first of them, or the one clip as it is."""
    chosen = [clips[number] for number in numbers]
    lefts = tuple(sum(clip.width for clip in chosen[:index]) for index in range(len(chosen)))
    if len(chosen) == 1:
        return Strip(chosen[0].path.read_bytes(), tuple(numbers), lefts)
    made_of = [(clip.path.parent.name, clip.path.stat().st_mtime_ns) for clip in chosen]
    name = hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]
    kept = chosen[0].path.with_name(f"strip-{name}.mp4")
    try:
        content = kept.read_bytes()
    except FileNotFoundError:
        with written_whole(kept) as part:
            encode(part, joined(chosen))
            content = part.read_bytes()
        for older in {*kept.parent.glob("strip-*.mp4")} - {kept}:
            older.unlink(missing_ok=True)
    return Strip(content, tuple(numbers), lefts)


def joined(chosen: Sequence[Clip]) -> Iterator[av.VideoFrame]:
    """Yield the pictures of clips of the same times side by side."""
    with ExitStack() as stack:
        films = [stack.enter_context(av.open(os.fspath(clip.path))).decode(video=0) for clip in chosen]
        yield from map(_side_by_side, zip(*films, strict=True), chosen[0].times)


def _side_by_side(row: Sequence[av.VideoFrame], time: int) -> av.VideoFrame:
    """Return pictures of one height side by side as one."""
    picture = av.VideoFrame(sum(one.width for one in row), row[0].height, "yuv420p")
    for number, plane in enumerate(picture.planes):
        np.concatenate([view(one.planes[number]) for one in row], axis=1, out=view(plane))
    picture.pts, picture.time_base = time, TICK
    return picture
