"""In which order a rater gets pairs of videos: evenly spread over prompts and over pairs of levels at every moment.

Which pair comes next does not depend on the votes before: pairs chosen by who leads make the lead larger than it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random

# Two blocks' worth of videos: the number of a block, and those of two levels.
Stratum = tuple[int, tuple[int, int]]


@dataclass(frozen=True)
class Seat:
    """Where a video stands in the design: its block (what is held constant), its level of the factor, its repeat."""

    key: str
    block: int
    level: int
    sample: int


@dataclass(frozen=True)
class Pair:
    """Two videos, by their requests' keys, and on which side each is shown."""

    left: str
    right: str

    @property
    def keys(self) -> frozenset[str]:
        return frozenset((self.left, self.right))


def schedule(seats: Sequence[Seat], seed: str) -> list[Pair]:
    """Return every pair of videos of one block and two levels once, in an order that a seed decides.

    A round has each pair of levels of each block once, with the next repeats of both. In it each block comes before any
    comes again, and the pairs of levels are as evenly spread as they can be.
    """
    random = Random(seed)
    turns = _turns(seats, random)
    blocks = sorted({block for block, _ in turns})
    contrasts = sorted({contrast for _, contrast in turns})
    found = []
    for number in range(max(map(len, turns.values()), default=0)):
        for stratum in _round(blocks, contrasts, random):
            if number < len(turns.get(stratum, ())):
                pair = list(turns[stratum][number])
                random.shuffle(pair)
                found.append(Pair(*pair))
    return found


def _turns(seats: Sequence[Seat], random: Random) -> dict[Stratum, list[tuple[str, str]]]:
    """Return the pairs of videos of each two levels of a block, so that every repeat has its turn before any has two."""
    cells: dict[int, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for seat in sorted(seats, key=lambda seat: (seat.sample, seat.key)):
        cells[seat.block][seat.level].append(seat.key)
    found = {}
    for block, levels in sorted(cells.items()):
        for low, high in combinations(sorted(levels), 2):
            one, other = (random.sample(levels[level], len(levels[level])) for level in (low, high))
            shifts = range(len(other))
            found[block, (low, high)] = [
                (key, other[(place + shift) % len(other)])
                for shift in shifts
                for place, key in enumerate(one)
            ]
    return found


def _round(blocks: list[int], contrasts: list[tuple[int, int]], random: Random) -> Iterator[Stratum]:
    """Yield each block with each pair of levels: the rows of a Latin square, each in a random order."""
    random.shuffle(blocks)
    random.shuffle(contrasts)
    for turn in range(len(contrasts)):
        row = [(block, contrasts[(turn + place) % len(contrasts)]) for place, block in enumerate(blocks)]
        random.shuffle(row)
        yield from row
