"""The saved views of an experiment, in the form that MLflow's page of runs reads from experiment tags."""

from __future__ import annotations

import json
import zlib
from base64 import b64encode
from collections.abc import Iterable, Sequence
from math import prod
from typing import Any

from kling_sweeps.experiment.naming import BOOKKEEPING
from kling_sweeps.tracking.overview import Overview
from kling_sweeps.tracking.run_data import SETTING

PREFIX = "mlflow.sharedViewState."
BY_SETTING, BY_FRAME, ALL, MONEY = (
    f"kling-sweeps-{name}" for name in ("by-setting", "frame-by-frame", "all", "money-and-time")
)
# What MLflow takes of an experiment tag, in characters.
TAG_LENGTH = 20_000
# The runs that MLflow's page loads.
LOADED = 100
# More lines or bars in a chart can't be told from each other.
MOST_GROUPS = 30
SHORT_LEGEND = 3
CREATED_MS = 1_700_000_000_000
Chart = dict[str, Any]


def views(overview: Overview) -> dict[str, str]:
    """Return the experiment tags of all views, by key; the same for the same runs."""
    states = {
        BY_SETTING: ("By setting", _by_setting(overview)),
        BY_FRAME: ("Frame by frame", _by_frame(overview)),
        ALL: ("All", _all(overview)),
        MONEY: ("Money and time", _money(overview)),
    }
    some = f" ({_part(overview)[1]} of {len(overview.runs)} runs)" if len(overview.runs) > LOADED else ""
    # MLflow's menu has the youngest first.
    return {
        f"{PREFIX}{key}": _tag(name + some, CREATED_MS - place, state)
        for place, (key, (name, state)) in enumerate(states.items())
    }


