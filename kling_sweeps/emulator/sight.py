"""What the emulator's judges see of a file: how vivid and sharp its pictures are, and how long it is."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import av
import cv2
import numpy as np

# Of a video it is the picture at this time, in seconds, that is looked at: behind the picture that it may begin with.
MOMENT_S = 1.0
LINES = 180
# Of videos of several prompts at the default settings.
CONTRAST, COLOUR = 36.0, 18.0


@dataclass(frozen=True)
class Seen:
    """A file as a judge sees it: its digest, how good it looks (about 0, within 1 as a rule), and its seconds, None of stills.

    `tokens` are what a model is charged for it.
    """

    digest: str
    quality: float
    seconds: float | None
    tokens: int


def of_video(content: bytes) -> Seen:
    """Look at a video; of a file that is none, its digest decides how good it looks."""
    digest = hashlib.sha256(content).hexdigest()
    try:
        picture, seconds = _moment(content)
    except (av.FFmpegError, ValueError, IndexError):
        return Seen(digest, _drawn(digest), None, 0)
    return Seen(digest, _quality(picture), seconds, round(258 * seconds))


def of_stills(contents: Sequence[bytes]) -> Seen:
    """Look at the stills of a video, as at the video."""
    digest = hashlib.sha256(b"".join(hashlib.sha256(one).digest() for one in contents)).hexdigest()
    found = (cv2.imdecode(np.frombuffer(one, np.uint8), cv2.IMREAD_COLOR) for one in contents)
    qualities = [_quality(one) for one in found if one is not None]
    return Seen(digest, float(np.mean(qualities)) if qualities else _drawn(digest), None, 258 * len(contents))


def _moment(content: bytes) -> tuple[np.ndarray, float]:
    """Return a picture (h, w, 3) of a video in BGR, and the seconds of the video."""
    with av.open(io.BytesIO(content), "r") as container:
        stream = container.streams.video[0]
        picture = None
        for picture in container.decode(stream):
            if (picture.time or 0) >= MOMENT_S:
                break
        if picture is None or not stream.duration or not stream.time_base:
            raise ValueError("it has no picture, or does not say how long it is")
        return picture.to_ndarray(format="bgr24"), float(stream.duration * stream.time_base)


def _quality(picture: np.ndarray) -> float:
    """Return how vivid and sharp a picture is, of which a higher `cfg_scale` makes more."""
    height, width = picture.shape[:2]
    small = cv2.resize(picture, (max(1, round(width * LINES / height)), LINES), interpolation=cv2.INTER_AREA)
    luma, chroma = np.split(cv2.cvtColor(small, cv2.COLOR_BGR2YCrCb).astype(np.float32), [1], axis=2)
    contrast, colour = float(luma.std()), float(np.hypot(*np.moveaxis(chroma - 128, 2, 0)).mean())
    return float(np.log((contrast + 1) / CONTRAST) + np.log((colour + 1) / COLOUR))


def _drawn(digest: str) -> float:
    return float(np.random.default_rng(int(digest[:16], 16)).normal())
