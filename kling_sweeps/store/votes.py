"""What people preferred of two videos: append-only files, one for each question and rater.

<root>/votes/<sweep>/<question>/<rater>.jsonl   `voted` for each vote, `undone` for each that was taken back
<root>/votes/<sweep>/<question>/<rater>.lock    held by whoever adds a line
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock

from kling_sweeps.errors import StoreError
from kling_sweeps.store.journal import Journal, sync_folder

SLUG = 40


class Answer(StrEnum):
    """What a rater can say of two videos; `BAD` is that neither is any good."""

    LEFT = "left"
    RIGHT = "right"
    TIE = "tie"
    BAD = "bad"

    @property
    def outcome(self) -> float:
        """What the left video has won: 1, 0, or 0.5 where neither was preferred."""
        return {Answer.LEFT: 1.0, Answer.RIGHT: 0.0}.get(self, 0.5)


@dataclass(frozen=True)
class Study:
    """One question, asked of videos of a sweep that differ in a factor."""

    sweep: str
    factor: str
    question: str

    def folder(self, root: Path) -> Path:
        """Return where its votes are, in the store of a provider."""
        return votes_folder(root, self.sweep) / file_name(f"{self.question}\n{self.factor}")


@dataclass(frozen=True)
class Vote:
    """What one rater said of two videos, which the keys of their requests name, and when."""

    id: str
    study: Study
    rater: str
    left: str
    right: str
    answer: Answer
    at: datetime

    @property
    def pair(self) -> frozenset[str]:
        """The two keys, whichever side each was on."""
        return frozenset((self.left, self.right))


class VoteLog:
    """The votes of one rater in one study; several processes may add to it at once."""

    def __init__(self, root: Path, study: Study, rater: str) -> None:
        self.study, self.rater = study, rater
        self.path = study.folder(root) / f"{file_name(rater)}.jsonl"

    def votes(self) -> list[Vote]:
        """Return the votes that stand, in the order they were given; raise StoreError where a line is no event."""
        return standing(Journal(self.path).events(), self.path)

    def vote(self, left: str, right: str, answer: Answer) -> bool:
        """Write a vote, which is on disk afterwards; return False, without writing, where one on the pair stands."""
        with self._lock():
            if any(vote.pair == {left, right} for vote in self.votes()):
                return False
            self._append("voted", id=secrets.token_hex(8), left=left, right=right, answer=answer)
            return True

    def undo(self, vote_id: str) -> bool:
        """Take back the last vote that stands; return False, without writing, where that is not the one named."""
        with self._lock():
            there = self.votes()
            if not there or there[-1].id != vote_id:
                return False
            self._append("undone", id=vote_id)
            return True

    def take(self, events: Iterable[Mapping[str, Any]]) -> int:
        """Write those events of a file that were not written before, and return how many votes are among them."""
        with self._lock():
            known = {_named(event) for event in Journal(self.path).events()}
            taken = 0
            for event in events:
                if (name := _named(event)) not in known:  # whose id these events may have twice
                    known.add(name)
                    self._append(**event)
                    taken += name[0] == "voted"
            return taken

    def _append(self, event: str, **facts: Any) -> None:
        told = {**vars(self.study), "rater": self.rater} if event == "voted" else {}
        Journal(self.path).append(event, **told, **facts)

    def _lock(self) -> FileLock:
        folder = self.path.parent
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            for made in (folder, *folder.parents[:3]):
                sync_folder(made)
        return FileLock(self.path.with_suffix(".lock"))


def _named(event: Mapping[str, Any]) -> tuple[str, str]:
    """Return what tells one event of a rater from another."""
    return event["event"], event["id"]


def votes_folder(root: Path, sweep: str) -> Path:
    """Return the folder of all the votes on a sweep, in the store of a provider."""
    return root / "votes" / file_name(sweep)


def votes_of(root: Path, sweep: str) -> list[Vote]:
    """Return the votes on a sweep that stand, as they were given; raise StoreError for a file that can't be trusted."""
    files = sorted(votes_folder(root, sweep).glob("*/*.jsonl"))
    found = [vote for file in files for vote in standing(Journal(file).events(), file)]
    return sorted(found, key=lambda vote: vote.at)


def standing(events: Sequence[Mapping[str, Any]], path: Path) -> list[Vote]:
    """Return the votes of a rater that were not undone, of each pair the last."""
    undone = {event["id"] for event in events if event["event"] == "undone"}
    found: dict[frozenset[str], Vote] = {}
    for event in events:
        if event["event"] == "voted" and event["id"] not in undone:
            vote = _vote(event, path)
            found.pop(vote.pair, None)  # which would keep the place of the earlier one
            found[vote.pair] = vote
    return list(found.values())


def _vote(event: Mapping[str, Any], path: Path) -> Vote:
    if event["answer"] not in set(Answer):
        raise StoreError(
            f"{path}: the vote {event['id']!r} has an answer that is none of {', '.join(Answer)}"
        )
    return Vote(
        event["id"],
        Study(event["sweep"], event["factor"], event["question"]),
        event["rater"],
        event["left"],
        event["right"],
        Answer(event["answer"]),
        datetime.fromisoformat(event["at"]),
    )


def file_name(text: str) -> str:
    """Return a name that every file system takes, distinct for distinct texts: some of the text, and its digest."""
    slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:SLUG].strip("-")
    digest = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{slug}-{digest}" if slug else digest
