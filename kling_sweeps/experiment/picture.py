"""Local files among a request's arguments: what stands for one is the digest of what it shows."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from pathlib import Path
from typing import Any

from kling_sweeps.video.picture import read_picture

ADDRESSES = ("https://", "http://", "data:")
STANDS_FOR = re.compile(r"sha256:[0-9a-f]{64}")
# What fal states of the pictures that an argument takes, in bytes, pixels, and width over height.
LIMITS = tuple(
    f"{end}_{name}" for name in ("file_size", "width", "height", "aspect_ratio") for end in ("min", "max")
)
# In the place of a file that can't be read.
NO_PICTURE = f"sha256:{'0' * 64}"


@dataclass(frozen=True)
class Attachment:
    """A file on this machine that is uploaded for a request; `digest` is the SHA-256 of its bytes, `kind` its ending."""

    path: Path
    digest: str
    kind: str

    @property
    def name(self) -> str:
        """Return what tells it from any other, as a part of a file's name."""
        return self.digest

    @property
    def mark(self) -> str:
        """Return what stands for it among the arguments, and so in the request's key, wherever it is uploaded to."""
        return f"sha256:{self.name}"

    @property
    def said(self) -> str:
        """Return what a person knows it by, different for different files of one name."""
        return f"{self.path.name} {self.digest[:8]}"

    @property
    def file_name(self) -> str:
        return f"{self.name}.{self.kind}"

    def content(self, path: Path) -> bytes | None:
        """Return what is uploaded, from the file or a copy of it; None where a path has neither."""
        content = path.read_bytes() if path.exists() else b""
        return content if hashlib.sha256(content).hexdigest() == self.digest else None


@dataclass(frozen=True)
class Picture(Attachment):
    """A picture that a video begins with, of which the store keeps a copy; `kind` is png, jpg or webp.

    Its `size` is in bytes, width and height in pixels.
    """

    size: int
    width: int
    height: int


def is_address(value: str) -> bool:
    """Tell whether a value is passed on to fal as it is."""
    return value.startswith(ADDRESSES)


def find_picture(path: Path) -> Picture:
    """Read a local picture; raise ValueError with what is wrong with it."""
    try:
        found = path.stat()
        return _read(path, found.st_mtime_ns, found.st_size)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"{path}: {why}") from None


@lru_cache(maxsize=256)
def _read(path: Path, changed_ns: int, size: int) -> Picture:
    content, kind, (width, height) = read_picture(path)
    return Picture(path, hashlib.sha256(content).hexdigest(), kind, len(content), width, height)


def beyond(picture: Picture, limits: Mapping[str, float]) -> str | None:
    """Return in what a picture is beyond the limits of an argument (LIMITS), None where it is within all."""
    is_what = {
        "file_size": (picture.size, "{:,.0f} bytes"),
        "width": (picture.width, "{:g} pixels wide"),
        "height": (picture.height, "{:g} pixels high"),
        "aspect_ratio": (picture.width / picture.height, "{:.3g} times as wide as high"),
    }
    for name, (value, told) in is_what.items():
        least, most = limits.get(f"min_{name}", -inf), limits.get(f"max_{name}", inf)
        if not least <= value <= most:
            limit = f"at least {told.format(least)}" if value < least else f"at most {told.format(most)}"
            return f"is {told.format(value)}; fal takes {limit}"
    return None


def replaced(value: Any, change: Callable[[str], str]) -> Any:
    """Return a value with each text in it, and in its lists and mappings, changed."""
    if isinstance(value, list):
        return [replaced(one, change) for one in value]
    if isinstance(value, dict):
        return {name: replaced(one, change) for name, one in value.items()}
    return change(value) if isinstance(value, str) else value


def texts(value: Any) -> Iterator[str]:
    """Yield the texts in a value, and in its lists and mappings."""
    if isinstance(value, list | dict):
        for one in value if isinstance(value, list) else value.values():
            yield from texts(one)
    elif isinstance(value, str):
        yield value
