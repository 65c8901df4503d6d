"""What stands on the horizon: houses and firs."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .texture import Colour


@dataclass(frozen=True)
class Stand:
    """The plate to fill: sizes in pixels, its colours, and whether it is night."""

    width: int
    height: int
    frame_height: int
    colour: Colour
    accent: Colour
    night: bool


def houses(stand: Stand, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return two rows of towers, with windows that are lit at night."""
    colours = np.zeros((stand.height, stand.width, 3), np.float32)
    alpha = np.zeros((stand.height, stand.width), np.float32)
    for row, shade in enumerate((0.75, 1.0)):
        left = 0
        while left < stand.width:
            width = int(stand.frame_height * rng.uniform(0.07, 0.15))
            height = int(stand.height * rng.uniform(0.35, 0.97 - 0.25 * row))
            box = (
                slice(stand.height - height, stand.height),
                slice(left, min(stand.width, left + width)),
            )
            colours[box] = _facade(stand, rng, shade, colours[box].shape[:2])
            alpha[box] = 1
            left += int(width * rng.uniform(0.75, 1.15))
    return colours, alpha


def _facade(stand: Stand, rng: np.random.Generator, shade: float, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    wall = np.asarray(stand.colour, np.float32) * shade * rng.uniform(0.7, 1.2)
    facade = np.broadcast_to(wall, (height, width, 3)) * np.linspace(1.15, 0.85, max(width, 1))[None, :, None]
    cell = max(4, round(stand.frame_height / 60))
    rows, columns = height // cell + 1, width // cell + 1
    is_lit = rng.random((rows, columns)) < (0.38 if stand.night else 0.12)
    glow = np.asarray([(1.0, 0.84, 0.52), (0.55, 0.86, 1.0), stand.accent], np.float32)[rng.integers(0, 3)]
    glass = np.where(is_lit[..., None], glow * rng.uniform(0.55, 1, (rows, columns, 1)), wall * 0.6)
    windows = np.kron(glass, np.ones((cell, cell, 1)))[:height, :width]
    ys, xs = np.arange(height) % cell, np.arange(width) % cell
    frame = (ys[:, None] >= cell * 0.3) & (xs[None, :] >= cell * 0.3)
    return np.where(frame[..., None], windows, facade).astype(np.float32)


def firs(stand: Stand, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return three rows of firs, the nearest the darkest."""
    colours = np.zeros((stand.height, stand.width, 3), np.float32)
    alpha = np.zeros((stand.height, stand.width), np.float32)
    for row, shade in enumerate((1.5, 1.05, 0.65)):
        mask = np.zeros((stand.height, stand.width), np.uint8)
        for _ in range(int(stand.width / stand.frame_height * 18)):
            height = stand.height * rng.uniform(0.45, 0.9) * (1 - 0.16 * row)
            _fir(mask, rng.uniform(0, stand.width), height, rng)
        share = mask.astype(np.float32) / 255
        tone = (
            np.asarray(stand.colour, np.float32)
            * shade
            * (0.75 + 0.5 * rng.random((1, stand.width, 1), dtype=np.float32))
        )
        colours += (cv2.GaussianBlur(tone, (0, 0), 3).reshape(1, -1, 3) - colours) * share[..., None]
        alpha = np.maximum(alpha, share)
    return colours, alpha


def _fir(mask: np.ndarray, x: float, height: float, rng: np.random.Generator) -> None:
    foot, tiers = mask.shape[0], 6
    for tier in range(tiers):
        top = foot - height * (1 - tier / tiers * 0.85)
        bottom = foot - height * (0.80 - tier / tiers * 0.85)
        half = height * 0.20 * (0.25 + tier / tiers) * rng.uniform(0.85, 1.15)
        corners = np.array(
            [
                (x, top),
                (x + half, bottom),
                (x + half * 0.2, bottom - half * 0.2),
                (x - half, bottom),
            ]
        )
        cv2.fillPoly(mask, [(corners * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    cv2.rectangle(
        mask,
        (int(x - height / 60), int(foot - height * 0.1)),
        (int(x + height / 60), foot),
        255,
        -1,
    )


STANDING = {"city": houses, "forest": firs}
