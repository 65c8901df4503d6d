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
    """A run that is over: its video measured in `measurement`, a folder, or an error.

    `was_complete` tells that it was so before, in MLflow too, and nothing was done.
    """

    cell: Cell
    entry: Entry
    state: State
    measurement: Path | None = None
    error: RunError | None = None
    was_complete: bool = False

    @property
    def flaws(self) -> str:
        """Return what could not be measured and why, in one line; "" where all was, or nothing."""
        return read_flaws(self.measurement) if self.measurement else ""

    def attempts(self, command: str) -> list[Attempt]:
        """Return the submissions that a command made for it."""
        return self.entry.attempts(command)
