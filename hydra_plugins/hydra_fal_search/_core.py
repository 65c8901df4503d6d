"""The work of the sweeper: a search's trials, batch by batch, until it has them or its budget is spent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.errors import HydraException
from omegaconf import OmegaConf

from hydra_plugins.hydra_fal_launcher._composer import Composer
from kling_sweeps.errors import BudgetError, NotTrackedError, OverBudgetError, RefusedError, RunError
from kling_sweeps.experiment.settings import Cell
from kling_sweeps.sweep import conclusions, gates, search_picture, summary
from kling_sweeps.sweep.plan import Plan, PlannedCell
from kling_sweeps.sweep.scheduler import Runs
from kling_sweeps.sweep.search import (
    Cells,
    Confirmation,
    Outcome,
    Proposal,
    SearchJournal,
    Trial,
    read_outcome,
)
from kling_sweeps.sweep.search_results import Comparison, Found, show
from kling_sweeps.sweep.search_run import track
from kling_sweeps.terminal.console import console, show_line
from kling_sweeps.tracking.tracker import Tracker

from ._asked import Asked, read_asked
from ._sampling import Asker

if TYPE_CHECKING:
    from .search_sweeper import SearchSweeper

PICTURE = "search.png"
# What the best is compared with.
CONFIGURED, SECOND = "configured", "second best"


def search(sweeper: SearchSweeper, arguments: Sequence[str]) -> None:
    """Go on with the search that is asked for; a dry run says how it stands and what the rest costs at most.

    Raises RefusedError before anything is submitted, and RunError where a run failed.
    """
    assert sweeper.hydra_context and sweeper.config  # as setup() leaves them
    composer = Composer(sweeper.hydra_context.config_loader)
    asked = read_asked(sweeper.config, composer, arguments)
    runs = Runs.read(asked.settings, [])
    journal = SearchJournal(runs.store.root / "searches" / asked.name)
    if asked.settings.dry_run:
        planned = _Search(sweeper, asked, journal, runs)
        show(planned.found)
        planned.say_plan()
        gates.show_expected(asked.settings.expect)
        return
    runs.store.check()
    with journal.held(lambda: console.print("Another command works on this search; waiting for it.")):
        _Search(sweeper, asked, journal, runs).run()


class _Search:
    """A search while a command works on it; `errors` are those of this command's runs, by request key."""

    def __init__(self, sweeper: SearchSweeper, asked: Asked, journal: SearchJournal, runs: Runs) -> None:
        settings = asked.settings
        self.sweeper = sweeper
        self.asked = asked
        self.journal = journal
        self.runs = runs
        self.asker = Asker(asked.jobs.config, asked.space, asked.jobs.fixed, asked.goal)
        self.tracker = Tracker(settings.tracking_uri, settings.sweep, runs.provider_name)
        self.outputs = Path(asked.jobs.config.hydra.sweep.dir)
        self.proposals: list[Proposal] = []
        self.cells: list[Cells] = []
        # Those by which settings were compared, of all commands.
        self.further: list[Cell] = []
        self.errors: dict[str, Exception] = {}
        self.launched = 0
        self.is_spent = False
        for proposal in journal.proposals():
            self._take(proposal)
        for one in journal.confirmations():
            self.further += _flat([asked.jobs.cells(values, one.samples) for values in one.settings])

    def _take(self, proposal: Proposal) -> None:
        self.proposals.append(proposal)
        self.cells.append(self.asked.jobs.cells(proposal.values, self.asked.samples))

    @property
    def trials(self) -> list[Trial]:
        """Return what was proposed so far, and what has come of it."""
        rows = zip(self.proposals, self.cells, strict=True)
        return [
            Trial(number, proposal, self._outcomes(cells)) for number, (proposal, cells) in enumerate(rows)
        ]

    def _outcomes(self, cells: Cells) -> list[list[Outcome]]:
        goals, errors = [*self.asked.goal], self.errors
        return [
            [read_outcome(cell, self.runs, goals, str(errors.get(cell.request.key, ""))) for cell in row]
            for row in cells
        ]

    def run(self) -> None:
        """Run what earlier commands have proposed, which costs nothing where it is over, and go on from there."""
        self.tracker.check()
        gates.check(self.asked.settings.expect)
        self.say_plan()
        try:
            if self.cells:
                self._run_earlier()
            while not self.is_over and self._run_next():
                pass
            self._confirm()
        except KeyboardInterrupt:
            show(self.found)
            raise
        except (HydraException, RefusedError) as refused:
            if not self.launched:
                raise
            self._conclude()
            raise RunError(str(refused), error_type="refused") from None
        except RunError:
            self._conclude()
            raise
        self._conclude()
        if self.errors:
            raise RunError(f"{len(self.errors)} of {self.launched} runs failed")

    @property
    def is_stopped(self) -> bool:
        return self.asked.settings.policy.fail_fast and bool(self.errors)

    @property
    def is_over(self) -> bool:
        return self.is_stopped or self.is_spent or len(self.proposals) >= self.asked.n_trials

    def _run_earlier(self) -> None:
        wanted = [
            number
            for number, planned in enumerate(self._fitting())
            if _fits(planned) and (number < self.asked.n_trials or not _is_new(planned))
        ]
        values = [self.proposals[number].values for number in wanted]
        self._launch(values, [self.cells[number] for number in wanted], self.asked.samples)

    def _run_next(self) -> bool:
        """Run the next batch, or what fits of it; return False where nothing new is proposed."""
        new = self._propose(min(self.asked.options.n_jobs, self.asked.n_trials - len(self.proposals)))
        first = len(self.proposals)
        planned = self._fitting([cells for _, cells in new])[first:]
        self.journal.begin(self.asked.identity)
        for (proposal, _), one in zip(new, planned, strict=True):
            if _fits(one):
                self.journal.add(proposal)
                self._take(proposal)
        values = [proposal.values for proposal in self.proposals[first:]]
        self._launch(values, self.cells[first:], self.asked.samples)
        return bool(new)

    def _propose(self, count: int) -> list[tuple[Proposal, Cells]]:
        """Return up to so many proposals that are videos of their own."""
        new: dict[str, Proposal] = {}
        there = {_key(cells) for cells in self.cells}
        for proposal in self.asker.propose(self.trials):
            key = self.asked.read(proposal.values)[1].request.key
            if key not in there:
                new.setdefault(key, proposal)
            if len(new) == count:
                break
        return [
            (proposal, self.asked.jobs.cells(proposal.values, self.asked.samples))
            for proposal in new.values()
        ]

    def _confirm(self) -> None:
        """Compare the best with another setting by videos that it was not chosen by, where that is wanted and fits."""
        found = self.found
        settings = self._contestants(found)
        if not (self.asked.further and settings) or self.is_stopped:
            return
        wanted = found.trials[: self.asked.n_trials]
        if not self.is_spent and any(trial.state == "open" for trial in wanted):
            console.print("The best is compared once all trials are over; the same command goes on.")
            return
        confirmation = Confirmation(settings, [*self.asked.further])
        both = [self.asked.jobs.cells(values, confirmation.samples) for values in settings]
        if not _fits(self._fitting([[*both[0], *both[1]]], is_last=True)[-1]):
            return
        self.journal.confirm(confirmation)
        self.further += _flat(both)
        self._launch(settings, both, confirmation.samples)

    def _contestants(self, found: Found) -> list[Mapping[str, Any]]:
        """Return the best setting's values and those of what it is held against; nothing where there are not two.

        That is the setting which nothing is searched for, or, where there is none or it is the best, the second best.
        """
        if found.best is None:
            return []
        best, default = found.best, self.asked.default
        if default and _key(default) != best.key:
            return [best.proposal.values, {}]
        return [trial.proposal.values for trial in found.ranked[:2]] if len(found.ranked) > 1 else []

    def _plan(self, new: Sequence[Cells] = (), kept_usd: float = 0.0) -> tuple[Runs, list[list[PlannedCell]]]:
        """Plan the runs of all the trials, of whichever command, then new ones, each whole or not at all.

        What does not fit into the budget, less what is kept of it, is marked; all that was spent counts in it.
        """
        settings = self.asked.settings
        settings = replace(settings, budget=replace(settings.budget, partial=False))
        groups = [_flat([cells]) for cells in (*self.cells, *new)]
        runs = Runs.read(settings, [*chain.from_iterable(groups), *self.further])
        planned = iter(runs.plan.planned)
        left = settings.budget.max_usd - runs.plan.committed_usd - kept_usd
        fitted = []
        for group in groups:
            own = [next(planned) for _ in group]
            cost = sum(one.cost_usd or 0.0 for one in own)
            fits = not cost or round(cost, 4) <= round(left, 4)
            left -= cost * fits
            fitted.append([replace(one, fits=fits) for one in own])
        others = [replace(one, fits=False) for one in planned]
        return replace(runs, plan=Plan([*chain.from_iterable(fitted), *others])), fitted

    def _fitting(self, new: Sequence[Cells] = (), is_last: bool = False) -> list[list[PlannedCell]]:
        """Return the plan of each trial, and then of each new one; raise RefusedError where nothing can be run.

        Unless `is_last`, what comparing the best costs in the end is kept of the budget.
        """
        kept = 0.0 if is_last else self.asked.confirming_usd
        runs, planned = self._plan(new, kept)
        if not any(map(_fits, planned)):
            costs = f"a trial costs {self.asked.trial_usd or 0:.2f} USD"
            costs += f" and comparing the best {kept:.2f} USD (optimize.confirm=0 leaves it out)" * bool(kept)
            raise BudgetError(
                f"{costs}: that does not fit into budget.max_usd={self.asked.settings.budget.max_usd:g}"
            )
        runs.check()
        if not all(map(_fits, planned)):
            self.is_spent = True
        return planned

    def _launch(
        self, values: Sequence[Mapping[str, Any]], settings: Sequence[Cells], samples: Sequence[int]
    ) -> None:
        cells = _flat(settings)
        if not cells:
            return
        overrides = [run for one in values for row in self.asked.jobs.rows(one, samples) for run in row]
        assert self.sweeper.launcher  # as setup() leaves it
        returns = self.sweeper.launcher.launch(overrides, initial_job_idx=self.launched)
        self.launched += len(cells)
        failed = 0
        for cell, returned in zip(cells, returns, strict=True):
            if isinstance(error := returned._return_value, Exception):
                self.errors[cell.request.key] = error
                self.is_spent |= isinstance(error, OverBudgetError)
                failed += 1
        if failed > self.asked.options.max_failure_rate * len(cells):
            raise RunError(
                f"{failed} of {len(cells)} runs failed, more than "
                f"hydra.sweeper.max_failure_rate={self.asked.options.max_failure_rate:g}"
            )

    @property
    def found(self) -> Found:
        found = Found(self.asked.goal, self.trials)
        return replace(found, comparison=self._comparison(found))

    def _comparison(self, found: Found) -> Comparison | None:
        """Return how the best compares: by videos of its own, or else with the second best by those of the trials."""
        if found.best is None:
            return None
        ratios = conclusions.about(self.asked.settings)["ratios"]
        values = found.best.proposal.values
        for one in reversed(self.journal.confirmations()):
            if one.settings[0] == values:
                both = [self.asked.jobs.cells(setting, one.samples) for setting in one.settings]
                settings = [_named(values, *pair) for pair in zip(one.settings, both, strict=True)]
                other = SECOND if one.settings[1] else CONFIGURED
                return Comparison(other, settings, [*map(self._outcomes, both)], True, ratios)
        if len(found.ranked) < 2:
            return None
        two = found.ranked[:2]
        settings = [trial.settings for trial in two]
        return Comparison(SECOND, settings, [trial.outcomes for trial in two], False, ratios)

    def say_plan(self) -> None:
        """Say how many trials there are, and what the others cost at most."""
        asked, most = self.asked, self.asked.settings.budget.max_usd
        runs, planned = self._plan()
        wanted = [[replace(one, fits=True) for one in group] for group in planned[: asked.n_trials]]
        made = sum(not _is_new(group) for group in wanted)
        price, spent, further = asked.trial_usd, runs.plan.committed_usd, asked.confirming_usd
        left = sum(one.cost_usd or 0.0 for group in wanted for one in group)
        left += (asked.n_trials - len(wanted)) * (price or 0.0)
        if made == asked.n_trials and (compared := self.found.comparison) and compared.is_fresh:
            further = 0.0
        said = [f"Search {asked.name}: {made} of {asked.n_trials} trials made"]
        if asked.n_trials < asked.options.n_trials:
            said.append(f"there are no more than {asked.n_trials} different ones")
        if made < asked.n_trials:
            said.append(
                "what the others cost is unknown"
                if price is None
                else f"the others cost {left:.2f} USD at most"
            )
        if further:
            said.append(f"comparing the best with another setting in the end {further:.2f} USD at most")
        said.append(f"{spent:.2f} USD of budget.max_usd={most:g} spent")
        if made < asked.n_trials and spent + left + further > most:
            said.append("it ends where that is spent")
        show_line("; ".join(said) + ".")

    def _conclude(self) -> None:
        """Print, write down and track what was found; raise NotTrackedError."""
        found = self.found
        show(found)
        if self.is_spent:
            most = self.asked.settings.budget.max_usd
            spent = self._plan()[0].plan.committed_usd
            console.print(
                f"The search ended at its budget: {spent:.2f} USD of budget.max_usd={most:g} are spent, and what "
                "comes next does not fit. The same command with a higher one goes on.",
                soft_wrap=True,
            )
        self._write_best(found)
        picture = self.outputs / PICTURE
        try:
            self.tracker.check()
            search_picture.figure_of(found, self._note).savefig(picture, facecolor="white")
            console.print(f"See what was tried: {picture.absolute()}", soft_wrap=True)
            track(self.tracker, self.asked.name, found, picture, conclusions.about(self.asked.settings))
        except Exception as error:
            raise NotTrackedError(
                f"the search is not tracked ({self.tracker.said(error)}); the same command tracks it, for nothing"
            ) from None
        runs = Runs.read(self.asked.settings, [*_flat(self.cells), *self.further])
        has_changed = gates.conclude(conclusions.Outcome(runs, self.tracker))
        if self.launched or has_changed:
            summary.show_report(self.runs, self.tracker, self.outputs)

    @property
    def _note(self) -> str:
        """Return what the picture says of its trials."""
        prompts, samples = len(self.asked.jobs.prompts) or 1, len(self.asked.samples)
        means = (
            f"each the mean of {prompts} prompt{'s' * (prompts > 1)} × {samples} repeat{'s' * (samples > 1)}"
        )
        emulated = "; emulated: the videos are synthetic" * (self.tracker.provider == "emulator")
        return f"{len(self.proposals)} trials, {means}{emulated}"

    def _write_best(self, found: Found) -> None:
        """Write what Hydra's own sweeper of this kind does: the best trial, or those that trade two metrics off."""
        solutions = [{"params": trial.settings, "values": [*trial.values]} for trial in found.front]
        if not solutions:
            return
        best: dict[str, Any] = {"solutions": solutions}
        if len(found.goal) == 1:
            best = {"best_params": solutions[0]["params"], "best_value": found.front[0].values[0]}
        OmegaConf.save(
            OmegaConf.create({"name": "optuna", **best}), self.outputs / "optimization_results.yaml"
        )


def _flat(settings: Sequence[Cells]) -> list[Cell]:
    return [cell for cells in settings for row in cells for cell in row]


def _key(cells: Cells) -> str:
    """Return what tells a setting from others: the key of its first request."""
    return cells[0][0].request.key


def _fits(planned: Sequence[PlannedCell]) -> bool:
    return all(one.fits for one in planned)


def _is_new(planned: Sequence[PlannedCell]) -> bool:
    """Tell whether there is anything left to buy."""
    return any(one.is_new for one in planned)


def _named(keys: Iterable[str], values: Mapping[str, Any], cells: Cells) -> dict[str, object]:
    """Return the values of some keys in a setting, as its runs have them."""
    params = cells[0][0].params
    names = {key: key.lstrip("+") for key in keys}
    return {name: params.get(name, values.get(key, "unset")) for key, name in names.items()}
