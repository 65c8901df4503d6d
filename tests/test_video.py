"""Decoding: whatever fal may deliver is decoded once, as it declares itself."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import clips
import cv2
import numpy as np
import pytest

from kling_sweeps.errors import UnavailableError, VideoError
from kling_sweeps.metrics import measure
from kling_sweeps.video import decode, opencv
from kling_sweeps.video.decode import Video, _ahead, frames, verify
from kling_sweeps.video.filmstrip import Filmstrip, filmstrip
from kling_sweeps.video.picture_hash import distance, mean_distances, picture_hash, written


def decoded(path: Path, threads: int = 0):
    """Decode a file, and give its frames' times and its facts."""
    video = Video(path, threads)
    times = [frame.time_s for frame in video]
    return times, video.facts


class TestFrames:
    def test_luma_is_as_stored(self, tmp_path):
        """The planes are what was written, bit for bit."""
        written = list(clips.noise(20))
        path = clips.write(tmp_path / "a.mp4", written)
        for frame, planes in zip(frames(path), written, strict=True):
            for seen, plane in zip((frame.luma, *frame.chroma), planes, strict=True):
                np.testing.assert_array_equal(seen, plane)

    def test_luma_is_a_view(self, tmp_path):
        """No plane is copied from the decoder."""
        frame = next(frames(clips.write(tmp_path / "a.mp4", clips.grey())))
        assert frame.luma.base is not None
        assert not frame.luma.flags.owndata

    @pytest.mark.parametrize("size", [(127, 95), (101, 64), (64, 101), (1918, 34), (34, 190), (16, 16)])
    def test_odd_sizes_and_portraits(self, tmp_path, size):
        """Rows that the decoder pads are cut to the picture."""
        written = list(clips.noise(20, frames=2, size=size))
        path = clips.write(tmp_path / "a.mkv", written, codec="ffv1", options={})
        for frame, planes in zip(frames(path), written, strict=True):
            np.testing.assert_array_equal(frame.luma, planes[0])
            assert (frame.width, frame.height) == size
            assert frame.bgr.shape == (size[1], size[0], 3)
            assert frame.pixels().shape[2] == 3

    @pytest.mark.parametrize("size", [(128, 96), (127, 95), (1918, 34), (17, 16)])
    def test_luma_counts(self, tmp_path, size):
        """Every pixel is counted once, whatever the width."""
        path = clips.write(tmp_path / "a.mkv", clips.noise(30, frames=2, size=size), codec="ffv1", options={})
        for frame in frames(path):
            np.testing.assert_array_equal(frame.luma_counts, np.bincount(frame.luma.ravel(), minlength=256))

    def test_planes_are_shared(self, tmp_path):
        """What several metrics ask for is prepared once."""
        frame = next(frames(clips.write(tmp_path / "a.mp4", clips.still())))
        assert frame.bgr is frame.bgr
        assert frame.luma_scaled(0.3) is frame.luma_scaled(0.3)
        assert frame.pixels() is frame.pixels()

    def test_previous(self, tmp_path):
        """A frame knows the one before it, and only that one."""
        path = clips.write(tmp_path / "a.mp4", clips.noise(20, frames=5))
        seen = list(frames(path))
        assert [frame.index for frame in seen] == [0, 1, 2, 3, 4]
        for before, frame in zip([None, *seen], frames(path), strict=False):
            assert (frame.previous and frame.previous.index) == (before and before.index)
            assert frame.previous is None or frame.previous.previous is None

    def test_previous_keeps_its_planes(self, tmp_path):
        """The buffers that are used again are not those of the frame before."""
        path = clips.write(tmp_path / "a.mp4", clips.noise(20, frames=6))
        alone = [frame.bgr.copy() for frame in frames(path)]
        for frame in frames(path):
            frame.bgr  # noqa: B018 - fills the buffer before the one of the frame before is looked at
            if frame.previous:
                np.testing.assert_array_equal(frame.previous.bgr, alone[frame.index - 1])


