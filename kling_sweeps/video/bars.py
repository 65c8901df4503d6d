"""Black bars around a picture, found before it is looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kling_sweeps.video import opencv as cv2
from kling_sweeps.video.decode import Video
from kling_sweeps.video.frame import Frame, Window

# In levels above black, on average: what is black. As a share of a side: how wide a bar is at least, how deep the picture is looked at
# beside it, and across how much of that it must be lit: a thing before a black ground touches the edge of the black in one place.
DARK, LEAST, REACH, LIT = 2, 0.015, 0.02, 0.5
# Windows begin at a multiple of this many pixels, so that a coder's blocks stay where they are.
BLOCK = 8


def without_bars(video: Video) -> Iterator[Frame]:
    """Show every frame of a video without the bars that all frames have; `Frame.whole` has them.

    Bars are rows and columns from the edge of the picture on that stay black in every frame, and that end at a straight edge. A file
    whose first frame has a black edge is decoded once more before, as far as it takes to see that a bar is none.
    """
    shape: tuple[int, ...] = ()
    window, before = None, None
    for frame in video:
        if frame.index == 0:
            window, shape = find(video, frame), frame.luma.shape
        shown = frame
        if window and frame.luma.shape == shape:
            shown = frame.inside(window)
            shown.previous = before if frame.previous else None
        yield shown
        shown.previous, before = None, shown


def find(video: Video, first: Frame) -> Window | None:
    """Find what of a video lies between its bars, from its first frame and, where that has any, all others; None without bars."""
    seen = _Brightest(first)
    if not seen.has_bars():
        return None
    for frame in Video(video.path, video.threads, video.max_pixels):
        if frame.luma.shape == first.luma.shape:
            seen.update(frame)
            if not seen.has_bars():
                return None
    return seen.window()


@dataclass
class _Brightest:
    """How bright each pixel has been at most, and each row and column on average: in levels as stored."""

    first: Frame

    def __post_init__(self) -> None:
        self.black = self.first.black + DARK
        self.pixels = self.first.luma.copy()
        self.rows, self.columns = _averages(self.first)

    def update(self, frame: Frame) -> None:
        cv2.max(self.pixels, frame.luma, self.pixels)
        rows, columns = _averages(frame)
        np.maximum(self.rows, rows, out=self.rows)
        np.maximum(self.columns, columns, out=self.columns)

    def has_bars(self) -> bool:
        return any(self._between(levels) != (0, len(levels)) for levels in (self.rows, self.columns))

    def window(self) -> Window | None:
        """Give what lies between the bars, without those that end at no straight edge."""
        height, width = self.pixels.shape
        (top, bottom), (left, right) = self._between(self.rows), self._between(self.columns)
        lit = self.pixels > self.black
        top, bottom = _at_edges(lit, top, bottom)
        left, right = _at_edges(lit.T, left, right)
        if (top, bottom, left, right) == (0, height, 0, width):
            return None
        share = 1 - (bottom - top) * (right - left) / (height * width)
        return Window(*_snapped(top, bottom, height), *_snapped(left, right, width), share)

    def _between(self, levels: np.ndarray) -> tuple[int, int]:
        """Give the first line that is lit and the one after the last; all where none is, or a bar would be too narrow."""
        lit, size = np.flatnonzero(levels > self.black), len(levels)
        if not lit.size:
            return 0, size
        first, end, least = int(lit[0]), int(lit[-1]) + 1, max(2, LEAST * size)
        return first if first >= least else 0, end if size - end >= least else size


def _averages(frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = (cv2.reduce(frame.luma, axis, cv2.REDUCE_AVG, dtype=cv2.CV_32F) for axis in (1, 0))
    return rows.ravel(), columns.ravel()


def _at_edges(lit: np.ndarray, first: int, end: int) -> tuple[int, int]:
    """Keep the bars beside which the picture is lit across half of its width."""
    size = len(lit)
    reach = max(2, round(REACH * size))
    begins = lit[first : first + reach].any(0).mean() >= LIT
    ends = lit[end - reach : end].any(0).mean() >= LIT
    return first if begins else 0, end if ends else size


def _snapped(first: int, end: int, size: int) -> tuple[int, int]:
    """Move the two ends of a window inwards, to a whole block and, so that chroma has as much, an even pixel."""
    return -(-first // BLOCK) * BLOCK, end if end == size else end // 2 * 2
