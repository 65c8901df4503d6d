"""What is concluded from runs, against scipy, statsmodels and plain transcriptions of the formulas."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestIndPower, TTestPower

from kling_sweeps.analysis import (
    cells,
    conclusions,
    design_for,
    effects,
    factors,
    interaction,
    statement,
    statements,
)

LEVELS = (0.1, 0.5, 0.9)
CONSTANT = {"model": "kling", "endpoint": "fal/kling"}


def table_of(
    rows: Iterable[Mapping], metrics: Iterable[str] = ("luma_mean",), **attrs: object
) -> pd.DataFrame:
    """Return runs as `runs_df` gives them; what is no metric of a row is a param, and what has no status finished."""
    frame = pd.DataFrame([{"status": "FINISHED", "sample": 0, **CONSTANT, **row} for row in rows])
    metrics = [name for name in metrics if name in frame]
    frame.attrs = {"params": [n for n in frame if n not in ("status", *metrics)], "metrics": metrics, **attrs}
    return frame


def drawn(
    prompts: int,
    repeats: int = 1,
    levels: Iterable[object] = LEVELS,
    seed: int = 0,
    effect: Callable[[object, int], float] = lambda level, prompt: 0.0,
    metrics: Iterable[str] = ("luma_mean",),
    **settings: Iterable[object],
) -> pd.DataFrame:
    """Draw runs with noise of 1 about a mean for each prompt."""
    noise, metrics = np.random.default_rng(seed), list(metrics)
    combinations = product(range(prompts), levels, range(repeats), *settings.values())
    rows = []
    for prompt, level, sample, *given in combinations:
        texts = {"prompt": f"p{prompt}", "prompt_text": f"text {prompt}"}
        values = {name: 10 + 3 * prompt + effect(level, prompt) + noise.normal() for name in metrics}
        settings_of = dict(zip(settings, given, strict=True))
        rows.append({**texts, "cfg_scale": level, "sample": sample, **settings_of, **values})
    return table_of(rows, metrics)


def row(table: pd.DataFrame, level: object, metric: str = "luma_mean") -> pd.Series:
    """Return the one row of a level and metric; the level is in the second column."""
    (found,) = table[(table["metric"] == metric) & (table.iloc[:, 1] == level)].iloc
    return found


def test_prompts_in_general_are_a_t_test_over_prompts():
    """Agrees with scipy's test of one difference a prompt, whatever the number of repeats."""
    runs = drawn(6, 3).drop(index=[4, 20, 33])
    table = effects(runs, "cfg_scale", ["luma_mean"])
    means = runs.groupby(["prompt", "cfg_scale"])["luma_mean"].mean().unstack()
    for level in LEVELS[1:]:
        test = stats.ttest_1samp(means[level] - means[0.1], 0)
        found = row(table, level)
        assert (found["scope"], found["prompts"]) == ("general", 6)
        assert found["difference"] == pytest.approx((means[level] - means[0.1]).mean())
        assert (found["low"], found["high"]) == pytest.approx(tuple(test.confidence_interval(0.95)))
        assert found["p"] == pytest.approx(test.pvalue)


def test_videos_that_can_not_be_compared_are_warned_of():
    """Warns where levels differ in what a metric depends on, and says of which files; others compare."""
    names = ("sharpness", "edge_width", "temporal_information", "cuts", "motion")
    runs = drawn(3, 2, metrics=(*names, "width", "height", "fps", "duration_s"))
    runs["width"], runs["height"], runs["duration_s"] = 1280.0, 720.0, 5.04
    runs["fps"] = np.where(runs["cfg_scale"] == 0.9, 30.0, 24.0)
    runs.loc[runs["cfg_scale"] == 0.5, ["width", "height"]] = 720.0, 1280.0
    table = effects(runs, "cfg_scale", names)
    size = "it depends on the size of a video, which is 720 x 1280 px here and 1280 x 720 px at 0.1"
    rate = "it depends on the rate of a video, which is 30 frames a second here and 24 frames a second at 0.1"
    warned = {(name, level): row(table, level, name)["warning"] for name in names for level in LEVELS}
    assert {key: text for key, text in warned.items() if text} == {
        ("sharpness", 0.5): size,
        ("temporal_information", 0.5): size,
        ("temporal_information", 0.9): rate,
    }
    assert f"Mind: {size}." in statement(row(table, 0.5, "sharpness"))


