"""Copies of videos that a browser plays and that say nothing of how they were made."""

from __future__ import annotations

import os
from pathlib import Path

import av

from kling_sweeps.errors import VideoError

# What the browsers of today decode: codecs, and of H.264 the pixel formats.
CODECS = ("h264", "vp9", "av1")
PIXELS = ("yuv420p", "yuvj420p")


def copy_bare(video: Path, target: Path) -> bool:
    """Copy the pictures of a video, as they are coded, to an mp4 file without sound, titles or other remarks.

    Returns False, and writes nothing, where browsers don't play it; raises VideoError where it can't be read.
    """
    try:
        with av.open(os.fspath(video)) as given:
            stream = given.streams.video[0]
            if stream.codec_context.name not in CODECS or stream.codec_context.pix_fmt not in PIXELS:
                return False
            with av.open(f"file:{target}", "w", format="mp4", options={"movflags": "faststart"}) as made:
                copy = made.add_stream_from_template(stream)
                for packet in given.demux(stream):
                    if packet.dts is not None:  # the last packet is empty, and ends the stream
                        packet.stream = copy
                        made.mux(packet)
    except (av.FFmpegError, LookupError, ValueError) as error:
        raise VideoError(f"{video}: it can't be copied: {error}") from None
    return True
