"""A journal, of a generation or of votes: a file of events, each of them on disk before the next step begins."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Any, BinaryIO

from kling_sweeps.errors import StoreError, explained
from kling_sweeps.store.state_machine import COMPLETED, Stage, State, fold

NUMBER = int | float
DATE = datetime | None  # written as ISO 8601 has it, with a time zone
# The fields of an event that are read, and their types; every event has `at`, and may have other fields.
FACTS: Mapping[str, Mapping[str, Any]] = {
    "submitting": {
        "sweep": str | None,
        "command": str | None,
        "price_usd": NUMBER | None,
        "provider_at": DATE,
    },
    "submitted": {
        "endpoint": str,
        "request_id": str,
        "status_url": str | None,
        "response_url": str | None,
        "cancel_url": str | None,
    },
    "completed": {"inference_s": NUMBER | None, "failed": bool | None},
    "downloaded": {"seconds": NUMBER | None, "bytes": int | None},
    "failed": {
        "stage": str,
        "error_type": str,
        "message": str,
        "may_have_cost": bool,
        "begins_anew": bool | None,
    },
    "answered": {"usd": NUMBER | None},
    "billed": {"request_id": str, "usd": NUMBER},
    "lost": {"command": str},
    "measured": {"fingerprint": str, "seconds": NUMBER},
    "voted": {
        **dict.fromkeys(("id", "sweep", "factor", "question", "rater"), str),
        **dict.fromkeys(("left", "right", "answer"), str),
    },
    "undone": {"id": str},
}

# Put behind a line whose writing was cut off, so that it never reads as JSON, even where only its line break is missing.
CUT_OFF = b" (cut off)\n"


class Journal:
    """An append-only file of JSON lines in ASCII, each forced to disk before `append` returns.

    `size` is its size in bytes after the last `append`; StoreError is raised where it has become shorter since.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0

    def append(self, event: str, **facts: Any) -> None:
        """Write one event; before it, mark a line that a crash cut off as none."""
        line = json.dumps({"at": _now(), "event": event, **facts}).encode() + b"\n"
        is_new = not self.path.exists()
        with open(self.path, "ab+") as file:
            self._check_size(file.tell())
            if file.tell() and not self._ends_whole(file):
                line = CUT_OFF + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
            self.size = file.tell()
        if is_new:
            sync_folder(self.path.parent)

    def events(self) -> list[dict[str, Any]]:
        """Return the events, without a line that a crash cut off; raise StoreError where a line is no event."""
        try:
            written = self.path.read_bytes()
        except FileNotFoundError:
            written = b""
        except OSError as error:
            raise StoreError(explained(error)) from None
        self._check_size(len(written))
        lines = enumerate(written.split(b"\n")[:-1], 1)
        return [
            self._parse(line, number)
            for number, line in lines
            if line.strip() and not line.endswith(CUT_OFF.strip(b"\n"))
        ]

    def state(self) -> State:
        """Return the state that the events lead to; raise StoreError where they can't be trusted."""
        state = fold(self.events())
        if state.stage in (Stage.SUBMITTED, *COMPLETED) and not state.request_id:
            raise StoreError(f"{self.path}: it goes on with a request, and no line `submitted` says which")
        return state

    def _check_size(self, size: int) -> None:
        if size < self.size:
            raise StoreError(f"{self.path} was removed or cut while this command worked on it")

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            event: dict[str, Any] = json.loads(line)
        except (ValueError, RecursionError):
            raise StoreError(f"{self.path}, line {number}: it is no JSON") from None
        if problem := _problem(event):
            raise StoreError(f"{self.path}, line {number}: {problem}")
        return event

    @staticmethod
    def _ends_whole(file: BinaryIO) -> bool:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def sync_folder(folder: Path) -> None:
    """Force a folder's entries to disk, so that a new file's name survives a power cut."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows opens no folder, and writes its entries without being asked
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def written_whole(path: Path, named: Callable[[Path, Path], None] = os.replace) -> Iterator[Path]:
    """Give the path to write a file to, which gets its name once it is whole, and is removed where it isn't.

    `named` gives the name; `force` does when the file is on disk.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        yield part
        named(part, path)
    finally:
        part.unlink(missing_ok=True)


def force(part: Path, path: Path) -> None:
    """Give a file, whole and on disk, its name."""
    with open(part, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, path)
    sync_folder(path.parent)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _problem(event: Any) -> str:
    """Return what is wrong with an event, "" where nothing is."""
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        return "it names no event"
    if not is_date(event.get("at")):
        return "`at` is no date with a time zone"
    for name, kind in FACTS.get(event["event"], {}).items():
        if not _fits(event.get(name), kind):
            return f"`{name}` of `{event['event']}` is missing or of a wrong type"
    return ""


def is_date(value: Any) -> bool:
    """Tell whether something is a date as ISO 8601 has it, with a time zone."""
    try:
        date = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return False
    return date.tzinfo is not None and 1970 <= date.year < 9999


def _fits(value: Any, kind: Any) -> bool:
    if kind is DATE:
        return value is None or is_date(value)
    if isinstance(value, bool):
        return kind in (bool, bool | None)
    return isinstance(value, kind) and not (isinstance(value, NUMBER) and not 0 <= value < inf)