def test_other_settings_of_a_prompt_are_no_more_prompts():
    """Averages the blocks of a prompt before prompts are compared, also where one prompt has more of them."""
    runs = drawn(5, aspect_ratio=("16:9", "9:16"), duration=(5, 10))
    runs = runs[(runs["prompt"] != "p2") | (runs["duration"] == 5)]
    means = runs.groupby(["prompt", "aspect_ratio", "duration", "cfg_scale"])["luma_mean"].mean().unstack()
    by_prompt = (means[0.9] - means[0.1]).groupby("prompt").mean()
    test = stats.ttest_1samp(by_prompt, 0)
    found = row(effects(runs, "cfg_scale"), 0.9)
    assert found["prompts"] == 5
    assert found["p"] == pytest.approx(test.pvalue)


def test_these_prompts_alone_are_told_by_the_noise_within_cells():
    """Agrees with a transcription of the pooled, Satterthwaite interval on cells of unequal size."""
    runs = drawn(3, 3, duration=(5, 10)).drop(index=[0, 7, 11, 30])
    runs = runs[(runs["prompt"] != "p1") | (runs["duration"] == 5)]
    estimate, variance, spread = 0.0, 0.0, 0.0
    for level, sign in ((0.9, 1), (0.1, -1)):
        own = runs[runs["cfg_scale"] == level].groupby(["prompt", "duration"])["luma_mean"]
        blocks = own.size().groupby("prompt").transform("size")
        weights = 1 / (3 * blocks)
        free = (own.size() - 1).sum()
        pooled = ((own.size() - 1) * own.var().fillna(0)).sum() / free
        share = pooled * (weights**2 / own.size()).sum()
        estimate += sign * (weights * own.mean()).sum()
        variance, spread = variance + share, spread + share**2 / free
    error, freedom = np.sqrt(variance), variance**2 / spread
    found = row(effects(runs, "cfg_scale", confidence=0.9), 0.9)
    assert (found["scope"], found["prompts"]) == ("these_prompts", 3)
    assert found["difference"] == pytest.approx(estimate)
    assert found["high"] - found["difference"] == pytest.approx(error * stats.t.ppf(0.95, freedom))
    assert found["p"] == pytest.approx(2 * stats.t.sf(abs(estimate) / error, freedom))


def test_one_prompt_is_a_welch_test():
    """Agrees with scipy's Welch test where there is one prompt."""
    runs = drawn(1, 5, levels=(0.1, 0.9)).drop(index=[2])
    sides = [runs.loc[runs["cfg_scale"] == level, "luma_mean"] for level in (0.9, 0.1)]
    test = stats.ttest_ind(*sides, equal_var=False)
    found = row(effects(runs, "cfg_scale"), 0.9)
    assert (found["low"], found["high"]) == pytest.approx(tuple(test.confidence_interval()))
    assert found["p"] == pytest.approx(test.pvalue)


@pytest.mark.parametrize(("prompts", "scope"), [(1, "these_prompts"), (4, "these_prompts"), (5, "general")])
def test_the_claim_depends_on_the_prompts_of_the_design(prompts, scope):
    """Speaks of prompts in general from five on; failures don't switch it in silence."""
    runs = drawn(prompts, 2)
    runs.loc[runs["prompt"] == "p0", "status"] = "FAILED"
    assert set(effects(runs, "cfg_scale")["scope"]) == {scope}
    assert set(effects(runs, "cfg_scale", scope="general")["scope"]) == {"general"}


@pytest.mark.parametrize(
    ("prompts", "repeats", "scope", "verdict"),
    [
        (1, 3, "general", "1 prompt can't carry a claim about prompts in general"),
        (2, 3, "general", "2 prompts can't carry a claim about prompts in general"),
        (3, 1, "these_prompts", "no cell has repeats, such as sample=0,1"),
    ],
)
def test_what_can_not_be_told_says_why(prompts, repeats, scope, verdict):
    """Gives the difference without an interval, and the reason as the verdict."""
    found = row(effects(drawn(prompts, repeats), "cfg_scale", scope=scope), 0.9)
    assert found["verdict"] == verdict
    assert np.isfinite(found["difference"])
    assert np.isnan(found[["low", "high", "p", "p_adjusted", "smallest_detectable"]].astype(float)).all()