def _tag(name: str, created_ms: int, state: dict[str, Any]) -> str:
    """Return the value of a view's tag; where it is too long, MLflow draws some of what it should hide."""
    while True:
        packed = b64encode(zlib.compress(json.dumps(state, separators=(",", ":")).encode(), 9)).decode()
        tag = json.dumps({"name": name, "createdAt": created_ms, "state": f"deflate;{packed}"})
        if len(tag) <= TAG_LENGTH:
            return tag
        charts = state["compareRunCharts"]
        hidden = [chart for chart in charts if chart["deleted"]]
        state = state | {"compareRunCharts": charts[: len(charts) - (len(hidden) + 1) // 2]}


def _by_setting(overview: Overview) -> dict[str, Any]:
    """A line a prompt against each number that is swept, bars for what is no number, and bars of prompts else."""
    groups = _groups(overview, [*overview.categorical, "prompt"])
    sections = [
        (f"Against {key}", [_line(name, f"{SETTING}{key}") for name in overview.goals])
        for key in overview.numeric
    ]
    if overview.categorical or not sections:
        title = " and ".join(overview.categorical or groups or ["run"])
        sections.append((f"By {title}", list(map(_bar, overview.goals))))
    return _state(overview, sections, groups)


def _by_frame(overview: Overview) -> dict[str, Any]:
    """The series of the frames, averaged over the runs of each setting."""
    groups = _groups(overview, list(overview.swept) or ["prompt"])
    title = f"Frame by frame, by {' and '.join(groups)}" if groups else "Frame by frame"
    return _state(overview, [(title, list(map(_line, overview.series)))], groups)


def _all(overview: Overview) -> dict[str, Any]:
    """Every run as a line through prompt, settings and metrics, and as a point in a chart for each metric."""
    params = ["prompt"] * (len(overview.prompts) > 1) + list(overview.swept)
    parallel = {
        "type": "PARALLEL",
        "selectedParams": params,
        # MLflow colours the lines by the last.
        "selectedMetrics": overview.goals[::-1],
        "showAllRuns": True,
    }
    sections = [("Every run through its settings and metrics", [parallel])]
    for key in list(overview.swept) or ["prompt"]:
        axis = _axis(f"{SETTING}{key}", "METRIC") if key in overview.numeric else _axis(key, "PARAM")
        sections.append((f"Every run against {key}", [_scatter(axis, name) for name in overview.goals]))
    return _state(overview, sections, [])


def _money(overview: Overview) -> dict[str, Any]:
    """Price and times on average, by setting, and each video's time against its price."""
    groups = _groups(overview, list(overview.swept) or ["prompt"])
    shown = [name for name in BOOKKEEPING if name in overview.metrics]
    title = f"On average, by {' and '.join(groups)}" if groups else "Each run"
    return _state(overview, [(title, list(map(_bar, shown)))], groups)


def _groups(overview: Overview, keys: Sequence[str]) -> list[str]:
    """Return the params to group by, the last ones left out until a chart can show as many groups."""
    counts = {key: len(overview.swept.get(key, overview.prompts)) for key in keys}
    kept = [key for key in keys if counts[key] > 1] or ["prompt"] * bool(overview.swept)
    while len(kept) > 1 and prod(counts[key] for key in kept) > MOST_GROUPS:
        kept.pop()
    return kept


def _part(overview: Overview) -> tuple[str, str]:
    """Return by what runs are ordered, so that the first 100 are a fair part, and what these are called.

    They are the first repeats where each of those fits, or else runs at random.
    """
    if len(overview.runs) <= LOADED:
        first = next(iter(overview.swept), "prompt")
        return f"params.`{first}`", ""
    if len(overview.samples) > 1 and len(overview.runs) / len(overview.samples) <= LOADED:
        return "params.`sample`", f"the first {LOADED}, by repeat,"
    return "tags.`request_key`", f"{LOADED} at random"


def _state(
    overview: Overview, sections: Iterable[tuple[str, list[Chart]]], groups: Sequence[str]
) -> dict[str, Any]:
    """Return the state of MLflow's page: charts in sections, and every other metric's chart hidden."""
    charts, made = [], []
    # A legend has two lines.
    is_short = prod(len(overview.swept.get(key, overview.prompts)) for key in groups) <= SHORT_LEGEND
    for place, (title, drawn) in enumerate(sections):
        columns = 1 if len(drawn) == 1 else 3 if is_short else 2
        made.append(
            {
                "uuid": f"s{place}",
                "name": title,
                "display": True,
                "isReordered": True,
                "deleted": False,
                "isGenerated": False,
                "columns": columns,
                "cardHeight": 400 if columns == 1 else 300,
            }
        )
        charts += [
            {"uuid": f"s{place}c{n}", "metricSectionId": f"s{place}", "deleted": False, "isGenerated": False}
            | chart
            for n, chart in enumerate(drawn)
        ]
    shown = {chart.get("metricKey") for chart in charts}
    charts += [
        {"uuid": f"h{n}", "type": "BAR", "metricKey": name, "metricSectionId": "s0"}
        | {"deleted": True, "isGenerated": True}
        for n, name in enumerate(overview.metrics)
        if name not in shown
    ]
    shown_params = ["prompt", *overview.swept]
    return {
        "compareRunCharts": charts,
        "compareRunSections": made,
        "isAccordionReordered": True,
        "runsHiddenMode": "SHOW_ALL",
        "hideEmptyCharts": True,
        "groupBy": {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "param", "groupByData": key} for key in groups],
        }
        if groups
        else None,
        "useGroupedValuesInCharts": True,
        "searchFilter": "tags.kind IS NULL",
        "orderByKey": _part(overview)[0],
        "orderByAsc": True,
        "lifecycleFilter": "Active",
        "startTime": "ALL",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [f"params.`{key}`" for key in shown_params]
        + [f"metrics.`{name}`" for name in overview.goals],
        "runListHidden": True,
    }


def _line(metric: str, against: str = "") -> Chart:
    """Return a metric's lines against another metric, or else against the frames' numbers."""
    return {
        "type": "LINE",
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "xAxisKey": "metric" if against else "step",
        "selectedXAxisMetricKey": against,
        "useGlobalXaxisKey": False,
        "useGlobalLineSmoothing": True,
        "lineSmoothness": 0,
        "scaleType": "linear",
        "xAxisScaleType": "linear",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "range": {},
        "displayName": metric,
        "displayPoints": bool(against),
    }


def _bar(metric: str) -> Chart:
    return {"type": "BAR", "metricKey": metric}


def _scatter(xaxis: dict[str, str], metric: str) -> Chart:
    return {"type": "SCATTER", "xaxis": xaxis, "yaxis": _axis(metric, "METRIC")}


def _axis(key: str, kind: str) -> dict[str, str]:
    return {"key": key, "type": kind}
