"""What a search has found: the table of its trials, the best of them, and how sure that is."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from rich.text import Text

from kling_sweeps.sweep.search import Outcome, Trial
from kling_sweeps.terminal import tables
from kling_sweeps.terminal.console import show_line
from kling_sweeps.terminal.tables import number_column, text_column, word_column

STYLES = {"complete": "green", "pruned": "yellow", "failed": "red", "open": "cyan"}
Outcomes = Sequence[Sequence[Outcome]]


@dataclass(frozen=True)
class Comparison:
    """The best setting against the `other`, as it is called, by the outcomes of both, a row a prompt.

    `settings` are their values by key, the best's first; `is_fresh` tells that the outcomes are of videos that had
    no part in choosing it, and `ratios` are metrics of the user's own that are compared by their ratio.
    """

    other: str
    settings: Sequence[Mapping[str, object]]
    outcomes: Sequence[Outcomes]
    is_fresh: bool
    ratios: Sequence[str] = ()

    @property
    def videos(self) -> int:
        """Return of how many videos each setting has values, the fewer of the two."""
        return min(
            sum(run.state == "complete" for row in outcomes for run in row) for outcomes in self.outcomes
        )

    def statements(self, goal: Mapping[str, str]) -> list[str]:
        """Return what the videos say of each metric, nothing where they say nothing."""
        import pandas as pd

        from kling_sweeps.analysis import effects, statement

        rows = [
            {
                "setting": level,
                # By its place: a template's text differs between settings.
                "prompt": place,
                "sample": run.cell.request.sample,
                "status": "FINISHED" if run.state == "complete" else "FAILED",
                **dict(zip(goal, run.values, strict=False)),
            }
            for level, outcomes in zip(("best", self.other), self.outcomes, strict=True)
            for place, row in enumerate(outcomes)
            for run in row
        ]
        params = ["setting", "prompt", "sample"]
        table = pd.DataFrame(rows, columns=[*params, "status", *goal])
        table.attrs = {"params": params, "metrics": [*goal], "goal": dict(goal), "ratios": self.ratios}
        found = effects(table, "setting", list(goal), reference=self.other)
        told = found[(found["setting"] == "best") & found["p"].notna()]
        return [statement(row) for _, row in told.iterrows()]


@dataclass(frozen=True)
class Found:
    """The trials of a search, and the best of those that are complete.

    `goal` says of one metric or two which way is better, `comparison` is how the best was tested, if it was.
    """

    goal: Mapping[str, str]
    trials: Sequence[Trial]
    comparison: Comparison | None = None

    @cached_property
    def complete(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.state == "complete"]

    @cached_property
    def front(self) -> list[Trial]:
        """Return the trials that no other is better than in one metric and at least as good in all, by the first metric."""
        scores = {trial.number: self._score(trial) for trial in self.complete}
        found = {
            scores[trial.number]: trial
            for trial in reversed(self.complete)  # of equal ones the first stays
            if not any(_beats(other, scores[trial.number]) for other in scores.values())
        }
        return [found[score] for score in sorted(found, reverse=True)]

    @cached_property
    def ranked(self) -> list[Trial]:
        """Return the complete trials, the best first.

        Of two metrics that is the nearest to the best of both, each in units of what it differs by on the front.
        """
        best = [max(scores) for scores in zip(*map(self._score, self.front), strict=True)]
        worst = [min(scores) for scores in zip(*map(self._score, self.front), strict=True)]
        spans = [top - low or 1.0 for top, low in zip(best, worst, strict=True)]

        front = {trial.number for trial in self.front}

        def distance(trial: Trial) -> tuple[bool, float]:
            steps = zip(best, self._score(trial), spans, strict=True)
            return trial.number not in front, sum(((top - own) / span) ** 2 for top, own, span in steps)

        return sorted(self.complete, key=distance)

    @property
    def best(self) -> Trial | None:
        return self.ranked[0] if self.complete else None

    def _score(self, trial: Trial) -> tuple[float, ...]:
        """Return a trial's values, each so that more is better."""
        pairs = zip(self.goal.values(), trial.values, strict=True)
        return tuple(value if way == "max" else -value for way, value in pairs)

    def values(self, trial: Trial) -> str:
        return ", ".join(f"{name} {value:.4g}" for name, value in zip(self.goal, trial.values, strict=True))

    def __str__(self) -> str:
        if self.best is None:
            return f"No trial has a {' and a '.join(self.goal)} yet."
        return f"{self._what(self.best)} {self._how_sure()}"

    def _what(self, best: Trial) -> str:
        settings, number = described(best.settings), len(self.complete)
        of = f"of {number} complete trial{'s' * (number != 1)}"
        if len(self.goal) == 1:
            (way,) = self.goal.values()
            which = "highest" if way == "max" else "lowest"
            return f"Best: {settings} has the {which} {self.values(best)} (trial {best.number}, {of})."
        if len(self.front) == 1:
            return f"Best: {settings} is best in both, {self.values(best)} (trial {best.number}, {of})."
        others = ", ".join(str(trial.number) for trial in self.front if trial is not best)
        return (
            f"Best balance: {settings} has {self.values(best)} (trial {best.number}, {of}); trials {others} have more "
            f"of one for less of the other."
        )

    def _how_sure(self) -> str:
        """Say how the best compares, and what its being the best of many makes of that."""
        compared, chance = self.comparison, f"the best of {len(self.complete)} looks better than it is"
        if compared is None:
            return "There is nothing to compare it with."
        against = f"the {compared.other} {described(compared.settings[1])}"
        said = " ".join(compared.statements(self.goal))
        if compared.is_fresh:
            fresh = Trial(0, self.ranked[0].proposal, compared.outcomes[0])
            there = f" There it has {self.values(fresh)}: in the search {chance}." if fresh.values else ""
            return (
                f"Against {against}, by {compared.videos} further videos of each that had no part in the choice: "
                f"{said or 'nothing can be said.'}{there}"
            )
        advice = f"By chance {chance}; optimize.confirm=2 compares it by further videos."
        return f"Against {against}, by the search's own videos: {said} {advice}" if said else advice

    def csv(self) -> str:
        """Return a row for each trial."""
        names = dict.fromkeys(name for trial in self.trials for name in trial.settings)
        file = io.StringIO()
        head = ["number", *names, *self.goal, "runs", "complete", "state", "usd", "why", "request_keys"]
        writer = csv.DictWriter(file, head)
        writer.writeheader()
        for trial in self.trials:
            facts = {
                "number": trial.number,
                "state": trial.state,
                "usd": round(trial.usd, 4),
                "why": trial.why,
            }
            facts |= {"runs": len(trial.runs), "complete": trial.complete}
            keys = " ".join(run.cell.request.key for run in trial.runs)
            values = dict(zip(self.goal, trial.values, strict=False))
            writer.writerow({**facts, **trial.settings, **values, "request_keys": keys})
        return file.getvalue()


