"""Parts of a document on a sweep, for a notebook: what was run, what it shows, its videos, in Markdown and HTML."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Hashable, Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from kling_sweeps.analysis.comparison import REFERENCE
from kling_sweeps.analysis.design import design_for, detectable_for, pilot_of
from kling_sweeps.analysis.estimates import GENERAL
from kling_sweeps.analysis.expenses import together, under_way
from kling_sweeps.analysis.interactions import interaction
from kling_sweeps.analysis.pairing import levels_of, listed
from kling_sweeps.analysis.runs import NoRunsError, video_path
from kling_sweeps.analysis.statements import number, statements, unit_word
from kling_sweeps.analysis.subjects import counted, emulated, main_metrics, of_line, short, swept
from kling_sweeps.video.preview import preview

# So many videos are embedded, each of some hundred kilobytes.
MOST_VIDEOS = 10
NOTHING_MEASURED = "Nothing can be said: no run has a metric."


def summary(runs: pd.DataFrame, *factors: str) -> str:
    """Return in Markdown what was run: how much of it finished, by which levels, how often, and what that can't tell.

    Raises NoRunsError where there are no runs.
    """
    if runs.empty:
        raise NoRunsError("this experiment has no runs yet: run its sweep, then this again")
    finished = runs[runs["status"] == "FINISHED"]
    said = [f"**{len(finished)} of {len(runs)} runs finished.**"]
    if len(finished) < len(runs):
        why = runs.loc[runs["status"] != "FINISHED", "error_type"].fillna("no reason given").value_counts()
        said.append("Not finished: " + ", ".join(f"{n} × {short(name)}" for name, n in why.items()) + ".")
    said.append(_design(runs, finished, factors))
    if emulated(runs):
        said.append(
            "**These videos were emulated**: they are synthetic, cost nothing, and say nothing of any model."
        )
    return " ".join(said)


def listing(runs: pd.DataFrame, metrics: Sequence[str] | None = None) -> pd.DataFrame:
    """Return a row a run to look at: the settings that differ, how it ended, its main metrics and its cost."""
    apart = {"prompt_text", "endpoint", "sample"}
    varied = [n for n in listed(runs, "params") if n not in apart and runs[n].nunique(dropna=False) > 1]
    names = list(metrics if metrics is not None else main_metrics(runs, most=4))
    why = ["error_type"] if runs["error_type"].notna().any() else []
    columns = [*varied, "sample", "status", *why, *names, "cost_usd"]
    kept = [name for name in dict.fromkeys(columns) if name in runs]
    rounded = {name: runs[name].map(lambda value: float(f"{value:.4g}")) for name in names}
    rows = runs.assign(**rounded)[kept].sort_values([n for n in (*varied, "sample") if n in kept])
    return rows.fillna({"error_type": ""}).reset_index(drop=True)


def answer(*tables: pd.DataFrame) -> str:
    """Return as a Markdown list what tables of `effects` say."""
    said = []
    for table in tables:
        factor = str(table.columns[1])
        if table.empty:
            said.append(NOTHING_MEASURED)
        elif (table["verdict"] == REFERENCE).all():
            said.append(f"{factor} has one level, {short(table[factor].iloc[0])}: nothing is to be compared.")
    compared = [table for table in tables if len(table) and (table["verdict"] != REFERENCE).any()]
    return _listed([*said, *statements(*compared)])


def by_prompt(runs: pd.DataFrame, factor: str, metrics: Sequence[str] | None = None) -> str:
    """Return as a Markdown list whether what a factor does differs by prompt, or why that can't be told."""
    said: list[str] = []
    untold: dict[str, list[str]] = {}
    for name in metrics if metrics is not None else main_metrics(runs):
        try:
            said.append(str(interaction(runs, factor, name)))
        except ValueError as error:
            untold.setdefault(str(error), []).append(name)
    for why, names in untold.items():
        said.append(
            f"Whether what {factor} does to {', '.join(names)} differs by prompt can't be told: {why}."
        )
    return _listed(said or [NOTHING_MEASURED])


