"""What a sweep's runs say, at the end of its command: in the terminal, and as its experiment's description."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

from rich.text import Text

from kling_sweeps import metrics
from kling_sweeps.experiment.settings import Cell, Settings
from kling_sweeps.terminal.console import console
from kling_sweeps.tracking.tracker import Tracker

log = logging.getLogger(__name__)


def draw(settings: Settings, cells: Sequence[Cell], tracker: Tracker) -> list[str]:
    """Return what was found of every factor, at most five sentences, and what could not be told.

    Of a sweep with a name it is of all the runs of its experiment, and the tracker is told.
    """
    from kling_sweeps.analysis import conclusions, runs_df

    try:
        is_named = settings.sweep != "single"
        if is_named:
            tracker.tag_experiment({key: json.dumps(value) for key, value in _about(settings).items()})
        runs = runs_df(tracker.experiment, settings.tracking_uri)
        if not is_named:
            runs = runs[runs["request_key"].isin({cell.request.key for cell in cells})]
            runs.attrs |= _about(settings)
        lines = conclusions(runs)
    except Exception as error:  # all runs are tracked, whatever can be said of them
        log.warning("no conclusions could be drawn: %s", tracker.said(error))
        return []
    if is_named:
        tracker.goals, tracker.found = list(settings.goal), lines
    return lines


def show(lines: Sequence[str]) -> None:
    """Print what was found, a paragraph a sentence."""
    if lines:
        console.print(Text("What the runs say", style="bold"))
    for line in lines:
        console.print(Text(f"- {line}"), soft_wrap=True)


def _about(settings: Settings) -> dict[str, Any]:
    """Return the sweep's goal, and of the user's own metrics which are compared by their ratio, units and directions."""
    values = (value for metric in metrics.build(settings.metrics) for value in metric.values)
    own = [value for value in values if value.name not in metrics.declared()]
    return {
        "goal": settings.goal,
        "ratios": [value.name for value in own if value.scale == "log"],
        "declared": {value.name: [value.unit, value.direction] for value in own},
    }
