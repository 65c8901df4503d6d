"""The runs, frames and videos of an experiment, as MLflow has them."""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pandas as pd

from kling_sweeps.analysis.pairing import listed
from kling_sweeps.experiment.naming import COUNT, JUDGED, REPORTS, UNREADABLE, is_grade
from kling_sweeps.experiment.reader import close
from kling_sweeps.experiment.settings import NULL
from kling_sweeps.experiment.tracking_uri import Address, default_uri
from kling_sweeps.tracking import tracked
from kling_sweeps.tracking.judged import VERSIONS
from kling_sweeps.tracking.tracker import every, experiment_name, mlflow_client, sweep_name

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

# These may look like numbers and are names all the same.
NAMES = {"prompt", "prompt_text", "negative_prompt", "model", "endpoint"}
FOUND = (
    *("run_id", "run_name", "status", "error", "error_type", "provider", "request_key", "artifact_uri"),
    *("start_time", "expect", "expect_failed", "measurement_errors", "may_have_cost_usd", "camera_word"),
    *("picture_hashes", "judge_unreadable"),
)
# Columns whose tag has another name: a factor of a template may be called so.
TAGS = {"camera_word": "camera"}
# What an experiment's tags say of its metrics, in JSON, and what is so where there is no such tag.
ABOUT = {"goal": "{}", "ratios": "[]", "declared": "{}", "looks": "null", "search": "[]"}


class NoRunsError(LookupError):
    """There are no runs to analyse; a notebook shows the sentence alone, and stops."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def runs_df(experiment: str, tracking_uri: str | None = None) -> pd.DataFrame:
    """Return the runs of an experiment, a row each, in the order they were begun, failed ones included.

    `experiment` is the name of a sweep (`cfg`) or of an experiment (`kling_sweeps/cfg (emulator)`).
    Columns: `run_id`, `run_name`, `status`, `error`, `error_type`, `provider`, `request_key`, `artifact_uri`,
    `start_time` (milliseconds since 1970), `expect` and `expect_failed` (whether the run kept its gates, and which
    not), `measurement_errors`, `camera_word` (what the camera does), `picture_hashes` (what tells the video from
    others, for `repeats_df`), `judge_unreadable` (answers of a judge without a grade), `may_have_cost_usd` (of attempts
    that may have been charged besides `cost_usd`), every param by its name, as numbers where all its values are, and
    every metric by its name, NaN where a run has none; of a judge's question (`judge/NAME`, and of how many
    answers that is the mean, `judge/NAME/n`) those of its last version. A param whose name is taken is called `params.NAME`.
    `.attrs["sweep"]` is what the runs are kept under, `.attrs["params"]` and `.attrs["metrics"]` list the columns of each kind; `.attrs["goal"]` says of the metrics
    that the sweep is about which way is better, `.attrs["ratios"]` which of its own are compared by their
    ratio, `.attrs["declared"]` the unit and the direction of each of its own, `.attrs["looks"]` by which plan its
    runs were repeated, if by any, and `.attrs["search"]` what a search has found. Raises NoRunsError, a LookupError, where
    there is no such experiment, or more than one.
    """
    uri = _uri(tracking_uri)
    # Which is quick, where MLflow's import takes seconds.
    there = None if "mlflow" in sys.modules else tracked.names(uri)
    if there is not None and there.isdisjoint(_meant(experiment)):
        raise _absent(experiment, there)
    client = mlflow_client(uri)
    experiment_id = _experiment_id(client, experiment)
    found = _runs(client, experiment_id)
    kept = client.get_experiment(experiment_id)
    about = kept.tags
    _leave_out(found, json.loads(about.get(VERSIONS, "{}")))
    logged = {name for run in found for name in run.data.metrics}
    metrics = sorted(name for name in logged if not name.startswith(("frame/", "setting/")))
    rows = [_row(run, {*FOUND, *metrics}) for run in found]
    params = sorted({name for row in rows for name in row} - {*FOUND, *logged})
    table = pd.DataFrame(rows, columns=[*FOUND, *params, *metrics])
    table = with_numbers(table, params)
    table["may_have_cost_usd"] = table["may_have_cost_usd"].astype(float).fillna(0.0)
    table.attrs.update(params=params, metrics=metrics, sweep=sweep_name(kept.name))
    table.attrs.update({key: json.loads(about.get(key, empty)) for key, empty in ABOUT.items()})
    table.attrs["declared"] |= {name: ["", "higher"] for name in metrics if is_grade(name)}
    return table


def frames_df(runs: pd.DataFrame, tracking_uri: str | None = None) -> pd.DataFrame:
    """Return the frames of all finished runs of `runs_df`, a row a frame.

    Columns: `run_id` and the params of its run, `frame` from 0, `time_s` in seconds, and a series for
    each metric that is measured by frame, NaN where there is no value.
    """
    client = mlflow_client(_uri(tracking_uri))
    tables = []
    for row in runs[runs["status"] == "FINISHED"].to_dict("records"):
        with tempfile.TemporaryDirectory() as folder:
            series = pd.read_parquet(client.download_artifacts(row["run_id"], "frames.parquet", folder))
        labels = {_free(name, series.columns): row[name] for name in ("run_id", *listed(runs, "params"))}
        tables.append(series.assign(**labels)[[*labels, *series]])
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def video_path(run_id: str, tracking_uri: str | None = None) -> Path:
    """Return the path of a run's video; raise LookupError for a run that has none."""
    return artifact_path(run_id, "video.mp4", tracking_uri)


