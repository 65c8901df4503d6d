"""Motion, as optical flow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import hypot, inf, nan
from typing import TYPE_CHECKING, Any

import numpy as np

from kling_sweeps import opencv as cv2
from kling_sweeps.metric import FrameMetric, Value, mean, percentile, positive

if TYPE_CHECKING:
    from kling_sweeps.frame import Frame


@dataclass
class Motion(FrameMetric):
    """Measure the mean length of the optical flow in picture diagonals a second.

    DIS flow (ultrafast) from the frame before, on Y resized to `long_side` pixels, divided by the
    time between the two frames: resolution and frame rate cancel out. The size matters to the flow
    itself (larger finds smaller movements), so compare only what was measured with one. Pictures
    thinner than 12 pixels at that size have no flow.
    """

    version = 1
    values = (
        Value(
            "motion",
            "speed of what moves, camera included",
            "diagonals/s",
            (0, inf),
            "neither",
            "mean length of DIS flow (Kroeger et al. 2016) x fps / diagonal",
        ),
        Value(
            "motion_p95",
            "the same in the fastest moments",
            "diagonals/s",
            (0, inf),
            "neither",
            "95th percentile of motion over the frames",
        ),
    )

    long_side: int = 320

    def __post_init__(self) -> None:
        positive("long_side", self.long_side)

    def per_frame(self, frame: Frame) -> Mapping[str, float]:
        """Take the mean flow since the frame before; NaN at the first frame."""
        if frame.previous is None:
            return {"motion": nan}
        before, now = (self._small(each) for each in (frame.previous, frame))
        flow = self._flow.calc(before, now, None)
        u, v = cv2.split(flow)
        # Not cv2.magnitude: its last bits depend on where in memory the arrays lie.
        lengths = np.sqrt(u * u + v * v)
        seconds = frame.time_s - frame.previous.time_s
        speed = cv2.mean(lengths)[0] / seconds if seconds > 0 else nan
        return {"motion": speed / hypot(*now.shape)}

    def compute(self) -> dict[str, float]:
        """Average over the frames, and take the 95th percentile."""
        series = self.series.get("motion", [])
        return {"motion": mean(series), "motion_p95": percentile(series, 95)}

    def _small(self, frame: Frame) -> Any:
        return frame.luma_scaled(self.long_side / max(frame.width, frame.height))

    @cached_property
    def _flow(self) -> Any:
        return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
