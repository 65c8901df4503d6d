"""How many prompts and repeats it takes to see an effect, from runs that are there already."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import stats

from kling_sweeps.analysis.comparison import claimed, on_log_scale, scaled
from kling_sweeps.analysis.estimates import (
    ENOUGH_PROMPTS,
    FEWEST_PROMPTS,
    GENERAL,
    difference,
    power_of,
    side,
)
from kling_sweeps.analysis.pairing import check_metrics, paired, values_of

# Degrees of freedom that an estimate of the noise has at the least.
ENOUGH_NOISE = 6
# The variance that a pilot shows is told with the end of what it may be in four of five cases.
SURE = 0.8
REPEATS = (1, 2, 3)
MOST = 10_000


def design_for(
    runs: pd.DataFrame,
    factor: str,
    metric: str,
    effect: float,
    power: float = 0.8,
    scope: str | None = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return how many prompts, or repeats, it takes to see an effect of a factor, and what they cost.

    `runs` are a pilot. `effect` is in percent for a metric on the log scale, else in its unit, and `scope`
    as in `effects`. For a claim about prompts in general there is a row for one, two and three repeats
    (only as many as the pilot has, where that is one), for one about these prompts a single row. The
    columns are a range, from what the pilot's variance says to the 80 % limit of what it may be: `prompts`
    to `prompts_most`, `repeats` to `repeats_most`, `videos` to `videos_most` and `usd` to `usd_most` of all
    levels together, those that are there already included. Raises ValueError for too small a pilot, and
    says what it needs.
    """
    check_metrics(runs, [metric])
    pairing = paired(runs, factor)
    scope = claimed(pairing, scope)
    raw = values_of(runs, factor, [metric])
    is_log = on_log_scale(runs, [metric], raw)
    size = abs(np.log1p(effect / 100)) if is_log[0] else abs(effect)
    if not 0 < size < np.inf:
        raise ValueError(f"effect={effect}: expected a difference, {'in percent' if is_log[0] else 'not 0'}")
    levels = len(pairing.levels)
    if levels < 2:
        raise ValueError(f"{factor} has one level, {pairing.levels[0]}; nothing is to be compared")
    alpha = (1 - confidence) / (levels - 1)
    sides = [side(scaled(raw, is_log), pairing, level) for level in range(levels)]
    free = float(sum(np.maximum(one.n - 1, 0).sum() for one in sides))
    noise = sum(one.squares[one.n > 0].sum() for one in sides) / free if free else np.nan
    usd = runs["cost_usd"][runs["cost_usd"] > 0].mean() if "cost_usd" in runs else np.nan

    def row(prompts: tuple[int, int], repeats: tuple[int, int]) -> dict[str, object]:
        videos = [levels * p * r for p, r in zip(prompts, repeats, strict=True)]
        ranges = {"prompts": prompts, "repeats": repeats, "videos": videos, "usd": [v * usd for v in videos]}
        return {"scope": scope} | {
            k + end: v[n] for k, v in ranges.items() for n, end in enumerate(("", "_most"))
        }

    if scope != GENERAL:
        if free < ENOUGH_NOISE:
            raise ValueError(
                f"the noise of these prompts is known from {ENOUGH_NOISE} degrees of freedom on, which are "
                f"runs beyond the first of a cell; these runs have {free:.0f}"
            )
        prompts = len(pairing.prompts)

        def shows(repeats: int, variance: float) -> bool:
            cells = prompts * repeats
            return power_of(size, np.sqrt(2 * variance / cells), 2 * (cells - prompts), alpha) >= power

        needed = _range(shows, 2, noise, free)
        return pd.DataFrame([row((prompts, prompts), needed)])

    estimates = [difference(pairing, one, sides[0], GENERAL) for one in sides[1:]]
    seen = min(int(one.prompts[0]) for one in estimates)
    if seen < ENOUGH_PROMPTS:
        raise ValueError(
            f"a claim about prompts in general is planned from {ENOUGH_PROMPTS} prompts on that have all "
            f"levels; these runs have {seen}"
        )
    spread = float(np.mean([one.error[0] ** 2 * one.prompts[0] for one in estimates]))
    made = sum(one.n.sum() for one in sides) / (levels * len(pairing.prompts))
    between = max(0.0, spread - 2 * noise / made) if free else np.nan
    rows = []
    for repeats in REPEATS if free else REPEATS[:1]:
        variance = between + 2 * noise / repeats if free else spread

        def shows_general(prompts: int, variance: float) -> bool:
            return power_of(size, np.sqrt(variance / prompts), prompts - 1, alpha) >= power

        rows.append(row(_range(shows_general, FEWEST_PROMPTS, variance, seen - 1), (repeats, repeats)))
    return pd.DataFrame(rows)


def _range(
    shows: Callable[[int, float], bool], fewest: int, variance: float, freedom: float
) -> tuple[int, int]:
    """Return how many are needed by a variance as estimated, and by its upper limit."""
    upper = variance * freedom / stats.chi2.ppf(1 - SURE, freedom)
    return _fewest(shows, fewest, variance), _fewest(shows, fewest, upper)


def _fewest(shows: Callable[[int, float], bool], fewest: int, variance: float) -> int:
    if variance == 0:
        return fewest
    for number in range(fewest, MOST):
        if shows(number, variance):
            return number
    raise ValueError(f"not even {MOST:,} of each would show an effect as small as this")
