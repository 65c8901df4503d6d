"""A file opened as a video: judged by its bytes, whatever its name is and whatever its header counts.

This is the one place that opens videos. A file is cut off where data is missing that its index or its
boxes promise, and for no other reason: how many frames its header counts says nothing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import BinaryIO

import av
from av.stream import Disposition

from kling_sweeps.errors import VideoError
from kling_sweeps.untrusted import clean
from kling_sweeps.video import MAX_PIXELS

PICTURE = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
PICTURE_FORMATS = ("image2", "ico", "jpegxl_anim")
PICTURE_BRANDS = ("avif", "heic", "heix", "mif1")
# What a container of a single frame is a picture of, and of several a video.
ANIMATIONS = ("gif", "apng")
MAGIC = {b"%PDF": "a PDF", b"PK\3\4": "a ZIP archive", b"\x1f\x8b": "data packed by gzip"}
EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


@dataclass
class Source:
    """An open file and its film: `packets`, and `decode` for each.

    `problem` says what is wrong with the file as far as it was read, `is_cut` that a part is missing,
    and `damaged` counts the packets that could not be decoded.
    """

    path: Path
    file: BinaryIO
    container: av.container.InputContainer
    stream: av.VideoStream
    max_pixels: int
    problem: str = ""
    is_cut: bool = False
    damaged: int = 0

    @property
    def size(self) -> int:
        """Give the size of the file in bytes."""
        return os.fstat(self.file.fileno()).st_size

    def packets(self) -> Iterator[av.Packet[av.VideoStream]]:
        """Give every packet that is whole and not empty; then `is_cut` and `problem` are known."""
        try:
            for packet in self.container.demux(self.stream):
                if packet.is_corrupt:
                    self._cut("a packet is cut off")
                elif packet.size:
                    yield packet
        except av.FFmpegError as error:
            self._cut(reason(error))
        if self._ends_early():
            self._cut("the file is cut off")

    def decode(self, packet: av.Packet[av.VideoStream] | None) -> list[av.VideoFrame]:
        """Decode a packet, or with None what the decoder holds; what can't be decoded is counted.

        Raises `VideoError` where a frame is too large, as a stream may grow on the way.
        """
        try:
            pictures = self.stream.decode(packet)
        except av.FFmpegError as error:
            self._check_size(self.stream.codec_context)
            self.damaged += 1
            self.problem = self.problem or f"a packet can't be decoded ({reason(error)})"
            return []
        for picture in pictures:
            self._check_size(picture)
            picture.time_base = self.stream.time_base  # what the decoder still held has none
        return pictures

    def check(self) -> None:
        """Raise `VideoError` for what is no film, or has more pixels than a frame may have."""
        if _is_picture(self.container, self.stream):
            raise VideoError(f"{self.path} is a picture ({self.container.format.name}), not a video")
        if self.stream.codec_context is None:
            raise VideoError(
                f"{self.path} {_no_index(self.file) or 'is encoded in a way that nothing here can decode'}"
            )
        self._check_size(self.stream.codec_context)

    def _cut(self, why: str) -> None:
        self.is_cut, self.problem = True, self.problem or why

    def _check_size(self, picture: av.VideoFrame | av.VideoCodecContext) -> None:
        if picture.width * picture.height > self.max_pixels:
            raise VideoError(
                f"{self.path} has frames of {picture.width}x{picture.height} pixels, "
                f"and measuring.max_pixels={self.max_pixels} allows fewer",
                error_type="video_too_large",
                decodable=True,
            )

    def _ends_early(self) -> bool:
        """Tell whether the file ends within one of its parts, as they say themselves."""
        self.file.seek(0)
        if self.file.read(4) == EBML:
            return _segment_end(self.file) > self.size
        if "mp4" not in self.container.format.name:
            return False
        parts = list(boxes(self.file, self.size))
        is_fragmented = any(kind == b"moof" for kind, _ in parts)
        if parts[-1][0] in (b"moov", b"moof") and parts[-1][1] > self.size:
            return True
        # Where every part is there, an index that counts more is wrong; a fragment may lack its data's part.
        return (is_fragmented or parts[-1][1] > self.size) and self._lacks_samples()

    def _lacks_samples(self) -> bool:
        entries = (entry for stream in self.container.streams for entry in stream.index_entries)
        return any(entry.pos + entry.size > self.size for entry in entries if not entry.is_discard)


@contextmanager
def opened(path: Path, max_pixels: int = MAX_PIXELS) -> Iterator[Source]:
    """Open a file and choose the film that FFmpeg chooses; raise `VideoError` where it has none."""
    try:
        file = open(path, "rb", buffering=0)  # noqa: SIM115 - the block below closes it
    except OSError as error:
        raise VideoError(f"{path} can't be opened as a video: {reason(error)}") from error
    with file, _container(path, file, max_pixels) as container:
        source = Source(path, file, container, _film(path, container), max_pixels)
        if "ignore_editlist" in container.options:
            source.problem = "the edit list hides every frame"
        source.check()
        yield source


def _container(path: Path, file: BinaryIO, max_pixels: int) -> av.container.InputContainer:
    """Open a container; an edit list that would hide everything is not followed."""
    try:
        if kind := _other_than_a_video(file.read(4096)):
            raise VideoError(f"{path} is {kind}, not a video")
        container = _demuxer(file, max_pixels)
        if _hides_everything(container):
            container.close()
            container = _demuxer(file, max_pixels, ignore_editlist="1")
    except (av.FFmpegError, OSError) as error:
        why = _no_index(file) or f"can't be opened as a video: {reason(error)}"
        raise VideoError(f"{path} {why}") from error
    return container


def _demuxer(file: BinaryIO, max_pixels: int, **options: str) -> av.container.InputContainer:
    # By its descriptor: FFmpeg takes a path for an address, and judges by its end. A coded picture may be
    # padded beyond its size, so that the decoder's own limit, which it has while it looks, is no sharp one.
    file.seek(0)
    options |= {"max_pixels": str(2 * max_pixels)}
    descriptor = {"fd": str(file.fileno())}
    try:
        return av.open("fd:", options=options | descriptor, metadata_errors="replace")
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
    # On Windows FFmpeg's C library need not be Python's, and then has descriptors of its own.
    return av.open(file, "r", options=options, metadata_errors="replace")


def _film(path: Path, container: av.container.InputContainer) -> av.VideoStream:
    """Choose FFmpeg's best video stream, or the largest where that one is an attached picture."""
    films = [stream for stream in container.streams.video if not stream.disposition & PICTURE]
    best = container.streams.best("video")
    if best not in films:
        best = max(films, key=lambda stream: stream.width * stream.height, default=None)
    if best is None:
        raise VideoError(f"{path} has no video in it")
    return best


