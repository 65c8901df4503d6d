"""What people preferred, as metrics of the runs in MLflow."""

from __future__ import annotations

from math import nan
from pathlib import Path
from typing import TYPE_CHECKING

from kling_sweeps.experiment.naming import VOTES
from kling_sweeps.reports.publish import present_anew
from kling_sweeps.store.votes import Study
from kling_sweeps.tracking.tracker import Tracker, experiment_name

if TYPE_CHECKING:
    import pandas as pd

# The tag of a run that says what its votes answer. It is carried over to a run that replaces it, as people's are.
QUESTION = "votes_question"


def track_votes(study: Study, provider: str, store_dir: Path, tracking_uri: str) -> list[str]:
    """Write `votes/win_share` and `votes/n` of each run of a sweep to MLflow, and return what the votes say, in sentences.

    A run that has lost its last vote has no share any more. Raises what MLflow raises, and StoreError.
    """
    from kling_sweeps.analysis import preference_statements, preferences, runs_df, votes_df

    experiment = experiment_name(study.sweep, provider)
    votes = votes_df(experiment, study.question, tracking_uri, store_dir, study.factor)
    runs = runs_df(experiment, tracking_uri)
    tracker = Tracker(tracking_uri, study.sweep, provider)
    shares = win_shares(votes)
    had = runs[VOTES[1]].fillna(0) > 0 if VOTES[1] in runs else runs["run_id"].isna()
    for run_id, key, had_votes in zip(runs["run_id"], runs["request_key"], had, strict=True):
        if key in shares.index:
            tracker.add(run_id, shares.loc[key].to_dict(), {QUESTION: study.question})
        elif had_votes:
            tracker.add(run_id, dict(zip(VOTES, (nan, 0.0), strict=True)), {QUESTION: study.question})
    if len(votes) or had.any():
        present_anew(tracker)
    return preference_statements(preferences(votes, study.factor)) if len(votes) else []


def win_shares(votes: pd.DataFrame) -> pd.DataFrame:
    """Return of `votes_df`, by the key of a request, the share of its votes that it won, and how many those are."""
    from kling_sweeps.analysis.votes import by_side

    shares = by_side(votes, "left_key", "right_key", "key").groupby("key")["won"].agg(["mean", "count"])
    return shares.astype(float).set_axis(list(VOTES), axis="columns")
