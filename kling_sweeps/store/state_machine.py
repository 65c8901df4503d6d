"""The state machine of a generation: the stage that each event of its journal leads to, and what fal charges.

`EVENTS` is its one table. How far a generation is, what each of its submissions costs, what the ledger sums up
and whether a video may be bought again are all read from the `State` to which `fold` reduces a journal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from kling_sweeps.errors import RunError
from kling_sweeps.experiment.settings import Policy
from kling_sweeps.untrusted import clean

# Of US dollars, behind the point: an answer may cost a few ten-thousandths of one.
DIGITS = 6


class Stage(StrEnum):
    """How far a generation has come."""

    NEW = "new"  # nothing is bought
    UNKNOWN = "unknown"  # a submission was sent, and its answer was lost
    SUBMITTED = "submitted"  # fal has accepted it
    COMPLETED = "completed"  # fal has finished it
    FETCHED = "fetched"  # its result is in the store
    FINISHED = "finished"  # its video, or what is kept of its answer, is in the store
    FAILED = "failed"  # fal reports a failure
    DAMAGED = "damaged"  # its files in the store can't be trusted, and nothing is done for it


# No event follows by itself.
OVER = (Stage.FINISHED, Stage.FAILED, Stage.DAMAGED)
# fal has completed the request.
COMPLETED = (Stage.COMPLETED, Stage.FETCHED, Stage.FINISHED)


class Cost(StrEnum):
    """What is known of the charge for one submission."""

    FREE = "free"  # fal charges nothing
    UNKNOWN = "unknown"  # its answer was lost: fal may charge it
    IN_FLIGHT = "in flight"  # fal charges it once it is completed
    SPENT = "spent"  # fal has charged it
    PERHAPS = "perhaps"  # it failed, and fal may charge it


@dataclass(frozen=True)
class Effect:
    """What an event changes: the stage, and the cost of the submission that it is about; None changes nothing.

    With `begins_anew` all that earlier events said of the request holds no longer.
    """

    stage: Stage | None = None
    cost: Cost | None = None
    begins_anew: bool = False


# An event has the same effect in every stage, with two exceptions, both where a second submission was sent while
# the answer to the first was lost: `not_submitted` leads back to UNKNOWN, and `submitted` is about the last of
# those whose cost is UNKNOWN, else about the last. A failure has a row for each of its flags; one that fal may
# charge, or has billed, never begins anew, whatever its other flag says.
EVENTS = {
    "submitting": Effect(Stage.UNKNOWN, Cost.UNKNOWN, begins_anew=True),
    "not_submitted": Effect(Stage.NEW, Cost.FREE),
    "submitted": Effect(Stage.SUBMITTED, Cost.IN_FLIGHT),
    "started": Effect(),
    "completed": Effect(Stage.COMPLETED, Cost.SPENT),
    # Where fal's history had the result, nothing else says that it was completed.
    "fetched": Effect(Stage.FETCHED, Cost.SPENT),
    "downloaded": Effect(Stage.FINISHED),
    "answered": Effect(Stage.FINISHED),
    "measured": Effect(),
    "billed": Effect(),
    "failed": Effect(Stage.FAILED, Cost.FREE),
    "failed may_have_cost": Effect(Stage.FAILED, Cost.PERHAPS),
    "failed begins_anew": Effect(Stage.NEW, Cost.FREE, begins_anew=True),
    "lost": Effect(),
    "unreadable": Effect(),
    "cancelling": Effect(),
    "cancelled": Effect(Stage.NEW, Cost.FREE, begins_anew=True),
    "forgotten": Effect(Stage.NEW, Cost.FREE, begins_anew=True),
    "retrying": Effect(Stage.NEW, begins_anew=True),
}


def _effect(event: Mapping[str, Any], is_billed: bool) -> Effect:
    name = event["event"]
    if name == "failed":
        flags = [flag for flag in ("may_have_cost", "begins_anew") if event.get(flag)]
        flags = ["may_have_cost"] if is_billed else flags
        name = " ".join(["failed", *flags[:1]])
    return EVENTS.get(name, Effect())


@dataclass(frozen=True)
class Ticket:
    """What re-attaches to a submitted request: its id, and the addresses fal gave with it."""

    endpoint: str
    request_id: str
    status_url: str = ""
    response_url: str = ""
    cancel_url: str = ""


@dataclass(frozen=True)
class Attempt:
    """One submission; `at` is in UTC, and `price_usd` is None where it had no known price.

    `told_usd` is what its result says that it has cost, `billed_usd` what fal says that it has charged; None as long as
    they do not.
    """

    at: datetime
    sweep: str
    command: str
    price_usd: float | None
    cost: Cost
    request_id: str | None = None
    told_usd: float | None = None
    billed_usd: float | None = None

    @property
    def is_unbilled(self) -> bool:
        """Tell whether fal may yet say what it has charged."""
        return self.billed_usd is None and bool(self.request_id) and self.cost in (Cost.SPENT, Cost.PERHAPS)

    def at_cost(self, cost: Cost, request_id: str | None) -> Attempt:
        """Return the attempt at a cost; what it was billed stays, unless it turns out to have been for nothing."""
        is_paid = self.billed_usd is not None and cost is not Cost.FREE
        return replace(
            self,
            cost=self.cost if is_paid else cost,
            billed_usd=self.billed_usd if is_paid else None,
            request_id=request_id or self.request_id,
        )

    def billed_by(self, request_id: str, usd: float) -> Attempt:
        """Return the attempt at what its request was charged; a failure that may have cost something has, or has not."""
        if self.request_id != request_id or self.cost is Cost.FREE:
            return self
        cost = Cost.FREE if self.cost is Cost.PERHAPS and not usd else Cost.SPENT
        return replace(self, billed_usd=usd, cost=cost)

    @property
    def known_usd(self) -> float | None:
        """Return what it was charged, or else said to cost, in USD; None as long as neither is told."""
        return self.told_usd if self.billed_usd is None else self.billed_usd

    @property
    def usd(self) -> float | None:
        """Return what it was charged, or else said to cost, or else expected to, in USD."""
        return self.price_usd if self.known_usd is None else self.known_usd

    @property
    def committed_usd(self) -> float:
        """Return what the attempt has cost or may have cost, in USD."""
        is_free = self.cost is Cost.FREE and self.billed_usd is None
        return 0.0 if is_free else self.usd or 0.0


@dataclass(frozen=True)
class State:
    """What a journal says of a generation.

    `attempts` are its submissions in their order. `unanswered` is when each submission whose answer was lost was
    sent, by the provider's clock; it is empty again once fal is known to have one of them. `submitting_at` is when
    the last was sent, by the same clock. `at_fal_since` is when fal's completion, or else its acceptance, was
    journalled, by this machine's clock. `queue_s`, `inference_s` and `download_s` are in seconds.

    `failed` is what fal's status said of a completed request. `retries` counts the failures since the last
    `retrying` after which it was submitted again without the user asking for it. `lost_by` is the id of the command
    that found that fal no longer has the result. `is_unreadable` tells that the result names no video, `is_blank`
    that the journal has no events. `video_bytes` is the size of the video when it was downloaded.
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
    attempts: tuple[Attempt, ...] = ()
    retries: int = 0
    is_started: bool = False
    lost_by: str | None = None
    unanswered: tuple[datetime, ...] = ()
    is_cancelled: bool = False
    is_unreadable: bool = False
    is_blank: bool = True
    video_bytes: int | None = None

    @property
    def request_id(self) -> str | None:
        return self.ticket.request_id if self.ticket else None

    @property
    def attempted_by(self) -> str | None:
        """Return the id of the command that submitted last."""
        return self.attempts[-1].command if self.attempts else None

    @property
    def spent_usd(self) -> float:
        """Return what fal has charged for all attempts, in USD."""
        return round(sum(one.committed_usd for one in self.attempts if one.cost is Cost.SPENT), DIGITS)

    @property
    def estimate_usd(self) -> float:
        """Return what all attempts that fal has charged were expected to cost, in USD."""
        return round(sum(one.price_usd or 0.0 for one in self.attempts if one.cost is Cost.SPENT), DIGITS)

    @property
    def committed_usd(self) -> float:
        """Return what fal has charged for all attempts, or may charge, in USD."""
        return round(sum(one.committed_usd for one in self.attempts), DIGITS)

    @property
    def is_open(self) -> bool:
        """Tell whether fal has, or may have, a request whose video is not in the store."""
        return self.stage not in (Stage.NEW, *OVER) and not self.is_unreadable

    @property
    def is_failed(self) -> bool:
        """Tell whether fal has failed the request or lost its result, so that a video takes another submission."""
        return self.stage is Stage.FAILED or self.lost_by is not None

    def may_be_bought_again(self, policy: Policy) -> bool:
        """Tell whether the user's policy allows another submission after one that failed, or whose answer was lost."""
        may_retry = policy.retry == "failed" and self.is_failed
        return may_retry or (policy.unknown == "resubmit" and self.stage is Stage.UNKNOWN)


