"""A journal survives what stops a process, and says how far a generation came."""

import pytest

from kling_sweeps.journal import Journal, Stage

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