def side_by_side(
    runs: pd.DataFrame, factor: str, line: str | None = None, tracking_uri: str | None = None
) -> str:
    """Return in HTML small copies of the videos of one prompt, by level, that play together.

    `line` is one of `lines`, the first unless given. At most ten are embedded.
    """
    shown, line = of_line(runs, factor, line)
    if shown.empty:
        return f"<p>There is nothing to see: none of {len(runs)} runs finished.</p>"
    left = len(shown) - MOST_VIDEOS
    players = [_player(run, factor, tracking_uri) for run in shown.head(MOST_VIDEOS).to_dict("records")]
    more = f"<p>{left} more are not shown here; they are with their runs in MLflow.</p>" if left > 0 else ""
    together = "this.parentNode.querySelectorAll('video').forEach(v => { v.currentTime = 0; v.play() })"
    return (
        f"<div><p><b>{escape(line)}</b></p>"
        f'<button onclick="{together}">Play all from the start</button>'
        f'<div style="display:flex;flex-wrap:wrap;gap:8px;margin-top:8px">{"".join(players)}</div>{more}</div>'
    )


def time_and_money(runs: pd.DataFrame) -> str:
    """Return in Markdown what the runs took: how long each, how long all, and what they cost."""
    took = together(runs).dropna()
    said = []
    if len(took):
        queued = runs.loc[took.index, "queue_s"].sum() / took.sum() if "queue_s" in runs else 0.0
        said.append(
            f"From its submission on a run took {_time(took.median())} in the median and {_time(took.max())} at most; "
            f"{queued:.0%} of all that was fal's queue."
        )
        some, one_by_one = under_way(runs)
        said.append(
            f"One after another they would have taken {_time(one_by_one)}; together they took {_time(some)}."
        )
    else:
        said.append("How long they took is not known.")
    usd, perhaps = (runs[n].sum() if n in runs else 0.0 for n in ("cost_usd", "may_have_cost_usd"))
    finished = runs[runs["status"] == "FINISHED"]
    each = f", {usd / len(finished):.2f} a finished video" if len(finished) else ""
    if emulated(runs):
        said.append(f"On fal they would have cost {usd:.2f} USD{each}; the emulator charged nothing.")
    else:
        said.append(f"They cost {usd:.2f} USD{each}.")
    if perhaps:
        said.append(f"Attempts that failed may have cost {perhaps:.2f} USD more.")
    return " ".join(said)


def budgets(
    runs: pd.DataFrame, factor: str, usd: Sequence[float], metrics: Sequence[str] | None = None
) -> list[pd.DataFrame]:
    """Return a table of `detectable_for` for each metric of which the runs are enough of a pilot."""
    tables, _ = _each(runs, metrics, lambda name: detectable_for(runs, factor, name, usd))
    return tables


def shown_for(runs: pd.DataFrame, factor: str, usd: float, metrics: Sequence[str] | None = None) -> str:
    """Return as a Markdown list how small an effect on each metric so much money would show, or why that can't be told."""
    tables, untold = _each(runs, metrics, lambda name: detectable_for(runs, factor, name, [usd]))
    return _listed([*(_shown(table, usd) for table in tables), *untold])


def needed_for(runs: pd.DataFrame, factor: str, percent: float, metrics: Sequence[str] | None = None) -> str:
    """Return as a Markdown list what it takes to see a difference of so many percent of each metric, or why not.

    For a metric on the raw scale it is so many percent of the mean of all runs.
    """

    def design(name: str) -> pd.DataFrame:
        is_log = pilot_of(runs, factor, name).is_log
        effect = percent if is_log else percent / 100 * abs(runs[name].mean())
        return design_for(runs, factor, name, effect).assign(metric=name)

    tables, untold = _each(runs, metrics, design)
    return _listed([*(_needed(table, percent) for table in tables), *untold])


