"""A search with Optuna: one study over all its commands, in the store, with one budget."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import signal
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from conftest import Command, Emulator
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from mlflow.tracking import MlflowClient
from omegaconf import OmegaConf
from optuna.distributions import (
    CategoricalDistribution,
    DiscreteUniformDistribution,
    UniformDistribution,
)
from servers import until
from test_interrupts import started

from hydra_plugins.hydra_fal_launcher._composer import Composer
from hydra_plugins.hydra_fal_search._asked import Asked, read_asked
from hydra_plugins.hydra_fal_search._sampling import Asker, size, stepped
from kling_sweeps import CONF
from kling_sweeps.analysis import runs_df
from kling_sweeps.emulator.process import EmulatorProcess
from kling_sweeps.errors import ConfigError
from kling_sweeps.experiment.config import COMMAND_ID
from kling_sweeps.experiment.emulator_settings import EmulatorSettings
from kling_sweeps.sweep.search import Trial

SPACE = "cfg_scale=interval(0, 1)"
EXPERIMENT = "kling_sweeps/single (emulator)"


def words(emulator: Emulator, *more: str, space: str = SPACE) -> list[str]:
    """Return a search's command."""
    return [
        *("-m", "hydra/sweeper=optuna", space, "objective=luma_mean", "metrics={luma: {}}"),
        *("hydra.sweeper.direction=maximize", "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=2"),
        *("provider=emulator", f"provider.base_url={emulator.base_url}", *more),
    ]


def values(emulator: Emulator) -> list[float]:
    return [entry["arguments"]["cfg_scale"] for entry in emulator.ledger()]


def searches(command: Command) -> list:
    """Return the runs in MLflow that are searches."""
    client = MlflowClient(command.tracking_uri)
    found = client.get_experiment_by_name(EXPERIMENT)
    return client.search_runs([found.experiment_id], "tags.kind = 'search'")


def trials(command: Command) -> list[dict[str, str]]:
    """Return the table that the one tracked search has."""
    (run,) = searches(command)
    client = MlflowClient(command.tracking_uri)
    path = client.download_artifacts(run.info.run_id, "trials.csv", str(command.folder))
    return list(csv.DictReader(Path(path).read_text().splitlines()))


def test_a_search_goes_on_where_it_was(command, emulator):
    """Buys nothing for what it has, just the further trials for a higher number, and has one run in MLflow."""
    seeded = words(emulator, "hydra.sweeper.sampler.seed=1")
    first = command(*seeded)
    assert first.returncode == 0, first.stdout + first.stderr
    bought = values(emulator)
    assert len(set(bought)) == len(bought) == 4
    assert all(value == round(value, 2) for value in bought)
    shutil.rmtree(command.folder / "outputs")
    again = command(*seeded)
    assert again.returncode == 0, again.stdout + again.stderr
    assert values(emulator) == bought
    best = [line for line in first.stdout.splitlines() if line.startswith("Best: ")]
    assert len(best) == 1
    assert best[0] in again.stdout
    more = command(*seeded, "hydra.sweeper.n_trials=6")
    assert more.returncode == 0, more.stdout + more.stderr
    assert len(set(values(emulator))) == len(values(emulator)) == 6

    rows = trials(command)
    assert {float(row["cfg_scale"]) for row in rows} == set(values(emulator))
    assert {row["state"] for row in rows} == {"complete"}
    (run,) = searches(command)
    top = max(rows, key=lambda row: float(row["luma_mean"]))
    assert run.data.params["cfg_scale"] == top["cfg_scale"]
    assert run.data.metrics["luma_mean"] == pytest.approx(float(top["luma_mean"]))
    assert len(runs_df(EXPERIMENT, command.tracking_uri)) == 6


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_search_finishes_what_it_began_first(command, how):
    """Buys no trial twice and asks for no others in its place, wherever it was broken off."""
    settings = EmulatorSettings(slots=1, width=128, height=72, fps=4, latency_s=2)
    with EmulatorProcess(settings) as process:
        emulator = Emulator(process.base_url)
        with started(command, *words(emulator, "hydra.sweeper.n_trials=3")) as search:
            until(lambda: len(emulator.ledger()) == 2)
            os.killpg(search.pid, how)
            search.communicate(timeout=60)
        begun = values(emulator)
        done = command(*words(emulator, "hydra.sweeper.n_trials=3"))
        assert done.returncode == 0, done.stdout + done.stderr
        assert values(emulator)[:2] == begun
        assert len(set(values(emulator))) == len(values(emulator)) == 3
    assert [row["state"] for row in trials(command)] == ["complete"] * 3
    assert {float(row["cfg_scale"]) for row in trials(command)[:2]} == set(begun)


