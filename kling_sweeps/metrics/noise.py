"""Noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, nan, pi, sqrt
from typing import TYPE_CHECKING

import numpy as np

from kling_sweeps.metric import SampledMetric, Value, percentile, strips
from kling_sweeps.video import opencv as cv2

if TYPE_CHECKING:
    from kling_sweeps.video.frame import Frame

# The mask [[1, -2, 1], [-2, 4, -2], [1, -2, 1]] is this one down the columns and along the rows.
SECOND_DIFFERENCE = np.array([1.0, -2.0, 1.0])
# In pixels: the side of a block; and in percent, which of the blocks counts as quiet.
BLOCK, QUIET = 32, 10
# What that percentile of the blocks' estimates is of the true sigma, in noise alone (30,000 simulated blocks at a sigma of 2, 5 and 8 each).
SHARE_OF_TRUE = 0.944
# How many levels of Y from black or white noise is not cut off.
ROOM = 4


@dataclass
class Noise(SampledMetric):
    """Estimate the standard deviation of the noise of Y at full size, in levels of 0..255 full range.

    The mask gives 0 on planes and on edges that run along a row or a column. What is left is taken for Gaussian noise in
    blocks of 32 x 32 pixels, and the picture's is that of its quietest tenth, where texture adds least: a
    picture that is textured everywhere still reads too high, and a coder's smoothing lowers it. Blocks in black or white,
    where noise is cut off, don't count; NaN where there are no others.
    """

    version = 2
    values = (
        Value(
            "noise_sigma",
            "noise, in the quietest parts of the picture",
            "0..255 levels",
            (0, inf),
            "neither",
            "Immerkaer 1996 in blocks: 10th percentile of sqrt(pi/2) / 6 mean abs(Y * mask)",
            scale="log",
            alike_in=("size",),
        ),
    )

    def per_frame(self, frame: Frame) -> Mapping[str, float]:
        """Filter Y block by block, its border left out."""
        block = min(BLOCK, *(side - 2 for side in frame.luma.shape))
        if block < 1:
            return {"noise_sigma": nan}
        rows = [row for row in strips(frame.luma, 1, block) if row.shape[0] == block + 2]
        levels, deviations = np.transpose([_blocks(row, block) for row in rows], (1, 0, 2))
        has_room = (levels >= frame.black + ROOM) & (levels <= frame.white - ROOM)
        quiet = percentile(deviations[has_room], QUIET)
        return {"noise_sigma": sqrt(pi / 2) / 6 * quiet / SHARE_OF_TRUE * frame.gain}


def _blocks(row: np.ndarray, block: int) -> np.ndarray:
    """Return for each block of a row of them the mean of Y and that of abs(Y * mask): 2 x blocks."""
    count = (row.shape[1] - 2) // block
    inner = slice(1, -1), slice(1, 1 + count * block)
    filtered = cv2.sepFilter2D(row, cv2.CV_16S, SECOND_DIFFERENCE, SECOND_DIFFERENCE)[inner]
    planes = row[inner], np.abs(filtered)
    means = [cv2.reduce(plane, 0, cv2.REDUCE_AVG, dtype=cv2.CV_32F) for plane in planes]
    blocks: np.ndarray = np.reshape(means, (2, count, block)).mean(2)
    return blocks