def test_what_changes_with_the_factor_does_not_split_blocks():
    """Compares two models whose own arguments differ, and says what changed with the model."""
    own = {"a": {"cfg_scale": 0.5, "speed": np.nan}, "b": {"cfg_scale": np.nan, "speed": 2.0}}
    runs = table_of(
        {
            "prompt": f"p{n}",
            "prompt_text": f"t{n}",
            "model": m,
            "endpoint": m,
            **own[m],
            "luma_mean": n**2 + k,
        }
        for n, (k, m) in product(range(5), enumerate("ab"))
    )
    found = row(effects(runs, "model"), "b")
    assert (found["prompts"], found["difference"]) == (5, 1)
    assert found["warning"] == "cfg_scale, speed changed with model"


def test_runs_that_share_nothing_are_not_compared():
    """Compares no prompt with another, and says that none has both levels."""
    runs = table_of(
        {"prompt": prompt, "prompt_text": prompt, "cfg_scale": level, "sample": sample, "luma_mean": sample}
        for (prompt, level), sample in product([("a", 0.1), ("b", 0.9)], range(3))
    )
    found = row(effects(runs, "cfg_scale"), 0.9)
    assert (found["prompts"], found["verdict"]) == (0, "no prompt has both levels, all else equal")
    assert np.isnan(found["difference"])


def test_a_factor_of_a_template_makes_the_text():
    """Pairs by the other factors of the template, each combination of which is a prompt."""
    noise = np.random.default_rng(0)
    runs = table_of(
        {
            "prompt": "scene",
            "prompt_text": f"A scene, {camera}, {light}",
            "camera": camera,
            "light": light,
            "luma_mean": noise.normal(),
        }
        for light, camera in product("vwxyz", ("dolly in", "static wide shot"))
    )
    found = row(effects(runs, "camera"), "static wide shot")
    assert (found["prompts"], found["scope"], found["warning"]) == (5, "general", "")


def test_a_factor_within_a_quoted_text():
    """Pairs the texts of a template on the command line, which are their own ids, by what else is in them."""
    runs = table_of(
        {"prompt": text, "prompt_text": text, "name": name, "luma_mean": float(n)}
        for n, (animal, name) in enumerate(product(("fox", "owl"), ("Ann", "Ben")))
        for text in [f"A {animal} called {name}"]
    )
    assert row(effects(runs, "name"), "Ben")[["prompts", "difference"]].tolist() == [2, 1]


def test_an_edited_prompt_is_another_prompt():
    """Keeps the old and the new text of a prompt apart, and the model and its endpoint together."""
    runs = table_of(
        {
            "prompt": "a",
            "prompt_text": text,
            "cfg_scale": level,
            "model": model,
            "endpoint": model,
            "luma_mean": n**2,
        }
        for n, (text, level, model) in enumerate(product(("old", "new"), (0.1, 0.9), "ab"))
    )
    assert row(effects(runs, "cfg_scale"), 0.9)["prompts"] == 2
    assert row(effects(runs, "model"), "b")["prompts"] == 2
    assert row(effects(runs, "endpoint"), "b")["prompts"] == 2


def test_a_param_that_some_runs_lack():
    """Makes a block of the runs that have no such param."""
    runs = drawn(1, levels=(0.1, 0.9), negative_prompt=(None, "", "blur"), seed=3)
    runs["luma_mean"] = np.arange(6.0)
    assert row(effects(runs, "cfg_scale"), 0.9)["difference"] == 3


def test_the_prompt_itself_is_compared_within_its_settings():
    """Takes the noise within cells where the prompts are the levels."""
    runs = drawn(2, 4, levels=(0.5,))
    found = row(effects(runs, "prompt"), "p1")
    one, two = (runs.loc[runs["prompt"] == prompt, "luma_mean"] for prompt in ("p0", "p1"))
    assert found["scope"] == "these_prompts"
    assert found["p"] == pytest.approx(stats.ttest_ind(two, one, equal_var=False).pvalue)