def test_commands_at_once_make_one_search(command, emulator):
    """Lets a second command wait for the first, and find it all done."""
    given = words(emulator, "hydra.sweeper.n_trials=2")
    with started(command, *given) as first, started(command, *given) as second:
        said = [process.communicate(timeout=300)[0] for process in (first, second)]
        assert [process.returncode for process in (first, second)] == [0, 0], said
    assert len(emulator.ledger()) == 2
    assert len(trials(command)) == 2


def test_one_budget_for_all_commands_of_a_search(command, emulator):
    """Counts what earlier commands spent, runs what still fits of a batch, and ends with the best so far."""
    assert command(*words(emulator, "hydra.sweeper.n_trials=2")).returncode == 0
    for _ in range(2):
        ended = command(*words(emulator, "hydra.sweeper.n_trials=9", "budget.max_usd=4.5"))
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert "it ends where that is spent" in ended.stdout
        assert "ended at its budget: 4.20 USD of budget.max_usd=4.5" in ended.stdout
        assert "Best: " in ended.stdout
        assert len(emulator.ledger()) == 3
    assert command(*words(emulator, "hydra.sweeper.n_trials=4")).returncode == 0
    assert len(set(values(emulator))) == len(values(emulator)) == 4


def test_a_search_of_which_nothing_fits_is_refused(command, emulator):
    """Ends with exit code 2 before anything was submitted, and keeps nothing."""
    refused = command(*words(emulator, "budget.max_usd=1"))
    assert refused.returncode == 2
    assert "budget.max_usd=1" in refused.stderr
    assert emulator.ledger() == []


def test_a_failed_trial_says_why_and_the_search_goes_on(command, emulator):
    """Gives the others' values to the sampler; `retry=failed` generates it again, with the same values."""
    emulator.set_faults({"at": "generate", "fault": "moderation_422", "nth": 2})
    failed = command(*words(emulator))
    assert failed.returncode == 1, failed.stdout + failed.stderr
    assert "float-castable" not in failed.stdout + failed.stderr
    rows = trials(command)
    assert sorted(row["state"] for row in rows) == ["complete"] * 3 + ["failed"]
    (lost,) = (row for row in rows if row["state"] == "failed")
    assert lost["why"]
    assert lost["luma_mean"] == ""
    assert command(*words(emulator)).returncode == 1
    assert len(emulator.ledger()) == 4
    retried = command(*words(emulator, "retry=failed"))
    assert retried.returncode == 0, retried.stdout + retried.stderr
    assert values(emulator)[4:] == [float(lost["cfg_scale"])]
    assert {row["state"] for row in trials(command)} == {"complete"}


METRIC = """
from dataclasses import dataclass
from kling_sweeps.metric import FrameMetric, Value

@dataclass
class Odd(FrameMetric):
    version = 1
    values = (Value("odd", "odd", unit="", range=(0, 1), direction="neither", source="-"),)

    def per_frame(self, frame):
        return {"odd": float("nan")}
"""


def test_what_cannot_be_measured_is_a_failed_trial(command, emulator):
    """Never gives NaN to the sampler, nor an error of Optuna's to the user."""
    (command.folder / "odd_metric.py").write_text(METRIC)
    odd = ("objective=odd", "+metrics.odd={target: 'odd_metric:Odd'}", "hydra.sweeper.n_trials=2")
    done = command(*words(emulator, *odd))
    assert "No trial has a odd yet" in done.stdout, done.stdout + done.stderr
    assert "float-castable" not in done.stdout + done.stderr
    assert {(row["state"], row["why"].partition(":")[0]) for row in trials(command)} == {
        ("failed", "odd was not measured")
    }
    assert "odd" not in searches(command)[0].data.metrics


