"""Pictures that a video begins with, checked before anything is bought."""

from __future__ import annotations

from pathlib import Path

# How the formats that fal's endpoints take begin, each with its ending.
SIGNATURES = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpg", b"RIFF": "webp"}
# How others begin that people have, from which byte on.
OTHERS = {
    "a BMP": (0, b"BM"),
    "a GIF": (0, b"GIF8"),
    "a TIFF": (0, b"II*\0"),
    "a HEIC": (4, b"ftyphei"),
    "an AVIF": (4, b"ftypavi"),
    "an SVG": (0, b"<svg"),
    "a PDF": (0, b"%PDF"),
}
# The most that any of fal's endpoints is known to take, in bytes; many take 10 MB.
MAX_BYTES = 30 * 10**6
# Pixels of a side that every endpoint wants at the very least; many want 300.
LEAST_SIDE = 64


def read_picture(path: Path) -> tuple[bytes, str, tuple[int, int]]:
    """Return a picture's bytes, its ending (png, jpg or webp), and its width and height; raise ValueError with what is wrong.

    Raises OSError where the file can't be read.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"is {size / 1e6:.1f} MB large; at most {MAX_BYTES / 1e6:g} MB are allowed")
    content = path.read_bytes()
    kind = next((kind for begin, kind in SIGNATURES.items() if content.startswith(begin)), None)
    if kind is None or (kind == "webp" and content[8:12] != b"WEBP"):
        it_is = [name for name, (at, begin) in OTHERS.items() if content[at:].startswith(begin)]
        raise ValueError(f"is no picture in PNG, JPEG or WebP{f', but {it_is[0]}' if it_is else ''}")
    import cv2
    import numpy as np

    try:
        found = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # it claims to be larger than any
        found = None
    if found is None:
        raise ValueError("is a picture that can't be decoded")
    height, width = found.shape[:2]
    if min(height, width) < LEAST_SIDE:
        raise ValueError(f"is {width} x {height} pixels large; {LEAST_SIDE} a side are needed at least")
    return content, kind, (width, height)
