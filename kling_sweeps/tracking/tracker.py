"""Everything that is written to MLflow: one run for each request, in one experiment for each sweep."""

from __future__ import annotations

import logging
import os
import shlex
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from kling_sweeps.errors import UnavailableError
from kling_sweeps.experiment.naming import JUDGED, REPORTS, VOTES
from kling_sweeps.experiment.settings import Cell
from kling_sweeps.experiment.tracking_uri import Address
from kling_sweeps.store.result import RunResult
from kling_sweeps.tracking import run_data, tracked
from kling_sweeps.tracking.colors import run_colors
from kling_sweeps.tracking.database import (
    VERSION,
    LockedError,
    check_file,
    check_port,
    check_version,
    has_workspaces,
)
from kling_sweeps.tracking.note import CHART_PAGE, Noted, report_link, view_link
from kling_sweeps.tracking.overview import Overview, planned_run
from kling_sweeps.tracking.presentation import RECORD, Record, present
from kling_sweeps.tracking.server import TrackingServer, needs_mlflow
from kling_sweeps.tracking.views import BY_SETTING
from kling_sweeps.untrusted import clean

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

TAG_LENGTH = 5000
PARAM_LENGTH = 6000
# The runs by name, side by side, where there are no views yet.
BY_NAME = "orderByKey=tags.%60mlflow.runName%60&orderByAsc=true"
UI_PORT = 5000
PATIENCE_S = 3.0
# How long another program's lock on a SQLite file is waited for, and once that was in vain.
LOCK_S, AWAY_LOCK_S = 5.0, 0.1


def experiment_name(sweep: str, provider: str) -> str:
    """Return the experiment of a sweep; what was emulated has one of its own."""
    return f"kling_sweeps/{sweep}" + (" (emulator)" if provider == "emulator" else "")


def sweep_name(experiment: str) -> str:
    """Return the sweep of an experiment; the name of a sweep is its own."""
    return experiment.removeprefix("kling_sweeps/").removesuffix(" (emulator)")


