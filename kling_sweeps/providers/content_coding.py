"""HTTP's content codings, undone in a file: what a server packs on the way is not the file."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from kling_sweeps.errors import DownloadError
from kling_sweeps.untrusted import clean

# What pyarrow calls them; its gzip reads zlib's header too.
CODINGS = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "gzip", "br": "brotli", "zstd": "zstd"}
PIECE = 1 << 20


def decode(path: Path, codings: list[str], max_bytes: int) -> None:
    """Undo a file's content codings, the last first; bytes that are not so encoded stay as they are.

    Raises DownloadError where the file is cut off or larger than `max_bytes`, and removes it.
    """
    whole = path.with_name(f"{path.name}.decoded")
    try:
        for coding in reversed(codings):
            if not _decoded(path, coding, whole, max_bytes):
                return
            os.replace(whole, path)
    except DownloadError:
        path.unlink()
        raise
    finally:
        whole.unlink(missing_ok=True)


def _decoded(path: Path, coding: str, whole: Path, max_bytes: int) -> bool:
    """Write what a file holds under a coding; return False where it is not so encoded."""
    is_bare = coding == "deflate" and not _has_zlib_header(path)
    pieces = _inflated(path) if is_bare else _unpacked(path, CODINGS[coding])
    with open(whole, "wb") as file:
        try:
            for piece in pieces:
                file.write(piece)
                if file.tell() > max_bytes:
                    raise DownloadError(
                        "the video is larger than provider.max_video_mb allows", is_final=True
                    )
        except zlib.error as error:
            if not file.tell():
                return False
            raise DownloadError(f"the video broke off: its {coding} is damaged ({clean(error)})") from None
    return True


def _has_zlib_header(path: Path) -> bool:
    with open(path, "rb") as file:
        head = file.read(2)
    return head[:1] != b"" and head[0] & 15 == 8 and int.from_bytes(head) % 31 == 0


def _unpacked(path: Path, compression: str) -> Iterator[bytes]:
    """Yield what a file holds in pieces of bounded size; raise zlib.error, whatever packed it."""
    import pyarrow

    size = 1  # what is so encoded at all has a first byte, even where it is cut off
    with pyarrow.input_stream(str(path), compression=compression) as stream:
        while True:
            try:
                piece, size = stream.read(size), PIECE
            except (OSError, ValueError) as error:
                raise zlib.error(str(error)) from None
            if not piece:
                return
            yield piece


def _inflated(path: Path) -> Iterator[bytes]:
    """Yield what is deflated without a header, as some servers do, in pieces of bounded size."""
    inflater = zlib.decompressobj(-15)
    with open(path, "rb") as file:
        while not inflater.eof:
            packed = inflater.unconsumed_tail or file.read(PIECE)
            piece = inflater.decompress(packed, PIECE)
            if not packed and not piece:
                raise zlib.error("cut off")
            yield piece
