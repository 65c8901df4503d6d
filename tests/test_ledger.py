"""What was spent is a fact in the store: by sweep, day and endpoint, and as CSV."""

from __future__ import annotations

import csv
import subprocess
import sys

import pytest

from kling_sweeps.ledger import read_ledger, totals
from kling_sweeps.request import GenerationRequest
from kling_sweeps.store import Store

TICKET = {"endpoint": "a/b", "request_id": "r", "status_url": "", "response_url": "", "cancel_url": "", "how": "answered"}
FAILED = {"stage": "generate", "error_type": "x", "message": "no"}
# What happened to each request, and what it counts as.
HISTORIES = {
    "spent": [("submitting", {}), ("submitted", TICKET), ("completed", {"inference_s": 1})],
    "in flight": [("submitting", {}), ("submitted", TICKET)],
    "unknown": [("submitting", {})],
    "perhaps": [("submitting", {}), ("submitted", TICKET), ("failed", {**FAILED, "may_have_cost": True})],
    "free": [("submitting", {}), ("not_submitted", {})],
}


@pytest.fixture
def store(tmp_path):
    """A store with one request of each kind, of two sweeps."""
    store = Store(tmp_path / "store" / "fal")
    for number, history in enumerate(HISTORIES.values()):
        request = GenerationRequest("a/b", {"prompt": "x"}, number, 1.4)
        entry = store.entry(request)
        entry.create(request)
        for event, facts in history:
            if event == "submitting":
                facts = {"sweep": "cfg" if number < 3 else "grid", "command": "c", "price_usd": 1.4}
            entry.journal.append(event, **facts)
    return store


def test_each_submission_is_counted_as_what_it_is(store, tmp_path):
    """Tells what was spent from what may have been, and leaves out what bought nothing."""
    lines = read_ledger(tmp_path / "store")
    assert sorted(line.attempt.cost for line in lines) == sorted(HISTORIES)
    assert totals(lines, "sweep") == {
        "cfg": {"spent": 1.4, "in flight": 1.4, "unknown": 1.4, "perhaps": 0.0, "videos": 1},
        "grid": {"spent": 0.0, "in flight": 0.0, "unknown": 0.0, "perhaps": 1.4, "videos": 0},
    }
    assert list(totals(lines, "endpoint")) == ["a/b"]
    assert list(totals(lines, "day")) == [lines[0].day]


def test_the_command_shows_and_exports_it(store, tmp_path):
    """Prints the sums and writes every submission to a file."""
    command = [sys.executable, "-m", "kling_sweeps.ledger", "--csv", "spent.csv"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "cfg" in done.stdout and "1.40" in done.stdout
    rows = list(csv.DictReader((tmp_path / "spent.csv").read_text().splitlines()))
    assert {row["cost"] for row in rows} == set(HISTORIES)
    assert {row["price_usd"] for row in rows} == {"1.4"}


def test_a_store_that_is_not_there_is_an_error(tmp_path):
    """Says how to name another one."""
    command = [sys.executable, "-m", "kling_sweeps.ledger"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "--store" in done.stderr
