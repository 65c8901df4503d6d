"""Gates: whether the runs of a command keep what is expected of them, in the terminal, in MLflow and for CI servers."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from kling_sweeps.errors import UnavailableError
from kling_sweeps.experiment.expectations import Change, Expectations
from kling_sweeps.experiment.naming import TIMES
from kling_sweeps.experiment.settings import Cell
from kling_sweeps.metrics.camera import word
from kling_sweeps.store.state_machine import Stage
from kling_sweeps.sweep.conclusions import Outcome
from kling_sweeps.sweep.job import broken
from kling_sweeps.sweep.plan import WORDS
from kling_sweeps.terminal.console import show_line
from kling_sweeps.tracking.note import run_link
from kling_sweeps.tracking.tracker import TAG_LENGTH, Tracker
from kling_sweeps.untrusted import mask, printable

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
# Of gates that did not hold, and in what else is told of them.
NAMED = 5
PASSED, FAILED, ERROR, SKIPPED = "passed", "failed", "error", "skipped"
VIDEO = "video.mp4"


@dataclass(frozen=True)
class Judged:
    """A run, or a gate of the sweep: passed, failed, error (of a run that failed) or skipped (not run).

    `why` is what did not hold, the error, or what a gate of the sweep found; `seconds` is what a run took, and `row`
    its row of `runs_df`.
    """

    name: str
    status: str
    why: str = ""
    seconds: float = 0.0
    row: Mapping[str, Any] = field(default_factory=dict)


def check(expect: Expectations) -> None:
    """Make the folder of `expect.junit`; raise UnavailableError where the file can't be written."""
    file = expect.junit
    if file is None:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        is_new = not file.exists()
        file.open("ab").close()
        if is_new:
            file.unlink()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UnavailableError(f"expect.junit: {file} can't be written ({why}); give another file") from None


def show_expected(expect: Expectations) -> None:
    """Print the gates, for a dry run."""
    of_runs = [f"{one.metric} {one}" for one in expect.limits] + ["no measurement_errors"] * expect.no_errors
    of_runs += [f"camera {' or '.join(expect.camera)}"] * bool(expect.camera)
    lines = [f"each run: {'; '.join(of_runs)}"] * bool(of_runs)
    lines += [f"the sweep: {one.metric} {one}" for one in expect.changes]
    lines += [f"the results go to {expect.junit}"] * (expect.junit is not None)
    if lines:
        show_line(("What is expected", "bold"))
    for line in lines:
        show_line(f"- {line}")


def conclude(outcome: Outcome) -> bool:
    """Judge the gates, tell MLflow and the terminal, and write JUnit's file; tell whether MLflow was told anything new.

    What did not hold, or is not known to, makes the command's exit code 3, unless a run failed.
    """
    expect = outcome.settings.expect
    if not expect:
        return False
    try:
        rows = {row["request_key"]: row for row in _rows(outcome.own)}
        of_sweep = [_of_sweep(change, outcome.own) for change in expect.changes]
    except Exception as error:  # MLflow is away, or has no run
        log.warning("the gates could not be judged: %s", outcome.tracker.said(error))
        rows, of_sweep = {}, [Judged(_title(change), FAILED, "not known") for change in expect.changes]
    of_runs = [_of_run(cell, rows.get(cell.request.key), outcome) for cell in outcome.runs.cells]
    has_changed = expect.of_runs and _tag(outcome, of_runs)
    if any(one.status != PASSED for one in [*of_runs, *of_sweep]):
        broken.set()
    _show(of_runs if expect.of_runs else [], of_sweep)
    if expect.junit:
        _write(expect.junit, junit(outcome, of_runs, of_sweep))
    return has_changed


