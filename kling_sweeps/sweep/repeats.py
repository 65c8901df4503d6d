"""Repeats by plan: which runs the looks take, what they show by the store, and what is said of them.

Nothing is kept of the looks themselves: they are taken again from the runs in the store, which give the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rich.text import Text

from kling_sweeps.errors import ConfigError
from kling_sweeps.experiment.naming import in_words
from kling_sweeps.experiment.settings import Cell, RepeatSettings, Settings
from kling_sweeps.store.measured import is_measured, read_values
from kling_sweeps.store.state_machine import Stage
from kling_sweeps.sweep.conclusions import about
from kling_sweeps.sweep.earlier import settled
from kling_sweeps.sweep.plan import PlannedCell
from kling_sweeps.sweep.scheduler import Runs
from kling_sweeps.terminal import tables
from kling_sweeps.terminal.console import show_line
from kling_sweeps.terminal.tables import number_column, text_column, word_column

if TYPE_CHECKING:
    import pandas as pd

    from kling_sweeps.analysis import Looked, Looks

VERDICTS = ("found", "not distinguishable")
STYLES = {"closed": "green", "open": "cyan", "looks exhausted": "yellow", "no answer": "red"}


@dataclass(frozen=True)
class Standing:
    """How far the looks are: what they have come to, None before the first.

    `taken` are the repeats that each level has had by then, and `wanted` those that it has by the next look:
    the same where all is over.
    """

    looked: Looked | None
    taken: Mapping[Any, int]
    wanted: Mapping[Any, int]

    @property
    def is_over(self) -> bool:
        return self.looked is not None and self.wanted == self.taken


@dataclass(frozen=True)
class Repeats:
    """The runs of a sweep whose repeats are added by looks; `firsts` are their first repeats.

    `launched` are the requests that this command has run, so that what is not measured by then has failed.
    """

    settings: Settings
    firsts: Sequence[Cell]
    launched: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, settings: Settings, firsts: Sequence[Cell]) -> Repeats:
        """Check the plan against the runs of the sweep; raise ConfigError."""
        plan = settings.repeats
        assert plan  # or else nobody asks for it
        levels = _levels(firsts, plan.factor) if all(plan.factor in c.params for c in firsts) else []
        if len(set(levels)) < 2:
            swept = [name for name in firsts[0].params if len({str(c.params.get(name)) for c in firsts}) > 1]
            raise ConfigError(
                f"repeats.factor={plan.factor} is not swept over, so it has no levels to compare; swept over are "
                f"{', '.join(swept) or 'no settings'}"
            )
        if any(cell.request.sample for cell in firsts):
            raise ConfigError(
                "repeats.looks numbers the repeats itself: leave sample out, or give sample=0 where a sweep's file has it"
            )
        if plan.reference is not None:
            same = [one for one in levels if one == plan.reference or str(one) == str(plan.reference)]
            if not same:
                known = ", ".join(map(str, sorted(set(levels))))
                raise ConfigError(
                    f"repeats.reference={plan.reference} is no level of {plan.factor}; it has {known}"
                )
            settings = replace(settings, repeats=replace(plan, reference=same[0]))
        return cls(settings, firsts)

    @property
    def given(self) -> RepeatSettings:
        assert self.settings.repeats
        return self.settings.repeats

    @cached_property
    def levels(self) -> list[Any]:
        """Return the level of each first run."""
        return _levels(self.firsts, self.given.factor)

    @cached_property
    def plan(self) -> Looks:
        from kling_sweeps.analysis import Looks

        base = self.given.reference
        return Looks(
            self.given.factor,
            self.given.looks,
            list(self.settings.goal),
            min(self.levels) if base is None else base,
        )

    def cells(self, taken: Mapping[Any, int]) -> list[Cell]:
        """Return the runs that levels of so many repeats have, a repeat of everything before the next."""
        return [
            self.repeat(cell, sample)
            for sample in range(max(taken.values()))
            for cell, level in zip(self.firsts, self.levels, strict=True)
            if sample < taken[level]
        ]

    def repeat(self, first: Cell, sample: int) -> Cell:
        """Return a repeat as its own job reads it: under an earlier form of the model's file where the store has that."""
        return settled(self.settings, first.repeated(sample))[1]

    def runs(self, taken: Mapping[Any, int]) -> Runs:
        return Runs.read(self.settings, self.cells(taken))

    def standing(self) -> Standing:
        """Look at the runs in the store as often as these go on."""
        from kling_sweeps.analysis import looked

        found = None
        taken = wanted = dict.fromkeys(self.levels, self.given.looks[0])
        while (table := self._table(wanted)) is not None:
            found = looked(table, self.plan)
            taken, wanted = wanted, {**wanted, **found.following}
            if taken == wanted:
                break
        return Standing(found, taken, wanted)

    def most(self, standing: Standing) -> dict[Any, int]:
        """Return how many repeats each level has in the end, where whatever is open stays so."""
        is_open = standing.looked.following if standing.looked else dict.fromkeys(self.levels)
        return {
            level: self.given.looks[-1] if level in is_open else had for level, had in standing.wanted.items()
        }

    def _table(self, taken: Mapping[Any, int]) -> pd.DataFrame | None:
        """Return runs as `runs_df` does, from the store; None where one of them is not over."""
        runs, goal = self.runs(taken), self.settings.goal
        rows: list[dict[str, Any]] = []
        for planned in runs.plan.planned:
            state, request = planned.state, planned.cell.request
            folder = runs.store.entry(request).measurements(runs.fingerprint)
            if state.stage is Stage.FINISHED and is_measured(folder):
                values = read_values(folder)
                rows.append({"status": "FINISHED", **{name: values.get(name) for name in goal}})
            elif self._has_failed(planned):
                rows.append({"status": "FAILED", **dict.fromkeys(goal)})
            else:
                return None
        table = params_of([planned.cell for planned in runs.plan.planned])
        names = list(table)
        for name in ("status", *goal):
            table[name] = [row[name] for row in rows]
        table[list(goal)] = table[list(goal)].astype(float)
        table.attrs.update(about(self.settings), params=names, metrics=list(goal))
        return table

    def _has_failed(self, planned: PlannedCell) -> bool:
        if planned.cell.request.key in self.launched:
            return not planned.state.is_open
        return planned.state.is_failed and not planned.is_new

    def say_plan(self, standing: Standing) -> None:
        """Say what the looks are, and what the rest of them costs at the least and at the most."""
        plan, most = self.runs(standing.wanted).plan, self.runs(self.most(standing)).plan
        base, numbers = self.plan.reference, in_words(self.given.looks)
        said = [
            f"Repeats of {self.given.factor} by looks at {numbers}, for {in_words(self.settings.goal)} compared with {base}"
        ]
        if standing.is_over and not plan.total_usd:
            said.append("all looks are over")
        elif any(planned.cost_usd is None for planned in most.planned):
            said.append("what they cost is unknown")
        else:
            said.append(f"{plan.total_usd:.2f} USD at least, {most.total_usd:.2f} USD at most")
        limit = self.settings.budget.max_usd
        said.append(f"{plan.committed_usd:.2f} USD of budget.max_usd={limit:g} spent")
        if round(most.committed_usd + most.total_usd, 4) > limit:
            said.append("they end where the next look does not fit")
        show_line("; ".join(said) + ".")

    def say_look(self, standing: Standing) -> None:
        """Say which levels the next look repeats, and which it leaves."""
        if standing.looked is None or standing.is_over or not self.fits(standing):
            return
        levels = [level for level in standing.looked.following if level != self.plan.reference]
        number = self.given.looks.index(max(standing.wanted.values())) + 1
        show_line(
            f"Look {number} of {len(self.given.looks)}, at {max(standing.wanted.values())} repeats: open "
            f"{'is' if len(levels) == 1 else 'are'} {self.given.factor}={in_words(levels)}, compared with "
            f"{self.plan.reference}."
        )

    def fits(self, standing: Standing) -> bool:
        """Tell whether the budget has room for all that the next look takes."""
        plan = self.runs(standing.wanted).plan
        return not plan.total_usd or (
            round(plan.committed_usd + plan.total_usd, 4) <= self.settings.budget.max_usd
        )

    def say_end(self, standing: Standing) -> None:
        """Print how each comparison stands, and why the looks ended, if not at their end."""
        if standing.looked:
            _show(standing.looked.table, self.given.factor)
        if standing.is_over:
            return
        plan = self.runs(standing.wanted).plan
        left = [one for one in plan.planned if one.is_new or one.state.is_open]
        if self.fits(standing):
            show_line(f"{len(left)} runs of this look are not over. The same command goes on.")
            return
        repeats = max(standing.wanted.values())
        whole = round(plan.committed_usd + plan.total_usd, 4)
        show_line(
            f"The looks ended at their budget: the next one, at {repeats} repeats, takes {len(left)} runs for "
            f"{plan.total_usd:.2f} USD, and {plan.committed_usd:.2f} USD of "
            f"budget.max_usd={self.settings.budget.max_usd:g} are spent. budget.max_usd={whole:g} goes on with it."
        )


