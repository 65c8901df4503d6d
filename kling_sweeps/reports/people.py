"""What people preferred, for each question that they were asked, and which numbers go with it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kling_sweeps.errors import StoreError
from kling_sweeps.store.folder import Store
from kling_sweeps.store.votes import Study, Vote, votes_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Preferred:
    """The answers to one question: `levels` as `preferences` has them and `numbers` as `agreement` has those that it can tell.

    `untold` says why there are no others, "" where all of them are told.
    """

    question: str
    factor: str
    sentences: Sequence[str]
    levels: Sequence[Mapping[str, Any]]
    numbers: Sequence[Mapping[str, Any]]
    untold: str


def preferred(runs: pd.DataFrame, store: Store, sweep: str) -> list[Preferred]:
    """Return what the votes in a store say of a sweep's runs, in the order in which the questions were first answered."""
    from kling_sweeps.analysis.votes import table_of

    try:
        votes = votes_of(store.root, sweep)
    except StoreError as error:
        return [Preferred("", "", [str(error)], [], [], "")]
    by_study: dict[Study, list[Vote]] = defaultdict(list)
    for vote in votes:
        by_study[vote.study].append(vote)
    found = []
    for study, given in by_study.items():
        try:
            table = table_of(runs, given, study.factor)
        except LookupError:  # no run has the factor any more
            continue
        if len(table):
            found.append(_preferred(runs, table, study))
    return found


def _preferred(runs: pd.DataFrame, votes: pd.DataFrame, study: Study) -> Preferred:
    from kling_sweeps.analysis import agreement, preference_statements, preferences
    from kling_sweeps.analysis.agreement import ENOUGH_PROMPTS, ENOUGH_VIDEOS, UNCLEAR
    from kling_sweeps.analysis.pairing import plain, records

    table = preferences(votes, study.factor)
    numbers = agreement(runs, votes)
    told = numbers[numbers["verdict"] != UNCLEAR]
    most = numbers[["prompts", "videos"]].max()
    if most["prompts"] < ENOUGH_PROMPTS or most["videos"] < ENOUGH_VIDEOS:
        untold = (
            f"Which numbers go with this can't be told of {most['prompts']:.0f} prompts and {most['videos']:.0f} videos: "
            f"it takes {ENOUGH_PROMPTS} and {ENOUGH_VIDEOS}."
        )
    else:
        rest = numbers.loc[numbers["verdict"] == UNCLEAR, "metric"]
        untold = f"Of {', '.join(rest)} it can't be told." if len(rest) else ""
    levels = [{**row, "level": plain(row[study.factor])} for row in records(table)]
    return Preferred(
        study.question,
        study.factor,
        preference_statements(table),
        levels,
        records(told),
        untold,
    )
