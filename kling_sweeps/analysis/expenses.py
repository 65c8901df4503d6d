"""What the runs of a sweep took: seconds of each part, and money by day."""

from __future__ import annotations

import numpy as np
import pandas as pd

# The parts of a run in their order.
PARTS = {
    "queue_s": "in the queue",
    "inference_s": "generated",
    "download_s": "downloaded",
    "measure_s": "measured",
}


def times(runs: pd.DataFrame, by: str | None = None) -> pd.DataFrame:
    """Return how many seconds each part of a run takes: a row a part, and one for them together.

    Columns: `n` runs that have it, `median`, `p10` and `p90` (of nine runs in ten it is less), `longest`, and
    their `total`. With `by`, a setting such as `duration`, there are such rows for each of its levels.
    """
    known = [name for name in PARTS if name in runs]
    groups = [(None, runs)] if by is None else list(runs.groupby(by))
    rows = [
        {**({} if by is None else {by: level}), **_of_part(PARTS.get(name, "together"), own)}
        for level, some in groups
        for name in (*known, "")
        if len(own := (some[name] if name else together(some)).dropna())
    ]
    columns = [*([] if by is None else [by]), "part", "n", "median", "p10", "p90", "longest", "total"]
    return pd.DataFrame(rows, columns=columns)


def together(runs: pd.DataFrame) -> pd.Series:
    """Return the seconds that each run took from its submission on, NaN for one of which nothing is known."""
    return runs[[name for name in PARTS if name in runs]].sum(axis=1, min_count=1)


def under_way(runs: pd.DataFrame) -> tuple[float, float]:
    """Return for how many seconds any run was under way, and how many they took one by one, both summed up."""
    known = runs.assign(took=together(runs)).dropna(subset=["took", "start_time"])
    begun = known["start_time"].to_numpy(dtype=float) / 1000
    order = np.argsort(begun)
    ended = (begun + known["took"].to_numpy())[order]
    begun = begun[order]
    # What began before all earlier ones had ended adds only what is after their end.
    earlier = np.concatenate([[-np.inf], np.maximum.accumulate(ended)[:-1]]) if len(ended) else ended
    return float(np.maximum(ended - np.maximum(begun, earlier), 0).sum()), float(known["took"].sum())


def money(runs: pd.DataFrame) -> pd.DataFrame:
    """Return what the runs cost by the day of their submission (UTC), a row a day.

    Columns: `day`, `videos` that finished, `failed` runs, `usd` that was charged, `may_have_cost_usd` for
    attempts that may have been charged as well, and `in_all_usd` charged up to that day.
    """
    cost, perhaps = (
        runs.get(name, pd.Series(0.0, runs.index)).fillna(0.0) for name in ("cost_usd", "may_have_cost_usd")
    )
    rows = pd.DataFrame(
        {
            "day": pd.to_datetime(runs["start_time"], unit="ms").dt.date,
            "videos": runs["status"] == "FINISHED",
            "failed": runs["status"] != "FINISHED",
            "usd": cost,
            "may_have_cost_usd": perhaps,
        }
    )
    table = rows.groupby("day", as_index=False).sum()
    return table.assign(in_all_usd=table["usd"].cumsum())


def _of_part(name: str, seconds: pd.Series) -> dict[str, object]:
    low, middle, high = np.percentile(seconds, (10, 50, 90))
    return {
        "part": name,
        "n": len(seconds),
        "median": middle,
        "p10": low,
        "p90": high,
        "longest": seconds.max(),
        "total": seconds.sum(),
    }
