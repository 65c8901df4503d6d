"""Everything that is written to MLflow: one run for each request, in one experiment for each sweep."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from filelock import FileLock

from kling_sweeps import record, standing
from kling_sweeps.errors import UnavailableError
from kling_sweeps.reachable import check_database, check_port, check_server, without_password
from kling_sweeps.run import Landed

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

TAG_LENGTH = 5000
PARAM_LENGTH = 6000
# The tags that are written here; any other is a person's, and is kept when a run is replaced.
TAGS = {
    "request_key", "request_id", "provider", "sweep", "content", "error", "error_type", "error_stage",
    "may_have_cost_usd", "measurement_errors",
}  # fmt: skip
# The runs by name, side by side, on the page that is about runs.
CHART_VIEW = (
    "compareRunsMode=CHART&workflowType=machine_learning"
    "&orderByKey=tags.%60mlflow.runName%60&orderByAsc=true"
)
UI_PORT = 5000
PATIENCE_S = 3.0


def experiment_name(sweep: str, provider: str) -> str:
    """Return the experiment of a sweep; what was emulated has one of its own."""
    return f"kling_sweeps/{sweep}" + (" (emulator)" if provider == "emulator" else "")


@dataclass
class Tracker:
    """Writes runs to one experiment, from one thread; `open` may be called early, from another."""

    uri: str
    sweep: str
    provider: str
    is_away: bool = False

    def check(self) -> None:
        """Raise UnavailableError where the tracking server or the database can't be there."""
        parts = urlsplit(self.uri)
        if parts.scheme in ("http", "https"):
            check_server(self.uri)
        elif parts.scheme == "sqlite":
            check_database(Path(self.uri.removeprefix("sqlite:///")))
        else:
            check_port(self.uri)
            self._check_by_opening()

    def _check_by_opening(self) -> None:
        try:
            self.open()
        except Exception as error:
            said = without_password(str(error).splitlines()[0], self.uri)
            raise UnavailableError(
                f"tracking.uri: MLflow can't use {without_password(self.uri)}: {said}"
            ) from None

    @cached_property
    def client(self) -> MlflowClient:
        if urlsplit(self.uri).scheme == "sqlite":
            _make_database(Path(self.uri.removeprefix("sqlite:///")))
        return mlflow_client(self.uri)

    @cached_property
    def experiment_id(self) -> str:
        name = experiment_name(self.sweep, self.provider)
        found = self.client.get_experiment_by_name(name)
        if found is None:
            return self._create_experiment(name)
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def _create_experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        try:
            return self.client.create_experiment(name)
        except MlflowException:  # another process was faster
            return self.client.get_experiment_by_name(name).experiment_id

    def open(self) -> None:
        """Connect, which makes a new database's tables, and read what is there."""
        _ = self.client, self.experiment_id, self.known

    def has(self, landed: Landed) -> bool:
        """Tell, without MLflow where that can be, whether a run stands there as it is."""
        try:
            return self.known.get(landed.cell.request.key) == record.content(landed)
        except Exception:  # which is seen where the run is tracked
            return False

    @cached_property
    def known(self) -> dict[str, str]:
        """Return what the experiment's runs were when they were written, by request key."""
        name = experiment_name(self.sweep, self.provider)
        if (found := standing.read(self.uri, name)) is not None:
            if found.experiment_id is not None:
                self.experiment_id = found.experiment_id
            return found.contents
        return {run.data.tags["request_key"]: run.data.tags.get("content", "") for run in self._search("")}

    def _search(self, filter_string: str) -> Iterator[Run]:
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id], filter_string, max_results=1000, page_token=token
            )
            yield from (run for run in page if "request_key" in run.data.tags)
            token = page.token
            if not token:
                return

    def track(self, landed: Landed) -> None:
        """Write a run, unless it stands there as it is; one that was begun or has changed is replaced."""
        if self.is_away:
            self.check()  # answers at once, where MLflow would try again for a minute
        self.is_away = True
        self._track(landed)
        self.is_away = False

    def _track(self, landed: Landed) -> None:
        key = landed.cell.request.key
        if self.has(landed):
            return
        with landed.entry.tracking_lock():
            there = list(self._search(f"tags.request_key = '{key}'"))
            if [run.data.tags.get("content") for run in there] == [record.content(landed)]:
                return
            notes: dict[str, str] = {}
            for run in there:
                notes |= _own_tags(run)
                self.client.delete_run(run.info.run_id)
            self._write(landed, notes)

    def _write(self, landed: Landed, notes: dict[str, str]) -> None:
        """Write a whole run; the tag `content` comes last, and a run that lacks it is replaced."""
        from mlflow.entities import Metric, Param, RunTag

        key = landed.cell.request.key
        run_id = self.client.create_run(
            self.experiment_id,
            start_time=record.start_ms(landed),
            tags={"request_key": key, "sweep": self.sweep, "provider": self.provider},
            run_name=landed.cell.name,
        ).info.run_id
        tags = {"mlflow.note.content": record.description(landed), **notes, **record.tags(landed)}
        self.client.log_batch(
            run_id,
            metrics=[Metric(*point) for point in record.metrics(landed)],
            params=[Param(key, str(value)[:PARAM_LENGTH]) for key, value in landed.cell.params.items()],
            tags=[RunTag(key, value[:TAG_LENGTH]) for key, value in tags.items()],
        )
        self._log_artifacts(run_id, landed)
        self.client.set_terminated(run_id, "FAILED" if landed.error else "FINISHED")
        self.client.set_tag(run_id, "content", record.content(landed))

    def _log_artifacts(self, run_id: str, landed: Landed) -> None:
        entry, measured = landed.entry, landed.measurement
        files = [entry.folder / "request.json", entry.folder / "result.json"]
        files += [measured / "frames.parquet", measured / "filmstrip.png"] if measured else []
        for file in files:
            if file.exists():
                self.client.log_artifact(run_id, str(file))
        if measured:
            with tempfile.TemporaryDirectory() as folder:
                named = Path(folder, f"{record.file_name(landed.cell.name)}.mp4")
                named.symlink_to(entry.video.resolve())
                self.client.log_artifact(run_id, str(named), "video")

    def address(self) -> str:
        """Return where `mlflow ui` shows the runs side by side, and how to start it."""
        path = f"/#/experiments/{self.experiment_id}/runs?{CHART_VIEW}"
        if urlsplit(self.uri).scheme in ("http", "https"):
            return f"Compare the runs: {without_password(self.uri).rstrip('/')}{path}"
        command = "mlflow ui"
        if self.uri != "sqlite:///mlflow.db":
            command += f" --backend-store-uri {without_password(self.uri)}"
        return f"Compare the runs: {command}, then http://127.0.0.1:{UI_PORT}{path}"


