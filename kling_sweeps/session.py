"""One command from its plan to its results, whoever runs the jobs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from contextvars import ContextVar
from dataclasses import replace

from kling_sweeps import terminal
from kling_sweeps.errors import FlawedError, NotTrackedError, OverBudgetError, RunError, StoreError
from kling_sweeps.measurement import read_values
from kling_sweeps.progress import Progress
from kling_sweeps.run import Landed, Runs
from kling_sweeps.settings import Cell, Settings
from kling_sweeps.tracking import Tracker, opening

log = logging.getLogger(__name__)


def run_all(
    settings: Settings, cells: Sequence[Cell], max_in_flight: int, is_begun: bool = False
) -> Iterator[Landed]:
    """Print the plan, then yield each run as it lands, to be tracked, then print the results.

    What stands in MLflow as it should comes first. A dry run yields nothing. Raises RefusedError before
    anything is submitted; a command that `is_begun`, with other cells, no longer minds where MLflow is.
    """
    runs = Runs(settings, cells)
    terminal.show_plan(runs.plan, settings, runs.provider_name)
    if settings.dry_run:
        terminal.show_refusal(runs)
        return
    tracker = Tracker(settings.tracking_uri, settings.sweep, runs.provider_name)
    runs.check()
    if not is_begun:
        tracker.check()
    results = [replace(landed, stood=True) for landed in runs.finished() if tracker.has(landed)]
    standing = {landed.cell.request.key for landed in results}
    left = [cell for cell in runs.cells if cell.request.key not in standing]
    try:
        for landed in tuple(results):
            with _handing_over(landed):
                yield landed
        if left:
            for landed in _landed(runs, left, tracker, max_in_flight):
                results.append(landed)
                with _handing_over(landed):
                    yield landed
    finally:
        terminal.show_results(results, runs, tracker)
        terminal.show_in_flight(runs)


def _landed(runs: Runs, left: Sequence[Cell], tracker: Tracker, max_in_flight: int) -> Iterator[Landed]:
    """Yield each run that is left once it is over and tracked; a first failure ends it where it shall."""
    progress = Progress(left, len(runs.cells) - len(left), runs.settings.command)
    landing = runs.land(left, progress, max_in_flight)
    # Whatever ends the loop, nothing is submitted any more when the results are shown.
    with opening(tracker, progress.moving) as opener, progress.shown(), closing(landing):
        for landed in _tracked(tracker, opener, progress, landing):
            progress.over(landed)
            yield landed
            if landed.error and runs.settings.policy.fail_fast:
                return


def _tracked(
    tracker: Tracker, opener: threading.Thread, progress: Progress, landing: Iterator[Landed]
) -> Iterator[Landed]:
    """Yield each run once it is tracked; what MLflow did not take at first is tried again at the end."""
    later = []
    for landed in landing:
        progress.update(landed.cell, "tracking", "")
        opener.join()
        error = _track(tracker, landed)
        if error:
            progress.update(landed.cell, "not tracked yet", str(error))
            later.append(landed)
        else:
            yield landed
    for landed in later:
        yield replace(landed, error=_track(tracker, landed) or landed.error)


def run_one(settings: Settings, cell: Cell) -> float | None:
    """Do one job and return its objective; raise its RunError. What a launcher has landed is not done again.

    A run that is flawed raises too, unless somebody who takes an error for a failure searches by its objective.
    """
    landed = is_handed_over = _handed_over.get()
    if landed is None:
        landed = next(iter(list(run_all(settings, [cell], max_in_flight=1))), None)
    if landed is None:
        return None
    if landed.error:
        raise landed.error
    if landed.flaws and (is_handed_over or not settings.objective):
        raise FlawedError(f"{landed.cell.name}: {landed.flaws}")
    return objective(settings, landed)


def objective(settings: Settings, landed: Landed) -> float | None:
    """Return the metric that a sweeper searches by, None where none is wanted or it could not be measured."""
    return read_values(landed.measurement).get(settings.objective) if settings.objective else None


_handed_over: ContextVar[Landed | None] = ContextVar("landed", default=None)


@contextmanager
def _handing_over(landed: Landed) -> Iterator[None]:
    token = _handed_over.set(landed)
    try:
        yield
    finally:
        _handed_over.reset(token)


def _track(tracker: Tracker, landed: Landed) -> RunError | None:
    """Track a run that was submitted; return the error where MLflow failed, which costs nothing."""
    if isinstance(landed.error, (OverBudgetError, StoreError)):  # what stands in MLflow is as good as ever
        return None
    try:
        tracker.track(landed)
    except Exception as error:
        said = tracker.said(error)
        log.error("%s could not be tracked: %s", landed.cell.name, said)
        return NotTrackedError(f"not tracked ({said}); the same command tracks it, for nothing")
    return None
