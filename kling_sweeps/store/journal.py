"""The journal of one generation: every step on disk before the next begins, and what follows from it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from math import inf
from pathlib import Path
from typing import Any

from kling_sweeps.errors import RunError, StoreError, explained
from kling_sweeps.untrusted import clean


class Stage(StrEnum):
    """How far a generation has come."""

    NEW = "new"  # nothing is bought
    UNKNOWN = "unknown"  # a submission left, and its answer is not known
    SUBMITTED = "submitted"  # fal has it
    COMPLETED = "completed"  # fal has finished it
    FETCHED = "fetched"  # its result is here
    FINISHED = "finished"  # its video is here
    FAILED = "failed"  # fal will not make it
    DAMAGED = "damaged"  # what is on disk can't be trusted, and nothing is done about it


# What each event of a journal leads to; an event that is not named leaves the stage as it is.
NEXT = {
    "submitting": Stage.UNKNOWN,
    "not_submitted": Stage.NEW,
    "submitted": Stage.SUBMITTED,
    "completed": Stage.COMPLETED,
    "fetched": Stage.FETCHED,
    "downloaded": Stage.FINISHED,
    "failed": Stage.FAILED,
    "cancelled": Stage.NEW,
    "forgotten": Stage.NEW,
    "retrying": Stage.NEW,
}


NUMBER = int | float
DATE = datetime | None  # written as ISO 8601 has it, with a time zone
# What an event has to say, and of what types; `at` is of every event, and others say what nobody reads.
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
    "lost": {"command": str},
    "measured": {"fingerprint": str, "seconds": NUMBER},
}


@dataclass(frozen=True)
class Ticket:
    """What re-attaches to a submitted request: its id, and the addresses fal gave with it."""

    endpoint: str
    request_id: str
    status_url: str = ""
    response_url: str = ""
    cancel_url: str = ""


# What begins an attempt anew, and what shows that fal has what was taken for lost.
ANEW = ("submitting", "retrying", "cancelled", "forgotten")
FOUND = ("completed", "fetched", "downloaded")
# What each event says of the money that an attempt cost.
COSTS = {
    "submitting": "unknown",
    "not_submitted": "free",
    "submitted": "in flight",
    "completed": "spent",
    "cancelled": "free",
    "forgotten": "free",
}


@dataclass(frozen=True)
class Attempt:
    """One submission: `cost` is free, unknown, in flight, spent, or perhaps (a failure fal may charge).

    `at` is in UTC; `price_usd` is None where nobody knew it.
    """

    at: datetime
    sweep: str
    command: str
    price_usd: float | None
    cost: str
    request_id: str | None = None

    @property
    def committed_usd(self) -> float:
        """Return what the attempt has cost or may have cost, in USD."""
        return 0.0 if self.cost == "free" else self.price_usd or 0.0


def attempts(events: Iterable[Mapping[str, Any]]) -> list[Attempt]:
    """Return the submissions of a journal in their order."""
    made: list[Attempt] = []
    current = 0
    for event in events:
        name = event["event"]
        if name == "submitting":
            by = event.get("sweep") or "", event.get("command") or ""
            at = datetime.fromisoformat(event["at"]).astimezone(UTC)
            made.append(Attempt(at, *by, event.get("price_usd"), "unknown"))
            current = len(made) - 1
        if name == "submitted":  # where the last was never sent, it is an earlier one that was found
            current = max((n for n, one in enumerate(made) if one.cost == "unknown"), default=current)
        cost = COSTS.get(name)
        if name == "failed":
            cost = "perhaps" if event["may_have_cost"] else "free"
        if cost and made:
            request_id = event.get("request_id", made[current].request_id)
            made[current] = replace(made[current], cost=cost, request_id=request_id)
    return made


@dataclass(frozen=True)
class State:
    """What a journal says: the stage, the request at fal, and how long each part took in seconds.

    `failed` is what fal's status said of a completed request. `spent_usd` is what all attempts have
    cost, `committed_usd` with what they may have. `retries` counts how often one that failed was begun
    anew without anybody's word. `lost_by` is the command that found that fal no longer has what was paid
    for, and `attempted_by` the last that submitted. `unanswered` is when each submission left, by the
    provider's time, whose answer was lost, and none of which was found since. `is_unreadable` tells that
    the result names no video, `is_blank` that the journal says nothing. `at_fal_since` is when fal was seen
    to have completed it, or else accepted, by this machine's time, `video_bytes` how large the video was.
    """

    stage: Stage = Stage.NEW
    ticket: Ticket | None = None
    submitting_at: datetime | None = None
    at_fal_since: datetime | None = None
    queue_s: float | None = None
    inference_s: float | None = None
    download_s: float | None = None
    error: RunError | None = None
    failed: bool = False
    spent_usd: float = 0.0
    committed_usd: float = 0.0
    retries: int = 0
    is_started: bool = False
    lost_by: str | None = None
    attempted_by: str | None = None
    unanswered: tuple[datetime, ...] = ()
    is_cancelled: bool = False
    is_unreadable: bool = False
    is_blank: bool = True
    video_bytes: int | None = None

    @property
    def request_id(self) -> str | None:
        return self.ticket and self.ticket.request_id

    @property
    def is_open(self) -> bool:
        """Tell whether fal has, or may have, something that is not here yet."""
        is_over = self.stage in (Stage.NEW, Stage.FINISHED, Stage.FAILED, Stage.DAMAGED)
        return not is_over and not self.is_unreadable

    @property
    def is_failed(self) -> bool:
        """Tell whether nothing more comes of it unless it is paid for again."""
        return self.stage is Stage.FAILED or self.lost_by is not None


def fold(events: Iterable[Mapping[str, Any]]) -> State:
    """Return the state that a journal's events lead to."""
    events = list(events)
    stage, retries = Stage.NEW, 0
    seen: dict[str, Mapping[str, Any]] = {}
    unanswered: list[datetime] = []
    for event in events:
        name = event["event"]
        begins_anew = name == "failed" and event.get("begins_anew", False)
        stage = Stage.NEW if begins_anew else NEXT.get(name, stage)
        if name in ANEW or begins_anew:
            seen.clear()
        if name == "retrying" or begins_anew:
            retries = retries + 1 if begins_anew else 0
        if name in FOUND:
            seen.pop("lost", None)
            seen.pop("unreadable", None)
        if name == "submitting":
            unanswered.append(_by_provider(event))
        elif name == "not_submitted" and unanswered:
            unanswered.pop()
            stage = Stage.UNKNOWN if unanswered else Stage.NEW
        elif name in NEXT:
            unanswered.clear()
        if not begins_anew:
            seen[name] = event
    made = attempts(events)
    return State(
        stage=stage,
        is_blank=not events,
        retries=retries,
        attempted_by=made[-1].command if made else None,
        unanswered=tuple(unanswered),
        spent_usd=round(sum(a.committed_usd for a in made if a.cost == "spent"), 4),
        committed_usd=round(sum(a.committed_usd for a in made), 4),
        **_facts(seen),
    )


