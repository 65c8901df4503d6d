"""Repeats by plan: the rule against a transcription of it, and whole sweeps on the emulator."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from dataclasses import replace
from itertools import product

import lab
import numpy as np
import pandas as pd
import pytest
from conftest import FOREIGN, Emulator
from mlflow.tracking import MlflowClient
from scipy import stats
from servers import until
from statsmodels.stats.multitest import multipletests
from test_interrupts import started

from kling_sweeps.__main__ import main
from kling_sweeps.analysis import Looks, conclusions, effects, looked, runs_df, statement
from kling_sweeps.emulator.process import EmulatorProcess

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


@pytest.mark.slow
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
    (warning,) = {*effects(runs, "cfg_scale", reference=0.9).query("cfg_scale < 0.9")["warning"]}
    assert "looks at another reference" in warning
    (closed, *_) = mine[mine["verdict"] == "found"].reset_index().to_dict("records")
    assert f"{100 * closed['confidence']:.4g}% confidence" in statement({"metric": "luma_mean", **closed})


def test_one_level_is_nothing_to_look_at():
    """Says so."""
    with pytest.raises(ValueError, match="one level"):
        looked(drawn(levels=(0.1,)), PLAN)


SWEEP = """# @package _global_
goal: {saturation_mean: max}
metrics: {saturation: {long_side: 320}, colorfulness: {}}
repeats: {factor: cfg_scale, looks: [2, 3]}
hydra:
  mode: MULTIRUN
  sweeper:
    params:
      cfg_scale: 0.1,0.1001,1.0
      prompt: potter,fox