@contextmanager
def opening(tracker: Tracker, not_before: threading.Event) -> Iterator[threading.Thread]:
    """Open a tracker in a thread of its own; `join` it before the tracker is used.

    It waits for an event, or a few seconds: MLflow's import would hold up the first submission. What
    fails in it fails again, where it is seen, at the first use.
    """

    def run() -> None:
        not_before.wait(PATIENCE_S)
        with suppress(Exception):
            tracker.open()

    thread = threading.Thread(target=run, name="mlflow", daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        not_before.set()
        thread.join()


def _make_database(path: Path) -> None:
    """Make a new database under another name: MLflow can't use one whose making was broken off."""
    if path.exists():
        return
    part = path.with_name(f".{path.name}.part")
    with FileLock(f"{part}.lock"):
        if not path.exists():
            part.unlink(missing_ok=True)
            mlflow_client(f"sqlite:///{part}").search_experiments(max_results=1)
            os.replace(part, path)


def mlflow_client(uri: str) -> MlflowClient:
    """Return MLflow's client, imported now, which takes seconds."""
    # Nothing of an experiment goes to anybody the user did not name.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # A server that is away is tried again by the next run, not for minutes by this one.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")  # no bar is shown
        from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)


def _own_tags(run: Run) -> dict[str, str]:
    """Return the tags that a person gave a run."""
    return {k: v for k, v in run.data.tags.items() if k not in TAGS and not k.startswith("mlflow.")}
