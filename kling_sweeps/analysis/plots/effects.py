"""What a setting changes, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from kling_sweeps.analysis.comparison import FOUND, NOT_DISTINGUISHABLE, REFERENCE, WORTH_A_LOOK
from kling_sweeps.analysis.estimates import GENERAL
from kling_sweeps.analysis.pairing import TWINS
from kling_sweeps.analysis.plots.figure import (
    COLORS,
    GREY,
    PALE,
    RED,
    Picture,
    heading,
    legend,
    look,
    panels,
    sentence,
    wrapped,
)
from kling_sweeps.analysis.subjects import counted, unit_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Shape and filling say the same as the colour.
MARKS: Mapping[str, Any] = {
    FOUND: {"marker": "o", "color": COLORS[0], "markerfacecolor": COLORS[0]},
    WORTH_A_LOOK: {"marker": "D", "color": COLORS[1], "markerfacecolor": COLORS[1]},
    NOT_DISTINGUISHABLE: {"marker": "o", "color": GREY, "markerfacecolor": "white"},
}
NO_ANSWER: Mapping[str, Any] = {"marker": "x", "color": GREY, "markerfacecolor": GREY}
MOST = 9


def plot_effects(table: pd.DataFrame, metrics: Sequence[str] | None = None) -> Picture:
    """Draw a table of `effects`: a panel a metric, a row a level, its difference to the reference and interval.

    `metrics` are, unless given, those that were asked for, those with a finding, or else the first. What would
    not have been seen is shaded.
    """
    factor = str(table.columns[1])
    compared = table[table["verdict"] != REFERENCE]
    names = [n for n in metrics if n in set(compared["metric"])] if metrics is not None else _told(compared)
    if compared.empty or not names:
        return sentence(
            f"There is nothing to compare: {factor} has one level, {table[factor].iloc[0]}."
            if len(table)
            else "There is nothing to compare: no run has a metric."
        )
    levels = list(dict.fromkeys(compared[factor]))
    long = max(len(str(level)) for level in levels) > 10
    with look():
        figure, grid = panels(len(names), height=0.9 + (0.38 if long else 0.27) * max(len(levels), 3))
        columns = len({axes.get_position().x0 for axes in grid})
        for number, (axes, name) in enumerate(zip(grid, names, strict=True)):
            _draw(axes, compared[compared["metric"] == name], factor, number % columns == 0)
        row = compared.iloc[0]
        prompts = sorted(set(compared.loc[compared["metric"].isin(names), "prompts"]))
        fewest = f"{prompts[0]} to " if prompts[0] < prompts[-1] else ""
        of = f"{fewest}{counted(prompts[-1], 'prompt')}"
        claim = f"prompts in general, by {of}" if row["scope"] == GENERAL else f"{of} alone"
        heading(
            figure,
            f"difference to {factor} = {wrapped(row['reference'], 60)}",
            "" if factor in TWINS[0] else f"of {claim}",
            f"bar: {row['confidence']:.0%} interval",
        )
        _legend(figure, compared[compared["metric"].isin(names)])
    return figure


def _told(compared: pd.DataFrame) -> list[str]:
    """Return the metrics that were asked for, those with a finding, or else the first."""
    asked = compared.attrs.get("asked", ())
    seen = compared["verdict"].isin((FOUND, WORTH_A_LOOK)) | compared["metric"].isin(asked)
    names = list(dict.fromkeys(compared.loc[seen, "metric"])) or list(dict.fromkeys(compared["metric"]))
    return names[:MOST]


def _draw(axes: Axes, rows: pd.DataFrame, factor: str, is_first: bool) -> None:
    at = np.arange(len(rows))[::-1]
    for y, row in zip(at, rows.to_dict("records"), strict=True):
        style = MARKS.get(row["verdict"], NO_ANSWER)
        limit = row["smallest_detectable"] * (-1 if row["difference"] < 0 else 1)
        axes.barh(y, 0 if isnan(limit) else limit, height=0.8, color=PALE, alpha=0.6, linewidth=0)
        axes.hlines(y, row["low"], row["high"], color=style["color"], linewidth=1.6)
        axes.plot(row["difference"], y, markersize=5.5, linestyle="", **style)
        failed = f", {row['failed']} failed" if row["failed"] else ""
        axes.annotate(
            f"n {row['n_runs']}{failed}",
            (1, y),
            (3, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            fontsize=7,
            color=RED if failed else GREY,
        )
    axes.axvline(0, color=GREY, linewidth=0.9)
    axes.set_yticks(at, [wrapped(level, 24) for level in rows[factor]] if is_first else [""] * len(rows))
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.grid(False, axis="y")
    first = rows.iloc[0]
    goal = {"max": " (goal: more)", "min": " (goal: less)"}.get(first["goal"], "")
    axes.set_title(f"{first['metric']}{goal}")
    axes.set_xlabel("%" if first["scale"] == "log" else unit_of(first["metric"]))
    axes.set_xlim(*_range(rows))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    if is_first:
        axes.set_ylabel(factor)


def _range(rows: pd.DataFrame) -> tuple[float, float]:
    """Return the ends of an axis that has 0 and all differences and intervals on it."""
    drawn = rows[["low", "difference", "high"]].fillna(0.0).to_numpy(dtype=float)
    low, high = min(drawn.min(), 0.0), max(drawn.max(), 0.0)
    margin = 0.08 * (high - low)
    return (low - margin, high + margin) if margin > 1e-12 else (-1.0, 1.0)


def _legend(figure: Picture, rows: pd.DataFrame) -> None:
    found = set(rows["verdict"])
    handles: list[Line2D | Patch] = [
        Line2D([], [], linestyle="-", label=verdict, **style)
        for verdict, style in MARKS.items()
        if verdict in found
    ]
    handles += [
        Line2D([], [], linestyle="", label=f"no answer: {reason}", **NO_ANSWER)
        for reason in sorted(found - MARKS.keys())
    ]
    if rows["smallest_detectable"].notna().any():
        handles.append(Patch(color=PALE, alpha=0.6, label="smaller would not have been seen (power 80 %)"))
    legend(figure, handles)
