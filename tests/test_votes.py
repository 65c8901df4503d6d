"""Votes are kept: of several raters at once, over kills and undoing, and as a table beside the runs."""

from __future__ import annotations

import multiprocessing
from datetime import UTC, datetime

import pytest
import voting

from kling_sweeps.analysis import votes_df
from kling_sweeps.analysis.votes import COLUMNS
from kling_sweeps.errors import StoreError
from kling_sweeps.store.votes import Answer, Study, VoteLog, votes_of

QUESTION = "Which looks better?"
STUDY = Study("cfg", "cfg_scale", QUESTION)
LOW, HIGH = 0.125, 0.875


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> voting.Voting:
    """Make a sweep of two prompts under two settings."""
    return voting.prepared(tmp_path_factory.mktemp("sweep"))


@pytest.fixture
def cast(sweep):
    """Give what votes for a rater, and remove all votes in the end."""

    def vote(rater="Ann", left=LOW, right=HIGH, answer=Answer.LEFT, prompt="fox", study=STUDY) -> VoteLog:
        log = VoteLog(sweep.root, study, rater)
        log.vote(sweep.keys[prompt, left, 0], sweep.keys[prompt, right, 0], answer)
        return log

    yield vote
    for file in sweep.files():
        file.unlink()


def table(sweep, **given):
    return votes_df("cfg", tracking_uri=sweep.uri, store=sweep.store, **given)


def test_without_votes_there_is_an_empty_table(sweep):
    """Has the columns, and no row."""
    found = table(sweep)
    assert tuple(found) == COLUMNS
    assert found.empty
    assert found.attrs["factor"] is None


def test_a_row_says_who_preferred_what(sweep, cast):
    """Gives levels as the runs have them, the outcome for the left side, and what the vote was on."""
    cast(answer=Answer.LEFT)
    cast(rater="Bob", left=HIGH, right=LOW, answer=Answer.RIGHT)
    cast(prompt="potter", answer=Answer.TIE)
    cast(prompt="potter", rater="Bob", answer=Answer.BAD)
    found = table(sweep)
    told = found[["prompt", "rater", "left", "right", "outcome", "bad"]].values.tolist()
    assert told == [
        ["fox", "Ann", LOW, HIGH, 1.0, False],
        ["fox", "Bob", HIGH, LOW, 0.0, False],
        ["potter", "Ann", LOW, HIGH, 0.5, False],
        ["potter", "Bob", LOW, HIGH, 0.5, True],
    ]
    assert found.attrs == {"factor": "cfg_scale", "unknown": 0}
    assert set(found["question"]) == {QUESTION}
    assert found["left_key"][1] == sweep.keys["fox", HIGH, 0]
    assert (datetime.now(UTC) - found["at"].max()).total_seconds() < 60


def test_a_pair_is_voted_on_once_and_can_be_undone(sweep, cast):
    """Takes one vote on two videos, whatever their sides, and after an undo another."""
    log = cast(answer=Answer.LEFT)
    cast(left=HIGH, right=LOW, answer=Answer.LEFT)
    (vote,) = log.votes()
    assert vote.answer is Answer.LEFT
    assert log.undo(vote.id)
    assert not log.undo(vote.id)
    assert table(sweep).empty
    cast(answer=Answer.RIGHT)
    assert table(sweep)["outcome"].tolist() == [0.0]


def test_a_vote_outlives_what_a_crash_left(sweep, cast):
    """Reads what is whole before and behind a line that was cut off, and says where a file can't be trusted."""
    log = cast()
    with open(log.path, "ab") as file:
        file.write(b'{"at": "2026-01-01T00:00:00+00:00", "event": "vo')
    assert len(log.votes()) == 1
    cast(prompt="potter")
    assert len(table(sweep)) == 2
    with open(log.path, "ab") as file:
        file.write(b'{"at": "2026-01-01T00:00:00+00:00", "event": "voted", "id": 3}\n')
    with pytest.raises(StoreError, match="line 4: `id` of `voted` is missing or of a wrong type"):
        table(sweep)


def test_studies_are_kept_apart(sweep, cast):
    """Chooses by question, has all by default, and asks which setting is meant where there are two."""
    cast()
    cast(study=Study("cfg", "cfg_scale", "Which follows the prompt?"), answer=Answer.RIGHT)
    assert table(sweep, question=QUESTION)["outcome"].tolist() == [1.0]
    assert len(table(sweep)) == 2
    cast(study=Study("cfg", "sample", QUESTION))
    with pytest.raises(LookupError, match="say factor=cfg_scale or sample"):
        table(sweep)
    assert len(table(sweep, factor="cfg_scale")) == 2
    assert len(sweep.files()) == 3


def test_a_vote_on_a_video_that_is_gone_is_counted_apart(sweep, cast):
    """Leaves out what no run of the sweep is, and says how many that are."""
    cast()
    VoteLog(sweep.root, STUDY, "Ann").vote("a" * 64, "b" * 64, Answer.TIE)
    found = table(sweep)
    assert len(found) == 1
    assert found.attrs["unknown"] == 1


def vote_often(root, rater, keys):
    """Vote in a process of its own."""
    log = VoteLog(root, STUDY, rater)
    for left, right in keys:
        log.vote(left, right, Answer.LEFT)


def test_processes_vote_at_once(tmp_path):
    """Loses no vote and takes none twice, of one rater in two processes and of another beside them."""
    keys = [(f"{n:064x}", f"{n + 1:064x}") for n in range(0, 60, 2)]
    context = multiprocessing.get_context("fork")
    work = [("Ann", keys), ("Ann", keys[::-1]), ("../../Bob \u202e", keys)]
    processes = [context.Process(target=vote_often, args=(tmp_path, *one)) for one in work]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    votes = votes_of(tmp_path, "cfg")
    assert sorted((vote.rater, vote.left) for vote in votes) == sorted(
        (rater, left) for rater in ("Ann", "../../Bob \u202e") for left, _ in keys
    )
    assert len([*tmp_path.rglob("*.jsonl")]) == 2
