"""What lies over every frame: grain, and the word that says what made it."""

from __future__ import annotations

import cv2
import numpy as np

from .canvas import Layer

MARK = "emulated"
FONT = cv2.FONT_HERSHEY_SIMPLEX


def grains(rng: np.random.Generator, size: tuple[int, int], sigma: float) -> list[np.ndarray]:
    """Return frames of Gaussian noise around 128, each another part of one larger field."""
    width, height = size
    field = rng.standard_normal((height + 64, width + 64), dtype=np.float32) * sigma
    whole = np.rint(field + 128).astype(np.uint8)
    return [whole[y : y + height, x : x + width] for y, x in rng.integers(0, 64, (7, 2))]


def mark(size: tuple[int, int]) -> Layer:
    """Return the word "emulated", white on a shadow, its height a 45th of the shorter side."""
    scale = min(size) / 720 * 0.62
    (width, height), _ = cv2.getTextSize(MARK, FONT, scale, 1)
    pad = max(4, height)
    letters, shadow = np.zeros((2, (height + 2 * pad) // 2 * 2, (width + 2 * pad) // 2 * 2), np.uint8)
    cv2.putText(letters, MARK, (pad, pad + height), FONT, scale, 255, 1, cv2.LINE_AA)
    cv2.putText(shadow, MARK, (pad, pad + height), FONT, scale, 255, 3, cv2.LINE_AA)
    share = letters.astype(np.float32) / 255
    alpha = np.maximum(share * 0.9, shadow.astype(np.float32) / 255 * 0.45)
    return Layer.of(np.repeat(share[..., None], 3, axis=2), alpha)
