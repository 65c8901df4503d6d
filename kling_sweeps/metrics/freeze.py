"""Pictures that stand still."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import nan
from typing import TYPE_CHECKING

import numpy as np

from kling_sweeps.metric import FrameMetric, Value, positive
from kling_sweeps.video import opencv as cv2

if TYPE_CHECKING:
    from kling_sweeps.video.frame import Frame

# For how long a picture must stand still, in seconds, and the longer side of the one whose contrast counts, in pixels.
FREEZE_S, LONG_SIDE = 0.5, 320


@dataclass
class Freeze(FrameMetric):
    """Measure the share of frames in which the picture has stopped for half a second or longer.

    A frame is still where it differs from the last one that was not by `noise` times the standard deviation of that one's Y (resized to 320
    pixels), or less: the mean absolute difference of Y, U and V as stored. Beside the contrast of the picture, a dark scene that moves is
    not still, and slow movement adds up to more within the half second. Frames that are shown twice are too short to count.
    """

    version = 3
    values = (
        Value(
            "frozen_share",
            "share of frames in which the picture has stopped",
            "0..1",
            (0, 1),
            "lower",
            "FFmpeg's freezedetect: difference to the last moving frame <= 0.5 % of the std of Y, for 0.5 s",
        ),
    )

    noise: float = 0.005
    times: list[float] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        positive("noise", self.noise)

    def per_frame(self, frame: Frame) -> Mapping[str, float]:
        """Compare with the last moving frame; NaN at the first frame."""
        self.times.append(frame.time_s)
        if frame.previous is None:
            self._keep(frame)
            return {"still": nan}
        is_still = _difference(frame, self._moving) <= self._limit
        if not is_still:
            self._keep(frame)
        return {"still": is_still}

    def compute(self) -> dict[str, float]:
        """Count the frames of the stretches that are long enough; NaN for a single frame."""
        still, times = np.array(self.series.get("still", ())), np.array(self.times)
        steps = np.count_nonzero(~np.isnan(still))
        if not steps:
            return {"frozen_share": nan}
        edges = np.flatnonzero(np.diff(still == 1, prepend=False, append=False))
        begins, ends = edges[::2], edges[1::2]
        lasts = times[ends - 1] - times[begins - 1] >= FREEZE_S - 1e-6
        return {"frozen_share": int((ends - begins)[lasts].sum()) / steps}

    def _keep(self, frame: Frame) -> None:
        self._moving, self._limit = frame, self.noise * _deviation(frame)


def _difference(frame: Frame, other: Frame) -> float:
    pairs = list(zip(frame.planes, other.planes, strict=True))
    total: float = sum(cv2.norm(plane, before, cv2.NORM_L1) for plane, before in pairs)
    return total / sum(plane.size for plane, _ in pairs)


def _deviation(frame: Frame) -> float:
    thumbnail = frame.luma_scaled(LONG_SIDE / max(frame.width, frame.height))
    return float(cv2.meanStdDev(thumbnail)[1].item())
