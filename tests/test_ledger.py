"""What was spent is a fact in the store: by sweep, day and endpoint, and as CSV."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from pathlib import Path

import pytest
import warm

from kling_sweeps.experiment.request import GenerationRequest
from kling_sweeps.ledger import read_ledger, totals
from kling_sweeps.store.folder import Store

TICKET = {
    "endpoint": "a/b",
    "request_id": "r",
    "status_url": "",
    "response_url": "",
    "cancel_url": "",
    "how": "answered",
}
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
    ledger = read_ledger(tmp_path / "store")
    assert ledger.problems == []
    assert sorted(line.attempt.cost for line in ledger.lines) == sorted(HISTORIES)
    assert totals(ledger.lines, "sweep") == {
        "cfg": {"spent": [1.4], "in flight": [1.4], "unknown": [1.4], "perhaps": []},
        "grid": {"spent": [], "in flight": [], "unknown": [], "perhaps": [1.4]},
    }
    assert list(totals(ledger.lines, "endpoint")) == ["a/b"]
    assert list(totals(ledger.lines, "day")) == [ledger.lines[0].day]


def ledger(folder: Path, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [warm.executable(), "-m", "kling_sweeps.ledger", *options]
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **env}, capture_output=True, text=True, timeout=60
    )


# What may be wrong with the first line of a journal, and what is shown of that submission.
ABSENT = {"sweep": "unknown", "price_usd": "1 unknown"}


@pytest.mark.parametrize("by", ["sweep", "day"])
@pytest.mark.parametrize("name", ABSENT)
def test_what_a_journal_does_not_say_is_unknown(store, tmp_path, name, by):
    """Shows the submission all the same, and every other one as it was."""
    spent = store.entry(GenerationRequest("a/b", {"prompt": "x"}, 0, 1.4)).journal.path
    first, *rest = spent.read_text().splitlines()
    event = {k: v for k, v in json.loads(first).items() if k != name}
    spent.write_text("\n".join([json.dumps(event), *rest]) + "\n")
    done = ledger(tmp_path, "--by", by, "--csv", "spent.csv")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list(csv.DictReader((tmp_path / "spent.csv").read_text().splitlines()))) == len(HISTORIES)
    if by == "sweep" or name == "price_usd":
        assert ABSENT[name] in done.stdout


BROKEN = {
    "request.json": ["", "{}", "[]", "null", "7", '"a"', "[" * 100_000, "\x00\xff"],
    "journal.jsonl": [
        "no json\n",
        "[]\n",
        '{"event": "submitted"}\n',
        '{"at": 3}\n',
        *(
            json.dumps({"at": at, "event": "submitting"}) + "\n"
            for at in ("yesterday", "0001-01-01T00:00:00+14:00")
        ),
        *(
            json.dumps({"at": "2026-01-01T00:00:00+00:00", "event": "submitting", **odd}) + "\n"
            for odd in ({"sweep": ["a"]}, {"price_usd": "cheap"}, {"price_usd": float("nan")})
        ),
    ],
}


@pytest.mark.parametrize(
    ("name", "content"), [(name, content) for name, contents in BROKEN.items() for content in contents]
)
def test_a_file_that_cannot_be_read_costs_no_other_its_line(store, tmp_path, name, content):
    """Names the file, and counts all others."""
    path = store.entry(GenerationRequest("a/b", {"prompt": "x"}, 4, 1.4)).folder / name
    path.write_bytes(content.encode("latin-1"))
    done = ledger(tmp_path, "--csv", "spent.csv", COLUMNS="300")
    assert (done.returncode, done.stderr) == (0, "")
    assert str(path.relative_to(tmp_path)) in done.stdout
    rows = list(csv.DictReader((tmp_path / "spent.csv").read_text().splitlines()))
    assert {row["cost"] for row in rows} >= set(HISTORIES) - {"free"}


def test_what_was_emulated_is_listed_by_itself(store, tmp_path):
    """Tells the emulator's submissions under --emulated, and fal's without it."""
    (tmp_path / "store" / "fal").rename(tmp_path / "store" / "emulator")
    assert "--emulated" in ledger(tmp_path).stdout
    emulated = ledger(tmp_path, "--emulated").stdout
    assert "cfg" in emulated and "1.40" in emulated and "for nothing" in emulated


def test_the_command_shows_and_exports_it(store, tmp_path):
    """Prints the sums and writes every submission to a file."""
    done = ledger(tmp_path, "--csv", "spent.csv")
    assert done.returncode == 0, done.stderr
    assert "cfg" in done.stdout and "1.40" in done.stdout
    rows = list(csv.DictReader((tmp_path / "spent.csv").read_text().splitlines()))
    assert {row["cost"] for row in rows} == set(HISTORIES)
    assert {row["price_usd"] for row in rows} == {"1.4"}


def test_a_store_that_is_not_there_is_an_error(tmp_path):
    """Says how to name another one."""
    done = ledger(tmp_path)
    assert done.returncode == 2
    assert "--store" in done.stderr
