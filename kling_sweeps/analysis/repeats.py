"""How much the samples of a cell differ: what the same request gives when it is made again."""

from __future__ import annotations

from collections.abc import Iterator
from math import nan

import pandas as pd

from kling_sweeps import CONF
from kling_sweeps.analysis.pairing import listed
from kling_sweeps.video.picture_hash import mean_distances

REPEAT_DISTANCE = "repeat_distance"
MEANING = "how far a video is from its repeats; 0 the same, 0.5 nothing in common"


def repeats_df(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the cells of `runs_df`, a row each: its params but `sample`, `repeats` and `repeat_distance`.

    That is the mean, over all pairs of the cell's finished videos, of the share of bits in which the hashes of their pictures
    differ: 0 where the same request gives the same video, 0.4 to 0.6 where its videos have nothing in common. NaN for a cell of one. The
    table is like that of the runs: `effects` and `cells` take it.
    """
    params = _held(runs)
    rows = []
    for cell in _cells(runs, params):
        hashes = _hashes(cell)
        apart = mean_distances([*hashes]).mean() if len(hashes) else nan
        rows.append([*cell.iloc[0][params], "FINISHED", len(hashes), apart])
    table = pd.DataFrame(rows, columns=[*params, "status", "repeats", REPEAT_DISTANCE])
    table.attrs = {**runs.attrs, "params": params, "metrics": [REPEAT_DISTANCE]}
    return table


def distances(runs: pd.DataFrame) -> pd.Series:
    """Return for each run of `runs_df` its mean distance from the other videos of its cell, NaN without any."""
    found: dict[object, float] = {}
    for cell in _cells(runs, _held(runs)):
        hashes = _hashes(cell)
        found |= dict(zip(hashes.index, mean_distances([*hashes]), strict=True))
    return pd.Series(found, dtype=float).reindex(runs.index)


def has_repeats(runs: pd.DataFrame) -> bool:
    """Tell whether any cell has two videos that can be compared."""
    return any(len(_hashes(cell)) > 1 for cell in _cells(runs, _held(runs)))


def further(runs: pd.DataFrame) -> str:
    """Say how runs that are not repeated are given a repeat each, and what that costs; "" where all are, and failed."""
    if "sample" not in runs:
        return ""
    runs = runs[runs.groupby(_held(runs), dropna=False)["sample"].transform("nunique") < 2]
    number = len(runs)
    if not number:
        return ""
    first = int(runs["sample"].min())
    sweep = str(runs.attrs.get("sweep"))
    is_here = (CONF / "sweep" / f"{sweep}.yaml").is_file()
    samples = f"sample={first},{first + 1}"
    cost = runs["cost_usd"].mean() * number if "cost_usd" in runs else nan
    is_emulated = "provider" in runs and bool((runs["provider"] == "emulator").all())
    price = f", for {cost:.2f} USD{' on fal, here for nothing' * is_emulated}" if cost == cost else ""
    # The runs may be a part of the sweep, or have other settings than its file: that of the whole is only to be looked at.
    whole = (
        f"python -m kling_sweeps +sweep={sweep} {samples}{' provider=emulator' * is_emulated} dry_run=true"
    )
    return (
        f"Repeats tell a difference from chance: the same command with {samples} makes {number} "
        f"video{'s' * (number > 1)} more{price}.{f' Of the whole sweep: {whole}' * is_here}"
    )


def _held(runs: pd.DataFrame) -> list[str]:
    return [name for name in listed(runs, "params") if name != "sample"]


def _cells(runs: pd.DataFrame, params: list[str]) -> Iterator[pd.DataFrame]:
    """Yield the runs of each cell; none of a table whose videos nobody has hashed."""
    if "picture_hashes" in runs:
        yield from (cell for _, cell in runs.groupby(params, dropna=False, sort=False)) if params else [runs]


def _hashes(cell: pd.DataFrame) -> pd.Series:
    return cell.loc[cell["status"] == "FINISHED", "picture_hashes"].dropna()
