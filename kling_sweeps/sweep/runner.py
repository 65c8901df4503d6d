"""One command from its plan to its results, for all its runs or for one job's."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from kling_sweeps.errors import (
    FlawedError,
    NotTrackedError,
    OverBudgetError,
    RunError,
    StoreError,
)
from kling_sweeps.experiment.naming import NAMELESS
from kling_sweeps.experiment.settings import Cell, Settings
from kling_sweeps.store.measured import read_values
from kling_sweeps.store.result import RunResult
from kling_sweeps.sweep import conclusions, gates, summary
from kling_sweeps.sweep.scheduler import Runs
from kling_sweeps.terminal.progress import Progress
from kling_sweeps.tracking.tracker import Tracker, opening

log = logging.getLogger(__name__)
# What a job returns to a sweeper that searches.
Objective = float | tuple[float, ...] | None


def run_all(
    settings: Settings,
    cells: Sequence[Cell],
    max_in_flight: int,
    is_begun: bool = False,
    outputs: Path | None = None,
    is_part: bool = False,
) -> Iterator[RunResult]:
    """Print the plan, then yield each run as it completes, tracked, then print the results.

    Runs that are complete in the store and in MLflow come first. A dry run yields nothing. Raises RefusedError
    before anything is submitted. `is_begun` tells that an earlier batch of the command has checked MLflow. A
    sweep that has a folder for its `outputs` has a report there, made anew where there was anything to do. Of
    cells that are a part of a command's (`is_part`), whoever has them all has a judge judge them, concludes and judges
    the gates.
    """
    runs = Runs.read(settings, cells)
    summary.show_plan(runs.plan, settings, runs.provider_name)
    if not is_begun:
        summary.say_nameless(settings, len(cells))
    is_judged = bool(settings.judge) and not is_part
    if is_judged:
        from kling_sweeps.sweep import judging

        runs = judging.planned(runs)
    if settings.dry_run:
        summary.show_refusal(runs)
        if not is_part:
            gates.show_expected(settings.expect)
        return
    runs.check()
    if runs.is_told_bills():
        runs = Runs.read(settings, cells)
    tracker = Tracker(settings.tracking_uri, settings.sweep, runs.provider_name, runs.cells)
    if not is_part:
        gates.check(settings.expect)
    if not is_begun:
        tracker.check()
    results = [replace(result, was_complete=True) for result in runs.finished() if tracker.has(result)]
    complete = {result.cell.request.key for result in results}
    left = [cell for cell in runs.cells if cell.request.key not in complete]
    lines: list[str] = []
    outcome = conclusions.Outcome(runs, tracker)
    is_broken_off = True
    try:
        yield from tuple(results)
        if left:
            with _clipping() as clip:
                for result in _completed(runs, left, tracker, max_in_flight):
                    results.append(result)
                    if outputs and result.measurement:
                        clip(result)
                    yield result
        is_new = any(not result.was_complete and not result.error for result in results)
        if not is_part and (is_new or not left):
            lines = conclusions.draw(outcome) if is_new else conclusions.recall(outcome)
        summary.present(tracker)
        is_broken_off = False
    finally:
        summary.show_results(results, runs, tracker)
        summary.show_in_flight(runs)
        if is_broken_off:
            summary.say_what_is_here(runs)
    has_grades = is_judged and judging.judge_runs(runs, tracker)
    if has_grades:
        outcome = conclusions.Outcome(runs, tracker)
        lines = conclusions.draw(outcome)
    conclusions.show(lines)
    has_changed = not is_part and gates.conclude(outcome)
    if (left or has_changed or has_grades) and outputs:
        summary.show_report(runs, tracker, outputs)
    elif not is_part and not any(result.error for result in results):
        summary.say_report(runs, tracker)


def _completed(runs: Runs, left: Sequence[Cell], tracker: Tracker, max_in_flight: int) -> Iterator[RunResult]:
    """Yield each run that is left once it is over and tracked; with `fail_fast`, the first that failed is the last."""
    progress = Progress(left, len(runs.cells) - len(left), runs.settings.command)
    may_open = threading.Event()
    completed = runs.complete(left, _Observer(progress, may_open), max_in_flight)
    # Whatever ends the loop, nothing is submitted any more when the results are shown.
    with opening(tracker, may_open) as opener, progress.shown(), closing(completed):
        for result in _tracked(tracker, opener, progress, completed):
            progress.over(result)
            yield result
            if result.error and runs.settings.policy.fail_fast:
                return


@dataclass(frozen=True)
class _Observer:
    """Shows the stage of each run; the first that is past its submission sets `may_open`, for MLflow's import."""

    progress: Progress
    may_open: threading.Event

    def update(self, cell: Cell, stage: str, text: str) -> None:
        if stage not in ("waiting", "submitting"):
            self.may_open.set()
        self.progress.update(cell, stage, text)


def _tracked(
    tracker: Tracker, opener: threading.Thread, progress: Progress, completed: Iterator[RunResult]
) -> Iterator[RunResult]:
    """Yield each run once it is tracked; where MLflow failed, track it again after all others."""
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


@contextmanager
def _clipping() -> Iterator[Callable[[RunResult], object]]:
    """Make the clips of a report in a thread of their own, while fal generates; one that fails is made again there."""

    def make(result: RunResult) -> None:
        from kling_sweeps.reports.clips import clip_of

        with suppress(Exception):
            clip_of(result.entry.video, result.entry.folder)

    thread = ThreadPoolExecutor(1, "clips")
    is_whole = False
    try:
        yield lambda result: thread.submit(make, result)
        is_whole = True
    finally:
        thread.shutdown(cancel_futures=not is_whole)


def run_one(settings: Settings, cell: Cell, outputs: Path | None = None, is_part: bool = False) -> Objective:
    """Generate, measure and track one cell; return its objective, None of a dry run. Raises RunError.

    FlawedError is not raised where there is an objective: a sweeper that searches would take it for a failure.
    """
    is_named = settings.sweep != NAMELESS
    outputs = outputs if is_named else None  # a report of all runs that have no name would be of any length
    for result in list(run_all(settings, [cell], max_in_flight=1, outputs=outputs, is_part=is_part)):
        error = error_of(result)
        if error and not (settings.objective and isinstance(error, FlawedError)):
            raise error
        return objective(settings, result)
    return None


def error_of(result: RunResult) -> RunError | None:
    """Return what a run failed with, FlawedError where some of its video could not be measured, else None."""
    if result.error or not result.flaws:
        return result.error
    return FlawedError(f"{result.cell.name}: {result.flaws}")


def objective(settings: Settings, result: RunResult) -> Objective:
    """Return the metric that a sweeper searches by, or both; None where there is none or it could not be measured."""
    measured = read_values(result.measurement) if settings.objective and result.measurement else {}
    values = tuple(measured[name] for name in settings.objective if name in measured)
    if not values or len(values) < len(settings.objective):
        return None
    return values if len(values) > 1 else values[0]


def _track(tracker: Tracker, result: RunResult) -> RunError | None:
    """Track a run; return the error where MLflow failed, which costs nothing."""
    if isinstance(result.error, (OverBudgetError, StoreError)):  # an earlier run in MLflow is still right
        return None
    try:
        tracker.track(result)
    except Exception as error:
        said = tracker.said(error)
        log.error("%s could not be tracked: %s", result.cell.name, said)
        return NotTrackedError(f"not tracked ({said}); the same command tracks it, for nothing")
    return None
