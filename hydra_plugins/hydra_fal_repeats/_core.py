"""The work of the sweeper: a launch for each look, until all are over or the budget has no room for the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.hydra_fal_launcher._composer import Composer
from hydra_plugins.hydra_fal_launcher._guard import MOST_RUNS
from kling_sweeps.errors import (
    ConfigError,
    OverBudgetError,
    RefusedError,
    RunError,
    StoreError,
    UnavailableError,
)
from kling_sweeps.experiment import hydra_private
from kling_sweeps.experiment.config import read_all, read_job
from kling_sweeps.experiment.settings import Cell, Settings
from kling_sweeps.sweep import conclusions, gates, summary
from kling_sweeps.sweep.job import CONFIG_DUMP
from kling_sweeps.sweep.repeats import Repeats, Standing
from kling_sweeps.sweep.scheduler import Runs
from kling_sweeps.tracking.tracker import Tracker

if TYPE_CHECKING:
    from .repeats_sweeper import RepeatsSweeper

# What a run ends with that was not made, so that nothing is known of it.
UNRUN = (OverBudgetError, StoreError)


def sweep(sweeper: RepeatsSweeper, arguments: Sequence[str]) -> None:
    """Go on with the looks where the store has them; a dry run says what they cost.

    Raises RefusedError before anything is submitted, and RunError where a run failed.
    """
    assert sweeper.hydra_context and sweeper.config  # as setup() leaves them
    composer = Composer(sweeper.hydra_context.config_loader)
    jobs = _jobs(composer, arguments)
    settings, firsts = read_all(partial(_read, sweeper.config, composer, job) for job in jobs)
    repeats = Repeats.read(settings, firsts)
    if (number := len(jobs) * repeats.given.looks[-1]) > MOST_RUNS:
        raise ConfigError(f"the sweep has {number:,} runs at its last look; at most {MOST_RUNS:,} are taken")
    overrides = {
        repeats.repeat(cell, sample).request.key: [
            *(o for o in job if not o.startswith("sample=")),
            f"sample={sample}",
        ]
        for job, cell in zip(jobs, firsts, strict=True)
        for sample in range(repeats.given.looks[-1])
    }
    looks = _Sweep(sweeper, repeats, overrides)
    if settings.dry_run:
        looks.say_plan()
    else:
        looks.run()


def _jobs(composer: Composer, arguments: Sequence[str]) -> list[list[str]]:
    """Return the overrides of each combination."""
    parser = OverridesParser.create(config_loader=composer.loader)
    jobs = hydra_private.jobs(parser.parse_overrides(list(arguments)))
    if jobs is None:
        raise UnavailableError(
            "this version of Hydra does not say what its own sweeper runs, which repeats.looks needs"
        )
    return jobs


def _read(config: DictConfig, composer: Composer, job: Sequence[str]) -> tuple[Settings, Cell]:
    return read_job(composer.compose(config, list(job)))


class _Sweep:
    """A sweep while a command works on it; `overrides` are those of a run, by its request.

    `failed` are the requests whose runs failed, and `unrun` those that were not made, in this command.
    """

    def __init__(
        self, sweeper: RepeatsSweeper, repeats: Repeats, overrides: Mapping[str, Sequence[str]]
    ) -> None:
        assert sweeper.config and sweeper.launcher  # as setup() leaves them
        self.config, self.launcher = sweeper.config, sweeper.launcher
        self.repeats = repeats
        self.overrides = overrides
        self.cells: list[Cell] = []
        self.failed: set[str] = set()
        self.unrun: set[str] = set()

    def say_plan(self) -> None:
        """Print the runs of the next look, and what all of them cost at the least and at the most."""
        standing = self.repeats.standing()
        runs = self.repeats.runs(standing.wanted)
        summary.show_plan(runs.plan, runs.settings, runs.provider_name)
        summary.say_nameless(runs.settings, len(runs.cells))
        self.repeats.say_plan(standing)
        if standing.looked is None:
            summary.show_refusal(runs)
        gates.show_expected(runs.settings.expect)

    def run(self) -> None:
        """Run look after look; the first launch has all that is there too, which costs nothing."""
        standing = self.repeats.standing()
        if standing.looked is None:
            self.repeats.runs(standing.wanted).check()
        gates.check(self.repeats.settings.expect)
        self.repeats.say_plan(standing)
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / CONFIG_DUMP)
        try:
            while new := self._new(standing):
                self.repeats.say_look(standing)
                self._launch(new)
                standing = self.repeats.standing()
        except (HydraException, RefusedError) as refused:
            if not self.cells:
                raise
            self._conclude(folder)
            raise RunError(str(refused), error_type="refused") from None
        except RunError:
            self._conclude(folder)
            raise
        self._conclude(folder)
        if self.failed:
            raise RunError(f"{len(self.failed)} of {len(self.cells)} runs failed")

    def _new(self, standing: Standing) -> list[Cell]:
        """Return the runs that this command has not made of the next look, or of the last where that does not fit."""
        if self.unrun:
            return []
        is_next = standing.looked is None or self.repeats.fits(standing)
        cells = self.repeats.cells(standing.wanted if is_next else standing.taken)
        return [cell for cell in cells if cell.request.key not in self.repeats.launched]

    def _launch(self, cells: Sequence[Cell]) -> None:
        keys = [cell.request.key for cell in cells]
        overrides = [self.overrides[key] for key in keys]
        returns = self.launcher.launch(overrides, initial_job_idx=len(self.cells))
        self.cells += cells
        self.repeats.launched.update(keys)
        for key, returned in zip(keys, returns, strict=True):
            error = returned._return_value
            if isinstance(error, Exception):
                self.failed.add(key)
            if isinstance(error, UNRUN) or getattr(error, "error_type", "") == "refused":
                self.unrun.add(key)
        self.repeats.launched.difference_update(self.unrun)

    def _conclude(self, folder: Path) -> None:
        """Print and write down what was found."""
        runs = Runs.read(self.repeats.settings, self.cells)
        tracker = Tracker(runs.settings.tracking_uri, runs.settings.sweep, runs.provider_name)
        outcome = conclusions.Outcome(runs, tracker)
        lines = conclusions.draw(outcome)
        self.repeats.say_end(self.repeats.standing())
        conclusions.show(lines)
        gates.conclude(outcome)
        summary.present(tracker)
        summary.show_report(runs, tracker, folder)
