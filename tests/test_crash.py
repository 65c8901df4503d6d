"""Whatever instant a process is killed at: what it bought is kept, tracked once, and never bought again."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from signal import SIGKILL

import pytest
from conftest import FOREIGN, Emulator
from crash_child import cells
from mlflow.tracking import MlflowClient

from kling_sweeps.emulator.process import EmulatorProcess
from kling_sweeps.experiment.emulator_settings import EmulatorSettings
from kling_sweeps.experiment.request import Product
from kling_sweeps.store.folder import Entry, Store
from kling_sweeps.store.state_machine import Stage
from kling_sweeps.tracking.tracker import Tracker
from kling_sweeps.video.decode import verify

pytestmark = pytest.mark.slow

KILLS = 24
COPIES = ("a", "a", "b")  # two repeats and another
STEPS = ("submitting", "submitted", "started", "completed", "fetched", "downloaded", "measured")
TRACKING = ("create_run", "log_batch", "log_artifact", "set_tag", "set_terminated")
FILES = ("request.json", "result.json", "video.mp4", "values.json")
PLACES = [
    *(f"{moment} append {step}" for step in STEPS for moment in ("before", "torn", "after")),
    "after answer",
    *(f"{moment} {what}" for what in ("claim", "rename") for moment in ("before", "after")),
    *(f"{moment} replace {file}" for file in FILES for moment in ("before", "after")),
    *(f"{moment} mlflow {call}" for call in TRACKING for moment in ("before", "after")),
]
PLACES_OF_ANSWERS = [
    *(f"after append {step}" for step in ("submitting", "submitted", "completed", "fetched", "answered")),
    *(f"torn append {step}" for step in ("submitting", "fetched", "answered")),
    *("after answer", "after claim", "before rename"),
    *("before replace request.json", "before replace result.json", "after replace result.json"),
    "after mlflow log_batch",
]


@dataclass(frozen=True)
class Children:
    """Runs sweeps in child processes that cost next to nothing to start; see crash_child.py."""

    process: subprocess.Popen[str]

    def ask(self, task: dict) -> dict:
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@dataclass(frozen=True)
class Sweep:
    """A sweep of its own: its cells, its folder, its experiment, and all that is known of it."""

    name: str
    folder: Path
    tracking_uri: str
    emulator: Emulator
    children: Children
    copies: Sequence[str] = ("a", "a")

    @property
    def prompts(self) -> list[str]:
        return [f"{self.name} {copy}" for copy in self.copies]

    def run(self, **how: object) -> dict:
        """Run the sweep in a child; return its exit code, negative for a signal, and its results."""
        defaults = {"kill": None, "kill_after_s": None, "unknown": "wait", "workers": False, "judge": None}
        return self.children.ask(
            {
                "sweep": self.name,
                "folder": str(self.folder),
                "tracking_uri": self.tracking_uri,
                "base_url": self.emulator.base_url,
                "prompts": self.prompts,
                "history_wait_s": 1,
                **defaults,
                **how,
            }
        )

    def finish(self) -> bool:
        """Run until all is done; return whether a submission was never sent, and nobody could know.

        Then the test, which knows, gives the user's word to send it again.
        """
        never_sent = False
        for _ in range(4):
            done = self.run(unknown="resubmit" if never_sent else "wait")
            assert done["code"] == 0, self.log()
            errors = [result["error"] for result in done["results"] if result["error"]]
            if not errors:
                return never_sent
            assert all(error.startswith("unknown: ") for error in errors), errors
            self.wait_for_fal()
            never_sent = len(self.ledger()) < len(self.prompts)
        raise AssertionError(errors)

    def judge(self, question: str) -> bool:
        """Have the videos judged until all are; return, as `finish` does, whether a submission was never sent."""
        never_sent = False
        for _ in range(4):
            done = self.run(unknown="resubmit" if never_sent else "wait", judge=question)
            assert done["code"] == 0, self.log()
            if not done["unjudged"]:
                return never_sent
            self.wait_for_fal()
            is_unknown = any(one.state().stage is Stage.UNKNOWN for one in self.answers())
            never_sent = is_unknown and len(self.judged(question)) < len(self.answers())
        raise AssertionError(self.log())

    def wait_for_fal(self) -> None:
        """Wait until all that was accepted is over, and so in the history."""
        while any(entry["status"] != "COMPLETED" for entry in self.emulator.ledger()):
            time.sleep(0.02)

    def ledger(self) -> list[dict]:
        return [e for e in self.emulator.ledger() if e["arguments"]["prompt"] in self.prompts]

    def judged(self, question: str) -> list[dict]:
        """Return what the emulator accepted for a judge who is asked a question."""
        return [entry for entry in self.emulator.ledger() if question in entry["arguments"]["prompt"]]

    def answers(self) -> list[Entry]:
        return [*Store(self.folder / "store" / "fal").entries(Product.ANSWER)]

    def check_judged(self, question: str) -> None:
        """Hold that each answer was charged once, is in the store, and its grade in MLflow."""
        charged = sorted(entry["request_id"] for entry in self.judged(question) if entry["charged_usd"])
        assert len(charged) == len(self.judged(question)), self.log()
        states = [entry.state() for entry in self.answers()]
        assert {state.stage for state in states} == {Stage.FINISHED}, self.log()
        assert sorted(state.request_id for state in states) == charged, self.log()
        paid = sum(entry["charged_usd"] for entry in self.judged(question))
        assert sum(state.spent_usd for state in states) == pytest.approx(paid, abs=1e-5)
        client = MlflowClient(self.tracking_uri)
        experiment = client.get_experiment_by_name(f"kling_sweeps/{self.name}")
        runs = client.search_runs([experiment.experiment_id])
        assert all(1 <= run.data.metrics["judge/good"] <= 2 for run in runs) and len(runs) == 2

    def log(self) -> str:
        return (self.folder / "log.txt").read_text()

    def check(self) -> None:
        """Hold that each request was charged once, and is in the store and in MLflow, once."""
        charged = sorted(entry["request_id"] for entry in self.ledger() if entry["charged_usd"])
        assert len(charged) == len(self.ledger()) == len(self.prompts), self.log()
        assert self.stored() == charged, self.log()
        assert self.tracked() == charged, self.log()

    def stored(self) -> list[str]:
        """Return the request ids of the finished videos in the store."""
        store = Store(self.folder / "store" / "fal")
        entries = [store.entry(cell.request) for cell in cells(self.prompts)]
        for entry in entries:
            verify(entry.video)
            assert entry.state().stage is Stage.FINISHED
            assert entry.state().request_id in entry.read_json("result.json")["video"]["url"]
        return sorted(entry.state().request_id for entry in entries)

    def tracked(self) -> list[str]:
        """Return the request ids of the runs in MLflow, all finished and with their video."""
        client = MlflowClient(self.tracking_uri)
        experiment = client.get_experiment_by_name(f"kling_sweeps/{self.name}")
        runs = client.search_runs([experiment.experiment_id])
        for run in runs:
            assert run.info.status == "FINISHED"
            assert run.data.metrics["cost_usd"] == 1.4
            assert "video.mp4" in {file.path for file in client.list_artifacts(run.info.run_id)}
        return sorted(run.data.tags["request_id"] for run in runs)


@pytest.fixture(scope="module")
def fal() -> Iterator[Emulator]:
    """Stand an emulator of tiny videos where fal does."""
    settings = EmulatorSettings(width=64, height=64, fps=4, latency_s=0, slots=4)
    with EmulatorProcess(settings) as process:
        emulator = Emulator(process.base_url)
        emulator.set_faults({"at": "generate", "fault": "slow", "seconds": 0.3, "match": "started"})
        yield emulator


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    """Start the process that forks the children."""
    clean = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    script = Path(__file__).with_name("crash_child.py")
    paths = os.pathsep.join([str(script.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    with subprocess.Popen(
        [sys.executable, script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**clean, "PYTHONPATH": paths, "FAL_KEY": "k", "MLFLOW_DISABLE_TELEMETRY": "true"},
    ) as process:
        assert json.loads(process.stdout.readline()) == "ready"
        yield Children(process)
        process.stdin.close()


@pytest.fixture(scope="module")
def tracking_uri(tmp_path_factory) -> str:
    """Make the database that all sweeps log to, each into an experiment of its own."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"
    Tracker(uri, "none", "fal").open()
    return uri


