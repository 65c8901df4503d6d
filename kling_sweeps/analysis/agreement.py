"""Which numbers go with what people prefer, by prompt, so that nobody tunes to one that people don't see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from kling_sweeps.analysis.comparison import corrected, holm
from kling_sweeps.analysis.pairing import check_metrics, listed
from kling_sweeps.analysis.votes import by_side
from kling_sweeps.experiment.naming import is_of_video

# Fewer prompts, or fewer videos, leave an interval that tells next to nothing.
ENOUGH_PROMPTS, ENOUGH_VIDEOS = 20, 120
AGREES, OPPOSED, UNCLEAR = "agrees", "opposed", "can't be told"
COLUMNS = ("metric", "agreement", "low", "high", "prompts", "videos", "p", "p_adjusted", "verdict")


def agreement(
    runs: pd.DataFrame,
    votes: pd.DataFrame,
    metrics: Sequence[str] | None = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return how well each metric ranks the videos of a prompt as people do, a row a metric, best first.

    `runs` is a table of `runs_df`, `votes` one of `votes_df`; a video is known by its request's key in `left_key` and
    `right_key`, or, where votes have none, by its prompt and its level of the factor `votes.attrs["factor"]`, of which the runs are then
    averaged. People's rank of a video is that of its share of wins (a tie counts as a half). `agreement` is Spearman's
    coefficient within prompts, from -1 to 1: ranks are centred by prompt, so that prompts that are liked, or that move, more
    than others make none. Its interval from `low` to `high` is by the jackknife over prompts (Tukey 1958) of Fisher's z, with Student's t.
    `p` is of no agreement, and `p_adjusted` by Holm among `metrics`, or by Benjamini and Hochberg among all where none are named.
    `videos` and `prompts` say of how many it is, and `verdict` is `agrees`, `opposed` (people prefer less of it) or, where
    that is not seen or is of fewer than 20 prompts or 120 videos, `can't be told`.
    Raises LookupError for votes that are of none of the runs, or for a metric that these don't have.
    """
    named = [name for name in listed(runs, "metrics") if is_of_video(name)]
    names = named if metrics is None else list(metrics)
    check_metrics(runs, names)
    watched = _watched(runs, votes, names)
    found = pd.DataFrame([_of_metric(watched, name, confidence) for name in names])
    correct = stats.false_discovery_control if metrics is None else holm
    adjusted = corrected(found["p"].to_numpy(dtype=float), correct)
    is_enough = (found["prompts"] >= ENOUGH_PROMPTS) & (found["videos"] >= ENOUGH_VIDEOS)
    way = np.where(found["agreement"] > 0, AGREES, OPPOSED)
    is_told = is_enough & (adjusted <= 1 - confidence)
    table = found.assign(p_adjusted=adjusted, verdict=np.where(is_told, way, UNCLEAR))[list(COLUMNS)]
    order = table["agreement"].abs().sort_values(ascending=False, na_position="last", kind="stable").index
    return table.loc[order].reset_index(drop=True)


def _watched(runs: pd.DataFrame, votes: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return a row a video that was voted on: its prompt, its share of `wins`, and its metrics."""
    finished = runs[runs["status"] == "FINISHED"]
    if {"left_key", "right_key"} <= {*votes}:
        sides, by = ("left_key", "right_key"), ["request_key"]
    else:
        factor = str(votes.attrs.get("factor"))
        if factor not in runs:
            raise LookupError(
                'the votes have neither left_key and right_key nor .attrs["factor"]: take them from votes_df'
            )
        sides, by = ("left", "right"), ["prompt", factor]
    wins = by_side(votes, *sides, by[-1]).groupby(by, sort=False)["won"].mean().rename("wins").reset_index()
    keys = list(dict.fromkeys(["prompt", *by]))
    values = finished[[*keys, *names]].groupby(keys, sort=False).mean()
    found = values.reset_index().merge(wins, on=by)
    if found.empty:
        raise LookupError("none of the votes is of these runs")
    return found


def _of_metric(watched: pd.DataFrame, name: str, confidence: float) -> dict[str, object]:
    rows = watched[watched[name].notna()]
    rows = rows[rows.groupby("prompt")["wins"].transform("size") > 1]
    ranks = rows.groupby("prompt")[[name, "wins"]].rank()
    centred = ranks - ranks.groupby(rows["prompt"]).transform("mean")
    own, people = centred[name].to_numpy(), centred["wins"].to_numpy()
    prompt, prompts = pd.factorize(rows["prompt"])
    products = (own * people, own**2, people**2)
    sums = np.array([np.bincount(prompt, product, len(prompts)) for product in products])
    whole, number = sums.sum(axis=1, keepdims=True), len(prompts)
    with np.errstate(invalid="ignore", divide="ignore"):
        middle, left_out = (np.arctanh(_coefficient(some)) for some in (whole, whole - sums))
        error = (
            np.sqrt((number - 1) / number * ((left_out - left_out.mean()) ** 2).sum())
            if number > 1
            else np.nan
        )
    error = error if error > 0 else np.nan  # where all prompts are the same nothing is known of others
    low, high = np.tanh(middle[0] + np.array([-1, 1]) * error * stats.t.isf((1 - confidence) / 2, number - 1))
    return {
        "metric": name,
        "agreement": float(np.tanh(middle[0])),
        "low": float(low),
        "high": float(high),
        "prompts": number,
        "videos": len(rows),
        "p": float(2 * stats.t.sf(abs(middle[0]) / error, number - 1)),
    }


def _coefficient(sums: np.ndarray) -> np.ndarray:
    """Return the correlation by the sums of products and squares, NaN where one of the two never varies."""
    found: np.ndarray = sums[0] / np.sqrt(sums[1] * sums[2])
    return found
