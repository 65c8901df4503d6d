"""What a sweep's runs say, at the end of its command: in the terminal, and as its experiment's description."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kling_sweeps import metrics
from kling_sweeps.experiment.naming import NAMELESS
from kling_sweeps.experiment.settings import Settings
from kling_sweeps.sweep.scheduler import Runs
from kling_sweeps.terminal.console import READING, show_line, working
from kling_sweeps.tracking.tracker import Tracker

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What has become of a command's runs, as MLflow has it; it is read once, when it is asked for."""

    runs: Runs
    tracker: Tracker

    @property
    def settings(self) -> Settings:
        return self.runs.settings

    @cached_property
    def experiment(self) -> pd.DataFrame:
        """Return `runs_df` of the sweep's experiment, which is told first what the sweep is about."""
        from kling_sweeps.analysis import runs_df

        if self.is_named:
            told = {key: json.dumps(value) for key, value in about(self.settings).items()}
            self.tracker.tag_experiment(told)
        return runs_df(self.tracker.experiment, self.settings.tracking_uri)

    @cached_property
    def own(self) -> pd.DataFrame:
        """Return the runs of this command alone."""
        keys = {cell.request.key for cell in self.runs.cells}
        runs = self.experiment[self.experiment["request_key"].isin(keys)]
        told = about(self.settings)
        runs.attrs |= {**told, "declared": {**runs.attrs["declared"], **told["declared"]}}
        return runs

    @property
    def is_named(self) -> bool:
        return self.settings.sweep != NAMELESS


def draw(outcome: Outcome) -> list[str]:
    """Return what was found of every factor, at most five sentences, and what could not be told.

    Of a sweep with a name it is of all the runs of its experiment, unless repeats were added to them by looks, and the tracker is told.
    Of a run alone, without a name, there is nothing to be said.
    """
    if not outcome.is_named and len(outcome.runs.cells) < 2:
        return []
    from kling_sweeps.analysis import conclusions

    tracker = outcome.tracker
    try:
        is_whole = outcome.is_named and not outcome.settings.repeats
        with working(READING):
            lines = conclusions(outcome.experiment if is_whole else outcome.own)
    except Exception as error:  # all runs are tracked, whatever can be said of them
        log.warning("no conclusions could be drawn: %s", tracker.said(error))
        return []
    if outcome.is_named:
        tracker.goals, tracker.found = list(outcome.settings.goal), lines
    return lines


def recall(outcome: Outcome) -> list[str]:
    """Return what was said of the runs and the goals before, which have not changed since, or else what is to be said."""
    tracker = outcome.tracker
    noted = tracker.noted if outcome.is_named else None
    if noted is None or not tracker.is_noted([*outcome.settings.goal], noted.found):
        return draw(outcome)
    return [*noted.found]


def show(lines: Sequence[str]) -> None:
    """Print what was found, a paragraph a sentence."""
    if lines:
        show_line(("What the runs say", "bold"))
    for line in lines:
        show_line(f"- {line}")


def about(settings: Settings) -> dict[str, Any]:
    """Return what an experiment is told of its metrics, and of the plan by which its runs are repeated, if by any.

    That is the sweep's goal, and of the user's own metrics which are compared by their ratio, units and directions.
    """
    values = (value for metric in metrics.build(settings.metrics) for value in metric.values)
    own = [value for value in values if value.name not in metrics.declared()]
    found: dict[str, Any] = {
        "goal": settings.goal,
        "ratios": [value.name for value in own if value.scale == "log"],
        "declared": {value.name: [value.unit, value.direction] for value in own},
    }
    if plan := settings.repeats:
        seen = {"repeats": list(plan.looks), "metrics": list(settings.goal)}
        found["looks"] = {"factor": plan.factor, "reference": plan.reference, **seen}
    return found
