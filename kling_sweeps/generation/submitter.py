"""Submits a request once, and finds it in fal's history where the answer was lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import datetime, timedelta

from kling_sweeps.errors import (
    CredentialsError,
    LockedAccountError,
    LostResultError,
    NeverSentError,
    PollError,
    RateLimitedError,
    RejectedError,
    UnknownError,
    submitted,
)
from kling_sweeps.experiment.request import GenerationRequest
from kling_sweeps.generation.context import GenerationContext
from kling_sweeps.generation.patience import Notify, Patience
from kling_sweeps.store.folder import Entry
from kling_sweeps.store.state_machine import Ticket

# How much earlier than here fal may have noted a submission.
NOTED_BEFORE = timedelta(minutes=5)
# How far this machine's clock may be ahead where nobody said what time it is at fal.
LARGEST_SKEW = timedelta(hours=25)
# The errors of a submission that fal certainly did not accept; after any other it may have.
NOT_BOUGHT = (NeverSentError, RejectedError, RateLimitedError, LockedAccountError, CredentialsError)


@dataclass(frozen=True)
class Submitter:
    """The steps of a request that fal has not accepted yet, or whose acceptance is unknown."""

    context: GenerationContext
    request: GenerationRequest
    entry: Entry
    notify: Notify

    async def submit(self) -> None:
        """Send the request; again after errors that say that fal has not accepted it and may do so later."""
        self.notify("submitting", "")
        patience = Patience(self.context.settings, self.notify)
        while True:
            try:
                return await self._submit_after_the_first()
            except (NeverSentError, RateLimitedError, LockedAccountError) as error:
                await patience.wait(error, "not submitted")

    async def _submit_after_the_first(self) -> None:
        """Submit; the first submission of a command alone, so that a wrong key is refused before any other is sent."""
        if submitted.is_set():
            try:
                await _to_its_end(self._submit_once())
                return
            except CredentialsError as error:
                raise RejectedError(str(error), error_type="unauthorized") from None
        async with self.context.first_submission:
            if not submitted.is_set():
                await _to_its_end(self._submit_once())
                submitted.set()
                return
        await self._submit_after_the_first()

    async def _submit_once(self) -> None:
        request = await self.context.pictures.addressed(self.request)
        price_usd = request.price_usd
        self.context.budget.reserve(self.entry.key, price_usd or 0.0)
        self.entry.journal.append(
            "submitting",
            provider_at=self.context.provider.now().isoformat(timespec="milliseconds"),
            sweep=self.context.sweep,
            command=self.context.command,
            price_usd=price_usd,
        )
        try:
            ticket = await self.context.provider.submit(request, self.context.sweep)
        except UnknownError:
            return  # the last event is "submitting", so that the stage is UNKNOWN
        except NOT_BOUGHT as error:
            self.entry.journal.append("not_submitted", error=str(error))
            self.context.budget.settle(self.entry.key, self.entry.state().committed_usd)
            raise
        # A lost repeat of equal arguments may have taken this id over; then its own is still to be found.
        self.entry.submitted(ticket, how="answered")

    async def look_up(self) -> None:
        """Look for a submission whose answer was lost in fal's history, for `history_wait_s` after it was sent.

        Raises UnknownError where the history does not list it and the user's policy does not pay again, and where
        the history can't be read for `history_wait_s` from now on.
        """
        self.notify("looking up", "its answer was lost")
        since, *again = self.entry.state().unanswered
        wait_s = self.context.settings.history_wait_s
        age_s = (self.context.provider.now() - (again or [since])[-1]).total_seconds()
        begin = time.monotonic()
        until, give_up = begin + wait_s - min(max(age_s, 0.0), wait_s), begin + wait_s
        while True:
            moment = time.monotonic()
            is_last = moment >= until
            try:
                if await self._adopt(since, LARGEST_SKEW if is_last else NOTED_BEFORE):
                    return
                if is_last:
                    break
            except (PollError, LockedAccountError, LostResultError, RejectedError) as error:
                if moment >= give_up:
                    raise self._unknown(since, f"can't be read ({error})") from None
                self.notify("looking up", str(error))
            await asyncio.sleep(self.context.settings.poll.interval(wait_s))
        if not self.context.may_resubmit(self.entry.key, self.entry.state()):
            raise self._unknown(since, "does not list it")
        await self.submit()

    async def _adopt(self, since: datetime, margin: timedelta) -> bool:
        """Claim the request in the history that has these arguments, is no other key's, and was sent nearest to `since`."""
        history = self.context.provider.history(self.request.endpoint, since - margin)
        mine = [past async for past in history if self.context.pictures.is_of(self.request, past.arguments)]
        mine.sort(key=lambda past: abs((past.sent_at or since) - since))
        # An id that an earlier attempt of this key was given is not this one's.
        earlier = {attempt.request_id for attempt in self.entry.journal.state().attempts}
        tickets = (Ticket(self.request.endpoint, past.request_id) for past in mine)
        return any(
            self.entry.submitted(ticket, how="adopted")
            for ticket in tickets
            if ticket.request_id not in earlier
        )

    def _unknown(self, since: datetime, history: str) -> UnknownError:
        cost = "what it costs" if self.request.price_usd is None else f"{self.request.price_usd:.2f} USD"
        return UnknownError(
            f"the submission of {since:%Y-%m-%d %H:%M:%S} UTC was sent, its answer was lost, and fal's "
            f"history {history}. It may have been bought, for {cost}. Run the command again later, "
            "which looks for it again, or with unknown=resubmit, which pays again"
        )


async def _to_its_end(work: Awaitable[None]) -> None:
    """Await work to its end, and only then raise a cancellation that came meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
