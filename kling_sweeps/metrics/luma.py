"""Exposure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kling_sweeps.metric import SampledMetric, Value

if TYPE_CHECKING:
    from kling_sweeps.video.frame import Frame

LOW, HIGH = 2 / 255, 253 / 255


@dataclass
class Luma(SampledMetric):
    """Measure the distribution of Y within each frame, at full size, 0 being black and 1 white.

    Limited range is expanded, (Y - 16) / 219, and what lies beyond black or white is black or white.
    Each statistic is taken within a frame, from an exact histogram, and averaged over the frames. None
    depends on resolution or frame rate.
    """

    version = 2
    values = (
        Value("luma_mean", "brightness", "0..1", (0, 1), "neither", "mean of Y"),
        Value("luma_contrast", "contrast", "0..1", (0, 0.5), "neither", "population std of Y"),
        Value("luma_range", "tonal range", "0..1", (0, 1), "neither", "99th - 1st percentile of Y"),
        Value("clipped_dark", "share of black pixels", "0..1", (0, 1), "neither", "Y <= 2/255"),
        Value("clipped_bright", "share of white pixels", "0..1", (0, 1), "lower", "Y >= 253/255"),
    )

    def per_frame(self, frame: Frame) -> Mapping[str, float]:
        """Weigh the 256 levels with their shares of the pixels."""
        levels = np.clip((np.arange(256) - frame.black) / (frame.white - frame.black), 0, 1)
        counts = frame.luma_counts
        shares = counts / counts.sum()
        mean = shares @ levels
        low, high = (_percentile(levels, counts, rank) for rank in (1, 99))
        return {
            "luma_mean": mean,
            "luma_contrast": np.sqrt(shares @ (levels - mean) ** 2),
            "luma_range": high - low,
            "clipped_dark": shares[levels <= LOW].sum(),
            "clipped_bright": shares[levels >= HIGH].sum(),
        }


def _percentile(levels: np.ndarray, counts: np.ndarray, rank: float) -> float:
    """Give the percentile of all pixels, interpolated between neighbours, as `numpy.percentile` does."""
    position = rank / 100 * (counts.sum() - 1)
    neighbours = np.floor(position), np.ceil(position)
    below, above = levels[np.searchsorted(np.cumsum(counts), neighbours, side="right")]
    return float(below + (above - below) * (position % 1))
