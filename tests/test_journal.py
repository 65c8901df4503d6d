"""A journal survives what stops a process, and says how far a generation came."""

import json
import shutil

import pytest

from kling_sweeps.errors import StoreError
from kling_sweeps.experiment.request import Product
from kling_sweeps.store.folder import Store
from kling_sweeps.store.journal import Journal
from kling_sweeps.store.state_machine import Stage

TICKET = {
    "endpoint": "a/b",
    "request_id": "r1",
    "status_url": "s",
    "response_url": "r",
    "cancel_url": "c",
    "how": "answered",
}


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "journal.jsonl")


def test_an_empty_journal_is_new(journal):
    """Begins with nothing bought."""
    assert journal.state().stage is Stage.NEW


def test_each_step_leads_to_its_stage(journal):
    """Follows a generation from its submission to its video."""
    steps = [
        ("submitting", {}, Stage.UNKNOWN),
        ("not_submitted", {}, Stage.NEW),
        ("submitting", {}, Stage.UNKNOWN),
        ("submitted", TICKET, Stage.SUBMITTED),
        ("started", {}, Stage.SUBMITTED),
        ("completed", {"inference_s": 2.5}, Stage.COMPLETED),
        ("fetched", {}, Stage.FETCHED),
        ("downloaded", {"seconds": 0.5}, Stage.FINISHED),
        ("measured", {"fingerprint": "f", "seconds": 1}, Stage.FINISHED),
    ]
    for event, facts, stage in steps:
        journal.append(event, **facts)
        assert journal.state().stage is stage
    state = journal.state()
    assert state.request_id == "r1"
    assert state.inference_s == 2.5
    assert state.download_s == 0.5
    assert state.queue_s >= 0


def test_half_a_line_is_passed_over(journal):
    """Reads what is whole after a crash, and goes on behind it."""
    journal.append("submitting")
    with open(journal.path, "ab") as file:
        file.write(b'{"at": "2026-01-01T00:00:00+00:00", "event": "subm')
    assert journal.state().stage is Stage.UNKNOWN
    journal.append("submitted", **TICKET)
    assert [event["event"] for event in journal.events()] == ["submitting", "submitted"]


def test_every_cut_of_a_journal_is_readable(journal):
    """Never reads more than was written, wherever the file ends."""
    for event, facts in (("submitting", {}), ("submitted", TICKET), ("completed", {"inference_s": 1})):
        journal.append(event, **facts)
    whole = journal.path.read_bytes()
    for length in range(len(whole)):
        journal.path.write_bytes(whole[:length])
        assert len(Journal(journal.path).events()) == whole[:length].count(b"\n")


def test_a_failure_is_kept_with_its_type(journal):
    """Gives the error back as it was recorded."""
    journal.append("submitting")
    journal.append("submitted", **TICKET)
    journal.append("failed", stage="generate", error_type="nsfw", message="no", may_have_cost=True)
    state = journal.state()
    assert state.stage is Stage.FAILED
    assert (str(state.error), state.error.error_type, state.error.stage) == ("no", "nsfw", "generate")
    assert state.error.may_have_cost


def test_a_retry_begins_anew(journal):
    """Forgets the request that failed, but not that it was there."""
    journal.append("submitting")
    journal.append("submitted", **TICKET)
    free = {"stage": "generate", "error_type": "x", "message": "no", "may_have_cost": False}
    journal.append("failed", **free, begins_anew=True)
    state = journal.state()
    assert (state.stage, state.ticket, state.error, state.retries) == (Stage.NEW, None, None, 1)


def line(event: str, **facts) -> str:
    return json.dumps({"at": "2026-01-01T00:00:00+00:00", "event": event, **facts})


LONE = {key: value for key, value in TICKET.items() if key != "request_id"}
FAILED = {"stage": "generate", "error_type": "x", "message": "no", "may_have_cost": True}
UNTRUSTED = [
    b"\xff\xfe\x00",
    b"\x00" * 64,
    "null",
    "[]",
    "17",
    '"submitted"',
    "{}",
    "not JSON",
    "[" * 100_000,
    '{"a":' * 100_000,
    '{"event": "submitting"}',
    '{"event": ["submitted"], "at": "2026-01-01T00:00:00+00:00"}',
    *(
        json.dumps({"event": "submitting", "at": at})
        for at in (None, 0, "", "soon", "2026-01-01", "2026-13-01T00:00:00Z")
    ),
    *(json.dumps({"event": "submitting", "at": f"{year}-01-01T00:00:00+00:00"}) for year in ("0001", "9999")),
    *(line("submitting", price_usd=price) for price in ("1.4", [1.4], True, -1, float("nan"), float("inf"))),
    line("submitting", sweep=["a"]),
    line("submitting", command=7),
    line("submitting", provider_at="soon"),
    line("submitted", **LONE),
    line("submitted", **LONE, request_id=""),
    line("submitted", **LONE, request_id=7),
    line("submitted", **{**TICKET, "status_url": 7}),
    line("completed", inference_s="fast"),
    line("completed", failed="no"),
    line("downloaded", seconds=[]),
    line("downloaded", bytes="many"),
    line("lost", message="gone"),
    line("measured", fingerprint=1, seconds=2),
    *(line("failed", **{**FAILED, name: None}) for name in FAILED),
    line("failed", **{**FAILED, "begins_anew": "yes"}),
    line("completed"),
    line("fetched"),
    line("downloaded"),
]


@pytest.mark.parametrize("bad", UNTRUSTED, ids=range(len(UNTRUSTED)))
def test_a_line_that_is_no_event_makes_the_journal_untrusted(journal, bad):
    """Names the file and the line, and leads nowhere, whatever follows."""
    journal.path.write_bytes((bad if isinstance(bad, bytes) else bad.encode()) + b"\n")
    with pytest.raises(StoreError, match=r"journal\.jsonl"):
        journal.state()
    entry = Store(journal.path.parent).find("ab" * 32, Product.VIDEO)
    entry.make_folder()
    shutil.copy(journal.path, entry.journal.path)
    state = entry.state()
    assert state.stage is Stage.DAMAGED and not state.is_open and not state.is_failed
    assert str(entry.folder) in str(state.error)


def test_any_text_goes_into_a_journal_and_comes_back(journal):
    """Keeps half an emoji, line breaks and escape sequences in ASCII, and shows what it tells as plain text."""
    odd = "half \ud83e, \x1b[31mred\x1b[0m, a\nb, 猫, \u2028"
    journal.append("submitting")
    journal.append("submitted", **{**TICKET, "request_id": odd})
    journal.append("failed", **{**FAILED, "message": odd})
    assert journal.path.read_bytes().isascii() and journal.path.read_bytes().count(b"\n") == 3
    state = journal.state()
    assert state.request_id == odd
    assert str(state.error).isprintable()


def test_a_journal_that_becomes_shorter_is_not_gone_on_with(journal):
    """Raises where somebody removed or cut what this process has written."""
    journal.append("submitting")
    journal.path.unlink()
    for go_on in (journal.state, lambda: journal.append("submitted", **TICKET)):
        with pytest.raises(StoreError, match="removed or cut"):
            go_on()
