"""One job of Hydra's, and how a job and a launcher meet.

Hydra's `run_job` writes a job's config down and calls a task function; its launchers call it for each job.

- Our launcher (`hydra/launcher=fal`) reads the configs of all jobs, unless the guard has before the sweep began,
  and gives their cells to `runner.run_all` together. Once a run is over, the job is written down: the first one by
  `run_job`, with a task function that only returns the run's objective or raises its error, the others as that has
  written the first. The config is composed again for that and not kept: it takes 180 kB of memory and 7 ms to
  compose, and a sweep may have thousands.
- Any other launcher (basic, joblib, Ray, submitit), and a command of a single run, has Hydra call `job`: in this
  process, in another one or on another machine. It reads its config and gives its one cell to `runner.run_all`.

Both come to the same: what is in the store is not bought again, and what is in MLflow is not written again.
"""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

# Where Hydra's sweepers write down what a sweep was composed of.
CONFIG_DUMP = "multirun.yaml"
# What `main` does when Hydra has run all jobs, failed ones too: at Python's own exit no thread can be started any more.
at_end = ExitStack()
# Set at the end of a command where a gate did not hold, cleared by `main`.
broken = threading.Event()
# Set at the end of a command where an answer of its judge is missing, cleared by `main`.
unjudged = threading.Event()


def job(cfg: Any) -> Any:
    """Generate, measure and track one video; return its objective, or objectives, for a sweeper that searches.

    A failure raises RunError in a sweep. In a command of a single run it raises SystemExit, since Hydra would print
    the overrides with any other exception.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from kling_sweeps.errors import RefusedError, RunError, say_refused
    from kling_sweeps.sweep import cluster, runner
    from kling_sweeps.sweep.earlier import read_job
    from kling_sweeps.terminal import streams

    streams.settle()  # the process may be a launcher's own
    hydra = HydraConfig.get()
    with suppress(OSError):  # a cluster's process may be elsewhere, and relative paths are of the command
        os.chdir(hydra.runtime.cwd)
    try:
        settings, cell = read_job(cfg, hydra)
        if hydra.mode is not RunMode.RUN and hydra.runtime.choices.get("cluster", "local") != "local":
            cluster.check(settings)
        if hydra.mode is RunMode.RUN:
            return runner.run_one(settings, cell, Path(hydra.runtime.output_dir))
        return runner.run_one(settings, cell, is_part=True)
    except (RefusedError, RunError) as error:
        if hydra.mode is RunMode.RUN:
            raise SystemExit(1 if isinstance(error, RunError) else say_refused(error)) from None
        # Any launcher and sweeper hears of it; others of the sweep may have been submitted.
        raise error if isinstance(error, RunError) else RunError(str(error), error_type="refused") from None
