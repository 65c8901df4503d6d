"""Stills of a video, as pictures that whoever takes no videos can look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kling_sweeps.video import opencv as cv2
from kling_sweeps.video.decode import frames

# In pixels, the longer side of a still; models that see make larger ones smaller themselves.
LONG, QUALITY = 1024, 90
# Of what is made of a video; another one where anything here, or its encoder, makes other pictures.
STILLS_VERSION = 1


def stills(video: Path, number: int) -> Sequence[bytes]:
    """Return evenly spaced frames of a video as JPEG, the first and the last among them, the middle one where it is one.

    A video of fewer frames has some of them twice. Raises VideoError where it can't be decoded.
    """
    last = sum(1 for _ in frames(video)) - 1
    places = np.linspace(0, last, number) if number > 1 else np.array([last / 2])
    chosen = [int(place) for place in places.round()]
    found = {}
    for frame in frames(video):
        if frame.index in chosen:
            picture = frame.bgr_scaled(min(1.0, LONG / max(frame.width, frame.height)))
            encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
            found[frame.index] = encoded.tobytes()
    return [found[place] for place in chosen]
