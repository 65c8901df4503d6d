"""Each number against clips of known truth and against its formula in float64."""

from __future__ import annotations

import itertools

import clips
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from kling_sweeps.metric import drawn
from kling_sweeps.metrics import camera, measure, specification
from kling_sweeps.video.decode import frames
from kling_sweeps.video.frame import Frame

pytestmark = pytest.mark.slow

LAPLACIAN = ((0, 1), (0, -1), (1, 1), (1, -1))
IMMERKAER = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])


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
    steps = [np.abs(after - before).mean() for before, after in itertools.pairwise(pictures)]
    return (255 - np.mean(steps)) / 255


def noise_sigma(luma: np.ndarray) -> float:
    """Transcribe Immerkaer 1996 in blocks, of which the quietest tenth counts."""
    filtered = np.abs(ndimage.convolve(luma, IMMERKAER)[1:-1, 1:-1])
    side = min(32, *filtered.shape)
    down, across = (length // side for length in filtered.shape)
    blocks = filtered[: down * side, : across * side].reshape(down, side, across, side).mean((1, 3))
    return np.sqrt(np.pi / 2) / 6 * np.percentile(blocks, 10) / 0.944


def spatial_information(luma: np.ndarray) -> float:
    """Transcribe ITU-T P.910's SI of a frame."""
    return np.hypot(ndimage.sobel(luma, 0), ndimage.sobel(luma, 1))[1:-1, 1:-1].std()


def full_range(pictures) -> list[np.ndarray]:
    """Give Y of limited-range pictures as 0..255 float64."""
    return [(planes[0].astype(np.float64) - 16) * 255 / 219 for planes in pictures]


def warp_error(
    luma: np.ndarray, before: np.ndarray, after: np.ndarray, there: np.ndarray, back: np.ndarray
) -> float:
    """Transcribe Lai et al. 2018 for a pair, over the variance of Y: pictures in 0..1, flow (x, y) in pixels."""
    height, width = before.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float64)
    x, y = x + there[..., 0], y + there[..., 1]

    def warped(image: np.ndarray) -> np.ndarray:
        planes = (
            ndimage.map_coordinates(plane, [y, x], order=1, mode="nearest")
            for plane in np.moveaxis(image, 2, 0)
        )
        return np.stack(list(planes), 2)

    def squared(vectors: np.ndarray) -> np.ndarray:
        return (vectors**2).sum(2)

    back = warped(back)
    occluded = squared(there + back) > 0.01 * (squared(there) + squared(back)) + 0.5
    gradient = np.zeros((height, width))
    gradient[:, :-1] += squared(there[:, 1:] - there[:, :-1])
    gradient[:-1] += squared(there[1:] - there[:-1])
    boundary = gradient > 0.01 * squared(there) + 0.002
    outside = (x < 0) | (x > width - 1) | (y < 0) | (y > height - 1)
    followed = ~(occluded | boundary | outside)
    return ((warped(after) - before) ** 2)[followed].mean() / luma[followed].var()


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


