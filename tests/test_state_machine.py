"""The state machine of a generation never lets a video be paid for twice, and never drops what fal may charge."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from kling_sweeps.experiment.settings import Policy
from kling_sweeps.store.state_machine import COMPLETED, EVENTS, OVER, Cost, Stage, State, fold

PACKAGE = Path(__file__).parents[1] / "kling_sweeps"
PRICE_USD = 1.4
Events = tuple[dict[str, Any], ...]
FAILURES = {"failed", "failed may_have_cost", "failed begins_anew"}
# The events after which fal certainly charges nothing.
REFUNDS = {"not_submitted", "failed", "failed begins_anew", "cancelled", "forgotten"}
LEAVES = {"lost", "retrying", "forgotten"}
# What the harness journals in each stage: a result that can't be read any more leads from FINISHED back to its fetching.
JOURNALLED = {
    Stage.NEW: {"submitting"},
    Stage.UNKNOWN: {"submitting", "not_submitted", "submitted", "forgotten"},
    Stage.SUBMITTED: {"started", "completed", "fetched", "cancelling", "cancelled"} | FAILURES | LEAVES,
    Stage.COMPLETED: {"fetched", "unreadable", "cancelled"} | FAILURES | LEAVES,
    Stage.FETCHED: {"fetched", "downloaded", "answered"} | FAILURES | LEAVES,
    Stage.FINISHED: {"measured", "billed", "fetched", "downloaded", "lost", "retrying"},
    Stage.FAILED: {"retrying", "billed"},
}
# Journals, each with its stage, the number of the event that has the id of its request, and what its attempts cost.
EXAMPLES = """
submitting                                                              unknown    -  unknown
submitting not_submitted                                                new        -  free
submitting submitted                                                    submitted  1  in flight
submitting submitted started cancelling                                 submitted  1  in flight
submitting submitted cancelling cancelled                               new        -  free
submitting submitted started completed                                  completed  1  spent
submitting submitted completed unreadable                               completed  1  spent
submitting submitted completed lost                                     completed  1  spent
submitting submitted completed lost retrying                            new        -  spent
submitting submitted completed fetched                                  fetched    1  spent
submitting submitted fetched                                            fetched    1  spent
submitting submitted fetched downloaded                                 finished   1  spent
submitting submitted completed fetched downloaded                       finished   1  spent
submitting submitted completed fetched downloaded measured              finished   1  spent
submitting submitted completed fetched downloaded retrying submitting   unknown    -  spent, unknown
submitting submitted completed failed                                   failed     1  free
submitting submitted completed failed:may_have_cost                     failed     1  perhaps
submitting submitted completed failed:may_have_cost retrying            new        -  perhaps
submitting submitted completed fetched downloaded billed                finished   1  spent
submitting submitted completed fetched answered                         finished   1  spent
submitting submitted completed fetched answered billed                  finished   1  spent
submitting submitted completed failed:may_have_cost billed              failed     1  spent
submitting submitted completed failed:begins_anew                       new        -  free
submitting submitted completed forgotten                                new        -  free
submitting submitted failed:begins_anew submitting submitted            submitted  4  free, in flight
submitting submitting                                                   unknown    -  unknown, unknown
submitting submitting submitted                                         submitted  2  unknown, in flight
submitting submitting not_submitted                                     unknown    -  unknown, free
submitting submitting not_submitted submitted                           submitted  3  in flight, free
submitting submitting submitted completed                               completed  2  unknown, spent
"""


def journalled(kind: str, number: int) -> dict[str, Any]:
    """Return an event of a row of the table, the `number`th of its journal."""
    facts: dict[str, Any] = {}
    name, _, flag = kind.partition(" ")
    if name == "submitting":
        facts = {"sweep": "cfg", "command": f"command-{number}", "price_usd": PRICE_USD}
    elif name == "submitted":
        facts = {"endpoint": "a/b", "request_id": f"r-{number}"}
    elif name == "failed":
        facts = {"stage": "generate", "error_type": "x", "message": "no", "may_have_cost": False}
        facts |= {flag: True} if flag else {}
    elif name == "billed":
        facts = {"request_id": "r-1", "usd": PRICE_USD}
    elif name == "lost":
        facts = {"command": f"command-{number}"}
    return {"kind": kind, "event": name, "at": f"2026-01-01T00:00:{number:02}+00:00", **facts}


def sequences(length: int, begin: Events = ()) -> Iterator[Events]:
    """Yield all sequences of events up to a length."""
    yield begin
    if len(begin) < length:
        for kind in EVENTS:
            yield from sequences(length, (*begin, journalled(kind, len(begin))))


@cache
def all_journals() -> list[tuple[Events, State]]:
    """Return all journals of up to seven events that the harness can write, with their states."""
    return list(journals(7))


def journals(length: int, begin: Events = (), state: State = State()) -> Iterator[tuple[Events, State]]:  # noqa: B008
    """Yield all journals that the harness can write, up to a length, with their states."""
    yield begin, state
    if len(begin) < length:
        for kind in sorted(JOURNALLED[state.stage]):
            events = (*begin, journalled(kind, len(begin)))
            yield from journals(length, events, fold(events))


def permissions(events: Events) -> int:
    """Count how often the user's policy allowed to pay again: retry=failed, and unknown=resubmit."""
    told = [number for number, event in enumerate(events) if event["kind"] in ("retrying", "submitting")]
    return sum(
        events[number]["kind"] == "retrying" or fold(events[:number]).stage is Stage.UNKNOWN
        for number in told
    )


