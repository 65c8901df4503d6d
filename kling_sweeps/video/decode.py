"""A video file: decoded once for all who ask, checked, and described.

Facts are counted while decoding rather than read from the header, and times are the frames' own time
stamps. A file of which a part is missing or broken is decoded as far as that goes, and
`VideoFacts.problem` says so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from math import isnan, nan
from pathlib import Path
from threading import Lock
from typing import TypeVar

import av

from kling_sweeps.errors import VideoError
from kling_sweeps.video import MAX_PIXELS, ratio
from kling_sweeps.video.container import Source, opened
from kling_sweeps.video.frame import Converter, Frame

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

    `width` and `height` are in pixels as displayed, upright and with square pixels, rounded;
    `aspect_ratio` is width over height, not rounded. `fps` is frames a second between the first and
    the last time stamp; `duration_s` ends with the last frame; `bitrate_mbps` is 10^6 bits a second
    of the whole file. What can't be known is NaN. `frames` are those that are shown: what an edit list
    hides is not among them. `problem` is "" unless a part is missing or was not decodable.
    """

    width: int
    height: int
    aspect_ratio: float
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
    A frame of more than `max_pixels` is an error. `declared_frames` is what the header claims, known from
    the first frame on, 0 where it does not say.
    """

    path: Path
    threads: int = 0
    max_pixels: int = MAX_PIXELS
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
        with opened(self.path, self.max_pixels) as source:
            stream = source.stream
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = self.threads
            self.declared_frames = stream.frames
            tally = _Tally(source)
            previous, converter = None, Converter()
            # Where each core has a video of its own, none is idle.
            decoded = tally.pictures() if self.threads == 1 else _ahead(tally.pictures())
            # The thread that decodes ends before the file is closed.
            with closing(decoded):
                for index, (picture, time_s) in enumerate(decoded):
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


def _ahead(items: Generator[Item], number: int = 4) -> Generator[Item]:
    """Take items from a generator in a thread of its own, some before they are wanted; close it at the end.

    A decoder is idle while its frames wait to be fetched, which those who measure them do too late.
    """
    thread, turn = ThreadPoolExecutor(1, "decode"), Lock()

    def following() -> Item | None:
        with turn:
            return next(items, None)

    try:
        coming = deque(thread.submit(following) for _ in range(number))
        while (item := coming.popleft().result()) is not None:
            coming.append(thread.submit(following))
            yield item
    finally:
        thread.shutdown(cancel_futures=True)
        with turn:  # Ctrl-C while the thread was started leaves one that the executor doesn't wait for
            items.close()


def verify(path: str | Path, max_pixels: int = MAX_PIXELS) -> None:
    """Check that a file is a whole video: its first frame decodes and nothing of it is missing.

    Reads the whole file and decodes next to nothing of it; raises `VideoError`, whose `decodable`
    tells whether there is a frame that decodes.
    """
    with opened(Path(path), max_pixels) as source:
        shown = False
        for packet in source.packets():
            shown = shown or bool(source.decode(packet))
        if not (shown or source.decode(None)):
            raise _none(source)
        if source.problem:
            raise VideoError(f"{path} is not whole: {source.problem}", decodable=True)


def _none(source: Source) -> VideoError:
    return VideoError(f"not one frame of {source.path} can be decoded: {source.problem or 'it holds none'}")


@dataclass
class _Tally:
    """What a decode has seen so far."""

    source: Source
    frames: int = 0
    damaged: int = 0
    first_s: float = 0.0
    last_s: float = 0.0
    last_duration_s: float = 0.0
    picture: av.VideoFrame | None = None

    def pictures(self) -> Generator[tuple[av.VideoFrame, float]]:
        """Decode every picture that is shown: with its seconds from the first."""
        for packet in self.source.packets():
            yield from map(self._seen, self.source.decode(packet))
        yield from map(self._seen, self.source.decode(None))
        if not self.frames:
            raise _none(self.source)

    def facts(self) -> VideoFacts:
        picture, stream = self.picture, self.source.stream
        assert picture  # pictures() raises where there is none
        width, height = picture.width * float(stream.sample_aspect_ratio or 1), picture.height
        if picture.rotation % 180:
            width, height = height, width
        duration_s = self._duration_s()
        return VideoFacts(
            width=max(1, round(width)),
            height=max(1, round(height)),
            aspect_ratio=width / height,
            fps=self._fps(),
            frames=self.frames,
            duration_s=duration_s,
            bitrate_mbps=ratio(self.source.size * 8 / 1e6, duration_s),
            codec=stream.codec_context.codec.name,
            pixel_format=picture.format.name,
            color_space=MATRICES.get(picture.colorspace, "unspecified"),
            color_range=RANGES.get(picture.color_range, "unspecified"),
            rotation=picture.rotation,
            declared_frames=stream.frames,
            problem=self._verdict(),
        )

    def _seen(self, picture: av.VideoFrame) -> tuple[av.VideoFrame, float]:
        unit = picture.time_base
        if picture.pts is None or unit is None:
            time_s = self.last_s + ratio(1, self._header_fps())
        else:
            time_s = float(picture.pts * unit)
        if not self.frames:
            self.first_s = time_s
        self.frames += 1
        self.damaged += picture.is_corrupt
        self.last_s = time_s
        self.last_duration_s = float((picture.duration or 0) * (unit or 0))
        self.picture = picture
        return picture, time_s - self.first_s

    def _fps(self) -> float:
        fps = ratio(self.frames - 1, self.last_s - self.first_s)
        return self._header_fps() if isnan(fps) else fps

    def _header_fps(self) -> float:
        return float(self.source.stream.average_rate or nan)

    def _duration_s(self) -> float:
        last_s = self.last_duration_s or ratio(1, self._fps())
        return self.last_s - self.first_s + last_s

    def _verdict(self) -> str:
        source, declared = self.source, self.source.stream.frames
        if source.is_cut:
            of = f" of {declared}" if declared > self.frames else ""
            return f"decoding ended after {self.frames}{of} frames: {source.problem}"
        if source.damaged:
            return f"{source.damaged} frames are lost: {source.problem}"
        return source.problem or (f"{self.damaged} frames are damaged" if self.damaged else "")
