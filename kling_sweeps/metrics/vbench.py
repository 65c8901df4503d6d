"""What VBench defines, exactly as VBench defines it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kling_sweeps.metric import FrameMetric, Value

if TYPE_CHECKING:
    from kling_sweeps.video.frame import Frame


@dataclass
class TemporalFlickering(FrameMetric):
    """Measure VBench's temporal flickering: how equal neighbouring frames are, in BGR at full size.

    It is meant for static scenes. On a moving one it is inverse motion: what moves more scores lower,
    without any flicker.
    """

    version = 1
    values = (
        Value(
            "vbench_temporal_flickering",
            "equality of neighbouring frames; on moving scenes, inverse motion",
            "0..1",
            (0, 1),
            "neither",
            "VBench (Huang et al. 2024): (255 - mean abs(F_t+1 - F_t)) / 255 in BGR",
            alike_in=("rate",),
        ),
    )

    def per_frame(self, frame: Frame) -> Mapping[str, float]:
        """Compare with the frame before; NaN at the first frame."""
        return {"vbench_temporal_flickering": (255 - frame.bgr_difference) / 255}
