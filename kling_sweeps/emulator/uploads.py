"""The files that were uploaded to the emulator, by their addresses."""

from __future__ import annotations

import re
from pathlib import Path

PATH = "/uploads"
PLACE = re.compile(r"[0-9a-f]{32}/[\w.-]{1,200}")


def file_of(folder: Path, place: str) -> Path | None:
    """Return where the file of a place, the part of an address behind `/uploads/`, is kept; None where it is no place."""
    return folder / PATH.strip("/") / place if PLACE.fullmatch(place) else None


def uploaded(folder: Path, address: str) -> Path | None:
    """Return the file of an address, None where nothing was uploaded there."""
    _, found, place = address.rpartition(f"{PATH}/")
    path = file_of(folder, place) if found else None
    return path if path and path.is_file() else None
