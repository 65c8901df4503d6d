"""What judges gave, as metrics of the runs in MLflow: of one version of a judge's questions at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from kling_sweeps.experiment.naming import COUNT, JUDGED, UNREADABLE
from kling_sweeps.tracking.tracker import TAG_LENGTH, Tracker, every

if TYPE_CHECKING:
    from mlflow.entities import Run

# The tag of an experiment that says of each metric of a judge which version of it counts: the last that was asked.
VERSIONS = "judges"


@dataclass(frozen=True)
class Given:
    """What a judge gave a video: a value by name, of how many answers by the name with `/n`, and why there are no others, "" where there is nothing to say."""

    values: Mapping[str, float]
    unreadable: str = ""


def track_given(tracker: Tracker, version: str, names: Sequence[str], given: Mapping[str, Given]) -> int:
    """Write what a version of a judge gave to the runs of an experiment, by their requests' keys; return how many changed.

    `names` are those of the metrics. A run that was not judged now keeps what this version gave it earlier; where another
    version gave it anything, that becomes NaN, since MLflow deletes no metric, and its tags go. Raises what MLflow raises.
    """
    with tracker.trying():
        client, experiment_id = tracker.client, tracker.experiment_id
        known = json.loads(client.get_experiment(experiment_id).tags.get(VERSIONS, "{}"))
        tracker.tag_experiment({VERSIONS: json.dumps({**known, **dict.fromkeys(names, version)})})
        runs = [*every(partial(client.search_runs, [experiment_id], max_results=1000))]
    changed = 0
    for run in runs:
        own = given.get(run.data.tags.get("request_key", "")) if run.info.status == "FINISHED" else None
        if own is not None:
            changed += _write(tracker, run, version, names, own)
        elif {run.data.tags.get(name) for name in names} - {None, version}:
            changed += _write(tracker, run, None, names, Given({}))
    return changed


def _write(tracker: Tracker, run: Run, version: str | None, names: Sequence[str], given: Given) -> bool:
    """Bring a run up to date; return whether it was not."""
    metrics_of = [*names, *(f"{name}{COUNT}" for name in names)]
    wanted = {name: given.values.get(name, math.nan) for name in metrics_of}
    had = {name: run.data.metrics.get(name, math.nan) for name in wanted}
    metrics = {name: value for name, value in wanted.items() if repr(value) != repr(had[name])}
    tags: dict[str, str | None] = dict.fromkeys(names, version)
    why = given.unreadable[:TAG_LENGTH] or None
    tags |= {f"{UNREADABLE}{name.removeprefix(JUDGED)}": why for name in names}
    new = {name: text for name, text in tags.items() if run.data.tags.get(name) != text}
    if metrics or new:
        tracker.add(run.info.run_id, metrics, {})
        tracker.tag_runs({run.info.run_id: new})
    return bool(metrics or new)
