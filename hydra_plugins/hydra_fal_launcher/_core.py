"""The work of the launcher: jobs in, videos in the store, jobs run as their videos land."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from omegaconf import DictConfig, open_dict

from kling_sweeps import session
from kling_sweeps.config import read_all
from kling_sweeps.errors import ConfigError, RunError

if TYPE_CHECKING:
    from .fal_launcher import FalLauncher


def launch(
    launcher: FalLauncher, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
) -> Sequence[JobReturn]:
    """Run every job once its video has landed; return their results in Hydra's order."""
    setup_globals()
    configure_log(launcher.config.hydra.hydra_logging, launcher.config.hydra.verbose)
    Path(launcher.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
    configs = [
        _compose(launcher, overrides, initial_job_idx + number)
        for number, overrides in enumerate(job_overrides)
    ]
    if launcher.max_in_flight < 1:
        raise ConfigError(f"hydra.launcher.max_in_flight={launcher.max_in_flight} is not 1 or more")
    settings, cells = read_all((config, config.hydra) for config in configs)
    results: list[JobReturn] = [_not_run() for _ in configs]
    for landed in session.run_all(settings, cells, launcher.max_in_flight):
        for number, cell in enumerate(cells):
            if cell.request.key == landed.cell.request.key:
                results[number] = _run(launcher, configs[number])
    return results


def _compose(launcher: FalLauncher, overrides: Sequence[str], number: int) -> DictConfig:
    config = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, list(overrides))
    with open_dict(config):
        config.hydra.job.id = number
        config.hydra.job.num = number
    return config


def _run(launcher: FalLauncher, config: DictConfig) -> JobReturn:
    """Let Hydra run a job; one that failed returns NaN, so that a sweeper goes on to the next."""
    returned = run_job(
        hydra_context=launcher.hydra_context,
        task_function=launcher.task_function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    configure_log(launcher.config.hydra.hydra_logging, launcher.config.hydra.verbose)
    if isinstance(returned._return_value, RunError):
        returned.status, returned.return_value = JobStatus.COMPLETED, math.nan
    return returned


def _not_run() -> JobReturn:
    """Return what stands for a job of a dry run."""
    return JobReturn(status=JobStatus.COMPLETED)
