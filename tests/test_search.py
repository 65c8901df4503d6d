"""A search with Optuna: one study over all its commands, in the store, with one budget."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from conftest import Command, Emulator
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
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
from hydra_plugins.hydra_fal_search._sampling import Asker, distribution, edges, size, stepped
from kling_sweeps import CONF
from kling_sweeps.analysis import conclusions, runs_df
from kling_sweeps.emulator.process import EmulatorProcess
from kling_sweeps.errors import ConfigError
from kling_sweeps.experiment.config import COMMAND_ID
from kling_sweeps.experiment.emulator_settings import EmulatorSettings
from kling_sweeps.experiment.request import GenerationRequest
from kling_sweeps.experiment.settings import Cell
from kling_sweeps.sweep.search import Outcome, Proposal, Trial
from kling_sweeps.sweep.search_picture import figure_of
from kling_sweeps.sweep.search_results import Comparison, Found

pytestmark = pytest.mark.slow

SPACE = "cfg_scale=interval(0, 1)"
EXPERIMENT = "kling_sweeps/single (emulator)"
SIX = ("hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=3")


def words(emulator: Emulator, *more: str, space: str = SPACE) -> list[str]:
    """Return a search's command."""
    return [
        *("-m", "hydra/sweeper=optuna", space, "goal={luma_mean: max}", "metrics={luma: {}}"),
        *("hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=2"),
        *("provider=emulator", f"provider.base_url={emulator.base_url}", *more),
    ]


def values(emulator: Emulator) -> list[float]:
    return [entry["arguments"]["cfg_scale"] for entry in emulator.ledger()]


def searches(command: Command, experiment: str = EXPERIMENT) -> list:
    """Return the runs in MLflow that are searches."""
    client = MlflowClient(command.tracking_uri)
    found = client.get_experiment_by_name(experiment)
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


@pytest.mark.parametrize(("how", "accepted"), [(signal.SIGKILL, 4), (signal.SIGINT, 9)])
def test_an_interrupted_search_finishes_what_it_began_first(command, how, accepted):
    """Buys no run twice and asks for no others in its place, broken off in a trial or while the best is compared."""
    settings = EmulatorSettings(slots=2, width=128, height=72, fps=4, latency_s=1)
    repeated = ("optimize.samples=2", "optimize.confirm=2", "hydra.sweeper.n_trials=4", "budget.max_usd=99")
    with EmulatorProcess(settings) as process:
        emulator = Emulator(process.base_url)
        with started(command, *words(emulator, *repeated)) as search:
            until(lambda: len(emulator.ledger()) >= accepted, 120)
            os.killpg(search.pid, how)
            search.communicate(timeout=60)
        begun = values(emulator)
        done = command(*words(emulator, *repeated))
        assert done.returncode == 0, done.stdout + done.stderr
        bought = Counter(values(emulator))
        assert values(emulator)[: len(begun)] == begun
    # Two repeats a trial, and two further ones of the best and of what the model's default is.
    assert sorted(bought.values()) == [2, 2, 2, 2, 4]
    assert bought[0.5] == 2
    assert "by 2 further videos of each" in done.stdout
    assert [row["state"] for row in trials(command)] == ["complete"] * 4


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


