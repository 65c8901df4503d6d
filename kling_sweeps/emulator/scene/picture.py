"""The picture that a video begins with."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from ..uploads import content_of
from .canvas import Canvas, Layer

# Seconds in which the picture gives way to the scene.
OPENING_S = 0.5


def read_picture(folder: Path, address: str | None) -> np.ndarray | None:
    """Return the picture (h, w, 3) in RGB, 0..1, of an address that was uploaded to, or of a data URI.

    None where there is none, or it is elsewhere: the emulator asks nobody.
    """
    content = content_of(folder, address or "")
    found = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    return None if found is None else cv2.cvtColor(found, cv2.COLOR_BGR2RGB).astype(np.float32) / 255


def covering(picture: np.ndarray, size: tuple[int, int]) -> Layer:
    """Return a picture that fills a frame of `size` (width, height), its middle where the shapes differ."""
    height, width = picture.shape[:2]
    scale = max(size[0] / width, size[1] / height)
    grown = max(size[0], round(width * scale)), max(size[1], round(height * scale))
    whole = cv2.resize(picture, grown, interpolation=cv2.INTER_AREA)
    left, top = (grown[0] - size[0]) // 2, (grown[1] - size[1]) // 2
    return Layer.of(np.ascontiguousarray(whole[top : top + size[1], left : left + size[0]]))


def open_with(canvas: Canvas, layer: Layer, time_s: float) -> None:
    """Lay a picture over a frame, whole at the beginning and gone after OPENING_S."""
    share = 1 - time_s / OPENING_S
    if share > 0:
        cv2.addWeighted(canvas.luma, 1 - share, layer.luma, share, 0, dst=canvas.luma)
        cv2.addWeighted(canvas.chroma, 1 - share, layer.chroma, share, 0, dst=canvas.chroma)