class TestColor:
    @pytest.mark.parametrize("matrix", ["bt709", "bt601", "unspecified"])
    @pytest.mark.parametrize("full_range", [False, True])
    def test_bgr_is_opencvs(self, tmp_path, matrix, full_range):
        """BGR is what `cv2.VideoCapture` reads, so that VBench's numbers are VBench's."""
        path = clips.write(tmp_path / "a.mp4", clips.still(2), matrix=matrix, full_range=full_range)
        capture = cv2.VideoCapture(str(path))
        for frame in frames(path):
            np.testing.assert_array_equal(frame.bgr, capture.read()[1])
        capture.release()

    @pytest.mark.parametrize("matrix", ["bt709", "bt601", "unspecified"])
    @pytest.mark.parametrize("full_range", [False, True])
    @pytest.mark.parametrize("yuv", [(126, 100, 160), (60, 140, 120), (180, 120, 130)])
    def test_matrix_and_range_are_the_files(self, tmp_path, matrix, full_range, yuv):
        """Colour follows the file's own matrix and range; untagged is BT.601."""
        path = clips.write(
            tmp_path / "a.mp4", clips.color(yuv, frames=1), matrix=matrix, full_range=full_range
        )
        frame = next(frames(path))
        expected = bgr(yuv, matrix, full_range)
        # FFmpeg's own conversion rounds down on the way.
        assert np.abs(frame.bgr[0, 0] - expected).max() <= 3
        assert np.abs(frame.pixels()[0, 0] - expected).max() <= 0.51
        assert np.abs(frame.bgr_scaled(0.5)[0, 0] - expected).max() <= 0.51

    def test_pixels_are_those_of_the_frame(self, tmp_path):
        """The grid holds pixels of the full-size picture, none averaged."""
        path = clips.write(tmp_path / "a.mp4", clips.still(1, (640, 360)))
        frame = next(frames(path))
        difference = frame.pixels(320).astype(int) - frame.bgr[::2, ::2]
        assert np.abs(difference).max() <= 3

    @pytest.mark.parametrize("full_range", [False, True])
    def test_ten_bits(self, tmp_path, full_range):
        """Ten bits are measured as eight, in their own range."""
        written = list(clips.still(2))
        path = clips.write(tmp_path / "a.mp4", written, pixel_format="yuv420p10le", full_range=full_range)
        for frame, planes in zip(frames(path), written, strict=True):
            np.testing.assert_array_equal(frame.luma, planes[0])
            assert (frame.black, frame.white) == ((0, 255) if full_range else (16, 235))
            difference = frame.pixels(128).astype(int) - frame.bgr
            assert np.abs(difference.mean((0, 1))).max() <= 2

    @pytest.mark.parametrize("pixel_format", ["yuv422p", "yuv444p"])
    def test_other_subsamplings(self, tmp_path, pixel_format):
        """Chroma of any subsampling is picked where its luma is."""
        path = clips.write(tmp_path / "a.mp4", clips.still(1, (640, 360)), pixel_format=pixel_format)
        frame = next(frames(path))
        difference = frame.pixels(320).astype(int) - frame.bgr[::2, ::2]
        assert np.abs(difference).max() <= 4

    def test_rgb_files(self, tmp_path):
        """A file that stores RGB is measured like any other."""
        path = clips.write(
            tmp_path / "a.mkv",
            clips.color((126, 100, 160), frames=1),
            codec="libx264rgb",
            pixel_format="bgr24",
            matrix="rgb",
        )
        frame = next(frames(path))
        expected = bgr((126, 100, 160), "bt709", False)
        assert np.abs(frame.bgr[0, 0] - expected).max() <= 4
        assert np.abs(frame.pixels()[0, 0] - expected).max() <= 4


class TestRotation:
    @pytest.mark.parametrize("rotation", [90, 180, -90])
    def test_is_undone(self, tmp_path, rotation):
        """A rotated file is measured as it is seen, which is how OpenCV reads it."""
        path = clips.write(tmp_path / "a.mp4", clips.still(2), rotation=rotation)
        video = Video(path)
        frame = next(iter(video))
        capture = cv2.VideoCapture(str(path))
        np.testing.assert_array_equal(frame.bgr, capture.read()[1])
        capture.release()
        assert frame.luma.shape == frame.bgr.shape[:2]
        assert frame.pixels().shape[:2] == frame.luma.shape
        facts = decoded(path)[1]
        assert (facts.width, facts.height) == (frame.width, frame.height)


