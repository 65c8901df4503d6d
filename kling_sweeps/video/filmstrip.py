"""A video at one glance: evenly spaced frames side by side."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kling_sweeps.video import opencv as cv2
from kling_sweeps.video.decode import frames
from kling_sweeps.video.frame import Frame
from kling_sweeps.video.picture_hash import picture_hash

# In pixels, the longer side of what is hashed.
HASHED = 160


class Kept(NamedTuple):
    """A frame of the strip: its time, its picture with bars, and the hash of what is between them."""

    time_s: float
    picture: np.ndarray
    hash: int


@dataclass
class Filmstrip:
    """Gather `columns` evenly spaced frames, `height` pixels high, from a pass over a video; each says its time.

    The picture has the bars of a frame that is shown without, and the hash of each frame has not.

    How many frames will come is not known, and headers lie, so every `stride`-th frame is kept, and
    every other one dropped when they have become too many. `expected`, the header's count, only
    chooses the first stride.
    """

    columns: int = 8
    height: int = 240
    expected: int = 0
    _stride: int = field(init=False)
    _kept: list[Kept] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._stride = max(1, (self.expected - 1) // max(1, self.columns - 1))

    def update(self, frame: Frame) -> None:
        """Keep the frame if it is on the stride."""
        if frame.index % self._stride:
            return
        picture = frame.whole.bgr_scaled(self.height / frame.whole.height)
        hashed = picture_hash(frame.luma_scaled(HASHED / max(frame.width, frame.height)))
        self._kept.append(Kept(frame.time_s, picture, hashed))
        if len(self._kept) > 4 * self.columns:
            self._kept, self._stride = self._kept[::2], 2 * self._stride

    def image(self) -> np.ndarray | None:
        """Join the columns, first frame to last, into one BGR image: height x n x 3 uint8."""
        if not self._kept:
            return None
        return np.hstack([self._column(each.time_s, each.picture) for each in self._chosen()])

    def hashes(self) -> list[int]:
        """Give the hash of each column's picture."""
        return [each.hash for each in self._chosen()]

    def _chosen(self) -> list[Kept]:
        columns = min(self.columns, len(self._kept))
        return [self._kept[round(index)] for index in np.linspace(0, len(self._kept) - 1, columns)]

    def _column(self, time_s: float, picture: np.ndarray) -> np.ndarray:
        """Fit a frame to the first one's size, since a stream may change its own, and write its time on it."""
        column: np.ndarray = cv2.resize(picture, self._kept[0].picture.shape[1::-1])
        for color, thickness in ((0, 0, 0), 3), ((255, 255, 255), 1):
            where, font, size = (6, self.height - 8), cv2.FONT_HERSHEY_SIMPLEX, self.height / 400
            cv2.putText(column, f"{time_s:.2f} s", where, font, size, color, thickness, cv2.LINE_AA)
        return column


def filmstrip(source: str | Path | Iterable[Frame], columns: int = 8, height: int = 240) -> np.ndarray | None:
    """Make a strip of `columns` evenly spaced frames, BGR uint8, of a video file or of its frames."""
    strip = Filmstrip(columns, height)
    for frame in frames(source) if isinstance(source, str | Path) else source:
        strip.update(frame)
    return strip.image()
