"""Opening files: what can be shown is what counts, and a name is a name."""

from __future__ import annotations

import os
import random
import struct
import subprocess
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import clips
import cv2
import imageio_ffmpeg
import numpy as np
import pytest

from kling_sweeps.emulator.scene.encoding import write_h264
from kling_sweeps.errors import VideoError
from kling_sweeps.measurement.measurement import Measurement
from kling_sweeps.metrics import measure
from kling_sweeps.video.decode import Video, VideoFacts, frames, verify

TRACK = (b"moov", b"trak")
TABLES = (*TRACK, b"mdia", b"minf", b"stbl")
# In the track's time scale: 24 frames a second, and two frames by which B-frames are late.
FRAME, DELAY = 512, 1024


def facts(path: Path, **options) -> VideoFacts:
    """Decode a file to its end."""
    video = Video(path, 1, **options)
    for _ in video:
        pass
    return video.facts


def refused(path: Path, **options) -> VideoError:
    """Return the error with which a file is neither whole nor measured, which must be the same."""
    errors = []
    for look in (verify, facts):
        with pytest.raises(VideoError) as caught:
            look(path, **options)
        errors.append(caught.value)
    assert str(errors[0]) == str(errors[1]) and errors[0].decodable == errors[1].decodable
    return errors[0]


def verdict(path: Path) -> str:
    """Return what `verify` says of a file, "" where it is whole."""
    try:
        verify(path)
    except VideoError as error:
        return str(error)
    return ""


def ffmpeg(*arguments: object) -> str:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def shown_by_ffmpeg(path: Path) -> int:
    """Count the frames that FFmpeg's own command shows."""
    lines = ffmpeg("-i", path, "-map", "0:v", "-fps_mode", "passthrough", "-f", "framecrc", "-")
    return sum(not line.startswith("#") for line in lines.splitlines())


def boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    while start < end:
        length, kind = struct.unpack(">I4s", data[start : start + 8])
        yield kind, start, start + length
        start += length


def box(data: bytes, *path: bytes) -> tuple[int, int]:
    """Find a box of an mp4 file: where it begins and ends."""
    start, end = -8, len(data)
    for name in path:
        start, end = next((a, b) for kind, a, b in boxes(data, start + 8, end) if kind == name)
    return start, end


def with_edits(path: Path, *edits: tuple[int, int]) -> Path:
    """Replace an mp4's edit list, in place: each edit has its milliseconds and where it begins, -1 for nowhere."""
    data = bytearray(path.read_bytes())
    body = b"".join(struct.pack(">IiHH", length, start, 1, 0) for length, start in edits)
    edit_list = struct.pack(">I4sII", 16 + len(body), b"elst", 0, len(edits)) + body
    whole = struct.pack(">I4s", 8 + len(edit_list), b"edts") + edit_list
    start, end = box(data, *TRACK, b"edts")
    data[start:end] = whole
    longer = len(whole) - (end - start)
    for at in (box(data, b"moov")[0], box(data, *TRACK)[0]):
        add(data, at, longer)
    chunks = box(data, *TABLES, b"stco")[0]
    for number in range(struct.unpack(">I", data[chunks + 12 : chunks + 16])[0]):
        add(data, chunks + 16 + 4 * number, longer)
    path.write_bytes(data)
    return path


def add(data: bytearray, at: int, number: int) -> None:
    data[at : at + 4] = struct.pack(">I", struct.unpack(">I", data[at : at + 4])[0] + number)


@pytest.fixture
def clip(tmp_path) -> Path:
    """24 frames of one second with B-frames, whose index is before its data."""
    return clips.write(
        tmp_path / "a.mp4", clips.pan(frames=24, size=(320, 180)), options={"preset": "medium"}
    )