@pytest.mark.parametrize("place", PLACES)
def test_a_kill_at_any_step_buys_nothing_twice_and_loses_nothing(
    tmp_path, tracking_uri, fal, children, place
):
    """Goes on from where it was killed; a person is asked where nobody can know what was sent."""
    sweep = Sweep(place, tmp_path, tracking_uri, fal, children)
    assert sweep.run(kill=place)["code"] == -SIGKILL
    never_sent = sweep.finish()
    assert never_sent or place != "after append submitting"
    sweep.check()


@pytest.fixture(scope="module")
def filmed(tmp_path_factory, tracking_uri, fal, children) -> Sweep:
    """Make a sweep whose videos are there."""
    sweep = Sweep("filmed", tmp_path_factory.mktemp("filmed"), tracking_uri, fal, children)
    assert not sweep.finish()
    return sweep


@pytest.mark.parametrize("place", PLACES_OF_ANSWERS)
def test_a_kill_while_videos_are_judged_buys_no_answer_twice_and_loses_none(tmp_path, filmed, place):
    """Goes on from where it was killed, and the videos are left as they are."""
    shutil.copytree(filmed.folder / "store", tmp_path / "store")
    sweep, question = replace(filmed, folder=tmp_path), f"Is it good {place}?"
    assert sweep.run(kill=place, judge=question)["code"] == -SIGKILL
    never_sent = sweep.judge(question)
    assert never_sent or place != "after append submitting"
    sweep.check()
    sweep.check_judged(question)


