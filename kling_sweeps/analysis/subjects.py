"""What of a sweep is shown: the settings it is about, its main metrics, and which runs make one line."""

from __future__ import annotations

import pandas as pd

from kling_sweeps.analysis.conclusions import NO_FACTORS, factors
from kling_sweeps.analysis.pairing import TWINS, is_function, listed, plain
from kling_sweeps.experiment.naming import TIMES, is_grade
from kling_sweeps.metrics import declared

# Shown after the goals of a sweep, as far as they were measured.
USUAL = ("motion", "sharpness", "luma_contrast", "colorfulness", "static_flicker", "luma_mean")
MOST = 6
UNITS = {"cost_usd": "USD", **dict.fromkeys(TIMES, "s")}


def swept(runs: pd.DataFrame, *first: str) -> list[str]:
    """Return the settings that the runs vary, those of `first` before all others.

    Where they vary none, those of `first` that they have: a setting with one level.
    """
    varied = factors(runs)
    wanted = [name for name in first if name in varied]
    others = [name for name in varied if name not in wanted]
    known = listed(runs, "params")
    return [*wanted, *others] or [name for name in first if name in known] or ["prompt"]


def main_metrics(runs: pd.DataFrame, *first: str, most: int = MOST) -> list[str]:
    """Return the metrics to show, of those that any run has: `first`, the sweep's goals, what judges gave, then the usual ones."""
    finished = runs[runs["status"] == "FINISHED"]
    measured = [name for name in listed(runs, "metrics") if finished[name].notna().any()]
    judged = [name for name in measured if is_grade(name)]
    wanted = dict.fromkeys([*first, *runs.attrs.get("goal", {}), *judged, *USUAL])
    return [name for name in wanted if name in measured][:most]


def lines(runs: pd.DataFrame, factor: str) -> pd.Series:
    """Return a label for each run of what was held constant while the factor changed, such as its prompt."""
    apart = {factor, *NO_FACTORS}.union(*(twins for twins in TWINS if factor in twins))
    free = [name for name in listed(runs, "params") if name not in apart]
    told = [
        name for name in free if runs[name].nunique(dropna=False) > 1 and not is_function(runs, name, factor)
    ] or [name for name in ("prompt",) if name in free and not runs.empty]
    if not told:
        return pd.Series("all", runs.index, dtype=object)
    parts = [
        runs[n].map(lambda value, n=n: short(value) if n == "prompt" else f"{n} {short(value)}") for n in told
    ]
    return pd.concat(parts, axis=1).agg(" · ".join, axis=1)


def of_line(runs: pd.DataFrame, factor: str, line: str | None) -> tuple[pd.DataFrame, str]:
    """Return the finished runs of a line, by level and sample, and what the line is called."""
    finished = runs[(runs["status"] == "FINISHED") & runs[factor].notna()]
    label = lines(runs, factor)[finished.index]
    if line is None:
        line = min(label, default="")
    by = [name for name in (factor, "sample") if name in runs]
    return finished[label == line].sort_values(by), line


def unit_of(metric: str, runs: pd.DataFrame | None = None) -> str:
    """Return the unit of a metric, of the runs' own ones too; "" where it is a bare number."""
    own = {} if runs is None else runs.attrs.get("declared", {})
    known = declared()[metric].unit if metric in declared() else UNITS.get(metric, "")
    unit = str(own[metric][0]) if metric in own else known
    return "" if unit == "1" else unit


def short(value: object, length: int = 40) -> str:
    """Return a level on one line, cut where it is long."""
    text = plain(value)
    return text if len(text) <= length else f"{text[: length - 1]}…"


def emulated(runs: pd.DataFrame) -> str:
    """Return a word for a picture where any of the runs' videos are synthetic, else ""."""
    return "emulated" if (runs["provider"] == "emulator").any() else ""


def counted(number: int, word: str) -> str:
    """Return a number with its word: 1 prompt, 2 prompts."""
    return f"{number} {word}{'' if number == 1 else 's'}"
