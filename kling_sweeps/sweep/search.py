"""A search: what was proposed in all its commands, in the store, and what came of it.

    <store>/searches/<name>/journal.jsonl     `asked`, and a `proposed` for each trial, before it is run
    <store>/searches/<name>/lock              held by the command that works on it

What a trial cost and gave is nowhere but in the journal and the measurement of its video.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from kling_sweeps.errors import UnavailableError
from kling_sweeps.experiment.settings import Cell
from kling_sweeps.store.journal import Journal, sync_folder
from kling_sweeps.store.measured import is_measured, read_flaws, read_values
from kling_sweeps.store.state_machine import Stage
from kling_sweeps.sweep.scheduler import Runs


@dataclass(frozen=True)
class Proposal:
    """The values of one trial, the distributions they are from, as JSON, and what the sampler noted of it."""

    values: Mapping[str, Any]
    distributions: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """A proposal and its run; `value` of the objective where it is `complete`, else `why` it failed or is open."""

    number: int
    proposal: Proposal
    cell: Cell
    state: str
    value: float | None
    why: str
    usd: float

    @property
    def settings(self) -> dict[str, Any]:
        """Return the values by their names, without a plus."""
        return {name.lstrip("+"): value for name, value in self.proposal.values.items()}


@dataclass(frozen=True)
class SearchJournal:
    """The journal of one search."""

    folder: Path

    @property
    def journal(self) -> Journal:
        return Journal(self.folder / "journal.jsonl")

    def proposals(self) -> list[Proposal]:
        """Return what was proposed, in its order; raise UnavailableError for a journal that was damaged."""
        names = ("values", "distributions", "notes")
        try:
            events = [event for event in self.journal.events() if event["event"] == "proposed"]
            return [Proposal(*(dict(event[name]) for name in names)) for event in events]
        except (OSError, LookupError, TypeError, ValueError) as error:
            raise UnavailableError(
                f"{self.journal.path} can't be read ({type(error).__name__}: {error}); bring it back as it was, or move "
                "its folder away, and the search begins anew"
            ) from None

    def begin(self, asked: Mapping[str, Any]) -> None:
        """Make the folder and note what is searched, where that was not done."""
        self.folder.mkdir(parents=True, exist_ok=True)
        sync_folder(self.folder.parent)
        sync_folder(self.folder.parent.parent)
        if not self.journal.events():
            self.journal.append("asked", **asked)

    def add(self, proposal: Proposal) -> None:
        self.journal.append("proposed", **asdict(proposal))

    @contextmanager
    def held(self, on_wait: Callable[[], None]) -> Iterator[None]:
        """Keep other commands from the search; where one has it, call `on_wait` and wait. Raises UnavailableError."""
        lock = FileLock(self.folder / "lock")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            open(lock.lock_file, "ab").close()
        except OSError as error:
            raise UnavailableError(
                f"store.dir: {error.filename} can't be written: {error.strerror}"
            ) from None
        with suppress(Timeout), lock.acquire(timeout=0):
            yield
            return
        on_wait()
        with lock:
            yield


def read_trial(number: int, proposal: Proposal, cell: Cell, runs: Runs, error: str = "") -> Trial:
    """Read from the store what came of a proposal; `error` is what its run ended with in this command, if it failed."""
    entry, objective = runs.store.entry(cell.request), runs.settings.objective or ""
    state, folder = entry.state(), entry.measurements(runs.fingerprint)
    is_over = state.stage is Stage.FINISHED
    if is_over and is_measured(folder):
        value = read_values(folder).get(objective)
        why = (
            ""
            if value is not None
            else ": ".join(filter(None, (f"{objective} was not measured", read_flaws(folder))))
        )
    else:
        value, why = None, error or str(state.error or "")
    stands = "complete" if value is not None else "failed" if state.is_failed or (is_over and why) else "open"
    return Trial(number, proposal, cell, stands, value, why, state.committed_usd)