def test_a_finished_sweep_is_left_as_it_is(tmp_path, tracking_uri, fal, children):
    """Asks for nothing and tracks nothing when all is there."""
    sweep = Sweep("finished", tmp_path, tracking_uri, fal, children)
    assert not sweep.finish() and not sweep.finish()
    sweep.check()


def test_kills_at_random_instants_buy_nothing_twice_and_lose_nothing(tmp_path, tracking_uri, fal, children):
    """Kills two dozen times, up to four times a sweep, at any instant of its life."""
    luck = random.Random(3)
    killed, number = 0, 0
    lives_s = life(Sweep("whole", tmp_path, tracking_uri, fal, children, COPIES))
    while killed < KILLS:
        folder = tmp_path / str(number)
        folder.mkdir()
        sweep = Sweep(str(number), folder, tracking_uri, fal, children, COPIES)
        for kill in range(4):  # what is done already makes each life shorter than the one before
            if sweep.run(kill_after_s=luck.uniform(0, lives_s * 0.8**kill))["code"] == 0:
                break
            killed += 1
        sweep.finish()
        sweep.check()
        number += 1


def life(sweep: Sweep) -> float:
    """Return how many seconds a sweep takes that nobody kills."""
    begin = time.monotonic()
    assert sweep.run()["code"] == 0
    return time.monotonic() - begin


def test_a_kill_while_the_database_is_made_leaves_one_that_can_be_used(tmp_path, fal, children):
    """Tracks to a new database, though its first writer died at some point of making it."""
    for number, seconds in enumerate((0.7, 1.1, 1.5)):
        folder = tmp_path / str(number)
        folder.mkdir()
        sweep = Sweep(f"new {number}", folder, f"sqlite:///{folder}/mlflow.db", fal, children)
        sweep.run(kill_after_s=seconds)
        sweep.finish()
        sweep.check()


def test_no_decoder_outlives_a_killed_command(tmp_path, tracking_uri, fal, children):
    """Leaves no process behind."""
    sweep = Sweep("decoders", tmp_path, tracking_uri, fal, children)
    place = "before append downloaded"
    assert sweep.run(kill=place, workers=True)["code"] == -SIGKILL
    until = time.monotonic() + 10
    while living_in(tmp_path) and time.monotonic() < until:
        time.sleep(0.05)
    assert living_in(tmp_path) == []
    sweep.finish()
    sweep.check()


def living_in(folder: Path) -> list[str]:
    """Return the processes whose working directory is a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(process / "cwd")) == folder:
                found.append(process.name)
        except OSError:
            continue  # it is gone, or somebody else's
    return found
