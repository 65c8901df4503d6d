"""A table of means by one or two factors, ready for a colleague."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from kling_sweeps.analysis.comparison import claimed
from kling_sweeps.analysis.estimates import GENERAL, average, side
from kling_sweeps.analysis.pairing import TWINS, check_metrics, levels_of, listed, paired, values_of
from kling_sweeps.analysis.repeats import REPEAT_DISTANCE, repeats_df

CELL, ALL = "cell", "all"


@dataclass(frozen=True)
class Cells:
    """The means of a metric by one or two factors.

    `table` has a row a cell: its level of each factor, `n` runs and `failed` ones, the `mean` in which every
    prompt counts once, and its interval from `low` to `high`, NaN where nothing is known of it.
    """

    metric: str
    factors: Sequence[str]
    scope: str
    table: pd.DataFrame

    def to_markdown(self) -> str:
        """Return a table of the first factor by the second, or of the first alone."""
        first, *others = self.factors
        rows = sorted(self.table[first].unique())
        columns = sorted(self.table[others[0]].unique()) if others else [self.metric]
        told = {
            tuple(row[name] for name in self.factors): _told(row) for row in self.table.to_dict("records")
        }
        heads = [f"{others[0]}={_short(level)}" if others else level for level in columns]
        lines = [[first, *heads], ["---"] * (1 + len(heads))]
        for level in rows:
            keys = [(level, other) if others else (level,) for other in columns]
            lines.append([_short(level), *(told.get(key, "–") for key in keys)])
        claim = "of prompts in general" if self.scope == GENERAL else "of these prompts"
        caption = f"{self.metric}: mean {claim} (its interval), n runs"
        return "\n".join([f"| {' | '.join(line)} |" for line in lines] + ["", caption])

    def to_csv(self, path: str | Path | None = None) -> str | None:
        """Write a row a cell to a file, or return the text."""
        found: str | None = self.table.to_csv(path, index=False)
        return found


def cells(
    runs: pd.DataFrame,
    factors: str | Sequence[str],
    metric: str,
    confidence: float = 0.95,
    scope: str | None = None,
) -> Cells:
    """Return the means of a metric in the cells of one or two factors, with what failed; `scope` as in `effects`."""
    factors = [factors] if isinstance(factors, str) else list(factors)
    runs = repeats_df(runs) if metric == REPEAT_DISTANCE else runs
    if not 1 <= len(set(factors)) == len(factors) <= 2:
        raise ValueError(f"factors={factors}: expected one or two")
    check_metrics(runs, [metric])
    for factor in factors:
        levels_of(runs, factor)
    known = runs.dropna(subset=factors)
    cell = pd.Series(list(known[factors].itertuples(index=False, name=None)), known.index, object)
    joint = known.assign(**{CELL: cell})
    held = set(factors).union(*(twins for twins in TWINS if twins & set(factors)))
    joint.attrs = {**runs.attrs, "params": [*(p for p in listed(runs, "params") if p not in held), CELL]}
    pairing = paired(joint, CELL)
    scope = claimed(pairing, scope)
    values = values_of(joint, CELL, [metric])
    rows = []
    for number, level in enumerate(pairing.levels):
        own = side(values, pairing, number)
        estimate = average(pairing, own, scope)
        low, high = estimate.interval(confidence)
        n = int(own.n.sum())
        rows.append(
            {
                **dict(zip(factors, level, strict=True)),
                "n": n,
                "failed": int((pairing.level == number).sum()) - n,
                "mean": estimate.value[0],
                "low": low[0],
                "high": high[0],
            }
        )
    return Cells(metric, factors, scope, pd.DataFrame(rows))


def overall(
    runs: pd.DataFrame, metric: str, confidence: float = 0.95, scope: str | None = None
) -> tuple[float, float, float]:
    """Return the mean of a metric over all runs, in which every prompt counts once, and both ends of its interval."""
    joint = runs.assign(**{ALL: 0})
    joint.attrs = {**runs.attrs, "params": [*listed(runs, "params"), ALL]}
    row = cells(joint, ALL, metric, confidence, scope).table.iloc[0]
    return float(row["mean"]), float(row["low"]), float(row["high"])


def _told(row: Mapping[Hashable, Any]) -> str:
    if not row["n"]:
        return f"– ({row['failed']} failed)"
    interval = f"{row['low']:.3g} to {row['high']:.3g}, " if row["low"] == row["low"] else ""
    failed = f", {row['failed']} failed" if row["failed"] else ""
    return f"{row['mean']:.3g} ({interval}n {row['n']}{failed})"


def _short(level: object) -> str:
    return " ".join(str(level).split()).replace("|", "\\|")
