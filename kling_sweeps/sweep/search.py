"""A search: what was proposed in all its commands, in the store, and what came of it.

    <store>/searches/<name>/journal.jsonl     `asked`; a `proposed` for each trial, before it is run; and a
                                              `confirming` for each two settings that are compared in the end
    <store>/searches/<name>/lock              held by the command that works on it

What a trial cost and gave is nowhere but in the journals and the measurements of its videos.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from kling_sweeps.errors import UnavailableError
from kling_sweeps.experiment.settings import Cell
from kling_sweeps.store.journal import Journal, sync_folder
from kling_sweeps.store.measured import is_measured, read_flaws, read_values
from kling_sweeps.store.state_machine import Stage
from kling_sweeps.sweep.scheduler import Runs

Part = TypeVar("Part")
# The runs of one setting: a row a prompt, in it a cell a repeat.
Cells = Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Proposal:
    """The values of one trial, the distributions they are from, as JSON, and what the sampler noted of it."""

    values: Mapping[str, Any]
    distributions: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What came of one video: the `values` that are searched by where it is `complete`, else `why` it is not.

    `state` is complete, pruned (one of the values could not be measured), failed or open.
    """

    cell: Cell
    state: str
    values: Sequence[float]
    why: str
    usd: float


@dataclass(frozen=True)
class Trial:
    """A proposal and its outcomes, a row a prompt."""

    number: int
    proposal: Proposal
    outcomes: Sequence[Sequence[Outcome]]

    @property
    def settings(self) -> dict[str, Any]:
        """Return the values by their names, without a plus."""
        return {name.lstrip("+"): value for name, value in self.proposal.values.items()}

    @property
    def key(self) -> str:
        """Return what tells a trial from others: the key of its first request."""
        return self.outcomes[0][0].cell.request.key

    @cached_property
    def runs(self) -> list[Outcome]:
        return [*chain.from_iterable(self.outcomes)]

    @property
    def complete(self) -> int:
        """Return how many of its runs have all values."""
        return sum(run.state == "complete" for run in self.runs)

    @cached_property
    def state(self) -> str:
        """Return complete where every prompt has a value, else pruned, failed or open."""
        if any(run.state == "open" for run in self.runs):
            return "open"
        lacking = [row for row in self.outcomes if not any(run.state == "complete" for run in row)]
        if not lacking:
            return "complete"
        return "failed" if any(run.state == "failed" for row in lacking for run in row) else "pruned"

    @cached_property
    def values(self) -> tuple[float, ...]:
        """Return the means that are searched by, in which every prompt counts once; none unless it is complete."""
        if self.state != "complete":
            return ()
        rows = [[run.values for run in row if run.state == "complete"] for row in self.outcomes]
        return tuple(map(fmean, zip(*(map(fmean, zip(*row, strict=True)) for row in rows), strict=True)))

    @property
    def why(self) -> str:
        """Return what became of the runs that are not complete, and why."""
        reasons = dict.fromkeys(run.why for run in self.runs if run.why)
        some = "" if len(self.runs) == 1 else f"{len(self.runs) - self.complete} of {len(self.runs)} runs: "
        return some + "; ".join(reasons) if reasons else ""

    @property
    def usd(self) -> float:
        return sum(run.usd for run in self.runs)


@dataclass(frozen=True)
class Confirmation:
    """Two settings that are compared by repeats of their own, numbered `samples`: the best, and what it is held against.

    A setting without values is what the runs have where nothing is searched.
    """

    settings: Sequence[Mapping[str, Any]]
    samples: Sequence[int]


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
        return self._read("proposed", lambda event: Proposal(*(dict(event[name]) for name in names)))

    def confirmations(self) -> list[Confirmation]:
        """Return what was compared; raise UnavailableError for a journal that was damaged."""
        return self._read(
            "confirming",
            lambda event: Confirmation([*map(dict, event["settings"])], [*map(int, event["samples"])]),
        )

    def _read(self, kind: str, read: Callable[[Mapping[str, Any]], Part]) -> list[Part]:
        try:
            return [read(event) for event in self.journal.events() if event["event"] == kind]
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

    def confirm(self, confirmation: Confirmation) -> None:
        """Note a comparison before its runs, unless it is there."""
        if confirmation not in self.confirmations():
            self.journal.append("confirming", **asdict(confirmation))

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


def read_outcome(cell: Cell, runs: Runs, goals: Sequence[str], error: str = "") -> Outcome:
    """Read from the store what came of a run; `error` is what it ended with in this command, if it failed."""
    entry = runs.store.entry(cell.request)
    state, folder = entry.state(), entry.measurements(runs.fingerprint)
    values: list[float] = []
    if state.stage is Stage.FINISHED and is_measured(folder):
        measured = read_values(folder)
        values = [measured[name] for name in goals if name in measured]
        missing = " and ".join(name for name in goals if name not in measured)
        why = ": ".join(filter(None, (f"{missing} not measured", read_flaws(folder)))) if missing else ""
        stands = "pruned" if missing else "complete"
    else:
        why = error or str(state.error or "")
        stands = "failed" if state.is_failed else "open"
    return Outcome(cell, stands, values if stands == "complete" else (), why, state.committed_usd)
