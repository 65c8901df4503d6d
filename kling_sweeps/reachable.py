"""Whether MLflow can be where it is said to be.

MLflow itself is not asked: it takes seconds to import, and minutes to give up.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

from kling_sweeps.errors import UnavailableError

# The databases that MLflow logs to, and their ports.
DATABASES = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def check_server(uri: str) -> None:
    """Raise UnavailableError where no server answers."""
    import httpx

    try:
        httpx.get(uri, timeout=10, follow_redirects=True)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UnavailableError(
            f"tracking.uri: no MLflow server answers at {without_password(uri)} ({type(error).__name__}); "
            "start it with `mlflow server`, or log to a file with tracking.uri=sqlite:///mlflow.db"
        ) from None


def check_port(uri: str) -> None:
    """Raise UnavailableError where no database listens."""
    parts = urlsplit(uri)
    port = parts.port or DATABASES.get(parts.scheme.partition("+")[0])
    if not parts.hostname or not port:
        return
    try:
        socket.create_connection((parts.hostname, port), timeout=10).close()
    except OSError as error:
        raise UnavailableError(
            f"tracking.uri: nothing answers at {parts.hostname}:{port} ({error.strerror or error}); "
            "start the database, or log to a file with tracking.uri=sqlite:///mlflow.db"
        ) from None


def check_database(path: Path) -> None:
    """Raise UnavailableError where a SQLite file can't be written."""
    folder = path.parent
    wanted = path if path.exists() else folder
    if not folder.is_dir() or not os.access(wanted, os.W_OK):
        raise UnavailableError(
            f"tracking.uri: {path} can't be written; choose another file with tracking.uri=sqlite:///PATH"
        )


def without_password(text: str, uri: str | None = None) -> str:
    """Return a text, an address unless told otherwise, without the password of the address."""
    password = urlsplit(uri or text).password
    return text.replace(password, "***") if password else text
