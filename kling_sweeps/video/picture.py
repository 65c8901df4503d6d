"""Pictures that a video begins with, checked before anything is bought."""

from __future__ import annotations

from pathlib import Path

# How the formats that fal's endpoints take begin, each with its ending.
SIGNATURES = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpg", b"RIFF": "webp"}
# The most that any of fal's endpoints is known to take, in bytes; many take 10 MB.
MAX_BYTES = 30 * 10**6
# Pixels of a side that every endpoint wants at the very least; many want 300.
LEAST_SIDE = 64


def read_picture(path: Path) -> tuple[bytes, str]:
    """Return a picture's bytes and its ending: png, jpg or webp; raise ValueError with what is wrong.

    Raises OSError where the file can't be read.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"is {size / 1e6:.1f} MB large; at most {MAX_BYTES / 1e6:g} MB are allowed")
    content = path.read_bytes()
    kind = next((kind for begin, kind in SIGNATURES.items() if content.startswith(begin)), None)
    if kind is None or (kind == "webp" and content[8:12] != b"WEBP"):
        raise ValueError("is no picture in PNG, JPEG or WebP")
    import cv2
    import numpy as np

    try:
        found = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # it claims to be larger than any
        found = None
    if found is None:
        raise ValueError("is a picture that can't be decoded")
    if min(found.shape[:2]) < LEAST_SIDE:
        height, width = found.shape[:2]
        raise ValueError(f"is {width} x {height} pixels large; {LEAST_SIDE} a side are needed at least")
    return content, kind