def barred(shot, rows: int, columns: int = 0) -> list[clips.Planes]:
    """Put black bars over so many rows at the top and the bottom, and columns at the sides; even numbers."""
    pictures = []
    for planes in shot:
        picture = tuple(plane.copy() for plane in planes)
        for plane, black, half in zip(picture, (16, 128, 128), (1, 2, 2), strict=True):
            across, down = plane.T, plane
            for view, width in ((down, rows // half), (across, columns // half)):
                view[:width] = view[len(view) - width :] = black
        pictures.append(picture)
    return pictures


class TestBars:
    @pytest.mark.parametrize(("rows", "columns"), [(0, 0), (36, 0), (0, 64), (36, 64)])
    @pytest.mark.parametrize("crf", [18, 28])
    def test_found(self, tmp_path, crf, rows, columns):
        """Bars of a known width are found, coded as they are, and none where there are none."""
        shot = barred(clips.pan(2, size=(640, 360)), rows, columns)
        path = clips.write(tmp_path / "a.mp4", shot, options={"crf": str(crf)})
        share = 1 - (360 - 2 * rows) * (640 - 2 * columns) / (640 * 360)
        assert measure(path, {"bars": {}}).values["bars_share"] == pytest.approx(share, abs=0.015)

    def test_no_other_number_counts_them(self, tmp_path):
        """Every number of a picture with bars is that of the part between them, in each set and upright or not."""
        shot = list(clips.pan(2, size=(640, 360)))
        inner = [(y[40:320, 64:576], u[20:160, 32:288], v[20:160, 32:288]) for y, u, v in shot]
        for rotation in (0, 90):
            with_bars, without = (
                measure(clips.write(tmp_path / f"{n}.mkv", clip, rotation=rotation), "full")
                for n, clip in enumerate([barred(shot, 40, 64), inner])
            )
            of_the_file = ("width", "height", "bitrate_mbps", "bars_share")
            for name in set(without.values).difference(of_the_file):
                assert with_bars.values[name] == pytest.approx(without.values[name], rel=1e-6, nan_ok=True), (
                    name
                )
            assert with_bars.filmstrip[4].max() < 40 < without.filmstrip[4].max()

    def test_what_is_dark_is_no_bar(self, tmp_path):
        """A thing before black, a fade from black, and bars with a title in them, are pictures to their edge."""
        y, u, v = (plane.copy() for plane in next(clips.color((16, 128, 128), size=(640, 360))))
        rows, columns = np.ogrid[:360, :640]
        ball = (rows - 180) ** 2 + (columns - 320) ** 2 < 100**2
        y[ball] = clips.texture((640, 360))[0][ball]
        fade = changed(clips.pan(2, size=(640, 360), frames=24), lambda y, n: y * min(1, n / 12))
        titled = barred(clips.pan(2, size=(640, 360), frames=24), 40)
        for picture in titled[12:]:
            picture[0][15:30, 200:440] = picture[0][330:345, 200:440] = 235
        shots = {"ball": [(y, u, v)] * 8, "fade": fade, "titled": titled, "black": clips.grey(16)}
        for name, shot in shots.items():
            path = clips.write(tmp_path / f"{name}.mp4", shot, options={"crf": "23"})
            assert measure(path, {"bars": {}}).values["bars_share"] == 0, name

    def test_a_file_without_is_decoded_once(self, tmp_path, monkeypatch):
        """What has no black edge is not looked at twice, and what fades in only until its edge is seen."""
        seen = []
        original = Frame.__init__
        monkeypatch.setattr(
            Frame, "__init__", lambda frame, *args, **more: seen.append(1) or original(frame, *args, **more)
        )
        plain = list(clips.pan(2, size=(320, 180), frames=24))
        counts = []
        for name, shot in (("plain", plain), ("fade", changed(plain, lambda y, n: y * (n > 3)))):
            seen.clear()
            measure(clips.write(tmp_path / f"{name}.mp4", shot), {"bars": {}})
            counts.append(len(seen))
        assert counts[0] == 24 and counts[1] <= 24 + 6


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

    @pytest.mark.parametrize("levels", [(0, 255), (16, 235), (60, 61), (0, 17)])
    @pytest.mark.parametrize("size", [(33, 17), (128, 96)])
    def test_percentiles_and_ends(self, tmp_path, levels, size):
        """Range and clipping are numpy's percentiles and counts, of what is within black and white."""
        random = np.random.default_rng(0)
        picture = list(next(clips.grey(size=size, frames=1)))
        picture[0] = random.choice(levels, p=(0.985, 0.015), size=picture[0].shape).astype(np.uint8)
        path = clips.write(tmp_path / "a.mkv", [tuple(picture)], codec="ffv1", options={})
        values = measure(path, {"luma": {}}).values
        luma = np.clip((picture[0].astype(np.float64) - 16) / 219, 0, 1)
        assert values["luma_range"] == pytest.approx(np.subtract(*np.percentile(luma, [99, 1])), abs=1e-12)
        assert values["clipped_dark"] == (luma <= 2 / 255).mean()
        assert values["clipped_bright"] == (luma >= 253 / 255).mean()

    def test_share_of_black(self, tmp_path):
        """A quarter of black, a sixth of white, are those shares."""
        y, u, v = next(clips.grey(128, frames=1, size=(96, 96)))
        y[24:48], y[-16:] = 16, 235
        values = measure(clips.write(tmp_path / "a.mp4", [(y, u, v)]), {"luma": {}}).values
        assert (values["clipped_dark"], values["clipped_bright"]) == (
            pytest.approx(1 / 4),
            pytest.approx(1 / 6),
        )
        assert values["luma_range"] == 1


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
        values = measure(clips.write(tmp_path / "a.mp4", grey), {"saturation": {}, "colorfulness": {}}).values
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


class TestEdgeWidth:
    @staticmethod
    def width(path, shot) -> float:
        return measure(clips.write(path, shot), {"edge_width": {}}).values["edge_width"]

    @staticmethod
    def tiles(blur: float, *, lines: int = 480, contrast: float = 1, sigma: float = 0) -> list[clips.Planes]:
        """Picture tiles at all angles, blurred by so many pixels of 480 lines."""
        rows, columns = np.mgrid[:lines, : lines * 4 // 3] * 480 / lines
        waves = np.sin(rows / 19 + columns / 23) + np.sin(columns / 17 - rows / 31)
        tiles = cv2.GaussianBlur(np.where(waves > 0, 180.0, 70.0), (0, 0), max(0.05, blur * lines / 480))
        noisy = 125 + contrast * (tiles - 125) + np.random.default_rng(0).normal(0, sigma, tiles.shape)
        grey = np.full((lines // 2, lines * 2 // 3), 128, np.uint8)
        return [(noisy.clip(16, 235).round().astype(np.uint8), grey, grey)]

    @pytest.mark.parametrize("blur", [1, 2, 4])
    def test_a_known_blur(self, tmp_path, blur):
        """The blur that was made on edges of 0.6 pixels is found, under noise, in a fifth of the contrast, and at other sizes."""
        likes = {"plain": {}, "noisy": {"sigma": 5}, "pale": {"contrast": 0.2}, "large": {"lines": 1080}}
        for name, like in likes.items():
            found = self.width(tmp_path / f"{name}.mp4", self.tiles(blur, **like))
            assert found == pytest.approx(np.hypot(blur, 0.6), rel=0.1), name

    def test_nothing_is_sharper_than_its_lines(self, tmp_path):
        """A hard edge has next to no width, at half the lines it has more, and a bare wall has none to measure."""
        hard, small = (self.width(tmp_path / f"{n}.mp4", self.tiles(0, lines=n)) for n in (480, 240))
        assert hard < 0.7 < small < 1.5
        assert np.isnan(self.width(tmp_path / "wall.mp4", clips.grey(128, size=(320, 240))))


class TestNoise:
    @pytest.mark.parametrize("size", [(640, 360), (127, 95), (64, 200)])
    def test_formula(self, tmp_path, size):
        """The formula to float64's precision, whatever the size."""
        written = list(clips.noise(12, size=size, frames=3))
        value = measure(clips.write(tmp_path / "a.mkv", written, codec="ffv1", options={}), "full").values[
            "noise_sigma"
        ]
        assert value == pytest.approx(np.mean([noise_sigma(luma) for luma in full_range(written)]), rel=1e-6)

    @pytest.mark.parametrize("sigma", [1, 3, 8])
    @pytest.mark.parametrize("is_full", [False, True])
    def test_gaussian(self, tmp_path, sigma, is_full):
        """Gaussian noise of a known sigma, rounded to levels, is found within 3 %."""
        path = clips.write(tmp_path / "a.mp4", clips.noise(sigma, size=(320, 240)), full_range=is_full)
        gain = 1 if is_full else 255 / 219
        assert measure(path).values["noise_sigma"] == pytest.approx(
            gain * np.sqrt(sigma**2 + 1 / 12), rel=0.03
        )

    def test_straight_edges_are_none(self, tmp_path):
        """Planes and straight edges are free of noise."""
        y, u, v = next(clips.grey(60, frames=1))
        y[:, 40:], y[50:] = 200, y[50:] + 20
        value = measure(clips.write(tmp_path / "a.mp4", [(y, u, v)]), {"noise": {}}).values["noise_sigma"]
        assert value == pytest.approx(0, abs=0.02)

    @settings(max_examples=15, deadline=None)
    @given(sigma=st.floats(0.5, 12), more=st.floats(1.1, 2))
    def test_more_noise(self, tmp_path_factory, sigma, more):
        """More noise on the same picture measures as more."""
        folder = tmp_path_factory.mktemp("noise")
        y, u, v = clips.texture((128, 96))
        grain = np.random.default_rng(0).normal(size=y.shape)
        values = []
        for index, strength in enumerate((sigma, sigma * more)):
            noisy = np.clip(y + strength * grain, 16, 235).astype(np.uint8)
            values.append(
                measure(clips.write(folder / f"{index}.mp4", [(noisy, u, v)])).values["noise_sigma"]
            )
        assert values[0] < values[1]

    def test_every_nth(self, tmp_path):
        """Of a sampled metric the frames in between are NaN, and the mean is that of the sampled."""
        path = clips.write(tmp_path / "a.mp4", clips.noise(5, frames=9))
        all_frames, sampled = (measure(path, {"noise": {"every": every}}) for every in (1, 4))
        taken = list(sampled.frames.noise_sigma.dropna().index)
        assert (
            taken == [index for index in (0, 4 + drawn(1, 4), 8 + drawn(2, 4)) if index < 9]
            and len(taken) >= 2
        )
        assert sampled.values["noise_sigma"] == pytest.approx(all_frames.frames.noise_sigma[taken].mean())

    def test_texture_is_none(self, tmp_path):
        """A picture that is textured in all but a quarter has the noise of that quarter."""
        y, u, v = clips.texture((640, 480), grain=2)
        y[:240, :320] = 120
        noisy = (y + np.random.default_rng(0).normal(0, 3, y.shape)).clip(16, 235).round().astype(np.uint8)
        value = measure(clips.write(tmp_path / "a.mp4", [(noisy, u, v)]), {"noise": {}}).values["noise_sigma"]
        assert value == pytest.approx(3 * 255 / 219, rel=0.08)


class TestBlockiness:
    @staticmethod
    def value(path) -> float:
        return measure(path, {"blockiness": {}}).values["blockiness"]

    @pytest.mark.parametrize("period", [8, 12, 16])
    @pytest.mark.parametrize("axis", [0, 1])
    def test_a_grid(self, tmp_path, period, axis):
        """Steps on a grid, across or down, on grain: far above the picture's own."""
        y, u, v = next(clips.noise(2, frames=1, size=(240, 240)))
        steps = np.arange(240) // period % 2 * 24
        grid = (y + (steps[:, None] if axis == 0 else steps)).astype(np.uint8)
        blocky, plain = (
            self.value(clips.write(tmp_path / f"{index}.mp4", [(plane, u, v)]))
            for index, plane in enumerate([grid, y])
        )
        assert plain == pytest.approx(1.05, abs=0.1)
        assert blocky > 3 * plain

    def test_coding_shows(self, tmp_path):
        """A coder that is given less leaves more blocks."""
        values = [
            self.value(
                clips.write(
                    tmp_path / f"{crf}.mp4",
                    clips.pan(size=(640, 360)),
                    options={"crf": str(crf), "x264-params": "no-deblock=1"},
                )
            )
            for crf in (10, 30, 45)
        ]
        assert values == sorted(values) and values[-1] > 1.5 * values[0]


class TestInformation:
    def test_formulas(self, tmp_path):
        """SI and TI to float32's and float64's precision, the highest and the mean."""
        written = [*clips.noise(20, frames=2), *clips.still(2), *clips.noise(5, frames=2)]
        values = measure(clips.write(tmp_path / "a.mp4", written), "full").values
        luma = full_range(written)
        si = [spatial_information(each) for each in luma]
        ti = [(after - before).std() for before, after in itertools.pairwise(luma)]
        assert values["spatial_information"] == pytest.approx(max(si), rel=1e-5)
        assert values["spatial_information_mean"] == pytest.approx(np.mean(si), rel=1e-5)
        assert values["temporal_information"] == pytest.approx(max(ti), rel=1e-9)
        assert values["temporal_information_mean"] == pytest.approx(np.mean(ti), rel=1e-9)

    @pytest.mark.parametrize("height", [2, 4, 64, 65, 66, 67, 130])
    def test_any_height(self, tmp_path, height):
        """A picture is cut into strips without losing or doubling a row."""
        written = list(clips.noise(20, frames=1, size=(64, height)))
        path = clips.write(tmp_path / "a.mkv", written, codec="ffv1", options={})
        values = measure(path, {"spatial_information": {}, "noise": {}}).values
        if height == 2:
            assert np.isnan([*values.values()]).all()
        else:
            assert values["spatial_information"] == pytest.approx(
                spatial_information(full_range(written)[0]), rel=1e-5
            )
            assert values["noise_sigma"] == pytest.approx(noise_sigma(full_range(written)[0]), rel=1e-6)

    def test_noise_has_twice_its_variance(self, tmp_path):
        """TI of noise is the root of 2 times its sigma; TI of a change of brightness is 0."""
        path = clips.write(tmp_path / "a.mp4", clips.noise(6, size=(320, 240)))
        expected = np.sqrt(2) * 6 * 255 / 219
        assert measure(path).values["temporal_information"] == pytest.approx(expected, rel=0.02)
        brighter = (next(clips.grey(level, frames=1)) for level in (40, 90, 200))
        values = measure(clips.write(tmp_path / "b.mp4", brighter)).values
        assert values["temporal_information"] == pytest.approx(0, abs=1e-6)


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

    def test_a_bare_wall_does_not_move(self, tmp_path):
        """Says nothing of flow on a wall whose light jitters, and of a thing before it that it moves."""
        random, thing = np.random.default_rng(0), clips.texture((160, 120), grain=6)[0]
        bare, before = [], []
        for index in range(12):
            light = cv2.resize(random.normal(0, 1.3, (6, 8)), (640, 360), interpolation=cv2.INTER_CUBIC)
            wall = (128 + light).round().astype(np.uint8)
            grey = np.full((180, 320), 128, np.uint8)
            bare.append((wall, grey, grey))
            seen = wall.copy()
            seen[100:220, 100 + 6 * index : 260 + 6 * index] = thing
            before.append((seen, grey, grey))
        values = [
            measure(clips.write(tmp_path / f"{name}.mp4", shot), {"motion": {}, "dynamic": {}}).values
            for name, shot in (("bare", bare), ("before", before))
        ]
        assert all(np.isnan(value) for value in values[0].values())
        assert values[1]["motion"] == pytest.approx(6 * 24 / np.hypot(640, 360), rel=0.25)

    def test_time_stamps_count(self, tmp_path):
        """The same movement in twice the time is half as fast, whatever the header's rate."""
        stamps = [[step * index for index in range(8)] for step in (40, 80)]
        values = [
            measure(clips.write(tmp_path / f"{index}.mkv", pan(6), times_ms=times), {"motion": {}}).values[
                "motion"
            ]
            for index, times in enumerate(stamps)
        ]
        assert values[0] == pytest.approx(2 * values[1], rel=1e-6)

    def test_the_fastest_moments(self, tmp_path):
        """The 95th percentile is the speed of a tenth of the frames, not that of the others."""
        slow, fast = (
            list(clips.pan(2, size=(640, 360), frames=28)),
            list(clips.pan(12, size=(640, 360), frames=4)),
        )
        values = measure(clips.write(tmp_path / "a.mp4", slow + fast), {"motion": {}}).values
        diagonals = 24 / np.hypot(640, 360)
        assert values["motion_p95"] == pytest.approx(12 * diagonals, rel=0.1)
        assert values["motion"] < 5 * diagonals

    def test_portrait_is_as_fast(self, tmp_path):
        """A picture on its side moves as fast."""
        lying = [tuple(plane.T.copy() for plane in planes) for planes in pan(6)]
        values = [
            measure(clips.write(tmp_path / f"{index}.mp4", clip), {"motion": {}}).values["motion"]
            for index, clip in enumerate([pan(6), lying])
        ]
        assert values[0] == pytest.approx(values[1], rel=0.03)


class TestDynamic:
    @staticmethod
    def share(path) -> float:
        return measure(path, {"dynamic": {}}).values["dynamic_share"]

    @pytest.mark.parametrize(("pixels", "share"), [(1, 0), (12, 1)])
    @pytest.mark.parametrize("fps", [24, 30])
    def test_pan(self, tmp_path, pixels, share, fps):
        """A slow pan never is dynamic, a fast one always."""
        written = list(clips.pan(2 * pixels, size=(640, 360), frames=24))
        # An even number of pixels, so that chroma moves along: at half the speed, each picture twice.
        assert (
            self.share(clips.write(tmp_path / "a.mp4", [each for each in written for _ in range(2)], fps=fps))
            == share
        )

    def test_a_twentieth_is_enough(self, tmp_path):
        """A small thing that moves fast makes a moment dynamic, a smaller one does not."""
        shares = []
        for side in (150, 40):
            thing = clips.texture((side, side), seed=3)
            pictures = []
            for index in range(12):
                y, u, v = (plane.copy() for plane in clips.texture((640, 360)))
                y[100 : 100 + side, 40 + 12 * index : 40 + 12 * index + side] = thing[0]
                pictures.append((y, u, v))
            shares.append(self.share(clips.write(tmp_path / f"{side}.mp4", pictures)))
        assert shares == [1, 0]

    def test_an_eighth_of_a_second(self, tmp_path):
        """Moments are an eighth of a second apart, as near as frames are, at any rate."""
        for fps, step in ((24, 3), (25, 3), (30, 4), (8, 1), (4, 1)):
            path = clips.write(tmp_path / f"{fps}.mp4", clips.still(13), fps=fps)
            series = measure(path, {"dynamic": {}}).frames.dynamic_share
            assert list(series.dropna().index) == list(range(step, 13, step))


def filmed(frames: int = 24, **moves: float) -> list[clips.Planes]:
    """Film a textured wall with a camera that moves by so much a frame: pixels right and up, a share, degrees clockwise."""
    wall = clips.texture((1280, 720), grain=24)[0].astype(np.float32)
    size, random, taken = (640, 360), np.random.default_rng(0), []
    for index in range(frames):
        scale, turn = (1 + moves.get("zoom", 0)) ** index, np.radians(moves.get("roll", 0) * index)
        shake = random.normal(0, moves.get("shake", 0), 2)
        at = np.array([640 + moves.get("right", 0) * index, 360 - moves.get("up", 0) * index]) + shake
        view = scale * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        view = np.column_stack([view, np.array([320, 180]) - view @ at])
        seen = (
            cv2.warpAffine(wall, view, size, borderMode=cv2.BORDER_REFLECT)
            .clip(16, 235)
            .round()
            .astype(np.uint8)
        )
        grey = np.full((180, 320), 128, np.uint8)
        taken.append((seen, grey, grey))
    return taken


def crossed(size: tuple[int, int], *, frames: int, top: int) -> list[clips.Planes]:
    """Film a thing that crosses a still picture, 8 pixels a frame."""
    thing, ground = clips.texture((120, 100), seed=3), clips.texture(size)
    taken = []
    for index in range(frames):
        y, u, v = (plane.copy() for plane in ground)
        y[top : top + 100, 60 + 8 * index : 180 + 8 * index] = thing[0]
        taken.append((y, u, v))
    return taken


class TestCamera:
    DIAGONAL = np.hypot(640, 360)

    @pytest.mark.parametrize(
        ("moves", "name", "truth", "word"),
        [
            ({"right": 4}, "camera_pan", 400 * 24 / DIAGONAL, "pan right"),
            ({"right": -8}, "camera_pan", -800 * 24 / DIAGONAL, "pan left"),
            ({"up": 3}, "camera_tilt", 300 * 24 / DIAGONAL, "tilt up"),
            ({"up": -3}, "camera_tilt", -300 * 24 / DIAGONAL, "tilt down"),
            ({"zoom": 0.005}, "camera_zoom", 12, "zoom in"),
            ({"zoom": -0.01}, "camera_zoom", -24, "zoom out"),
            ({"roll": 0.3}, "camera_roll", 7.2, "roll clockwise"),
            ({"roll": -0.3}, "camera_roll", -7.2, "roll counter-clockwise"),
            ({"shake": 2}, "camera_shake", 200 / DIAGONAL, "handheld"),
        ],
    )
    def test_a_movement_is_found(self, tmp_path, moves, name, truth, word):
        """Finds each movement of a camera, its direction and its speed, and none that was not made."""
        values = measure(clips.write(tmp_path / "a.mp4", filmed(**moves)), {"camera": {}}).values
        assert values[name] == pytest.approx(truth, rel=0.15 if name == "camera_shake" else 0.06)
        if name != "camera_shake":
            others = {"camera_pan", "camera_tilt", "camera_zoom", "camera_roll"} - {name}
            assert all(abs(values[other]) < 0.03 * abs(truth) for other in others), values
            assert values["camera_shake"] < 0.02
        assert camera.word(values) == word

    def test_a_still_scene(self, tmp_path):
        """Finds nothing in a picture that stands still and is coded, with noise too."""
        for name, sigma in (("clean", 0), ("noisy", 3)):
            random = np.random.default_rng(0)
            shot = [
                ((y + random.normal(0, sigma, y.shape)).clip(16, 235).round().astype(np.uint8), u, v)
                for y, u, v in filmed(12)
            ]
            values = measure(
                clips.write(tmp_path / f"{name}.mp4", shot, options={"crf": "23"}), {"camera": {}}
            ).values
            assert max(map(abs, values.values())) < 0.5 and camera.word(values) == "static"

    def test_a_subject_is_no_camera(self, tmp_path):
        """Finds a thing that crosses a still picture to move, and not the camera."""
        shot = crossed((640, 360), frames=12, top=120)
        values = measure(clips.write(tmp_path / "a.mp4", shot), {"camera": {}}).values
        assert camera.word(values) == "static" and values["subject_motion"] > 0.5

    def test_what_has_no_texture_or_no_common_movement_is_unclear(self, tmp_path):
        """Says nothing of a camera before a bare wall, nor of one whose picture goes both ways."""
        wall = list(clips.noise(1, size=(640, 360), frames=6))
        left, right = filmed(8, right=8), filmed(8, right=-8)
        split = [
            (np.vstack([one[0][:180], other[0][180:]]), *one[1:])
            for one, other in zip(left, right, strict=True)
        ]
        for name, shot in (
            ("wall", [(cv2.GaussianBlur(y, (0, 0), 4), u, v) for y, u, v in wall]),
            ("split", split),
        ):
            values = measure(clips.write(tmp_path / f"{name}.mp4", shot), {"camera": {}}).values
            assert np.isnan(values["camera_pan"]) and camera.word(values) == "unclear"


class TestWarpError:
    def test_formula(self, tmp_path):
        """A transcription in float64 that is given the same flow."""
        # A thing that moves over what stands still, so that a part of it is hidden and another appears.
        pictures = crossed((320, 180), frames=4, top=40)
        path = clips.write(tmp_path / "a.mp4", pictures)
        seen = list(frames(path))
        dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        errors = [
            warp_error(
                before.luma_scaled(1) * before.gain / 255,
                before.bgr_scaled(1) / 255,
                after.bgr_scaled(1) / 255,
                dis.calc(before.luma_scaled(1), after.luma_scaled(1), None).astype(np.float64),
                dis.calc(after.luma_scaled(1), before.luma_scaled(1), None).astype(np.float64),
            )
            for before, after in itertools.pairwise(seen)
        ]
        value = measure(path, {"warp_error": {}}).values["warp_error_dis"]
        assert value == pytest.approx(np.mean(errors), rel=0.01)

    @pytest.mark.parametrize("level", [4, 10])
    def test_flicker(self, tmp_path, level):
        """A still picture whose brightness changes by n levels has an error of n^2 over the variance of Y."""
        y, u, v = clips.texture((320, 180))
        pictures = [(y + np.uint8(level * (index % 2)), u, v) for index in range(6)]
        value = measure(clips.write(tmp_path / "a.mp4", pictures), {"warp_error": {}}).values[
            "warp_error_dis"
        ]
        assert value == pytest.approx(level**2 / y.var(), rel=0.1)

    def test_movement_is_taken_back(self, tmp_path):
        """A pan leaves a fiftieth of what it is without warping."""
        path = clips.write(tmp_path / "a.mp4", pan(6))
        seen = [frame.bgr_scaled(0.5).astype(float) / 255 for frame in frames(path)]
        unwarped = np.mean([np.square(a - b).mean() / b.mean(2).var() for a, b in itertools.pairwise(seen)])
        assert measure(path, {"warp_error": {}}).values["warp_error_dis"] < unwarped / 50

    def test_less_contrast_is_not_steadier(self, tmp_path):
        """The same flicker, beside the picture, in half the contrast is the same."""
        y, u, v = clips.texture((320, 180))
        values = []
        for contrast in (1, 0.5):
            pictures = [126 + contrast * (y.astype(float) - 126 + 8 * (index % 2)) for index in range(6)]
            clip = [(picture.round().astype(np.uint8), u, v) for picture in pictures]
            path = clips.write(tmp_path / f"{contrast}.mp4", clip)
            values.append(measure(path, {"warp_error": {}}).values["warp_error_dis"])
        assert values[0] == pytest.approx(values[1], rel=0.1)

    def test_doubled_frames_are_not_steadier(self, tmp_path):
        """Of a video whose every frame is doubled, steps with and without a change are sampled."""
        y, u, v = clips.texture((320, 180))
        pictures = [(y + np.uint8(8 * (index // 2 % 2)), u, v) for index in range(240)]
        path = clips.write(tmp_path / "a.mp4", pictures)
        whole, sampled = (
            measure(path, {"warp_error": {"every": every}}).values["warp_error_dis"] for every in (1, 12)
        )
        assert whole / 2 < sampled < 2 * whole

    def test_still(self, tmp_path):
        """What stands still has none."""
        path = clips.write(tmp_path / "a.mp4", clips.still())
        assert measure(path, {"warp_error": {}}).values["warp_error_dis"] == 0


def changed(shot, change) -> list[clips.Planes]:
    """Change Y of each picture, told as float64 above black, with its number."""
    pictures = ((change(y.astype(float) - 16, index), u, v) for index, (y, u, v) in enumerate(shot))
    return [((16 + y).clip(16, 235).round().astype(np.uint8), u, v) for y, u, v in pictures]


def darker(shot, share: float) -> list[clips.Planes]:
    """Film the same in so much of the light, in black and white."""
    return [
        (y, np.full_like(u, 128), np.full_like(v, 128)) for y, u, v in changed(shot, lambda y, _: share * y)
    ]


class TestStaticFlicker:
    @staticmethod
    def value(path, shot) -> float:
        return measure(clips.write(path, shot), {"static_flicker": {}}).values["static_flicker"]

    @staticmethod
    def boiling(shot, percent: float) -> list[clips.Planes]:
        """Let the light of the parts of each picture flicker by so much, each part by itself."""
        random = np.random.default_rng(0)

        def change(y: np.ndarray, _: int) -> np.ndarray:
            light = random.normal(0, percent / 100, (5, 8))
            return y * (1 + cv2.resize(light, y.shape[::-1], interpolation=cv2.INTER_NEAREST))

        return changed(shot, change)

    @pytest.mark.parametrize("percent", [0, 1, 3])
    def test_a_known_flicker(self, tmp_path, percent):
        """Parts that flicker by so much are found, also where something crosses them; light that rises evenly is none."""
        shot = darker(crossed((640, 360), frames=24, top=120), 0.8)
        rising = changed(shot, lambda y, n: y * (0.7 + n / 80))
        for name, each in (("crossed", shot), ("rising", rising)):
            found = self.value(tmp_path / f"{name}.mp4", self.boiling(each, percent))
            assert found == pytest.approx(percent, rel=0.25, abs=0.25), name

    def test_nothing_stands_still(self, tmp_path):
        """A camera that pans leaves nothing to tell flicker by."""
        assert np.isnan(self.value(tmp_path / "a.mp4", pan(6)))


class TestFreeze:
    @staticmethod
    def share(path) -> float:
        return measure(path, {"freeze": {}}).values["frozen_share"]

    @pytest.mark.parametrize("light", [1, 0.15])
    @pytest.mark.parametrize("crf", [18, 28])
    def test_what_stops_and_what_moves_slowly(self, tmp_path, crf, light):
        """A picture that stops is frozen for as long, coded and in the dark too; a slow push-in never is."""
        pan = list(clips.pan(4, size=(320, 180), frames=24))
        stops, slow = [*pan, *[pan[-1]] * 24], filmed(48, zoom=0.001)
        shares = [
            self.share(clips.write(tmp_path / f"{name}.mp4", darker(shot, light), options={"crf": str(crf)}))
            for name, shot in (("stops", stops), ("slow", slow))
        ]
        assert shares == pytest.approx([24 / 47, 0], abs=0.03)

    @pytest.mark.parametrize(("steps", "is_frozen"), [(11, False), (12, True)])
    def test_half_a_second(self, tmp_path, steps, is_frozen):
        """At 24 frames a second twelve steps without a change are frozen, and eleven aren't."""
        pan = list(clips.pan(6, frames=8))
        shot = [*pan[:4], *[pan[3]] * steps, *pan[4:]]
        share = steps / (7 + steps) if is_frozen else 0
        assert self.share(clips.write(tmp_path / "a.mp4", shot)) == pytest.approx(share)


class TestSteadiness:
    @pytest.mark.parametrize("percent", [0, 1, 5])
    def test_flicker(self, tmp_path, percent):
        """A brightness that jitters by so much has that flicker, and one that rises evenly has none."""
        y, u, v = clips.texture((320, 180))
        random = np.random.default_rng(1)
        gains = 1 + percent / 100 * random.normal(size=200)
        shot = [(16 + (y.astype(float) - 16) * gain * 0.8, u, v) for gain in gains]
        shot = [(planes[0].clip(16, 235).round().astype(np.uint8), u, v) for planes in shot]
        value = measure(clips.write(tmp_path / "a.mp4", shot), {"exposure": {}}).values["exposure_flicker"]
        assert value == pytest.approx(percent, rel=0.12, abs=0.01)

    @pytest.mark.parametrize("percent", [-20, 0, 20])
    def test_drift(self, tmp_path, percent):
        """A picture that becomes so much brighter a second drifts by that, at any frame rate, and does not flicker."""
        y, u, v = clips.texture((320, 180))
        for fps in (12, 24):
            times = np.arange(2 * fps) / fps
            gains = 0.8 * (1 + percent / 100 * (times - times.mean()))
            shot = [
                ((16 + (y.astype(float) - 16) * gain).clip(16, 235).round().astype(np.uint8), u, v)
                for gain in gains
            ]
            values = measure(clips.write(tmp_path / f"{fps}.mp4", shot, fps=fps), {"exposure": {}}).values
            assert values["exposure_drift"] == pytest.approx(percent, rel=0.02, abs=0.01)
            assert values["exposure_flicker"] < 0.05

    def test_colors(self, tmp_path):
        """Colours that stay, though all moves, have no drift; other ones have none in common."""
        shot = list(clips.pan(2, size=(320, 180), frames=24))
        blue, red = (list(clips.color(yuv, frames=12)) for yuv in ((80, 200, 110), (80, 100, 220)))
        mixed = [*shot[:12], *((y, u + np.uint8(24), v) for y, u, v in shot[12:])]
        stay, other, some = (
            measure(clips.write(tmp_path / f"{n}.mp4", clip), {"color_drift": {}}).values["color_drift"]
            for n, clip in enumerate([shot, blue + red, mixed])
        )
        assert stay < 0.05 < some < 1 and other == 1

    def test_colors_are_lab(self, tmp_path):
        """The histograms are of OpenCV's Lab, up to its rounding, on every pixel."""
        shot = list(clips.pan(2, size=(320, 180), frames=24))
        shot[12:] = [(y, u + np.uint8(24), v) for y, u, v in shot[12:]]
        path = clips.write(tmp_path / "a.mp4", shot)
        seen = [frame.pixels() for frame in frames(path)]
        counts = [
            sum(
                cv2.calcHist(
                    [cv2.cvtColor(each, cv2.COLOR_BGR2LAB).astype(np.float32)],
                    [0, 1, 2],
                    None,
                    [8] * 3,
                    [0, 256, -16, 240, -16, 240],
                ).astype(float)
                for each in some
            )
            for some in (seen[:5], seen[-5:])
        ]
        one, other = (each / each.sum() for each in counts)
        drift = measure(path, {"color_drift": {}}).values["color_drift"]
        assert drift == pytest.approx(1 - np.sqrt(one * other).sum(), abs=0.005) and drift > 0.1

    @pytest.mark.parametrize("crf", [0, 28])
    def test_stutter(self, tmp_path, crf):
        """Doubled frames stall at every other step, also where a coder has changed them; a pan and a slow push-in never do."""
        even = list(clips.pan(6, size=(320, 180), frames=48))
        doubled = [picture for picture in even[:24] for _ in range(2)]
        pulled = [picture for n, picture in enumerate(even[:40]) for _ in range(2 if n % 4 == 3 else 1)]
        still, slow = list(clips.still(24, size=(320, 180))), filmed(24, zoom=0.001)
        shots = {"even": even, "doubled": doubled, "pulled": pulled, "still": still, "slow": slow}
        values = [
            measure(
                clips.write(tmp_path / f"{name}.mp4", shot, options={"crf": str(crf)} if crf else None),
                {"stutter": {}},
            ).values
            for name, shot in shots.items()
        ]
        stalled = [0, 24 / 47, 10 / 49, 0, 0]
        assert [each["stutter_share"] for each in values] == pytest.approx(stalled, abs=0.03)
        nothing_new = [0, 24 / 47, 10 / 49, 1, 0]
        assert [each["duplicate_share"] for each in values] == pytest.approx(nothing_new, abs=0.1)


class TestCuts:
    @staticmethod
    def cuts(path) -> float:
        return measure(path, {"cuts": {}}).values["cuts"]

    @staticmethod
    def shots(*lengths: int) -> list[clips.Planes]:
        """Cut shots of so many frames together."""
        takes = (clips.pan(2, frames=count, seed=9 * seed) for seed, count in enumerate(lengths))
        return [picture for take in takes for picture in take]

    @pytest.mark.parametrize("light", [1, 0.12])
    @pytest.mark.parametrize(
        ("lengths", "cuts"), [((40,), 0), ((20, 20), 1), ((1, 20), 1), ((9, 10, 9), 2), ((9, 1, 9), 1)]
    )
    def test_shots(self, tmp_path, lengths, cuts, light):
        """Each change of shot counts, in colour as in black and white in the dark, however short the shots."""
        shot = self.shots(*lengths)
        shot = shot if light == 1 else darker(shot, light)
        assert self.cuts(clips.write(tmp_path / "a.mp4", shot, options={"crf": "23"})) == cuts

    @pytest.mark.parametrize("frames", [1, 3])
    def test_a_flash_is_none(self, tmp_path, frames):
        """A picture that is there again within an eighth of a second was never left."""
        flash = changed(
            self.shots(24), lambda y, n: np.minimum(4 * y + 200, 219) if 9 < n <= 9 + frames else y
        )
        other = self.shots(10, frames)[10:]
        inserted = [*self.shots(24)[:10], *other, *self.shots(24)[10:]]
        for name, shot in (("flash", flash), ("inserted", inserted)):
            assert self.cuts(clips.write(tmp_path / f"{name}.mp4", shot)) == 0, name

    def test_a_fade(self, tmp_path):
        """A fade to black, and from black to the same picture, is none; to another picture it is one."""
        light = np.abs(np.linspace(-1, 1, 49))
        here, there = self.shots(49), self.shots(24, 25)
        seen = [
            self.cuts(clips.write(tmp_path / f"{name}.mp4", changed(shot, lambda y, n: y * light[n])))
            for name, shot in (("here", here), ("there", there), ("away", here[:25]), ("in", there[24:]))
        ]
        assert seen == [0, 1, 0, 0]

    def test_light_and_movement_are_none(self, tmp_path):
        """What flickers, is noisy, or moves as fast as a tenth of the picture a frame, is one shot."""
        random = np.random.default_rng(0)
        flickers = changed(self.shots(30), lambda y, _: y * (0.6 + 0.5 * random.random()))
        noisy = changed(self.shots(30), lambda y, _: y + random.normal(0, 15, y.shape))
        fast = list(clips.pan(12, frames=30))
        for name, shot in (("flickers", flickers), ("noisy", noisy), ("fast", fast)):
            assert self.cuts(clips.write(tmp_path / f"{name}.mp4", shot)) == 0, name

    def test_what_changes_on_and_on_counts_once(self, tmp_path):
        """Noise, in which no picture is like the one before, has one change and not one a frame."""
        assert self.cuts(clips.write(tmp_path / "a.mp4", clips.noise(60, frames=12))) == 1


class TestLoop:
    def test_seamless(self, tmp_path):
        """A movement that ends where it begins is 0; one that does not is far above."""
        pictures = list(clips.pan(2, size=(320, 180), frames=13))
        values = []
        for name, clip in (("there and back", pictures + pictures[-2:0:-1]), ("there", pictures)):
            path = clips.write(tmp_path / f"{name}.mp4", clip)
            values.append(measure(path, {"loop": {}}).values["loop_gap"])
        assert values[0] < 0.02 and values[1] > 0.5

    def test_a_still_scene_is_seamless(self, tmp_path):
        """What a coder does to a still picture is no gap."""
        path = clips.write(tmp_path / "a.mp4", clips.still(48, size=(640, 360)), options={"crf": "23"})
        assert measure(path, {"loop": {}}).values["loop_gap"] < 0.02

    def test_another_picture_is_1(self, tmp_path):
        """A video that ends in noise that has nothing to do with that of its beginning is about 1."""
        first, last = clips.noise(20, frames=2)
        path = clips.write(tmp_path / "a.mp4", [first] * 5 + [last] * 5)
        assert measure(path, {"loop": {}}).values["loop_gap"] == pytest.approx(1, abs=0.02)

    def test_formula(self, tmp_path):
        """The formula on OpenCV's frames, every pixel of the one with every pixel of the other, in float64."""
        path = clips.write(tmp_path / "a.mp4", clips.pan(2, frames=6, size=(64, 48)))
        seen = read(path)
        steps = [np.abs(after - before).mean() for before, after in itertools.pairwise(seen)]
        apart = [
            np.abs(seen[0][..., channel].reshape(-1, 1) - seen[-1][..., channel].reshape(1, -1)).mean()
            for channel in range(3)
        ]
        expected = (np.abs(seen[-1] - seen[0]).mean() - np.median(steps)) / np.mean(apart)
        assert 0 < expected < 1
        assert measure(path, "full").values["loop_gap"] == pytest.approx(expected, rel=1e-9)


class TestTemporalFlickering:
    def test_formula(self, tmp_path):
        """VBench's formula on OpenCV's frames, to float64's precision."""
        path = clips.write(tmp_path / "a.mp4", clips.noise(20))
        value = measure(path, {"vbench_temporal_flickering": {}}).values["vbench_temporal_flickering"]
        assert value == pytest.approx(flickering(read(path)), abs=1e-12)

    def test_still(self, tmp_path):
        """Equal frames are 1."""
        path = clips.write(tmp_path / "a.mp4", clips.still())
        assert measure(path, "full").values["vbench_temporal_flickering"] == 1

    def test_alternating(self, tmp_path):
        """Black and white in turn are 0."""
        levels = (next(clips.grey(level, frames=1)) for level in (16, 235) * 4)
        path = clips.write(tmp_path / "a.mp4", levels)
        assert measure(path, "full").values["vbench_temporal_flickering"] == pytest.approx(0, abs=1e-9)


class TestInvariance:
    def test_mirroring(self, tmp_path):
        """Mirrored, a clip measures the same."""
        mirrored = [tuple(plane[:, ::-1].copy() for plane in planes) for planes in pan(6)]
        before, after = (
            measure(clips.write(tmp_path / f"{index}.mp4", clip), "full").values
            for index, clip in enumerate([pan(6), mirrored])
        )
        exact = "luma_mean luma_contrast luma_range clipped_dark clipped_bright colorfulness "
        exact += (
            "spatial_information temporal_information temporal_information_mean frozen_share duplicate_share "
        )
        for name in (exact + "cuts loop_gap vbench_temporal_flickering").split():
            assert after[name] == pytest.approx(before[name], rel=1e-6), name
        for name in ("saturation_mean", "sharpness", "motion", "dynamic_share", "noise_sigma"):
            assert after[name] == pytest.approx(before[name], rel=0.03), name

    def test_played_twice(self, tmp_path):
        """A clip played twice keeps the means of what has no memory."""
        once = list(clips.pan(6))
        before, after = (
            measure(clips.write(tmp_path / f"{index}.mp4", clip), "full").values
            for index, clip in enumerate([once, once + once])
        )
        names = "luma_mean luma_contrast luma_range saturation_mean colorfulness sharpness noise_sigma blockiness "
        for name in (names + "spatial_information spatial_information_mean").split():
            assert after[name] == pytest.approx(before[name], rel=1e-9), name

    @settings(max_examples=15, deadline=None)
    @given(offset=st.integers(-20, 20))
    def test_brightness_offset(self, tmp_path_factory, offset):
        """An offset moves the mean by as much, and leaves all that is not about brightness alone."""
        folder = tmp_path_factory.mktemp("offset")
        written = pan(6)[:3]
        moved = [((planes[0] + np.int16(offset)).astype(np.uint8), *planes[1:]) for planes in written]
        spec = {**specification("full"), "sharpness": {"short_side": 360}}
        before, after = (
            measure(clips.write(folder / f"{index}.mp4", clip), spec).values
            for index, clip in enumerate([written, moved])
        )
        assert after["luma_mean"] - before["luma_mean"] == pytest.approx(offset / 219, abs=1e-9)
        names = "luma_contrast luma_range sharpness colorfulness noise_sigma blockiness "
        for name in (names + "spatial_information temporal_information cuts").split():
            assert after[name] == pytest.approx(before[name], rel=1e-6), name
        assert after["motion"] == pytest.approx(before["motion"], rel=0.01)

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
    from kling_sweeps.video.decode import Video

    decodes = []
    original = Video.__iter__
    monkeypatch.setattr(Video, "__iter__", lambda video: decodes.append(video) or original(video))
    path = clips.write(tmp_path / "a.mp4", clips.pan())
    assert measure(path).filmstrip is not None
    assert len(decodes) == 1 and len(list(frames(path))) == 8