def charged(state: State) -> list[Any]:
    """Return the attempts that fal has charged, or may charge."""
    return [attempt for attempt in state.attempts if attempt.cost is not Cost.FREE]


@pytest.mark.parametrize("example", EXAMPLES.strip().splitlines(), ids=lambda line: line.partition("  ")[0])
def test_a_journal_says_where_its_request_is_and_what_each_attempt_costs(example):
    """Leads to its stage, and tells a charge from what may be one."""
    kinds, stage, submitted, costs = re.split(r"\s{2,}", example)
    state = fold(journalled(kind.replace(":", " "), number) for number, kind in enumerate(kinds.split()))
    assert (state.stage, ", ".join(one.cost for one in state.attempts)) == (stage, costs)
    assert state.request_id == (None if submitted == "-" else f"r-{submitted}")


@pytest.mark.slow
def test_in_any_order_events_drop_no_charge():
    """Lists every submission, and lowers what may be charged by one price, after events that say fal charges nothing."""
    before: dict[int, State] = {}
    for events in sequences(4):
        state = before[len(events)] = fold(events)
        assert len(state.attempts) == sum(event["kind"] == "submitting" for event in events)
        assert state.spent_usd <= state.committed_usd == pytest.approx(PRICE_USD * len(charged(state)))
        assert bool(state.unanswered) == (state.stage is Stage.UNKNOWN)
        if events:
            lowered = before[len(events) - 1].committed_usd - state.committed_usd
            most = PRICE_USD if events[-1]["kind"] in REFUNDS else 0
            assert lowered <= most + 1e-9, events


def test_no_video_is_paid_for_twice():
    """Allows, in any journal, one charge more than the user's policy did, and none more before a submission."""
    for events, state in all_journals():
        most = permissions(events) + (state.stage is not Stage.NEW)
        assert len(charged(state)) <= most, events


def test_nothing_that_fal_may_charge_is_lost():
    """Keeps, in any journal, the request that fal has, and counts it as charged, or as what may be."""
    for events, state in all_journals():
        if state.stage in (Stage.SUBMITTED, *COMPLETED):
            assert state.request_id in {attempt.request_id for attempt in charged(state)}, events
        if state.stage is Stage.COMPLETED:
            (its,) = [attempt for attempt in state.attempts if attempt.request_id == state.request_id]
            assert its.cost is Cost.SPENT, events
        if state.is_open:
            assert state.committed_usd >= PRICE_USD, events


def test_what_fal_has_is_bought_again_only_where_it_failed_or_its_answer_was_lost():
    """Lets no policy pay again for what is new, at fal or in the store, and none but its own for what went wrong."""
    retry, resubmit = Policy(retry="failed"), Policy(unknown="resubmit")
    for events, state in all_journals():
        assert not state.may_be_bought_again(Policy())
        assert state.may_be_bought_again(resubmit) == (state.stage is Stage.UNKNOWN), events
        is_lost = "lost" in _since_begun(events)
        assert state.may_be_bought_again(retry) == (state.stage is Stage.FAILED or is_lost), events
        assert state.is_failed == state.may_be_bought_again(retry)
        assert not (state.is_open and state.stage in (Stage.NEW, *OVER))


def _since_begun(events: Sequence[dict[str, Any]]) -> list[str]:
    """Return the kinds of events since the request was begun or fal was last seen to have its result."""
    kinds = [event["kind"] for event in events]
    ends = {kind for kind, effect in EVENTS.items() if effect.begins_anew or effect.stage in COMPLETED}
    return kinds[max((n for n, kind in enumerate(kinds) if kind in ends), default=0) :]


def test_an_unknown_event_changes_nothing():
    """Reads the journal of a later version as far as it is known."""
    events = [journalled(kind, number) for number, kind in enumerate(("submitting", "submitted"))]
    other = {"event": "admired", "at": "2026-01-01T00:00:09+00:00"}
    assert fold([*events, other]) == fold(events)


def test_the_table_has_the_events_that_are_written():
    """Has a row for each event that the harness journals, and no other."""
    written = {"failed"}
    for path in [
        *PACKAGE.glob("generation/*.py"),
        *PACKAGE.glob("store/*.py"),
        PACKAGE / "sweep" / "scheduler.py",
    ]:
        written |= set(re.findall(r'journal\.append\(\s*"(\w+)"', path.read_text(encoding="utf-8")))
    assert written == {kind.partition(" ")[0] for kind in EVENTS}
    assert set().union(*JOURNALLED.values()) == EVENTS.keys()


def test_what_an_answer_says_that_it_cost_stands_until_fal_bills_it():
    """Counts its bound before, what it says then, and fal's bill in the end, which may still be asked for."""
    events = [
        journalled(kind, n) for n, kind in enumerate(("submitting", "submitted", "completed", "fetched"))
    ]
    told = [*events, journalled("answered", 4) | {"usd": PRICE_USD / 4}]
    billed = [*told, journalled("billed", 5) | {"usd": PRICE_USD / 2}]
    for journal, usd, is_unbilled in (
        ([*events, journalled("answered", 4)], PRICE_USD, True),
        (told, PRICE_USD / 4, True),
        (billed, PRICE_USD / 2, False),
    ):
        (attempt,) = fold(journal).attempts
        assert (attempt.usd, attempt.committed_usd, attempt.is_unbilled) == (usd, usd, is_unbilled)
