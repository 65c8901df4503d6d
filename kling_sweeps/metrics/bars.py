"""Black bars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import nan
from typing import TYPE_CHECKING

from kling_sweeps.metric import FrameMetric, Value

if TYPE_CHECKING:
    from kling_sweeps.video.frame import Frame


@dataclass
class Bars(FrameMetric):
    """Tell what share of the picture is black bars, which no other metric sees.

    `kling_sweeps.video.bars` finds them: rows and columns that are black in every frame, up to a straight edge.
    """

    version = 1
    values = (
        Value(
            "bars_share",
            "share of the picture that is black bars, which no other number counts",
            "0..1",
            (0, 1),
            "lower",
            "rows and columns whose mean of Y is at most 2 levels above black in all frames",
        ),
    )

    share: float = field(default=nan, init=False)

    def per_frame(self, frame: Frame) -> Mapping[str, float]:
        """Remember what was found before the first frame."""
        self.share = frame.window.bars_share if frame.window else 0.0
        return {}

    def compute(self) -> dict[str, float]:
        """Give the share."""
        return {"bars_share": self.share}
