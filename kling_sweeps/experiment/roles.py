"""What arguments mean, whatever an endpoint calls them: seconds, shapes, and switches that rewrite the prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from kling_sweeps.metrics import comparable

# What an argument of a model's file may be, by its `role`.
PROMPT, SECONDS, SHAPE, SEED, IMAGE, REWRITES_PROMPT = (
    *("prompt", "seconds", "shape", "seed", "image"),
    "rewrites_prompt",
)
ROLES = (PROMPT, SECONDS, SHAPE, SEED, IMAGE, REWRITES_PROMPT)
# At most one argument of a model has one of these.
SINGLE = (PROMPT, SECONDS, SHAPE, SEED)
# fal's names for sizes, with width over height.
PRESETS = {
    "square_hd": 1.0,
    "square": 1.0,
    "portrait_4_3": 3 / 4,
    "portrait_16_9": 9 / 16,
    "landscape_4_3": 4 / 3,
    "landscape_16_9": 16 / 9,
}
SIZE = re.compile(r"(\d+)\s*[x×*]\s*(\d+)")
# What switches off what rewrites a prompt.
OFF = (False, None, "false", "off", "disabled", "none", "no")


def seconds_of(value: Any) -> float | None:
    """Return the seconds that a value asks for ("5", "8s", 6), None where it asks for none ("auto")."""
    return comparable(None, value).duration_s


def ratio_of(value: Any) -> float | None:
    """Return width over height of a value: "16:9", "768x512", a preset, a mapping of width and height; None of "auto"."""
    if isinstance(value, Mapping):
        value = f"{value.get('width')}:{value.get('height')}"
    if isinstance(value, str) and value in PRESETS:
        return PRESETS[value]
    return comparable(SIZE.sub(r"\1:\2", str(value)), None).aspect_ratio


def is_on(value: Any) -> bool:
    """Tell whether a switch is on; one that has several ways to be on is on in each of them."""
    return value not in OFF
