"""Metrics by the levels of a setting: every video, and the means of cells with their intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from kling_sweeps.analysis.cells import Cells
from kling_sweeps.analysis.comparison import on_log_scale
from kling_sweeps.analysis.estimates import GENERAL
from kling_sweeps.analysis.pairing import levels_of
from kling_sweeps.analysis.plots.figure import (
    COLORS,
    GREY,
    MARKERS,
    Picture,
    heading,
    legend,
    level_axis,
    logarithmic,
    look,
    panels,
    sentence,
    shades,
)
from kling_sweeps.analysis.subjects import emulated, lines, main_metrics, short, unit_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes


def plot_metrics(runs: pd.DataFrame, factor: str, metrics: Sequence[str] | None = None) -> Picture:
    """Draw metrics by the levels of a factor: a dot a video, a line through the means of each prompt.

    What else was varied makes lines of its own. Metrics that differ by factors have a logarithmic axis.
    Unless given, `metrics` are the main ones.
    """
    names = list(metrics if metrics is not None else main_metrics(runs))
    finished = runs[(runs["status"] == "FINISHED") & runs[factor].notna()]
    if not names or finished.empty:
        return sentence(f"There is nothing to draw: none of {len(runs)} runs has a metric.")
    levels = levels_of(runs, factor)
    line = lines(runs, factor)[finished.index]
    order = list(dict.fromkeys(line.sort_values()))
    is_line = len(order) > 1 or all(isinstance(level, (int, float)) for level in levels)
    is_log = on_log_scale(runs, names, finished[names].to_numpy(dtype=float))
    with look():
        figure, grid = panels(len(names))
        for axes, name, log in zip(grid, names, is_log, strict=True):
            where = level_axis(axes, factor, levels)
            for number, label in enumerate(order):
                own = finished[line == label]
                color, marker = _style(number, len(order))
                means = own.groupby(factor)[name].mean()
                if is_line:
                    axes.plot([where[k] for k in means.index], means, color=color, linewidth=1.1)
                dots = own[factor].map(where)
                axes.plot(dots, own[name], marker, color=color, markersize=4.5, alpha=0.75, mew=0)
            _titled(axes, runs, name)
            if log:
                logarithmic(axes)
        if 1 < len(order) <= len(COLORS):
            _legend(figure, order)
        missing = len(runs) - len(finished)
        heading(
            figure,
            f"{len(finished)} videos, a dot each",
            f"{len(order)} lines, through the means of what is alike but for {factor}" * (len(order) > 1),
            emulated(runs),
            f"{missing} failed, not drawn" if missing else "",
        )
    return figure


def plot_cells(*tables: Cells) -> Picture:
    """Draw tables of `cells`, a panel each: the mean of every cell with its interval, and its n."""
    drawn = [one for one in tables if one.table["mean"].notna().any()]
    if not drawn:
        return sentence("There is nothing to draw: no cell has a run with the metric.")
    with look():
        figure, grid = panels(len(drawn), columns=2, height=3.0)
        for axes, one in zip(grid, drawn, strict=True):
            _draw_cells(axes, one)
        claim = "prompts in general" if drawn[0].scope == GENERAL else "these prompts alone"
        has_interval = any(one.table["low"].notna().any() for one in drawn)
        heading(
            figure,
            "dot: mean, in which every prompt counts once",
            f"bar: 95 % interval, of {claim}" if has_interval else "no intervals: no cell has repeats",
            "number: n videos",
        )
        legend(figure, grid[0].get_legend_handles_labels()[0])
    return figure


def _draw_cells(axes: Axes, one: Cells) -> None:
    first, *others = one.factors
    levels = sorted(one.table[first].unique())
    where = level_axis(axes, first, levels)
    seconds = sorted(one.table[others[0]].unique()) if others else [None]
    step = min(np.diff(sorted(where.values())), default=1.0) * 0.09
    for number, (second, color) in enumerate(zip(seconds, shades(seconds), strict=True)):
        own = one.table if second is None else one.table[one.table[others[0]] == second]
        own = own.dropna(subset=["mean"])
        at = own[first].map(where) + step * (number - (len(seconds) - 1) / 2)
        axes.vlines(at, own["low"], own["high"], color=color, linewidth=1.6)
        label = None if second is None else f"{others[0]} {short(second)}"
        axes.plot(at, own["mean"], MARKERS[number % len(MARKERS)], color=color, markersize=6, label=label)
        for x, y, n in zip(at, own["mean"], own["n"], strict=True):
            axes.annotate(f"{n}", (x, y), (5, 4), textcoords="offset points", fontsize=7, color=GREY)
    axes.set_title(one.metric)
    axes.set_ylabel(unit_of(one.metric))
    axes.margins(y=0.15)


def _style(number: int, count: int) -> tuple[str, str]:
    """Return the colour and the marker of a line; many lines are all alike."""
    if count > len(COLORS):
        return GREY, "o"
    return COLORS[number], MARKERS[number]


def _titled(axes: Axes, runs: pd.DataFrame, name: str) -> None:
    wanted = {"max": " (goal: more)", "min": " (goal: less)"}.get(
        runs.attrs.get("goal", {}).get(name, ""), ""
    )
    axes.set_title(f"{name}{wanted}")
    axes.set_ylabel(unit_of(name, runs))


def _legend(figure: Picture, order: Sequence[str]) -> None:
    handles = []
    for number, label in enumerate(order):
        color, marker = _style(number, len(order))
        handles.append(Line2D([], [], color=color, marker=marker, markersize=4.5, label=short(label, 60)))
    legend(figure, handles)