def test_a_dry_run_says_what_is_there_and_what_the_rest_costs(command, emulator):
    """Submits nothing, and adds nothing to the search."""
    fresh = command(*words(emulator, "dry_run=true", "duration=5,10"))
    assert fresh.returncode == 0, fresh.stdout + fresh.stderr
    assert "0 of 4 trials made; the others cost 11.20 USD at most" in fresh.stdout
    assert not (command.folder / "store").exists()
    assert command(*words(emulator, "hydra.sweeper.n_trials=2")).returncode == 0
    before = {path: path.read_bytes() for path in command.folder.glob("store/**/journal.jsonl")}
    dry = command(*words(emulator, "dry_run=true", "budget.max_usd=4"))
    assert dry.returncode == 0, dry.stdout + dry.stderr
    assert (
        "2 of 4 trials made; the others cost 2.80 USD at most; 2.80 USD of budget.max_usd=4 spent"
        in dry.stdout
    )
    assert "it ends where that is spent" in dry.stdout
    assert {path: path.read_bytes() for path in command.folder.glob("store/**/journal.jsonl")} == before
    assert len(emulator.ledger()) == 2


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_search_goes_on_with_any_launcher(command, emulator, launcher):
    """Searches, keeps the budget and goes on where jobs are run one by one or in processes of their own."""
    given = words(emulator, f"hydra/launcher={launcher}", "budget.max_usd=4.5")
    for _ in range(2):
        done = command(*given)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "ended at its budget" in done.stdout
        assert len(set(values(emulator))) == len(values(emulator)) == 3


