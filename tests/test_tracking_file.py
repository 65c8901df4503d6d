"""A database's address is read as SQLAlchemy reads it, and a file that MLflow can't use is refused beforehand."""

from __future__ import annotations

import shlex
import shutil
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from servers import postgresql

from kling_sweeps.analysis import runs_df
from kling_sweeps.errors import UnavailableError
from kling_sweeps.experiment.tracking_uri import Address, holds_password
from kling_sweeps.tracking import database, tracked
from kling_sweeps.tracking.tracker import Tracker

NAME = "kling_sweeps/cfg"


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """Make a database as the installed MLflow does."""
    file = tmp_path_factory.mktemp("made") / "mlflow.db"
    Tracker(f"sqlite:///{file}", "other", "fal").open()
    return file


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        (
            "sqlite:///plain.db",
            "plain.db",
        ),  # of no other test: MLflow keeps a store by its address as it is written
        ("sqlite:///mlflow.db?timeout=60", "mlflow.db"),
        ("sqlite+pysqlite:///mlflow.db", "mlflow.db"),
        ("sqlite:///my%20runs.db", "my runs.db"),
        ("sqlite:///my runs#1.db", "my runs#1.db"),
        ("sqlite:///100%25.db?timeout=5", "100%.db"),
        ("sqlite:///{here}/mlflow.db?timeout=60", "mlflow.db"),
        ("sqlite:///file:mlflow.db?uri=true", "mlflow.db"),
        ("sqlite:///file:mlflow.db?mode=rwc&uri=true", "mlflow.db"),
    ],
)
def test_an_address_is_that_of_its_file(uri, file, tmp_path, monkeypatch):
    """Makes the file that the address means, in any folder, and sees its experiments with MLflow and without."""
    folder = tmp_path / "50% of #1? a b"
    folder.mkdir()
    monkeypatch.chdir(folder)
    uri = uri.format(here=str(folder).replace("%", "%25").replace("?", "%3F"))
    assert Address(uri).file.absolute() == folder / file
    tracker = Tracker(uri, "cfg", "fal")
    tracker.check()
    tracker.open()
    assert sorted(path.name for path in folder.iterdir()) == sorted([f".{file}.part.lock", file])
    assert tracked.read(uri, NAME).experiment_id == tracker.experiment_id
    assert shlex.quote(uri) in tracker.address()
    assert runs_df("cfg", uri).empty


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite:///file::memory:?uri=true", "in memory"),
        ("sqlite:///runs?mode=memory&uri=true", "in memory"),
        ("sqlite://mlflow.db", "sqlite:///mlflow.db"),
        ("sqlite:///mlflow.db?timeout=long", "no address"),
        ("sqlite:///mlflow.db?tiemout=60", "tiemout"),
        ("sqlite:///file:mlflow.db?mode=ro&uri=true", "can't be written"),
        ("sqlite:///no/such/folder.db", "no folder"),
        ("sqlite:////dev/null/mlflow.db", "no folder"),
        ("mlflow.db", "sqlite:///mlflow.db"),
        ("file:./mlruns", "maintenance mode"),
        ("s3://bucket/mlruns", "can't use"),
        ("databricks", "Databricks"),
        ("postgresql://me:secret@127.0.0.1:port/x", "no address"),
    ],
)
def test_what_is_no_place_for_runs_is_refused(uri, said, tmp_path, monkeypatch):
    """Says what is wrong with an address and leaves nothing behind."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnavailableError, match=r"^tracking\.uri") as caught:
        Tracker(uri, "cfg", "fal").check()
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "UPDATE alembic_version SET version_num = '3da73c924c2f'",
            "mlflow db upgrade 'sqlite:///my runs.db'",
        ),
        ("UPDATE alembic_version SET version_num = 'ffffffffffff'", "newer MLflow"),
        ("DROP TABLE runs", "something else"),
        ("DROP TABLE alembic_version", "something else"),
        (
            "INSERT INTO experiments (experiment_id, name, lifecycle_stage, workspace) VALUES (9, 'x', 'active', 'team')",
            "MLFLOW_ENABLE_WORKSPACES",
        ),
    ],
)
def test_a_database_of_another_mlflow_is_refused(made, change, said, tmp_path, monkeypatch):
    """Tells an older one from a newer one and from what is none, with what to do, and changes nothing."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(made, "my runs.db")
    with closing(sqlite3.connect("my runs.db")) as changed, changed:
        changed.execute(change)
    before = Path("my runs.db").read_bytes()
    with pytest.raises(UnavailableError) as caught:
        Tracker("sqlite:///my runs.db", "cfg", "fal").check()
    assert said in str(caught.value)
    assert Path("my runs.db").read_bytes() == before


