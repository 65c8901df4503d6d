"""Estimates of a difference or a mean, their errors, and what they could have shown; a column a metric.

In general, prompts are a sample of all prompts, and each counts once: Student's t over them. Of these
prompts alone, what varies is the noise between the repeats of a cell, pooled by level, with
Satterthwaite's degrees of freedom (1946).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from kling_sweeps.analysis.pairing import Pairing

GENERAL, THESE = "general", "these_prompts"
# So many prompts carry a claim about prompts in general, and from so many on it is made unasked.
FEWEST_PROMPTS, ENOUGH_PROMPTS = 3, 5


@dataclass(frozen=True)
class Side:
    """The cells of a level: a row a block, a column a metric. `squares` are summed about the cell's mean."""

    n: np.ndarray
    mean: np.ndarray
    squares: np.ndarray


@dataclass(frozen=True)
class Estimate:
    """A number a metric, with its standard error, degrees of freedom and how many prompts it is from.

    `error` is NaN where the claim can't be made, and 0 where nothing varies.
    """

    value: np.ndarray
    error: np.ndarray
    freedom: np.ndarray
    prompts: np.ndarray

    def interval(self, confidence: float) -> tuple[np.ndarray, np.ndarray]:
        """Return both ends of the confidence interval, NaN where there is none."""
        margin = self.tested_error * stats.t.ppf((1 + confidence) / 2, self.freedom)
        return self.value - margin, self.value + margin

    def p(self) -> np.ndarray:
        """Return the two-sided p value of no difference."""
        p: np.ndarray = 2 * stats.t.sf(np.abs(self.value) / self.tested_error, self.freedom)
        return p

    @property
    def tested_error(self) -> np.ndarray:
        """Return the error where anything varies, NaN elsewhere."""
        return np.where(self.error > 0, self.error, np.nan)


def side(values: np.ndarray, pairing: Pairing, level: int) -> Side:
    """Sum up the runs of a level by block."""
    runs, has = pairing.runs_of(level), ~np.isnan(values)
    known = np.where(has, values, 0.0)
    n = runs @ has
    mean = _ratio(runs @ known, n)
    deviations = np.where(has, values - np.where(np.isnan(mean), 0.0, mean)[pairing.block], 0.0)
    return Side(n, mean, runs @ deviations**2)


def difference(pairing: Pairing, own: Side, other: Side, scope: str) -> Estimate:
    """Estimate how far one level is above another, over the blocks that have both."""
    both = (own.n > 0) & (other.n > 0)
    return _averaged(pairing, np.where(both, own.mean - other.mean, np.nan), [own, other], scope)


def average(pairing: Pairing, own: Side, scope: str) -> Estimate:
    """Estimate the mean of a level, in which every prompt counts once."""
    return _averaged(pairing, own.mean, [own], scope)


def _averaged(pairing: Pairing, by_block: np.ndarray, sides: list[Side], scope: str) -> Estimate:
    """Average over the blocks of each prompt, and then over prompts."""
    has = ~np.isnan(by_block)
    blocks = pairing.prompts @ has
    prompts = (blocks > 0).sum(axis=0)
    by_prompt = _ratio(pairing.prompts @ np.where(has, by_block, 0.0), blocks)
    value = _ratio(np.nansum(by_prompt, axis=0), prompts)
    if scope == GENERAL:
        variance = _ratio(np.nansum((by_prompt - value) ** 2, axis=0), prompts - 1)
        error, freedom = np.sqrt(_ratio(variance, prompts)), prompts - 1.0
        error[prompts < FEWEST_PROMPTS] = np.nan
    else:
        weights = has * (pairing.prompts.T @ _ratio(1.0, blocks * prompts, otherwise=0.0))
        error, freedom = _noise(sides, has, weights)
    # What is left of equal numbers after rounding is no variation.
    scale = np.nanmax(np.abs([one.mean for one in sides]), axis=(0, 1), initial=0.0)
    error = np.where(error <= 1e-12 * scale, 0.0, error)
    return Estimate(value, error, np.where(freedom > 0, freedom, np.nan), prompts)


def _noise(sides: list[Side], has: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the error that the noise within cells makes, and its degrees of freedom."""
    total, spread = np.zeros(has.shape[1]), np.zeros(has.shape[1])
    for one in sides:
        freedom = np.where(has, one.n - 1, 0.0).sum(axis=0)
        pooled = _ratio(np.where(has, one.squares, 0.0).sum(axis=0), freedom)
        share = pooled * np.where(has, _ratio(weights**2, one.n), 0.0).sum(axis=0)
        total += share
        spread += _ratio(share**2, freedom)
    return np.sqrt(total), _ratio(total**2, spread)


def detectable(error: np.ndarray, freedom: np.ndarray, alpha: float, power: float = 0.8) -> np.ndarray:
    """Return the smallest difference that a test would show with some power, given its error."""
    known = (error > 0) & (freedom > 0)
    factors = [
        _factor(round(df, 2), alpha, power) if is_known else np.nan
        for df, is_known in zip(freedom, known, strict=True)
    ]
    smallest: np.ndarray = error * np.array(factors)
    return smallest


def power_of(effect: float, error: float, freedom: float, alpha: float) -> float:
    """Return how likely a two-sided t test shows an effect of this size."""
    critical = stats.t.isf(alpha / 2, freedom)
    return float(stats.ncf.sf(critical**2, 1, freedom, (effect / error) ** 2))


@cache
def _factor(freedom: float, alpha: float, power: float) -> float:
    """Return how many standard errors an effect has to be away from 0."""
    high = stats.t.isf(alpha / 2, freedom) + 5
    while power_of(high, 1.0, freedom, alpha) < power:
        high *= 2
    return float(optimize.brentq(lambda size: power_of(size, 1.0, freedom, alpha) - power, 0.0, high))


def _ratio(numerator: ArrayLike, denominator: ArrayLike, otherwise: float = np.nan) -> np.ndarray:
    """Divide where that can be done."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    result = np.full(denominator.shape, otherwise)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result
