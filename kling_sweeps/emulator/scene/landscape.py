"""Places as plates: pictures at a depth, which a camera moves past each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from . import texture
from .palette import PLACES, Light, lit
from .skyline import STANDING, Stand

HORIZON = 0.56


@dataclass(frozen=True)
class Plate:
    """A picture at a depth (0 is infinitely far, 1 passes at the camera's own speed).

    `colours` is (h, w, 3) in 0..1, `alpha` (h, w) in 0..1 or None where it is opaque, `top` the
    row of the frame at which it begins, `drift` its own speed in pixels a second. What is `soft`
    comes at half its size, and is enlarged.
    """

    colours: np.ndarray
    alpha: np.ndarray | None
    depth: float
    top: float
    drift: float = 0.0
    soft: bool = False


@dataclass(frozen=True)
class Stage:
    """The frame a scene is built for; `travel` is how far the camera goes sideways, in pixels."""

    width: int
    height: int
    travel: float
    place: str
    light: Light
    rng: np.random.Generator

    def breadth(self, depth: float, drift: float = 0.0) -> int:
        """Return how wide a plate at `depth` has to be for its edges never to be seen."""
        return int(self.width + self.travel * depth + abs(drift) + 16) // 4 * 4

    def hazed(self, colours: np.ndarray, share: float) -> np.ndarray:
        """Return colours seen through the haze at the horizon."""
        return texture.mix(colours, self.light.horizon, share * self.light.haze)


def plates(stage: Stage, duration_s: float) -> Iterator[Plate]:
    """Yield the plates of a place from the farthest to the nearest."""
    if stage.place == "room":
        yield from _room(stage)
        return
    yield _sky(stage)
    yield _clouds(stage, duration_s)
    yield _ridge(stage, 0.18, HORIZON - 0.13, 0.20, 0.85)
    yield _standing(stage, 0.34, HORIZON - 0.02, 0.62)
    yield _ground(stage)


def _sky(stage: Stage) -> Plate:
    light, depth = stage.light, 0.05
    lines = stage.height / 2
    width, height = stage.breadth(depth) // 2, int(lines * (HORIZON + 0.18))
    colours = texture.vertical_gradient(height, width, light.zenith, light.horizon, 0.8)
    centre = (width * stage.rng.uniform(0.30, 0.70), lines * light.sun_height)
    distance = texture.radial(height, width, centre, lines * light.sun_size)
    if light.is_dark:
        colours += _stars(stage, height, width)
    colours = texture.mix(colours, light.sun, 0.55 / (1 + (distance / 4.5) ** 2))
    colours = texture.mix(colours, light.sun, np.clip((1.02 - distance) * 12, 0, 1))
    return Plate(colours, None, depth, 0, soft=True)


def _stars(stage: Stage, height: int, width: int) -> np.ndarray:
    field = np.zeros((height, width), np.float32)
    count = 260
    rows = (stage.rng.random(count) ** 1.3 * height * 0.85).astype(int)
    columns = stage.rng.integers(0, width, count)
    field[rows, columns] = stage.rng.uniform(0.4, 2.2, count)
    return cv2.GaussianBlur(field, (0, 0), stage.height / 1400)[..., None]


def _clouds(stage: Stage, duration_s: float) -> Plate:
    light, depth = stage.light, 0.10
    drift = 0.010 * stage.width * stage.rng.choice([-1, 1])
    height, width = int(stage.height * HORIZON / 2), stage.breadth(depth, drift * duration_s) // 2
    noise = texture.fractal(stage.rng, height, width // 2, 3.2, 6)
    noise = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    level = float(np.quantile(noise[::4, ::4], 1 - light.clouds))
    alpha = np.clip((noise - level) * 4.5, 0, 1) * np.linspace(1, 0.15, height, dtype=np.float32)[:, None]
    shade = np.clip(0.62 + texture.slope(noise, max(1, stage.height // 80), 0) * 4.0, 0, 1)
    base = np.broadcast_to(np.asarray(light.cloud_shade, np.float32), (height, width, 3))
    colours = texture.mix(base, light.cloud_light, shade)
    return Plate(colours, alpha * 0.85, depth, 0, drift, soft=True)


def _ridge(stage: Stage, depth: float, top: float, relief: float, haze: float) -> Plate:
    """Return a range of hills or, far off, of mountains."""
    far, near, _ = PLACES[stage.place]
    width, height = stage.breadth(depth), int(stage.height * (HORIZON + 0.14 - top + relief / 2))
    peaks = texture.profile(stage.rng, width, 3.2 * width / stage.width, 8) * relief * stage.height
    mask = texture.below(peaks + relief * stage.height / 2, height)
    rock = texture.fractal(stage.rng, height, width, 5, 6)
    slope = np.clip(0.5 + texture.slope(rock, 0, 5) * 5.0, 0, 1)
    base = texture.vertical_gradient(
        height, width, lit(far, stage.light, stage.rng), lit(near, stage.light, stage.rng)
    )
    colours = stage.hazed(base * (0.45 + 0.95 * slope[..., None]), haze)
    return Plate(colours, mask, depth, (top - relief / 2) * stage.height)


def _standing(stage: Stage, depth: float, foot: float, haze: float) -> Plate:
    """Return what stands in the middle distance: houses, firs, or hills where nothing does."""
    if stage.place not in STANDING:
        return _ridge(stage, depth, foot - 0.06, 0.13, haze)
    _, near, accent = PLACES[stage.place]
    width, height = stage.breadth(depth), int(stage.height * 0.46)
    stand = Stand(width, height, stage.height, lit(near, stage.light, stage.rng), accent, stage.light.is_dark)
    colours, alpha = STANDING[stage.place](stand, stage.rng)
    fade = np.linspace(0.45, 1.0, height, dtype=np.float32) * haze * stage.light.haze
    glowing = colours.max(axis=2) > 0.75
    hazed = texture.mix(colours, stage.light.horizon, fade[:, None] * (1 - 0.7 * glowing))
    return Plate(hazed, alpha, depth, stage.height * (foot + 0.08) - height)


def _ground(stage: Stage) -> Plate:
    near, depth = lit(PLACES[stage.place][1], stage.light, stage.rng), 0.8
    width, height = stage.breadth(depth), int(stage.height * (1 - HORIZON + 0.10))
    colours = GROUNDS.get(stage.place, _earth)(stage, near, height, width)
    mist = np.linspace(1, 0, height, dtype=np.float32)[:, None] ** 2.2 * 0.75 * stage.light.haze
    colours = texture.mix(
        colours, stage.light.horizon, np.ascontiguousarray(np.broadcast_to(mist, (height, width)))
    )
    if stage.place in ("sea", "city"):
        return Plate(colours, None, depth, HORIZON * stage.height)
    edge = texture.profile(stage.rng, width, 2.5, 5) * 0.05 * stage.height + 0.03 * stage.height
    return Plate(colours, texture.below(edge, height, 1.5), depth, (HORIZON - 0.02) * stage.height)


def _earth(stage: Stage, near: texture.Colour, height: int, width: int) -> np.ndarray:
    """Return grass, sand or a forest floor: coarse patches, and a grain that recedes."""
    tile = texture.fractal(stage.rng, 768, 768, 24, 6)
    grain = texture.receding(tile, height, width)
    patches = texture.fractal(stage.rng, height, width, 2.0, 4)
    shade = 0.35 + 0.85 * patches + (grain - 0.5) * 1.5
    return np.asarray(near, np.float32) * np.clip(shade, 0.15, 1.7)[..., None]


def _water(stage: Stage, near: texture.Colour, height: int, width: int) -> np.ndarray:
    """Return waves that mirror the sky and glitter below the sun."""
    tile = cv2.resize(texture.fractal(stage.rng, 768, 192, 32, 5), (768, 768), interpolation=cv2.INTER_CUBIC)
    waves = texture.receding(tile, height, width, 0.10)
    crest = np.clip((waves - 0.5) * 3.4 + 0.42, 0, 1)
    base = texture.vertical_gradient(height, width, near, texture.shaded(near, 0.45))
    mirrored = texture.mix(base, stage.light.horizon, crest * 0.45)
    column = np.exp(-(((np.arange(width) - width / 2) / (0.20 * stage.width)) ** 2)).astype(np.float32)
    return texture.mix(mirrored, stage.light.sun, np.clip((waves - 0.57) * 9, 0, 1) * column[None, :] * 0.8)


def _street(stage: Stage, near: texture.Colour, height: int, width: int) -> np.ndarray:
    """Return wet asphalt with streaks of the lights above it."""
    ground = _earth(stage, near, height, width) * 0.8
    hues = stage.rng.random((1, 46, 3), dtype=np.float32) ** 2
    streaks = cv2.resize(hues, (width, 1), interpolation=cv2.INTER_CUBIC)
    ripple = texture.fractal(stage.rng, height, width, 30, 3)
    strength = np.linspace(0.75, 0.12, height, dtype=np.float32)[:, None] * np.clip(ripple * 2 - 0.45, 0, 1)
    return ground + streaks * strength[..., None] * (0.75 if stage.light.is_dark else 0.12)


def _room(stage: Stage) -> Iterator[Plate]:
    """Yield a plastered wall with the light of a window on it, and a wooden table."""
    wall, wood, _ = (lit(colour, stage.light, stage.rng) for colour in PLACES["room"])
    width, height = stage.breadth(0.35) // 2, int(stage.height * 0.37)
    plaster = texture.fractal(stage.rng, height, width, 4, 7)
    colours = np.asarray(wall, np.float32) * (0.35 + 0.75 * plaster[..., None])
    colours = texture.mix(colours, stage.light.sun, _window(height, width, stage) * 0.5)
    yield Plate(colours, None, 0.35, 0, soft=True)
    width, height = stage.breadth(0.8), int(stage.height * 0.40)
    rings = texture.fractal(stage.rng, height, width // 16, 22, 4)
    grain = cv2.resize(rings, (width, height), interpolation=cv2.INTER_CUBIC)
    fine = texture.fractal(stage.rng, height, width, 60, 3)
    table = np.asarray(wood, np.float32) * (0.25 + 1.1 * grain + 0.35 * (fine - 0.5))[..., None]
    shine = np.linspace(0.32, 0, height, dtype=np.float32)[:, None]
    table = texture.mix(table, stage.light.sun, np.ascontiguousarray(np.broadcast_to(shine, (height, width))))
    yield Plate(table, None, 0.8, 0.68 * stage.height)


def _window(height: int, width: int, stage: Stage) -> np.ndarray:
    """Return four slanted panes of light, their edges soft."""
    panes = np.zeros((height, width), np.float32)
    side, left = 0.27 * height, width * stage.rng.uniform(0.18, 0.45)
    for row in range(2):
        for column in range(2):
            x, y = left + column * side * 1.12 + row * side * 0.3, height * (0.14 + row * 0.34)
            corners = [
                (x, y),
                (x + side, y + 6),
                (x + side * 1.25, y + side * 1.1),
                (x + side * 0.25, y + side),
            ]
            cv2.fillPoly(panes, [np.asarray(corners, np.int32)], 1.0, cv2.LINE_AA)
    return cv2.GaussianBlur(panes, (0, 0), height / 70)


GROUNDS = {"sea": _water, "city": _street}
