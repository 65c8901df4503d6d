"""The launcher as Hydra sees it; what is heavy waits in `_core`."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from .config import FalLauncherConf  # noqa: F401  registers the launcher's config


class FalLauncher(Launcher):
    """Generates and measures all jobs' videos concurrently; each job is written down as its run is over."""

    def __init__(self, max_in_flight: int) -> None:
        self.max_in_flight = max_in_flight

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from ._composer import Composer
        from ._notes import Notes

        loader = hydra_context.config_loader  # maybe the guard's, which has read every job
        self.composer: Composer = loader if isinstance(loader, Composer) else Composer(loader)
        hydra_context.config_loader = self.composer.loader
        self.notes = Notes()
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from . import _core

        return _core.launch(self, job_overrides, initial_job_idx)