def fold(events: Iterable[Mapping[str, Any]]) -> State:
    """Return the state that a journal's events lead to."""
    stage, retries, is_blank = Stage.NEW, 0, True
    attempts: list[Attempt] = []
    current = 0  # the attempt that events are about
    unanswered: list[datetime] = []
    last: dict[str, Mapping[str, Any]] = {}  # event of each name since the request was begun
    for event in events:
        is_billed = bool(attempts and attempts[current].billed_usd)
        name, effect, is_blank = event["event"], _effect(event, is_billed), False
        if name == "submitting":
            attempts.append(_attempt(event))
            current = len(attempts) - 1
            unanswered.append(_by_provider(event))
        elif name == "submitted":
            current = max((n for n, one in enumerate(attempts) if one.cost is Cost.UNKNOWN), default=current)
        if name == "answered" and attempts:
            attempts[current] = replace(attempts[current], told_usd=event.get("usd"))
        if name == "billed":
            attempts = [one.billed_by(event["request_id"], float(event["usd"])) for one in attempts]
        if effect.cost and attempts:
            attempts[current] = attempts[current].at_cost(effect.cost, event.get("request_id"))
        if name == "not_submitted":
            del unanswered[-1:]
        elif effect.stage is not Stage.UNKNOWN and effect.stage is not None:
            unanswered.clear()
        stage = Stage.UNKNOWN if unanswered else effect.stage or stage
        if name == "failed" and effect.begins_anew:
            retries += 1
        elif name == "retrying":
            retries = 0
        if effect.begins_anew:
            last.clear()
        if effect.stage in COMPLETED:
            last.pop("lost", None)
            last.pop("unreadable", None)
        if effect.stage is not Stage.NEW:
            last[name] = event
    return State(
        stage=stage,
        attempts=tuple(attempts),
        retries=retries,
        unanswered=tuple(unanswered),
        is_blank=is_blank,
        **_facts(last),
    )


