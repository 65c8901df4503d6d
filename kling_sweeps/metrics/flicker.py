"""What flickers where nothing moves."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf, nan, pi, sqrt
from typing import TYPE_CHECKING

import numpy as np

from kling_sweeps.metric import SampledMetric, Value, ratio
from kling_sweeps.metrics.motion import FlowMetric, squared_lengths
from kling_sweeps.video import opencv as cv2

if TYPE_CHECKING:
    from kling_sweeps.video.frame import Frame

# In pixels of the thumbnail: what is no movement yet; and what share of the picture must stand still.
STILL, LEAST_STILL = 0.3, 0.05


@dataclass
class StaticFlicker(FlowMetric, SampledMetric):
    """Measure how far pixels that don't move flicker, in % of their brightness: boiling textures, crawling noise.

    It is the standard deviation of Y, resized to `long_side` pixels and averaged over 3 x 3 of those, around a course that is straight
    over three frames, where the flow is below 0.3 pixels. An even change of the light is none, and one that flickers is
    some. Noise counts as far as resizing leaves it: in small videos more than in large ones. NaN where less than 5 % of the picture
    stands still, as it is when the camera moves.
    """

    version = 1
    values = (
        Value(
            "static_flicker",
            "flicker where nothing moves",
            "%",
            (0, inf),
            "lower",
            "sqrt(pi/2) mean abs(second difference of Y, 3 x 3 averaged) / sqrt(6) / mean Y, where DIS flow < 0.3 px of 320",
            alike_in=(
                "size",
                "rate",
            ),
        ),
    )

    first_frame = 2
    recent: deque[np.ndarray] = field(default_factory=lambda: deque(maxlen=2), init=False, repr=False)

    def __post_init__(self) -> None:
        FlowMetric.__post_init__(self)
        SampledMetric.__post_init__(self)

    def update(self, frame: Frame) -> None:
        """Measure the next frame if it is one of those drawn, and keep it for the next two."""
        super().update(frame)
        self.recent.append(self.thumbnail(frame))

    def per_frame(self, frame: Frame) -> Mapping[str, float]:
        """Compare with the two frames before; NaN where too little stands still."""
        now = self.thumbnail(frame)
        if not self.has_flow(frame) or self.recent[0].shape != now.shape:
            return {"static_flicker": nan}
        still = (squared_lengths(self.flow(frame)) < STILL**2).astype(np.uint8)
        if cv2.countNonZero(still) < LEAST_STILL * still.size:
            return {"static_flicker": nan}
        first, middle, last = (each.astype(np.float32) for each in (*self.recent, now))
        bend = cv2.mean(np.abs(cv2.blur(first - 2 * middle + last, (3, 3))), still)[0]
        brightness = cv2.mean(middle, still)[0] - frame.black
        return {"static_flicker": 100 * sqrt(pi / 2 / 6) * ratio(bend, brightness)}