def described(settings: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={_quoted(value)}" for name, value in settings.items())


def _quoted(value: object) -> str:
    """Return a value as it was given, or, of a run, as a text in quotes where it is more than a word."""
    text = str(value)
    is_word = re.fullmatch(r"[\w.:/-]+", text)
    return text if is_word or text[:1] in ("'", '"') else f"'{text}'"


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    pairs = [*zip(one, other, strict=True)]
    return all(own >= theirs for own, theirs in pairs) and any(own > theirs for own, theirs in pairs)


def show(found: Found) -> None:
    """Print a row for each trial, of very many for the last ones, and the best in one line."""
    if not found.trials:
        return
    trials = found.trials[-tables.MANY :]
    names = dict.fromkeys(name for trial in trials for name in trial.settings)
    values = [trial.values or [None] * len(found.goal) for trial in trials]
    tables.show(
        [
            number_column("trial", [Text(str(trial.number)) for trial in trials]),
            *(
                text_column(name, [Text(str(trial.settings.get(name, ""))) for trial in trials])
                for name in names
            ),
            *(
                number_column(name, [Text("" if value is None else f"{value:.4g}") for value in column])
                for name, column in zip(found.goal, zip(*values, strict=True), strict=True)
            ),
            number_column("runs", [Text(f"{trial.complete}/{len(trial.runs)}") for trial in trials]),
            word_column("state", [Text(trial.state, style=STYLES[trial.state]) for trial in trials]),
            number_column("USD", [Text(f"{trial.usd:.2f}") for trial in trials]),
        ]
    )
    told = [trial for trial in trials if trial.why and trial.state != "open"]
    for trial in told:
        show_line(f"trial {trial.number} {trial.state}: {trial.why}")
    show_line((str(found), "bold"))