class TestEditLists:
    @pytest.mark.parametrize(
        ("edits", "shown"),
        [
            ([(500, DELAY + 12 * FRAME)], 12),
            ([(500, DELAY)], 12),
            ([(250, DELAY), (250, DELAY + 12 * FRAME)], 12),
            ([(500, DELAY), (500, DELAY)], 24),
            ([(500, -1), (1000, DELAY)], 24),
            ([(500, DELAY), (500, 99999999)], 12),
        ],
    )
    def test_what_they_hide_is_not_missing(self, clip, edits, shown):
        """Counts and measures what is shown, as FFmpeg does, and calls the file whole."""
        with_edits(clip, *edits)
        assert (verdict(clip), shown_by_ffmpeg(clip)) == ("", shown)
        measured = measure(clip, {"file": {}, "luma": {}})
        assert measured.errors == {} and len(measured.frames) == measured.values["frames"] == shown
        assert measured.facts["declared_frames"] == 24

    def test_the_frames_are_those_that_are_shown(self, tmp_path):
        """Begins with the first frame that is shown, at 0 s, where a cut without encoding left others before it."""
        ramp = [next(clips.grey(40 + 5 * index, frames=1)) for index in range(24)]
        whole = clips.write(tmp_path / "a.mp4", ramp)
        ffmpeg("-ss", "0.5", "-i", whole, "-c", "copy", tmp_path / "cut.mp4")
        seen = [(frame.time_s, int(frame.luma[0, 0])) for frame in frames(tmp_path / "cut.mp4")]
        assert seen == [(pytest.approx(index / 24, abs=1e-3), 100 + 5 * index) for index in range(12)]
        assert verdict(tmp_path / "cut.mp4") == ""

    @pytest.mark.parametrize("edits", [[(500, -1)], [(500, 99999999)], [(0, DELAY)]])
    def test_one_that_hides_everything_is_not_followed(self, clip, edits):
        """Measures what nobody would see, says so, and lets it count as something that can be decoded."""
        with_edits(clip, *edits)
        with pytest.raises(VideoError, match="hides every frame") as caught:
            verify(clip)
        assert caught.value.decodable
        assert (facts(clip).frames, facts(clip).problem) == (24, "the edit list hides every frame")

    def test_a_file_that_is_cut_off_is_so_with_one(self, clip):
        """Tells what is hidden from what is missing."""
        with_edits(clip, (500, DELAY + 12 * FRAME))
        clips.truncate(clip, 0.95)
        assert "not whole" in verdict(clip) and "decoding ended after" in facts(clip).problem


class TestCounts:
    @pytest.mark.parametrize("tables", [["stts"], ["stsz"], ["stsc"], ["stts", "stsz", "stsc"]])
    def test_an_index_that_counts_one_too_many(self, clip, tables):
        """Takes what is there for the truth."""
        data = bytearray(clip.read_bytes())
        for table in tables:
            add(data, box(data, *TABLES, table.encode())[0] + (20 if table == "stsc" else 16), 1)
        clip.write_bytes(data)
        assert (verdict(clip), facts(clip).frames, facts(clip).problem) == ("", 24, "")

    def test_empty_samples(self, clip, tmp_path):
        """Passes over samples that have nothing in them, wherever they are."""
        path = tmp_path / "gaps.mp4"
        with av.open(str(clip)) as source, av.open(str(path), "w") as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.size:
                    empty = av.Packet(b"")
                    empty.dts, empty.pts, empty.time_base = (
                        packet.dts - 100,
                        packet.pts - 100,
                        packet.time_base,
                    )
                    for each in (empty, packet):
                        each.stream = stream
                        target.mux(each)
        assert (verdict(path), facts(path).frames, facts(path).problem) == ("", 24, "")

    def test_a_packet_that_is_no_picture(self, tmp_path):
        """Decodes what follows it, and says that it is damaged."""
        path = clips.write(tmp_path / "a.mp4", clips.noise(20, frames=20), options={"qp": "0", "g": "1"})
        with av.open(str(path)) as container:
            entry = list(container.streams.video[0].index_entries)[7]
        data = bytearray(path.read_bytes())
        data[entry.pos : entry.pos + entry.size] = bytes(entry.size)
        path.write_bytes(data)
        assert (verdict(path), facts(path).frames) == ("", 19)
        assert facts(path).problem.startswith("1 frames are lost: a packet can't be decoded")

    @pytest.mark.parametrize("name", ["a.mp4", "fragments.mp4", "a.mkv", "a.webm"])
    def test_a_cut_is_seen_wherever_it_is(self, tmp_path, name):
        """Says of each file that lacks frames that it is cut off, in both ways of looking, and only of those."""
        codec = "libvpx-vp9" if name == "a.webm" else "libx264"
        path = clips.write(tmp_path / f"x{name}", clips.noise(20, frames=20), codec=codec, options={})
        if name == "fragments.mp4":
            ffmpeg("-i", path, "-c", "copy", "-movflags", "empty_moov+frag_every_frame", tmp_path / name)
            path = tmp_path / name
        whole, positions = path.read_bytes(), random.Random(1)
        cut = tmp_path / f"cut-{name}"
        for _ in range(25):
            cut.write_bytes(whole[: positions.randrange(len(whole))])
            try:
                found = facts(cut)
            except VideoError as error:
                assert verdict(cut) == str(error)
                continue
            is_short = found.frames < 20
            assert bool(verdict(cut)) == bool(found.problem)
            # Nothing tells that a fragment is missing as a whole.
            assert bool(found.problem) >= (is_short and name != "fragments.mp4")

    @pytest.mark.parametrize("share", [0.3, 0.7])
    def test_an_index_at_the_end_is_missed(self, tmp_path, share):
        """Says that the index is missing where it is what was cut off."""
        path = tmp_path / "a.mp4"
        planes = [np.full((96, 64), 90 + index, np.uint8) for index in range(5)]
        write_h264(path, planes, (64, 64), 5)
        ffmpeg("-i", path, "-c", "copy", tmp_path / "late.mp4")
        error = refused(clips.truncate(tmp_path / "late.mp4", share))
        assert "its index is missing" in str(error) and not error.decodable


