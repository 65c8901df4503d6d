"""Which two videos a judge compares, and what its verdicts on both orders of them say together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Any

import pandas as pd

from kling_sweeps.analysis.pairing import paired
from kling_sweeps.analysis.votes import videos_by_key
from kling_sweeps.judges.instructions import Verdict
from kling_sweeps.votes.poll import seats
from kling_sweeps.votes.schedule import Pair

COLUMNS = (
    "prompt",
    "rater",
    "left",
    "right",
    "outcome",
    "flipped",
    "question",
    "repeat",
    "left_key",
    "right_key",
)
# The keys of two videos' requests in the order in which they are shown, and the number of the repeat.
Asked = tuple[str, str, int]
SWAPPED = {Verdict.FIRST: Verdict.SECOND, Verdict.SECOND: Verdict.FIRST, Verdict.TIE: Verdict.TIE}
OUTCOMES = {Verdict.FIRST: 1.0, Verdict.TIE: 0.5, Verdict.SECOND: 0.0}


def pairs(runs: pd.DataFrame, factor: str) -> list[Pair]:
    """Return the pairs of finished videos that a judge compares, by the keys of their requests.

    Two videos are a pair where they differ in the factor and in nothing else, their repeat included: a later repeat, or
    another level, adds pairs and changes none. A level is as often on the left as on the right.
    """
    cells: dict[tuple[int, int], dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for seat in sorted(seats(runs, factor), key=lambda seat: (seat.block, seat.sample, seat.level, seat.key)):
        cells[seat.block, seat.sample][seat.level].append(seat.key)
    return [Pair(*pair) for pair in _placed(cells.values())]


def orders(pair: Pair) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return the two orders in which a pair is shown."""
    return (pair.left, pair.right), (pair.right, pair.left)


def outcome(shown: Verdict, swapped: Verdict) -> float:
    """Return 1 where the left of two videos is better, 0 where the right one is, of the verdicts on them and on both swapped.

    It is 0.5 where one of them is a tie, or where they differ: what flips with the seats is a tie.
    """
    return OUTCOMES[shown] if SWAPPED[swapped] is shown else OUTCOMES[Verdict.TIE]


def verdicts_df(
    runs: pd.DataFrame, factor: str, rater: str, answers: Mapping[Asked, Mapping[str, Verdict]]
) -> pd.DataFrame:
    """Return what a judge says of the pairs of a sweep, a row a pair, question and repeat, as `votes_df` has votes.

    `answers` has the verdicts by question on two videos, for each order in which they were shown and each repeat; what has
    only one order is left out. Beside the columns of votes, `flipped` tells whether the verdict changed with the
    seats, which is a tie, and `repeat` numbers repeats. `.attrs`: `factor`; `unanswered`, of how many pairs an answer is
    missing, a repeat counted as one more.
    """
    videos = videos_by_key(runs, paired(runs, factor))
    repeats = sorted({repeat for _, _, repeat in answers})
    rows: list[tuple[Any, ...]] = []
    unanswered = 0
    for pair, repeat in product(pairs(runs, factor), repeats):
        shown, swapped = (answers.get((*order, repeat)) for order in orders(pair))
        if shown is None or swapped is None:
            unanswered += 1
            continue
        (prompt, left), (_, right) = videos[pair.left], videos[pair.right]
        for question in shown:
            both = shown[question], swapped[question]
            is_flip = SWAPPED[both[1]] is not both[0]
            said = (outcome(*both), is_flip, question, repeat)
            rows.append((prompt, rater, left, right, *said, pair.left, pair.right))
    table = pd.DataFrame(rows, columns=[*COLUMNS]).astype({"outcome": float, "flipped": bool})
    table.attrs.update(factor=factor, unanswered=unanswered)
    return table


def _placed(cells: Iterable[Mapping[int, Sequence[str]]]) -> Iterator[tuple[str, str]]:
    """Yield the pairs of videos of each two levels of a cell; in turn, each of two levels is on the left."""
    turns: Counter[tuple[int, int]] = Counter()
    for levels in cells:
        for low, high in combinations(sorted(levels), 2):
            for one, other in product(levels[low], levels[high]):
                turns[low, high] += 1
                yield (one, other) if (turns[low, high] + low + high) % 2 else (other, one)
