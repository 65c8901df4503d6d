"""Whether a factor does the same to every prompt."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from kling_sweeps.analysis.comparison import holm, in_percent, on_log_scale, scaled
from kling_sweeps.analysis.estimates import Side, side
from kling_sweeps.analysis.pairing import Pairing, check_metrics, paired, reference_of, values_of


@dataclass(frozen=True)
class Interaction:
    """Whether an effect differs by prompt, by an F test, and by how much in each.

    `prompts` has a row a prompt and level: the `difference` to the reference, the median `of_others`
    (both in percent on the log scale), the `p_adjusted` by Holm of both being equal, and whether it `stands_out`.
    """

    factor: str
    metric: str
    f: float
    p: float
    prompts: pd.DataFrame
    confidence: float

    def __str__(self) -> str:
        said = f"what {self.factor} does to {self.metric}"
        if self.p > 1 - self.confidence:
            return f"Whether {said} differs by prompt can't be told (p = {self.p:.2g}); that does not mean it is equal."
        out = self.prompts.loc[self.prompts["stands_out"], "prompt"].unique()
        which = (
            f"{', '.join(out)} stand{'s' * (len(out) == 1)} out"
            if len(out)
            else "no single prompt stands out"
        )
        return f"{said[0].upper()}{said[1:]} differs by prompt (p = {self.p:.2g}); {which}."


def interaction(
    runs: pd.DataFrame, factor: str, metric: str, reference: object = None, confidence: float = 0.95
) -> Interaction:
    """Test whether an effect differs by prompt, against the noise between the repeats of a cell.

    Raises ValueError where there are fewer than two prompts, or no cell has repeats.
    """
    check_metrics(runs, [metric])
    pairing = paired(runs, factor)
    base = reference_of(pairing.levels, factor, reference)
    raw = values_of(runs, factor, [metric])
    is_log = on_log_scale(runs, [metric], raw)
    values = scaled(raw, is_log)
    f, p, noise, freedom = _tested(pairing, values[:, 0])
    sides = [side(values, pairing, level) for level in range(len(pairing.levels))]
    rows = [
        row
        for level in range(len(sides))
        if level != base
        for row in _by_prompt(pairing, sides, level, base, noise)
    ]
    table = pd.DataFrame(rows, columns=["prompt", "level", "difference", "of_others", "error"])
    away = (table["difference"] - table["of_others"]).abs() / table["error"]
    table["p_adjusted"] = holm(2 * stats.t.sf(away.to_numpy(), freedom))
    table["stands_out"] = (table["p_adjusted"] <= 1 - confidence) & (p <= 1 - confidence)
    for name in ("difference", "of_others"):
        table[name] = in_percent(table[name].to_numpy(), np.resize(is_log, len(table)))
    table = table.drop(columns="error").rename(columns={"level": "level" if factor in table else factor})
    return Interaction(factor, metric, f, p, table, confidence)


def _tested(pairing: Pairing, values: np.ndarray) -> tuple[float, float, float, float]:
    """Return F and p of the interaction, and the noise that is left with its degrees of freedom."""
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    prompt = pairing.prompts.argmax(axis=0)[pairing.block]
    frame = pd.DataFrame({"value": values, "block": pairing.block, "prompt": prompt, "level": pairing.level})
    frame = frame.dropna()
    if frame["prompt"].nunique() < 2 or frame["level"].nunique() < 2:
        raise ValueError(f"it takes two prompts and two levels of {pairing.factor}")
    with warnings.catch_warnings(action="ignore"):  # prompts of one block make columns that say the same
        whole = ols("value ~ C(block) + C(prompt):C(level)", frame).fit()
    if not whole.df_resid >= 1 or whole.ssr <= 1e-20 * (frame["value"] ** 2).sum():
        raise ValueError("no cell has repeats, by which the noise is known")
    table = anova_lm(ols("value ~ C(block) + C(level)", frame).fit(), whole)
    return (
        float(table["F"].iloc[1]),
        float(table["Pr(>F)"].iloc[1]),
        float(whole.mse_resid),
        float(whole.df_resid),
    )


def _by_prompt(
    pairing: Pairing, sides: list[Side], level: int, base: int, noise: float
) -> list[tuple[str, object, float, float, float]]:
    """Return a row for each prompt that has both levels: its effect, that of the others, and the error."""
    own, other = (sides[which] for which in (level, base))
    both = ((own.n > 0) & (other.n > 0))[:, 0]
    blocks = pairing.prompts @ both
    has = blocks > 0
    gaps = np.where(both, (own.mean - other.mean)[:, 0], 0.0)
    effect = (pairing.prompts @ gaps)[has] / blocks[has]
    spread = np.where(both, 1 / np.maximum(own.n, 1)[:, 0] + 1 / np.maximum(other.n, 1)[:, 0], 0.0)
    variance = noise * (pairing.prompts @ spread)[has] / blocks[has] ** 2
    names = np.array(pairing.prompt_names, dtype=object)[has]
    if len(names) < 2:
        return []
    rest = len(names) - 1
    of_others = np.array([np.median(np.delete(effect, number)) for number in range(len(effect))])
    # The median, since one prompt that stands out moves the mean; its error is larger by up to sqrt(pi / 2).
    error = np.sqrt(variance + (np.pi / 2 if rest > 2 else 1.0) * (variance.sum() - variance) / rest**2)
    columns = (names, [pairing.levels[level]] * len(names), effect, of_others, error)
    return list(zip(*columns, strict=True))
