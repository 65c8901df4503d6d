"""The file as delivered, and against what was requested."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, nan
from typing import TYPE_CHECKING

from kling_sweeps.metric import FrameMetric, Requested, Value

if TYPE_CHECKING:
    from kling_sweeps.video.decode import Video
    from kling_sweeps.video.frame import Frame

DECODED = "counted while decoding"
# Each is an attribute of the same name of the video's facts.
FACTS = (
    Value("width", "width as displayed", "px", (1, inf), "neither", DECODED),
    Value("height", "height as displayed", "px", (1, inf), "neither", DECODED),
    Value("fps", "frames a second", "1/s", (0, inf), "neither", "time stamps"),
    Value("frames", "frames that could be decoded", "1", (1, inf), "neither", DECODED),
    Value("duration_s", "until the last frame's end", "s", (0, inf), "neither", "time stamps"),
    Value("bitrate_mbps", "size over duration", "Mbit/s", (0, inf), "neither", "file size", "log"),
)


@dataclass
class File(FrameMetric):
    """Describe the file by what the decoder and its time stamps gave, not by its header."""

    version = 2
    values = (
        *FACTS,
        Value(
            "aspect_error",
            "distance from the requested aspect ratio",
            "1",
            (0, inf),
            "lower",
            "abs(width / height / requested - 1)",
        ),
        Value(
            "duration_error_s",
            "how much longer than requested; 0 is best",
            "s",
            (-inf, inf),
            "neither",
            "delivered - requested",
        ),
    )

    def start(self, video: Video, requested: Requested) -> None:
        """Remember the video, whose facts are known after its last frame."""
        self._video, self._requested = video, requested

    def per_frame(self, frame: Frame) -> Mapping[str, float]:
        """Measure nothing: the decoder counts by itself."""
        return {}

    def compute(self) -> dict[str, float]:
        """Give the facts, and the two errors, NaN where nothing was requested."""
        facts = self._video.facts
        aspect_ratio = self._requested.aspect_ratio or nan
        duration_s = self._requested.duration_s or nan
        return {
            **{value.name: float(getattr(facts, value.name)) for value in FACTS},
            "aspect_error": abs(facts.aspect_ratio / aspect_ratio - 1),
            "duration_error_s": facts.duration_s - duration_s,
        }
