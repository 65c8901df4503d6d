"""The work of the launcher: jobs in, videos in the store, jobs run as their videos are measured."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.errors import HydraException
from hydra.types import TaskFunction
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from kling_sweeps.errors import ConfigError, RefusedError, RunError, submitted
from kling_sweeps.experiment.config import read_all
from kling_sweeps.experiment.settings import Cell, Settings
from kling_sweeps.store.result import RunResult
from kling_sweeps.sweep import runner
from kling_sweeps.sweep.earlier import read_job
from kling_sweeps.sweep.job import job

if TYPE_CHECKING:
    from .fal_launcher import FalLauncher

log = logging.getLogger(__name__)


def launch(
    launcher: FalLauncher, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
) -> Sequence[JobReturn]:
    """Run every job once its video is measured; return their results in Hydra's order."""
    setup_globals()
    configure_log(launcher.config.hydra.hydra_logging, launcher.config.hydra.verbose)
    Path(launcher.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
    jobs = _Jobs(launcher, job_overrides, initial_job_idx)
    if launcher.task_function is job:
        return _generate(launcher, jobs)
    # There is nothing to generate.
    return [jobs.run(jobs.config(number), launcher.task_function) for number in range(len(job_overrides))]


def _generate(launcher: FalLauncher, jobs: _Jobs) -> list[JobReturn]:
    try:
        return _generated(launcher, jobs)
    except (RefusedError, HydraException, OmegaConfBaseException) as error:
        if jobs.first == 0 and not submitted.is_set():
            raise
        # What was submitted is left as it is.
        raise RunError(str(error), error_type="refused") from None


def _generated(launcher: FalLauncher, jobs: _Jobs) -> list[JobReturn]:
    if launcher.max_in_flight < 1:
        raise ConfigError(f"hydra.launcher.max_in_flight={launcher.max_in_flight} is not 1 or more")
    settings, cells = read_all(partial(jobs.read, number) for number in range(len(jobs.overrides)))
    numbers = defaultdict(list)
    for number, cell in enumerate(cells):
        numbers[cell.request.key].append(number)
    results = [JobReturn(status=JobStatus.COMPLETED) for _ in cells]  # what a dry run leaves
    failed = None
    hydra = launcher.config.hydra
    is_search = not hydra.sweeper._target_.endswith("BasicSweeper")
    is_part = is_search or hydra.sweeper.max_batch_size is not None
    outputs = None if is_part else Path(hydra.sweep.dir)
    is_begun = jobs.first > 0
    for result in runner.run_all(settings, cells, launcher.max_in_flight, is_begun, outputs, is_part):
        failed = failed or result.error
        for number in numbers[result.cell.request.key]:
            # Of a run that was complete before, Hydra has nothing new to write down.
            if not result.was_complete or result.flaws:
                results[number] = _slim(jobs.write_down(number, settings, result))
            if not result.error:
                results[number].return_value = runner.objective(settings, result)
    if failed and settings.policy.fail_fast:
        raise failed  # so that no sweeper begins another batch
    return results


@dataclass(frozen=True)
class _Jobs:
    """The jobs of a launch, each composed when it is needed and held no longer."""

    launcher: FalLauncher
    overrides: Sequence[Sequence[str]]
    first: int

    def read(self, number: int) -> tuple[Settings, Cell]:
        """Read a job, unless that was done before the sweep began."""
        known: tuple[Settings, Cell] | None = self.launcher.composer.known(list(self.overrides[number]))
        return known or read_job(self.config(number))

    def config(self, number: int) -> DictConfig:
        launcher = self.launcher
        overrides = list(self.overrides[number])
        config = launcher.composer.compose(launcher.config, overrides)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = self.first + number
        return config

    def run(self, config: DictConfig, task: TaskFunction) -> JobReturn:
        """Let Hydra write a job's config down and run a task with it."""
        launcher = self.launcher
        returned = run_job(
            hydra_context=launcher.hydra_context,
            task_function=task,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        configure_log(launcher.config.hydra.hydra_logging, launcher.config.hydra.verbose)
        return returned

    def write_down(self, number: int, settings: Settings, result: RunResult) -> JobReturn:
        """Write down the job of a run that is over, as Hydra does; where that can't be, the run is as good."""
        failure, objective = runner.error_of(result), runner.objective(settings, result)
        config, notes = self.launcher.config, self.launcher.notes
        try:
            config = self.config(number)
            if not notes.write(config):
                returned = self.run(config, partial(_end, failure, objective))
                notes.compare(config)
                return returned
        except OSError as error:
            log.warning("Hydra could not note the run %s: %s", result.cell.name, error)
        status = JobStatus.FAILED if failure else JobStatus.COMPLETED
        returned = JobReturn(overrides=self.overrides[number], working_dir=os.getcwd(), status=status)
        returned.return_value = failure or objective
        self.launcher.hydra_context.callbacks.on_job_end(config=config, job_return=returned)
        return returned


def _end(failure: RunError | None, objective: runner.Objective, config: DictConfig) -> runner.Objective:
    """End a job, as Hydra's task function, as its run ended: raise its failure or return its objective."""
    if failure:
        raise failure
    return objective


def _slim(returned: JobReturn) -> JobReturn:
    """Return a result without its configs, which are many; a failed run's is its error, and a sweeper goes on."""
    returned.cfg = returned.hydra_cfg = None
    if isinstance(returned._return_value, RunError):
        returned.status = JobStatus.COMPLETED
    return returned