def test_ratio_metrics_are_compared_in_percent():
    """Compares the logarithms of what declares itself a ratio, and tells factors as percent."""
    runs = drawn(6, metrics=["motion", "luma_mean"])
    runs["motion"] = np.exp(runs["motion"] / 10)
    table = effects(runs, "cfg_scale")
    logs = np.log(runs.pivot(index="prompt", columns="cfg_scale", values="motion"))
    test = stats.ttest_1samp(logs[0.9] - logs[0.1], 0)
    found = row(table, 0.9, "motion")
    assert found["scale"] == "log"
    assert row(table, 0.9)["scale"] == "raw"
    ends = tuple(100 * np.expm1(test.confidence_interval()))
    assert (found["low"], found["high"]) == pytest.approx(ends)
    assert found["difference"] == pytest.approx(100 * np.expm1((logs[0.9] - logs[0.1]).mean()))
    assert found["mean"] == pytest.approx(runs.loc[runs["cfg_scale"] == 0.9, "motion"].mean())


def test_a_ratio_metric_that_is_0_stays_as_it_is():
    """Says that differences are not in percent where a value has no logarithm."""
    runs = drawn(5, metrics=["motion"])
    runs.loc[3, "motion"] = 0.0
    found = row(effects(runs, "cfg_scale"), 0.9, "motion")
    assert (found["scale"], found["warning"]) == (
        "raw",
        "some values are 0, so differences are not in percent",
    )


def test_what_was_asked_for_is_corrected_by_holm_and_the_rest_by_its_false_discoveries():
    """Agrees with statsmodels on both families, and keeps them apart."""
    names = ["motion", "luma_mean", "cuts", "saturation_mean"]
    runs = drawn(8, metrics=names, effect=lambda level, prompt: 2 * level)
    runs.attrs["goal"] = {"cuts": "min", "motion": "max"}
    table = effects(runs, "cfg_scale")
    assert list(table["metric"].unique()) == ["cuts", "motion", "luma_mean", "saturation_mean"]
    compared = table[table["verdict"] != "reference"]
    for chosen, method, word in (
        (compared["goal"] != "", "holm", "found"),
        (compared["goal"] == "", "fdr_bh", "worth a look"),
    ):
        family = compared[chosen]
        rejected, corrected, *_ = multipletests(family["p"], method=method)
        assert list(family["p_adjusted"]) == pytest.approx(list(corrected))
        assert list(family["verdict"]) == [word if found else "not distinguishable" for found in rejected]
    assert set(effects(runs, "cfg_scale", ["luma_mean"])["verdict"]) <= {
        "found",
        "not distinguishable",
        "reference",
    }


def test_the_smallest_detectable_effect_has_the_power_it_promises():
    """Agrees with statsmodels' power of a paired t test, at the correction's strictest step."""
    runs = drawn(7)
    found = row(effects(runs, "cfg_scale", ["luma_mean"]), 0.9)
    values = runs.pivot(index="prompt", columns="cfg_scale", values="luma_mean")
    size = TTestPower().solve_power(nobs=7, alpha=0.05 / 2, power=0.8)
    assert found["smallest_detectable"] == pytest.approx(size * (values[0.9] - values[0.1]).std(), rel=1e-5)


def test_failures_are_counted_and_warned_of():
    """Leaves out runs that failed, whatever they logged, and warns where a level made them fail."""
    runs = drawn(8, 2)
    runs.loc[(runs["cfg_scale"] == 0.9) & (runs["prompt"] < "p3"), "status"] = "FAILED"
    table = effects(runs, "cfg_scale")
    found = row(table, 0.9)
    assert (found["n_runs"], found["failed"], found["prompts"]) == (10, 6, 5)
    assert (
        found["warning"]
        == "6 of 16 runs lack it here, 0 of 16 at 0.1; in 3 of 8 pairs of cells one has no run with it"
    )
    assert row(table, 0.5)["warning"] == ""
    assert "6 without it were left out; if cfg_scale makes them fail, this is biased." in statement(found)


def test_a_level_where_everything_failed_keeps_its_row():
    """Says that nothing was measured rather than nothing, or an error."""
    runs = drawn(2)
    runs.loc[runs["cfg_scale"] == 0.9, "status"] = "FAILED"
    found = row(effects(runs, "cfg_scale"), 0.9)
    assert (found["n_runs"], found["prompts"], found["verdict"]) == (0, 0, "no run has it")
    assert np.isnan(found[["mean", "difference", "low", "p_adjusted"]].astype(float)).all()


