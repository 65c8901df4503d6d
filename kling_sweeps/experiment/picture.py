"""Local files among a request's arguments: what stands for one is the digest of what it shows."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from kling_sweeps.video.picture import read_picture

ADDRESSES = ("https://", "http://", "data:")
STANDS_FOR = re.compile(r"sha256:[0-9a-f]{64}")
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
    """A picture that a video begins with, of which the store keeps a copy; `kind` is png, jpg or webp."""


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
    content, kind = read_picture(path)
    return Picture(path, hashlib.sha256(content).hexdigest(), kind)


def replaced(value: Any, change: Callable[[str], str]) -> Any:
    """Return a picture's argument, a text or a list of them, with each text changed."""
    if isinstance(value, list):
        return [replaced(one, change) for one in value]
    return change(value) if isinstance(value, str) else value
