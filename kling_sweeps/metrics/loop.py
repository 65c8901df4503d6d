"""Whether a video can be played in a loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING

import numpy as np

from kling_sweeps.metric import SampledMetric, Value, ratio, samples
from kling_sweeps.video import opencv as cv2

if TYPE_CHECKING:
    from kling_sweeps.video.frame import Frame


@dataclass
class LoopGap(SampledMetric):
    """Measure how much further the last frame is from the first than neighbouring frames are from each other.

    The mean absolute difference of BGR at full size, less the median step between neighbours, over what
    the two frames would differ by if their pixels stood in any order: 0 is seamless, 1 as far as a picture
    of the same colours that shows something else. A still scene is seamless, whatever its coding.
    NaN where there is one frame, or one colour alone.
    """

    version = 2
    values = (
        Value(
            "loop_gap",
            "jump when looped; 0 is seamless, 1 another picture",
            "0..1",
            (0, 1),
            "neither",
            "(mean abs(F_T - F_1) - median over t of mean abs(F_t+1 - F_t)) / E abs(X - Y), X and Y any pixels of the two",
        ),
    )

    first_frame = 1

    def update(self, frame: Frame) -> None:
        """Keep the first frame and the last, and measure the step if it is one of those drawn."""
        if frame.index == 0:
            self._first = frame
        self._last = frame
        super().update(frame)

    def per_frame(self, frame: Frame) -> Mapping[str, float]:
        """Compare with the frame before; NaN where that has another size."""
        return {"frame_difference": frame.bgr_difference}

    def compute(self) -> dict[str, float]:
        """Compare the last frame with the first."""
        steps = samples(self.series.get("frame_difference", []))
        if not steps.size:
            return {"loop_gap": nan}
        first, last = self._first.bgr, self._last.bgr
        if first.shape != last.shape:
            return {"loop_gap": nan}
        gap = cv2.norm(last, first, cv2.NORM_L1) / last.size - float(np.median(steps))
        spread = float(np.mean([_apart(first, last, channel) for channel in range(3)]))
        return {"loop_gap": min(1.0, max(0.0, ratio(gap, spread))) if spread > 0 else nan}


def _apart(first: np.ndarray, last: np.ndarray, channel: int) -> float:
    """Return the mean difference of a pixel of one picture and any of the other, in levels of a channel.

    It is the sum over the levels of F (1 - G) + G (1 - F), F and G being the two distributions.
    """
    counts = (cv2.calcHist([each], [channel], None, [256], [0, 256]).ravel() for each in (first, last))
    below, other = (np.cumsum(each, dtype=np.float64) / each.sum(dtype=np.float64) for each in counts)
    return float((below * (1 - other) + other * (1 - below)).sum())
