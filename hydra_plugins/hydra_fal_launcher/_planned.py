"""What a command would run, read as the command itself reads it, by whoever does not run it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import open_dict

from kling_sweeps import CONF
from kling_sweeps.errors import ConfigError
from kling_sweeps.experiment import yaml_files
from kling_sweeps.experiment.config import read_job, read_settings
from kling_sweeps.experiment.overrides import spelled
from kling_sweeps.experiment.refusals import message
from kling_sweeps.experiment.settings import Cell, Settings

from . import _prompts
from ._guard import command_problems, read_jobs, take_params, tell_jobs


def read_command(overrides: Sequence[str], config_dir: Path | None) -> tuple[Settings, list[Cell], bool]:
    """Return the settings and the runs of a command, and whether those are all: a search has others.

    Raises ConfigError with whatever the command would be refused for.
    """
    yaml_files.install()
    own = [f"hydra.searchpath=[file://{config_dir.absolute()}]"] if config_dir else []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            return _read([*own, *spelled(overrides)])
        except ConfigError:
            raise
        except Exception as error:  # Hydra's, of any kind
            raise ConfigError(message(error)) from None


def _read(overrides: list[str]) -> tuple[Settings, list[Cell], bool]:
    hydra = GlobalHydra.instance().hydra
    assert hydra  # as initialize_config_dir() makes it
    config = hydra.compose_config("config", overrides, run_mode=RunMode.MULTIRUN, from_shell=False)
    given = _prompts.chosen(config, OverridesParser.create().parse_overrides(take_params(config)))
    if found := [*command_problems(config, given)]:
        raise ConfigError(*found)
    tell_jobs(config, given)
    if str(config.hydra.sweeper._target_).endswith("BasicSweeper"):
        return *read_jobs(config, given), True
    fixed = [override.input_line for override in given if not override.is_sweep_override()]
    job = hydra.config_loader.load_sweep_config(config, [line for line in fixed if line])
    with open_dict(job):
        job.hydra.job.num = 0
    return read_settings(job), [read_job(job)[1]], False
