"""The work of the sweeper: a search's trials, batch by batch, until it has them or its budget is spent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.errors import HydraException
from omegaconf import OmegaConf
from rich.text import Text

from hydra_plugins.hydra_fal_launcher._composer import Composer
from kling_sweeps.errors import NotTrackedError, OverBudgetError, RefusedError, RunError
from kling_sweeps.experiment.settings import Cell
from kling_sweeps.sweep import gates, summary
from kling_sweeps.sweep.conclusions import Outcome
from kling_sweeps.sweep.scheduler import Runs
from kling_sweeps.sweep.search import Proposal, SearchJournal, Trial, read_trial
from kling_sweeps.sweep.search_results import Found, show, track
from kling_sweeps.terminal.console import console
from kling_sweeps.tracking.tracker import Tracker

from ._asked import Asked, read_asked
from ._sampling import Asker

if TYPE_CHECKING:
    from .search_sweeper import SearchSweeper


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
        self.asker = Asker(asked.jobs.config, asked.space, asked.jobs.fixed)
        self.tracker = Tracker(settings.tracking_uri, settings.sweep, runs.provider_name)
        self.proposals: list[Proposal] = []
        self.cells: list[Cell] = []
        self.errors: dict[str, Exception] = {}
        self.is_spent = self.is_begun = False
        for proposal in journal.proposals():
            self._take(proposal)

    def _take(self, proposal: Proposal) -> None:
        self.proposals.append(proposal)
        self.cells.append(self.asked.jobs.read(proposal.values)[1])

    @property
    def trials(self) -> list[Trial]:
        """Return what was proposed so far, and what has come of it."""
        rows = zip(self.proposals, self.cells, strict=True)
        return [
            read_trial(number, proposal, cell, self.runs, str(self.errors.get(cell.request.key, "")))
            for number, (proposal, cell) in enumerate(rows)
        ]

    def run(self) -> None:
        """Run what earlier commands have proposed, which costs nothing where it is over, and go on from there."""
        self.asker.export(self.trials)
        self.tracker.check()
        gates.check(self.asked.settings.expect)
        self.say_plan()
        try:
            if self.cells:
                self._run_earlier()
            while not self.is_over and self._run_next():
                pass
        except KeyboardInterrupt:
            show(self.found)
            raise
        except (HydraException, RefusedError) as refused:
            if not self.is_begun:
                raise
            self._conclude()
            raise RunError(str(refused), error_type="refused") from None
        except RunError:
            self._conclude()
            raise
        self._conclude()
        if self.errors:
            raise RunError(f"{len(self.errors)} of {len(self.cells)} trials failed")

    @property
    def is_over(self) -> bool:
        is_stopped = self.asked.settings.policy.fail_fast and bool(self.errors)
        return is_stopped or self.is_spent or len(self.proposals) >= self.asked.n_trials

    def _run_earlier(self) -> None:
        runs = self._planned([])
        wanted = [
            number
            for number, planned in enumerate(runs.plan.planned)
            if planned.fits and (number < self.asked.n_trials or not planned.is_new)
        ]
        if wanted:
            self._launch(wanted, first=0)

    def _run_next(self) -> bool:
        """Run the next batch, or what fits of it; return False where nothing new is proposed."""
        new = self._propose(min(self.asked.options.n_jobs, self.asked.n_trials - len(self.proposals)))
        first = len(self.proposals)
        planned = self._planned(cell for _, cell in new).plan.planned[first:]
        self.journal.begin(self.asked.identity)
        for (proposal, _), one in zip(new, planned, strict=True):
            if one.fits:
                self.journal.add(proposal)
                self._take(proposal)
        numbers = range(first, len(self.proposals))
        if numbers:
            self._launch(numbers, first)
        return bool(new)

    def _propose(self, count: int) -> list[tuple[Proposal, Cell]]:
        """Return up to so many proposals that are videos of their own."""
        new: dict[str, tuple[Proposal, Cell]] = {}
        there = {cell.request.key for cell in self.cells}
        for proposal in self.asker.propose(self.trials):
            _, cell = self.asked.jobs.read(proposal.values)
            if cell.request.key not in there:
                new.setdefault(cell.request.key, (proposal, cell))
            if len(new) == count:
                break
        return list(new.values())

    def _planned(self, new: Iterable[Cell]) -> Runs:
        """Return the runs of all the trials, of whichever command, what is over the budget marked; all count in it."""
        settings = self.asked.settings
        settings = replace(settings, budget=replace(settings.budget, partial=True))
        runs = Runs.read(settings, [*self.cells, *new])
        runs.check()
        self.is_spent = not all(planned.fits for planned in runs.plan.planned)
        return runs

    def _launch(self, numbers: Sequence[int], first: int) -> None:
        overrides = [self.asked.jobs.overrides(self.proposals[number].values) for number in numbers]
        assert self.sweeper.launcher  # as setup() leaves it
        returns = self.sweeper.launcher.launch(overrides, initial_job_idx=first)
        self.is_begun = True
        failed = 0
        for number, returned in zip(numbers, returns, strict=True):
            if isinstance(error := returned._return_value, Exception):
                self.errors[self.cells[number].request.key] = error
                self.is_spent |= isinstance(error, OverBudgetError)
                failed += 1
        if failed > self.asked.options.max_failure_rate * len(numbers):
            raise RunError(
                f"{failed} of {len(numbers)} trials failed, more than "
                f"hydra.sweeper.max_failure_rate={self.asked.options.max_failure_rate:g}"
            )

    @property
    def found(self) -> Found:
        return Found(self.asked.objective, self.asked.options.direction, self.trials)

    def say_plan(self) -> None:
        """Say how many trials there are, and what the others cost at most."""
        trials = self.trials
        spent = sum(trial.usd for trial in trials)
        left = max(0, self.asked.n_trials - sum(trial.usd > 0 or trial.state != "open" for trial in trials))
        done, price = self.asked.n_trials - left, self.asked.dearest_usd
        cost = (
            "what the others cost is unknown"
            if price is None
            else f"the others cost {left * price:.2f} USD at most"
        )
        most = self.asked.settings.budget.max_usd
        said = [f"Search {self.asked.name}: {done} of {self.asked.n_trials} trials made"]
        said += [f"there are no more than {self.asked.n_trials} different ones"] * (
            self.asked.n_trials < self.asked.options.n_trials
        )
        said += [cost] * bool(left)
        said += [f"{spent:.2f} USD of budget.max_usd={most:g} spent"]
        if left and price and spent + left * price > most:
            said += ["it ends where that is spent"]
        console.print(Text("; ".join(said) + "."), soft_wrap=True)

    def _conclude(self) -> None:
        """Print, write down and track what was found; raise NotTrackedError."""
        found = self.found
        show(found)
        if self.is_spent:
            spent = sum(trial.usd for trial in found.trials)
            most = self.asked.settings.budget.max_usd
            console.print(
                f"The search ended at its budget: {spent:.2f} USD of budget.max_usd={most:g} are spent, and the next trial "
                "does not fit. The same command with a higher one goes on.",
                soft_wrap=True,
            )
        if found.trial:
            best = {"name": "optuna", "best_params": found.trial.settings, "best_value": found.trial.value}
            OmegaConf.save(
                OmegaConf.create(best),
                Path(self.asked.jobs.config.hydra.sweep.dir, "optimization_results.yaml"),
            )
        self.asker.export(found.trials)
        try:
            self.tracker.check()
            track(self.tracker, self.asked.name, found)
        except Exception as error:
            raise NotTrackedError(
                f"the search is not tracked ({self.tracker.said(error)}); the same command tracks it, for nothing"
            ) from None
        has_changed = gates.conclude(Outcome(Runs.read(self.asked.settings, self.cells), self.tracker))
        if self.is_begun or has_changed:
            summary.show_report(self.runs, self.tracker, Path(self.asked.jobs.config.hydra.sweep.dir))