def test_a_file_that_is_no_database_is_refused(made, tmp_path, monkeypatch):
    """Refuses a text, a folder and half a database, and uses an empty file."""
    monkeypatch.chdir(tmp_path)
    Path("text.db").write_text("no database, but long enough to be taken for one\n" * 100)
    Path("folder.db").mkdir()
    Path("half.db").write_bytes(made.read_bytes()[:50_000])
    for name in ("text.db", "folder.db", "half.db"):
        with pytest.raises(UnavailableError, match=f"{name} can't be used"):
            Tracker(f"sqlite:///{name}", "cfg", "fal").check()
    Path("empty.db").touch()
    tracker = Tracker("sqlite:///empty.db", "cfg", "fal")
    tracker.check()
    tracker.open()
    assert tracked.read(tracker.uri, NAME).experiment_id == tracker.experiment_id


def test_artifacts_need_a_folder(made, tmp_path, monkeypatch):
    """Refuses a place where MLflow can't keep the videos, of a new experiment and of one that is there."""
    monkeypatch.chdir(tmp_path)
    Path("mlruns").touch()
    with pytest.raises(UnavailableError, match="mlruns"):
        Tracker("sqlite:///mlflow.db", "cfg", "fal").check()
    shutil.copy(made, "mlflow.db")
    with closing(sqlite3.connect("mlflow.db")) as changed, changed:
        changed.execute(
            "UPDATE experiments SET artifact_location = '/dev/null/1' WHERE name = 'kling_sweeps/other'"
        )
    with pytest.raises(UnavailableError, match="/dev/null/1"):
        Tracker("sqlite:///mlflow.db", "other", "fal").check()


def test_what_is_installed_knows_its_own_tables(made):
    """Reads the version of the tables from MLflow's files as MLflow itself writes it."""
    with closing(sqlite3.connect(made)) as opened:
        (version,) = opened.execute(database.VERSION).fetchone()
    known, heads = database._revisions()
    assert heads == {version}
    assert len(known) > 50
    assert version in tracked.SCHEMAS


def test_tables_of_an_unknown_version_are_left_to_mlflow(made, tmp_path, monkeypatch):
    """Reads no tables that a test has not seen, and finds an experiment of no other workspace."""
    copy = tmp_path / "mlflow.db"
    shutil.copy(made, copy)
    uri, name = f"sqlite:///{copy}", "kling_sweeps/other"
    assert tracked.read(uri, name).experiment_id
    with closing(sqlite3.connect(copy)) as changed, changed:
        changed.execute("UPDATE experiments SET workspace = 'team' WHERE name = ?", [name])
    assert tracked.read(uri, name).experiment_id is None
    monkeypatch.setenv("MLFLOW_ENABLE_WORKSPACES", "true")
    assert tracked.read(uri, name) is None
    monkeypatch.delenv("MLFLOW_ENABLE_WORKSPACES")
    with closing(sqlite3.connect(copy)) as changed, changed:
        changed.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    assert tracked.read(uri, name) is None


@pytest.mark.slow
def test_a_lock_is_waited_for_once(made, tmp_path, result):
    """Costs one wait and not one a run, refuses nothing, and loses nothing: what was locked out is tracked later."""
    file = tmp_path / "mlflow.db"
    shutil.copy(made, file)
    tracker = Tracker(f"sqlite:///{file}", "cfg", "fal")
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        tracker.check()
        with pytest.raises(UnavailableError, match="locked by another program"):
            tracker.open()
        began = time.monotonic()
        for _ in range(10):
            assert not tracker.has(result)
            with pytest.raises(UnavailableError, match="locked by another program"):
                tracker.track(result)
        assert time.monotonic() - began < 10
        other.execute("ROLLBACK")
    tracker.track(result)
    assert Tracker(tracker.uri, "cfg", "fal").has(result)


def test_a_request_is_new_where_no_run_was_ever_written(made, tmp_path, monkeypatch):
    """Finds a run in any experiment, a deleted one too, and leaves what it can't read to MLflow."""
    file = tmp_path / "mlflow.db"
    uri = f"sqlite:///{file}"
    assert not tracked.is_new(uri, "a")
    shutil.copyfile(made, file)
    client = Tracker(uri, "other", "fal").client
    (experiment,) = {one.experiment_id for one in client.search_experiments() if one.name != "Default"}
    run_id = client.create_run(experiment, tags={"request_key": "a", "other": "b"}).info.run_id
    client.delete_run(run_id)
    assert [tracked.is_new(uri, key) for key in ("a", "b", "A", "%")] == [False, True, True, True]
    assert not tracked.is_new("postgresql://here/one", "b")
    monkeypatch.setattr(tracked, "SCHEMAS", {"another"})
    assert not tracked.is_new(uri, "b")


