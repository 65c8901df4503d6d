"""Each number against clips of known truth and against its formula in float64."""

from __future__ import annotations

import clips
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kling_sweeps.metrics import measure
from kling_sweeps.video import frames

LAPLACIAN = ((0, 1), (0, -1), (1, 1), (1, -1))


def read(path) -> list[np.ndarray]:
    """Decode with OpenCV alone: HxWx3 float64, B, G, R."""
    capture = cv2.VideoCapture(str(path))
    pictures = []
    while (answer := capture.read())[0]:
        pictures.append(answer[1].astype(np.float64))
    capture.release()
    return pictures


def colorfulness(bgr: np.ndarray) -> float:
    """Transcribe Hasler & Suesstrunk 2003."""
    b, g, r = np.moveaxis(bgr, 2, 0)
    rg, yb = r - g, (r + g) / 2 - b
    return np.sqrt(rg.var() + yb.var()) + 0.3 * np.sqrt(rg.mean() ** 2 + yb.mean() ** 2)


def saturation(bgr: np.ndarray) -> float:
    """Transcribe S of HSV."""
    high, low = bgr.max(2), bgr.min(2)
    return np.where(high > 0, (high - low) / np.maximum(high, 1), 0).mean()


def laplacian_variance(luma: np.ndarray) -> float:
    """Transcribe the 4-neighbour Laplacian, its border mirrored without the edge pixel."""
    padded = np.pad(luma, 1, mode="reflect")
    shifted = sum(np.roll(padded, shift, axis) for axis, shift in LAPLACIAN)
    return (shifted - 4 * padded)[1:-1, 1:-1].var()


def flickering(pictures: list[np.ndarray]) -> float:
    """Transcribe VBench's temporal flickering."""
    steps = [np.abs(after - before).mean() for before, after in zip(pictures, pictures[1:], strict=False)]
    return (255 - np.mean(steps)) / 255


class TestFile:
    def test_as_delivered(self, tmp_path):
        """The facts are the file's."""
        path = clips.write(tmp_path / "a.mp4", clips.grey(frames=12, size=(320, 180)), fps=12)
        values = measure(path, {"file": {}}, aspect_ratio="16:9", duration=5).values
        assert (values["width"], values["height"], values["frames"]) == (320, 180, 12)
        assert (values["fps"], values["duration_s"]) == (pytest.approx(12), pytest.approx(1))
        assert values["bitrate_mbps"] == pytest.approx(path.stat().st_size * 8e-6)
        assert values["aspect_error"] == pytest.approx(0)
        assert values["duration_error_s"] == pytest.approx(-4)

    def test_against_the_request(self, tmp_path):
        """A square delivered for 9:16 is off by 7/9."""
        path = clips.write(tmp_path / "a.mp4", clips.grey(size=(96, 96)))
        values = measure(path, {"file": {}}, aspect_ratio="9:16").values
        assert values["aspect_error"] == pytest.approx(16 / 9 - 1)


class TestLuma:
    @pytest.mark.parametrize("full_range", [False, True])
    @pytest.mark.parametrize("level", [16, 60, 128, 235])
    def test_grey(self, tmp_path, level, full_range):
        """A grey is as bright as its range says and has no contrast."""
        path = clips.write(tmp_path / "a.mp4", clips.grey(level), full_range=full_range)
        values = measure(path, {"luma": {}}).values
        expected = level / 255 if full_range else (level - 16) / 219
        assert values["luma_mean"] == pytest.approx(expected, abs=1e-12)
        assert values["luma_contrast"] == pytest.approx(0, abs=1e-12)

    def test_formula(self, tmp_path):
        """Mean and population deviation of the expanded Y, to float64's precision."""
        written = list(clips.noise(20))
        values = measure(clips.write(tmp_path / "a.mp4", written), {"luma": {}}).values
        luma = [(planes[0].astype(np.float64) - 16) / 219 for planes in written]
        assert values["luma_mean"] == pytest.approx(np.mean([y.mean() for y in luma]), abs=1e-9)
        assert values["luma_contrast"] == pytest.approx(np.mean([y.std() for y in luma]), abs=1e-9)


