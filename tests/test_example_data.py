"""Conclusions from data that others ship as examples, beside what scipy and statsmodels make of them, to six digits."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.datasets import elnino, fair, grunfeld, modechoice
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestIndPower, TTestPower
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from kling_sweeps.analysis import cells, design_for, effects, interaction


def same(found: object, expected: object) -> None:
    """Compare to six digits."""
    np.testing.assert_allclose(np.ravel(found).astype(float), np.ravel(expected).astype(float), rtol=1e-6)


def as_runs(data: pd.DataFrame, prompt: str, level: str, metrics: list[str]) -> pd.DataFrame:
    """Return a data set as runs: whom it is of is the prompt, what differs the level, and what is left are repeats."""
    runs = pd.DataFrame({"prompt": data[prompt].astype(str), "level": data[level], **data[metrics]})
    runs["prompt_text"], runs["status"] = runs["prompt"], "FINISHED"
    runs["sample"] = runs.groupby(["prompt", "level"]).cumcount()
    runs.attrs = {"params": ["prompt", "prompt_text", "level", "sample"], "metrics": metrics}
    return runs


@pytest.fixture(scope="module")
def warmth() -> pd.DataFrame:
    """Return the temperature of the sea, a row a year and a column a month: 61 years that have every month."""
    return elnino.load_pandas().data.set_index("YEAR")


@pytest.fixture(scope="module")
def firms() -> pd.DataFrame:
    """Return what eleven firms invested and were worth in each of ten years before 1945, and in ten after."""
    data = grunfeld.load_pandas().data
    return data.assign(half=np.where(data["year"] < 1945, "before", "later"))


def test_differences_between_months_are_those_of_paired_t_tests(warmth):
    """Gives, of each month and January over the years, the difference, interval and p value of scipy."""
    long = warmth.reset_index().melt("YEAR", var_name="month", value_name="temperature")
    long["month"] = long["month"].map({name: number for number, name in enumerate(warmth.columns)})
    table = effects(as_runs(long, "YEAR", "month", ["temperature"]), "level", ["temperature"])
    compared = table[table["verdict"] != "reference"]
    assert len(compared) == 11
    assert set(compared["scope"]) == {"general"}
    tests = [stats.ttest_rel(warmth[month], warmth["JAN"]) for month in warmth.columns[1:]]
    same(compared["p"], [test.pvalue for test in tests])
    intervals = [test.confidence_interval(0.95) for test in tests]
    same(compared["low"], [interval.low for interval in intervals])
    same(compared["high"], [interval.high for interval in intervals])
    same(compared["difference"], [(warmth[month] - warmth["JAN"]).mean() for month in warmth.columns[1:]])
    same(compared["p_adjusted"], multipletests(compared["p"], method="holm")[1])
    power = [
        TTestPower().solve_power(nobs=len(warmth), alpha=0.05 / 11, power=0.8)
        * (warmth[month] - warmth["JAN"]).std()
        for month in warmth.columns[1:]
    ]
    same(compared["smallest_detectable"], power)


def test_what_nobody_asked_for_is_corrected_as_by_statsmodels():
    """Corrects ways to travel, compared in five respects by the same people, by Holm if asked for and else by BH."""
    data = modechoice.load_pandas().data
    names = ["ttme", "invc", "invt", "gc"]
    runs = as_runs(data, "individual", "mode", names)
    by = {name: data.pivot(index="individual", columns="mode", values=name) for name in names}
    tests = [stats.ttest_rel(by[name][mode], by[name][1.0]) for name in names for mode in (2.0, 3.0, 4.0)]
    for method, asked in (("holm", names), ("fdr_bh", None)):
        table = effects(runs, "level", asked)
        compared = table[table["verdict"] != "reference"].set_index(["metric", "level"])
        compared = compared.loc[[(name, mode) for name in names for mode in (2.0, 3.0, 4.0)]]
        p = [test.pvalue for test in tests]
        same(compared["p"], p)
        same(compared["p_adjusted"], multipletests(p, method=method)[1])


def test_one_prompt_is_the_unequal_comparison_of_statsmodels():
    """Compares groups of a survey, in which nobody stands in two, as Welch's test and interval do."""
    data = fair.load_pandas().data.assign(all="all")
    table = effects(as_runs(data, "all", "religious", ["affairs"]), "level", ["affairs"])
    compared = table[table["verdict"] != "reference"].set_index("level")
    assert set(compared["scope"]) == {"these_prompts"}
    groups = {level: own["affairs"] for level, own in data.groupby("religious")}
    for level in (2.0, 3.0, 4.0):
        both = CompareMeans(DescrStatsW(groups[level]), DescrStatsW(groups[1.0]))
        same(compared.loc[level, ["low", "high"]], both.tconfint_diff(usevar="unequal"))
        same(compared.loc[level, "p"], both.ttest_ind(usevar="unequal")[1])
        same(compared.loc[level, "mean"], groups[level].mean())


