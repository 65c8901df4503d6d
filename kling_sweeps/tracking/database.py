"""Whether the database behind MLflow can be written and has the tables of the MLflow that is installed.

MLflow itself is not asked: it takes seconds to import, and minutes to give up.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import sqlite3
from contextlib import closing
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from kling_sweeps.errors import UnavailableError
from kling_sweeps.experiment.tracking_uri import PORTS, Address, is_writable_folder
from kling_sweeps.untrusted import clean

REVISION = re.compile(r"^(down_)?revision\b[^=\n]*=(.*)$", re.MULTILINE)
VERSION = "SELECT version_num FROM alembic_version"
OTHER_WORKSPACES = "SELECT 1 FROM experiments WHERE coalesce(workspace, 'default') != 'default'"
TABLES = {"experiments", "runs", "tags", "alembic_version"}
# Where MLflow keeps the artifacts of a new experiment.
NEW_ARTIFACTS = "mlruns"
ADVICE = "choose another file with tracking.uri=sqlite:///PATH"


class LockedError(UnavailableError):
    """Another program holds the database's lock, which passes."""


def has_workspaces() -> bool:
    """Tell whether MLflow keeps experiments in workspaces, which only MLflow itself can find."""
    return (os.environ.get("MLFLOW_ENABLE_WORKSPACES") or "").lower() in ("true", "1")


def check_port(address: Address) -> None:
    """Raise UnavailableError where no database listens."""
    try:
        parts = urlsplit(address.uri)
        port = parts.port or PORTS.get(address.scheme)
    except ValueError as error:
        raise UnavailableError(f"tracking.uri={address} is no address: {error}") from None
    if not parts.hostname or not port:
        return
    try:
        socket.create_connection((parts.hostname, port), timeout=10).close()
    except OSError as error:
        raise UnavailableError(
            f"tracking.uri: nothing answers at {parts.hostname}:{port} ({error.strerror or error}); "
            "start the database, or log to a file with tracking.uri=sqlite:///mlflow.db"
        ) from None


def check_file(address: Address, experiment: str, lock_s: float) -> None:
    """Raise UnavailableError where MLflow could not log an experiment to a SQLite file.

    LockedError for a file that another program locks for more than `lock_s` seconds.
    """
    file = address.file
    if file is None:
        raise UnavailableError(
            f"tracking.uri={address} is kept in memory, and gone with the command; name a file: sqlite:///mlflow.db"
        )
    if not file.parent.is_dir():
        raise UnavailableError(f"tracking.uri: there is no folder {file.parent}; make it, or {ADVICE}")
    is_read_only = bool({"mode=ro", "immutable=1"} & set(address.options))
    is_closed = file.exists() and not os.access(file, os.W_OK)
    if is_read_only or is_closed or not is_writable_folder(file.parent):
        raise UnavailableError(f"tracking.uri: {file}, or its folder, can't be written; {ADVICE}")
    artifacts = _artifacts(address, file, experiment, lock_s) if file.exists() else NEW_ARTIFACTS
    if "://" not in artifacts and not is_writable_folder(Path(artifacts)):
        raise UnavailableError(
            f"tracking.uri: the artifacts of {address} go to {artifacts}, which is no folder that can be written; "
            "make it one, or run in another folder"
        )


def _artifacts(address: Address, file: Path, experiment: str, lock_s: float) -> str:
    """Return where an experiment's artifacts are kept; raise UnavailableError for a file that MLflow can't use."""
    try:
        with closing(_write_locked(file, lock_s)) as database:
            tables = {
                name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            }
            if not tables:
                return NEW_ARTIFACTS
            if not tables >= TABLES:
                raise UnavailableError(
                    f"tracking.uri: {address.file} is a database of something else than MLflow, with the tables "
                    f"{clean(', '.join(sorted(tables)), 80)}; {ADVICE}"
                )
            check_version(address, {version for (version,) in database.execute(VERSION)})
            if not has_workspaces() and database.execute(OTHER_WORKSPACES).fetchone():
                raise UnavailableError(
                    f"tracking.uri: {address.file} has workspaces: set MLFLOW_ENABLE_WORKSPACES=true, or {ADVICE}"
                )
            found = database.execute("SELECT artifact_location FROM experiments WHERE name = ?", [experiment])
            return next((location for (location,) in found if location), NEW_ARTIFACTS)
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise LockedError(f"tracking.uri: {address.file} is locked by another program") from None
        raise UnavailableError(
            f"tracking.uri: {address.file} can't be used as a SQLite database ({error}); {ADVICE}"
        ) from None


def _write_locked(file: Path, lock_s: float) -> sqlite3.Connection:
    """Open a database as a writer does, who has written nothing yet."""
    database = sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True, timeout=lock_s)
    try:
        database.execute("BEGIN IMMEDIATE")
    except sqlite3.Error:
        database.close()
        raise
    return database


def check_version(address: Address, found: set[str]) -> None:
    """Raise UnavailableError for the tables of another MLflow than the one installed; none are as good as its own."""
    known, heads = _revisions()
    if found <= heads:
        return
    if found <= known:
        raise UnavailableError(
            f"tracking.uri: {address} was made by an older MLflow than the one installed; make a copy of it, then "
            f"run: mlflow db upgrade {shlex.quote(str(address))}"
        )
    raise UnavailableError(
        f"tracking.uri: {address} was made by a newer MLflow than the one installed; install that one "
        f"(pip install --upgrade mlflow), or {ADVICE}"
    )


@cache
def _revisions() -> tuple[set[str], set[str]]:
    """Return all the versions of its tables that the installed MLflow knows, and the newest."""
    spec = find_spec("mlflow")
    assert spec and spec.submodule_search_locations  # a package, and a dependency
    folder = Path(spec.submodule_search_locations[0], "store", "db_migrations", "versions")
    known: set[str] = set()
    replaced: set[str] = set()
    for file in folder.glob("*.py"):
        for is_earlier, value in REVISION.findall(file.read_text(encoding="utf-8")):
            (replaced if is_earlier else known).update(re.findall(r"[0-9a-f]{12,}", value))
    return known, known - replaced
