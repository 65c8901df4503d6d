"""Noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, pi, sqrt
from typing import TYPE_CHECKING

import numpy as np

from kling_sweeps.metric import SampledMetric, Value, inside, ratio, strips
from kling_sweeps.video import opencv as cv2

if TYPE_CHECKING:
    from kling_sweeps.video.frame import Frame

# The mask [[1, -2, 1], [-2, 4, -2], [1, -2, 1]] is this one down the columns and along the rows.
SECOND_DIFFERENCE = np.array([1.0, -2.0, 1.0])


@dataclass
class Noise(SampledMetric):
    """Estimate the standard deviation of the noise of Y at full size, in levels of 0..255 full range.

    The mask gives 0 on planes and on edges that run along a row or a column, so what is left is taken
    for Gaussian noise. Fine texture counts as noise too, and a coder's smoothing lowers it.
    """

    version = 1
    values = (
        Value(
            "noise_sigma",
            "noise, fine texture included",
            "0..255 levels",
            (0, inf),
            "lower",
            "Immerkaer 1996: sqrt(pi/2) / (6 (W-2) (H-2)) sum abs(Y * mask)",
            scale="log",
        ),
    )

    def per_frame(self, frame: Frame) -> Mapping[str, float]:
        """Sum up the filtered Y, its border left out; NaN where there is nothing but border."""
        total = sum(_filtered(strip) for strip in strips(frame.luma, border=1))
        return {"noise_sigma": sqrt(pi / 2) / 6 * ratio(total, inside(frame.luma)) * frame.gain}


def _filtered(strip: np.ndarray) -> float:
    filtered = cv2.sepFilter2D(strip, cv2.CV_16S, SECOND_DIFFERENCE, SECOND_DIFFERENCE)
    return float(cv2.norm(filtered[1:-1, 1:-1], cv2.NORM_L1))
