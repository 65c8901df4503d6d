"""Exposure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kling_sweeps import opencv as cv2
from kling_sweeps.metric import FrameMetric, Value

if TYPE_CHECKING:
    from kling_sweeps.frame import Frame


@dataclass
class Luma(FrameMetric):
    """Measure mean and contrast of Y at full size, 0 being black and 1 white.

    Limited range is expanded, (Y - 16) / 219, and not clipped. Contrast is the population standard
    deviation within a frame, averaged over the frames. Neither depends on resolution or frame rate.
    """

    version = 1
    values = (
        Value("luma_mean", "brightness", "0..1", (0, 1), "neither", "mean of Y"),
        Value("luma_contrast", "contrast", "0..1", (0, 0.5), "neither", "population std of Y"),
    )

    def per_frame(self, frame: Frame) -> Mapping[str, float]:
        """Take mean and standard deviation of Y, expanded to full range."""
        mean, deviation = (moment.item() for moment in cv2.meanStdDev(frame.luma))
        span = frame.white - frame.black
        return {"luma_mean": (mean - frame.black) / span, "luma_contrast": deviation / span}
