"""The votes of people on the videos of a sweep, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kling_sweeps.analysis.pairing import Pairing, paired
from kling_sweeps.analysis.runs import runs_df
from kling_sweeps.store.votes import Answer, Vote, votes_of
from kling_sweeps.tracking.tracker import sweep_name

COLUMNS = (
    *("prompt", "rater", "left", "right", "outcome", "bad"),
    *("question", "at", "left_key", "right_key"),
)


def votes_df(
    sweep: str,
    question: str | None = None,
    tracking_uri: str | None = None,
    store: str | Path = "store",
    factor: str | None = None,
) -> pd.DataFrame:
    """Return the votes on the videos of a sweep, a row each, in the order they were given.

    What was undone is left out, and of the votes of a rater on two videos only the last counts. Columns:
    `prompt`, `rater`, `left` and `right` (the levels of the factor, as `runs_df` has them), `outcome` (1 where the
    left video was preferred, 0 where the right one was, 0.5 for a tie), `bad` (True where the rater found
    neither any good, which is a tie too), `question`, `at` (UTC), and `left_key`, `right_key`, the keys of the
    requests. `.attrs["factor"]` is the setting in which the videos differ, None where nobody has voted, and
    `.attrs["unknown"]` counts votes on videos that are no longer runs of the sweep, which are left out.

    `question` chooses one of several studies, `factor` one of several settings; `store` is the folder of
    `store.dir`. Raises LookupError where there is no such sweep or its votes are on several settings and none was
    chosen, and StoreError where a file of votes can't be trusted.
    """
    runs = runs_df(sweep, tracking_uri)
    votes = votes_of(Path(store, str(runs["provider"].iloc[0])), sweep_name(sweep)) if len(runs) else []
    votes = [
        vote
        for vote in votes
        if question in (None, vote.study.question) and factor in (None, vote.study.factor)
    ]
    factors = sorted({vote.study.factor for vote in votes})
    if len(factors) > 1:
        raise LookupError(f"people voted on several settings of {sweep}: say factor={' or '.join(factors)}")
    return table_of(runs, votes, factors[0] if factors else factor)


def table_of(runs: pd.DataFrame, votes: Sequence[Vote], chosen: str | None) -> pd.DataFrame:
    """Return votes on videos that differ in one factor as `votes_df` does, with the levels of a table of `runs_df`."""
    videos = videos_by_key(runs, paired(runs, chosen)) if chosen else {}
    known = [vote for vote in votes if vote.pair <= videos.keys()]
    table = pd.DataFrame([_row(vote, videos) for vote in known], columns=[*COLUMNS])
    table = table.astype({"outcome": float, "bad": bool}).assign(at=pd.to_datetime(table["at"], utc=True))
    table.attrs.update(factor=chosen, unknown=len(votes) - len(known))
    return table


def by_side(votes: pd.DataFrame, left: str, right: str, name: str) -> pd.DataFrame:
    """Return a row for each side of each vote: with what was on it as `name`, and what it `won`, half of a tie."""
    sides = ((left, votes["outcome"]), (right, 1 - votes["outcome"]))
    return pd.concat([votes.assign(**{name: votes[side], "won": won}) for side, won in sides])


def videos_by_key(runs: pd.DataFrame, pairing: Pairing) -> dict[str, tuple[str, Any]]:
    """Return the prompt and the level of each run that has the factor of a pairing, by its request's key."""
    keys = runs.loc[runs[pairing.factor].notna(), "request_key"]
    prompts = pairing.prompts.argmax(axis=0)[pairing.block]
    return {
        key: (pairing.prompt_names[prompt], pairing.levels[level])
        for key, prompt, level in zip(keys, prompts, pairing.level, strict=True)
    }


def _row(vote: Vote, videos: dict[str, tuple[str, Any]]) -> tuple[Any, ...]:
    (prompt, left), (_, right) = videos[vote.left], videos[vote.right]
    is_bad = vote.answer is Answer.BAD
    told = (vote.study.question, vote.at, vote.left, vote.right)
    return (prompt, vote.rater, left, right, vote.answer.outcome, is_bad, *told)
