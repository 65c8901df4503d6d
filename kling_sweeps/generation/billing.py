"""What fal has really charged, by its billing events, which may come hours after a video."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from filelock import Timeout

from kling_sweeps.errors import LockedAccountError, LostResultError, PollError, StoreError
from kling_sweeps.provider import Provider
from kling_sweeps.store.folder import Entry
from kling_sweeps.store.state_machine import Attempt, fold

# Of one question to fal: the most requests, and the longest time between them.
MOST_IDS, LONGEST = 50, timedelta(days=80)
# How far a request's own time may be from when it was sent by this machine's clock.
MARGIN = timedelta(days=2)


@dataclass(frozen=True)
class Unbilled:
    """A submission of which fal has not said what it has charged."""

    entry: Entry
    attempt: Attempt


def unbilled(entries: Iterable[Entry]) -> list[Unbilled]:
    """Return the submissions of generations that fal may yet bill, the oldest first."""
    found = []
    for entry in entries:
        try:
            made = fold(entry.journal.events()).attempts
        except (OSError, StoreError):
            continue  # which is reported where it matters
        found += [Unbilled(entry, one) for one in made if one.is_unbilled]
    return sorted(found, key=lambda one: one.attempt.at)


async def reconcile(provider: Provider, open_bills: Iterable[Unbilled]) -> list[tuple[Unbilled, float]]:
    """Journal what fal says that it has charged; return the submissions that it said something of, with that in USD.

    Raises LockedAccountError where the key may not ask, PollError where fal does not answer.
    """
    told: list[tuple[Unbilled, float]] = []
    for batch in _batches(open_bills):
        ids = {str(one.attempt.request_id): one for one in batch}
        start, end = (
            batch[0].attempt.at - MARGIN,
            min(batch[-1].attempt.at + MARGIN, datetime.now(UTC) + MARGIN),
        )
        try:
            found = await provider.bills(list(ids), start, end)
        except LostResultError as error:
            raise PollError(str(error)) from None
        told += [(ids[name], usd) for name, usd in found.items() if name in ids and _journal(ids[name], usd)]
    return told


async def ask(provider: Provider, entries: Iterable[Entry]) -> str | None:
    """Do as `reconcile` does; return why the key may not ask, None where it may or fal does not answer."""
    try:
        await reconcile(provider, unbilled(entries))
    except LockedAccountError as error:
        return str(error)
    except PollError:
        pass  # the next command asks again
    return None


def _batches(open_bills: Iterable[Unbilled]) -> Iterator[list[Unbilled]]:
    batch: list[Unbilled] = []
    for one in open_bills:
        if batch and (len(batch) == MOST_IDS or one.attempt.at - batch[0].attempt.at > LONGEST):
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


def _journal(one: Unbilled, usd: float) -> bool:
    """Journal a bill; return whether that was possible."""
    try:
        with one.entry.lock(timeout_s=0):
            one.entry.journal.append("billed", request_id=one.attempt.request_id, usd=usd)
    except (Timeout, OSError):
        return False  # another command works on it, or the store can't be written
    return True