class TestColor:
    @pytest.mark.parametrize("matrix", ["bt709", "bt601", "unspecified"])
    @pytest.mark.parametrize("full_range", [False, True])
    def test_formulas(self, tmp_path, matrix, full_range):
        """Within 3 and 2 % of the formulas on the full-size 8-bit BGR that OpenCV reads."""
        path = clips.write(
            tmp_path / "a.mp4", clips.pan(size=(640, 360)), matrix=matrix, full_range=full_range
        )
        values = measure(path, {"saturation": {}, "colorfulness": {}}).values
        pictures = read(path)
        expected = np.mean([colorfulness(picture) for picture in pictures])
        assert values["colorfulness"] == pytest.approx(expected, rel=0.03)
        expected = np.mean([saturation(picture) for picture in pictures])
        assert values["saturation_mean"] == pytest.approx(expected, rel=0.02)

    def test_grey_has_no_color(self, tmp_path):
        """Grey, dark or bright or noisy in Y alone, is neither saturated nor colourful."""
        grey = [(noisy[0], *flat[1:]) for noisy, flat in zip(clips.noise(30), clips.grey(), strict=True)]
        values = measure(
            clips.write(tmp_path / "a.mp4", grey), {"saturation": {}, "colorfulness": {}}
        ).values
        assert values["colorfulness"] == pytest.approx(0, abs=1e-6)
        assert values["saturation_mean"] == pytest.approx(0, abs=1e-3)

    def test_pure_red(self, tmp_path):
        """Red of BT.709 is fully saturated; its colourfulness is 0.3 sqrt(255^2 + 127.5^2)."""
        path = clips.write(tmp_path / "a.mp4", clips.color((63, 102, 240)))
        values = measure(path, {"saturation": {}, "colorfulness": {}}).values
        assert values["saturation_mean"] == pytest.approx(1, abs=0.01)
        assert values["colorfulness"] == pytest.approx(0.3 * np.hypot(255, 127.5), rel=0.01)


