"""Sweeps in this process, against an emulator that is taken for fal, and what is known of them afterwards."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import fal_client
import pytest
from conftest import Emulator
from mlflow.entities import Run

from kling_sweeps import providers
from kling_sweeps.emulator.process import EmulatorProcess
from kling_sweeps.errors import RefusedError, submitted
from kling_sweeps.experiment.emulator_settings import EmulatorSettings
from kling_sweeps.experiment.expectations import Expectations
from kling_sweeps.experiment.request import GenerationRequest
from kling_sweeps.experiment.settings import (
    BudgetSettings,
    Cell,
    OptimizeSettings,
    Policy,
    PollSettings,
    ProviderSettings,
    Settings,
)
from kling_sweeps.store.folder import Entry, Store
from kling_sweeps.store.result import RunResult
from kling_sweeps.store.state_machine import Cost, State, fold
from kling_sweeps.sweep import runner
from kling_sweeps.tracking.tracker import Tracker
from kling_sweeps.video import MAX_PIXELS

ENDPOINT = "fal-ai/kling-video/v2.1/master/text-to-video"
ARGUMENTS = {"negative_prompt": "", "cfg_scale": 0.5, "aspect_ratio": "16:9", "duration": "5"}
PRICE_USD = 1.4
SMALL = EmulatorSettings(slots=4, width=128, height=72, fps=2, latency_s=0)
IN_FLIGHT = 200


def cell(prompt: str, sample: int = 0, price_usd: float | None = PRICE_USD) -> Cell:
    """Return a run of a prompt that no other test has."""
    request = GenerationRequest(ENDPOINT, {"prompt": prompt, **ARGUMENTS}, sample, price_usd)
    return Cell(request, "kling_v2.1_master", prompt, {}, f"{prompt} · #{sample}")


@dataclass
class Outcome:
    """What one command ended with: its runs, and what it said. `error` is why it was refused."""

    results: dict[str, RunResult] = field(default_factory=dict)
    said: str = ""
    error: RefusedError | None = None

    @property
    def exit_code(self) -> int:
        """Return what the command exits with, by its runs."""
        return 2 if self.error else int(any(result.error for result in self.results.values()))

    def lines(self, name: str) -> str:
        """Return every line that names a run."""
        return "\n".join(line for line in self.said.splitlines() if name in line)


@dataclass(frozen=True)
class Lab:
    """An emulator, a store and one MLflow database for many sweeps."""

    folder: Path
    emulator: Emulator

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.folder / 'mlflow.db'}"

    def settings(self, sweep: str, *, max_usd: float = 1e4, partial: bool = False, **given) -> Settings:
        """Return settings that wait for nothing long; `given` are fields of any of their parts."""
        provider = ProviderSettings(
            name="fal",
            base_url=self.emulator.base_url,
            timeout_s=60,
            pause_s=0.02,
            history_wait_s=60,
            late_s=0,
            poll=PollSettings(share=0.1, min_s=0.02, max_s=0.2, far_s=2),
            max_video_mb=2,
            emulator=SMALL,
        )
        unknown_price = given.pop("allow_unknown_price", False)
        return Settings(
            sweep=sweep,
            command=uuid.uuid4().hex,
            provider=_replace(provider, given),
            store_dir=given.pop("store_dir", self.folder / "store"),
            tracking_uri=given.pop("tracking_uri", self.tracking_uri),
            metrics={"luma": {}},
            budget=BudgetSettings(max_usd, partial, unknown_price),
            policy=_replace(Policy(), given),
            objective=(),
            goal={},
            expect=given.pop("expect", Expectations()),
            repeats=None,
            optimize=OptimizeSettings(),
            dry_run=given.pop("dry_run", False),
            max_pixels=MAX_PIXELS,
            judge=given.pop("judge", None),
        )

    def begin(self, settings: Settings, *cells: Cell, in_flight: int = IN_FLIGHT) -> Iterator[RunResult]:
        submitted.clear()  # as `main` does
        return runner.run_all(settings, cells, in_flight)

    def run(self, sweep: str, *cells: Cell, in_flight: int = IN_FLIGHT, **given) -> Outcome:
        """Run a command from end to end."""
        outcome = Outcome()
        with said() as text:
            try:
                for result in self.begin(self.settings(sweep, **given), *cells, in_flight=in_flight):
                    outcome.results[result.cell.name] = result
            except RefusedError as error:
                outcome.error = error
        outcome.said = text.getvalue()
        return outcome

    def entry(self, cell: Cell) -> Entry:
        return Store(self.folder / "store" / "fal").entry(cell.request)

    def state(self, cell: Cell) -> State:
        return self.entry(cell).state()

    def costs(self, cell: Cell) -> list[str]:
        """Return what our own ledger says of each submission of a run, without those that were free."""
        made = fold(self.entry(cell).journal.events()).attempts
        return [attempt.cost for attempt in made if attempt.cost is not Cost.FREE]

    def bought(self, *cells: Cell) -> list[dict]:
        """Return what the emulator accepted of the runs' prompts."""
        prompts = {cell.prompt_text for cell in cells}
        return [entry for entry in self.emulator.ledger() if entry["arguments"]["prompt"] in prompts]

    def charged(self, *cells: Cell) -> int:
        """Return how many videos of the runs' prompts were charged."""
        return sum(entry["charged_usd"] > 0 for entry in self.bought(*cells))

    def tracked(self, sweep: str) -> dict[str, Run]:
        """Return the runs of a sweep in MLflow by their names; none may be there twice."""
        runs = list(Tracker(self.tracking_uri, sweep, "fal")._search(""))
        names = Counter(run.info.run_name for run in runs)
        assert not [name for name, times in names.items() if times > 1]
        return {run.info.run_name: run for run in runs}


def _replace(settings, given: dict):
    names = {f.name for f in dataclasses.fields(settings)} & set(given)
    return dataclasses.replace(settings, **{name: given.pop(name) for name in names})


@contextlib.contextmanager
def said() -> Iterator[io.StringIO]:
    """Collect what the command prints, from whichever thread."""
    with contextlib.redirect_stdout(io.StringIO()) as text:
        yield text


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[Lab]:
    """Open a laboratory in a folder; its emulator is taken for fal, and nobody waits between two tries."""
    with pytest.MonkeyPatch.context() as patch, EmulatorProcess(SMALL) as process:
        patch.chdir(folder)
        patch.setenv("FAL_KEY", "a-key")
        patch.setattr(providers, "_is_emulator", lambda base_url: False)
        patch.setattr(fal_client.client, "_get_retry_delay", lambda *args: 0.0)
        yield Lab(folder, Emulator(process.base_url))
