"""What a provider does: it takes requests, queues them, and answers about them by id."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from kling_sweeps.experiment.price import Price
from kling_sweeps.experiment.request import GenerationRequest, Product
from kling_sweeps.store.state_machine import Ticket

# The type of the error that a cancelled request has for a result.
CANCELLED = "client_cancelled"
# The type of the error of a request one of whose files fal could not fetch.
FILE_GONE = "file_download_error"


@dataclass(frozen=True)
class Status:
    """What a provider says of a request: `stage` is IN_QUEUE, IN_PROGRESS or COMPLETED.

    `queue_position` counts from 0, `inference_s` is the provider's own measure in seconds, `failed`
    tells a completed request that has an error for a result, `log` is the last line of its log.
    """

    stage: str
    queue_position: int | None = None
    inference_s: float | None = None
    failed: bool = False
    log: str = ""


@dataclass(frozen=True)
class PastRequest:
    """One line of a provider's request history."""

    request_id: str
    sent_at: datetime | None
    arguments: Mapping[str, Any] | None
    output: Mapping[str, Any] | None


class Provider(Protocol):
    """Generates videos, and answers about them, paid for once each. All methods belong to one event loop.

    `is_ephemeral` marks a provider that was started for this command and knows no earlier requests.
    """

    is_ephemeral: bool

    async def check(self, endpoint: str) -> None:
        """Raise CredentialsError or UnavailableError where submitting could only fail."""

    async def prices(self, endpoints: Sequence[str]) -> Mapping[str, Price]:
        """Return what the provider says today that a unit of each endpoint costs; raise PollError, LockedAccountError."""

    async def bills(self, request_ids: Sequence[str], start: datetime, end: datetime) -> Mapping[str, float]:
        """Return what requests of this time were charged in USD, as far as that is told yet; raise as `prices` does."""

    async def submit(self, request: GenerationRequest, sweep: str) -> Ticket:
        """Submit once, for a sweep; raise a SubmissionError that says whether it may have been bought."""

    async def status(self, ticket: Ticket) -> Status:
        """Return where a request is; raise PollError, LockedAccountError or LostResultError.

        Raises GenerationError where that alone tells that it failed.
        """

    def bell(self, ticket: Ticket) -> asyncio.Event | None:
        """Return what is set when the provider says unasked that a request is over; None where it does not."""

    def missed(self) -> None:
        """Be told that a request was over long ago, and its bell was not set."""

    def watch(self, ticket: Ticket) -> AsyncIterator[Status]:
        """Yield a request's status as it changes, for as long as the provider tells; raise PollError."""

    async def result(self, ticket: Ticket, failed: bool, product: Product = Product.VIDEO) -> dict[str, Any]:
        """Return a completed request's result, which has the product; raise GenerationError with what failed instead.

        `failed` is what the status said. Raises PollError where asking again may help, and
        UnreadableResultError where that would only show the same.
        """

    async def cancel(self, ticket: Ticket) -> None:
        """Ask to cancel, which comes to nothing where it has completed already."""

    def now(self) -> datetime:
        """Return the provider's time, which is the history's; as far as it is not known, this machine's."""

    def history(self, endpoint: str, start: datetime) -> AsyncIterator[PastRequest]:
        """Yield the requests sent to an endpoint since `start`, the provider's time, with their arguments."""

    async def upload(self, content: bytes, kind: str, file_name: str) -> str:
        """Upload a file of a media type, for nothing; return its address. Raises a SubmissionError of nothing bought."""

    async def download(self, url: str, path: Path) -> None:
        """Fetch a file whole; raise DownloadError."""

    async def close(self) -> None:
        """Close all connections."""
