"""One job of Hydra's: what any launcher runs."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any


def job(cfg: Any) -> float | None:
    """Generate, measure and track one video; return its objective, for a sweeper that searches.

    What a launcher has completed for it is not done again. In a sweep it raises RunError, a single run ends
    the process, since Hydra would print the overrides with an error.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from kling_sweeps.errors import RefusedError, RunError, say_refused
    from kling_sweeps.experiment.config import read_job
    from kling_sweeps.sweep import cluster, runner
    from kling_sweeps.terminal import streams

    streams.settle()  # the process may be a launcher's own
    hydra = HydraConfig.get()
    with suppress(OSError):  # a cluster's process may be elsewhere, and relative paths are of the command
        os.chdir(hydra.runtime.cwd)
    try:
        settings, cell = read_job(cfg, hydra)
        if hydra.mode is not RunMode.RUN and hydra.runtime.choices.get("cluster", "local") != "local":
            cluster.check(settings)
        return runner.run_one(settings, cell)
    except (RefusedError, RunError) as error:
        if hydra.mode is RunMode.RUN:
            raise SystemExit(1 if isinstance(error, RunError) else say_refused(error)) from None
        # Any launcher and sweeper hears of it; others of the sweep may have been submitted.
        raise error if isinstance(error, RunError) else RunError(str(error), error_type="refused") from None