def every(search: Callable[..., Any]) -> Iterator[Any]:
    """Yield all that a search of MLflow's finds, page by page."""
    token = None
    while True:
        page = search(page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def set_costs(uri: str, provider: str, costs: Mapping[str, tuple[float, float]]) -> int:
    """Write what a provider's requests have cost, and were expected to, in USD by their keys, to all runs of them.

    Returns how many runs those are. What was emulated has the same keys, and is another provider's.
    """
    client = mlflow_client(uri)
    experiments = every(partial(client.search_experiments, filter_string="name LIKE 'kling_sweeps/%'"))
    found = 0
    for experiment in [*experiments]:
        for run in every(partial(client.search_runs, [experiment.experiment_id], max_results=1000)):
            key = run.data.tags.get("request_key")
            if key in costs and run.data.tags.get("provider") == provider:
                charged, expected = costs[key]
                client.log_metric(run.info.run_id, "cost_usd", charged)
                client.set_tag(run.info.run_id, "estimate_usd", f"{expected:g}")
                found += 1
    return found


def report_runs(client: MlflowClient, experiment_id: str, sweep: str) -> list[str]:
    """Return the ids of a sweep's report runs, of which there is one unless two were made at once."""
    found = every(partial(client.search_runs, [experiment_id], "tags.kind = 'report'"))
    return [run.info.run_id for run in found if run.data.tags.get("sweep") == sweep]


@dataclass
class Tracker:
    """Writes runs to one experiment, from one thread; `open` may be called early, from another.

    `cells` are those of the command, by which its runs get their colours.
    """

    uri: str
    sweep: str
    provider: str
    cells: Sequence[Cell] = ()
    is_away: bool = False
    # The page of the sweep's report, from the `#` of MLflow's address on, once the note names it.
    report: str | None = None
    # The metrics that the sweep asks about, and sentences that say what it has shown, once this command knows them.
    goals: Sequence[str] = ()
    found: Sequence[str] | None = None

    def check(self) -> None:
        """Raise UnavailableError, with what to do, where runs can't be logged; a lock on a database passes."""
        try:
            self._ask()
        except LockedError:
            self.is_away = True
        if self._is_left_to_mlflow:
            self._check_by_opening()

    @property
    def _is_left_to_mlflow(self) -> bool:
        """Tell whether only MLflow itself can find out whether it can log there."""
        if self.store.is_server:
            return needs_mlflow()
        return not self.store.is_sqlite or has_workspaces()

    def _ask(self) -> None:
        """Raise UnavailableError, soon, where it can be seen without MLflow that it can't log now."""
        name = self.experiment
        if self.store.is_sqlite:
            check_file(self.store, name, AWAY_LOCK_S if self.is_away else LOCK_S)
        elif not self.store.is_server or self._is_left_to_mlflow:
            check_port(self.store)
        else:
            TrackingServer(self.store).experiment(name)

    def _check_by_opening(self) -> None:
        try:
            if self.store.is_other_database:
                # Tried once, where MLflow tries for two minutes, and may change older tables unasked.
                check_version(self.store, connect(self.uri))
            self.open()
        except UnavailableError:
            raise
        except Exception as error:
            raise UnavailableError(
                f"tracking.uri: MLflow can't use {self.store}: {self.said(error)}{self._advice()}"
            ) from None

    def _advice(self) -> str:
        is_path = self.store.scheme in ("", "file") and self.uri != "databricks"
        return "; did you mean a file, sqlite:///mlflow.db?" if is_path else ""

    def said(self, error: Exception) -> str:
        """Return an error of MLflow's on one line, without a password."""
        return clean(self.store.mask(f"{type(error).__name__}: {error}"))

    @property
    def store(self) -> Address:
        return Address(self.uri)

    @property
    def experiment(self) -> str:
        return experiment_name(self.sweep, self.provider)

    @cached_property
    def client(self) -> MlflowClient:
        if self.store.is_sqlite:
            _make_database(self.store)
        return mlflow_client(self.uri)

    @cached_property
    def experiment_id(self) -> str:
        if self._read and self._read.experiment_id is not None:
            return self._read.experiment_id
        name = self.experiment
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
            found = self.client.get_experiment_by_name(name)
            if found is None:
                raise
            return found.experiment_id

    def open(self) -> None:
        """Connect, which makes a new database's tables, and read what is there."""
        with self.trying():
            self._ask()
            _ = self.client, self.experiment_id, self.known

    def has(self, result: RunResult) -> bool:
        """Tell, without importing MLflow where that is possible, whether MLflow has a run as it is now."""
        return self.known.get(result.cell.request.key) == run_data.content(result)

    @cached_property
    def known(self) -> dict[str, str]:
        """Return what the experiment's runs were when they were written, by request key; empty if MLflow fails."""
        try:
            return self._known()
        except Exception:  # which is seen where a run is tracked
            return {}

    @cached_property
    def _read(self) -> tracked.TrackedRuns | None:
        """Return what can be read of the experiment without MLflow, None where nothing can."""
        if self.is_away:
            self._ask()
        return tracked.read(self.uri, self.experiment)

    def _known(self) -> dict[str, str]:
        if self._read is not None:
            return self._read.contents
        return _contents(self._search(""))

    @cached_property
    def made_from(self) -> str:
        """Return what the experiment's views were made from, "" where there are none."""
        if self._read is not None:
            return Record.read(self._read.record).made_from
        return Record.read(self.client.get_experiment(self.experiment_id).tags.get(RECORD)).made_from

    def _search(self, filter_string: str) -> Iterator[Run]:
        """Yield the runs of the experiment that a filter finds."""
        search = self.client.search_runs
        return every(partial(search, [self.experiment_id], filter_string, max_results=1000))

    def present(self, is_due: bool = False) -> None:
        """Bring the experiment's views and note up to date, without MLflow where no run has changed since.

        Where nothing is known of what was found, what was said of the same runs stays. What `is_due` is written
        though no run has changed.
        """
        if self._is_presented() and not is_due:
            return
        with self.trying():
            if self.is_away:
                self._ask()
            runs = list(self._search(""))
            self.known = _contents(runs)
            found = self.found or ()
            made_from = _made_from(self.known, self.goals, found)
            self.report = self._report_page()
            present(self.client, self.experiment_id, runs, made_from, self.goals, found, self.report)
            self.made_from = made_from

    def _is_presented(self) -> bool:
        if self.found is None:
            runs, _, _ = _made_from(self.known, self.goals, ()).partition(" ")
            return (self.made_from or "").partition(" ")[0] == runs
        return self.is_noted(self.goals, self.found)

    @property
    def noted(self) -> Noted | None:
        """Return what the note says of the runs as they are, None where a person has written it, or runs have changed.

        It is read without MLflow.
        """
        if self._read is None or not self._read.note or not self._is_presented():
            return None
        is_theirs = Record.read(self._read.record).is_theirs(run_data.DESCRIPTION, self._read.note)
        return None if is_theirs else Noted.read(self._read.note)

    def is_noted(self, goals: Sequence[str], found: Sequence[str]) -> bool:
        """Tell whether these are the goals for which these sentences of the note were drawn, of the runs as they are."""
        return self.made_from == _made_from(self.known, goals, found)

    def _report_page(self) -> str | None:
        reports = self.client.get_experiment_by_name(experiment_name(REPORTS, self.provider))
        if reports is None or reports.lifecycle_stage != "active":
            return None
        ids = report_runs(self.client, reports.experiment_id, self.sweep)
        return report_link(reports.experiment_id, ids[0]) if ids else None

    def track(self, result: RunResult) -> None:
        """Write a run, unless MLflow has it as it is now; one that is incomplete or has changed is replaced."""
        with self.trying():
            if self.is_away:
                self._ask()  # answers at once, where MLflow would try again for a minute
            if not self.has(result):
                with result.entry.tracking_lock():
                    self._replace(result)

    @contextmanager
    def trying(self) -> Iterator[None]:
        """Note in `is_away` whether MLflow failed the last time."""
        try:
            yield
        except Exception:
            self.is_away = True
            raise
        self.is_away = False

    def _replace(self, result: RunResult) -> None:
        """Write a run with the tags, name and votes that people gave earlier runs of its request, then delete those.

        What judges gave is of the video, and goes to a run with the same one.
        """
        there = self._runs_of(result.cell.request.key)
        there.sort(key=lambda run: (run.data.tags.get("content") == run_data.content(result), _ended(run)))
        theirs: dict[str, str] = {}
        votes: dict[str, float] = {}
        for run in there:
            is_same = run.data.tags.get("request_id") == (result.state.request_id or "")
            theirs |= run_data.theirs(run.data.tags) | (run_data.judges(run.data.tags) if is_same else {})
            votes |= {
                name: value
                for name, value in run.data.metrics.items()
                if name in VOTES or (is_same and name.startswith(JUDGED))
            }
        if there and there[-1].data.tags.get("content") == run_data.content(result):
            whole = there.pop()
            self._add_tags(whole, theirs)
        else:
            self._write(result, theirs, votes)
        for run in there:
            self.client.delete_run(run.info.run_id)

    def _runs_of(self, request_key: str) -> list[Run]:
        """Return the runs of a request that are there."""
        if tracked.is_new(self.uri, request_key):
            return []
        return list(self._search(f"tags.request_key = '{request_key}'"))

    def _add_tags(self, run: Run, theirs: dict[str, str]) -> None:
        """Add the tags that people gave to another run of the same request."""
        for key, value in theirs.items():
            if run.data.tags.get(key) != value:
                self.client.set_tag(run.info.run_id, key, value)

    def _write(self, result: RunResult, theirs: dict[str, str], votes: Mapping[str, float]) -> None:
        """Write a whole run; the tag `content` comes last, and a run that lacks it is replaced."""
        from mlflow.entities import Metric, Param

        at_ms = run_data.start_ms(result)
        points = run_data.metrics(result) + [run_data.Point(*vote, at_ms, 0) for vote in votes.items()]
        ours = {"request_key": result.cell.request.key, "sweep": self.sweep, "provider": self.provider}
        ours |= {key: value[:TAG_LENGTH] for key, value in run_data.tags(result).items()}
        run_id = self.client.create_run(
            self.experiment_id,
            start_time=at_ms,
            tags={**ours, **run_data.words(result), **self._color(result), **theirs},
            run_name=theirs.get("mlflow.runName", result.cell.name),
        ).info.run_id
        self.client.log_batch(
            run_id,
            metrics=[Metric(*point) for point in points],
            params=[Param(key, str(value)[:PARAM_LENGTH]) for key, value in result.cell.params.items()],
        )
        self._log_artifacts(run_id, result)
        self.client.set_terminated(run_id, "FAILED" if result.error else "FINISHED")
        self.client.set_tag(run_id, "content", run_data.content(result))
        self.known[result.cell.request.key] = run_data.content(result)

    def _color(self, result: RunResult) -> dict[str, str]:
        color = self._colors.get(result.cell.request.key)
        return run_data.colored(color) if color else {}

    @cached_property
    def _colors(self) -> dict[str, str]:
        overview = Overview([planned_run(cell) for cell in self.cells])
        return {run.run_id: color for run, color in zip(overview.runs, run_colors(overview), strict=True)}

    def _log_artifacts(self, run_id: str, result: RunResult) -> None:
        entry, measured = result.entry, result.measurement
        files = [entry.folder / "request.json", entry.folder / "result.json"]
        files += [measured / "frames.parquet", measured / "filmstrip.png", entry.video] if measured else []
        for file in files:
            if file.exists():
                self.client.log_artifact(run_id, str(file))
        for name, picture in result.cell.request.pictures_by_argument():
            if (file := entry.store.pictures / picture.file_name).exists():
                self.client.log_artifact(run_id, str(file), artifact_path=name)

    def tag_experiment(self, tags: Mapping[str, str]) -> None:
        """Write tags of the experiment, where they are not there as they are."""
        with self.trying():
            self._ask()
            there = self.client.get_experiment(self.experiment_id).tags
            for key, value in tags.items():
                if there.get(key) != value:
                    self.client.set_experiment_tag(self.experiment_id, key, value[:TAG_LENGTH])

    def tag_runs(self, tags: Mapping[str, Mapping[str, str | None]]) -> None:
        """Write tags of runs by their ids; a tag without a value is removed."""
        from mlflow.entities import RunTag

        with self.trying():
            for run_id, changed in tags.items():
                written = [RunTag(key, value) for key, value in changed.items() if value is not None]
                self.client.log_batch(run_id, tags=written)
                for key in changed.keys() - {tag.key for tag in written}:
                    self.client.delete_tag(run_id, key)

    def add(self, run_id: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Add metrics and tags to a run, beside what was measured."""
        from mlflow.entities import Metric, RunTag

        at_ms = int(time.time() * 1000)
        points = [Metric(name, value, at_ms, 0) for name, value in metrics.items()]
        with self.trying():
            if self.is_away:
                self._ask()
            self.client.log_batch(run_id, points, tags=[RunTag(key, tags[key][:TAG_LENGTH]) for key in tags])

    def address(self) -> str:
        """Return where `mlflow ui` shows the runs side by side, and how to start it."""
        by_name = f"#/experiments/{self.experiment_id}/{CHART_PAGE}&{BY_NAME}"
        page = view_link(self.experiment_id, BY_SETTING) if self.made_from else by_name
        if self.store.is_server:
            return f"Compare the runs: {self.link(page)}"
        command = "mlflow ui"
        if self.uri != "sqlite:///mlflow.db":
            command += f" --backend-store-uri {shlex.quote(str(self.store))}"
        return f"Compare the runs: {command}, then {self.link(page)}"

    def link(self, page: str) -> str:
        """Return the whole address of a page, which begins with `#`, on the server or where `mlflow ui` serves it."""
        root = str(self.store).rstrip("/") if self.store.is_server else f"http://127.0.0.1:{UI_PORT}"
        return f"{root}/{page}"


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


def _make_database(address: Address) -> None:
    """Make a new database under another name: MLflow can't use one whose making was broken off."""
    path = address.file
    if path is None or path.exists():
        return
    part = path.absolute().with_name(f".{path.name}.part")
    with FileLock(f"{part}.lock"):
        if not path.exists():
            from sqlalchemy import URL

            part.unlink(missing_ok=True)
            uri = URL.create("sqlite", database=str(part)).render_as_string()
            with _no_pool():
                mlflow_client(uri).search_experiments(max_results=1)
            os.replace(part, path)


@contextmanager
def _no_pool() -> Iterator[None]:
    """Let MLflow close each connection after its use: Windows renames no file that is open."""
    name = "MLFLOW_SQLALCHEMYSTORE_POOLCLASS"
    given = os.environ.get(name)
    os.environ[name] = "NullPool"
    try:
        yield
    finally:
        del os.environ[name]
        if given is not None:
            os.environ[name] = given


def connect(uri: str) -> set[str]:
    """Return the version of the tables of a database, empty for a new one; raises what its driver raises."""
    _import_mlflow()
    from mlflow.store.db.utils import create_sqlalchemy_engine
    from sqlalchemy import inspect, text

    engine = create_sqlalchemy_engine(uri)
    try:
        with engine.connect() as database:
            is_new = not inspect(database).has_table("alembic_version")
            return set() if is_new else set(database.execute(text(VERSION)).scalars())
    finally:
        engine.dispose()


def mlflow_client(uri: str) -> MlflowClient:
    """Return MLflow's client, imported now, which takes seconds."""
    _import_mlflow()
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _import_mlflow() -> None:
    """Import MLflow, which takes seconds, so that it is quiet and gives up soon."""
    # Nothing of an experiment goes to anybody the user did not name.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # A server that is away is tried again by the next run, not for minutes by this one.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # Its two lines a run would stand in the middle of the live table.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")  # no bar is shown
        import mlflow.tracking  # noqa: F401

    for name in ("mlflow", "alembic", "sqlalchemy.pool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what they log as an error they raise too


def _contents(runs: Iterable[Run]) -> dict[str, str]:
    """Return what runs were when they were written, by request key, for whatever is there once and whole."""
    return tracked.once((run.data.tags.get("request_key"), run.data.tags.get("content")) for run in runs)


def _made_from(contents: Mapping[str, str], goals: Sequence[str], found: Sequence[str]) -> str:
    """Return what tells one state of an experiment's runs, and then of what is said of them, from another."""
    runs = run_data.digest(repr((run_data.LAYOUT, sorted(contents.items()))))
    return f"{runs} {run_data.digest(repr((list(goals), list(found))))}"


def _ended(run: Run) -> int:
    """Return when a run ended, in milliseconds since 1970, 0 for one that has not."""
    return run.info.end_time or 0