def params_of(cells: Sequence[Cell]) -> pd.DataFrame:
    """Return the params of runs as `runs_df` has them."""
    import pandas as pd

    from kling_sweeps.analysis.runs import with_numbers

    rows = [{name: str(value) for name, value in cell.params.items()} for cell in cells]
    return with_numbers(pd.DataFrame(rows), rows[0])


def _levels(cells: Sequence[Cell], factor: str) -> list[Any]:
    levels: list[Any] = params_of(cells)[factor].tolist()
    return levels


def _show(table: pd.DataFrame, factor: str) -> None:
    """Print a row for each comparison."""
    from kling_sweeps.analysis.statements import number

    rows: list[dict[str, Any]] = [
        {str(name): value for name, value in row.items()}
        for row in table[table["verdict"] != "reference"].to_dict("records")
    ]

    def told(row: Mapping[str, Any], name: str) -> str:
        return number(row[name], row["scale"] == "log", "+") if row[name] == row[name] else ""

    intervals = [f"{told(row, 'low')} to {told(row, 'high')}" * (row["low"] == row["low"]) for row in rows]
    why = ["" if row["verdict"] in VERDICTS else row["verdict"] for row in rows]
    tables.show(
        [
            text_column("metric", [Text(row["metric"]) for row in rows]),
            text_column(factor, [Text(str(row["level"])) for row in rows]),
            number_column("difference", [Text(told(row, "difference")) for row in rows]),
            number_column("interval", list(map(Text, intervals))),
            number_column("repeats", [Text(str(row["repeats"])) for row in rows]),
            number_column("failed", [Text(str(row["failed"] or "")) for row in rows], is_optional=True),
            word_column(
                "stands", [Text(row["stands"], style=STYLES.get(row["stands"], "dim")) for row in rows]
            ),
            *[word_column("why", list(map(Text, why)))] * any(why),
        ]
    )
