"""The run in MLflow that a search has, beside those of its videos."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from kling_sweeps.experiment.naming import NAMELESS
from kling_sweeps.sweep.search_results import Found
from kling_sweeps.tracking import run_data
from kling_sweeps.tracking.tracker import Tracker

TABLE = "trials.csv"


def track(tracker: Tracker, name: str, found: Found, picture: Path, about: Mapping[str, Any]) -> None:
    """Log a search as one run of its sweep's experiment, which has the tag `kind`; the one before it goes.

    Of a sweep with a name, the experiment's note says what was found; `about` is what else its tags say.
    """
    if tracker.sweep != NAMELESS:
        tags = {**about, "goal": {**about["goal"], **found.goal}, "search": [str(found)]}
        tracker.tag_experiment({key: json.dumps(value) for key, value in tags.items()})
        tracker.goals, tracker.found = list(found.goal), [str(found)]
    content = sha256((found.csv() + str(found)).encode()).hexdigest()
    there = tracker.client.search_runs([tracker.experiment_id], f"tags.search = '{name}'")
    if [run.data.tags.get("content") for run in there] == [content]:
        return
    theirs = {key: value for run in there for key, value in run_data.theirs(run.data.tags).items()}
    _write(tracker, name, found, picture, theirs, content)
    for run in there:
        tracker.client.delete_run(run.info.run_id)


def _write(
    tracker: Tracker, name: str, found: Found, picture: Path, theirs: Mapping[str, str], content: str
) -> None:
    """Write a whole run; the tag `content` comes last, and a run that lacks it is replaced."""
    client = tracker.client
    title = f"search: {', '.join(f'{way} {metric}' for metric, way in found.goal.items())}"
    ours = {
        "kind": "search",
        "search": name,
        "sweep": tracker.sweep,
        "provider": tracker.provider,
        "named": title,
        **run_data.described(str(found)),
    }
    run_id = client.create_run(
        tracker.experiment_id, tags={**ours, **theirs}, run_name=theirs.get(run_data.NAME, title)
    ).info.run_id
    best = found.best
    for key, value in {"goal": title.partition(" ")[2], **(best.settings if best else {})}.items():
        client.log_param(run_id, key, value)
    for metric, number in zip(found.goal, best.values if best else (), strict=False):
        client.log_metric(run_id, metric, number)
    client.log_metric(run_id, "trials", len(found.trials))
    client.log_text(run_id, found.csv(), TABLE)
    client.log_artifact(run_id, str(picture))
    client.set_terminated(run_id)
    client.set_tag(run_id, "content", content)
