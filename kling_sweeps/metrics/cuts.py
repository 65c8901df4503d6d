"""Scene cuts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, nan
from typing import TYPE_CHECKING

import numpy as np

from kling_sweeps.metric import FrameMetric, Value, positive
from kling_sweeps.video import opencv as cv2

if TYPE_CHECKING:
    from kling_sweeps.video.frame import Frame


@dataclass
class Cuts(FrameMetric):
    """Count scene cuts: changes of `threshold` or more in 8-bit HSV, `apart` frames or more after the last.

    The change is the mean over pixels of abs dH, dS and dV, averaged over the three, of the frame
    shrunk to `long_side` pixels. Movement that is as fast as that counts once for as long as it goes on,
    and a flash once. PySceneDetect would not count in the first `apart` frames, and would count the end
    of such movement too.
    """

    version = 1
    values = (
        Value(
            "cuts",
            "scene cuts; 0 for a single shot",
            "1",
            (0, inf),
            "lower",
            "PySceneDetect's content rule: mean abs difference of H, S and V >= 27, 15 frames apart",
        ),
    )

    threshold: float = 27.0
    apart: int = 15
    long_side: int = 320

    def __post_init__(self) -> None:
        for name in ("threshold", "apart", "long_side"):
            positive(name, getattr(self, name))

    def per_frame(self, frame: Frame) -> Mapping[str, float]:
        """Compare HSV with the frame before; NaN at the first frame."""
        if frame.previous is None:
            return {"content_change": nan}
        now, before = (self._hsv(each) for each in (frame, frame.previous))
        return {"content_change": cv2.norm(now, before, cv2.NORM_L1) / now.size}

    def compute(self) -> dict[str, float]:
        """Count the changes over the threshold, of those that follow each other closely the first."""
        changes = np.array(self.series.get("content_change", []))
        if np.isnan(changes).all():
            return {"cuts": nan}
        changed = np.flatnonzero(changes >= self.threshold)
        return {"cuts": int(np.count_nonzero(np.diff(changed, prepend=-self.apart) >= self.apart))}

    def _hsv(self, frame: Frame) -> np.ndarray:
        def make() -> np.ndarray:
            thumbnail = frame.bgr_scaled(min(1.0, self.long_side / max(frame.width, frame.height)))
            hsv: np.ndarray = cv2.cvtColor(thumbnail, cv2.COLOR_BGR2HSV)
            return hsv

        return frame.once(("hsv", self.long_side), make)
