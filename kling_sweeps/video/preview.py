"""Small silent copies of videos, for pages that show many of them."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from kling_sweeps.video import opencv as cv2
from kling_sweeps.video.decode import frames
from kling_sweeps.video.frame import Frame

# The unit of a picture's time, in seconds: every usual frame rate has a whole number of them a frame.
TICK = Fraction(1, 90_000)
# A key frame each second, since previews are scrubbed.
OPTIONS = {"crf": "26", "preset": "veryfast", "g": "24", "bf": "0"}


def preview(video: str | Path, height: int = 240) -> bytes:
    """Return a small silent copy of a video as mp4, at most `height` pixels high, to embed in a page.

    Raises VideoError where it can't be decoded.
    """
    with TemporaryDirectory() as folder:
        file = Path(folder, "preview.mp4")
        encode(file, (small(frame, height / frame.height) for frame in frames(video)))
        return file.read_bytes()


def small(frame: Frame, factor: float) -> av.VideoFrame:
    """Return a frame's picture shrunk by a factor, one above 1 counting as 1, to the even sides that yuv420p needs."""
    bgr = frame.bgr_scaled(min(1.0, factor))
    rows, columns = (max(2, side // 2 * 2) for side in bgr.shape[:2])
    bgr = cv2.resize(bgr, (columns, rows)) if bgr.shape[:2] != (rows, columns) else bgr
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(bgr), format="bgr24")
    picture.pts, picture.time_base = round(frame.time_s / TICK), TICK
    return picture


def encode(file: Path, pictures: Iterable[av.VideoFrame]) -> None:
    """Write pictures of one size, whose times are in ticks, to an mp4 file."""
    rest = iter(pictures)
    first = next(rest)
    with av.open(f"file:{file}", "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=24, options=OPTIONS)
        stream.width, stream.height, stream.pix_fmt = first.width, first.height, "yuv420p"
        codec = stream.codec_context
        codec.time_base, codec.thread_count = TICK, 1
        codec.colorspace, codec.color_range = Colorspace.SMPTE170M, ColorRange.MPEG
        for picture in chain([first], rest):
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
