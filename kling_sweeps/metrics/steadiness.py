"""What stays the same from the first frame to the last: exposure, colours, the pace of the movement."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from math import inf, nan, sqrt
from typing import TYPE_CHECKING

import numpy as np

from kling_sweeps.metric import NORMAL, FrameMetric, Value, positive, ratio
from kling_sweeps.video import opencv as cv2

if TYPE_CHECKING:
    from kling_sweeps.video.frame import Frame

# Frames at the beginning and at the end whose colours are compared, and levels a channel.
ENDS, LEVELS = 5, 8
# Of sRGB, blue first, to X, Y and Z as shares of those of D65's white; and how finely they are told.
BGR_TO_XYZ = np.array(
    [[0.189828, 0.376219, 0.433953], [0.072169, 0.715160, 0.212671], [0.872766, 0.109477, 0.017758]]
)
FINE = 4096
# From where to where L, a and b are counted: grey lies in the middle of a bin, not between two.
BINS = [0, 256, -16, 240, -16, 240]
# A step stalls below this share of those around it, of the 75th percentile of so many steps. Where that is below so many levels nothing
# moves that could stutter; a frame shows nothing new below the same share of so much of the deviation of Y.
STALLED, RANK, AROUND, MOVING, VISIBLE = 0.25, 75, 13, 0.15, 0.003


@dataclass
class Exposure(FrameMetric):
    """Measure how the brightness of the whole picture flickers and drifts, in % of its mean.

    The flicker is the standard deviation of the mean of Y around a course that is straight over three frames; what moves into the
    picture counts as far as it is sudden. The drift is the slope of a straight line through the means of Y: lights that go out
    on purpose drift too.
    """

    version = 2
    values = (
        Value(
            "exposure_flicker",
            "flicker of the brightness",
            "%",
            (0, inf),
            "lower",
            "1.4826 median abs(second difference of mean Y) / sqrt(6) / mean Y",
        ),
        Value(
            "exposure_drift",
            "how fast it becomes brighter",
            "%/s",
            (-inf, inf),
            "neither",
            "slope of mean Y, by least squares, / mean Y",
        ),
    )

    times: list[float] = field(default_factory=list, init=False, repr=False)

    def per_frame(self, frame: Frame) -> Mapping[str, float]:
        """Average Y, black being 0."""
        self.times.append(frame.time_s)
        return {"brightness": (frame.luma_mean - frame.black) * frame.gain}

    def compute(self) -> dict[str, float]:
        """Compare the means; NaN for a flicker of fewer than three frames, a drift of fewer than two, and in black."""
        means = np.array(self.series.get("brightness", []))
        bends = np.abs(np.diff(means, 2))
        flicker = NORMAL * float(np.median(bends)) / sqrt(6) if bends.size else nan
        times = np.array(self.times) - np.mean(self.times) if means.size else means
        slope = ratio(float(times @ means), float(times @ times))
        mean = float(means.mean()) if means.size else nan
        return {"exposure_flicker": 100 * ratio(flicker, mean), "exposure_drift": 100 * ratio(slope, mean)}


@dataclass
class ColorDrift(FrameMetric):
    """Measure how far the colours of the last frames are from those of the first.

    0 is the same colours in the same amounts, wherever they stand, and 1 none in common. A camera that turns to something else
    changes them too.
    """

    version = 3
    values = (
        Value(
            "color_drift",
            "how far the last colours are from the first",
            "0..1",
            (0, 1),
            "neither",
            "1 - Bhattacharyya coefficient of Lab histograms of 8 x 8 x 8, first 5 frames against last 5",
            alike_in=("duration",),
        ),
    )

    long_side: int = 320
    first: list[np.ndarray] = field(default_factory=list, init=False, repr=False)
    last: deque[Frame] = field(default_factory=lambda: deque(maxlen=ENDS), init=False, repr=False)

    def __post_init__(self) -> None:
        positive("long_side", self.long_side)

    def per_frame(self, frame: Frame) -> Mapping[str, float]:
        """Keep the pixels of the first frames, and the last frames."""
        if len(self.first) < ENDS:
            self.first.append(frame.pixels(self.long_side))
        self.last.append(frame)
        return {}

    def compute(self) -> dict[str, float]:
        """Compare the two; NaN for a single frame."""
        if len(self.last) < 2:
            return {"color_drift": nan}
        last = [frame.pixels(self.long_side) for frame in self.last]
        before, after = (np.sqrt(_colors(pictures)) for pictures in (self.first, last))
        return {"color_drift": max(0.0, 1 - float(before @ after))}


def _colors(pictures: list[np.ndarray]) -> np.ndarray:
    """Return the share of each colour in some pictures."""
    lab = map(_lab, pictures)
    counts = sum(cv2.calcHist([each], [0, 1, 2], None, [LEVELS] * 3, BINS).ravel() for each in lab)
    shares: np.ndarray = np.asarray(counts, dtype=np.float64) / np.sum(counts, dtype=np.float64)
    return shares


def _lab(picture: np.ndarray) -> np.ndarray:
    """Convert BGR, uint8, to CIE Lab with L in 0..255 and a and b about 128, for sRGB and D65: float32."""
    # OpenCV's own takes 0.15 s the first time in a process, to prepare its tables.
    xyz = cv2.transform(_linear()[picture], BGR_TO_XYZ)
    x, y, z = cv2.split(_cube_root()[(xyz * FINE).round().astype(np.int32).clip(0, FINE)])
    lab: np.ndarray = cv2.merge([2.55 * (116 * y - 16), 500 * (x - y) + 128, 200 * (y - z) + 128])
    return lab


@cache
def _linear() -> np.ndarray:
    levels = np.arange(256) / 255
    curve = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    return curve.astype(np.float32)


@cache
def _cube_root() -> np.ndarray:
    """Give the cube root of CIE's Lab, straight near 0, of 0 to 1 in steps of 1 / 4096."""
    shares = np.arange(FINE + 1) / FINE
    return np.where(shares > 0.008856, np.cbrt(shares), 7.787 * shares + 16 / 116).astype(np.float32)


