"""What money can show."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from kling_sweeps.analysis.estimates import GENERAL
from kling_sweeps.analysis.plots.figure import (
    COLORS,
    GREY,
    MARKERS,
    Picture,
    heading,
    legend,
    logarithmic,
    look,
    panels,
    sentence,
)
from kling_sweeps.analysis.subjects import counted, unit_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_budget(*tables: pd.DataFrame, spent_usd: float | None = None) -> Picture:
    """Draw tables of `detectable_for`, a panel each: the smallest effect that a budget shows.

    A claim about prompts in general has a line for each number of repeats. The band goes up to what the
    effect may be by the 80 % limit of the pilot's variance. `spent_usd` is marked.
    """
    drawn = [one for one in tables if len(one)]
    if not drawn:
        return sentence(
            "There is nothing to draw: the pilot is too small, or no budget is enough for a test."
        )
    is_general = drawn[0]["scope"].iloc[0] == GENERAL
    with look():
        figure, grid = panels(len(drawn), columns=2, height=2.8)
        for axes, one in zip(grid, drawn, strict=True):
            _draw(axes, one, is_general)
            if spent_usd:
                axes.axvline(spent_usd, color=GREY, linestyle="--", linewidth=1, label="spent on the pilot")
        heading(
            figure,
            f"of {'prompts in general' if is_general else 'the prompts of the pilot alone'}",
            "power 80 %",
            "band: up to the 80 % limit of the variance",
        )
        legend(figure, grid[0].get_legend_handles_labels()[0])
    return figure


def _draw(axes: Axes, table: pd.DataFrame, is_general: bool) -> None:
    for number, repeats in enumerate(table["repeats"].unique().tolist() if is_general else [None]):
        own = table if repeats is None else table[table["repeats"] == repeats]
        label = (
            f"more repeats of {counted(own['prompts'].iloc[0], 'prompt')}"
            if repeats is None
            else f"more prompts, {counted(repeats, 'video')} of each at each level"
        )
        color, style = COLORS[number], f"{MARKERS[number]}-"
        axes.fill_between(own["usd"], own["smallest"], own["smallest_most"], color=color, alpha=0.15, lw=0)
        axes.plot(own["usd"], own["smallest"], style, color=color, markersize=3.5, label=label)
    first = table.iloc[0]
    unit = "%" if first["scale"] == "log" else unit_of(first["metric"])
    axes.set_title(first["metric"])
    axes.set_xlabel("budget for all levels (USD)")
    axes.set_ylabel(f"smallest effect seen ({unit})" if unit else "smallest effect seen")
    logarithmic(axes)