NAMES = [
    b"a:b.mp4",
    b"http:x.mp4",
    b"file:x.mp4",
    b"concat:a|b.mp4",
    b"-i.mp4",
    b"100%.mp4",
    b"a%03d.png",
    b"a*?[0].jpg",
    b"#1?x=2&y.mp4",
    b" two  spaces .mp4",
    b"line\nbreak.mp4",
    b"caf\xe9-\xff.mp4",
    "猫".encode() * 80 + b".mp4",
    b"none",
]


class TestNames:
    @pytest.mark.parametrize("name", NAMES)
    def test_a_file_of_any_name_is_measured(self, tmp_path, monkeypatch, clip, name):
        """Opens what has the name, absolute and relative, and writes beside it."""
        monkeypatch.chdir(tmp_path)
        folder = Path(os.fsdecode(name))
        (folder / "in").mkdir(parents=True)
        path = folder / "in" / folder.name
        path.write_bytes(clip.read_bytes())
        for each in (path, path.absolute()):
            verify(each)
            measure(each, {"luma": {}}).save(folder / "out")
            assert len(Measurement.load(folder / "out").frames) == 24
        assert Measurement.load(folder / "out").filmstrip.shape[0] == 240

    @pytest.mark.parametrize("name", NAMES)
    def test_a_file_of_any_name_is_written(self, tmp_path, monkeypatch, name):
        """Encodes into a file that has the name."""
        monkeypatch.chdir(tmp_path)
        path = Path(os.fsdecode(name)[-60:])
        write_h264(path, [np.full((96, 64), 90, np.uint8)] * 3, (64, 64), 3)
        assert facts(path).frames == 3


class TestFilms:
    def test_a_thumbnail_before_the_film(self, tmp_path, clip):
        """Takes the stream that is marked as the default, and not the first one."""
        cv2.imwrite(str(tmp_path / "p.png"), np.zeros((64, 64, 3), np.uint8))
        path = tmp_path / "two.mp4"
        maps = ["-map", "0:v", "-map", "1:v", "-c:v:0", "mjpeg", "-c:v:1", "copy"]
        marks = ["-disposition:v:0", "0", "-disposition:v:1", "default"]
        ffmpeg("-i", tmp_path / "p.png", "-i", clip, *maps, *marks, path)
        with av.open(str(path)) as container:
            assert container.streams.video[0].width == 64
        assert (verdict(path), facts(path).width, facts(path).frames) == ("", 320, 24)

    def test_an_attached_picture_is_no_film(self, tmp_path, clip):
        """Passes over the cover of a film, and finds no film in a song that has one."""
        cv2.imwrite(str(tmp_path / "p.png"), np.zeros((640, 640, 3), np.uint8))
        film, song = tmp_path / "film.mp4", tmp_path / "song.mp4"
        cover = [
            "-i",
            tmp_path / "p.png",
            "-map",
            "1:v",
            "-map",
            "0",
            "-c",
            "copy",
            "-disposition:v:0",
            "attached_pic",
        ]
        ffmpeg("-i", clip, *cover, film)
        assert (verdict(film), facts(film).width, facts(film).frames) == ("", 320, 24)
        ffmpeg("-f", "lavfi", "-i", "sine=d=0.1", tmp_path / "a.m4a")
        ffmpeg("-i", tmp_path / "a.m4a", *cover, song)
        assert "has no video in it" in str(refused(song))

    @pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tiff", "gif", "avif"])
    def test_a_picture_is_not_a_video(self, tmp_path, suffix):
        """Says of a still picture that it is one, whatever it is called."""
        picture, path = tmp_path / f"p.{suffix}", tmp_path / "video.mp4"
        if suffix == "gif":
            animation(picture, 1)
        else:
            cv2.imwrite(str(picture), np.zeros((64, 64, 3), np.uint8))
        picture.rename(path)
        error = refused(path)
        assert "is a picture" in str(error) and not error.decodable

    def test_an_animation_and_a_film_of_one_frame_are_videos(self, tmp_path):
        """Measures what moves, and an mp4 of a single frame."""
        assert facts(animation(tmp_path / "a.gif", 6)).frames == 6
        for codec, pixel_format in (("libx264", "yuv420p"), ("mjpeg", "yuvj420p")):
            path = tmp_path / f"{codec}.mp4"
            clips.write(
                path,
                clips.grey(frames=1),
                codec=codec,
                options={},
                pixel_format=pixel_format,
                full_range=True,
            )
            assert (verdict(path), facts(path).frames) == ("", 1)

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"<!DOCTYPE html><html><body>403</body></html>", "an HTML page"),
            (b"\xef\xbb\xbf\r\n <HTML>", "an HTML page"),
            ("<html>".encode("utf-16"), "an HTML page"),
            (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML"),
            (b'{"detail": "not\x1b[31m found"}', 'JSON ({"detail": "not\ufffd[31m found"})'),
            (b"\x1f\x8b\x08\0\0", "data packed by gzip"),
            (b"", "empty"),
        ],
    )
    def test_what_is_something_else_is_named(self, tmp_path, content, said):
        """Says what the file is."""
        (tmp_path / "a.mp4").write_bytes(content)
        assert f"a.mp4 is {said}, not a video" in str(refused(tmp_path / "a.mp4"))

    def test_nothing_else_is_opened(self, tmp_path, clip):
        """Follows no address in a file, of this machine or of another."""
        for text in (
            f"#EXTM3U\n#EXTINF:1,\n{clip}\n#EXT-X-ENDLIST\n",
            f"ffconcat version 1.0\nfile '{clip}'\n",
        ):
            (tmp_path / "list.mp4").write_text(text)
            assert not refused(tmp_path / "list.mp4").decodable