class TestTime:
    def test_constant_rate(self, tmp_path):
        """Frames, rate and duration are counted."""
        times, facts = decoded(clips.write(tmp_path / "a.mp4", clips.grey(frames=30), fps=30))
        assert times == pytest.approx(np.arange(30) / 30, abs=1e-4)
        assert (facts.frames, facts.fps, facts.duration_s) == (30, pytest.approx(30), pytest.approx(1))
        assert facts.bitrate_mbps == pytest.approx((tmp_path / "a.mp4").stat().st_size * 8 / 1e6)

    def test_variable_rate(self, tmp_path):
        """Times are the frames' own time stamps."""
        stamps = [0, 20, 100, 140, 400]
        path = clips.write(tmp_path / "a.mkv", clips.grey(frames=5), times_ms=stamps)
        times, facts = decoded(path)
        assert times == pytest.approx(np.array(stamps) / 1000, abs=1e-3)
        assert facts.fps == pytest.approx(4 / 0.4)

    def test_b_frames(self, tmp_path):
        """Frames come in the order in which they are shown."""
        path = clips.write(
            tmp_path / "a.mp4", clips.pan(frames=24, size=(128, 96)), options={"bf": "3", "crf": "20"}
        )
        times, facts = decoded(path)
        assert times == sorted(times) and facts.frames == 24
        assert facts.duration_s == pytest.approx(1)

    def test_sound(self, tmp_path):
        """A sound track changes nothing."""
        facts = decoded(clips.write(tmp_path / "a.mp4", clips.grey(), audio=True))[1]
        assert facts.frames == 8 and facts.problem == ""

    def test_one_frame(self, tmp_path):
        """One frame has the duration its time stamp gives it."""
        times, facts = decoded(clips.write(tmp_path / "a.mp4", clips.grey(frames=1)))
        assert times == [0] and facts.frames == 1
        assert facts.duration_s == pytest.approx(1 / 24)

    @pytest.mark.parametrize("threads", [0, 1, 2])
    def test_threads_change_nothing(self, tmp_path, threads):
        """One thread decodes what many decode."""
        path = clips.write(tmp_path / "a.mp4", clips.noise(20, frames=20))
        sums = [int(frame.luma.sum()) for frame in frames(path, threads)]
        assert sums == [int(planes[0].sum()) for planes in clips.noise(20, frames=20)]


class TestBrokenFiles:
    @pytest.mark.parametrize("threads", [0, 1, 2])
    def test_cut_tail_is_decoded_up_to_there(self, tmp_path, threads):
        """Half a file gives its whole frames, as many for any number of threads, and says so."""
        path = clips.truncate(clips.write(tmp_path / "a.mp4", clips.noise(20, frames=20)))
        facts = decoded(path, threads)[1]
        assert 8 <= facts.frames <= 10
        assert facts.declared_frames == 20
        assert facts.problem.startswith(f"decoding ended after {facts.frames} of 20 frames")

    @pytest.mark.parametrize("content", [b"", b"<html>no video</html>", bytes(5000)])
    def test_not_a_video(self, tmp_path, content):
        """A file that is no video is named in one clear error."""
        path = tmp_path / "a.mp4"
        path.write_bytes(content)
        for check in (lambda: decoded(path), lambda: verify(path)):
            with pytest.raises(VideoError, match=r"a\.mp4"):
                check()

    def test_no_file(self, tmp_path):
        """A missing file is an error of the video too."""
        with pytest.raises(VideoError, match="no such file"):
            decoded(tmp_path / "a.mp4")

    def test_no_picture(self, tmp_path):
        """Sound alone is not a video."""
        import av

        path = tmp_path / "a.mp4"
        with av.open(str(path), "w") as file:
            stream = file.add_stream("aac", rate=44100)
            file.mux(stream.encode(clips.silence()))
            file.mux(stream.encode())
        with pytest.raises(VideoError, match="no video in it"):
            decoded(path)

    def test_no_frame(self, tmp_path):
        """A video without one decodable frame is an error."""
        path = clips.write(tmp_path / "a.mp4", clips.noise(20, frames=4))
        whole = path.read_bytes()
        start = whole.index(b"mdat") + 4
        path.write_bytes(whole[:start] + bytes(len(whole) - start))
        with pytest.raises(VideoError, match="can be decoded"):
            decoded(path)
        with pytest.raises(VideoError, match="decoded"):
            verify(path)

    def test_facts_before_the_end(self, tmp_path):
        """Facts are not given before they are known."""
        video = Video(clips.write(tmp_path / "a.mp4", clips.grey()))
        next(iter(video))
        with pytest.raises(VideoError, match="not decoded to its end"):
            assert video.facts


