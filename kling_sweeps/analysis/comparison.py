"""One level of a factor compared with another, a row a metric, before anything is judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache

import numpy as np
import pandas as pd
from scipy import stats

from kling_sweeps.analysis.estimates import (
    ENOUGH_PROMPTS,
    FEWEST_PROMPTS,
    GENERAL,
    THESE,
    Estimate,
    detectable,
    difference,
    side,
)
from kling_sweeps.analysis.likeness import Unlike
from kling_sweeps.analysis.pairing import Pairing, paired, values_of
from kling_sweeps.metrics import declared

FOUND, WORTH_A_LOOK, NOT_DISTINGUISHABLE = "found", "worth a look", "not distinguishable"
REFERENCE = "reference"
ANSWERS = (FOUND, WORTH_A_LOOK, NOT_DISTINGUISHABLE)
NOTHING_VARIES = "nothing varies"
NOT_REPEATED = "no cell has repeats, such as sample=0,1"
# Failures that differ between two levels by less than this chance are warned of.
UNLIKELY = 0.05


def compared(
    runs: pd.DataFrame, factor: str, names: Sequence[str], base: int, scope: str, confidence: float
) -> pd.DataFrame:
    """Return how every level differs from that of number `base`, a row a level and metric, not yet judged.

    `error` and `freedom` are on the scale that is tested; `verdict` is `reference`, or why nothing can be
    tested, or "".
    """
    pairing = paired(runs, factor)
    values = values_of(runs, factor, names)
    is_log = on_log_scale(runs, names, values)
    levels = range(len(pairing.levels))
    unlike = Unlike(runs[runs["status"] == "FINISHED"], factor, pairing.levels[base])
    table = pd.concat(
        [_of_level(pairing, values, is_log, level, base, scope, confidence) for level in levels],
        ignore_index=True,
    )
    table["metric"] = [*names] * len(levels)
    table["warning"] = [
        "; ".join(filter(None, [warning, _log_warning(runs, name, scale), *unlike(level, name)]))
        for name, scale, level, warning in zip(
            table["metric"], table["scale"], table["level"], table["warning"], strict=True
        )
    ]
    table["confidence"] = confidence
    table["p_adjusted"] = table["smallest_detectable"] = np.nan
    return table


def seen_from(rows: pd.DataFrame, alpha: float) -> np.ndarray:
    """Return how large a difference the same way as each row's a test of level alpha would show, as it is told."""
    seen = detectable(rows["error"].to_numpy(), rows["freedom"].to_numpy(), alpha)
    # In percent a decrease is smaller than the increase that undoes it.
    way = np.where(rows["difference"] < 0, -1, 1)
    told: np.ndarray = np.abs(in_percent(way * seen, (rows["scale"] == "log").to_numpy()))
    return told


def claimed(pairing: Pairing, scope: str | None) -> str:
    """Return the scope that is claimed, which failures don't change; raise ValueError for no scope."""
    if scope is None:
        return GENERAL if len(pairing.prompts) >= ENOUGH_PROMPTS else THESE
    if scope not in (GENERAL, THESE):
        raise ValueError(f"scope={scope!r}: expected {GENERAL!r}, {THESE!r} or None")
    return scope


def on_log_scale(runs: pd.DataFrame, names: Sequence[str], values: np.ndarray) -> np.ndarray:
    """Tell which metrics are compared by their ratio: those that say so, and have no value of 0."""
    known = np.where(np.isnan(values), 1.0, values)
    return np.array([_is_ratio(runs, name) for name in names], dtype=bool) & (known > 0).all(axis=0)


def scaled(values: np.ndarray, is_log: np.ndarray) -> np.ndarray:
    """Return the values, or the logarithms of those on the log scale."""
    return np.where(is_log, np.log(np.where(is_log, values, 1.0)), values)


def in_percent(value: np.ndarray, is_log: np.ndarray) -> np.ndarray:
    """Return a difference as it is told: of logarithms in percent."""
    return np.where(is_log, 100 * np.expm1(np.where(is_log, value, 0.0)), value)


def holm(p: np.ndarray) -> np.ndarray:
    """Return p values corrected for their number (Holm 1979)."""
    order = np.argsort(p)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return corrected


