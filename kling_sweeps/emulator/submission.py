"""One accepted submission, from its acceptance to its outcome."""

from __future__ import annotations

import time
import uuid
from dataclasses import asdict, dataclass, field
from typing import Any

IN_QUEUE, IN_PROGRESS, COMPLETED = "IN_QUEUE", "IN_PROGRESS", "COMPLETED"


@dataclass(frozen=True)
class Outcome:
    """What a request ended with: the result's status code and body, and what was charged, for so many seconds.

    A `video` is the name of a file; its body is written when it is asked for, since the server's
    own address is part of it. `error_type` is fal's word for a failure.
    """

    status_code: int
    body: Any = None
    video: str | None = None
    file_size: int = 0
    error: str | None = None
    error_type: str | None = None
    charged_usd: float = 0.0
    billable_units: int = 0


@dataclass
class Submission:
    """A submission and how far it got; times are seconds since 1970.

    `webhook` is called when it has ended, and has answered with the codes of `called`; `base_url` is where the client
    reached the emulator.
    """

    ordinal: int
    endpoint: str
    arguments: dict[str, Any]
    low_priority: bool = False
    start_timeout_s: float | None = None
    tags: str = ""
    webhook: str | None = None
    base_url: str = ""
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    submitted_at: float = field(default_factory=time.time)
    answered: bool = False
    started_at: float | None = None
    ended_at: float | None = None
    outcome: Outcome | None = None
    called: list[int] = field(default_factory=list)

    @property
    def status(self) -> str:
        """fal's status: there is none for a failure."""
        if self.outcome is not None:
            return COMPLETED
        return IN_QUEUE if self.started_at is None else IN_PROGRESS

    @property
    def app(self) -> str:
        """Owner and app, which are all of the endpoint that a request's addresses carry."""
        return "/".join(self.endpoint.split("/")[:2])

    @property
    def prompt(self) -> str:
        """The prompt as text, whatever was sent."""
        return str(self.arguments.get("prompt", ""))

    @property
    def inference_s(self) -> float:
        """How long the generation took."""
        return (self.ended_at or time.time()) - (self.started_at or self.ended_at or time.time())

    def end(self, outcome: Outcome) -> None:
        """Complete the request."""
        self.outcome, self.ended_at = outcome, time.time()

    def headers(self) -> dict[str, str]:
        """Return the headers of fal's that every answer about this request has."""
        headers = {"x-fal-request-id": self.request_id}
        if self.outcome is None:
            return headers
        charged = self.outcome.charged_usd > 0
        headers["x-fal-billable-units"] = str(self.outcome.billable_units if charged else 0)
        if self.outcome.error_type is not None:
            headers["x-fal-error-type"] = self.outcome.error_type
            headers["x-fal-retryable"] = str(self.outcome.status_code >= 500).lower()
        return headers

    def accepted_record(self) -> dict[str, Any]:
        """Return what has to be known to take the request up again after a restart."""
        names = (
            "ordinal",
            "endpoint",
            "arguments",
            "low_priority",
            "start_timeout_s",
            "tags",
            "webhook",
            "base_url",
            "request_id",
            "submitted_at",
        )
        return {name: getattr(self, name) for name in names}

    def ended_record(self) -> dict[str, Any]:
        """Return how the request ended."""
        outcome = None if self.outcome is None else asdict(self.outcome)
        return {"started_at": self.started_at, "ended_at": self.ended_at, "outcome": outcome}

    def ledger_entry(self) -> dict[str, Any]:
        """Return the request as `/_emulator/ledger` shows it."""
        return {
            "request_id": self.request_id,
            "endpoint": self.endpoint,
            "arguments": self.arguments,
            "tags": self.tags,
            "charged_usd": self.outcome.charged_usd if self.outcome else 0.0,
            "status": self.status,
            "status_code": self.outcome.status_code if self.outcome else None,
            "error_type": self.outcome.error_type if self.outcome else None,
            "answered": self.answered,
            "submitted_at": self.submitted_at,
            "ended_at": self.ended_at,
            "webhook": self.webhook,
            "called": self.called,
        }
