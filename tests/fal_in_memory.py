"""fal as a model: what it accepts, makes, charges and lists, and everything it may keep to itself."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from interleaving import Clock, gate

from kling_sweeps.errors import (
    DownloadError,
    GenerationError,
    LockedAccountError,
    LostResultError,
    NeverSentError,
    PollError,
    RateLimitedError,
    RejectedError,
    UnknownError,
    VideoError,
)
from kling_sweeps.experiment.request import GenerationRequest, Product
from kling_sweeps.provider import CANCELLED, PastRequest, Status
from kling_sweeps.providers.download import EXPIRED
from kling_sweeps.store.state_machine import Ticket

QUEUE_S, RUN_S, LATE_S = 1.0, 2.0, 3.0


class Answer(StrEnum):
    """What becomes of a submission: accepted in the first three, and known to be in the first alone."""

    TOLD = "told"
    DROPPED = "dropped"
    LATE = "late"  # it arrives when nobody waits any more
    VANISHED = "vanished"
    REFUSED = "refused"
    BUSY = "busy"
    LOCKED = "locked"
    UNREACHABLE = "unreachable"


class End(StrEnum):
    """How a generation ends."""

    VIDEO = "video"
    FREE = "failed, free"
    CHARGED = "failed, charged"
    CANCELLED = "cancelled"


class Trouble(StrEnum):
    """What is wrong with the answer to any other question."""

    NONE = "none"
    SILENT = "silent"
    LOCKED = "locked"
    LOST = "lost"
    CORRUPT = "corrupt"


REFUSALS = {
    Answer.REFUSED: lambda: RejectedError("no"),
    Answer.BUSY: lambda: RateLimitedError("not now", retry_after_s=1.0),
    Answer.LOCKED: lambda: LockedAccountError("pay", may_have_cost=False),
    Answer.UNREACHABLE: lambda: NeverSentError("no network"),
}


@dataclass
class Accepted:
    """A request that fal has: the command that sent it, and how it ends."""

    request_id: str
    command: str
    request: GenerationRequest
    at: float
    end: End

    @property
    def is_paid(self) -> bool:
        """Tell whether it costs money, or is going to."""
        return self.end in (End.VIDEO, End.CHARGED)

    @property
    def video(self) -> bytes:
        return f"the video of {self.request_id}".encode()

    def result(self) -> dict[str, Any]:
        if self.request.product is Product.ANSWER:
            return {"output": f"the answer to {self.request_id}", "usage": {"cost": self.request.price_usd}}
        return {"video": {"url": f"https://v3.fal.media/{self.request_id}"}}

    def stage(self, now: float) -> str:
        if self.end is End.CANCELLED or now >= self.at + QUEUE_S + RUN_S:
            return "COMPLETED"
        return "IN_QUEUE" if now < self.at + QUEUE_S else "IN_PROGRESS"


@dataclass
class Fal:
    """All that fal knows, and the luck that its customers are going to have with it.

    `lag_s` is how long after its acceptance a request appears in the history.
    """

    clock: Clock
    answers: deque[Answer] = field(default_factory=deque)
    ends: deque[End] = field(default_factory=deque)
    troubles: deque[Trouble] = field(default_factory=deque)
    lag_s: float = 0.0
    accepted: dict[str, Accepted] = field(default_factory=dict)
    allow: Callable[[str], None] = lambda command: None

    def accept(self, command: str, request: GenerationRequest, delay_s: float) -> str:
        """Take a request in, `delay_s` seconds from now, and return its id."""
        self.allow(command)
        request_id = f"r-{len(self.accepted)}"
        end = self.ends.popleft() if self.ends else End.VIDEO
        self.accepted[request_id] = Accepted(request_id, command, request, self.clock.now + delay_s, end)
        return request_id

    def arrived(self) -> list[Accepted]:
        return [one for one in self.accepted.values() if one.at <= self.clock.now]

    def paid(self) -> list[Accepted]:
        return [one for one in self.accepted.values() if one.is_paid]

    def cancel_last(self) -> None:
        """Cancel the request that came last, if it still waits; anybody with the account can."""
        waiting = [one for one in self.arrived() if one.stage(self.clock.now) == "IN_QUEUE"]
        if waiting:
            waiting[-1].end = End.CANCELLED

    def clear(self) -> None:
        """Make everything well: what is late arrives, all is listed, nothing fails any more."""
        self.answers.clear()
        self.ends.clear()
        self.troubles.clear()
        self.lag_s = 0.0
        self.clock.now += LATE_S


@dataclass
class FalProvider:
    """fal as one command sees it; each method is a Provider's."""

    fal: Fal
    command: str
    sent: dict[str, str | None] = field(default_factory=dict)
    is_ephemeral = False
    name = "fal"

    async def submit(self, request: GenerationRequest, sweep: str) -> Ticket:
        gate()
        answer = self.fal.answers.popleft() if self.fal.answers else Answer.TOLD
        self.sent[request.key] = None
        if answer in (Answer.TOLD, Answer.DROPPED, Answer.LATE):
            delay_s = LATE_S if answer is Answer.LATE else 0.0
            self.sent[request.key] = self.fal.accept(self.command, request, delay_s)
        await self._under_way()
        if answer is Answer.TOLD:
            return Ticket(request.endpoint, self.sent[request.key])
        raise REFUSALS.get(answer, lambda: UnknownError("the answer was lost"))()

    async def status(self, ticket: Ticket) -> Status:
        asked = await self._about(ticket)
        stage = asked.stage(self.fal.clock.now)
        if stage != "COMPLETED":
            return Status(stage, queue_position=0 if stage == "IN_QUEUE" else None)
        return Status(stage, inference_s=RUN_S, failed=asked.end is not End.VIDEO)

    def bell(self, ticket: Ticket) -> asyncio.Event | None:
        """Call nobody."""

    def missed(self) -> None: ...

    async def watch(self, ticket: Ticket) -> AsyncIterator[Status]:
        """Tell nothing: a stream is for speed alone."""
        raise PollError("there is no stream")
        yield

    async def result(self, ticket: Ticket, failed: bool, product: Product) -> dict[str, Any]:
        asked = await self._about(ticket)
        if asked.stage(self.fal.clock.now) != "COMPLETED":
            raise PollError("Request is still in progress")
        if asked.end is End.VIDEO:
            return asked.result()
        kind = CANCELLED if asked.end is End.CANCELLED else "failed"
        raise GenerationError("it failed", error_type=kind, may_have_cost=asked.end is End.CHARGED)

    def now(self) -> datetime:
        return self.fal.clock.date()

    def history(self, endpoint: str, start: datetime) -> Pages:
        return Pages(self)

    async def download(self, url: str, path: Path) -> None:
        trouble = await self._answer()
        if trouble is Trouble.LOST:
            raise DownloadError("it is gone", error_type=EXPIRED)
        if trouble in (Trouble.SILENT, Trouble.LOCKED):
            raise DownloadError("it broke off")
        video = self.fal.accepted[url.rpartition("/")[2]].video
        there = path.read_bytes() if path.exists() else b""
        path.write_bytes(there + video[len(there) : len(video) // 2])
        gate()
        rest = path.read_bytes()
        path.write_bytes(b"no video" if trouble is Trouble.CORRUPT else rest + video[len(rest) :])

    async def verify(self, path: Path) -> None:
        """Stand in for the workers: a video is whole, and one of fal's."""
        gate()
        if path.read_bytes() not in [one.video for one in self.fal.accepted.values()]:
            raise VideoError("it can't be decoded")

    async def _about(self, ticket: Ticket) -> Accepted:
        trouble = await self._answer()
        if trouble is Trouble.LOST:
            raise LostResultError("fal does not know it")
        _speak(trouble)
        return self.fal.accepted[ticket.request_id]

    async def _answer(self) -> Trouble:
        gate()
        trouble = self.fal.troubles.popleft() if self.fal.troubles else Trouble.NONE
        await self._under_way()
        return trouble

    async def _under_way(self) -> None:
        await asyncio.sleep(0.1)


@dataclass
class Pages:
    """The history as an asynchronous iterator."""

    provider: FalProvider
    items: list[PastRequest] | None = None

    def __aiter__(self) -> Pages:
        return self

    async def __anext__(self) -> PastRequest:
        if self.items is None:
            self.items = await self._listed()
        if not self.items:
            raise StopAsyncIteration
        return self.items.pop()

    async def _listed(self) -> list[PastRequest]:
        fal = self.provider.fal
        _speak(await self.provider._answer())
        return [_past(one, fal.clock) for one in fal.arrived() if one.at + fal.lag_s <= fal.clock.now]


def _past(one: Accepted, clock: Clock) -> PastRequest:
    is_made = one.end is End.VIDEO and one.stage(clock.now) == "COMPLETED"
    sent_at = Clock(one.at).date()
    return PastRequest(one.request_id, sent_at, one.request.arguments, one.result() if is_made else None)


def _speak(trouble: Trouble) -> None:
    if trouble in (Trouble.SILENT, Trouble.CORRUPT):
        raise PollError("no answer")
    if trouble is Trouble.LOCKED:
        raise LockedAccountError("pay")
