"""What an experiment's and a run's page say in words, in Markdown, with links that MLflow's page opens."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote

from kling_sweeps.tracking import views
from kling_sweeps.tracking.overview import Overview, RunFacts
from kling_sweeps.tracking.run_data import BESIDE, inline

# The name of a report, as an artifact and on disk.
REPORT = "report.html"
# Without this, MLflow shows what is about agents and evaluations around the page.
WORKFLOW = "workflowType=machine_learning"
CHART_PAGE = f"runs?compareRunsMode=CHART&{WORKFLOW}"
# What a sentence of a note begins with, and how the first line names the report.
SENTENCE, NOTED_REPORT = "- ", re.compile(r"\[Report\]\((#[^)\s]+)\)")
# What MLflow's page that compares runs shows side by side.
SIDE_BY_SIDE = 3
# How many runs before and after it a run names.
NEIGHBOURS = 4


def view_link(experiment_id: str, view: str) -> str:
    """Return the page that opens a view's charts, from the `#` of MLflow's address on."""
    return f"#/experiments/{experiment_id}/{CHART_PAGE}&viewStateShareKey={view}"


def report_link(experiment_id: str, run_id: str) -> str:
    """Return the page that shows the report in a run, from the `#` of MLflow's address on."""
    return run_link(experiment_id, run_id, REPORT)


def run_link(experiment_id: str, run_id: str, artifact: str) -> str:
    """Return the page that shows an artifact of a run, from the `#` of MLflow's address on."""
    return f"#/experiments/{experiment_id}/runs/{run_id}/artifacts/{artifact}"


def compare_link(experiment_id: str, run_ids: Sequence[str]) -> str:
    """Return the page that plays the videos of runs side by side, from the `#` of MLflow's address on."""
    runs, experiments = (quote(json.dumps(ids)) for ids in (list(run_ids), [experiment_id]))
    return f"#/compare-runs?runs={runs}&experiments={experiments}&{WORKFLOW}"


def note(overview: Overview, experiment_id: str, report: str | None = None, found: Sequence[str] = ()) -> str:
    """Return an experiment's note; its first line, which is all that MLflow shows of it at first, has the links.

    `report` is the page of the sweep's report, `found` are sentences that say what the sweep has shown, the most important first.
    """
    links = [f"[Charts]({view_link(experiment_id, views.BY_SETTING)})"]
    if report:
        links.append(f"[Report]({report})")
    first = " · ".join([*links, summary(overview), *found[:1]])
    others = [
        f"[{title}]({view_link(experiment_id, view)})"
        for title, view in (
            ("By setting", views.BY_SETTING),
            ("Frame by frame", views.BY_FRAME),
            ("All", views.ALL),
            ("Money and time", views.MONEY),
        )
    ]
    parts = [first, "\n".join(f"{SENTENCE}{sentence}" for sentence in found), f"Views: {' · '.join(others)}"]
    return "\n\n".join(filter(None, parts))


@dataclass(frozen=True)
class Noted:
    """What a note says: its sentences, and the page of the sweep's report, None where it names none."""

    found: Sequence[str]
    report: str | None

    @classmethod
    def read(cls, text: str) -> Self:
        """Read what `note` has written."""
        report = NOTED_REPORT.search(text.partition("\n")[0])
        found = [line.removeprefix(SENTENCE) for line in text.splitlines() if line.startswith(SENTENCE)]
        return cls(found, report[1] if report else None)


def summary(overview: Overview) -> str:
    """Say in one line what was swept, how many videos there are, and what they cost."""
    counts = {**{key: len(values) for key, values in overview.swept.items()}, "prompt": len(overview.prompts)}
    varied = [f"{count} {inline(key)}" for key, count in counts.items() if count > 1]
    if len(overview.samples) > 1:
        varied.append(f"{len(overview.samples)} repeats")
    videos = sum(run.status == "FINISHED" for run in overview.runs)
    costs = [run.metrics["cost_usd"] for run in overview.runs if "cost_usd" in run.metrics]
    is_emulated = any(run.tags.get("provider") == "emulator" for run in overview.runs)
    said = [f"{videos} video{'s' * (videos != 1)}"]
    if left := len(overview.runs) - videos:
        said.append(f"{left} failed")
    if costs:
        said.append(f"{sum(costs):.2f} USD" + " on fal, had they not been emulated" * is_emulated)
    return ": ".join(filter(None, [" × ".join(varied), ", ".join(said)]))


def beside(overview: Overview, experiment_id: str) -> dict[str, str]:
    """Return, for each run by its id, the line that compares it with its neighbours; "" for a run without any."""
    found = {}
    for row in _rows(overview):
        for place, run in enumerate(row):
            first = min(max(place - 1, 0), max(len(row) - SIDE_BY_SIDE, 0))
            shown = row[first : first + SIDE_BY_SIDE]
            others = [
                one for one in row[max(place - NEIGHBOURS, 0) : place + NEIGHBOURS + 1] if one is not run
            ]
            links = [_run_link(experiment_id, one) for one in others]
            play = f"[play {len(shown)} side by side]({compare_link(experiment_id, [one.run_id for one in shown])})"
            found[run.run_id] = BESIDE + " · ".join([f"**{play}**", *links]) if links else ""
    return found


def _run_link(experiment_id: str, run: RunFacts) -> str:
    name = inline(run.tags.get("mlflow.runName", run.run_id))
    return f"[{name}](#/experiments/{experiment_id}/runs/{run.run_id}?{WORKFLOW})"


def _rows(overview: Overview) -> list[list[RunFacts]]:
    """Return the finished runs in rows of one prompt and repeat, by setting; or else of one prompt, or all in one."""
    finished = [run for run in overview.runs if run.status == "FINISHED"]
    finished.sort(key=lambda run: (overview.setting(run), run.prompt, overview.samples.index(run.sample)))
    if overview.swept:
        return _by(finished, lambda run: (run.prompt, run.sample))
    return _by(finished, lambda run: run.prompt) if len(overview.samples) > 1 else [finished]


def _by(runs: Sequence[RunFacts], key: Callable[[RunFacts], object]) -> list[list[RunFacts]]:
    rows: dict[object, list[RunFacts]] = {}
    for run in runs:
        rows.setdefault(key(run), []).append(run)
    return list(rows.values())