def _attempt(submitting: Mapping[str, Any]) -> Attempt:
    at = datetime.fromisoformat(submitting["at"]).astimezone(UTC)
    sweep, command = submitting.get("sweep") or "", submitting.get("command") or ""
    return Attempt(at, sweep, command, submitting.get("price_usd"), Cost.UNKNOWN)


def _facts(last: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the fields of a state that the last event of each name says."""
    submitted, completed = last.get("submitted", {}), last.get("completed", {})
    failed, submitting = last.get("failed"), last.get("submitting")
    started = last.get("started") or completed
    inference_s = completed.get("inference_s")
    if inference_s is None and completed:
        inference_s = _seconds(started, completed)
    queue_s = _seconds(submitted, started) if submitted and started else None
    if queue_s is not None and inference_s is not None and started is completed:
        queue_s = max(0.0, queue_s - inference_s)
    at_fal = completed or submitted
    return {
        "ticket": Ticket(**{f.name: submitted.get(f.name) or "" for f in fields(Ticket)})
        if submitted
        else None,
        "submitting_at": submitting and _by_provider(submitting),
        "at_fal_since": datetime.fromisoformat(at_fal["at"]) if at_fal else None,
        "queue_s": queue_s,
        "inference_s": inference_s,
        "download_s": last.get("downloaded", {}).get("seconds"),
        "video_bytes": last.get("downloaded", {}).get("bytes"),
        "error": failed and _error(failed),
        "failed": completed.get("failed", False),
        "is_started": "started" in last,
        "lost_by": last.get("lost", {}).get("command"),
        "is_cancelled": "cancelling" in last,
        "is_unreadable": "unreadable" in last,
    }


def _by_provider(submitting: Mapping[str, Any]) -> datetime:
    """Return when a submission was sent by the provider's clock, which this machine's may be far from."""
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
