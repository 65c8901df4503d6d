"""How many prompts and repeats it takes to see an effect, from runs that are there already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from scipy import stats

from kling_sweeps.analysis.comparison import claimed, in_percent, on_log_scale, scaled
from kling_sweeps.analysis.estimates import (
    ENOUGH_PROMPTS,
    FEWEST_PROMPTS,
    GENERAL,
    detectable,
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

# The prompts and repeats of a design, by the number of whichever of them is free.
Shape = Callable[[int], tuple[int, int]]


@dataclass(frozen=True)
class Pilot:
    """What runs tell for the design of further ones, of one metric on the scale that it is tested on.

    `noise` is the variance within cells with its degrees of freedom, `between` that of a difference from prompt
    to prompt, and `spread` both of one repeat; NaN where they are not known. `limit` is by how much each may
    be larger: its 80 % limit over what was seen.
    """

    scope: str
    is_log: bool
    levels: int
    prompts: int
    noise: float
    freedom: float
    between: float
    spread: float
    limit: float
    usd: float
    alpha: float

    @property
    def repeats(self) -> tuple[int, ...]:
        """Return how many repeats are worth a plan for prompts in general: one where noise is not known."""
        return REPEATS if self.freedom else REPEATS[:1]

    def variance(self, prompts: int, repeats: int) -> float:
        """Return the variance of a level's difference to the reference."""
        if self.scope != GENERAL:
            return 2 * self.noise / (prompts * repeats)
        return (self.between + 2 * self.noise / repeats if self.freedom else self.spread) / prompts

    def tested_freedom(self, prompts: int, repeats: int) -> int:
        """Return the degrees of freedom of its test."""
        return prompts - 1 if self.scope == GENERAL else 2 * prompts * (repeats - 1)


def pilot_of(
    runs: pd.DataFrame, factor: str, metric: str, scope: str | None = None, confidence: float = 0.95
) -> Pilot:
    """Take runs for a pilot; raise ValueError where they are too few, and say what is needed."""
    check_metrics(runs, [metric])
    pairing = paired(runs, factor)
    scope = claimed(pairing, scope)
    raw = values_of(runs, factor, [metric])
    is_log = on_log_scale(runs, [metric], raw)
    levels, prompts = len(pairing.levels), len(pairing.prompts)
    if levels < 2:
        raise ValueError(f"{factor} has one level, {pairing.levels[0]}; nothing is to be compared")
    sides = [side(scaled(raw, is_log), pairing, level) for level in range(levels)]
    free = float(sum(np.maximum(one.n - 1, 0).sum() for one in sides))
    noise = sum(one.squares[one.n > 0].sum() for one in sides) / free if free else np.nan
    if scope == GENERAL:
        estimates = [difference(pairing, one, sides[0], GENERAL) for one in sides[1:]]
        seen = min(float(one.prompts[0]) for one in estimates)
        if seen < ENOUGH_PROMPTS:
            raise ValueError(
                f"a claim about prompts in general is planned from {ENOUGH_PROMPTS} prompts on that have all "
                f"levels; these runs have {seen:.0f}"
            )
        spread = float(np.mean([one.error[0] ** 2 * one.prompts[0] for one in estimates]))
        made = sum(one.n.sum() for one in sides) / (levels * prompts)
        between = max(0.0, spread - 2 * noise / made) if free else np.nan
    else:
        seen, spread, between = free + 1, np.nan, np.nan
        if free < ENOUGH_NOISE:
            raise ValueError(
                f"the noise of these prompts is known from {ENOUGH_NOISE} degrees of freedom on, which are "
                f"runs beyond the first of a cell; these runs have {free:.0f}"
            )
    usd = runs["cost_usd"][runs["cost_usd"] > 0].mean() if "cost_usd" in runs else np.nan
    limit = (seen - 1) / stats.chi2.ppf(1 - SURE, seen - 1)
    alpha = (1 - confidence) / (levels - 1)
    pilot = Pilot(
        scope, bool(is_log[0]), levels, prompts, noise, free, between, spread, float(limit), float(usd), alpha
    )
    # What is left of equal numbers after rounding is no variation.
    if pilot.variance(1, 1) <= 1e-24 * np.nanmean(np.square(scaled(raw, is_log))):
        raise ValueError(f"{metric} does not vary in these runs, and what never varied can't be planned for")
    return pilot


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
    pilot = pilot_of(runs, factor, metric, scope, confidence)
    size = abs(np.log1p(effect / 100)) if pilot.is_log else abs(effect)
    if not 0 < size < np.inf:
        raise ValueError(
            f"effect={effect}: expected a difference, {'in percent' if pilot.is_log else 'not 0'}"
        )

    def needed(shape: Shape, fewest: int) -> tuple[int, int]:
        ends = [_fewest(pilot, shape, fewest, more, size, power) for more in (1.0, pilot.limit)]
        return ends[0], ends[1]

    def row(prompts: tuple[int, int], repeats: tuple[int, int]) -> dict[str, object]:
        videos = [pilot.levels * p * r for p, r in zip(prompts, repeats, strict=True)]
        ranges = {
            "prompts": prompts,
            "repeats": repeats,
            "videos": videos,
            "usd": [v * pilot.usd for v in videos],
        }
        return {"scope": pilot.scope} | {
            k + end: v[n] for k, v in ranges.items() for n, end in enumerate(("", "_most"))
        }

    if pilot.scope != GENERAL:
        return pd.DataFrame([row((pilot.prompts, pilot.prompts), needed(lambda n: (pilot.prompts, n), 2))])
    shapes: list[tuple[int, Shape]] = [(r, partial(_with_repeats, r)) for r in pilot.repeats]
    return pd.DataFrame([row(needed(shape, FEWEST_PROMPTS), (r, r)) for r, shape in shapes])


