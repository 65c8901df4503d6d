"""Blur, told by the width of edges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, nan, sqrt
from typing import TYPE_CHECKING

import numpy as np

from kling_sweeps.metric import SampledMetric, Value, positive
from kling_sweeps.video import opencv as cv2

if TYPE_CHECKING:
    from kling_sweeps.video.frame import Frame

# In pixels: the blur that takes noise away before anything is measured, and the one that edges are compared under.
BEFORE, AGAIN = 2.0, 1.5
# Which share of the pixels is steep, how steep they must be, in levels over two pixels, and how many edges it takes.
STEEP, LEAST_STEP, LEAST_EDGES = 0.02, 2.0, 20
# How finely slopes are sorted, in levels, and how many pixels at the edge of the picture are not looked at.
FINE, BORDER = 0.5, 2


@dataclass
class EdgeWidth(SampledMetric):
    """Measure how wide the sharpest edges are, in pixels of a picture whose short side is `short_side`.

    An edge is taken for a step under a Gaussian blur, whose standard deviation this is. A second blur of known strength takes the more
    of an edge's steepness the sharper it was. Edges are the pixels that are steepest across the edge, among the steepest 2 % of the
    picture; the median of their widths counts. Noise and contrast hardly change it, nor does the size of the picture from `short_side`
    lines on, where what is sharp reads 0 to 0.6; strong noise hides some of a strong blur. It tells nothing of what is out of
    focus beside something that isn't, and a title counts as the sharp thing that it is. NaN where there are fewer than 20 edges.
    """

    version = 1
    values = (
        Value(
            "edge_width",
            "blur: how wide the sharpest edges are",
            "px of 480 lines",
            (0, inf),
            "lower",
            "Zhuo & Sim 2011: 1.5 / sqrt(R^2 - 1), R = gradient / gradient blurred by 1.5 px, less 2 px that all are blurred by",
        ),
    )

    short_side: int = 480

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("short_side", self.short_side)

    def per_frame(self, frame: Frame) -> Mapping[str, float]:
        """Compare the slopes of the resized Y with those under more blur."""
        luma = frame.luma_scaled(self.short_side / min(frame.width, frame.height))
        if min(luma.shape) < 2 * BORDER + 1:
            return {"edge_width": nan}
        smooth = cv2.GaussianBlur(luma.astype(np.float32), (0, 0), BEFORE)
        rows, columns, squared = _edges(smooth, LEAST_STEP / frame.gain)
        if len(rows) < LEAST_EDGES:
            return {"edge_width": nan}
        blurred = cv2.GaussianBlur(smooth, (0, 0), AGAIN)
        across = blurred[rows, columns + 1] - blurred[rows, columns - 1]
        down = blurred[rows + 1, columns] - blurred[rows - 1, columns]
        excess = np.maximum(squared / np.maximum(across**2 + down**2, 1e-9) - 1, 1e-3)
        variance = float(np.median(AGAIN**2 / excess)) - BEFORE**2
        return {"edge_width": sqrt(max(0.0, variance))}


def _edges(smooth: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the rows, the columns and the squared slopes of the pixels that are steepest across an edge."""
    across, down = (cv2.Sobel(smooth, cv2.CV_32F, *way, ksize=1) for way in ((1, 0), (0, 1)))
    squared = cv2.add(cv2.multiply(across, across), cv2.multiply(down, down))
    inner = squared[BORDER:-BORDER, BORDER:-BORDER]
    rows, columns = np.nonzero(inner >= max(least, _steep(inner)) ** 2)
    rows, columns = rows + BORDER, columns + BORDER
    is_upright = np.abs(across[rows, columns]) >= np.abs(down[rows, columns])
    right, below = is_upright.astype(int), (~is_upright).astype(int)
    slopes = squared[rows, columns]
    before, after = squared[rows - below, columns - right], squared[rows + below, columns + right]
    is_edge = (slopes >= before) & (slopes > after)
    return rows[is_edge], columns[is_edge], slopes[is_edge]


def _steep(squared: np.ndarray) -> float:
    """Give the slope that the steepest 2 % of the pixels have or more do, to half a level, up to 127."""
    slopes = cv2.convertScaleAbs(cv2.sqrt(squared), alpha=1 / FINE)
    above = np.cumsum(cv2.calcHist([slopes], [0], None, [256], [0, 256]).ravel()[::-1])
    return FINE * (254.5 - int(np.searchsorted(above, STEEP * squared.size)))
