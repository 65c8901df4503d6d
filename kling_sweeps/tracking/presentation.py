"""What people see first of an experiment, kept up to date: its saved views, its note, its runs' colours and neighbours.

What a person has changed or removed is theirs: an experiment's tag `kling_sweeps` holds the digests of what was
written here, and what is there otherwise is left alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kling_sweeps.tracking import run_data
from kling_sweeps.tracking.colors import run_colors
from kling_sweeps.tracking.note import beside, note
from kling_sweeps.tracking.overview import Overview, RunFacts
from kling_sweeps.tracking.run_data import COLOR, DESCRIPTION
from kling_sweeps.tracking.views import views

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

RECORD = "kling_sweeps"


@dataclass(frozen=True)
class Record:
    """What was written to an experiment's tags: of which runs, and the digests of each tag, by key."""

    made_from: str
    digests: Mapping[str, Sequence[str]]

    @classmethod
    def read(cls, text: str | None) -> Record:
        """Read a record; what is none says that nothing was written."""
        try:
            found = json.loads(text or "{}")
            return cls(str(found.get("made_from", "")), dict(found.get("digests", {})))
        except (ValueError, TypeError, AttributeError):
            return cls("", {})

    def __str__(self) -> str:
        return json.dumps({"made_from": self.made_from, "digests": dict(self.digests)})

    def is_theirs(self, key: str, value: str | None) -> bool:
        """Tell whether a person has written, changed or removed a tag."""
        if value is None:
            return bool(self.made_from) and key in self.digests
        return run_data.digest(value) not in self.digests.get(key, ())


def present(
    client: MlflowClient,
    experiment_id: str,
    runs: Sequence[Run],
    made_from: str,
    goals: Sequence[str] = (),
    found: Sequence[str] = (),
    report: str | None = None,
) -> None:
    """Write what is not up to date; an interrupted call is completed by the next one.

    `runs` are all of the experiment, `made_from` tells their state from any other, `goals` are metrics,
    `found` sentences, and `report` is the page of the sweep's report.
    """
    facts = [_facts(run) for run in runs]
    overview = Overview([run for run in facts if "kind" not in run.tags], goals)
    _present_runs(client, experiment_id, overview)
    wanted = views(overview)
    wanted[DESCRIPTION] = note(overview, experiment_id, report, found)
    tags = client.get_experiment(experiment_id).tags
    record = Record.read(tags.get(RECORD))
    ours = {key: value for key, value in wanted.items() if not record.is_theirs(key, tags.get(key))}
    digests = {key: [run_data.digest(value)] for key, value in ours.items()}
    before = {key: [run_data.digest(tags[key])] for key in ours if key in tags}
    # An interrupted call leaves tags as they were before or as they shall be.
    both = {key: sorted({*before.get(key, ()), *made}) for key, made in digests.items()}
    kept = {key: made for key, made in record.digests.items() if key not in ours}
    client.set_experiment_tag(experiment_id, RECORD, str(Record("", {**kept, **both})))
    for key, value in ours.items():
        if tags.get(key) != value:
            client.set_experiment_tag(experiment_id, key, value)
    client.set_experiment_tag(experiment_id, RECORD, str(Record(made_from, {**kept, **digests})))


def _present_runs(client: MlflowClient, experiment_id: str, overview: Overview) -> None:
    """Give every run its neighbours, and its colour where that has changed, in one call for each that lacks them."""
    from mlflow.entities import RunTag

    lines = beside(overview, experiment_id)
    for run, color in zip(overview.runs, run_colors(overview), strict=True):
        theirs = run_data.theirs(run.tags)
        wanted = {} if COLOR in theirs else run_data.colored(color)
        if DESCRIPTION in run.tags and DESCRIPTION not in theirs:
            wanted[DESCRIPTION] = run_data.beside(run.tags[DESCRIPTION], lines.get(run.run_id, ""))
        changed = {key: value for key, value in wanted.items() if run.tags.get(key) != value}
        if changed:
            client.log_batch(run.run_id, tags=[RunTag(*tag) for tag in changed.items()])


def _facts(run: Run) -> RunFacts:
    return RunFacts(run.info.run_id, run.info.status, run.data.params, run.data.metrics, run.data.tags)