@pytest.fixture
def asked() -> Iterator:
    """Give what reads a search's command in this process."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()

        def read(*given: str) -> Asked:
            overrides = ["hydra/sweeper=optuna", "objective=colorfulness", "provider=emulator", *given]
            overrides.append(f"++hydra.job.env_set.{COMMAND_ID}=a-command")
            config = loader.load_configuration("config", overrides, RunMode.MULTIRUN)
            task = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
            return read_asked(config, Composer(loader), task)

        yield read


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["cfg_scale=interval(0, 2)"], "cfg_scale=2.0 is not a number from 0 to 1"),
        (["cfg_scale=0.5"], "nothing is searched"),
        ([SPACE, "objective=null"], "objective=METRIC"),
        ([SPACE, "objective=colour"], "objective=colour is not measured"),
        ([SPACE, "hydra.sweeper.n_trials=0"], "n_trials=0"),
        ([SPACE, "hydra.sweeper.n_jobs=0"], "n_jobs=0"),
        ([SPACE, "hydra.sweeper.direction=up"], "direction=up"),
        ([SPACE, "hydra.sweeper.direction=[minimize, maximize]"], "direction"),
        ([SPACE, "hydra.sweeper.max_failure_rate=7"], "max_failure_rate=7"),
        ([SPACE, "prompt=potter,nobody"], "prompt=nobody is not in the prompt set"),
        ([SPACE, "aspect_ratio=glob(*)"], "can't be searched"),
    ],
)
def test_what_cannot_be_searched_is_refused(asked, given, said):
    """Says what is wrong before anything is proposed, at the far end of an interval too."""
    with pytest.raises(ConfigError) as refused:
        asked(*given)
    assert said in str(refused.value)


@pytest.mark.slow
def test_a_search_is_what_was_asked(asked):
    """Is the same however it is written and however far it shall go, and another for another request."""
    name = asked(SPACE).name
    same = [
        [SPACE, "hydra.sweeper.n_trials=99"],
        [SPACE, "budget.max_usd=1", "hydra.sweeper.n_jobs=7", "dry_run=true"],
        ["cfg_scale=0.5", SPACE],
        [SPACE, "duration=5", "aspect_ratio='16:9'"],
        ["cfg_scale=interval(0.0, 1.0)", "metrics=full", "retry=failed"],
    ]
    others = [
        ["cfg_scale=interval(0, 0.9)"],
        [SPACE, "duration=10"],
        [SPACE, "prompt=fox"],
        [SPACE, "sample=1"],
        [SPACE, "model=kling_v2_master"],
        [SPACE, "objective=luma_mean"],
        [SPACE, "hydra.sweeper.direction=maximize"],
        [SPACE, "hydra/sweeper/sampler=random"],
        [SPACE, "hydra.sweeper.sampler.seed=1"],
        [SPACE, "hydra.sweeper.study_name=mine"],
        [SPACE, "prompt=potter,fox"],
    ]
    assert {asked(*given).name for given in same} == {name}
    names = [asked(*given).name for given in others]
    assert len({name, *names}) == len(names) + 1


@pytest.mark.parametrize(
    ("low", "high", "argument", "expected"),
    [
        (0, 1, {"min": 0, "max": 1}, (0, 1, 0.01)),
        (0.123, 0.877, {"min": 0, "max": 1}, (0.13, 0.87, 0.01)),
        (1, 20, {"min": 1, "max": 20}, (1, 20, 0.1)),
        (0, 3, {}, (0, 3, 0.01)),
        (0.501, 0.5035, {"min": 0, "max": 1}, (0.501, 0.5035, 0.00001)),
        (-5, 5, {"min": -10, "max": 10}, (-5, 5, 0.1)),
        (200, 100_000, {}, (200, 100_000, 100)),
    ],
)
def test_an_interval_is_searched_in_steps(low, high, argument, expected):
    """Takes a power of ten, at most a hundredth of what the argument may be, so that near values are one video."""
    found = stepped(UniformDistribution(low, high), argument)
    assert (found.low, found.high, found.q) == pytest.approx(expected)


def test_a_step_of_the_users_own_is_kept():
    """Leaves what has a step, or choices, as it is."""
    for own in (DiscreteUniformDistribution(0, 1, 0.25), CategoricalDistribution([1, 2])):
        assert stepped(own, {"min": 0, "max": 1}) is own
    assert size(DiscreteUniformDistribution(0, 1, 0.25)) == 5


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes", "nsgaii", "grid"])
def test_a_seeded_search_goes_on_with_other_values(asked, sampler):
    """Proposes anew nothing that was proposed, whichever sampler has a seed and begins again."""
    seed = [] if sampler == "grid" else ["hydra.sweeper.sampler.seed=3"]
    found = asked(SPACE, "duration=5,10", f"hydra/sweeper/sampler={sampler}", *seed)
    trials: list[Trial] = []
    for _ in range(4):  # each as if by a command of its own
        asker = Asker(found.jobs.config, found.space, found.jobs.fixed)
        for proposal in islice(asker.propose(list(trials)), 3):
            restored = json.loads(json.dumps([proposal.values, proposal.distributions, proposal.notes]))
            _, cell = found.jobs.read(proposal.values)
            value = math.sin(proposal.values["cfg_scale"])
            trials.append(Trial(len(trials), type(proposal)(*restored), cell, "complete", value, "", 1.4))
    assert len({trial.cell.request.key for trial in trials}) >= 10


SWEEP_FILE = """
# @package _global_
defaults:
  - override /hydra/sweeper: optuna
hydra:
  mode: MULTIRUN
  sweeper:
    params: {cfg_scale: "interval(0, 1)", prompt: [potter, fox]}
objective: luma_mean
"""


def test_a_search_is_a_sweep_file_too(command):
    """Takes the sweeper, and lists among the params, as a file of conf/sweep/ gives them."""
    (command.folder / "mine" / "sweep").mkdir(parents=True)
    (command.folder / "mine" / "sweep" / "hunt.yaml").write_text(SWEEP_FILE.lstrip())
    done = command("+sweep=hunt", "--config-dir", "mine", "provider=emulator", "dry_run=true")
    assert done.returncode == 0, done.stderr
    assert "0 of 20 trials made; the others cost 28.00 USD at most" in done.stdout
    assert "it ends where that is spent" in done.stdout
