"""What a video was asked to be, as metrics are told it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Requested:
    """What the video was asked to be: width over height, and seconds, None where nothing was asked, and the prompt."""

    aspect_ratio: float | None = None
    duration_s: float | None = None
    prompt: str = ""