class TestDecodeThread:
    def test_order_and_end(self):
        """Gives all there is, in order."""
        assert list(_ahead(number for number in range(1, 50))) == list(range(1, 50))
        assert list(_ahead(number for number in ())) == []

    def test_errors_come_through(self):
        """An error comes after what was there before it."""

        def items():
            yield 1
            raise VideoError("broken")

        seen = []
        with pytest.raises(VideoError, match="broken"):
            seen.extend(_ahead(items()))
        assert seen == [1]

    def test_is_some_ahead_and_no_more(self):
        """Takes a few items before they are wanted, and none after it was closed."""
        taken = []
        ahead = _ahead((taken.append(number) or number for number in range(1, 100)), number=4)
        assert next(ahead) == 1
        while len(taken) < 5:
            time.sleep(0.001)
        ahead.close()
        assert taken == [1, 2, 3, 4, 5]
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]

    def test_a_thread_that_nobody_waits_for_ends_before_the_file(self, monkeypatch):
        """Decodes nothing any more once it is closed, where Ctrl-C had the executor forget its thread."""
        state, goes_on = [], threading.Event()

        def items():
            try:
                yield 1
                state.append("decodes")
                goes_on.wait()
                state.append("decoded")
                yield 2
            finally:
                state.append("closed")

        monkeypatch.setattr(decode.ThreadPoolExecutor, "shutdown", lambda self, **given: goes_on.set())
        ahead = _ahead(items())
        assert next(ahead) == 1
        while not state:
            time.sleep(0.001)
        ahead.close()
        assert state == ["decodes", "decoded", "closed"]

    def test_a_file_is_closed_early(self, tmp_path):
        """Who stops in the middle leaves no thread and no open file."""
        path = clips.write(tmp_path / "a.mp4", clips.noise(20, frames=30))
        seen = frames(path)
        next(seen)
        seen.close()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]
        assert str(path) not in [
            os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
        ]


class TestSizeChange:
    def test_neighbours_of_another_size_are_none(self, tmp_path):
        """A stream that changes its size is measured, but for the step at which it does."""
        parts = [
            clips.write(tmp_path / f"{w}.264", clips.pan(4, size=(w, h)), options={})
            for w, h in ((320, 180), (160, 120))
        ]
        path = tmp_path / "a.264"
        path.write_bytes(b"".join(part.read_bytes() for part in parts))
        measured = measure(path, "full")
        assert measured.errors == {} and len(measured.frames) == 16
        for name in (
            "temporal_information",
            "motion",
            "still",
            "step",
            "vbench_temporal_flickering",
        ):
            missing = list(np.flatnonzero(measured.frames[name].isna()))
            assert missing == [0, 8], name
        assert np.isnan(measured.values["loop_gap"])


class TestVerify:
    def test_whole(self, tmp_path):
        """A whole file passes."""
        verify(clips.write(tmp_path / "a.mp4", clips.noise(20), audio=True))

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
    def test_cut(self, tmp_path, share):
        """A file that was not downloaded to its end does not."""
        path = clips.write(tmp_path / "a.mp4", clips.noise(20, frames=20))
        with pytest.raises(VideoError, match=r"a\.mp4"):
            verify(clips.truncate(path, share))


class TestFilmstrip:
    def test_columns_are_evenly_spaced(self, tmp_path):
        """Eight columns go from the first frame to the last."""
        ramp = (next(clips.grey(20 + 2 * index, frames=1)) for index in range(100))
        path = clips.write(tmp_path / "a.mp4", ramp, full_range=True)
        strip = filmstrip(path, columns=8)
        assert strip.shape == (240, 8 * 320, 3) and strip.dtype == np.uint8
        shown = (strip[120, 160::320, 0].astype(float) - 20) / 2
        assert shown == pytest.approx(np.linspace(0, 99, 8), abs=6)

    def test_each_column_says_its_time(self, tmp_path):
        """The lower left corner has the time, different in each column, and nothing else is written on."""
        path = clips.write(tmp_path / "a.mp4", clips.grey(frames=4), full_range=True, fps=1)
        columns = np.hsplit(filmstrip(path, columns=4), 4)
        corners = {column[200:, :100].tobytes() for column in columns}
        assert len(corners) == 4
        for column in columns:
            assert np.ptp(column[:200]) == np.ptp(column[:, 100:]) == 0

    @pytest.mark.parametrize("expected", [0, 7, 64, 1000])
    def test_headers_are_not_trusted(self, tmp_path, expected):
        """A wrong count in the header still gives columns from the whole video."""
        brighter = (next(clips.grey(16 + 2 * index, frames=1, size=(32, 24))) for index in range(64))
        strip = Filmstrip(columns=4, height=24, expected=expected)
        for frame in frames(clips.write(tmp_path / "a.mp4", brighter)):
            strip.update(frame)
        values = strip.image()[0, ::32, 0]
        assert values[0] == 0 and (expected == 1000 or values[-1] >= 48 * 2)

    def test_few_frames(self, tmp_path):
        """A single frame makes a single column."""
        path = clips.write(tmp_path / "a.mp4", clips.grey(frames=1))
        assert filmstrip(frames(path)).shape == (240, 320, 3)

    def test_no_frames(self):
        """No frames, no strip."""
        assert filmstrip([]) is None