def test_what_cannot_be_measured_is_a_pruned_trial(command, emulator):
    """Never gives NaN to the sampler, nor an error of Optuna's to the user."""
    (command.folder / "odd_metric.py").write_text(METRIC)
    odd = ("objective=odd", "+goal.odd=max", "+metrics.odd={target: 'odd_metric:Odd'}")
    done = command(*words(emulator, *odd, "hydra.sweeper.n_trials=2"))
    assert "No trial has a odd yet" in done.stdout, done.stdout + done.stderr
    assert "float-castable" not in done.stdout + done.stderr
    assert {(row["state"], row["why"].partition(":")[0]) for row in trials(command)} == {
        ("pruned", "odd not measured")
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
            overrides = ["hydra/sweeper=optuna", "objective=exposure_flicker", "provider=emulator", *given]
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
        ([SPACE, "objective=null"], "a search needs what to search by"),
        ([SPACE, "objective=colour"], "objective=colour is not measured"),
        ([SPACE, "objective=luma_mean"], "'goal={luma_mean: max}' or min"),
        ([SPACE, "objective=[sharpness,motion,cuts]"], "a metric nor a list of two"),
        ([SPACE, "objective=null", "goal={sharpness: max, motion: max, cuts: min}"], "goal has 3"),
        ([SPACE, "objective=null", "goal={siti_si: max}"], "goal.siti_si is"),
        ([SPACE, "goal={sharpness: up}"], "goal.sharpness=up"),
        (
            [SPACE, "objective=[exposure_flicker,static_flicker]", "hydra/sweeper/sampler=cmaes"],
            "CmaEsSampler can't search",
        ),
        (["sample=0,1"], "sample can't be searched"),
        ([SPACE, "optimize.samples=0"], "optimize.samples=0"),
        ([SPACE, "optimize.samples=1.5"], "optimize.samples=1.5"),
        ([SPACE, "optimize.confirm=1"], "optimize.confirm=1"),
        ([SPACE, "+optimize.repeats=1"], "optimize.repeats is unknown"),
        ([SPACE, "optimize.prompts=99"], "optimize.prompts=99 is not from 1 to 8"),
        ([SPACE, "optimize.prompts=[]"], "optimize.prompts=[]"),
        ([SPACE, "optimize.prompts=[potter,potter]"], "each once"),
        ([SPACE, "optimize.prompts=[potter,nobody]"], "prompt=nobody is not in the prompt set"),
        ([SPACE, "prompt=potter,fox", "optimize.prompts=2"], "leave out one of them"),
        ([SPACE, "hydra.sweeper.n_trials=0"], "n_trials=0"),
        ([SPACE, "hydra.sweeper.n_jobs=0"], "n_jobs=0"),
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
        [SPACE, "objective=null", "goal={exposure_flicker: min}"],
        [SPACE, "optimize.confirm=3", "optimize.prompts=[potter]"],
    ]
    others = [
        ["cfg_scale=interval(0, 0.9)"],
        [SPACE, "duration=10"],
        [SPACE, "prompt=fox"],
        [SPACE, "sample=1"],
        [SPACE, "model=kling_v2_master"],
        [SPACE, "objective=static_flicker"],
        [SPACE, "goal={exposure_flicker: max}"],
        [SPACE, "objective=[exposure_flicker,static_flicker]"],
        [SPACE, "optimize.samples=2"],
        [SPACE, "optimize.prompts=2"],
        [SPACE, "optimize.prompts=[potter,skater]"],
        [SPACE, "hydra/sweeper/sampler=random"],
        [SPACE, "hydra.sweeper.sampler.seed=1"],
        [SPACE, "prompt=potter,fox"],
    ]
    assert {asked(*given).name for given in same} == {name}
    names = [asked(*given).name for given in others]
    assert len({name, *names}) == len(names) + 1


