"""A study with the videos that it is on: those of a sweep that differ in one factor and are of the same prompt."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kling_sweeps.errors import ConfigError
from kling_sweeps.reports.clips import Clip
from kling_sweeps.reports.contents import Video, read_sweep
from kling_sweeps.store.votes import Study
from kling_sweeps.untrusted import clean
from kling_sweeps.votes.schedule import Pair, Seat, schedule

if TYPE_CHECKING:
    import pandas as pd

NAME_LENGTH, QUESTION_LENGTH = 60, 300
# What two videos of one prompt, made the same way, can't differ in.
NO_FACTORS = ("prompt", "prompt_text", "sample")


@dataclass(frozen=True)
class Candidate:
    """A video that is voted on: its file, its clip, the text of its prompt, and where it stands in the design."""

    seat: Seat
    source: Path
    clip: Clip
    text: str


@dataclass(frozen=True)
class Poll:
    """A study, the provider of its videos and that one's part of the store, and the videos by their requests' keys."""

    study: Study
    provider: str
    root: Path
    videos: Mapping[str, Candidate]

    def pairs(self, rater: str) -> list[Pair]:
        """Return all that a rater can vote on, in the order and with the sides that are the rater's own."""
        shown = [video.seat for video in self.videos.values()]
        return schedule(shown, "\n".join((*vars(self.study).values(), rater)))

    def text(self, pair: Pair) -> str:
        """Return the prompt of two videos, "" where its words are what they differ in, which would tell them apart."""
        left, right = (self.videos[key].text for key in (pair.left, pair.right))
        return left if left == right else ""


def read_poll(
    experiment: str, factor: str | None, question: str, store_dir: Path, tracking_uri: str | None = None
) -> Poll:
    """Read what can be voted on in a sweep.

    Raises ConfigError where no two of its videos can be compared, or several settings vary and none is named, and
    LookupError where there is no such sweep or setting.
    """
    sweep = read_sweep(experiment, store_dir, tracking_uri)
    if sweep.runs is None:
        raise ConfigError(f"nothing of {experiment} is finished yet: vote when some of its runs are")
    chosen = factor_of(sweep.runs, factor, sweep.name, "--factor ")
    by_key = {seat.key: seat for seat in seats(sweep.runs, chosen)}
    found = {video.key: one for video in sweep.videos if (one := _candidate(video, by_key))}
    study = Study(sweep.name, chosen, question_of(question))
    poll = Poll(study, sweep.provider, sweep.store.root, found)
    if not poll.pairs(""):
        raise ConfigError(
            f"no two finished videos of {sweep.name} are of the same prompt and differ in {chosen} alone"
        )
    return poll


def factor_of(runs: pd.DataFrame, factor: str | None, sweep: str, option: str) -> str:
    """Return the setting in which two videos of a prompt differ: the one that is chosen, or the only one that varies.

    `option` is how it is chosen, as `--factor `. Raises ConfigError where there is none.
    """
    from kling_sweeps.analysis import factors

    found = [name for name in factors(runs) if name not in NO_FACTORS]
    if factor in NO_FACTORS:
        raise ConfigError(f"{option}{factor}: two videos of one prompt are compared; choose another setting")
    if factor is None and not found:
        raise ConfigError(f"no setting varies in {sweep}: there is nothing to compare within a prompt")
    if factor is None and len(found) > 1:
        raise ConfigError(f"several settings vary in {sweep}: say which, {option}{' or '.join(found)}")
    return factor or found[0]


def seats(runs: pd.DataFrame, factor: str) -> list[Seat]:
    """Return where each finished run that has a factor stands; raise LookupError where none has it."""
    from kling_sweeps.analysis.pairing import paired

    pairing = paired(runs, factor)
    rows = runs[runs[factor].notna()].to_dict("records")
    return [
        Seat(row["request_key"], int(block), int(level), int(row.get("sample") or 0))
        for row, block, level in zip(rows, pairing.block, pairing.level, strict=True)
        if row["status"] == "FINISHED"
    ]


def _candidate(video: Video, by_key: Mapping[str, Seat]) -> Candidate | None:
    seat = by_key.get(video.key)
    if seat is None or video.clip is None or video.source is None:
        return None
    return Candidate(seat, video.source, video.clip, video.params.get("prompt_text", ""))


def rater_name(text: str) -> str:
    """Return a rater's name as it is kept; raise ConfigError for none, or one of more than 60 characters."""
    name = clean(unicodedata.normalize("NFC", text), NAME_LENGTH + 1)
    if not name or len(name) > NAME_LENGTH:
        raise ConfigError(f"the rater's name must have 1 to {NAME_LENGTH} characters")
    return name


def question_of(text: str) -> str:
    """Return a question as it is kept; raise ConfigError for none, or one of more than 300 characters."""
    question = clean(text, QUESTION_LENGTH + 1)
    if not question or len(question) > QUESTION_LENGTH:
        raise ConfigError(f"--question must have 1 to {QUESTION_LENGTH} characters")
    return question