class TestOpenCV:
    def test_a_missing_library_is_explained(self, monkeypatch):
        """Where OpenCV can't be imported, the error names the remedy."""
        monkeypatch.setitem(sys.modules, "cv2", None)
        with pytest.raises(UnavailableError, match="opencv-python-headless"):
            opencv.load()

    def test_is_imported_late(self):
        """Checking a configuration imports neither OpenCV nor PyAV nor pandas."""
        code = (
            "import sys; from kling_sweeps import metrics; metrics.fingerprint('full'); metrics.describe('full');"
            "print(*{'cv2', 'av', 'pandas', 'hydra', 'mlflow', 'fal_client'} & set(sys.modules))"
        )
        printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        assert printed.stdout.strip() == ""


def bgr(yuv: tuple[int, int, int], matrix: str, full_range: bool) -> np.ndarray:
    """Convert one colour as ITU-R BT.601 or BT.709 write it down, in float64."""
    red, blue = (0.2126, 0.0722) if matrix == "bt709" else (0.299, 0.114)
    y, cb, cr = (float(level) for level in yuv)
    y = y / 255 if full_range else (y - 16) / 219
    cb, cr = ((level - 128) / (255 if full_range else 224) for level in (cb, cr))
    r = y + 2 * (1 - red) * cr
    b = y + 2 * (1 - blue) * cb
    g = (y - red * r - blue * b) / (1 - red - blue)
    return np.clip(np.array([b, g, r]), 0, 1) * 255


class TestPictureHash:
    def test_like_and_unlike(self):
        """The same picture blurred, small or dark is near; other pictures are about as far as chance."""
        pictures = [clips.texture((320, 180), seed=9 * seed, grain=24)[0] for seed in range(6)]
        for y in pictures:
            small, blurred = cv2.resize(y, (160, 90)), cv2.GaussianBlur(y, (0, 0), 4)
            dark = (16 + 0.3 * (y.astype(float) - 16)).astype(np.uint8)
            same = [
                distance(written([picture_hash(y)]), written([picture_hash(x)]))
                for x in (small, blurred, dark)
            ]
            assert max(same) <= 0.07
        hashes = [written([picture_hash(y)]) for y in pictures]
        assert 0.4 < np.mean([distance(a, b) for a, b in itertools.combinations(hashes, 2)]) < 0.6

    def test_videos_of_other_lengths(self):
        """Pictures at like moments are compared, also where one video has fewer; nothing else is a hash."""
        assert distance(written([0, 7, 1]), written([0, 1])) == 0
        assert distance(written([0, 0]), written([1, 0])) == 1 / 126
        for text in ("", "what?"):
            with pytest.raises(ValueError, match="is not what describes"):
                distance(text, written([0]))

    def test_each_from_all_others(self):
        """Is the mean over the pairs, whatever the videos' lengths, and NaN for one alone."""
        draw = random.Random(1)
        videos = [[draw.getrandbits(63) for _ in range(length)] for length in (12, 12, 7, 1, 12, 7, 3)]

        def differing(one, other):
            number = min(len(one), len(other))
            places = [np.linspace(0, len(each) - 1, number).round().astype(int) for each in (one, other)]
            return sum((one[i] ^ other[j]).bit_count() for i, j in zip(*places, strict=True)) / (63 * number)

        expected = [np.mean([differing(a, b) for b in videos if b is not a]) for a in videos]
        assert mean_distances([*map(written, videos)]) == pytest.approx(expected)
        assert np.isnan(mean_distances([written([1])])).all()
