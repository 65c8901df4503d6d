"""Repeats by plan: which levels of a factor are given more repeats, and what may be said of each.

A plan of looks at n_1 < ... < n_K repeats gives look k the share w_k = n_k² / Σ n² of the error alpha. A
comparison has by look k the smallest p_j / w_j of its looks so far; it is closed where Holm's correction of that,
among all comparisons, is at most alpha, with the interval of look j at the level 1 - alpha·w_j. Both are union
bounds, which hold however looks and comparisons depend on each other. A comparison is hopeless where the
chance that the last look closes it, if it goes on as it is, is under a tenth (Lan and Wittes 1988); whether that
is acted on changes nothing of the bounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import pandas as pd
from scipy import stats

from kling_sweeps.analysis.comparison import (
    FOUND,
    NOT_DISTINGUISHABLE,
    NOTHING_VARIES,
    REFERENCE,
    claimed,
    compared,
    holm,
    seen_from,
)
from kling_sweeps.analysis.pairing import levels_of, paired, reference_of

CLOSED, HOPELESS, EXHAUSTED, OPEN, UNKNOWN = "closed", "hopeless", "looks exhausted", "open", "no answer"
# Under this chance of being closed at the last look, a comparison is hopeless.
LEAST_CHANCE = 0.1


@dataclass(frozen=True)
class Looks:
    """A plan: how many repeats each look is at, and the metrics by which a factor's levels are compared."""

    factor: str
    repeats: Sequence[int]
    metrics: Sequence[str]
    reference: Any = None

    @classmethod
    def of(cls, runs: pd.DataFrame, factor: str, reference: object = None) -> Self | None:
        """Return the plan that the runs were repeated by, None where none was for this factor and reference."""
        given = runs.attrs.get("looks") or {}
        if given.get("factor") != factor:
            return None
        levels = levels_of(runs, factor)
        base = levels[0] if given["reference"] is None else given["reference"]
        is_of_it = base in levels and len(levels) > 1 and reference in (None, base)
        return cls(**{**given, "reference": base}) if is_of_it else None

    @cached_property
    def shares(self) -> np.ndarray:
        """Return the share of the error of each look."""
        squares = np.square(np.array(self.repeats, dtype=float))
        shares: np.ndarray = squares / squares.sum()
        return shares


@dataclass(frozen=True)
class Looked:
    """What the looks so far have come to.

    `table` has a row a metric and level, with the columns of `effects` and three more: `stands`, which is
    `closed`, `hopeless`, `looks exhausted`, `open` or `no answer`; the `look` that the row is of, from 1, and
    its number of `repeats`. `taken` is how many repeats of each level were looked at, and `following` how many
    the reference and those that are open have at the next look; it is empty where all is over.
    """

    table: pd.DataFrame
    taken: Mapping[Any, int]
    following: Mapping[Any, int]


def looked(runs: pd.DataFrame, plan: Looks, confidence: float = 0.95, scope: str | None = None) -> Looked:
    """Look at runs as often as they have repeats for, each time at those alone that the plan has by then.

    So the same runs always give the same looks. `scope` is as in `effects`. A comparison that failed runs leave
    without a test is open, and has no answer where nothing is left of a level. Raises LookupError for a factor
    or a reference that the runs don't have, and ValueError where they have no other level.
    """
    runs = runs.assign(**{name: np.nan for name in plan.metrics if name not in runs})
    factor, alpha = plan.factor, 1 - confidence
    pairing = paired(runs, factor)
    base = reference_of(pairing.levels, factor, plan.reference)
    scope, reference = claimed(pairing, scope), pairing.levels[base]
    going = [level for level in pairing.levels if level != reference]
    if not going:
        raise ValueError(f"{factor} has one level, {reference}; nothing is to be compared")
    taken = dict.fromkeys(pairing.levels, plan.repeats[0])
    following: dict[Any, int] = {}
    seen: list[pd.DataFrame] = []
    closed: set[tuple[Any, str]] = set()
    for look, repeats in enumerate(plan.repeats):
        following = dict.fromkeys([reference, *going], repeats)
        if look and not _have(runs, factor, going, plan.repeats[look - 1], repeats):
            break
        taken |= following
        rows = runs[runs["sample"] < runs[factor].map(taken)]
        table = compared(rows, factor, plan.metrics, base, scope, 1 - alpha * plan.shares[look])
        _look(table, plan, look, alpha)
        is_new = [level in going and (level, name) not in closed for level, name in _keys(table)]
        seen.append(table[is_new])
        found = _found(pd.concat(seen, ignore_index=True), alpha)
        closed = {*_keys(found[found["stands"] == CLOSED])}
        open_levels = set(found.loc[found["stands"] == OPEN, "level"])
        going, following = [level for level in going if level in open_levels], {}
        if not going:
            break
    return Looked(
        pd.concat([table[table["verdict"] == REFERENCE], found], ignore_index=True), taken, following
    )


def _keys(table: pd.DataFrame) -> Iterator[tuple[Any, str]]:
    return zip(table["level"], table["metric"], strict=True)


def _have(runs: pd.DataFrame, factor: str, levels: Sequence[Any], first: int, end: int) -> bool:
    """Tell whether every level has repeats of a look."""
    return set(levels) <= set(runs.loc[runs["sample"].between(first, end - 1), factor])


def _look(table: pd.DataFrame, plan: Looks, look: int, alpha: float) -> None:
    """Add to the rows of `compared` what is of the look: `p` of all looks, what would be seen, and how each stands."""
    share = plan.shares[look]
    others = table["verdict"] != REFERENCE
    number = int(others.sum())
    table["smallest_detectable"] = np.where(others, seen_from(table, alpha * share / number), np.nan)
    table["look"], table["repeats"] = look + 1, plan.repeats[look]
    at_reference = table[~others].set_index("metric")["n_runs"]
    is_void = (table["n_runs"] == 0) | (table["metric"].map(at_reference) == 0)
    z = stats.norm.isf(table["p"].fillna(1.0) / 2)
    is_tested = table["verdict"].isin(["", NOTHING_VARIES])
    if look + 1 < len(plan.repeats):
        done = plan.repeats[look] / plan.repeats[-1]
        critical = stats.norm.isf(alpha * plan.shares[-1] / (2 * number))
        chance = stats.norm.sf((critical - z / np.sqrt(done)) / np.sqrt(1 - done))
        stands = np.where(is_tested & (chance < LEAST_CHANCE), HOPELESS, OPEN)
    else:
        stands = np.where(is_tested, EXHAUSTED, UNKNOWN)
    table["stands"] = np.where(is_void, UNKNOWN, stands)
    table["p"] = np.minimum(1.0, table["p"] / share)


def _found(seen: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """Return one row for each comparison: that of its smallest p where it is closed, or else its last."""
    key = ["level", "metric"]
    best = seen.sort_values("p", kind="stable").drop_duplicates(key).set_index(key)
    last = seen.drop_duplicates(key, keep="last").set_index(key)
    best["p_adjusted"] = last["p_adjusted"] = pd.Series(holm(best["p"].fillna(1.0).to_numpy()), best.index)
    is_closed = best["p_adjusted"] <= alpha
    closed = best[is_closed].assign(verdict=FOUND, stands=CLOSED)
    left = last[~is_closed.reindex(last.index)]
    left = left.assign(
        p=best["p"].reindex(left.index),
        verdict=left["verdict"].mask(left["verdict"] == "", NOT_DISTINGUISHABLE),
    )
    return pd.concat([closed, left]).reindex(last.index).reset_index()