def corrected(p: np.ndarray, correct: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return p values as `correct` has them for their number; NaN are not counted, and stay."""
    tested, found = ~np.isnan(p), np.full(len(p), np.nan)
    if tested.any():
        found[tested] = correct(p[tested])
    return found


def _of_level(
    pairing: Pairing,
    values: np.ndarray,
    is_log: np.ndarray,
    level: int,
    base: int,
    scope: str,
    confidence: float,
) -> pd.DataFrame:
    """Return the rows of a level, a metric each, not yet judged; `error` is on the scale that is tested."""
    own, other = (side(scaled(values, is_log), pairing, which) for which in (level, base))
    estimate = difference(pairing, own, other, scope)
    low, high = estimate.interval(confidence)
    is_base = level == base
    n = own.n.sum(axis=0).astype(int)
    runs = int((pairing.level == level).sum())
    raw = side(values, pairing, level)
    return pd.DataFrame(
        {
            "level": [pairing.levels[level]] * values.shape[1],
            "scope": scope,
            "scale": np.where(is_log, "log", "raw"),
            "n_runs": n,
            "failed": runs - n,
            "prompts": estimate.prompts,
            "mean": np.divide(
                np.nansum(raw.n * raw.mean, axis=0), n, out=np.full(len(n), np.nan), where=n > 0
            ),
            "difference": in_percent(estimate.value, is_log),
            "low": np.nan if is_base else in_percent(low, is_log),
            "high": np.nan if is_base else in_percent(high, is_log),
            "p": np.nan if is_base else estimate.p(),
            "error": estimate.error,
            "freedom": estimate.freedom,
            "verdict": REFERENCE if is_base else _reasons(pairing, estimate, n, scope),
            "reference": [pairing.levels[base]] * len(n),
            "warning": "" if is_base else list(_warnings(pairing, own.n, other.n, level, base)),
        }
    )


def _reasons(pairing: Pairing, estimate: Estimate, n: np.ndarray, scope: str) -> list[str]:
    """Return why nothing can be tested, "" where something can."""
    found = []
    for measured, prompts, error in zip(n, estimate.prompts.tolist(), estimate.error, strict=True):
        if not measured:
            found.append("no run has it")
        elif not prompts:
            found.append("no prompt has both levels, all else equal")
        elif error == 0:
            found.append(NOTHING_VARIES)
        elif scope == GENERAL and prompts < FEWEST_PROMPTS:
            found.append(
                f"{prompts} prompt{'s' * (prompts > 1)} can't carry a claim about prompts in general"
            )
        else:
            found.append("" if error > 0 else NOT_REPEATED)
    return found


def _warnings(pairing: Pairing, own: np.ndarray, other: np.ndarray, level: int, base: int) -> Iterator[str]:
    """Yield, a metric each, what may bias a comparison, from how many runs each block has of both levels."""
    planned = [pairing.runs_of(which).sum(axis=1)[:, None] for which in (level, base)]
    both = (planned[0] > 0) & (planned[1] > 0)
    lost = (both & ((own == 0) | (other == 0))).sum(axis=0)
    tied = f"{', '.join(pairing.tied)} changed with {pairing.factor}" if pairing.tied else ""
    made = [int(each.sum()) for each in planned]
    left = [each.sum(axis=0).astype(int).tolist() for each in (own, other)]
    for one, two, gone in zip(*left, lost.tolist(), strict=True):
        if not (one and two):
            yield ""  # which is why there is no answer
            continue
        failures = made[0] - one, made[1] - two
        said = []
        if _is_unlikely(failures[0], one, failures[1], two):
            said.append(
                f"{failures[0]} of {made[0]} runs lack it here, {failures[1]} of {made[1]} at {pairing.levels[base]}"
            )
        if gone:
            said.append(f"in {gone} of {int(both.sum())} pairs of cells one has no run with it")
        yield "; ".join([*said, *[tied] * bool(tied)])


def _is_ratio(runs: pd.DataFrame, name: str) -> bool:
    value = declared().get(name)
    return value.scale == "log" if value else name in runs.attrs.get("ratios", ())


def _log_warning(runs: pd.DataFrame, name: str, scale: str) -> str:
    is_kept = scale == "raw" and _is_ratio(runs, name)
    return "some values are 0, so differences are not in percent" if is_kept else ""


@cache
def _is_unlikely(failed: int, left: int, failed_other: int, left_other: int) -> bool:
    """Tell whether two levels failed too differently for chance, by Fisher's exact test."""
    return bool(stats.fisher_exact([[failed, left], [failed_other, left_other]]).pvalue < UNLIKELY)