@pytest.mark.parametrize(
    ("low", "high", "argument", "expected"),
    [
        (0, 1, {"minimum": 0, "maximum": 1}, (0, 1, 0.01)),
        (0.123, 0.877, {"minimum": 0, "maximum": 1}, (0.13, 0.87, 0.01)),
        (1, 20, {"minimum": 1, "maximum": 20}, (1, 20, 0.1)),
        (0, 3, {}, (0, 3, 0.01)),
        (0.501, 0.5035, {"minimum": 0, "maximum": 1}, (0.501, 0.5035, 0.00001)),
        (-5, 5, {"minimum": -10, "maximum": 10}, (-5, 5, 0.1)),
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
        assert stepped(own, {"minimum": 0, "maximum": 1}) is own
    assert size(DiscreteUniformDistribution(0, 1, 0.25)) == 5


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes", "nsgaii", "grid"])
def test_a_search_goes_on_with_other_values(asked, sampler):
    """Proposes the same for the same trials, and anew nothing that was proposed, whichever sampler begins again."""
    found = asked(SPACE, "duration=5,10", f"hydra/sweeper/sampler={sampler}")
    asker = Asker(found.jobs.config, found.space, found.jobs.fixed, found.goal)
    trials: list[Trial] = []
    for _ in range(4):  # each as if by a command of its own
        proposals = [*islice(asker.propose(list(trials)), 3)]
        is_same = proposals == [*islice(asker.propose(list(trials)), 3)]
        assert is_same or sampler == "grid"  # which has no seed, and tries all in the end
        for proposal in proposals:
            restored = json.loads(json.dumps([proposal.values, proposal.distributions, proposal.notes]))
            (row,) = found.jobs.cells(proposal.values, found.samples)
            value = math.sin(proposal.values["cfg_scale"])
            outcomes = [[Outcome(cell, "complete", [value], "", 1.4) for cell in row]]
            trials.append(Trial(len(trials), Proposal(*restored), outcomes))
    assert len({trial.key for trial in trials}) >= 10


def test_what_optuna_is_told(asked):
    """Hears the means of what is complete, and why another is pruned or failed; nothing of what is open."""
    found = asked(SPACE)
    asker = Asker(found.jobs.config, found.space, found.jobs.fixed, found.goal)
    proposals = asker.propose([])
    given = ([[1.0, 3.0]], [["pruned"]], [["failed"]], [["open"]])
    trials = [
        replace(trial(number, rows), proposal=proposal)
        for number, (rows, proposal) in enumerate(zip(given, proposals, strict=False))
    ]
    study = asker.study(trials)
    assert [(one.state.name, one.values, one.user_attrs.get("why")) for one in study.trials] == [
        ("COMPLETE", [2.0], None),
        ("PRUNED", None, "pruned it"),
        ("FAIL", None, "failed it"),
    ]
    assert [one.params for one in study.trials] == [dict(one.proposal.values) for one in trials[:3]]


def test_a_range_is_without_its_end():
    """Searches the values that Hydra would sweep over, and refuses what it could not."""
    parse = OverridesParser.create().parse_override
    assert edges(distribution(parse("cfg_scale=range(0, 1, 0.25)"))) == [0, 0.75]
    assert edges(distribution(parse("x=range(1, 8, 3)"))) == [1, 7]
    assert edges(distribution(parse("x=int(interval(1, 8))"))) == [1, 8]
    assert edges(distribution(parse("x=tag(log, interval(1, 8))"))) == [1, 8]
    assert edges(distribution(parse("x=range(3, 0, -1)"))) == [3, 2, 1]
    assert edges(distribution(parse("x=a,'b, c'"))) == ["a", "'b, c'"]
    with pytest.raises(ConfigError, match="can't be searched"):
        distribution(parse("x=interval(2, 1)"))


def test_the_prompts_of_a_trial(asked):
    """Takes ids, texts, or the first of the prompt set, each with the repeats from `sample` on."""
    found = asked(SPACE, "optimize.prompts=[fox,'A cat, asleep']", "optimize.samples=2", "sample=3")
    cells = found.jobs.cells({"cfg_scale": 0.25}, found.samples)
    assert [[(cell.prompt, cell.request.sample) for cell in row] for row in cells] == [
        [("fox", 3), ("fox", 4)],
        [("A cat, asleep", 3), ("A cat, asleep", 4)],
    ]
    assert {cell.request.arguments["cfg_scale"] for row in cells for cell in row} == {0.25}
    assert asked(SPACE, "optimize.prompts=2").settings.optimize.prompts == ("potter", "lighthouse")
    assert [*found.further] == [] and found.trial_usd == pytest.approx(4 * 1.4)


def trial(number: int, rows: list[list], **settings) -> Trial:
    """Make a trial of what its runs gave: a row a prompt, a number, two, or the state of one that gave nothing."""
    outcomes = []
    for place, row in enumerate(rows):
        outcomes.append([])
        for sample, given in enumerate(row):
            request = GenerationRequest("endpoint", {"prompt": f"{place}", **settings}, sample, 1.0)
            cell = Cell(request, "model", f"{place}", {}, f"{place} #{sample}")
            state = given if isinstance(given, str) else "complete"
            values = () if state == given else given if isinstance(given, tuple) else (given,)
            outcomes[-1].append(Outcome(cell, state, values, "" if values else f"{state} it", 1.0))
    return Trial(number, Proposal(settings), outcomes)


@pytest.mark.parametrize(
    ("rows", "state", "values"),
    [
        ([[1.0, 3.0], [10.0, 20.0]], "complete", (8.5,)),
        ([[1.0, "failed"], [10.0, 20.0]], "complete", (8.0,)),
        ([["pruned", 3.0], [10.0, "failed"]], "complete", (6.5,)),
        ([[1.0, "open"], [10.0, 20.0]], "open", ()),
        ([["failed", "open"], [10.0, 20.0]], "open", ()),
        ([["pruned", "pruned"], [10.0, 20.0]], "pruned", ()),
        ([["pruned", "failed"], [10.0, 20.0]], "failed", ()),
        ([[(1.0, 5.0)], [(3.0, 7.0)]], "complete", (2.0, 6.0)),
    ],
)
def test_a_trial_is_the_mean_of_its_prompts(rows, state, values):
    """Counts every prompt once, whatever was lost of it, has no value where one has none, and says what was lost."""
    found = trial(0, rows)
    assert (found.state, found.values) == (state, values)
    lost = [given for row in rows for given in row if isinstance(given, str) and given != "open"]
    assert all(f"{given} it" in found.why for given in lost)


@pytest.mark.parametrize(
    ("goal", "values", "best", "front"),
    [
        ({"a": "max"}, [1, 3, 2], 1, [1]),
        ({"a": "min"}, [1, 3, 1], 0, [0]),
        ({"a": "max", "b": "max"}, [(9, 0), (6, 7), (0, 9), (5, 6)], 1, [0, 1, 2]),
        ({"a": "max", "b": "min"}, [(9, 9), (6, 2), (0, 0), (5, 3)], 1, [0, 1, 2]),
        ({"a": "min", "b": "min"}, [(2, 2), (1, 1), (1, 1)], 1, [1]),
    ],
)
def test_the_best_of_two_metrics_is_between_them(goal, values, best, front):
    """Names the trials that no other beats in both, by the first metric, and of these the nearest to the best of both."""
    trials = [trial(n, [[float(v) if isinstance(v, int) else v]], x=n) for n, v in enumerate(values)]
    found = Found(goal, [*trials, trial(9, [["failed"]], x=9)])
    assert found.best.number == best
    assert [one.number for one in found.front] == front
    assert [one.number for one in found.ranked][: len(front)][0] == best


def compared(is_fresh: bool, effect: float, repeats: int = 3) -> Found:
    """Make a search whose best is so much better in two prompts, with a little noise."""
    noise = [0.0, 0.1, -0.1, 0.05]
    best, other = (
        trial(n, [[level + shift + noise[k] for k in range(repeats)] for shift in (0, 5)], cfg_scale=0.1 * n)
        for n, level in ((2, 10.0 + effect), (1, 10.0))
    )
    lost = [
        trial(3, [["failed"] * repeats] * 2, cfg_scale=0.7),
        trial(4, [["pruned"] * repeats] * 2, cfg_scale=0.9),
    ]
    settings = [one.settings for one in (best, other)]
    comparison = Comparison("configured", settings, [best.outcomes, other.outcomes], is_fresh)
    return Found({"motion": "max"}, [other, best, *lost], comparison)


def test_how_sure_the_best_is():
    """Says by how much it is better, of which prompts that is said, and that the best of many looks better than it is."""
    fresh = str(compared(True, 2.0))
    assert "cfg_scale=0.2 has the highest motion 14.5" in fresh
    assert (
        "Against the configured cfg_scale=0.1, by 6 further videos of each that had no part in the choice"
        in fresh
    )
    assert "higher (better) at setting=best than at configured" in fresh
    assert "in these 2 prompts, not in prompts in general" in fresh
    assert "There it has motion 14.5" in fresh
    assert "not distinguishable" in str(compared(True, 0.01))
    own = str(compared(False, 2.0))
    assert "by the search's own videos" in own
    assert "the best of 2 looks better than it is; optimize.confirm=2" in own
    single = str(compared(False, 2.0, repeats=1))
    assert "confidence" not in single
    assert "optimize.confirm=2" in single


def test_the_picture_shows_what_was_tried():
    """Has a panel of the trials and one a key, with all that came of them, further videos and the noise included."""
    figure = figure_of(compared(True, 2.0), "4 trials")
    order, key = figure.axes
    assert (order.get_xlabel(), key.get_xlabel()) == ("trial", "cfg_scale")
    assert order.get_ylabel() == key.get_ylabel() == "motion, diagonals/s"
    told = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"best", "failed", "not measured", "95 % of the noise between repeats"} <= told
    assert {"best, in further videos", "configured, in further videos"} <= told
    values = [(1.0, 2.0), (2.0, 1.0), (0.5, 0.5)]
    two = [trial(n, [[value]], cfg_scale=n / 4, style="'a', 'b'") for n, value in enumerate(values)]
    front, *keys = figure_of(Found({"sharpness": "max", "motion": "max"}, two), "3 trials").axes
    assert [line.get_xydata().tolist() for line in front.lines] == [[[2.0, 1.0], [1.0, 2.0]]]
    assert {axes.get_xlabel() for axes in keys} == {"cfg_scale", "style"}
    assert len(figure_of(Found({"motion": "max"}, []), "no trials").axes) == 1


def test_optimize_finds_a_documented_effect(command):
    """Says how sure the best is by videos of their own, shows what was tried, and buys nothing when it is run again."""
    given = [
        *(
            "+sweep=optimize",
            "objective=sharpness",
            "goal={sharpness: max}",
            "negative_prompt=blur",
            "metrics=fast",
        ),
        *SIX,
    ]
    with EmulatorProcess(EmulatorSettings(width=160, height=90, fps=4, latency_s=0)) as process:
        emulator = Emulator(process.base_url)
        given += ["provider=emulator", f"provider.base_url={emulator.base_url}"]
        dry = command(*given, "dry_run=true").stdout
        assert "0 of 6 trials made; the others cost 4.20 USD at most; comparing the best" in dry
        assert "in the end 2.80 USD at most" in dry
        assert emulator.ledger() == []
        done = command(*given)
        assert done.returncode == 0, done.stdout + done.stderr
        ledger = emulator.ledger()
        assert sum(entry["charged_usd"] for entry in ledger) == pytest.approx(4.20 + 2.80)
        again = command(*given)
        assert again.returncode == 0, again.stdout + again.stderr
        assert emulator.ledger() == ledger
    (said,) = (line for line in done.stdout.splitlines() if line.startswith("Best: "))
    assert said in again.stdout
    assert re.search(
        r"Against the configured cfg_scale=0.5, by 4 further videos of each that had no part in the choice: sharpness "
        r"(is [\d.]+ % higher \(better\) at setting=best|at setting=best is not distinguishable)",
        said,
    )
    assert "What the runs say" not in done.stdout
    (run,) = searches(command, "kling_sweeps/optimize (emulator)")
    assert float(run.data.params["cfg_scale"]) > 0.5  # sharpness rises with it
    client = MlflowClient(command.tracking_uri)
    picture = Path(client.download_artifacts(run.info.run_id, "search.png", str(command.folder)))
    assert picture.read_bytes().startswith(b"\x89PNG")
    runs = runs_df("optimize", command.tracking_uri)
    assert len(runs) == len(ledger) == 6 * 2 + 2 * 2 * 2
    assert conclusions(runs) == [said]
    assert (
        said in client.get_experiment_by_name("kling_sweeps/optimize (emulator)").tags["mlflow.note.content"]
    )


def test_optimize_is_for_searches(command):
    """Refuses what says how a trial is made where nothing is searched."""
    for words_ in (["prompt=fox"], ["-m", "prompt=fox,potter"]):
        refused = command(*words_, "optimize.samples=3", "provider=emulator")
        assert refused.returncode == 2
        assert "+sweep=optimize" in refused.stderr


SWEEP_FILE = """
# @package _global_
defaults:
  - override /hydra/sweeper: optuna
hydra:
  mode: MULTIRUN
  sweeper:
    params: {cfg_scale: "interval(0, 1)", prompt: [potter, fox]}
goal: {luma_mean: max}
"""


def test_a_search_is_a_sweep_file_too(command):
    """Takes the sweeper, and lists among the params, as a file of conf/sweep/ gives them."""
    (command.folder / "mine" / "sweep").mkdir(parents=True)
    (command.folder / "mine" / "sweep" / "hunt.yaml").write_text(SWEEP_FILE.lstrip())
    done = command("+sweep=hunt", "--config-dir", "mine", "provider=emulator", "dry_run=true")
    assert done.returncode == 0, done.stderr
    assert "0 of 20 trials made; the others cost 28.00 USD at most" in done.stdout
    assert "it ends where that is spent" in done.stdout