class TestSharpness:
    @pytest.mark.parametrize("full_range", [False, True])
    def test_formula(self, tmp_path, full_range):
        """At the fixed size itself, the formula to float64's precision."""
        written = list(clips.noise(20, size=(320, 240)))
        path = clips.write(tmp_path / "a.mp4", written, full_range=full_range)
        value = measure(path, {"sharpness": {"short_side": 240}}).values["sharpness"]
        gain = 1 if full_range else 255 / 219
        expected = np.mean([laplacian_variance(gain * planes[0].astype(float)) for planes in written])
        assert value == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("factor", [2, 4])
    def test_larger_pictures_are_averaged(self, tmp_path, factor):
        """A larger picture counts as its block averages do."""
        written = list(clips.noise(30, frames=3, size=(640, 480)))
        path = clips.write(tmp_path / "a.mp4", written)
        value = measure(path, {"sharpness": {"short_side": 480 // factor}}).values["sharpness"]
        blocks = (480 // factor, factor, 640 // factor, factor)
        small = [planes[0].reshape(blocks).mean((1, 3)) * 255 / 219 for planes in written]
        assert value == pytest.approx(np.mean([laplacian_variance(each) for each in small]), rel=0.02)

    def test_resolutions_compare(self, tmp_path):
        """The same scene at 720 and at 1080 lines differs by less than a tenth."""
        values = []
        for size in ((1280, 720), (1920, 1080)):
            picture = clips.texture(size, grain=size[1] // 45)
            large = cv2.resize(clips.texture((1920, 1080), grain=24)[0], size, interpolation=cv2.INTER_AREA)
            path = clips.write(tmp_path / f"{size[1]}.mp4", [(large, *picture[1:])])
            values.append(measure(path, {"sharpness": {}}).values["sharpness"])
        assert values[0] == pytest.approx(values[1], rel=0.1)

    def test_blur_is_less_sharp(self, tmp_path):
        """Blurring lowers it, more blur more."""
        y, u, v = clips.texture((640, 480), grain=4)
        values = []
        for sigma in (0.1, 1, 2, 4):
            path = clips.write(tmp_path / f"{sigma}.mp4", [(cv2.GaussianBlur(y, (0, 0), sigma), u, v)])
            values.append(measure(path, {"sharpness": {}}).values["sharpness"])
        assert values == sorted(values, reverse=True) and values[0] > 5 * values[-1]


class TestMotion:
    @pytest.mark.parametrize("pixels", [4, 6, 12])
    @pytest.mark.parametrize("fps", [24, 30])
    def test_pan(self, tmp_path, pixels, fps):
        """A pan of n pixels a frame moves n fps / diagonal, within 8 %."""
        path = clips.write(tmp_path / "a.mp4", pan(pixels), fps=fps)
        value = measure(path, {"motion": {}}).values["motion"]
        assert value == pytest.approx(pixels * fps / np.hypot(640, 360), rel=0.08)

    def test_still(self, tmp_path):
        """What stands still does not move."""
        values = measure(clips.write(tmp_path / "a.mp4", clips.still()), {"motion": {}}).values
        assert values["motion"] == pytest.approx(0, abs=1e-3)
        assert values["motion_p95"] == pytest.approx(0, abs=1e-3)

    def test_time_stamps_count(self, tmp_path):
        """The same movement in twice the time is half as fast, whatever the header's rate."""
        stamps = [[step * index for index in range(8)] for step in (40, 80)]
        values = [
            measure(
                clips.write(tmp_path / f"{index}.mkv", pan(6), times_ms=times), {"motion": {}}
            ).values["motion"]
            for index, times in enumerate(stamps)
        ]
        assert values[0] == pytest.approx(2 * values[1], rel=1e-6)

    def test_portrait_is_as_fast(self, tmp_path):
        """A picture on its side moves as fast."""
        lying = [tuple(plane.T.copy() for plane in planes) for planes in pan(6)]
        values = [
            measure(clips.write(tmp_path / f"{index}.mp4", clip), {"motion": {}}).values["motion"]
            for index, clip in enumerate([pan(6), lying])
        ]
        assert values[0] == pytest.approx(values[1], rel=0.03)


class TestTemporalFlickering:
    def test_formula(self, tmp_path):
        """VBench's formula on OpenCV's frames, to float64's precision."""
        path = clips.write(tmp_path / "a.mp4", clips.noise(20))
        value = measure(path, {"vbench_temporal_flickering": {}}).values["vbench_temporal_flickering"]
        assert value == pytest.approx(flickering(read(path)), abs=1e-12)

    def test_still(self, tmp_path):
        """Equal frames are 1."""
        path = clips.write(tmp_path / "a.mp4", clips.still())
        assert measure(path).values["vbench_temporal_flickering"] == 1

    def test_alternating(self, tmp_path):
        """Black and white in turn are 0."""
        levels = (next(clips.grey(level, frames=1)) for level in (16, 235) * 4)
        path = clips.write(tmp_path / "a.mp4", levels)
        assert measure(path).values["vbench_temporal_flickering"] == pytest.approx(0, abs=1e-9)


class TestInvariance:
    def test_mirroring(self, tmp_path):
        """Mirrored, a clip measures the same."""
        mirrored = [tuple(plane[:, ::-1].copy() for plane in planes) for planes in pan(6)]
        before, after = (
            measure(clips.write(tmp_path / f"{index}.mp4", clip)).values
            for index, clip in enumerate([pan(6), mirrored])
        )
        for name in ("luma_mean", "luma_contrast", "colorfulness", "vbench_temporal_flickering"):
            assert after[name] == pytest.approx(before[name], rel=1e-6)
        for name in ("saturation_mean", "sharpness", "motion"):
            assert after[name] == pytest.approx(before[name], rel=0.03)

    def test_played_twice(self, tmp_path):
        """A clip played twice keeps the means of what has no memory."""
        once = list(clips.pan(6))
        before, after = (
            measure(clips.write(tmp_path / f"{index}.mp4", clip)).values
            for index, clip in enumerate([once, once + once])
        )
        for name in ("luma_mean", "luma_contrast", "saturation_mean", "colorfulness", "sharpness"):
            assert after[name] == pytest.approx(before[name], rel=1e-9)

    @settings(max_examples=15, deadline=None)
    @given(offset=st.integers(-20, 20))
    def test_brightness_offset(self, tmp_path_factory, offset):
        """An offset moves the mean by as much, and leaves contrast, sharpness and colour alone."""
        folder = tmp_path_factory.mktemp("offset")
        written = list(clips.noise(10, frames=2))
        moved = [((planes[0] + np.int16(offset)).astype(np.uint8), *planes[1:]) for planes in written]
        spec = {"luma": {}, "sharpness": {"short_side": 96}, "colorfulness": {}}
        before, after = (
            measure(clips.write(folder / f"{index}.mp4", clip), spec).values
            for index, clip in enumerate([written, moved])
        )
        assert after["luma_mean"] - before["luma_mean"] == pytest.approx(offset / 219, abs=1e-9)
        for name in ("luma_contrast", "sharpness", "colorfulness"):
            assert after[name] == pytest.approx(before[name], rel=1e-9)

    @settings(max_examples=15, deadline=None)
    @given(gain=st.floats(0.1, 1))
    def test_contrast(self, tmp_path_factory, gain):
        """Lower contrast by a factor, and the measured one is lower by it."""
        folder = tmp_path_factory.mktemp("contrast")
        y, u, v = next(clips.noise(25, frames=1))
        flat = (126 + gain * (y.astype(float) - 126)).round().astype(np.uint8)
        before, after = (
            measure(clips.write(folder / f"{index}.mp4", [(plane, u, v)]), {"luma": {}}).values
            for index, plane in enumerate([y, flat])
        )
        assert after["luma_contrast"] == pytest.approx(gain * before["luma_contrast"], rel=0.03)


def pan(pixels: int):
    """Give a pan over blobs that a thumbnail still shows."""
    return list(clips.pan(pixels, size=(640, 360)))


def test_frames_are_decoded_once(tmp_path, monkeypatch):
    """All metrics and the filmstrip share one decode."""
    from kling_sweeps.video import Video

    decodes = []
    original = Video.__iter__
    monkeypatch.setattr(Video, "__iter__", lambda video: decodes.append(video) or original(video))
    path = clips.write(tmp_path / "a.mp4", clips.pan())
    assert measure(path).filmstrip is not None
    assert len(decodes) == 1 and len(list(frames(path))) == 8