def test_a_metric_that_one_run_lacks():
    """Compares the prompts that have both, as if the other were not there."""
    runs = drawn(6, metrics=["luma_mean", "cuts"])
    runs.loc[0, "cuts"] = np.nan
    table = effects(runs, "cfg_scale")
    assert (row(table, 0.9, "cuts")["prompts"], row(table, 0.9)["prompts"]) == (5, 6)
    alone = effects(runs[runs["prompt"] != "p0"], "cfg_scale")
    assert row(table, 0.9, "cuts")["p"] == pytest.approx(row(alone, 0.9, "cuts")["p"])


@pytest.mark.parametrize("scope", ["general", "these_prompts"])
def test_where_nothing_varies_nothing_is_tested(scope):
    """Tells a difference that is the same everywhere, without an interval, a p value or a warning."""
    runs = drawn(5, 2, levels=(5, 10))
    runs["luma_mean"] = 0.1 + runs["cfg_scale"] * 0.01
    found = row(effects(runs, "cfg_scale", scope=scope), 10)
    assert found["verdict"] == "nothing varies"
    assert found["difference"] == pytest.approx(0.05)
    assert np.isnan(found[["low", "high", "p", "p_adjusted"]].astype(float)).all()


def test_the_reference_can_be_chosen():
    """Turns the sign of the difference around with the reference, whose own row compares nothing."""
    runs = drawn(5, levels=(0.1, 0.9))
    up, down = effects(runs, "cfg_scale"), effects(runs, "cfg_scale", reference=0.9)
    assert row(up, 0.9)["difference"] == pytest.approx(-row(down, 0.1)["difference"])
    own = row(down, 0.9)
    assert (own["difference"], own["n_runs"], own["verdict"], own["reference"]) == (0, 5, "reference", 0.9)
    assert np.isnan(own[["low", "high", "p_adjusted"]].astype(float)).all()


def test_levels_are_ordered_as_numbers():
    """Takes 5 s for less than 10 s, and for the reference; metrics stand in their order."""
    runs = drawn(2, levels=(10, 5), metrics=["luma_mean", "cuts"])
    table = effects(runs, "cfg_scale")
    assert list(table["cfg_scale"]) == [5, 10] * 2
    assert list(table["metric"]) == ["luma_mean"] * 2 + ["cuts"] * 2
    assert list(effects(runs, "prompt", ["cuts"])["prompt"]) == ["p0", "p1"]


def test_a_factor_named_as_a_column():
    """Keeps both, the factor under MLflow's own word for it."""
    runs = drawn(2, 2, levels=("cold", "warm")).rename(columns={"cfg_scale": "mean"})
    runs.attrs["params"] = [name.replace("cfg_scale", "mean") for name in runs.attrs["params"]]
    table = effects(runs, "mean")
    assert list(table["params.mean"]) == ["cold", "warm"]
    assert table["mean"].dtype == float


def test_bookkeeping_is_no_statistic():
    """Compares what was measured, unless cost or seconds are asked for."""
    runs = drawn(2, metrics=["luma_mean", "cost_usd", "queue_s"])
    assert set(effects(runs, "cfg_scale")["metric"]) == {"luma_mean"}
    assert set(effects(runs, "cfg_scale", ["cost_usd"])["metric"]) == {"cost_usd"}


def test_what_is_not_there_is_named():
    """Names what there is, for a factor, a level, a metric and a scope that the runs don't have."""
    runs = drawn(1)
    with pytest.raises(LookupError, match=r"no param 'seed'; valid are cfg_scale, "):
        effects(runs, "seed")
    with pytest.raises(LookupError, match="no param 'luma_mean'"):
        effects(runs, "luma_mean")
    with pytest.raises(LookupError, match=r"no level 0\.3; it has 0\.1, 0\.5, 0\.9"):
        effects(runs, "cfg_scale", reference=0.3)
    with pytest.raises(LookupError, match=r"no metric 'beauty'; valid are luma_mean"):
        effects(runs, "cfg_scale", ["beauty"])
    with pytest.raises(ValueError, match="confidence=95"):
        effects(runs, "cfg_scale", confidence=95)
    with pytest.raises(ValueError, match="scope='all': expected 'general'"):
        effects(runs, "cfg_scale", scope="all")
    with pytest.raises(LookupError, match=r"copy .attrs"):
        effects(pd.DataFrame(runs.to_dict("records")), "cfg_scale")


