"""Pictures that stand still."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING

from kling_sweeps.metric import FrameMetric, Value, positive
from kling_sweeps.video import opencv as cv2

if TYPE_CHECKING:
    from kling_sweeps.video.frame import Frame


@dataclass
class Freeze(FrameMetric):
    """Measure the shares of frames that are frozen, and that are copies of the one before.

    A frame is frozen where it differs by `noise` or less from the last one that was not: the mean
    absolute difference of Y, U and V as stored, over 256. Slow movement adds up and is none. FFmpeg
    reports a freeze from two seconds on; here each frame counts.
    """

    version = 1
    values = (
        Value(
            "frozen_share",
            "share of frames that stand still",
            "0..1",
            (0, 1),
            "lower",
            "FFmpeg's freezedetect: difference to the last moving frame <= 0.001",
        ),
        Value(
            "duplicate_share",
            "share of frames equal to the one before",
            "0..1",
            (0, 1),
            "lower",
            "Y, U and V equal, at 8 bits",
        ),
    )

    noise: float = 0.001

    def __post_init__(self) -> None:
        positive("noise", self.noise)

    def per_frame(self, frame: Frame) -> Mapping[str, float]:
        """Compare with the last moving frame and with the one before; NaN at the first frame."""
        if frame.previous is None:
            self._moving = frame
            return {"frozen_share": nan, "duplicate_share": nan}
        frozen = _difference(frame, self._moving) <= self.noise
        duplicate = frozen and _difference(frame, frame.previous) == 0
        if not frozen:
            self._moving = frame
        return {"frozen_share": frozen, "duplicate_share": duplicate}


def _difference(frame: Frame, other: Frame) -> float:
    pairs = list(zip(frame.planes, other.planes, strict=True))
    total: float = sum(cv2.norm(plane, before, cv2.NORM_L1) for plane, before in pairs)
    return total / sum(plane.size for plane, _ in pairs) / 256
