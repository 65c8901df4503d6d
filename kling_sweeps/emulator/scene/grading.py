"""What cfg_scale and the negative prompt do to a picture before it is moved."""

from __future__ import annotations

import cv2
import numpy as np

from .look import Look

PIVOT = 0.42
LUMA = np.asarray([0.2126, 0.7152, 0.0722], np.float32)


def grade(colours: np.ndarray, look: Look) -> np.ndarray:
    """Return a picture with a look's exposure, contrast (around a mid grey) and saturation."""
    graded = (colours * look.exposure - PIVOT) * look.contrast + PIVOT
    grey = cv2.transform(graded, LUMA[None, :])[..., None]
    return np.clip(grey + (graded - grey) * look.saturation, 0, 1)


def focus(picture: np.ndarray, look: Look, lines: float) -> np.ndarray:
    """Return a picture blurred and then sharpened as a look wants it at `lines` of height."""
    scale = lines / 720
    soft = cv2.GaussianBlur(picture, (0, 0), max(0.05, look.blur * scale))
    softer = cv2.GaussianBlur(soft, (0, 0), 1.2 * scale)
    return soft + (soft - softer) * look.sharpening