def _rows(runs: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield the runs, each with what it has alone."""
    for row in runs.to_dict("records"):
        yield {str(name): value for name, value in row.items() if not (value is None or value != value)}


def _of_run(cell: Cell, row: Mapping[str, Any] | None, outcome: Outcome) -> Judged:
    """Judge a run by its row of `runs_df`, None where MLflow has not got it."""
    if row is None:
        state = outcome.runs.store.entry(cell.request).state()
        if state.error:
            return Judged(cell.name, ERROR, str(state.error))
        is_over = state.stage is Stage.FINISHED
        return Judged(
            cell.name, ERROR if is_over else SKIPPED, "not tracked" if is_over else WORDS[state.stage]
        )
    if row["status"] != "FINISHED":
        return Judged(cell.name, ERROR, f"{row.get('error_type')}: {row.get('error')}", row=row)
    why = "; ".join(_broken(row, outcome.settings.expect))
    seconds = sum(row.get(name, 0.0) for name in TIMES)
    return Judged(cell.name, FAILED if why else PASSED, why, seconds=seconds, row=row)


def _broken(row: Mapping[str, Any], expect: Expectations) -> Iterator[str]:
    """Yield what a finished run does not keep, with its value and its limits."""
    for limits in expect.limits:
        value = row.get(limits.metric)
        if value is None or not limits.holds(value):
            found = "not measured" if value is None else f"= {value:.6g}"
            yield f"{limits.metric} {found} ({limits})"
    if expect.camera and (does := word(row)) not in expect.camera:
        yield f"camera: {does} (expected {' or '.join(expect.camera)})"
    if expect.no_errors and "measurement_errors" in row:
        yield f"measurement_errors: {row['measurement_errors']}"


def _of_sweep(change: Change, runs: pd.DataFrame) -> Judged:
    """Judge how far a metric's mean is from its baseline, which is known where all of its interval is.

    Where looks decided how many repeats there are, the interval holds whichever look was the last: each has its part
    of the error, by Bonferroni.
    """
    from kling_sweeps.analysis import overall

    name, metric = _title(change), change.metric
    lacking = int(runs[metric].isna().sum()) if metric in runs else len(runs)
    if lacking or runs.empty:
        return Judged(name, FAILED, f"{lacking} of {len(runs)} runs have no {metric}")
    plan = runs.attrs.get("looks")
    confidence = 1 - (1 - change.confidence) / (len(plan["repeats"]) if plan else 1)
    mean, low, high = overall(runs, metric, confidence, scope="these_prompts")
    if low != low:
        why = "no interval: no prompt has repeats that differ, such as sample=0,1"
        return Judged(name, FAILED, f"{metric} has a mean of {mean:.4g}, {why}")
    least, most = sorted((change.of(low), change.of(high)))
    said = (
        f"{metric} has a mean of {mean:.4g}, a {change.way} of {change.of(mean):.3g} % from {change.baseline:g}; "
        f"{100 * confidence:.3g} % interval {least:.3g} to {most:.3g} % (max {change.percent:g} %)"
    )
    return Judged(name, PASSED if most <= change.percent else FAILED, said)


def _title(change: Change) -> str:
    return f"{change.metric} {change}"


def _tag(outcome: Outcome, of_runs: Sequence[Judged]) -> bool:
    """Bring the runs' tags up to date; tell whether any was not."""
    changed = {}
    for one in of_runs:
        if one.status in (PASSED, FAILED):
            tags = {"expect": one.status, "expect_failed": one.why[:TAG_LENGTH] or None}
            if new := {key: value for key, value in tags.items() if value != one.row.get(key)}:
                changed[one.row["run_id"]] = new
    try:
        outcome.tracker.tag_runs(changed)
    except Exception as error:
        log.warning("what is expected of the runs is not in MLflow: %s", outcome.tracker.said(error))
        return False
    return bool(changed)


def _show(of_runs: Sequence[Judged], of_sweep: Sequence[Judged]) -> None:
    """Print how many gates hold, and of those that don't the first few."""
    counts = [
        f"{sum(one.status == PASSED for one in some)} of {len(some)} {what}"
        for some, what in ((of_runs, "runs"), (of_sweep, "gates of the sweep"))
        if some
    ]
    if not counts:
        return
    failed = [one.why for one in of_sweep if one.status == FAILED]
    failed += [f"{one.name}: {one.why}" for one in of_runs if one.status == FAILED]
    style = "bold red" if failed else "bold"
    show_line((f"What is expected holds for {' and '.join(counts)}.", style))
    for line in failed[:NAMED]:
        show_line(f"- {line}")
    if len(failed) > NAMED:
        more = f"and {len(failed) - NAMED} more; in MLflow: tags.expect = 'failed'"
        show_line(more)


def junit(outcome: Outcome, of_runs: Sequence[Judged], of_sweep: Sequence[Judged]) -> ElementTree.Element:
    """Return JUnit's XML, as Jenkins' schema junit-10.xsd has it: a case for each run and for each gate of the sweep."""
    tracker, every = outcome.tracker, [*of_runs, *of_sweep]
    counts = {
        "tests": len(every),
        "failures": sum(one.status == FAILED for one in every),
        "errors": sum(one.status == ERROR for one in every),
    }
    seconds = sum(one.seconds for one in every)
    told = {"name": _text(tracker.experiment), "time": f"{seconds:.3f}"}
    told |= {name: str(count) for name, count in counts.items()}
    root = ElementTree.Element("testsuites", told)
    skipped = str(sum(one.status == SKIPPED for one in every))
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    suite = ElementTree.SubElement(root, "testsuite", {**told, "skipped": skipped, "timestamp": at})
    room = f"kling_sweeps.{_text(tracker.sweep)}"
    for cell, one in zip(outcome.runs.cells, of_runs, strict=True):
        video = _addresses(one, tracker)
        _add(suite, room, one, video, [*_settings(cell), *video])
    for one in of_sweep:
        _add(suite, f"{room}.sweep", one, [], [one.why])
    return root


def _add(
    suite: ElementTree.Element, room: str, one: Judged, video: Sequence[str], output: Sequence[str]
) -> None:
    """Add a case; its failure has the video's address too, since not every page shows the output."""
    told = {"name": _text(" ".join(one.name.split())), "classname": room, "time": f"{one.seconds:.3f}"}
    case = ElementTree.SubElement(suite, "testcase", told)
    if tag := {FAILED: "failure", ERROR: "error", SKIPPED: "skipped"}.get(one.status):
        ended = ElementTree.SubElement(
            case, tag, type="gate" if one.status == FAILED else "run", message=_text(one.why)
        )
        ended.text = _text("\n".join([one.why, *video]))
    ElementTree.SubElement(case, "system-out").text = _text("\n".join(output))


def _settings(cell: Cell) -> list[str]:
    return [f"{name}: {value}" for name, value in cell.params.items() if value != ""]


def _addresses(one: Judged, tracker: Tracker) -> list[str]:
    """Return where a run's video is: its address among MLflow's artifacts, and the page that shows it."""
    if one.status not in (PASSED, FAILED):
        return []
    page = run_link(tracker.experiment_id, one.row["run_id"], VIDEO)
    return [f"video: {one.row['artifact_uri']}/{VIDEO}", f"in MLflow: {tracker.link(page)}"]


def _text(text: str) -> str:
    """Return a text with no character that XML can't hold, and no credential."""
    return printable(mask(text))


def _write(file: Path, root: ElementTree.Element) -> None:
    try:
        ElementTree.indent(root)
        ElementTree.ElementTree(root).write(file, encoding="utf-8", xml_declaration=True)
    except OSError as error:
        log.warning("expect.junit: %s could not be written (%s)", file, error.strerror)
        broken.set()
    else:
        show_line(f"For CI servers: {file}")
