"""A video file: decoded once for all who ask, checked, and described.

Facts are counted while decoding rather than read from the header, and times are the frames' own time
stamps. A file whose tail is broken is decoded up to there, and `VideoFacts.problem` says so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isnan, nan
from pathlib import Path
from typing import TypeVar

import av

from kling_sweeps.errors import VideoError
from kling_sweeps.frame import Converter, Frame
from kling_sweeps.metric import ratio

Item = TypeVar("Item")

MATRICES = {
    0: "rgb",
    1: "bt709",
    4: "fcc",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    9: "bt2020nc",
    10: "bt2020c",
}
RANGES = {1: "limited", 2: "full"}


@dataclass(frozen=True)
class VideoFacts:
    """What a file turned out to be, once it was decoded.

    `width` and `height` are in pixels as displayed; `fps` is frames a second between the first and
    the last time stamp; `duration_s` ends with the last frame; `bitrate_mbps` is 10^6 bits a second
    of the whole file. What can't be known is NaN. `problem` is "" unless a part was not decodable.
    """

    width: int
    height: int
    fps: float
    frames: int
    duration_s: float
    bitrate_mbps: float
    codec: str
    pixel_format: str
    color_space: str
    color_range: str
    rotation: int
    declared_frames: int
    problem: str


@dataclass
class Video:
    """One decode of a file: iterate over its frames, once, then ask for its `facts`.

    `threads` is how many threads decode; 0 leaves it to FFmpeg, 1 is for a worker process among many.
    `declared_frames` is what the header claims, known from the first frame on, 0 where it does not say.
    """

    path: Path
    threads: int = 0
    declared_frames: int = field(default=0, init=False)
    _facts: VideoFacts | None = field(default=None, init=False)

    @property
    def facts(self) -> VideoFacts:
        """Give what was found; raise `VideoError` before all frames were decoded."""
        if self._facts is None:
            raise VideoError(f"{self.path} was not decoded to its end, so its facts are not known")
        return self._facts

    def __iter__(self) -> Iterator[Frame]:
        """Decode frame after frame; raise `VideoError` where not one can be decoded."""
        with _opened(self.path) as (container, stream):
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = self.threads
            self.declared_frames = stream.frames
            tally = _Tally(self.path, stream)
            previous, converter = None, Converter()
            pictures = tally.pictures(container)
            # Where each core has a video of its own, none is idle.
            for index, (picture, time_s) in enumerate(
                pictures if self.threads == 1 else _ahead(pictures)
            ):
                frame = Frame(picture, index=index, time_s=time_s, converter=converter)
                # What has another size can't be compared.
                if previous is not None and frame.luma.shape == previous.luma.shape:
                    frame.previous = previous
                yield frame
                frame.previous = None
                previous = frame
            self._facts = tally.facts()


def frames(path: str | Path, threads: int = 0) -> Iterator[Frame]:
    """Decode a video frame after frame; raise `VideoError` where not one can be decoded."""
    return iter(Video(Path(path), threads))


def _ahead(items: Iterator[Item], number: int = 4) -> Iterator[Item]:
    """Take items from an iterator in a thread of its own, some before they are wanted.

    A decoder is idle while its frames wait to be fetched, which those who measure them do too late.
    """
    thread = ThreadPoolExecutor(1, "decode")
    try:
        coming = deque(thread.submit(next, items, None) for _ in range(number))
        while (item := coming.popleft().result()) is not None:
            coming.append(thread.submit(next, items, None))
            yield item
    finally:
        thread.shutdown(cancel_futures=True)


def verify(path: str | Path) -> None:
    """Check that a file is a whole video: its first frame decodes and its last packet is there.

    Reads the whole file and decodes next to nothing of it; raises `VideoError`.
    """
    with _opened(Path(path)) as (container, stream):
        try:
            whole = sum(_is_whole(packet) for packet in container.demux(stream))
            container.seek(0)
            # Its first packet alone: a decoder that looks ahead would decode many.
            decodable = next(container.demux(stream)).decode() + stream.decode(None)
        except av.FFmpegError as error:
            raise VideoError(f"{path} can't be decoded: {_reason(error)}") from error
        if not decodable:
            raise VideoError(f"{path} has no frame that can be decoded")
        if whole < stream.frames:
            raise VideoError(f"{path} ends after {whole} of {stream.frames} frames")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    try:
        container = av.open(str(path), metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{path} can't be opened as a video: {_reason(error)}") from error
    with container:
        if not container.streams.video:
            raise VideoError(f"{path} has no video in it")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise VideoError(f"{path} is encoded in a way that nothing here can decode")
        yield container, stream


@dataclass
class _Tally:
    """What a decode has seen so far."""

    path: Path
    stream: av.VideoStream
    frames: int = 0
    damaged: int = 0
    first_s: float = 0.0
    last_s: float = 0.0
    last_duration_s: float = 0.0
    problem: str = ""
    picture: av.VideoFrame | None = None

    def pictures(
        self, container: av.container.InputContainer
    ) -> Iterator[tuple[av.VideoFrame, float]]:
        """Decode every picture up to the first packet that is broken: with its seconds from the first."""
        try:
            for packet in container.demux(self.stream):
                if packet.is_corrupt:
                    self.problem = "a packet is cut off"
                    break
                yield from map(self._seen, packet.decode())
        except av.FFmpegError as error:
            self.problem = _reason(error)
        if self.problem:
            yield from map(self._seen, self._pending())
        if not self.frames:
            why = self.problem or "it holds none"
            raise VideoError(f"not one frame of {self.path} can be decoded: {why}")

    def facts(self) -> VideoFacts:
        picture = self.picture
        upright = picture.rotation % 180 == 0
        duration_s = self._duration_s()
        return VideoFacts(
            width=picture.width if upright else picture.height,
            height=picture.height if upright else picture.width,
            fps=self._fps(),
            frames=self.frames,
            duration_s=duration_s,
            bitrate_mbps=ratio(self.path.stat().st_size * 8 / 1e6, duration_s),
            codec=self.stream.codec_context.codec.name,
            pixel_format=picture.format.name,
            color_space=MATRICES.get(picture.colorspace, "unspecified"),
            color_range=RANGES.get(picture.color_range, "unspecified"),
            rotation=picture.rotation,
            declared_frames=self.stream.frames,
            problem=self._verdict(),
        )

    def _seen(self, picture: av.VideoFrame) -> tuple[av.VideoFrame, float]:
        # What the decoder still held has no time base of its own.
        unit = self.stream.time_base
        if picture.pts is None:
            time_s = self.last_s + ratio(1, self._header_fps())
        else:
            time_s = float(picture.pts * unit)
        if not self.frames:
            self.first_s = time_s
        self.frames += 1
        self.damaged += picture.is_corrupt
        self.last_s = time_s
        self.last_duration_s = float((picture.duration or 0) * unit)
        self.picture = picture
        return picture, time_s - self.first_s

    def _pending(self) -> list[av.VideoFrame]:
        # The decoder's threads still hold the last good pictures.
        try:
            return self.stream.decode(None)
        except av.FFmpegError:
            return []

    def _fps(self) -> float:
        fps = ratio(self.frames - 1, self.last_s - self.first_s)
        return self._header_fps() if isnan(fps) else fps

    def _header_fps(self) -> float:
        return float(self.stream.average_rate or nan)

    def _duration_s(self) -> float:
        last_s = self.last_duration_s or ratio(1, self._fps())
        return self.last_s - self.first_s + last_s

    def _verdict(self) -> str:
        if self.problem or self.frames < self.stream.frames:
            declared = f" of {self.stream.frames}" if self.stream.frames else ""
            why = f": {self.problem}" if self.problem else ""
            return f"decoding ended after {self.frames}{declared} frames{why}"
        return f"{self.damaged} frames are damaged" if self.damaged else ""


def _is_whole(packet: av.Packet) -> bool:
    return packet.size > 0 and not packet.is_corrupt


def _reason(error: OSError | av.FFmpegError) -> str:
    return (error.strerror or str(error)).lower()
