"""Scene cuts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf, nan
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kling_sweeps.metric import FrameMetric, Value, positive
from kling_sweeps.video import opencv as cv2

if TYPE_CHECKING:
    from kling_sweeps.video.frame import Frame

# In pixels of the thumbnail: around each, what its brightness is told beside; in levels, what is no contrast yet.
AROUND, FAINT = 17, 2.0
# Mean square of the normalised picture, below which there is nothing to be seen: black, white, fog.
EMPTY = 0.02
# By what share of the picture it may have moved from one frame to the next, and in how many seconds a flash is over.
SHIFT, FLASH_S = 0.12, 1 / 8


class Change(NamedTuple):
    """A frame that is unlike the one before, which is kept to see whether it comes back."""

    number: int
    time_s: float
    before: np.ndarray


@dataclass
class Cuts(FrameMetric):
    """Count the changes of structure that are as sudden as a cut, in colour or in black and white.

    Of Y, shrunk to `long_side` pixels, each pixel is told by the mean and the deviation of the 17 x 17 around it, so that how bright
    and how contrasty a picture is does not count. A frame is unlike the one before where their correlation is below `threshold` wherever
    the one is shifted to, up to 12 % of the picture. That is no cut where the picture before comes back within an
    eighth of a second, as after a flash, and several unlike frames one after another are one. A frame in which nothing is to be seen
    is passed over: a fade to black and back is a cut where another picture comes back. A dissolve is none.
    """

    version = 2
    values = (
        Value(
            "cuts",
            "scene cuts; 0 for a single shot",
            "1",
            (0, inf),
            "lower",
            "correlation of locally normalised Y with the frame before < 0.35, shifted by up to 12 %",
            alike_in=("duration",),
        ),
    )

    threshold: float = 0.35
    long_side: int = 160
    changes: list[int] = field(default_factory=list, init=False, repr=False)
    recent: list[Change] = field(default_factory=list, init=False, repr=False)
    last: np.ndarray | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        positive("long_side", self.long_side)
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold={self.threshold!r}: expected a correlation between 0 and 1")

    def per_frame(self, frame: Frame) -> Mapping[str, float]:
        """Correlate with the last frame in which there was something to be seen; NaN where there is none."""
        thumbnail = frame.luma_scaled(min(1.0, self.long_side / max(frame.width, frame.height)))
        picture = _normalised(thumbnail)
        if float(np.square(picture).mean()) < EMPTY:
            return {"structure": nan}
        before, self.last = self.last, picture
        if before is None or before.shape != picture.shape:
            return {"structure": nan}
        correlation = _correlation(before, picture, self.threshold)
        self._note(frame, before, picture, correlation)
        return {"structure": correlation}

    def compute(self) -> dict[str, float]:
        """Count the changes, of those that follow each other at once the first; NaN for a single frame."""
        if len(self.series.get("structure", ())) < 2:
            return {"cuts": nan}
        return {"cuts": int(np.count_nonzero(np.diff(self.changes, prepend=-inf) > 1))}

    def _note(self, frame: Frame, before: np.ndarray, picture: np.ndarray, correlation: float) -> None:
        """Remember a change, or forget those since a picture that is back."""
        self.recent = [each for each in self.recent if frame.time_s - each.time_s <= FLASH_S + 1e-6]
        for place, change in enumerate(self.recent):
            if _correlation(change.before, picture, self.threshold) >= self.threshold:
                self.changes = [index for index in self.changes if index < change.number]
                del self.recent[place:]
                return
        if correlation < self.threshold:
            self.changes.append(frame.index)
            self.recent.append(Change(frame.index, frame.time_s, before))


def _normalised(thumbnail: np.ndarray) -> np.ndarray:
    """Tell each pixel of Y in deviations from the mean of those around it: float32."""
    levels = thumbnail.astype(np.float32)
    mean = cv2.blur(levels, (AROUND, AROUND))
    variance = cv2.blur(levels * levels, (AROUND, AROUND)) - mean * mean
    normalised: np.ndarray = (levels - mean) / (np.sqrt(np.maximum(variance, 0)) + FAINT)
    return normalised


def _correlation(before: np.ndarray, after: np.ndarray, enough: float) -> float:
    """Correlate two pictures as they are, and where that is not enough, the inner part of one wherever it is in the other."""
    product = float(cv2.norm(before, cv2.NORM_L2) * cv2.norm(after, cv2.NORM_L2))
    straight = float(before.ravel() @ after.ravel()) / product
    if straight >= enough:
        return straight
    height, width = before.shape
    rows, columns = int(height * SHIFT), int(width * SHIFT)
    inner = before[rows : height - rows, columns : width - columns]
    return max(straight, float(cv2.matchTemplate(after, inner, cv2.TM_CCOEFF_NORMED).max()))