@dataclass
class Stutter(FrameMetric):
    """Measure the shares of steps that show nothing new, and of those in which a movement stalls.

    A step is the mean absolute difference of Y, resized to `long_side` pixels, from the frame before; what is usual is the
    75th percentile of the 13 steps around it. A frame is a duplicate where its step is below a quarter of that, or, where next to
    nothing moves, of 0.3 % of the deviation of Y: a coder's changes to a copy are less. A step stutters where it is below a quarter of a
    usual one of 0.15 levels of 255 or more; a picture that stops for longer has duplicates, and does not stutter.
    """

    version = 2
    values = (
        Value(
            "duplicate_share",
            "share of frames that show nothing new, coded anew or not",
            "0..1",
            (0, 1),
            "lower",
            "step of Y < 1/4 of the 75th percentile of 13 steps, or of 0.3 % of the std of Y",
        ),
        Value(
            "stutter_share",
            "share of steps in which a movement stalls",
            "0..1",
            (0, 1),
            "lower",
            "step of Y < 1/4 of the 75th percentile of 13 steps, where that is >= 0.15 levels",
        ),
    )

    long_side: int = 320
    contrasts: list[float] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        positive("long_side", self.long_side)

    def per_frame(self, frame: Frame) -> Mapping[str, float]:
        """Compare with the frame before; NaN at the first frame."""
        if frame.previous is None:
            return {"step": nan}
        factor = self.long_side / max(frame.width, frame.height)
        now, before = (each.luma_scaled(factor) for each in (frame, frame.previous))
        self.contrasts.append(float(cv2.meanStdDev(now)[1].item()) * frame.gain)
        return {"step": cv2.norm(now, before, cv2.NORM_L1) / now.size * frame.gain}

    def compute(self) -> dict[str, float]:
        """Count the steps that are short and those that stall, among all; NaN for a single frame."""
        steps = np.array(self.series.get("step", []))
        steps = steps[~np.isnan(steps)]
        if not steps.size:
            return {"duplicate_share": nan, "stutter_share": nan}
        padded = np.pad(steps, AROUND // 2, constant_values=nan)
        usual = np.nanpercentile(np.lib.stride_tricks.sliding_window_view(padded, AROUND), RANK, axis=1)
        visible = VISIBLE * np.array(self.contrasts)
        duplicates = (steps < STALLED * np.maximum(usual, visible)) | (steps == 0)
        stalls = (usual >= MOVING) & (steps < STALLED * usual)
        return {"duplicate_share": float(duplicates.mean()), "stutter_share": float(stalls.mean())}
