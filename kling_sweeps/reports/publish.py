"""Where a report is kept: a file on disk, and an artifact of a run of its own in MLflow, always the same one."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import yaml

from kling_sweeps.experiment.naming import NAMELESS, REPORTS
from kling_sweeps.reports.contents import Contents, read_contents
from kling_sweeps.store.journal import written_whole
from kling_sweeps.tracking.note import REPORT
from kling_sweeps.tracking.run_data import DESCRIPTION
from kling_sweeps.tracking.tracker import Tracker, report_runs
from kling_sweeps.untrusted import mask

# The artifact beside it: what the sweep was composed of.
CONFIG = "config.yaml"


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
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as part:
        part.write_text(render(contents, config), encoding="utf-8")
    _log(tracker, contents, path, config)
    return contents


def name_in_note(contents: Contents, tracking_uri: str) -> None:
    """Add the report to the note of the sweep's experiment, unless it is there or a person has changed the note."""
    tracker = Tracker(tracking_uri, contents.sweep, contents.provider)
    there = tracker.client.get_experiment_by_name(tracker.experiment)
    if there is None or f"/{REPORT})" in there.tags.get(DESCRIPTION, ""):
        return
    present_anew(tracker)


def present_anew(tracker: Tracker) -> None:
    """Bring the note and the views of an experiment up to date with its runs as they are now."""
    from kling_sweeps.analysis import conclusions, runs_df

    runs = runs_df(tracker.experiment, tracker.uri)
    tracker.goals = list(runs.attrs["goal"])
    tracker.found = conclusions(runs) if tracker.sweep != NAMELESS else ()
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


def _config_before(tracker: Tracker, sweep: str) -> str:
    for run_id in report_runs(tracker.client, tracker.experiment_id, sweep):
        if any(one.path == CONFIG for one in tracker.client.list_artifacts(run_id)):
            with tempfile.TemporaryDirectory() as folder:
                copy = tracker.client.download_artifacts(run_id, CONFIG, folder)
                return Path(copy).read_text(encoding="utf-8")
    return ""


def _log(tracker: Tracker, contents: Contents, path: Path, config: str) -> None:
    """Put the report into the sweep's report run, made unless it is there."""
    client = tracker.client
    run_id, *others = report_runs(client, tracker.experiment_id, contents.sweep) or [""]
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