def test_a_design_for_prompts_in_general():
    """Agrees with statsmodels' power of a paired t test on how many prompts it takes, and prices them."""
    runs = drawn(8, levels=(0.1, 0.9))
    runs["cost_usd"] = 1.4
    runs.attrs["metrics"].append("cost_usd")
    (found,) = design_for(runs, "cfg_scale", "luma_mean", effect=1.0).itertuples()
    values = runs.pivot(index="prompt", columns="cfg_scale", values="luma_mean")
    variance = (values[0.9] - values[0.1]).var()
    upper = variance * 7 / stats.chi2.ppf(0.2, 7)
    for prompts, spread in ((found.prompts, variance), (found.prompts_most, upper)):
        exact = TTestPower().solve_power(effect_size=1 / np.sqrt(spread), alpha=0.05, power=0.8)
        assert prompts == np.ceil(exact)
    assert (found.repeats, found.videos, found.usd) == (
        1,
        2 * found.prompts,
        pytest.approx(2.8 * found.prompts),
    )


def test_repeats_help_a_claim_about_these_prompts():
    """Agrees with statsmodels' power of two independent groups on how many repeats of one prompt it takes."""
    runs = drawn(1, 6, levels=(0.1, 0.9))
    (found,) = design_for(runs, "cfg_scale", "luma_mean", effect=2.0).itertuples()
    noise = runs.groupby("cfg_scale")["luma_mean"].var().mean()
    for repeats, variance in (
        (found.repeats, noise),
        (found.repeats_most, noise * 10 / stats.chi2.ppf(0.2, 10)),
    ):
        exact = TTestIndPower().solve_power(effect_size=2 / np.sqrt(variance), alpha=0.05, power=0.8)
        assert repeats == np.ceil(exact)
    assert (found.scope, found.prompts, found.videos) == ("these_prompts", 1, 2 * found.repeats)


def test_repeats_make_up_for_few_prompts_only_so_far():
    """Takes fewer prompts with more repeats, but more videos where prompts differ in the effect."""
    runs = drawn(12, 2, levels=(0.1, 0.9), effect=lambda level, prompt: 4 * level * (-1) ** prompt)
    table = design_for(runs, "cfg_scale", "luma_mean", effect=1.5)
    assert list(table["repeats"]) == [1, 2, 3]
    assert table["prompts"].is_monotonic_decreasing
    assert table["videos"].is_monotonic_increasing
    assert (table["prompts_most"] > table["prompts"]).all()


def test_a_design_is_refused_on_too_small_a_pilot():
    """Says how much it needs, in both scopes, and what an effect can't be."""
    with pytest.raises(ValueError, match=r"from 5 prompts on .* these runs have 3"):
        design_for(drawn(3), "cfg_scale", "luma_mean", 1.0, scope="general")
    with pytest.raises(ValueError, match=r"from 6 degrees of freedom on.* these runs have 3"):
        design_for(drawn(1, 2), "cfg_scale", "luma_mean", 1.0)
    with pytest.raises(ValueError, match="effect=0: expected a difference"):
        design_for(drawn(5), "cfg_scale", "luma_mean", 0)
    with pytest.raises(ValueError, match="one level"):
        design_for(drawn(5, levels=(0.5,)), "cfg_scale", "luma_mean", 1.0)


def test_an_interaction_by_sums_of_squares():
    """Agrees with the textbook's F of a balanced layout of two ways."""
    runs = drawn(4, 3, effect=lambda level, prompt: level * (prompt == 2) * 8)
    found = interaction(runs, "cfg_scale", "luma_mean")
    means = runs.groupby(["prompt", "cfg_scale"])["luma_mean"].mean().unstack()
    both = (
        means.to_numpy()
        - means.mean(axis=1).to_numpy()[:, None]
        - means.mean().to_numpy()
        + means.to_numpy().mean()
    )
    within = runs.groupby(["prompt", "cfg_scale"])["luma_mean"].var().sum() * 2
    f = (3 * (both**2).sum() / 6) / (within / 24)
    assert found.f == pytest.approx(f)
    assert found.p == pytest.approx(stats.f.sf(f, 6, 24))
    assert set(found.prompts.loc[found.prompts["stands_out"], "prompt"]) == {"p2"}
    assert str(found).startswith("What cfg_scale does to luma_mean differs by prompt (p = ")
    assert str(found).endswith("p2 stands out.")


