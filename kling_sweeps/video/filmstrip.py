"""A video at one glance: evenly spaced frames side by side."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kling_sweeps.video import opencv as cv2
from kling_sweeps.video.decode import frames
from kling_sweeps.video.frame import Frame


@dataclass
class Filmstrip:
    """Gather `columns` evenly spaced frames, `height` pixels high, from a pass over a video.

    How many frames will come is not known, and headers lie, so every `stride`-th frame is kept, and
    every other one dropped when they have become too many. `expected`, the header's count, only
    chooses the first stride.
    """

    columns: int = 8
    height: int = 240
    expected: int = 0
    _stride: int = field(init=False)
    _kept: list[np.ndarray] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._stride = max(1, self.expected // (2 * self.columns))

    def update(self, frame: Frame) -> None:
        """Keep the frame if it is on the stride."""
        if frame.index % self._stride:
            return
        self._kept.append(frame.bgr_scaled(self.height / frame.height))
        if len(self._kept) > 4 * self.columns:
            self._kept, self._stride = self._kept[::2], 2 * self._stride

    def image(self) -> np.ndarray | None:
        """Join the columns, first frame to last, into one BGR image: height x n x 3 uint8."""
        if not self._kept:
            return None
        columns = min(self.columns, len(self._kept))
        chosen = np.linspace(0, len(self._kept) - 1, columns).round().astype(int)
        return np.hstack([self._fitted(self._kept[index]) for index in chosen])

    def _fitted(self, column: np.ndarray) -> np.ndarray:
        # A stream may change its size on the way.
        size = self._kept[0].shape[1::-1]
        return column if column.shape[1::-1] == size else cv2.resize(column, size)


def filmstrip(source: str | Path | Iterable[Frame], columns: int = 8, height: int = 240) -> np.ndarray | None:
    """Make a strip of `columns` evenly spaced frames, BGR uint8, of a video file or of its frames."""
    strip = Filmstrip(columns, height)
    for frame in frames(source) if isinstance(source, str | Path) else source:
        strip.update(frame)
    return strip.image()
