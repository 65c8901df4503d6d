"""The result of one run, as tracking, the terminal and Hydra's jobs see it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kling_sweeps.errors import RunError
from kling_sweeps.experiment.settings import Cell
from kling_sweeps.store.folder import Entry
from kling_sweeps.store.measured import read_flaws
from kling_sweeps.store.state_machine import Attempt, State


@dataclass(frozen=True)
class RunResult:
    """A run that is over: `measurement` is the folder of its measurement, unless there is an error.

    `was_complete` tells that the store and MLflow had it before, so that nothing was done for it.
    """

    cell: Cell
    entry: Entry
    state: State
    measurement: Path | None = None
    error: RunError | None = None
    was_complete: bool = False

    @property
    def flaws(self) -> str:
        """Return in one line what could not be measured and why; "" where nothing is to be said."""
        return read_flaws(self.measurement) if self.measurement else ""

    def attempts(self, command: str) -> list[Attempt]:
        """Return the submissions that a command made for it."""
        return self.entry.attempts(command)
