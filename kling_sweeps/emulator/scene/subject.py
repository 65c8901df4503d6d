"""Subjects: small pictures with an alpha, drawn three times too large and scaled down."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .texture import Colour, fractal, mix, radial, shaded

SIDE = 288


@dataclass(frozen=True)
class Sprite:
    """Colours (SIDE, SIDE, 3) and alpha (SIDE, SIDE), both in 0..1, and how it behaves.

    `size` is its height as a share of the frame's shorter side, `rest` where its centre is (share
    of the frame's height), `swing` and `bob` how far it goes sideways and up (shares of the shorter
    side), `turn` the angle it swings by in degrees, `shadow` whether it throws one on the ground.
    """

    colours: np.ndarray
    alpha: np.ndarray
    size: float
    rest: float
    swing: float
    bob: float
    turn: float
    shadow: bool


def orb(accent: Colour, rng: np.random.Generator) -> Sprite:
    """Return a glowing glass ball that rolls to and fro."""
    distance = radial(SIDE, SIDE, (SIDE / 2, SIDE / 2), SIDE * 0.44)
    veins = fractal(rng, SIDE, SIDE, 5, 4)
    colours = np.asarray(accent, np.float32) * (0.55 + 0.75 * veins)[..., None]
    colours = mix(colours, (1.0, 0.97, 0.88), _highlight(-0.16, -0.18, 0.30) * 0.9)
    colours *= (1 - 0.55 * np.clip(distance, 0, 1) ** 3)[..., None]
    return Sprite(colours, _disc(distance), 0.26, 0.72, 0.55, 0.05, 70, True)


def vase(accent: Colour, rng: np.random.Generator) -> Sprite:
    """Return a clay vessel on a wheel, its rings trembling as it turns."""
    ys = np.linspace(0, 1, SIDE, dtype=np.float32)
    heights, radii = (
        (0.06, 0.14, 0.24, 0.45, 0.62, 0.80, 0.94),
        (0.17, 0.13, 0.15, 0.31, 0.33, 0.24, 0.17),
    )
    half = np.interp(ys, heights, radii).astype(np.float32)
    half = cv2.GaussianBlur(half[None, :], (0, 0), 11)[0]
    xs = (np.arange(SIDE, dtype=np.float32)[None, :] / SIDE - 0.5) / half[:, None]
    inside = np.clip((1 - np.abs(xs)) * half[:, None] * SIDE, 0, 1)
    inside *= ((ys > 0.06) & (ys < 0.95))[:, None]
    rings = 0.5 + 0.5 * np.sin(ys * 150 + rng.uniform(0, 6))
    rounding = np.sqrt(np.clip(1 - (xs + 0.25) ** 2 / 1.6, 0.02, 1))
    shade = rounding * (0.78 + 0.14 * rings[:, None]) + 0.25 * (fractal(rng, SIDE, SIDE, 8, 4) - 0.5)
    colours = mix(
        np.asarray(accent, np.float32) * shade[..., None],
        (1.0, 0.95, 0.88),
        np.exp(-(((xs + 0.42) / 0.10) ** 2)) * 0.4,
    )
    return Sprite(colours.astype(np.float32), inside.astype(np.float32), 0.46, 0.60, 0.05, 0.01, 3, True)


def boat(accent: Colour, rng: np.random.Generator) -> Sprite:
    """Return a sailing boat that heels with the waves."""
    del rng
    picture = _Drawing()
    picture.shape([(0.10, 0.76), (0.92, 0.76), (0.80, 0.90), (0.22, 0.90)], (0.36, 0.17, 0.11))
    picture.shape([(0.10, 0.76), (0.92, 0.76), (0.90, 0.79), (0.12, 0.79)], (0.85, 0.80, 0.72))
    picture.shape([(0.495, 0.06), (0.515, 0.06), (0.515, 0.76), (0.495, 0.76)], (0.30, 0.20, 0.14))
    picture.shape([(0.51, 0.08), (0.88, 0.68), (0.51, 0.70)], accent)
    picture.shape([(0.50, 0.14), (0.50, 0.70), (0.18, 0.68)], shaded(accent, 0.82))
    return picture.sprite(0.34, 0.66, 0.50, 0.02, 6, True)


def bird(accent: Colour, rng: np.random.Generator) -> Sprite:
    """Return a soaring bird."""
    del rng
    dark = shaded(accent, 0.28, 0.10)
    picture = _Drawing()
    picture.shape([(0.50, 0.52), (0.28, 0.34), (0.02, 0.40), (0.24, 0.44), (0.44, 0.60)], dark)
    picture.shape([(0.50, 0.52), (0.72, 0.34), (0.98, 0.40), (0.76, 0.44), (0.56, 0.60)], dark)
    picture.shape([(0.42, 0.50), (0.58, 0.50), (0.62, 0.60), (0.50, 0.72), (0.38, 0.60)], dark)
    picture.shape([(0.47, 0.40), (0.53, 0.40), (0.55, 0.52), (0.45, 0.52)], shaded(dark, 1.5))
    return picture.sprite(0.26, 0.34, 0.80, 0.10, 10, False)


def balloon(accent: Colour, rng: np.random.Generator) -> Sprite:
    """Return a striped hot-air balloon."""
    distance = radial(SIDE, SIDE, (SIDE / 2, SIDE * 0.38), SIDE * 0.35)
    angle = np.arcsin(np.clip((np.arange(SIDE) - SIDE / 2) / (SIDE * 0.35), -1, 1))
    stripes = (np.sin(angle * 7 + rng.uniform(0, 6)) > 0).astype(np.float32)
    base = np.broadcast_to(np.asarray(accent, np.float32), (SIDE, SIDE, 3))
    colours = mix(base, (0.98, 0.90, 0.72), np.ascontiguousarray(np.broadcast_to(stripes, (SIDE, SIDE))))
    colours = mix(
        colours * (1.06 - 0.5 * np.clip(distance, 0, 1) ** 2)[..., None],
        (1, 1, 0.95),
        _highlight(-0.12, -0.26, 0.2) * 0.4,
    )
    picture = _Drawing(np.ascontiguousarray(colours, np.float32), _disc(distance))
    picture.shape(
        [(0.24, 0.60), (0.76, 0.60), (0.56, 0.80), (0.44, 0.80)],
        shaded(accent, 0.62),
    )
    picture.shape([(0.45, 0.84), (0.55, 0.84), (0.54, 0.94), (0.46, 0.94)], (0.38, 0.24, 0.14))
    for x in (0.455, 0.54):
        picture.shape([(x, 0.79), (x + 0.006, 0.79), (x + 0.006, 0.85), (x, 0.85)], (0.25, 0.2, 0.15))
    return picture.sprite(0.34, 0.36, 0.30, 0.06, 4, False)


SUBJECTS = {"orb": orb, "vase": vase, "boat": boat, "bird": bird, "balloon": balloon}


class _Drawing:
    """Polygons in shares of the side, with smooth edges."""

    def __init__(self, colours: np.ndarray | None = None, alpha: np.ndarray | None = None) -> None:
        self.colours = np.zeros((SIDE, SIDE, 3), np.float32) if colours is None else colours
        self.alpha = np.zeros((SIDE, SIDE), np.float32) if alpha is None else alpha

    def shape(self, corners: list[tuple[float, float]], colour: Colour) -> None:
        mask = np.zeros((SIDE, SIDE), np.uint8)
        cv2.fillPoly(
            mask, [(np.asarray(corners, np.float32) * SIDE * 16).astype(np.int32)], 255, cv2.LINE_AA, 4
        )
        share = mask.astype(np.float32) / 255
        self.colours = mix(self.colours, colour, np.where(self.alpha > 0, share, np.ceil(share)))
        self.alpha = np.maximum(self.alpha, share)

    def sprite(self, size: float, rest: float, swing: float, bob: float, turn: float, shadow: bool) -> Sprite:
        lit_side = np.linspace(1.12, 0.82, SIDE, dtype=np.float32)[None, :, None]
        return Sprite(self.colours * lit_side, self.alpha, size, rest, swing, bob, turn, shadow)


def _disc(distance: np.ndarray) -> np.ndarray:
    return np.clip((1 - distance) * SIDE * 0.4, 0, 1)


def _highlight(x: float, y: float, radius: float) -> np.ndarray:
    distance = radial(SIDE, SIDE, (SIDE * (0.5 + x), SIDE * (0.5 + y)), SIDE * radius)
    glow: np.ndarray = np.exp(-(distance**2) * 3)
    return glow
