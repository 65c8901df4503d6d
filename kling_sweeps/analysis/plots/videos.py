"""Videos on paper: metrics frame by frame, and film strips."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

import pandas as pd
from matplotlib.image import imread
from matplotlib.lines import Line2D

from kling_sweeps.analysis.plots.figure import (
    LETTERS,
    WIDTH,
    Picture,
    heading,
    legend,
    look,
    panels,
    picture,
    sentence,
    shades,
    wrapped,
)
from kling_sweeps.analysis.runs import artifact_path, frames_df
from kling_sweeps.analysis.subjects import emulated, lines, of_line, short, unit_of

SERIES = ("sharpness", "motion")
# So many lines of runs are drawn, and as many strips.
MOST_LINES, MOST_STRIPS = 4, 12


def plot_frames(
    runs: pd.DataFrame,
    factor: str,
    metrics: Sequence[str] = SERIES,
    levels: Sequence[object] | None = None,
    tracking_uri: str | None = None,
) -> Picture:
    """Draw metrics in every frame of the videos: a panel a metric and prompt, a curve a video.

    `levels` are, unless given, the first and the last one of a numeric factor, or the first three of any
    other. The first four prompts, or whatever else was held constant, are drawn.
    """
    finished = runs[(runs["status"] == "FINISHED") & runs[factor].notna()]
    if finished.empty:
        return sentence(f"There is nothing to draw: none of {len(runs)} runs finished.")
    known = sorted(finished[factor].unique())
    chosen = list(levels) if levels is not None else _ends(known)
    line = lines(runs, factor)[finished.index]
    order = list(dict.fromkeys(line.sort_values()))
    shown = finished[finished[factor].isin(chosen) & line.isin(order[:MOST_LINES])]
    frames = frames_df(shown, tracking_uri)
    names = [name for name in metrics if name in frames]
    if not names:
        return sentence(f"There is nothing to draw: {' and '.join(metrics)} were not measured by frame.")
    color = dict(zip(chosen, shades(chosen), strict=True))
    some = order[:MOST_LINES]
    with look():
        figure, grid = panels(len(names) * len(some), columns=len(some), height=2.1, sharex=True)
        for number, axes in enumerate(grid):
            name, label = names[number // len(some)], some[number % len(some)]
            own = shown[line[shown.index] == label]
            for run_id, level in zip(own["run_id"], own[factor], strict=True):
                curve = frames[frames["run_id"] == run_id]
                axes.plot(curve["time_s"], curve[name], color=color[level], linewidth=1, alpha=0.85)
            if number < len(some):
                axes.set_title(fill(label, round(WIDTH * LETTERS * 0.7) // max(len(some), 2)))
            axes.set_ylim(bottom=0)
            if number % len(some) == 0:
                unit = unit_of(name, runs)
                axes.set_ylabel(f"{name}\n{unit}".strip())
            if number // len(some) == len(names) - 1:
                axes.set_xlabel("time in the video (s)")
        heading(figure, f"{len(shown)} videos, a curve each", _more(len(order) - len(some)), emulated(runs))
        handles = [
            Line2D([], [], color=color[level], label=f"{factor} {short(level, 60)}") for level in chosen
        ]
        legend(figure, handles)
    return figure


def plot_filmstrips(
    runs: pd.DataFrame, factor: str, line: str | None = None, tracking_uri: str | None = None
) -> Picture:
    """Draw the film strips of one prompt, the first unless given, a row a video: eight frames from first to last."""
    shown, line = of_line(runs, factor, line)
    if shown.empty:
        return sentence(f"There is nothing to see: none of {len(runs)} runs finished.")
    more = _more(len(shown) - MOST_STRIPS)
    shown = shown.head(MOST_STRIPS)
    strips = [imread(artifact_path(run_id, "filmstrip.png", tracking_uri)) for run_id in shown["run_id"]]
    heights = [WIDTH * 0.88 * strip.shape[0] / strip.shape[1] for strip in strips]
    with look():
        figure = picture(WIDTH, sum(heights) + 0.06 * len(strips) + 0.4)
        grid = figure.subplots(len(strips), 1, squeeze=False, height_ratios=heights).ravel()
        for axes, strip, run in zip(grid, strips, shown.to_dict("records"), strict=True):
            axes.imshow(strip)
            label = (
                f"{wrapped(run[factor], 14)}\n#{run['sample']}"
                if "sample" in run
                else wrapped(run[factor], 14)
            )
            axes.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            axes.grid(False)
        heading(figure, f"{short(line, 90)}, by {factor}", more, emulated(runs))
    return figure


def _more(left: int) -> str:
    return f"{left} more not drawn" if left > 0 else ""


def _ends(levels: Sequence[object]) -> list[object]:
    if all(isinstance(level, (int, float)) for level in levels):
        return list(dict.fromkeys((levels[0], levels[-1])))
    return list(levels[:3])