def _each(
    runs: pd.DataFrame, metrics: Sequence[str] | None, table_of: Callable[[str], pd.DataFrame]
) -> tuple[list[pd.DataFrame], list[str]]:
    """Return a table for each metric that has one, and in sentences why others have none."""
    tables: list[pd.DataFrame] = []
    why: dict[str, list[str]] = {}
    names = list(metrics if metrics is not None else main_metrics(runs))
    for name in names:
        try:
            tables.append(table_of(name))
        except ValueError as error:
            why.setdefault(str(error), []).append(name)
    untold = [f"No answer on {', '.join(some)}: {reason}." for reason, some in why.items()]
    return tables, untold if names else [NOTHING_MEASURED]


def _shown(table: pd.DataFrame, usd: float) -> str:
    if table.empty:
        return f"{usd:.2f} USD are too few for any test of one of the metrics."
    best = table.sort_values("smallest_most").iloc[0]
    is_log = best["scale"] == "log"
    unit = "" if is_log else unit_word(best["metric"])
    return (
        f"{best['metric']}: an effect of {number(best['smallest'], is_log)} to "
        f"{number(best['smallest_most'], is_log)}{unit} or more, by {counted(best['videos'], 'video')}: "
        f"{counted(best['prompts'], 'prompt')}, {best['repeats']} of each at each level{_of(best)}."
    )


def _needed(table: pd.DataFrame, percent: float) -> str:
    best = table.sort_values("videos_most").iloc[0]
    ranges = [
        _between(best[name], best[f"{name}_most"], word)
        for name, word in (("prompts", "prompt"), ("repeats", "repeat"), ("videos", "video"))
    ]
    low, high = (f"{best[name]:.2f}" for name in ("usd", "usd_most"))
    usd = "" if low == "nan" else f", {low} USD" if low == high else f", {low} to {high} USD"
    return f"{best['metric']}, {percent:g} %: {ranges[0]} with {ranges[1]} at each level, {ranges[2]} in all{usd}{_of(best)}."


def _between(low: int, high: int, word: str) -> str:
    return counted(low, word) if low == high else f"{low} to {high} {word}s"


def _of(row: pd.Series) -> str:
    return " (of prompts in general)" if row["scope"] == GENERAL else " (of these prompts alone)"


def _design(runs: pd.DataFrame, finished: pd.DataFrame, factors: Sequence[str]) -> str:
    """Say what was varied, and how often each combination finished."""
    varied = list(dict.fromkeys([*factors, *swept(runs)]))
    parts = [
        f"{counted(len(levels_of(runs, name)), 'level')} of `{name}`" for name in varied if name != "prompt"
    ]
    parts.append(counted(runs["prompt"].nunique(), "prompt"))
    cell = ["prompt", *(name for name in varied if name != "prompt")]
    planned = runs.groupby(cell).size().index
    n = finished.groupby(cell).size().reindex(planned, fill_value=0)
    each = counted(n.min(), "video") if n.nunique() == 1 else f"{n.min()} to {n.max()} videos"
    said = [f"{' × '.join(parts)}, {each} in each combination."]
    said += [f"`{name}` has one level: nothing is compared." for name in factors if runs[name].nunique() < 2]
    if n.max() < 2:
        said.append(
            "With one video each, what a setting does and what differs anyway from one generation to the next"
            " can't be told apart within a prompt; `sample=0,1` makes repeats."
        )
    return " ".join(said)


def _player(run: Mapping[Hashable, Any], factor: str, tracking_uri: str | None) -> str:
    source = b64encode(preview(video_path(run["run_id"], tracking_uri))).decode()
    sample = f", sample {run['sample']}" if "sample" in run else ""
    return (
        '<figure style="margin:0;flex:1 1 300px;max-width:420px">'
        f'<video style="width:100%" muted loop autoplay playsinline controls src="data:video/mp4;base64,{source}"></video>'
        f"<figcaption>{escape(factor)} = {escape(short(run[factor], 80))}{sample}</figcaption></figure>"
    )


def _listed(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {text}" for text in sentences)


def _time(seconds: float) -> str:
    """Return a time in the unit that a person would say it in."""
    if seconds < 100:
        return f"{number(seconds)} s"
    return f"{number(seconds / 60)} min" if seconds < 6000 else f"{number(seconds / 3600)} h"