"""


def usd(said: str) -> tuple[float, float]:
    """Return what a command said that the looks cost, at least and at most."""
    (found,) = re.findall(r"([\d.]+) USD at least, ([\d.]+) USD at most", said)
    return float(found[0]), float(found[1])


def test_a_sweep_adds_repeats_where_they_tell(command, emulator):
    """Closes a documented effect, spends nothing more on it, and says the same in the terminal, in MLflow and later."""
    (command.folder / "mine" / "sweep").mkdir(parents=True)
    (command.folder / "mine" / "sweep" / "looks.yaml").write_text(SWEEP)
    words = ["--config-dir", "mine", "+sweep=looks", "provider=emulator", "budget.max_usd=40"]
    words.append(f"provider.base_url={emulator.base_url}")
    dry = command(*words, "dry_run=true")
    assert usd(dry.stdout) == (16.8, 25.2), dry.stdout + dry.stderr
    assert emulator.ledger() == []
    done = command(*words, COLUMNS="140")
    assert done.returncode == 0, done.stdout + done.stderr
    runs = runs_df("looks", command.tracking_uri)
    found = looked(runs, Looks.of(runs, "cfg_scale"))
    bought = Counter(entry["arguments"]["cfg_scale"] for entry in emulator.ledger())
    assert bought == {level: 2 * number for level, number in found.taken.items()}
    paid = sum(entry["charged_usd"] for entry in emulator.ledger())
    assert 16.8 <= paid <= 25.2
    table = found.table.set_index("level")
    assert table.loc[1.0, "stands"] == "closed"
    assert found.taken[1.0] == table.loc[1.0, "repeats"]
    assert table.loc[0.1001, "high"] < table.loc[1.0, "low"]
    assert re.search(r"^saturation_mean +1\.0 .* closed +$", done.stdout, re.MULTILINE), done.stdout
    lines = conclusions(runs)
    assert lines[-1].startswith("Repeats of cfg_scale by looks at 2 and 3, compared with 0.1: ")
    note = MlflowClient(command.tracking_uri).get_experiment_by_name("kling_sweeps/looks (emulator)")
    for line in lines:
        assert f"- {line}" in done.stdout
        assert f"- {line}" in note.tags["mlflow.note.content"]
    assert "See the videos in step" in done.stdout


def test_looks_go_on_where_they_were(command):
    """Ends where the budget has no room, goes on with more, survives Ctrl-C in a look, and never pays twice."""
    with EmulatorProcess(replace(lab.SMALL, slots=2, latency_s=1.5)) as process:
        emulator = Emulator(process.base_url)
        # One repeat of two is lost, so that nothing can be told and the level is open.
        emulator.set_faults({"at": "generate", "fault": "moderation_422", "match": "fox", "times": 1})
        words = [
            *(
                "-m",
                "prompt=fox,potter",
                "repeats.factor=prompt",
                "repeats.looks=[2,3]",
                "metrics={luma: {}}",
            ),
            *("goal={luma_mean: max}", "provider=emulator", f"provider.base_url={emulator.base_url}"),
        ]
        poor = command(*words, "budget.max_usd=6")
        assert poor.returncode == 1, poor.stdout + poor.stderr
        assert "they end where the next look does not fit" in poor.stdout
        assert (
            "The looks ended at their budget: the next one, at 3 repeats, takes 2 runs for 2.80 USD"
            in poor.stdout
        )
        assert "budget.max_usd=8.4 goes on with it" in poor.stdout
        assert "luma_mean  potter" in poor.stdout and "no cell has repeats" in poor.stdout
        assert len(emulator.ledger()) == 4
        with started(command, *words) as running:
            until(lambda: len(emulator.ledger()) == 6)
            os.killpg(running.pid, signal.SIGINT)
            said, errors = running.communicate(timeout=200)
        assert running.returncode == 130, said + errors
        assert "Look 2 of 2, at 3 repeats: open is prompt=potter, compared with fox." in said
        last = command(*words, "hydra/launcher=basic")
        assert last.returncode == 1, last.stdout + last.stderr
        assert len(emulator.ledger()) == 6
        assert sum(entry["charged_usd"] > 0 for entry in emulator.ledger()) == 5
        mended = command(*words, "retry=failed", "repeats.reference=potter")
        assert mended.returncode == 0, mended.stdout + mended.stderr
        assert [entry["charged_usd"] > 0 for entry in emulator.ledger()[6:]] == [True]
        assert re.search(r"luma_mean +fox .* (closed|hopeless|looks exhausted)", mended.stdout), mended.stdout
    assert re.search(r"luma_mean +potter .* (closed|hopeless|looks exhausted)", last.stdout), last.stdout
    assert "1 of 6 runs failed" in last.stderr
    runs = runs_df("single", command.tracking_uri)
    assert list(runs["status"]) == ["FINISHED"] * 6


GOOD = ["-m", "cfg_scale=0.1,0.9", "repeats.factor=cfg_scale", "repeats.looks=[2,4]", "goal={luma_mean: max}"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["repeats.looks=[4,2]"], "repeats.looks=[4, 2] is no list of two or more whole numbers"),
        (["repeats.looks=[1,2]"], "repeats.looks=[1, 2]"),
        (["repeats.looks=[2,2]"], "repeats.looks=[2, 2]"),
        (["repeats.looks=[2]"], "repeats.looks=[2]"),
        (["repeats.looks=6"], "repeats.looks=6"),
        (["repeats.looks=[2,4.5]"], "repeats.looks=[2, 4.5]"),
        (["repeats.looks=null"], "repeats.looks=null"),
        (["repeats.factor=null"], "repeats.factor=null"),
        (["+repeats.levels=3"], "repeats.levels is unknown"),
        (["goal=null"], "there is no goal"),
        (
            ["++goal.motion=max", "metrics=fast"],
            "goal.motion decides about repeats, and is not measured",
        ),
        (["budget.partial=true"], "budget.partial=true leaves repeats out"),
        (["repeats.factor=duration"], "repeats.factor=duration is not swept over"),
        (["repeats.factor=speed"], "swept over are cfg_scale"),
        (["repeats.reference=0.3"], "repeats.reference=0.3 is no level of cfg_scale; it has 0.1, 0.9"),
        (["sample=0,1"], "leave sample out"),
        (["hydra.sweeper.max_batch_size=2"], "hydra.sweeper.max_batch_size"),
        (["fail_fast=true", "hydra/launcher=basic"], "fail_fast=true"),
        (["repeats.looks=[2,40000]"], "80,000 runs at its last look"),
        (["budget.max_usd=5"], "budget.max_usd=5"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(tmp_path, monkeypatch, capsys, more, said):
    """Says what is wrong and exits with 2 before anything is bought or made."""
    monkeypatch.chdir(tmp_path)
    for name in FOREIGN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FAL_HOME_DIR", str(tmp_path / "no-fal-login"))
    monkeypatch.setattr("sys.argv", ["kling_sweeps", *GOOD, "provider=emulator", *more])
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(main())
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "store").exists()
