"""Blocks of a coder that can be seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, nan
from typing import TYPE_CHECKING

import numpy as np

from kling_sweeps.metric import SampledMetric, Value, ratio, strips
from kling_sweeps.video import opencv as cv2

if TYPE_CHECKING:
    from kling_sweeps.video.frame import Frame

PERIODS = range(3, 25)
# The steps between pixels that a step is compared with: three to each side.
AROUND = np.array([[1, 1, 1, 0, 1, 1, 1]], np.float32)
NEIGHBOURS = 3


@dataclass
class Blockiness(SampledMetric):
    """Measure how much steeper Y is on a grid than off it: 1 without blocks, more the more they show.

    Each step from a pixel to the next is divided by the six around it and summed up down the columns,
    or along the rows. The grid is that of period 3 to 24, from the picture's corner on, with the
    highest ratio of the mean sum on it, the better of its neighbours taken, to the mean sum off it. A
    frame in which nothing changes off the grid has no ratio.
    """

    version = 1
    values = (
        Value(
            "blockiness",
            "visible blocks; about 1 without",
            "1",
            (0, inf),
            "neither",
            "Muijs & Kirenko 2005, as FFmpeg's blockdetect",
            alike_in=("size",),
        ),
    )

    def per_frame(self, frame: Frame) -> Mapping[str, float]:
        """Take the higher ratio of the columns' and the rows' grids."""
        ratios = [*_ratios(frame.luma), *_ratios(cv2.transpose(frame.luma))]
        return {"blockiness": max((each for each in ratios if each == each), default=nan)}


def _ratios(plane: np.ndarray) -> list[float]:
    """Give each period's ratio of the mean step on the grid of columns to that off it."""
    first, end = NEIGHBOURS, plane.shape[1] - NEIGHBOURS - 1
    if end <= first or plane.shape[0] < 2:
        return []
    profile = np.zeros(plane.shape[1])
    profile[first:end] = _relative_steps(plane[1:])[first:end]
    best = np.maximum(profile, np.maximum(np.roll(profile, 1), np.roll(profile, -1)))
    found = []
    for period in PERIODS:
        grid = slice(next(at for at in range(period - 1, end + period, period) if at >= first), end, period)
        on = len(profile[grid])
        off = ratio(profile.sum() - profile[grid].sum(), end - first - on)
        found.append(ratio(ratio(best[grid].sum(), on), off))
    return found


def _relative_steps(plane: np.ndarray) -> np.ndarray:
    """Sum down each column the step to the next one over the steps around it, which count at least 1."""
    total = np.zeros(plane.shape[1] - 1)
    for strip in strips(plane):
        steps = cv2.absdiff(strip[:, :-1], strip[:, 1:]).astype(np.float32)
        around = cv2.filter2D(steps, cv2.CV_32F, AROUND)
        total += cv2.reduce(steps / cv2.max(around, 1), 0, cv2.REDUCE_SUM)[0]
    return total
