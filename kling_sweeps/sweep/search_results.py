"""What a search has found: the table of its trials, the best of them, and its run in MLflow."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

from rich.text import Text

from kling_sweeps.sweep.search import Trial
from kling_sweeps.terminal import tables
from kling_sweeps.terminal.console import console
from kling_sweeps.terminal.tables import number_column, text_column, word_column
from kling_sweeps.tracking import run_data
from kling_sweeps.tracking.tracker import Tracker

STYLES = {"complete": "green", "failed": "red", "open": "cyan"}


@dataclass(frozen=True)
class Found:
    """The trials of a search, and the best of those that are complete."""

    objective: str
    direction: str
    trials: Sequence[Trial]

    @cached_property
    def trial(self) -> Trial | None:
        values = [trial.value for trial in self.trials if trial.value is not None]
        if not values:
            return None
        best = min(values) if self.direction == "minimize" else max(values)
        return next(trial for trial in self.trials if trial.value == best)

    def __str__(self) -> str:
        if self.trial is None:
            return f"No trial has a {self.objective} yet."
        settings = ", ".join(f"{name}={value}" for name, value in self.trial.settings.items())
        complete = sum(trial.state == "complete" for trial in self.trials)
        which = "highest" if self.direction == "maximize" else "lowest"
        return (
            f"Best: {settings} has the {which} {self.objective}, {self.trial.value:.6g} "
            f"(trial {self.trial.number} of {complete} that are complete)"
        )

    def csv(self) -> str:
        """Return a row for each trial."""
        names = dict.fromkeys(name for trial in self.trials for name in trial.settings)
        file = io.StringIO()
        writer = csv.DictWriter(
            file, ["number", *names, self.objective, "state", "usd", "why", "request_key"]
        )
        writer.writeheader()
        for trial in self.trials:
            facts = {"number": trial.number, "state": trial.state, "usd": trial.usd, "why": trial.why}
            key = trial.cell.request.key
            writer.writerow({**facts, **trial.settings, self.objective: trial.value, "request_key": key})
        return file.getvalue()


def track(tracker: Tracker, name: str, found: Found) -> None:
    """Log a search as one run of its sweep's experiment, which has the tag `kind`; the one before it goes."""
    content = sha256(found.csv().encode()).hexdigest()
    there = tracker.client.search_runs([tracker.experiment_id], f"tags.search = '{name}'")
    if [run.data.tags.get("content") for run in there] == [content]:
        return
    theirs = {key: value for run in there for key, value in run_data.theirs(run.data.tags).items()}
    _write(tracker, name, found, theirs, content)
    for run in there:
        tracker.client.delete_run(run.info.run_id)


def _write(tracker: Tracker, name: str, found: Found, theirs: Mapping[str, str], content: str) -> None:
    """Write a whole run; the tag `content` comes last, and a run that lacks it is replaced."""
    client = tracker.client
    title = f"search: {found.direction} {found.objective}"
    ours = {
        "kind": "search",
        "search": name,
        "sweep": tracker.sweep,
        "provider": tracker.provider,
        "named": title,
    }
    run_id = client.create_run(
        tracker.experiment_id, tags={**ours, **theirs}, run_name=theirs.get(run_data.NAME, title)
    ).info.run_id
    settings = found.trial.settings if found.trial else {}
    for key, value in {"objective": found.objective, "direction": found.direction, **settings}.items():
        client.log_param(run_id, key, value)
    if found.trial and found.trial.value is not None:
        client.log_metric(run_id, found.objective, found.trial.value)
    client.log_metric(run_id, "trials", len(found.trials))
    client.log_text(run_id, found.csv(), "trials.csv")
    client.set_terminated(run_id)
    client.set_tag(run_id, "content", content)


def show(found: Found) -> None:
    """Print a row for each trial, of very many for the last ones, and the best in one line."""
    if not found.trials:
        return
    trials = found.trials[-tables.MANY :]
    names = dict.fromkeys(name for trial in trials for name in trial.settings)
    tables.show(
        [
            number_column("trial", [Text(str(trial.number)) for trial in trials]),
            *(
                text_column(name, [Text(str(trial.settings.get(name, ""))) for trial in trials])
                for name in names
            ),
            number_column(
                found.objective, [Text("" if t.value is None else f"{t.value:.6g}") for t in trials]
            ),
            word_column("state", [Text(trial.state, style=STYLES[trial.state]) for trial in trials]),
            number_column("USD", [Text(f"{trial.usd:.2f}") for trial in trials]),
        ]
    )
    for trial in trials:
        if trial.state == "failed":
            console.print(Text(f"trial {trial.number} failed: {trial.why}"), soft_wrap=True)
    console.print(Text(str(found), style="bold"), soft_wrap=True)
