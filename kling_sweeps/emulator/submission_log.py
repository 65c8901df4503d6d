"""What an emulator remembers over a restart: an append-only file, a JSON object a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .submission import Outcome, Submission

NAME = "submissions.jsonl"


class SubmissionLog:
    """The events of all submissions; without a folder nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / NAME

    def accepted(self, submission: Submission) -> None:
        """Write down a new submission, before anything else happens to it."""
        self._append({"event": "accepted", **submission.accepted_record()})

    def answered(self, submission: Submission) -> None:
        """Write down that the client was told the request id."""
        self._append({"event": "answered", "request_id": submission.request_id})

    def ended(self, submission: Submission) -> None:
        """Write down a request's outcome."""
        self._append({"event": "ended", "request_id": submission.request_id, **submission.ended_record()})

    def read(self) -> list[Submission]:
        """Return all submissions in the order of their acceptance; a torn last line is cut off."""
        submissions: dict[str, Submission] = {}
        for event in self._events():
            _apply(submissions, event)
        return list(submissions.values())

    def _append(self, event: dict[str, Any]) -> None:
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            file.write(json.dumps(event, separators=(",", ":")).encode() + b"\n")

    def _events(self) -> list[dict[str, Any]]:
        if self._path is None or not self._path.exists():
            return []
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            with self._path.open("r+b") as file:
                file.truncate(len(whole))
        return [json.loads(line) for line in whole.splitlines()]


def _apply(submissions: dict[str, Submission], event: dict[str, Any]) -> None:
    kind = event.pop("event")
    if kind == "accepted":
        submissions[event["request_id"]] = Submission(**event)
        return
    submission = submissions[event["request_id"]]
    if kind == "answered":
        submission.answered = True
        return
    submission.started_at, submission.ended_at = event["started_at"], event["ended_at"]
    submission.outcome = Outcome(**event["outcome"])
