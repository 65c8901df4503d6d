"""A finished sweep and an emulator, real ones, that many tests look at."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import clips
import httpx
import pytest
import warm

from kling_sweeps.emulator.process import EmulatorProcess
from kling_sweeps.errors import submitted
from kling_sweeps.experiment.emulator_settings import EmulatorSettings
from kling_sweeps.experiment.request import GenerationRequest
from kling_sweeps.experiment.settings import Cell
from kling_sweeps.metrics import measure
from kling_sweeps.store.folder import Store
from kling_sweeps.store.result import RunResult
from kling_sweeps.store.state_machine import Attempt, Cost, Stage, State, Ticket

SMALL = [f"provider.emulator.{name}" for name in ("width=320", "height=180", "fps=8", "latency_s=0")]
# Where the tests run in the background, a shell has them and all that they start ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
ARGUMENTS = {
    "prompt": "a fox",
    "negative_prompt": "",
    "cfg_scale": 0.5,
    "aspect_ratio": "16:9",
    "duration": "5",
}
# What a developer's own shell may hold and a test must not see.
FOREIGN = ("FAL_KEY", "FAL_KEY_ID", "FAL_KEY_SECRET", "MLFLOW_TRACKING_URI", "HYDRA_FULL_ERROR")

# The files that take longest, the longest first: all processes have work to the end.
LONGEST = (
    "test_crash",
    "test_search",
    "test_paid_once_model",
    "test_report_browser",
    "test_many_machines",
    "test_fault_matrix",
    "test_interrupts",
    "test_browser",
    "test_console",
    "test_damage",
    "test_policies",
    "test_notebooks",
    "test_sweep",
    "test_conclusions",
)
# What a test asks for that makes it slow, or needs more than Python.
SLOW = ("command", "emulator", "fates", "laboratory", "mlflow_server", "potters", "sweep")
MARKS = {**dict.fromkeys(SLOW, "slow"), "page": "browser"}


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Draw a new seed for the random cases of this run, unless one is given; start what can be forked by forking it."""
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(secrets.randbits(32))
    warm.use()
    # For each client httpx would read all certificates that are trusted, which takes 40 ms.
    httpx._transports.default.create_ssl_context = cache(httpx.create_ssl_context)


def pytest_report_header(config: pytest.Config) -> str:
    """Return the option that repeats the random cases of this run."""
    return f"random cases: --hypothesis-seed={config.option.hypothesis_seed}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by the fixtures that it asks for, so that `-m` can leave it out; the longest files begin first."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        for fixture in MARKS.keys() & set(item.fixturenames) - parameters.keys():
            item.add_marker(MARKS[fixture])


@dataclass(frozen=True)
class Command:
    """Runs `python -m kling_sweeps` in a folder of its own, as a user does; `python` is one that is started anew."""

    folder: Path
    python: str | None = None

    def __call__(self, *overrides: str, **env: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        return subprocess.run(
            [self.python or warm.executable(), "-m", "kling_sweeps", *overrides],
            cwd=self.folder,
            env={**clean, "FAL_HOME_DIR": str(self.folder / "no-fal-login"), **env},
            capture_output=True,
            text=True,
            timeout=300,
        )

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.folder / 'mlflow.db'}"


@dataclass(frozen=True)
class Emulator:
    """A running emulator and what it says of itself."""

    base_url: str

    def ledger(self) -> list[dict]:
        return httpx.get(f"{self.base_url}/_emulator/ledger").raise_for_status().json()

    def set_faults(self, *rules: dict) -> None:
        httpx.put(f"{self.base_url}/_emulator/faults", json=list(rules)).raise_for_status()


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Give the command in an empty folder."""
    return Command(tmp_path)


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """Start an emulator of small videos and no latency."""
    with EmulatorProcess(EmulatorSettings(width=128, height=72, fps=8, latency_s=0)) as process:
        yield Emulator(process.base_url)


@dataclass(frozen=True)
class Sweep:
    """The finished `+sweep=cfg`: where it ran, what it said, and what the emulator accepted."""

    command: Command
    completed: subprocess.CompletedProcess[str]
    ledger: list[dict]


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Run the main job once, with a key, against an emulator that stands where fal does."""
    command = Command(tmp_path_factory.mktemp("sweep"))
    with EmulatorProcess(EmulatorSettings(width=320, height=180, latency_s=0)) as process:
        completed = command(
            "+sweep=cfg", "provider=fal", f"provider.base_url={process.base_url}", FAL_KEY=SECRET
        )
        ledger = Emulator(process.base_url).ledger()
    return Sweep(command, completed, ledger)


@pytest.fixture(autouse=True)
def nothing_submitted() -> None:
    """Begin each test as `main` begins a command: it has submitted nothing."""
    submitted.clear()


@pytest.fixture
def result(tmp_path, monkeypatch) -> RunResult:
    """A finished run of a small grey video."""
    monkeypatch.chdir(tmp_path)
    request = GenerationRequest("a/b", ARGUMENTS, 0, 1.4)
    entry = Store(tmp_path / "store").entry(request)
    entry.create(request)
    entry.write_json("result.json", {"video": {"url": "https://v3.fal.media/x.mp4"}})
    clips.write(entry.video, clips.grey(128))
    folder = entry.measurements("f" * 16)
    measure(entry.video, aspect_ratio="16:9", duration=5).save(folder)
    cell = Cell(request, "kling", "fox", {}, "fox · cfg 0.5 · 16:9 · 5 s · #0")
    state = State(
        Stage.FINISHED,
        Ticket("a/b", "r-1"),
        queue_s=1.0,
        inference_s=2.0,
        download_s=0.5,
        attempts=(Attempt(datetime(2026, 1, 1, tzinfo=UTC), "cfg", "c", 1.4, Cost.SPENT, "r-1"),),
    )
    return RunResult(cell, entry, state, folder)


SECRET = "0f1e2d3c-sweep-test:5b4a39281706f5e4d3c2b1a0"