def test_an_interaction_is_that_of_two_linear_models(firms):
    """Tells whether the war changed some firms otherwise than others by the F test of statsmodels."""
    found = interaction(as_runs(firms, "firm", "half", ["invest", "value"]), "level", "invest")
    whole = ols("invest ~ C(firm) * C(half)", firms).fit()
    table = anova_lm(ols("invest ~ C(firm) + C(half)", firms).fit(), whole)
    same([found.f, found.p], [table["F"].iloc[1], table["Pr(>F)"].iloc[1]])
    typed = anova_lm(whole, typ=2).loc["C(firm):C(half)"]
    same([found.f, found.p], [typed["F"], typed["PR(>F)"]])


def test_firms_in_general_and_their_means(firms):
    """Averages ten years of a firm before it counts once; cells have the interval of a mean over firms."""
    runs = as_runs(firms, "firm", "half", ["invest", "value"])
    (compared,) = effects(runs, "level", ["value"]).query("verdict != 'reference'").to_dict("records")
    by = firms.pivot_table(index="firm", columns="half", values="value")
    test = stats.ttest_rel(by["later"], by["before"])
    same([compared["p"], compared["low"], compared["high"]], [test.pvalue, *test.confidence_interval()])
    means = cells(runs, "level", "value").table.set_index("level")
    for half in ("before", "later"):
        same(means.loc[half, ["low", "high"]], DescrStatsW(by[half]).tconfint_mean())


@pytest.mark.parametrize("effect", [120.0, 400.0])
def test_designs_are_those_of_statsmodels(firms, effect):
    """Plans as many firms, one year each or three, as `TTestPower` asks for, from the spread that a pilot shows."""
    runs = as_runs(firms, "firm", "half", ["value"])
    table = design_for(runs, "level", "value", effect, scope="general")
    by = firms.pivot_table(index="firm", columns="half", values="value")
    whole = (by["later"] - by["before"]).var()
    noise = firms.groupby(["firm", "half"])["value"].var().mean()
    between = max(0.0, whole - 2 * noise / 10)
    limit = 10 / stats.chi2.ppf(0.2, 10)
    for row in table.itertuples():
        for factor, planned in ((1.0, row.prompts), (limit, row.prompts_most)):
            spread = np.sqrt(factor * (between + 2 * noise / row.repeats))
            asked = TTestPower().solve_power(effect_size=effect / spread, alpha=0.05, power=0.8)
            assert planned == max(3, np.ceil(asked))


def test_repeats_of_one_prompt_are_those_of_statsmodels():
    """Plans as many repeats of one prompt as `TTestIndPower` asks for in each of two groups."""
    data = fair.load_pandas().data.assign(all="all").query("religious in (1, 4)")
    (row,) = design_for(
        as_runs(data, "all", "religious", ["affairs"]), "level", "affairs", effect=1.0
    ).itertuples()
    groups = data.groupby("religious")["affairs"]
    noise = (groups.var() * (groups.size() - 1)).sum() / (len(data) - 2)
    asked = TTestIndPower().solve_power(effect_size=1.0 / np.sqrt(noise), alpha=0.05, power=0.8)
    assert row.repeats == np.ceil(asked)
