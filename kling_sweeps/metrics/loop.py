"""Whether a video can be played in a loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, nan
from typing import TYPE_CHECKING

import numpy as np

from kling_sweeps.metric import FrameMetric, Value, ratio, samples
from kling_sweeps.video import opencv as cv2

if TYPE_CHECKING:
    from kling_sweeps.video.frame import Frame


@dataclass
class LoopGap(FrameMetric):
    """Measure the step from the last frame back to the first, in steps between neighbouring frames.

    About 1 is seamless. Both are mean absolute differences of BGR at full size; where most neighbours
    are equal, there is no step to measure in.
    """

    version = 1
    values = (
        Value(
            "loop_gap",
            "jump when looped; about 1 is seamless",
            "1",
            (0, inf),
            "lower",
            "mean abs(F_T - F_1) / median over t of mean abs(F_t+1 - F_t)",
            scale="log",
        ),
    )

    def per_frame(self, frame: Frame) -> Mapping[str, float]:
        """Compare with the frame before; NaN at the first frame."""
        if frame.index == 0:
            self._first = frame
        self._last = frame
        return {"frame_difference": frame.bgr_difference}

    def compute(self) -> dict[str, float]:
        """Compare the last frame with the first."""
        steps = samples(self.series.get("frame_difference", []))
        if not steps.size:
            return {"loop_gap": nan}
        first, last = self._first.bgr, self._last.bgr
        if first.shape != last.shape:
            return {"loop_gap": nan}
        gap = cv2.norm(last, first, cv2.NORM_L1) / last.size
        return {"loop_gap": ratio(gap, float(np.median(steps)))}
