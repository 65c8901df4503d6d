"""Time and money."""

from __future__ import annotations

import pandas as pd

from kling_sweeps.analysis.expenses import PARTS, money, together
from kling_sweeps.analysis.plots.figure import (
    COLORS,
    GREY,
    RED,
    WIDTH,
    Picture,
    heading,
    look,
    picture,
    sentence,
)

# A part by its colour and its hatching.
LOOKS = {
    "queue_s": ("#bbbbbb", ""),
    "inference_s": (COLORS[0], ""),
    "download_s": (COLORS[5], "////"),
    "measure_s": (COLORS[2], "...."),
}


def plot_time(runs: pd.DataFrame) -> Picture:
    """Draw the seconds of each part of every run, a bar a run, from its submission on, the longest at the top."""
    took = together(runs).dropna().sort_values()
    if took.empty:
        return sentence(
            f"There is nothing to draw: of none of {len(runs)} runs it is known how long it took."
        )
    parts = [name for name in PARTS if name in runs]
    known = runs.loc[took.index, parts].fillna(0.0)
    failed = (runs.loc[took.index, "status"] != "FINISHED").to_numpy()
    thick = 0.17 if len(took) <= 40 else max(0.17 * 40 / len(took), 0.01)
    with look():
        figure = picture(WIDTH, 1.2 + thick * len(took))
        axes = figure.subplots()
        left = pd.Series(0.0, took.index)
        for name in parts:
            color, hatch = LOOKS[name]
            axes.barh(range(len(took)), known[name], left=left, height=0.8, color=color, hatch=hatch,
                      edgecolor="white", linewidth=0, label=PARTS[name])  # fmt: skip
            left = left + known[name]
        for y in failed.nonzero()[0]:
            axes.annotate(" failed", (took.iloc[y], y), va="center", fontsize=7, color=RED)
        names = [str(name) for name in runs.loc[took.index, "run_name"]]
        axes.set_yticks(range(len(names)), names if len(names) <= 40 else [""] * len(names), fontsize=7)
        axes.tick_params(axis="y", length=0)
        axes.axvline(took.median(), color=GREY, linewidth=1, linestyle="--", label="median of a run")
        axes.set_ylim(-0.6, len(took) - 0.4)
        axes.grid(False, axis="y")
        axes.set_xlabel("seconds since its submission")
        unknown = len(runs) - len(took)
        heading(figure, f"{len(took)} runs", f"{unknown} without times, not drawn" if unknown else "")
        figure.legend(loc="outside lower left", ncols=5)
    return figure


def plot_money(runs: pd.DataFrame) -> Picture:
    """Draw what was charged by day, what may have been, and the sum so far, in USD."""
    table = money(runs)
    if not (table["usd"] + table["may_have_cost_usd"]).any():
        return sentence(f"There is nothing to draw: none of {len(runs)} runs has cost anything.")
    days = [day.toordinal() for day in table["day"]]
    with look():
        figure = picture(WIDTH * 0.7, 2.8)
        axes = figure.subplots()
        axes.bar(days, table["usd"], width=0.8, color=COLORS[0], label="cost that day")
        if table["may_have_cost_usd"].any():
            axes.bar(days, table["may_have_cost_usd"], width=0.8, bottom=table["usd"], color="white",
                     edgecolor=COLORS[1], hatch="////", label="may have cost as well")  # fmt: skip
        if len(days) > 1:
            axes.step(days, table["in_all_usd"], where="post", color=COLORS[1], marker="o", markersize=4,
                      label="so far")  # fmt: skip
        axes.set_xlim(days[0] - 2, days[-1] + 2)
        told = [f"{row.day:%d %b %Y}\n{row.usd:.2f} USD\nn {row.videos}" for row in table.itertuples()]
        every = -(-len(days) // 9)
        axes.set_xticks(days[::every], told[::every])
        axes.set_ylabel("USD")
        axes.grid(False, axis="x")
        is_emulated = (runs["provider"] == "emulator").any()
        heading(
            figure,
            "prices as on fal; the emulator charged nothing" if is_emulated else "by day of submission (UTC)",
            "n: finished videos",
        )
        figure.legend(loc="outside lower left", ncols=3)
    return figure
