"""The files that the emulator has, uploaded or rendered, by their addresses."""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path

PATH = "/uploads"
RENDERED = re.compile(r".*/files/([\w-]+_output\.mp4)")
PLACE = re.compile(r"[0-9a-f]{32}/[\w.-]{1,200}")


def file_of(folder: Path, place: str) -> Path | None:
    """Return where the file of a place, the part of an address behind `/uploads/`, is kept; None where it is no place."""
    return folder / PATH.strip("/") / place if PLACE.fullmatch(place) else None


def uploaded(folder: Path, address: str) -> Path | None:
    """Return the file of an address, None where nothing was uploaded there."""
    _, found, place = address.rpartition(f"{PATH}/")
    path = file_of(folder, place) if found else None
    return path if path and path.is_file() else None


def content_of(folder: Path, address: str) -> bytes:
    """Return what an address leads to: a file of the emulator's, or what a data URI holds; nothing where it is elsewhere."""
    if path := uploaded(folder, address):
        return path.read_bytes()
    if (rendered := RENDERED.fullmatch(address)) and (folder / rendered[1]).is_file():
        return (folder / rendered[1]).read_bytes()
    _, is_base64, text = address.partition(";base64,")
    try:
        return base64.b64decode(text) if is_base64 and address.startswith("data:") else b""
    except binascii.Error:
        return b""
