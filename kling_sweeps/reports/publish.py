"""Where a report is kept: a file on disk, and an artifact of a run of its own in MLflow, always the same one."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import yaml

from kling_sweeps.reports.contents import Contents, read_contents
from kling_sweeps.tracking.run_data import DESCRIPTION
from kling_sweeps.tracking.tracker import REPORTS, Tracker
from kling_sweeps.untrusted import mask

# The names of a report's artifacts.
REPORT, CONFIG = "report.html", "config.yaml"
# Where Hydra writes down what a sweep was composed of.
CONFIG_DUMP = "multirun.yaml"


def make_report(
    experiment: str, store_dir: Path, tracking_uri: str, path: Path, config: str = ""
) -> Contents:
    """Write the report of a sweep to a file and to MLflow, and return what it shows.

    `config` is the sweep's configuration as YAML, that of the report before where it is empty. Raises
    LookupError where there is no such sweep, OSError where the file can't be written, and what MLflow raises.
    """
    from kling_sweeps.reports.page import render

    contents = read_contents(experiment, store_dir, tracking_uri)
    tracker = Tracker(tracking_uri, REPORTS, contents.provider)
    config = config or _config_before(tracker, contents.sweep)
    _write(path, render(contents, config))
    _log(tracker, contents, path, config)
    return contents


def name_in_note(contents: Contents, tracking_uri: str) -> None:
    """Add the report to the note of the sweep's experiment, unless it is there or a person has changed the note."""
    from kling_sweeps.analysis import conclusions, runs_df

    tracker = Tracker(tracking_uri, contents.sweep, contents.provider)
    there = tracker.client.get_experiment_by_name(tracker.experiment)
    if there is None or f"/{REPORT})" in there.tags.get(DESCRIPTION, ""):
        return
    runs = runs_df(tracker.experiment, tracking_uri)
    tracker.goals = list(runs.attrs["goal"])
    tracker.found = conclusions(runs) if contents.sweep != "single" else ()
    tracker.present(is_due=True)


def config_of(dump: Path) -> str:
    """Return a sweep's configuration from what Hydra wrote down of it, without Hydra's own; "" where it has not."""
    try:
        config = yaml.safe_load(dump.read_text(encoding="utf-8"))
        overrides = config.pop("hydra")["overrides"]["task"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError):
        return ""
    asked = "".join(f"# {override}\n" for override in overrides)
    return mask(asked + yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _runs(tracker: Tracker, sweep: str) -> list[str]:
    """Return the ids of a sweep's report runs, of which there is one unless two were made at once."""
    found = tracker.client.search_runs([tracker.experiment_id], "tags.kind = 'report'", max_results=1000)
    return [run.info.run_id for run in found if run.data.tags.get("sweep") == sweep]


def _config_before(tracker: Tracker, sweep: str) -> str:
    for run_id in _runs(tracker, sweep):
        if any(one.path == CONFIG for one in tracker.client.list_artifacts(run_id)):
            with tempfile.TemporaryDirectory() as folder:
                copy = tracker.client.download_artifacts(run_id, CONFIG, folder)
                return Path(copy).read_text(encoding="utf-8")
    return ""


def _log(tracker: Tracker, contents: Contents, path: Path, config: str) -> None:
    """Put the report into the sweep's report run, made unless it is there."""
    client, (run_id, *others) = tracker.client, _runs(tracker, contents.sweep) or [""]
    if not run_id:
        tags = {"kind": "report", "sweep": contents.sweep, "provider": contents.provider}
        run = client.create_run(tracker.experiment_id, tags=tags, run_name=contents.sweep)
        run_id = run.info.run_id
    with tempfile.TemporaryDirectory() as folder:
        named = Path(folder, REPORT)
        shutil.copyfile(path, named)
        client.log_artifact(run_id, str(named))
    if config:
        client.log_text(run_id, config, CONFIG)
    client.set_terminated(run_id)
    for other in others:
        client.delete_run(other)
