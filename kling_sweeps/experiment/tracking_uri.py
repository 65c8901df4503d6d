"""The address of a tracking store, as MLflow and SQLAlchemy read it."""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote, urlsplit

from kling_sweeps.errors import UnavailableError

# The databases that MLflow logs to, and their ports.
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
# A password: between the colon and the @ of an address, or among its options.
PASSWORD = re.compile(
    r"(?<=://)[^:/?#@\s]*:(?P<login>(?!\d+/)[^@\s]+)@|[?&](?:password|passwd|pwd)=(?P<option>[^&\s]+)",
    re.IGNORECASE,
)
PASSWORD_IN_CONFIG = (
    "{} holds a password, which would be kept in Hydra's config dumps; "
    "tracking.uri is read from MLFLOW_TRACKING_URI in the environment"
)
FROM_ENVIRONMENT = re.compile(r"\$\{oc\.env:[^}]*\}")
# What every version of SQLAlchemy reads alike; `%`, options and the rest are left to the one installed.
PLAIN = re.compile(r"sqlite(?:\+pysqlite)?:///(?P<file>[^?%:]+)")


def default_uri() -> str:
    """Return where runs are read from that nobody named an address for."""
    return os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"


@dataclass(frozen=True)
class Address:
    """Where MLflow's runs are kept: a SQLite file, another database, a server, or what else MLflow knows."""

    uri: str

    @property
    def scheme(self) -> str:
        """What stands before the colon, without a driver's name; empty for a path."""
        return self.uri.partition(":")[0].partition("+")[0].lower() if ":" in self.uri else ""

    @property
    def is_other_database(self) -> bool:
        return self.scheme in PORTS

    @property
    def is_server(self) -> bool:
        return self.uri.lower().startswith(("http://", "https://"))

    @property
    def is_sqlite(self) -> bool:
        return bool(re.match(r"sqlite(\+pysqlite)?:", self.uri))

    @cached_property
    def file(self) -> Path | None:
        """The file of a SQLite database, None for one in memory; raises UnavailableError for no such address."""
        name = self._opened()
        if name.startswith("file:"):
            name = unquote(urlsplit(name).path)
        return None if name in ("", ":memory:") or "mode=memory" in self.options else Path(name)

    @property
    def is_new(self) -> bool:
        """Tell whether it is a SQLite file that is not there, which MLflow would make, empty."""
        return self.is_sqlite and self.file is not None and not self.file.exists()

    @property
    def options(self) -> list[str]:
        """What stands after the question mark, each as `name=value`."""
        return self.uri.partition("?")[2].split("&")

    def _opened(self) -> str:
        """Return the name that SQLite opens: a path, or an address of its own that begins with `file:`."""
        if found := PLAIN.fullmatch(self.uri):
            return found["file"]
        from sqlalchemy import exc, make_url
        from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", exc.SAWarning)  # an option that it would ignore
                return SQLiteDialect_pysqlite().create_connect_args(make_url(self.uri))[0][0]
        except (exc.SQLAlchemyError, exc.SAWarning, ValueError, TypeError) as error:
            raise UnavailableError(
                f"tracking.uri={self} is no address of a SQLite file ({str(error).splitlines()[0]}); "
                "write sqlite:///mlflow.db, or sqlite:////a/folder/mlflow.db"
            ) from None

    def mask(self, text: str) -> str:
        """Return a text without the password of the address, however it is written there."""
        for password in _passwords(self.uri):
            for written in (password, unquote(password)):
                text = text.replace(written, "***")
        return text

    def __str__(self) -> str:
        """Return the address without its password."""
        return self.mask(self.uri)


def holds_password(text: str) -> bool:
    """Tell whether a text, a command-line override for one, holds an address with a password in it."""
    return bool(_passwords(FROM_ENVIRONMENT.sub("", text.replace("\\", ""))))


def _passwords(text: str) -> list[str]:
    return [found["login"] or found["option"] for found in PASSWORD.finditer(text)]


def is_writable_folder(path: Path) -> bool:
    """Tell whether files can be made in a folder, or in one that is made where it is not there yet."""
    existing = next(
        folder for folder in (path.absolute(), *path.absolute().parents) if os.path.exists(folder)
    )
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