def _facts(seen: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    submitted, completed = seen.get("submitted", {}), seen.get("completed", {})
    failed, submitting = seen.get("failed"), seen.get("submitting")
    started = seen.get("started") or completed
    inference_s = completed.get("inference_s")
    if inference_s is None and completed:
        inference_s = _seconds(started, completed)
    queue_s = _seconds(submitted, started) if submitted and started else None
    if queue_s is not None and started is completed:
        queue_s = max(0.0, queue_s - inference_s)
    return {
        "ticket": Ticket(**{f.name: submitted.get(f.name) or "" for f in fields(Ticket)})
        if submitted
        else None,
        "submitting_at": submitting and _by_provider(submitting),
        "at_fal_since": datetime.fromisoformat(at_fal["at"]) if (at_fal := completed or submitted) else None,
        "queue_s": queue_s,
        "inference_s": inference_s,
        "download_s": seen.get("downloaded", {}).get("seconds"),
        "video_bytes": seen.get("downloaded", {}).get("bytes"),
        "error": failed and _error(failed),
        "failed": completed.get("failed", False),
        "is_started": "started" in seen,
        "lost_by": seen.get("lost", {}).get("command"),
        "is_cancelled": "cancelling" in seen,
        "is_unreadable": "unreadable" in seen,
    }


def _by_provider(submitting: Mapping[str, Any]) -> datetime:
    """Return when a submission left by the provider's time, which this machine's may be far from."""
    return datetime.fromisoformat(submitting.get("provider_at") or submitting["at"])


def _seconds(first: Mapping[str, Any], last: Mapping[str, Any]) -> float:
    begin, end = (datetime.fromisoformat(event["at"]) for event in (first, last))
    return max(0.0, (end - begin).total_seconds())


def _error(failed: Mapping[str, Any]) -> RunError:
    error = RunError(
        clean(failed["message"], 1000), error_type=failed["error_type"], may_have_cost=failed["may_have_cost"]
    )
    error.stage = failed["stage"]
    return error


# What makes a line of JSON that lacks its end, or only its line break, no JSON for good.
CUT_OFF = b" (cut off)\n"


class Journal:
    """An append-only file of JSON lines in ASCII, each forced to disk before `append` returns.

    `size` is what it had after the last `append`; StoreError is raised where it has become shorter since.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0

    def append(self, event: str, **facts: Any) -> None:
        """Write one event; a line that a crash cut off before, by its last byte even, never counts."""
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
        """Return every whole event; what a crash cut off is passed over. Raises StoreError where one is none."""
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
        """Return what the events lead to; raise StoreError where they can't be trusted."""
        state = fold(self.events())
        if (
            state.stage in (Stage.SUBMITTED, Stage.COMPLETED, Stage.FETCHED, Stage.FINISHED)
            and not state.request_id
        ):
            raise StoreError(f"{self.path}: it goes on with a request, and no line `submitted` says which")
        return state

    def _check_size(self, size: int) -> None:
        if size < self.size:
            raise StoreError(f"{self.path} was removed or cut while this command worked on it")

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            raise StoreError(f"{self.path}, line {number}: it is no JSON") from None
        if problem := _problem(event):
            raise StoreError(f"{self.path}, line {number}: {problem}")
        return event

    @staticmethod
    def _ends_whole(file: Any) -> bool:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def sync_folder(folder: Path) -> None:
    """Force a folder's entries to disk, so that a new file's name survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
    if not _is_date(event.get("at")):
        return "`at` is no date with a time zone"
    for name, kind in FACTS.get(event["event"], {}).items():
        if not _fits(event.get(name), kind):
            return f"`{name}` of `{event['event']}` is missing or of a wrong type"
    return ""


def _is_date(value: Any) -> bool:
    try:
        date = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return False
    return date.tzinfo is not None and 1970 <= date.year < 9999


def _fits(value: Any, kind: Any) -> bool:
    if kind is DATE:
        return value is None or _is_date(value)
    if isinstance(value, bool):
        return kind in (bool, bool | None)
    return isinstance(value, kind) and not (isinstance(value, NUMBER) and not 0 <= value < inf)
