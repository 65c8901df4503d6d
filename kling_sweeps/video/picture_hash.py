"""Pictures told apart by what is where in them, whatever their size, coding and exposure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kling_sweeps.video import opencv as cv2

# The side of the picture that is transformed, and of the square of low frequencies of which all but the mean count.
SIDE, LOW = 32, 8
BITS = LOW * LOW - 1


def picture_hash(luma: np.ndarray) -> int:
    """Describe Y, HxW uint8, by 63 bits: which low frequencies are stronger than most (Zauner 2010, pHash)."""
    small = cv2.resize(luma, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:LOW, :LOW].ravel()[1:]
    return int("".join("1" if each else "0" for each in low > np.median(low)), 2)


def written(hashes: Sequence[int]) -> str:
    """Write the hashes of a video's pictures as text: 16 hexadecimal digits each."""
    return " ".join(f"{each:016x}" for each in hashes)


def distance(one: str, other: str) -> float:
    """Return how unlike two videos are, whose written hashes these are: the share of bits that differ.

    Pictures at like moments are compared. 0 to 0.05 is the same picture, however it is coded, 0.1 to 0.25 the same scene, framed
    otherwise, 0.4 to 0.6 what has nothing in common. Raises ValueError for what `written` did not write.
    """
    pictures = [[int(each, 16) for each in text.split()] for text in (one, other)]
    number = min(map(len, pictures))
    if not number:
        raise ValueError("a video without pictures can't be compared")
    chosen = [np.linspace(0, len(each) - 1, number).round().astype(int) for each in pictures]
    pairs = zip(
        *([each[at] for at in places] for each, places in zip(pictures, chosen, strict=True)), strict=True
    )
    differing: int = sum((first ^ second).bit_count() for first, second in pairs)
    return differing / (number * BITS)