def artifact_path(run_id: str, artifact: str, tracking_uri: str | None = None) -> Path:
    """Return the path of a run's artifact, or of a temporary copy of what is not on this machine."""
    client = mlflow_client(_uri(tracking_uri))
    root = urlsplit(client.get_run(run_id).info.artifact_uri)
    if root.scheme in ("", "file"):
        local = Path(unquote(root.path) if root.scheme else root.geturl(), artifact)
        if not local.exists():
            raise LookupError(f"run {run_id} has no {artifact}: {local} is not there")
        return local
    return Path(client.download_artifacts(run_id, artifact))


def _uri(tracking_uri: str | None) -> str:
    uri = tracking_uri or default_uri()
    address = Address(uri)
    if address.is_new and address.file:
        raise NoRunsError(f"there is no {address.file.absolute()}: run a sweep, or set MLFLOW_TRACKING_URI")
    return uri


def _experiment_id(client: MlflowClient, experiment: str) -> str:
    known = filter(None, map(client.get_experiment_by_name, _meant(experiment)))
    found: dict[str, str] = {one.name: one.experiment_id for one in known if one.lifecycle_stage == "active"}
    if experiment in found:
        return found[experiment]
    if len(found) > 1:
        names = " or ".join(map(repr, found))
        raise NoRunsError(f"{experiment!r} was both generated and emulated: say {names}")
    if not found:
        raise _absent(experiment, {one.name for one in every(client.search_experiments)})
    return next(iter(found.values()))


def _meant(experiment: str) -> list[str]:
    """Return the experiments that a name may stand for."""
    return [experiment, *(experiment_name(experiment, provider) for provider in ("fal", "emulator"))]


def _absent(experiment: str, names: Iterable[str]) -> NoRunsError:
    """Return what to say of an experiment that is not among the names of those that are there."""
    there = {sweep_name(name) for name in names if name.startswith("kling_sweeps/")} - {REPORTS}
    hint = close(sweep_name(experiment), there) if there else "; none has been run"
    return NoRunsError(f"there is no experiment {sweep_name(experiment)!r}{hint}")


def _runs(client: MlflowClient, experiment_id: str) -> list[Run]:
    """Return the videos' runs as they were begun, one a request: the last where a replaced one still stands."""
    begun = every(partial(client.search_runs, [experiment_id], order_by=["start_time ASC"]))
    found = [run for run in begun if "kind" not in run.data.tags]
    written = sorted(found, key=lambda run: ("content" in run.data.tags, run.info.end_time or 0))
    last = {run.data.tags.get("request_key", run.info.run_id): run.info.run_id for run in written}
    kept = set(last.values())
    return [run for run in found if run.info.run_id in kept]


def _leave_out(runs: Iterable[Run], versions: Mapping[str, str]) -> None:
    """Leave out the grades of all versions of a judge's question but the one that counts, and those that are none."""
    for run in runs:
        for name in [name for name in run.data.metrics if name.startswith(JUDGED)]:
            told_by = name if is_grade(name) else name.removesuffix(COUNT)
            is_told = run.data.tags.get(told_by) == versions.get(told_by)
            if not is_told or math.isnan(run.data.metrics[name]):
                del run.data.metrics[name]


def _row(run: Run, taken: set[str]) -> dict[str, Any]:
    tags = run.data.tags
    found = {name: getattr(run.info, name, None) or tags.get(TAGS.get(name, name)) for name in FOUND}
    params = {_free(name, taken): _given(name, value) for name, value in run.data.params.items()}
    why = dict.fromkeys(text for tag, text in sorted(tags.items()) if tag.startswith(UNREADABLE))
    return {**found, "judge_unreadable": "; ".join(why) or None, **params, **run.data.metrics}


def _given(name: str, value: str) -> str | float:
    """Return a param, NaN of an argument that the run's model does not take."""
    return math.nan if value == NULL and name not in ("prompt", "prompt_text") else value


def _free(name: str, taken: Iterable[str]) -> str:
    return f"params.{name}" if name in taken else name


def with_numbers(table: pd.DataFrame, params: Iterable[str]) -> pd.DataFrame:
    """Return a table whose params are numbers where all their values are."""
    return table.assign(**{name: _numbers(table[name]) for name in params if name not in NAMES})


def _numbers(column: pd.Series) -> pd.Series:
    """Return a column as numbers, or as it is where some of it are not."""
    try:
        return pd.to_numeric(column)
    except ValueError:
        return column
