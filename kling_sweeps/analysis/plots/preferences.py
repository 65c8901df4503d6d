"""What people prefer, and which numbers go with it, with intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter
from scipy.special import expit

from kling_sweeps.analysis.agreement import AGREES, OPPOSED, UNCLEAR
from kling_sweeps.analysis.comparison import REFERENCE
from kling_sweeps.analysis.pairing import plain
from kling_sweeps.analysis.plots.effects import MARKS, NO_ANSWER
from kling_sweeps.analysis.plots.figure import (
    COLORS,
    GREY,
    WIDTH,
    Picture,
    heading,
    legend,
    look,
    picture,
    sentence,
    wrapped,
)
from kling_sweeps.analysis.preferences import RATERS
from kling_sweeps.analysis.subjects import counted

AGREEMENT: dict[str, dict[str, Any]] = {
    AGREES: {"marker": "o", "color": COLORS[0], "markerfacecolor": COLORS[0]},
    OPPOSED: {"marker": "D", "color": COLORS[1], "markerfacecolor": COLORS[1]},
    UNCLEAR: {"marker": "o", "color": GREY, "markerfacecolor": "white"},
}


def plot_preferences(table: pd.DataFrame) -> Picture:
    """Draw a table of `preferences`: a row a level, how often it is preferred to the first one, and the interval."""
    about, factor = table.attrs, table.attrs["factor"]
    rows = table[table["verdict"] != REFERENCE]
    if rows.empty:
        return sentence(f"There is nothing to compare: people saw one level of {factor}.")
    styles = [MARKS.get(verdict, NO_ANSWER) for verdict in rows["verdict"]]
    names = [plain(level) for level in rows[factor]]
    first = plain(table[factor].iloc[0])
    whose = "raters in general" if about["scope"] == RATERS else counted(about["raters"], "rater")
    with look():
        figure = _drawn(
            expit(rows[["strength", "low", "high"]].to_numpy()),
            [
                f"{name}\nwon {share:.0%} of {n}"
                for name, share, n in zip(names, rows["win_share"], rows["n"], strict=True)
            ],
            styles,
        )
        (axes,) = figure.axes
        axes.set_xlim(0, 1)
        axes.axvline(0.5, color=GREY, linewidth=0.9)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel(f"preferred to {wrapped(first, 40)}")
        axes.set_ylabel(factor)
        heading(
            figure,
            f"{about['votes']:,} votes of {whose}",
            counted(about["prompts"], "prompt"),
            f"bar: {about['confidence']:.0%} interval",
        )
        legend(figure, _handles(dict(zip(rows["verdict"], styles, strict=True))))
    return figure


def plot_agreement(table: pd.DataFrame, most: int = 20) -> Picture:
    """Draw a table of `agreement`: a row a metric, how well it ranks videos as people do, and the interval."""
    rows = table[table["agreement"].notna()].head(most)
    if rows.empty:
        return sentence("There is nothing to compare: no number differs between the videos of a prompt.")
    styles = [AGREEMENT[verdict] for verdict in rows["verdict"]]
    with look():
        figure = _drawn(rows[["agreement", "low", "high"]].to_numpy(), list(rows["metric"]), styles)
        (axes,) = figure.axes
        axes.set_xlim(-1.02, 1.02)
        axes.axvline(0, color=GREY, linewidth=0.9)
        axes.set_xlabel("the videos of a prompt in people's order: 1 all along, -1 upside down")
        first = rows.iloc[0]
        heading(
            figure,
            f"{first['videos']:.0f} videos of {counted(first['prompts'], 'prompt')}",
            "bar: 95% interval",
        )
        legend(figure, _handles(dict(zip(rows["verdict"], styles, strict=True))))
    return figure


def _drawn(values: np.ndarray, names: list[str], styles: list[Any]) -> Picture:
    """Return a figure with a row for each of `values`, which are a point and the ends of its interval."""
    figure = picture(WIDTH * 0.75, 1.4 + 0.34 * len(names))
    axes = figure.subplots()
    at = np.arange(len(names))[::-1]
    for y, (middle, low, high), style in zip(at, values, styles, strict=True):
        axes.hlines(y, low, high, color=style["color"], linewidth=1.6)
        axes.plot(middle, y, markersize=5.5, linestyle="", **style)
    axes.set_yticks(at, names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.grid(False, axis="y")
    return figure


def _handles(styles: dict[str, Any]) -> list[Line2D]:
    return [Line2D([], [], linestyle="-", label=verdict, **style) for verdict, style in styles.items()]
