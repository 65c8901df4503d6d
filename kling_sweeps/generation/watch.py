"""When to ask for the status of one request.

While it waits in the queue, the interval is a share of the time that it probably still has to wait, by its position
and the pace at which that went down, and not more than a share of the time that it has waited. Once it runs, the
provider's status stream reports its end at once, and asking is a precaution; where there is no stream, the interval is
a share of the time that it has run. A request whose end a webhook tells is looked at in the beginning, which
is when the webhook may have come before it was waited for, and then seldom until it rings.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

from kling_sweeps.experiment.settings import PollSettings
from kling_sweeps.provider import Provider, Status
from kling_sweeps.store.state_machine import Ticket

# The assumed seconds per position in the queue, until the position has changed.
PLACE_S = 1.0


class Watch:
    """The status of one request, followed by asking and by the provider's status stream."""

    def __init__(self, provider: Provider, ticket: Ticket, poll: PollSettings) -> None:
        self.provider = provider
        self.ticket = ticket
        self.poll = poll
        self.begin = time.monotonic()
        self.running_since: float | None = None
        self.first_place: int | None = None
        self.place, self.moved_s = -1, 0.0
        self.pause_s = 0.0
        self.stream: _Stream | None = None
        self.bell, self.is_told = provider.bell(ticket), False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.stream:
            self.stream.close()

    @property
    def age_s(self) -> float:
        """Return for how many seconds it has been watched."""
        return time.monotonic() - self.begin

    async def next(self) -> Status:
        """Wait for and return the next status; raise what `Provider.status` raises."""
        status = await self._pause()
        if status is None:
            self.pause_s = self.poll.interval(self.age_s)  # should there be no answer
            status = await self.provider.status(self.ticket)
        if self.bell and self.is_told and status.stage == "COMPLETED":
            self.provider.missed()
        self.pause_s = self._until_next(status)
        return status

    async def _pause(self) -> Status | None:
        if self.stream:
            return await self.stream.next(self.pause_s)
        if self.bell is None:
            await asyncio.sleep(self.pause_s)
        else:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.pause_s):
                    await self.bell.wait()
                self.bell = None  # from now on it is asked after as any other
        return None

    def _until_next(self, status: Status) -> float:
        """Return how many seconds to wait before the status is asked for again."""
        if self.bell:
            self.is_told = True
            return self.poll.seldom()
        if status.stage != "IN_PROGRESS":
            return self.poll.interval(self._wait_s(status.queue_position or 0), self.poll.share * self.age_s)
        if self.running_since is None:
            self.running_since = time.monotonic()
        if self.stream is None or self.stream.broke_off:
            self.stream = _Stream(self.provider, self.ticket)
        is_told = self.stream.is_reporting
        return self.poll.max_s if is_told else self.poll.interval(time.monotonic() - self.running_since)

    def _wait_s(self, place: int) -> float:
        """Return an estimate of the seconds that the request still has to wait in the queue."""
        if self.first_place is None:
            self.first_place = place
        if place != self.place:
            self.place, self.moved_s = place, self.age_s
        gained = self.first_place - place
        if gained > 0:  # a queue that has stood still goes on doing so for a while
            return max((place + 1) * self.age_s / gained, self.age_s - self.moved_s)
        return max(self.age_s, (place + 1) * PLACE_S)


class _Stream:
    """A provider's status stream, read in a task of its own.

    `is_reporting` tells that it has reported and goes on, `broke_off` that it has reported and ended, so that a
    new stream is worth a try.
    """

    def __init__(self, provider: Provider, ticket: Ticket) -> None:
        self.told: asyncio.Queue[Status | None] = asyncio.Queue()
        self.is_reporting = self.broke_off = False
        self.task = asyncio.create_task(self._read(provider, ticket))

    async def _read(self, provider: Provider, ticket: Ticket) -> None:
        try:
            async for status in provider.watch(ticket):
                self.is_reporting = True
                self.told.put_nowait(status)
        except Exception:
            pass  # the status is asked for instead
        finally:
            self.broke_off, self.is_reporting = self.is_reporting, False
            self.told.put_nowait(None)  # ask now

    async def next(self, timeout_s: float) -> Status | None:
        """Return the next status of the stream, None where it ended or none came within the time-out."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self.told.get()
        except TimeoutError:
            return None

    def close(self) -> None:
        self.task.cancel()
