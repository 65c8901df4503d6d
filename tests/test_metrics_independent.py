"""The numbers against those of other people's programs, on the same files."""

from __future__ import annotations

import itertools
import re
import subprocess

import clips
import cv2
import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe
from scenedetect import ContentDetector, detect
from siti_tools.siti import ColorRange, SiTiCalculator

from kling_sweeps.metrics import measure

RANGES = pytest.mark.parametrize("full_range", [False, True], ids=["limited", "full"])
CODED = {"crf": "38", "preset": "fast"}


def ffmpeg(path, filters: str) -> str:
    """Run FFmpeg's filters on a file, and give all that they print."""
    command = [get_ffmpeg_exe(), "-hide_banner", "-i", str(path), "-vf", filters, "-f", "null", "-"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout + done.stderr


def printed(path, filters: str, key: str) -> list[float]:
    """Read one number a frame from what FFmpeg's filters add to the frames."""
    text = ffmpeg(path, f"{filters},metadata=print:file=-")
    return [float(value) for value in re.findall(rf"^lavfi\.{re.escape(key)}=(\S+)", text, re.MULTILINE)]


def series(path, metric: str, column: str | None = None) -> np.ndarray:
    return measure(path, {metric: {}}).frames[column or metric].to_numpy()


def moving(size=(640, 360), frames=8):
    """Give a pan with grain on it, of limited range."""
    for picture, grain in zip(
        clips.pan(6, size=size, frames=frames), clips.noise(4, size=size, frames=frames), strict=True
    ):
        y = picture[0].astype(int) + grain[0] - 126
        yield (np.clip(y, 16, 235).astype(np.uint8), *picture[1:])


class TestInformation:
    @RANGES
    def test_siti_tools(self, tmp_path, full_range):
        """SI and TI are those of siti-tools, which normalises the range too."""
        path = clips.write(tmp_path / "a.mp4", moving(), full_range=full_range)
        theirs = SiTiCalculator(
            color_range=ColorRange.FULL if full_range else ColorRange.LIMITED, legacy=True
        )
        si, ti, _ = theirs.calculate(str(path))
        values = measure(path, "full").values
        assert values["spatial_information"] == pytest.approx(max(si), rel=1e-5)
        assert values["spatial_information_mean"] == pytest.approx(np.mean(si), rel=1e-5)
        assert values["temporal_information"] == pytest.approx(max(ti), rel=1e-9)
        assert values["temporal_information_mean"] == pytest.approx(np.mean(ti), rel=1e-9)
        assert series(path, "spatial_information") == pytest.approx(si, rel=1e-5)

    @RANGES
    def test_ffmpeg(self, tmp_path, full_range):
        """SI and TI are those of FFmpeg's siti, up to its rounding of expanded pixels and of what it prints."""
        path = clips.write(tmp_path / "a.mp4", moving(), full_range=full_range)
        tolerance = {"abs": 0.006} if full_range else {"rel": 0.005}
        assert series(path, "spatial_information") == pytest.approx(
            printed(path, "siti", "siti.si"), **tolerance
        )
        ti = series(path, "temporal_information")[1:]
        assert ti == pytest.approx(printed(path, "siti", "siti.ti")[1:], **tolerance)


class TestLuma:
    def test_signalstats(self, tmp_path):
        """Brightness is FFmpeg's YAVG, expanded."""
        path = clips.write(tmp_path / "a.mp4", moving())
        theirs = (np.array(printed(path, "signalstats", "signalstats.YAVG")) - 16) / 219
        assert series(path, "luma", "luma_mean") == pytest.approx(theirs, abs=1e-5)


class TestBlockiness:
    @pytest.mark.parametrize(
        ("size", "coding"),
        [
            ((640, 360), {"options": CODED}),
            ((270, 480), {"options": CODED}),
            ((640, 360), {}),
            ((101, 64), {"codec": "ffv1", "options": {}}),
        ],
    )
    def test_blockdetect(self, tmp_path, size, coding):
        """Each frame is as blocky as FFmpeg finds it alone; of several it adds up all before."""
        path = clips.write(tmp_path / "a.mkv", moving(size, 3), **coding)
        theirs = [printed(path, rf"select=eq(n\,{index}),blockdetect", "block") for index in range(3)]
        assert series(path, "blockiness") == pytest.approx(np.concatenate(theirs), rel=1e-4)


class TestFreeze:
    @pytest.mark.parametrize("options", [CODED, None], ids=["coded", "lossless"])
    def test_freezedetect(self, tmp_path, options):
        """The share is what FFmpeg finds frozen, its noise being the same beside the contrast."""
        y, u, v = next(clips.still(1, (320, 180)))
        creeping = []
        for index in range(24):
            y = y.copy()
            y[8 * index : 8 * index + 8, :40] ^= 32
            creeping.append((y, u, v))
        pictures = list(clips.pan(6, size=(320, 180), frames=16))
        pictures = [*pictures[:5], *[pictures[4]] * 14, *pictures[5:], *[pictures[15]] * 3, *creeping]
        path = clips.write(tmp_path / "a.mp4", [*pictures, *[creeping[-1]] * 16], options=options)
        measured = measure(path, {"freeze": {}, "luma": {}})
        noise = 0.005 * 219 / 256 * measured.values["luma_contrast"]
        text = ffmpeg(path, f"freezedetect=noise={noise}:duration=0.5")
        starts, ends = (
            [float(each) for each in re.findall(rf"freeze_{edge}: (\S+)", text)] for edge in ("start", "end")
        )
        times = measured.frames.time_s.to_numpy()
        theirs = np.zeros(len(times), bool)
        for start, end in zip(starts, [*ends, np.inf][: len(starts)], strict=True):
            theirs |= (times > start + 1e-3) & (times < end - 1e-3)
        assert len(starts) == 2 and 0 < theirs.sum() < len(times)
        assert measured.values["frozen_share"] == pytest.approx(theirs.sum() / (len(times) - 1))


class TestCuts:
    @pytest.mark.parametrize("size", [(256, 144), (640, 360)])
    def test_scenedetect(self, tmp_path, size):
        """Of shots in colour that last, the cuts are PySceneDetect's."""
        shots = [
            clips.pan(2, size=size, frames=count, seed=seed) for seed, count in ((0, 20), (5, 16), (9, 30))
        ]
        path = clips.write(tmp_path / "a.mp4", [picture for shot in shots for picture in shot])
        theirs = [start.frame_num for start, _ in detect(str(path), ContentDetector())][1:]
        measured = measure(path, {"cuts": {}})
        assert [*np.flatnonzero(measured.frames.structure < 0.35)] == theirs == [20, 36]
        assert measured.values["cuts"] == len(theirs)


class TestFlickering:
    def test_vbench(self, tmp_path):
        """Flickering is VBench's loop over OpenCV's frames, to the last digits."""
        path = clips.write(tmp_path / "a.mp4", moving(), options=CODED)
        capture = cv2.VideoCapture(str(path))
        pictures = []
        while (answer := capture.read())[0]:
            pictures.append(answer[1].astype(np.float32))
        capture.release()
        steps = [np.mean(cv2.absdiff(b, a)) for a, b in itertools.pairwise(pictures)]
        value = measure(path, "full").values["vbench_temporal_flickering"]
        assert value == pytest.approx((255.0 - np.mean(steps)) / 255.0, abs=1e-6)
