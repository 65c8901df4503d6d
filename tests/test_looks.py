"""Repeats by plan: the rule against a transcription of it, and whole sweeps on the emulator."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from kling_sweeps.analysis import Looks, effects, looked, statement

PLAN = Looks("cfg_scale", (2, 4, 6), ("luma_mean",))
LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)


def drawn(
    prompts: int = 3, levels=LEVELS, seed: int = 0, shift=lambda level: 0.0, metrics=("luma_mean",)
) -> pd.DataFrame:
    """Draw six repeats of each cell with a noise of 1, as `runs_df` gives them."""
    draw = np.random.default_rng(seed)
    rows = [
        {"prompt": f"p{prompt}", "prompt_text": f"t{prompt}", "cfg_scale": level, "sample": sample}
        | {name: 10 + shift(level) + draw.normal() for name in metrics}
        for prompt, level, sample in product(range(prompts), levels, range(6))
    ]
    runs = pd.DataFrame(rows).assign(status="FINISHED")
    runs.attrs = {"params": ["prompt", "prompt_text", "cfg_scale", "sample"], "metrics": [*metrics]}
    return runs


def after(runs: pd.DataFrame, repeats: int) -> pd.DataFrame:
    """Return the first repeats of every cell."""
    return runs[runs["sample"] < repeats]


def stands(runs: pd.DataFrame, plan: Looks = PLAN) -> dict[float, str]:
    table = looked(runs, plan).table
    return dict(table.loc[table["verdict"] != "reference", ["level", "stands"]].to_numpy())


@pytest.mark.parametrize("prompts", [3, 8])
@pytest.mark.parametrize("seed", range(3))
def test_the_looks_follow_the_rule(prompts, seed):
    """Agrees with a transcription of the rule, look by look, on what scipy and statsmodels compute."""
    runs = drawn(prompts, seed=seed, shift=lambda level: 1.3 * (level > 0.6) + 0.7 * (level == 0.5))
    squares = np.square([2.0, 4.0, 6.0])
    shares = squares / squares.sum()
    going, best, taken = set(LEVELS[1:]), dict.fromkeys(LEVELS[1:], 1.0), dict.fromkeys(LEVELS, 2)
    closed: set[float] = set()
    for share, repeats in zip(shares, (2, 4, 6), strict=True):
        if not going:
            break
        taken |= dict.fromkeys([0.1, *going], repeats)
        for level in going:
            sides = [
                after(runs[runs["cfg_scale"] == which], repeats).groupby("prompt")["luma_mean"]
                for which in (level, 0.1)
            ]
            if prompts < 5:
                errors = [side.var().mean() / (prompts * repeats) for side in sides]
                gap = sides[0].mean().mean() - sides[1].mean().mean()
                freedom = sum(errors) ** 2 / sum(e**2 / (prompts * (repeats - 1)) for e in errors)
                p = 2 * stats.t.sf(abs(gap) / np.sqrt(sum(errors)), freedom)
            else:
                p = stats.ttest_1samp(sides[0].mean() - sides[1].mean(), 0).pvalue
            best[level] = min(best[level], p / share)
            z, done = stats.norm.isf(p / 2), repeats / 6
            critical = stats.norm.isf(0.05 * shares[2] / 8)
            if done == 1 or stats.norm.sf((critical - z / done**0.5) / (1 - done) ** 0.5) < 0.1:
                going = going - {level}
        closed = {
            level
            for level, is_found in zip(best, multipletests([*best.values()], method="holm")[0], strict=True)
            if is_found
        }
        going = going - closed
    found = looked(runs, PLAN)
    assert closed == set(found.table.loc[found.table["stands"] == "closed", "level"])
    assert found.taken == taken
    assert found.following == {}
    own = found.table[found.table["verdict"] != "reference"].set_index("level")["p_adjusted"]
    assert own[[*best]].tolist() == pytest.approx(multipletests([*best.values()], method="holm")[1])


def test_a_large_effect_is_closed_at_the_first_look_with_its_interval():
    """Tells the interval of the look that closed it, wider than the naive one, whatever runs come later."""
    runs = drawn(shift=lambda level: 9 * level)
    found = looked(runs, PLAN)
    row = found.table[found.table["level"] == 0.9].iloc[0]
    assert (row["stands"], row["look"], row["repeats"]) == ("closed", 1, 2)
    assert row["confidence"] == pytest.approx(1 - 0.05 * 4 / 56)
    naive = effects(after(runs, 2), "cfg_scale", ["luma_mean"], confidence=row["confidence"])
    (same,) = naive[naive["cfg_scale"] == 0.9].to_dict("records")
    assert (row["low"], row["high"]) == (same["low"], same["high"])
    assert found.taken[0.9] == 2


def test_only_what_is_open_goes_on():
    """Asks for the next repeats of the open levels and of the reference, and of nothing once all is over."""
    runs = drawn(shift=lambda level: {0.9: 9.0, 0.7: 1.2}.get(level, 0.0), seed=5)
    first = looked(after(runs, 2), PLAN)
    open_levels = {level for level, how in stands(after(runs, 2)).items() if how == "open"}
    assert open_levels and open_levels < set(LEVELS)
    assert first.following == dict.fromkeys([0.1, *open_levels], 4)
    assert looked(runs, PLAN).following == {}


def test_further_runs_change_no_look():
    """Looks at those runs alone that the plan has, in whatever order they come."""
    runs = drawn(shift=lambda level: level, seed=2)
    found = looked(runs, PLAN)
    by_plan = runs[runs["sample"] < runs["cfg_scale"].map(found.taken)]
    shuffled = by_plan.sample(frac=1, random_state=1)
    for other in (looked(by_plan, PLAN), looked(shuffled, PLAN)):
        pd.testing.assert_frame_equal(other.table, found.table)
        assert other.taken == found.taken


def test_a_level_goes_on_for_any_of_its_metrics():
    """Corrects for levels and metrics, and keeps what is closed of one metric while the other is open."""
    metrics = ("luma_mean", "motion")
    runs = drawn(levels=(0.1, 0.9), metrics=metrics, seed=3)
    runs.loc[runs["cfg_scale"] == 0.9, "luma_mean"] += 9
    runs.loc[runs["cfg_scale"] == 0.9, "motion"] *= 1.12
    plan = Looks("cfg_scale", (2, 4, 6), metrics)
    first = looked(after(runs, 2), plan)
    table = first.table[first.table["level"] == 0.9].set_index("metric")
    assert table["stands"].to_dict() == {"luma_mean": "closed", "motion": "open"}
    assert first.following == {0.1: 4, 0.9: 4}
    later = looked(runs, plan).table
    kept = later[(later["level"] == 0.9) & (later["metric"] == "luma_mean")].iloc[0]
    assert kept["look"] == 1
    assert kept["low"] == table.loc["luma_mean", "low"]


def test_what_failed_is_said_and_stays_open():
    """Leaves a level open that lost its repeats, and gives no answer, and nothing more, to one that lost all."""
    runs = drawn(prompts=1, levels=(0.1, 0.5, 0.9))
    lost = (runs["cfg_scale"] == 0.9) | ((runs["cfg_scale"] == 0.5) & (runs["sample"] == 1))
    runs.loc[lost, "status"] = "FAILED"
    first = looked(after(runs, 2), PLAN)
    table = first.table.set_index("level")
    assert table.loc[[0.5, 0.9], "stands"].tolist() == ["open", "no answer"]
    assert table.loc[[0.5, 0.9], "failed"].tolist() == [1, 2]
    assert table.loc[0.9, "verdict"] == "no run has it"
    assert first.following == {0.1: 4, 0.5: 4}


def test_what_never_varies_is_given_no_repeats():
    """Stops at the first look where a metric is the same in all runs."""
    runs = drawn().assign(luma_mean=7.0)
    found = looked(runs, PLAN)
    assert set(stands(runs).values()) == {"hopeless"}
    assert set(found.taken.values()) == {2}
    assert set(found.table["verdict"]) == {"reference", "nothing varies"}


def test_effects_tell_the_interval_of_the_looks():
    """Tells of the plan's metrics what the looks found, also where the reference is named, and of others as ever."""
    runs = drawn(metrics=("luma_mean", "motion"), shift=lambda level: 3 * level, seed=1)
    plain = effects(runs, "cfg_scale", ["motion"])
    runs.attrs["looks"] = {
        "factor": "cfg_scale",
        "repeats": [2, 4, 6],
        "metrics": ["luma_mean"],
        "reference": 0.1,
    }
    runs.attrs["goal"] = {"luma_mean": "max"}
    by_plan = looked(runs, Looks.of(runs, "cfg_scale")).table
    for table in (effects(runs, "cfg_scale"), effects(runs, "cfg_scale", reference=0.1)):
        mine = table[table["metric"] == "luma_mean"].set_index("cfg_scale")
        theirs = by_plan.set_index("level").loc[mine.index]
        for name in ("low", "high", "p_adjusted", "confidence", "verdict", "n_runs"):
            assert mine[name].equals(theirs[name]), name
        other = table[table["metric"] == "motion"].reset_index(drop=True)
        assert other["low"].to_numpy() == pytest.approx(plain["low"].to_numpy(), nan_ok=True)
    (closed, *_) = mine[mine["verdict"] == "found"].reset_index().to_dict("records")
    assert f"{100 * closed['confidence']:.4g}% confidence" in statement({"metric": "luma_mean", **closed})


def test_one_level_is_nothing_to_look_at():
    """Says so."""
    with pytest.raises(ValueError, match="one level"):
        looked(drawn(levels=(0.1,)), PLAN)
