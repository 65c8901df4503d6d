"""Pictures told apart by what is where in them, whatever their size, coding and exposure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import nan

import numpy as np

from kling_sweeps.video import opencv as cv2

# The side of the picture that is transformed, and of the square of low frequencies of which all but the mean count.
SIDE, LOW = 32, 8
BITS, DIGITS = LOW * LOW - 1, 16


def picture_hash(luma: np.ndarray) -> int:
    """Describe Y, HxW uint8, by 63 bits: which low frequencies are stronger than most (Zauner 2010, pHash)."""
    small = cv2.resize(luma, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:LOW, :LOW].ravel()[1:]
    return int("".join("1" if each else "0" for each in low > np.median(low)), 2)


def written(hashes: Sequence[int]) -> str:
    """Write the hashes of a video's pictures as text: 16 hexadecimal digits each."""
    return " ".join(f"{each:0{DIGITS}x}" for each in hashes)


def distance(one: str, other: str) -> float:
    """Return how unlike two videos are, whose written hashes these are: the share of bits that differ.

    Pictures at like moments are compared. 0 to 0.05 is the same picture, however it is coded, 0.1 to 0.25 the same scene, framed
    otherwise, 0.4 to 0.6 what has nothing in common. Raises ValueError for what `written` did not write.
    """
    return float(mean_distances([one, other])[0])


def mean_distances(hashes: Sequence[str]) -> np.ndarray:
    """Return for each of n videos its mean `distance` from all others, n float64 values, NaN where it is the only one.

    Bits are counted instead of pairs, so that the time it takes is proportional to n. Raises ValueError as `distance` does.
    """
    videos = [_bits(text) for text in hashes]
    lengths = np.array([len(bits) for bits in videos], int)
    stacks = {length: np.stack([bits for bits in videos if len(bits) == length]) for length in {*lengths}}
    total = np.zeros(len(videos))
    for (length, own), (other, others) in product(stacks.items(), repeat=2):
        number = min(length, other)
        own, others = (bits[:, _spread(len(bits[0]), number)] for bits in (own, others))
        ones = others.sum(axis=0)
        differing = np.where(own, len(others) - ones, ones).sum(axis=(1, 2))
        total[lengths == length] += differing / (number * BITS)
    return total / (len(videos) - 1) if len(videos) > 1 else np.full(len(videos), nan)


def _bits(text: str) -> np.ndarray:
    """Read written hashes as pictures x 64 bits."""
    pictures = text.split()
    if not pictures or any(len(each) != DIGITS for each in pictures):
        raise ValueError(f"{text[:60]!r} is not what describes a video's pictures")
    return np.unpackbits(np.frombuffer(bytes.fromhex("".join(pictures)), np.uint8).reshape(-1, 8), axis=1)


def _spread(length: int, number: int) -> np.ndarray:
    """Choose so many of the pictures of a video, evenly spaced, the first and the last among them."""
    return np.linspace(0, length - 1, number).round().astype(int)
