"""What a request looks like: the words of its prompt, its cfg_scale and the luck of its draw."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

DEFAULT_CFG_SCALE = 0.5
DEFAULT_NEGATIVE_PROMPT = "blur, distort, and low quality"

# In each table the first entry that has a word in the prompt wins; the last one is the default.
LIGHTS = {
    "night": ("night", "neon", "moon", "midnight", "stars", "candle"),
    "golden": ("golden", "sunset", "sunrise", "dusk", "warm", "amber", "lantern"),
    "dawn": ("dawn", "morning", "pink", "pastel", "blossom"),
    "overcast": (
        "overcast",
        "fog",
        "foggy",
        "mist",
        "misty",
        "grey",
        "gray",
        "rain",
        "rainy",
        "storm",
    ),
    "day": (),
}
PLACES = {
    "city": (
        "city",
        "street",
        "tokyo",
        "neon",
        "skyline",
        "building",
        "taxi",
        "car",
        "alley",
        "town",
    ),
    "sea": (
        "sea",
        "ocean",
        "wave",
        "waves",
        "lake",
        "boat",
        "sailboat",
        "ship",
        "beach",
        "water",
        "whale",
    ),
    "desert": ("desert", "dune", "dunes", "sand", "mars", "canyon", "camel"),
    "forest": ("forest", "tree", "trees", "wood", "woods", "jungle", "fox", "deer", "owl"),
    "room": (
        "potter",
        "pottery",
        "kitchen",
        "studio",
        "workshop",
        "table",
        "room",
        "desk",
        "candle",
    ),
    "mountains": (),
}
SUBJECTS = {
    "vase": ("potter", "pottery", "clay", "vase", "cup", "bowl", "bottle", "coffee", "teapot"),
    "boat": ("boat", "sailboat", "ship", "sail", "yacht", "sea", "ocean"),
    "bird": ("bird", "birds", "eagle", "owl", "gull", "heron", "crane", "hummingbird", "flying"),
    "balloon": ("balloon", "mountain", "mountains", "valley", "aerial", "drone"),
    "orb": (),
}
CAMERAS = {
    "static": ("static", "locked", "tripod", "still", "fixed"),
    "handheld": ("handheld", "shaky", "hand-held"),
    "orbit": ("orbit", "orbits", "orbiting", "arc", "circling"),
    "push": ("push", "pushes", "dolly", "zoom", "approach", "approaches"),
    "pull": ("pull", "pulls", "retreat", "reveal"),
    "crane": ("crane", "tilt", "aerial", "drone", "rising"),
    "pan": ("pan", "pans", "panning", "tracking", "track", "tracks", "truck"),
    "drift": (),
}
SPEEDS = {
    "slow": ("slow", "slowly", "slow-motion", "gentle", "gently", "calm", "drifting", "still"),
    "fast": (
        "fast",
        "quick",
        "running",
        "runs",
        "racing",
        "rushing",
        "sprinting",
        "speeding",
        "galloping",
    ),
    "steady": (),
}
SPEED_FACTORS = {"slow": 0.5, "steady": 1.0, "fast": 2.0}


@dataclass(frozen=True)
class Look:
    """Everything about a video that its arguments and its request id decide.

    `contrast`, `saturation`, `exposure`, `camera_speed` and `subject_speed` are factors around 1,
    `blur` and `grain` standard deviations in pixels of a 720-line frame and in steps of 8-bit
    luma, `sharpening` the amount of an unsharp mask, `wobble` a length in pixels of 720 lines.
    """

    light: str
    place: str
    subject: str
    camera: str
    contrast: float
    saturation: float
    exposure: float
    blur: float
    sharpening: float
    grain: float
    wobble: float
    camera_speed: float
    subject_speed: float


def read_look(arguments: Mapping[str, Any], rng: np.random.Generator) -> Look:
    """Return the look of a request, drawing its sample-to-sample differences from `rng`."""
    words = _words(arguments["prompt"])
    cfg = float(arguments.get("cfg_scale", DEFAULT_CFG_SCALE))
    avoided = _words(arguments.get("negative_prompt", DEFAULT_NEGATIVE_PROMPT))
    motion = (1.35 - 0.7 * cfg) * _luck(rng, 0.10)
    speed = SPEED_FACTORS[_choose(SPEEDS, words)]
    return Look(
        light=_choose(LIGHTS, words),
        place=_choose(PLACES, words),
        subject=_choose(SUBJECTS, words),
        camera=_choose(CAMERAS, words),
        contrast=(0.78 + 0.44 * cfg) * _luck(rng, 0.05),
        saturation=(0.65 + 0.7 * cfg) * _luck(rng, 0.08),
        exposure=_luck(rng, 0.02),
        blur=(1.5 - 1.2 * cfg) * (0.5 if avoided & BLUR_WORDS else 1.0) * _luck(rng, 0.10),
        sharpening=(0.1 + 0.6 * cfg) * (1.5 if avoided & BLUR_WORDS else 1.0),
        grain=(1.0 if avoided & NOISE_WORDS else 2.4) * _luck(rng, 0.05),
        wobble=(0.0 if avoided & WOBBLE_WORDS else 2.0) * _luck(rng, 0.05),
        camera_speed=motion,
        subject_speed=speed * motion * _luck(rng, 0.05),
    )


BLUR_WORDS = {"blur", "blurry", "blurred", "soft", "unfocused"}
NOISE_WORDS = {"noise", "noisy", "grain", "grainy", "quality", "artifacts", "compression"}
WOBBLE_WORDS = {"distort", "distorted", "distortion", "wobble", "warping", "shaky", "jitter"}


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+(?:-[a-z]+)*", text.lower()))


def _choose(table: Mapping[str, tuple[str, ...]], words: set[str]) -> str:
    matching = (name for name, its_words in table.items() if words.intersection(its_words))
    return next(matching, list(table)[-1])


def _luck(rng: np.random.Generator, spread: float) -> float:
    """Draw a factor around 1; more than two standard deviations away is not drawn."""
    return 1.0 + spread * float(np.clip(rng.standard_normal(), -2, 2))
