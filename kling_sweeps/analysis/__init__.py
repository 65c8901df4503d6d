"""Runs in MLflow as data frames, and what can be concluded from them, for a notebook or a script.

    from kling_sweeps.analysis import effects, frames_df, runs_df, statement

    runs = runs_df("cfg")                                    # a row a run, of conf/sweep/cfg.yaml
    frames = frames_df(runs)                                 # a row a frame
    table = effects(runs, "cfg_scale", ["motion"])           # a row a metric and level
    print(*map(statement, table.to_dict("records")), sep="\n")

They read from `tracking_uri`, which is MLFLOW_TRACKING_URI, or else `sqlite:///mlflow.db`, unless given.
`kling_sweeps.analysis.plots` draws them.
"""

from kling_sweeps.analysis.agreement import agreement
from kling_sweeps.analysis.cameras import cameras
from kling_sweeps.analysis.cells import Cells, cells, overall
from kling_sweeps.analysis.conclusions import conclusions, factors
from kling_sweeps.analysis.design import design_for, detectable_for
from kling_sweeps.analysis.documents import (
    answer,
    budgets,
    by_prompt,
    listing,
    needed_for,
    shown_for,
    side_by_side,
    summary,
    time_and_money,
)
from kling_sweeps.analysis.effects import effects
from kling_sweeps.analysis.expenses import money, times
from kling_sweeps.analysis.interactions import Interaction, interaction
from kling_sweeps.analysis.looks import Looked, Looks, looked
from kling_sweeps.analysis.preferences import preference_statements, preferences
from kling_sweeps.analysis.repeats import repeats_df
from kling_sweeps.analysis.runs import NoRunsError, artifact_path, frames_df, runs_df, video_path
from kling_sweeps.analysis.statements import statement, statements
from kling_sweeps.analysis.subjects import main_metrics, swept
from kling_sweeps.analysis.votes import votes_df
from kling_sweeps.video.preview import preview

__all__ = [
    "Cells",
    "Interaction",
    "Looked",
    "Looks",
    "NoRunsError",
    "agreement",
    "answer",
    "artifact_path",
    "budgets",
    "by_prompt",
    "cameras",
    "cells",
    "conclusions",
    "design_for",
    "detectable_for",
    "effects",
    "factors",
    "frames_df",
    "interaction",
    "listing",
    "looked",
    "main_metrics",
    "money",
    "needed_for",
    "overall",
    "preference_statements",
    "preferences",
    "preview",
    "repeats_df",
    "runs_df",
    "shown_for",
    "side_by_side",
    "statement",
    "statements",
    "summary",
    "swept",
    "time_and_money",
    "times",
    "video_path",
    "votes_df",
]
