"""H.264 files, written with PyAV."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

OPTIONS = {"preset": "ultrafast", "crf": "24", "tune": "fastdecode", "g": "250"}


def write_h264(path: Path, planes: Iterable[np.ndarray], size: tuple[int, int], fps: int) -> None:
    """Write frames as yuv420p planes (1.5 h, w) to an mp4 that plays while it loads.

    The file appears under its name when it is whole.
    """
    partial = path.with_name(path.name + ".partial")
    with av.open(f"file:{partial}", "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps, options=OPTIONS)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        _tag(stream.codec_context)
        for array in planes:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="yuv420p")))
        container.mux(stream.encode())
    partial.replace(path)


def _tag(codec: av.VideoCodecContext) -> None:
    codec.thread_count = 1
    codec.color_range = ColorRange.MPEG
    codec.colorspace = Colorspace.ITU709
    codec.color_primaries = ColorPrimaries.BT709
    codec.color_trc = ColorTrc.BT709