def boxes(file: BinaryIO, size: int) -> Iterator[tuple[bytes, float]]:
    """Give the outermost boxes of an mp4 file: the type of each, and where it says that it ends."""
    position: float = 0
    while position + 8 <= size:
        file.seek(int(position))
        header = file.read(16)
        length, kind = int.from_bytes(header[:4]), header[4:8]
        if length == 1:
            length = int.from_bytes(header[8:16])
        position += length if length >= 8 else inf  # 0: wherever the file ends
        yield kind, position


def reason(error: Exception) -> str:
    """Say what FFmpeg or the system said."""
    return (getattr(error, "strerror", None) or str(error)).lower()


def _hides_everything(container: av.container.InputContainer) -> bool:
    film = container.streams.best("video")
    if not (film and film.frames and "mp4" in container.format.name):
        return False
    return all(entry.is_discard for entry in film.index_entries)


def _no_index(file: BinaryIO) -> str:
    """Say that an mp4 file lacks its index, "" where it does not."""
    size = os.fstat(file.fileno()).st_size
    found = [kind for kind, end in boxes(file, size) if kind == b"ftyp" or end <= size]
    is_missing = found[:1] == [b"ftyp"] and b"moov" not in found
    return "is cut off: its index is missing" if is_missing else ""


def _is_picture(container: av.container.InputContainer, stream: av.VideoStream) -> bool:
    name, brand = container.format.name, container.metadata.get("major_brand", "").strip()
    if name in ANIMATIONS:
        return stream.frames == 1
    return name.endswith("_pipe") or name in PICTURE_FORMATS or brand in PICTURE_BRANDS


def _other_than_a_video(head: bytes) -> str:
    """Say what a file is that begins as no video does, "" for any other."""
    text = head.replace(b"\0", b"").lstrip(b"\xff\xfe\xef\xbb\xbf \t\r\n").decode(errors="replace")
    begin = text[:2000].lower()
    if not head:
        return "empty"
    if begin.startswith("<"):
        return "an HTML page" if "<html" in begin or "<!doctype html" in begin else "XML"
    if begin.startswith(("{", "[")):
        return f"JSON ({clean(text, 200)})"
    return next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), "")


def _segment_end(file: BinaryIO) -> int:
    """Read where a Matroska file's segment ends, after its first four bytes; 0 where it does not say."""
    file.seek(_element_size(file), os.SEEK_CUR)
    if file.read(4) != SEGMENT:
        return 0
    size = _element_size(file)
    return size and file.tell() + size


def _element_size(file: BinaryIO) -> int:
    first = int.from_bytes(file.read(1))
    further = 8 - first.bit_length()
    most = (1 << 7 * (further + 1)) - 1
    size = int.from_bytes(bytes([first]) + file.read(further)) & most
    return 0 if size == most else size
