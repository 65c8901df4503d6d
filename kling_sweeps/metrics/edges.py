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
        edges, squared = _edges(smooth, LEAST_STEP / frame.gain)
        if len(edges) < LEAST_EDGES:
            return {"edge_width": nan}
        across, down = _slopes(cv2.GaussianBlur(smooth, (0, 0), AGAIN, smooth), edges)
        excess = np.maximum(squared / np.maximum(across**2 + down**2, 1e-9) - 1, 1e-3)
        variance = float(np.median(AGAIN**2 / excess)) - BEFORE**2
        return {"edge_width": sqrt(max(0.0, variance))}


def _edges(smooth: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Find the pixels that are steepest across an edge, by their places in the flat picture, and their squared slopes."""
    across, down = (cv2.Sobel(smooth, cv2.CV_32F, *way, ksize=1) for way in ((1, 0), (0, 1)))
    # In place: the page faults of fresh memory take longer than the arithmetic.
    squared = cv2.accumulateSquare(down, cv2.multiply(across, across, across))
    (height, width), inner = squared.shape, (slice(BORDER, -BORDER),) * 2
    steep = _steep(cv2.sqrt(squared, down)[inner])
    places = np.flatnonzero(squared >= max(least, steep) ** 2)
    rows, columns = np.divmod(places, width)
    places = places[
        (rows >= BORDER) & (rows < height - BORDER) & (columns >= BORDER) & (columns < width - BORDER)
    ]
    across, down = _slopes(smooth, places)
    ahead = np.where(np.abs(across) >= np.abs(down), 1, width)
    flat = squared.ravel()
    slopes = flat[places]
    is_edge = (slopes >= flat[places - ahead]) & (slopes > flat[places + ahead])
    return places[is_edge], slopes[is_edge]


def _slopes(picture: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how steep a picture is at some places, over two pixels: along the rows, and down the columns."""
    flat, width = picture.ravel(), picture.shape[1]
    return flat[places + 1] - flat[places - 1], flat[places + width] - flat[places - width]


def _steep(slopes: np.ndarray) -> float:
    """Give the slope that the steepest 2 % of the pixels have or more do, to half a level, up to 127."""
    levels = cv2.convertScaleAbs(slopes, alpha=1 / FINE)
    above = np.cumsum(cv2.calcHist([levels], [0], None, [256], [0, 256]).ravel()[::-1])
    return FINE * (254.5 - int(np.searchsorted(above, STEEP * slopes.size)))