def animation(path: Path, number: int) -> Path:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("gif", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "rgb8"
        for index in range(number):
            file.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.full((64, 64), index, np.uint8), format="rgb8"))
            )
        file.mux(stream.encode())
    return path


class TestDisplay:
    @pytest.mark.parametrize("at", ["container", "codec"])
    @pytest.mark.parametrize(
        ("ratio", "rotation", "size"),
        [
            ("4/3", 0, (427, 180)),
            ("1/2", 0, (160, 180)),
            ("4/3", 90, (180, 427)),
            ("4/3", 180, (427, 180)),
        ],
    )
    def test_pixels_that_are_not_square(self, tmp_path, clip, ratio, rotation, size, at):
        """Gives width, height and aspect error as displayed; the frames are as stored."""
        path = tmp_path / "wide.mp4"
        turned = ["-display_rotation", str(rotation)] if rotation else []
        shown = Fraction(320, 180) * Fraction(ratio)
        written = {
            "container": ["-aspect", str(shown)],
            "codec": ["-bsf:v", f"h264_metadata=sample_aspect_ratio={ratio}"],
        }
        ffmpeg(*turned, "-i", clip, "-c", "copy", *written[at], path)
        shown = 1 / shown if rotation == 90 else shown
        values = measure(path, {"file": {}}, aspect_ratio=f"{shown.numerator}:{shown.denominator}").values
        assert (values["width"], values["height"]) == size
        assert values["aspect_error"] == pytest.approx(0, abs=1e-9)
        assert sorted(next(frames(path)).luma.shape) == [180, 320]


class TestPixels:
    def test_a_frame_that_is_too_large_is_not_decoded(self, tmp_path, clip):
        """Refuses before it decodes, says how large the frames are, and that they could be decoded."""
        error = refused(clip, max_pixels=320 * 180 - 1)
        assert "320x180" in str(error) and "measuring.max_pixels=57599" in str(error) and error.decodable
        verify(clip, 320 * 180)
        assert facts(clip, max_pixels=320 * 180).frames == 24

    @pytest.mark.parametrize("grown", [(200, 160), (640, 360)])
    def test_a_stream_that_grows(self, tmp_path, grown):
        """Looks at each frame, since a stream may change its size."""
        sizes = ((160, 120), grown)
        parts = [clips.write(tmp_path / f"{w}.264", clips.pan(4, size=(w, h)), options={}) for w, h in sizes]
        path = tmp_path / "a.264"
        path.write_bytes(b"".join(part.read_bytes() for part in parts))
        with pytest.raises(VideoError, match=f"{grown[0]}x{grown[1]}"):
            facts(path, max_pixels=160 * 120)
