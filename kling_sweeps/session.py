"""One command from its plan to its results, whoever runs the jobs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from contextvars import ContextVar
from dataclasses import replace

from kling_sweeps import terminal
from kling_sweeps.errors import NotTrackedError, OverBudgetError, RunError
from kling_sweeps.run import Landed, Runs
from kling_sweeps.settings import Cell, Settings
from kling_sweeps.tracking import Tracker, opening, without_password

log = logging.getLogger(__name__)


def run_all(settings: Settings, cells: Sequence[Cell], max_in_flight: int) -> Iterator[Landed]:
    """Print the plan, then yield each run as it lands, to be tracked, then print the results.

    A dry run yields nothing. Raises RefusedError before anything is submitted.
    """
    runs = Runs(settings, cells)
    terminal.show_plan(runs.plan, settings, runs.provider_name)
    if settings.dry_run:
        return
    tracker = Tracker(settings.tracking_uri, settings.sweep, runs.provider_name)
    runs.check()
    tracker.check()
    progress = terminal.Progress(runs.cells)
    results: list[Landed] = []
    try:
        landing = runs.land(progress, max_in_flight)
        # Whatever ends the loop, nothing is submitted any more when the results are shown.
        with opening(tracker) as opener, progress.shown(), closing(landing):
            for landed in _tracked(tracker, opener, progress, landing):
                results.append(landed)
                progress.over(landed)
                with _handing_over(landed):
                    yield landed
                if landed.error and settings.policy.fail_fast:
                    break
    finally:
        terminal.show_results(results, runs, tracker)
        terminal.show_in_flight(runs)


def _tracked(
    tracker: Tracker, opener: threading.Thread, progress: terminal.Progress, landing: Iterator[Landed]
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


def run_one(settings: Settings, cell: Cell) -> None:
    """Do one job; raise its RunError. What a launcher has landed for it is not done again."""
    landed = _handed_over.get()
    if landed is None:
        landed = next(iter(list(run_all(settings, [cell], max_in_flight=1))), None)
    if landed and landed.error:
        raise landed.error


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
    if isinstance(landed.error, OverBudgetError):
        return None
    try:
        tracker.track(landed)
    except Exception as error:
        said = without_password(f"{type(error).__name__}: {error}", tracker.uri)[:300]
        log.error("%s could not be tracked: %s", landed.cell.name, said)
        return NotTrackedError(f"not tracked ({said}); the same command tracks it, for nothing")
    return None
