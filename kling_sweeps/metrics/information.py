"""Spatial and temporal information, by which video test material is classed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf, nan, sqrt
from typing import TYPE_CHECKING

import numpy as np

from kling_sweeps.metric import FrameMetric, Value, inside, maximum, mean, ratio, strips
from kling_sweeps.video import opencv as cv2

if TYPE_CHECKING:
    from kling_sweeps.video.frame import Frame


@dataclass
class Information(FrameMetric):
    """A series that is summed up by its maximum and its mean, in this order of its values."""

    def compute(self) -> dict[str, float]:
        """Take maximum and mean over the frames."""
        highest, average = (value.name for value in self.values)
        series: Iterable[float] = self.series.get(highest, ())
        return {highest: maximum(series), average: mean(series)}


@dataclass
class SpatialInformation(Information):
    """Measure SI, how much detail and edges a picture has, on Y at full size as 0..255 full range.

    It depends on the resolution: compare only videos of one size.
    """

    version = 1
    values = (
        Value(
            "spatial_information",
            "SI: detail of the most detailed frame",
            "0..255 levels",
            (0, inf),
            "neither",
            "ITU-T P.910: max of the population std of the 3x3 Sobel magnitude, without border",
            alike_in=("size",),
        ),
        Value(
            "spatial_information_mean",
            "SI of the frames on average",
            "0..255 levels",
            (0, inf),
            "neither",
            "mean of the same",
            alike_in=("size",),
        ),
    )

    def per_frame(self, frame: Frame) -> Mapping[str, float]:
        """Take the deviation of the gradient; NaN where there is nothing but border."""
        total = squares = 0.0
        for strip in strips(frame.luma, border=1):
            magnitude = _sobel_magnitude(strip)[1:-1, 1:-1]
            total += cv2.norm(magnitude, cv2.NORM_L1)
            squares += cv2.norm(magnitude, cv2.NORM_L2SQR)
        pixels = inside(frame.luma)
        variance = ratio(squares, pixels) - ratio(total, pixels) ** 2
        return {"spatial_information": _root(variance) * frame.gain}


@dataclass
class TemporalInformation(Information):
    """Measure TI, how much changes between frames, on Y at full size as 0..255 full range.

    It depends on the frame rate and, less so, on the resolution: compare only videos of one kind.
    """

    version = 1
    values = (
        Value(
            "temporal_information",
            "TI: the largest change between two frames",
            "0..255 levels",
            (0, 255),
            "neither",
            "ITU-T P.910: max of the population std of Y_t - Y_t-1",
            alike_in=(
                "size",
                "rate",
            ),
        ),
        Value(
            "temporal_information_mean",
            "TI of the frames on average",
            "0..255 levels",
            (0, 255),
            "neither",
            "mean of the same",
            alike_in=(
                "size",
                "rate",
            ),
        ),
    )

    def per_frame(self, frame: Frame) -> Mapping[str, float]:
        """Take the deviation of the difference from its two moments; NaN at the first frame."""
        if frame.previous is None:
            return {"temporal_information": nan}
        mean_square = cv2.norm(frame.luma, frame.previous.luma, cv2.NORM_L2SQR) / frame.luma.size
        difference = frame.luma_mean - frame.previous.luma_mean
        return {"temporal_information": _root(mean_square - difference**2) * frame.gain}


def _sobel_magnitude(strip: np.ndarray) -> np.ndarray:
    # Not cv2.magnitude: its last bits depend on where in memory the arrays lie.
    dx, dy = (gradient.astype(np.float32) for gradient in cv2.spatialGradient(strip))
    # In place: fresh memory takes a fifth longer.
    magnitude: np.ndarray = cv2.sqrt(cv2.accumulateSquare(dy, cv2.multiply(dx, dx, dx)), dx)
    return magnitude


def _root(variance: float) -> float:
    # Rounding may leave the variance of a constant a little below 0.
    return variance if variance != variance else sqrt(max(0.0, variance))