def test_no_interaction_is_not_told():
    """Says that its absence can't be told where there is no evidence."""
    found = interaction(drawn(3, 2), "cfg_scale", "luma_mean")
    assert not found.prompts["stands_out"].any()
    assert "can't be told" in str(found)
    with pytest.raises(ValueError, match="no cell has repeats"):
        interaction(drawn(3), "cfg_scale", "luma_mean")
    with pytest.raises(ValueError, match="it takes two prompts"):
        interaction(drawn(1, 3), "cfg_scale", "luma_mean")


def test_an_interaction_with_other_settings():
    """Takes the mean of each block out before prompts are compared, and agrees with the layout of blocks."""
    runs = drawn(2, 3, duration=(5, 10), levels=(0.1, 0.9), effect=lambda level, prompt: 9 * level * prompt)
    shifted = runs.assign(luma_mean=runs["luma_mean"] + 100 * (runs["duration"] == 10))
    shifted.attrs = runs.attrs
    assert interaction(shifted, "cfg_scale", "luma_mean").f == pytest.approx(
        interaction(runs, "cfg_scale", "luma_mean").f
    )


def test_cells_of_two_factors():
    """Has the mean, interval, n and failures of every cell, as a table to read and one to compute with."""
    runs = drawn(5, levels=(0.1, 0.9), duration=(5, 10))
    runs.loc[0, "status"] = "FAILED"
    found = cells(runs, ["cfg_scale", "duration"], "luma_mean")
    first = found.table.iloc[0]
    own = runs[(runs["cfg_scale"] == 0.1) & (runs["duration"] == 5) & (runs["status"] == "FINISHED")]
    interval = stats.ttest_1samp(own["luma_mean"], 0).confidence_interval()
    assert (first["n"], first["failed"], first["mean"]) == (4, 1, pytest.approx(own["luma_mean"].mean()))
    assert (first["low"], first["high"]) == pytest.approx(tuple(interval))
    lines = found.to_markdown().splitlines()
    assert lines[0] == "| cfg_scale | duration=5 | duration=10 |"
    assert "n 4, 1 failed)" in lines[2]
    assert found.to_csv().splitlines()[0] == "cfg_scale,duration,n,failed,mean,low,high"


def test_cells_of_prompts_are_told_by_their_repeats(tmp_path):
    """Takes the noise within a cell where each is of one prompt, and writes a file."""
    runs = drawn(2, 3, levels=(0.1, 0.9))
    found = cells(runs, ["prompt", "cfg_scale"], "luma_mean")
    own = runs[(runs["prompt"] == "p1") & (runs["cfg_scale"] == 0.9)]["luma_mean"]
    last = found.table.iloc[-1]
    assert (last["low"], last["high"]) == pytest.approx(
        tuple(stats.ttest_1samp(own, 0).confidence_interval())
    )
    found.to_csv(tmp_path / "cells.csv")
    assert len(pd.read_csv(tmp_path / "cells.csv")) == 4
    with pytest.raises(ValueError, match="expected one or two"):
        cells(runs, ["prompt", "cfg_scale", "sample"], "luma_mean")


def test_a_cell_without_runs_is_shown_as_such():
    """Writes a dash for what was not run, and how many failed where all did."""
    runs = drawn(2, levels=(0.1, 0.9)).drop(index=3)
    runs.loc[0, "status"] = "FAILED"
    lines = cells(runs, ["prompt", "cfg_scale"], "luma_mean").to_markdown().splitlines()
    assert lines[2].startswith("| p0 | – (1 failed) |")
    assert lines[3].endswith("| – |")


def test_a_statement_says_what_has_to_be_said():
    """Names metric, amount, direction, interval and claim, and what a claim is not."""
    runs = drawn(3, 4, metrics=["motion"], effect=lambda level, prompt: 5 * (level == 0.9))
    runs["motion"] = np.exp(runs["motion"] / 10)
    runs.attrs["goal"] = {"motion": "min"}
    table = effects(runs, "cfg_scale")
    found, missed = row(table, 0.9, "motion"), row(table, 0.5, "motion")
    assert statement(found) == (
        f"motion is {found['difference']:.3g} % higher (worse) at cfg_scale=0.9 than at 0.1 "
        f"({found['low']:+.3g} % to {found['high']:+.3g} %, 95% confidence) "
        "in these 3 prompts, not in prompts in general."
    )
    assert statement(missed) == (
        "motion at cfg_scale=0.5 is not distinguishable from 0.1 in these 3 prompts, not in prompts in general; "
        f"that is not to say equal: {missed['smallest_detectable']:.3g} % is the least that would have been seen."
    )
    assert (
        statement(row(table, 0.1, "motion"))
        == "motion at cfg_scale=0.1 is what the other levels are compared with."
    )
    assert statement(found.to_dict()) == statement(found)


