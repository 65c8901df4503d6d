"""One command from its plan to its results, whoever runs the jobs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from contextvars import ContextVar
from dataclasses import replace

from kling_sweeps.errors import (
    FlawedError,
    NotTrackedError,
    OverBudgetError,
    RunError,
    StoreError,
)
from kling_sweeps.experiment.settings import Cell, Settings
from kling_sweeps.store.measured import read_values
from kling_sweeps.store.result import RunResult
from kling_sweeps.sweep import summary
from kling_sweeps.sweep.scheduler import Runs
from kling_sweeps.terminal.progress import Progress
from kling_sweeps.tracking.tracker import Tracker, opening

log = logging.getLogger(__name__)


def run_all(
    settings: Settings, cells: Sequence[Cell], max_in_flight: int, is_begun: bool = False
) -> Iterator[RunResult]:
    """Print the plan, then yield each run as it completes, tracked, then print the results.

    What stands in MLflow as it should comes first. A dry run yields nothing. Raises RefusedError before
    anything is submitted; a command that `is_begun`, with other cells, no longer minds where MLflow is.
    """
    runs = Runs(settings, cells)
    summary.show_plan(runs.plan, settings, runs.provider_name)
    if settings.dry_run:
        summary.show_refusal(runs)
        return
    tracker = Tracker(settings.tracking_uri, settings.sweep, runs.provider_name)
    runs.check()
    if not is_begun:
        tracker.check()
    results = [replace(result, was_complete=True) for result in runs.finished() if tracker.has(result)]
    standing = {result.cell.request.key for result in results}
    left = [cell for cell in runs.cells if cell.request.key not in standing]
    try:
        for result in tuple(results):
            with _handing_over(result):
                yield result
        if left:
            for result in _completed(runs, left, tracker, max_in_flight):
                results.append(result)
                with _handing_over(result):
                    yield result
    finally:
        summary.show_results(results, runs, tracker)
        summary.show_in_flight(runs)


def _completed(runs: Runs, left: Sequence[Cell], tracker: Tracker, max_in_flight: int) -> Iterator[RunResult]:
    """Yield each run that is left once it is over and tracked; a first failure ends it where it shall."""
    progress = Progress(left, len(runs.cells) - len(left), runs.settings.command)
    completed = runs.complete(left, progress, max_in_flight)
    # Whatever ends the loop, nothing is submitted any more when the results are shown.
    with opening(tracker, progress.has_submitted) as opener, progress.shown(), closing(completed):
        for result in _tracked(tracker, opener, progress, completed):
            progress.over(result)
            yield result
            if result.error and runs.settings.policy.fail_fast:
                return


def _tracked(
    tracker: Tracker, opener: threading.Thread, progress: Progress, completed: Iterator[RunResult]
) -> Iterator[RunResult]:
    """Yield each run once it is tracked; what MLflow did not take at first is tried again at the end."""
    later = []
    for result in completed:
        progress.update(result.cell, "tracking", "")
        opener.join()
        error = _track(tracker, result)
        if error:
            progress.update(result.cell, "not tracked yet", str(error))
            later.append(result)
        else:
            yield result
    for result in later:
        yield replace(result, error=_track(tracker, result) or result.error)


def run_one(settings: Settings, cell: Cell) -> float | None:
    """Do one job and return its objective; raise its RunError. What a launcher has completed is not done again.

    A run that is flawed raises too, unless somebody who takes an error for a failure searches by its objective.
    """
    result = is_handed_over = _handed_over.get()
    if result is None:
        result = next(iter(list(run_all(settings, [cell], max_in_flight=1))), None)
    if result is None:
        return None
    if result.error:
        raise result.error
    if result.flaws and (is_handed_over or not settings.objective):
        raise FlawedError(f"{result.cell.name}: {result.flaws}")
    return objective(settings, result)


def objective(settings: Settings, result: RunResult) -> float | None:
    """Return the metric that a sweeper searches by, None where none is wanted or it could not be measured."""
    return read_values(result.measurement).get(settings.objective) if settings.objective else None


_handed_over: ContextVar[RunResult | None] = ContextVar("completed_run", default=None)


@contextmanager
def _handing_over(result: RunResult) -> Iterator[None]:
    token = _handed_over.set(result)
    try:
        yield
    finally:
        _handed_over.reset(token)


def _track(tracker: Tracker, result: RunResult) -> RunError | None:
    """Track a run that was submitted; return the error where MLflow failed, which costs nothing."""
    if isinstance(result.error, (OverBudgetError, StoreError)):  # what stands in MLflow is as good as ever
        return None
    try:
        tracker.track(result)
    except Exception as error:
        said = tracker.said(error)
        log.error("%s could not be tracked: %s", result.cell.name, said)
        return NotTrackedError(f"not tracked ({said}); the same command tracks it, for nothing")
    return None
