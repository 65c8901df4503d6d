"""Runs in MLflow as data frames, and what can be concluded from them, for a notebook or a script.

    from kling_sweeps.analysis import effects, frames_df, runs_df, statement

    runs = runs_df("cfg")                                    # a row a run, of conf/sweep/cfg.yaml
    frames = frames_df(runs)                                 # a row a frame
    table = effects(runs, "cfg_scale", ["motion"])           # a row a metric and level
    print(*map(statement, table.to_dict("records")), sep="\n")

They read from `tracking_uri`, which is MLFLOW_TRACKING_URI, or else `sqlite:///mlflow.db`, unless given.
"""

from kling_sweeps.analysis.cells import Cells, cells, overall
from kling_sweeps.analysis.conclusions import conclusions, factors
from kling_sweeps.analysis.design import design_for
from kling_sweeps.analysis.effects import effects
from kling_sweeps.analysis.interactions import Interaction, interaction
from kling_sweeps.analysis.looks import Looked, Looks, looked
from kling_sweeps.analysis.runs import artifact_path, frames_df, runs_df, video_path
from kling_sweeps.analysis.statements import statement, statements
from kling_sweeps.video.preview import preview

__all__ = [
    "Cells",
    "Interaction",
    "Looked",
    "Looks",
    "artifact_path",
    "cells",
    "conclusions",
    "design_for",
    "effects",
    "factors",
    "frames_df",
    "interaction",
    "looked",
    "overall",
    "preview",
    "runs_df",
    "statement",
    "statements",
    "video_path",
]