def test_a_statement_of_what_nobody_asked_for():
    """Calls it worth a look, and says how many of such are expected to be nothing."""
    runs = drawn(8, effect=lambda level, prompt: 5 * level)
    said = statement(row(effects(runs, "cfg_scale"), 0.9))
    assert "in general, by 8 prompts." in said
    assert said.endswith("Worth a look: one in 20 such is expected to be nothing.")


def test_statements_of_a_table():
    """Tells the surest first and at most so many, then what was not distinguishable and what has no answer."""
    names = ["cuts", "luma_mean", "saturation_mean", "motion_p95"]
    runs = drawn(6, metrics=names, effect=lambda level, prompt: 9 * level)
    runs["motion_p95"] = 1.0
    runs["cuts"] = np.random.default_rng(1).normal(size=len(runs))
    lines = statements(effects(runs, "cfg_scale"), most=2)
    assert {line.split(" is ")[0] for line in lines[:2]} <= {"luma_mean", "saturation_mean"}
    assert lines[2] == "2 more are in the table of python -m kling_sweeps.effects."
    assert lines[3].startswith(
        "Not distinguishable from cfg_scale=0.1 at 0.5 and 0.9 in general, by 6 prompts, which is not to say equal: cuts ("
    )
    assert lines[4:] == []  # what is the same everywhere needs no answer
    runs.attrs["goal"] = {"luma_mean": "max"}
    aimed = statements(effects(runs, "cfg_scale"))
    assert aimed[0].startswith("luma_mean is ")
    assert not any("Not distinguishable" in line for line in aimed)


def test_what_is_missing_is_said_once_with_its_price():
    """Says of runs that are not repeated that repeats are missing, and what those cost, and nothing of each metric."""
    runs = drawn(2, metrics=["luma_mean", "cuts"])
    runs["cost_usd"], runs["provider"] = 1.4, "emulator"
    runs.attrs["sweep"] = "cfg"
    assert conclusions(runs) == [
        "No answer by cfg_scale: no cell has repeats, such as sample=0,1.",
        (
            "Repeats tell a difference from chance: the same command with sample=0,1 makes 6 videos more, for 8.40 USD "
            "on fal, here for nothing. Of the whole sweep: python -m kling_sweeps +sweep=cfg sample=0,1 "
            "provider=emulator dry_run=true"
        ),
    ]
    runs.attrs.update(sweep="mine", goal={"cuts": "min"})
    named, further = statements(effects(runs, "cfg_scale"))
    assert (
        named.startswith("No answer on cuts by cfg_scale: ")
        and ": the same command with sample=0,1 makes" in further
    )
    assert "further" not in effects(drawn(2, 2), "cfg_scale").attrs
    failed = drawn(2, 2)
    failed.loc[failed["sample"] == 1, "status"] = "FAILED"
    table = effects(failed, "cfg_scale")
    assert "no cell has repeats, such as sample=0,1" in set(table["verdict"]) and "further" not in table.attrs


def test_what_is_tied_to_another_factor_is_none():
    """Lists the settings that vary by themselves: no text, no own argument of a model, and the prompt if alone."""
    runs = drawn(2, levels=(0.1, 0.9))
    assert factors(runs) == ["cfg_scale"]
    runs["model"] = runs["endpoint"] = np.where(runs["cfg_scale"] == 0.1, "a", "b")
    assert factors(runs) == ["model"]
    assert factors(drawn(2, levels=(0.1,))) == ["prompt"]
    assert factors(drawn(1, levels=(0.1,))) == []
    assert conclusions(drawn(1, 2, levels=(0.1,))) == []


def test_a_ratio_of_ones_own_is_compared_in_percent():
    """Takes the logarithm of a metric that the runs say is a ratio."""
    runs = drawn(5, metrics=["mine"])
    assert set(effects(runs, "cfg_scale")["scale"]) == {"raw"}
    runs.attrs["ratios"] = ["mine"]
    assert set(effects(runs, "cfg_scale")["scale"]) == {"log"}
