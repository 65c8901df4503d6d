"""How text files of others are encoded."""

from __future__ import annotations

import codecs

MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # which begins as UTF-16's does
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def encoding(start: bytes) -> str:
    """Return the encoding that the first bytes of a file mark, else UTF-8, with a mark or without."""
    return next((name for mark, name in MARKS.items() if start.startswith(mark)), "utf-8-sig")
