"""MLflow's tables in a new SQLite file: made once by MLflow, which takes it seconds, and copied from then on."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from kling_sweeps.tracking import tracker

CACHE = Path(__file__).parents[1] / ".pytest_cache"
import_mlflow = tracker._import_mlflow


def made_once() -> None:
    """Import MLflow as the product does; from then on it copies what it would make."""
    import_mlflow()
    from mlflow.store.db import utils

    if utils._initialize_tables.__module__ == utils.__name__:
        make = utils._initialize_tables

        def copy_or_make(engine) -> None:
            kept = _kept()
            if engine.url.get_backend_name() != "sqlite":
                make(engine)
                return
            if not kept.exists():
                make(engine)
            with engine.connect() as connection:
                database = connection.connection.driver_connection
                if kept.exists():
                    with closing(sqlite3.connect(kept)) as tables:
                        tables.backup(database)
                else:
                    _copy(database, kept)

        utils._initialize_tables = copy_or_make


def new_database(path: Path) -> None:
    """Make a database that a server finds ready."""
    tracker.mlflow_client(f"sqlite:///{path}").search_experiments(max_results=1)


def _kept() -> Path:
    import mlflow

    return CACHE / f"mlflow-{mlflow.__version__}.db"


def _copy(database: sqlite3.Connection, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    with closing(sqlite3.connect(part)) as copy:
        database.backup(copy)
    os.replace(part, path)