def detectable_for(
    runs: pd.DataFrame,
    factor: str,
    metric: str,
    usd: Sequence[float],
    power: float = 0.8,
    scope: str | None = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return the smallest effect of a factor that budgets would show, a row a budget and number of repeats.

    `runs` are a pilot, and the arguments as in `design_for`. A budget is of all levels together, with what is
    there already, at the price of a video of the pilot; one that is too small for any test has no row. Columns:
    `metric`, `scope`, `scale`, `usd` (the budget), `repeats`, `prompts`, `videos`, and the range from `smallest`,
    by the pilot's variance, to `smallest_most`, by its 80 % limit: how far above the reference a level has to be,
    in percent where `scale` is `log`. Raises ValueError for too small a pilot, or one without prices.
    """
    pilot = pilot_of(runs, factor, metric, scope, confidence)
    if not pilot.usd > 0:
        raise ValueError("what a video costs is not known: none of the runs has a price")
    rows = []
    for budget in usd:
        for prompts, repeats in _affordable(pilot, int(budget / pilot.usd) // pilot.levels):
            freedom = np.array([float(pilot.tested_freedom(prompts, repeats))])
            error = np.sqrt(np.array([pilot.variance(prompts, repeats)]))
            smallest = [
                in_percent(
                    detectable(error * np.sqrt(more), freedom, pilot.alpha, power), np.array([pilot.is_log])
                )[0]
                for more in (1.0, pilot.limit)
            ]
            rows.append(
                {
                    "metric": metric,
                    "scope": pilot.scope,
                    "scale": "log" if pilot.is_log else "raw",
                    "usd": budget,
                    "repeats": repeats,
                    "prompts": prompts,
                    "videos": pilot.levels * prompts * repeats,
                    "smallest": smallest[0],
                    "smallest_most": smallest[1],
                }
            )
    columns = ("metric", "scope", "scale", "usd", "repeats", "prompts", "videos", "smallest", "smallest_most")
    return pd.DataFrame(rows, columns=columns)


def _with_repeats(repeats: int, prompts: int) -> tuple[int, int]:
    return prompts, repeats


def _fewest(pilot: Pilot, shape: Shape, fewest: int, more: float, size: float, power: float) -> int:
    """Return the smallest number whose design shows an effect, with so many times the variance that was seen."""
    for number in range(fewest, MOST):
        error = np.sqrt(more * pilot.variance(*shape(number)))
        if power_of(size, error, pilot.tested_freedom(*shape(number)), pilot.alpha) >= power:
            return number
    raise ValueError(f"not even {MOST:,} of each would show an effect as small as this")


def _affordable(pilot: Pilot, videos: int) -> list[tuple[int, int]]:
    """Return the numbers of prompts and repeats that so many videos a level make, of those that allow a test."""
    if pilot.scope != GENERAL:
        return [(pilot.prompts, videos // pilot.prompts)] if videos >= 2 * pilot.prompts else []
    return [(videos // repeats, repeats) for repeats in pilot.repeats if videos // repeats >= FEWEST_PROMPTS]