def test_an_experiment_is_found_among_thousands(made, tmp_path):
    """Finds a sweep whatever number of others the database has, and lists them all where it has none."""
    copy = tmp_path / "mlflow.db"
    shutil.copy(made, copy)
    with closing(sqlite3.connect(copy)) as changed, changed:
        rows = [(number, f"e{number}", "active", number, "default") for number in range(100, 2700)]
        changed.executemany(
            "INSERT INTO experiments (experiment_id, name, lifecycle_stage, last_update_time, workspace)"
            " VALUES (?, ?, ?, ?, ?)",
            rows,
        )
    assert runs_df("other", f"sqlite:///{copy}").empty
    with pytest.raises(LookupError, match=r"no experiment 'nothing'; valid are other$"):
        runs_df("nothing", f"sqlite:///{copy}")


@pytest.mark.slow
def test_a_database_server_is_asked_before_mlflow_tries_for_minutes():
    """Refuses a database that is not there, or was made by another MLflow, within seconds."""
    # Not pytest's folder, which each of its processes closes to PostgreSQL's user.
    with tempfile.TemporaryDirectory() as folder, postgresql(Path(folder)) as uri:
        Tracker(uri, "cfg", "fal").check()
        began = time.monotonic()
        with pytest.raises(UnavailableError, match='database "elsewhere" does not exist'):
            Tracker(uri.replace("/postgres?", "/elsewhere?"), "cfg", "fal").check()
        assert time.monotonic() - began < 20
        with psycopg.connect(uri) as changed:
            changed.execute("UPDATE alembic_version SET version_num = '3da73c924c2f'")
        with pytest.raises(UnavailableError, match="mlflow db upgrade"):
            Tracker(uri, "cfg", "fal").check()


@pytest.mark.parametrize(
    ("argument", "holds"),
    [
        ("tracking.uri=http://me:secret@h", True),
        ("tracking={uri: http://me:secret@h}", True),
        ('tracking={uri: "http\\://me\\:secret@h"}', True),
        ("'+tracking.uri=postgresql+psycopg://me:a/b%40c@h:5432/x'", True),
        ("tracking.uri=postgresql://h/x?user=me&password=secret", True),
        ("hydra.sweeper.params.x=http://:secret@h", True),
        ("tracking.uri=${oc.env:MLFLOW_TRACKING_URI,sqlite:///mlflow.db}", False),
        ("tracking.uri=http://${oc.env:U}:${oc.env:P}@h", False),
        ("tracking.uri=http://h:5000/a@b", False),
        ("tracking.uri=http://me@h:5000", False),
        ("prompt='at 12:30 a cat @home'", False),
    ],
)
def test_a_password_is_seen_however_it_is_written(argument, holds):
    """Sees a password in an address, and none where there is none or the environment has it."""
    assert holds_password(argument) is holds


@pytest.mark.parametrize(
    "uri", ["postgresql://me:sec%40ret@h/x", "http://me:sec%40ret@h", "postgresql://h/x?password=sec%40ret"]
)
def test_a_password_is_never_shown(uri):
    """Masks a password as it is written and as it is meant."""
    assert "sec" not in str(Address(uri))
    assert Address(uri).mask("login sec@ret failed, sec%40ret") == "login *** failed, ***"


def test_a_password_in_a_file_is_refused_before_anything_is_written(command):
    """Leaves no copy of it in Hydra's folder, in a sweep file as in any other."""
    folder = command.folder / "mine"
    for name, text in (
        (
            "sweep/team",
            "# @package _global_\ntracking: {uri: 'http://me:secret@h'}\nhydra: {mode: MULTIRUN}\n",
        ),
        ("tracking/team", "uri: postgresql://me:secret@h/x\n"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.yaml").write_text(text)
    for overrides in (["+sweep=team"], ["tracking=team"], ["tracking={uri: http://me:secret@h}"]):
        done = command(*overrides, "--config-dir", str(folder))
        assert done.returncode == 2, done.stdout
        assert "holds a password" in done.stderr
        assert "secret" not in done.stdout + done.stderr
        assert [path.name for path in command.folder.iterdir()] == ["mine"]
