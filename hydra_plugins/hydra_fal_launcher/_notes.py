"""What Hydra writes down of a job: its config, Hydra's own part of it, and its overrides."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf, open_dict

from kling_sweeps.experiment import hydra_private

OURS = {"kling_sweeps"}


class Notes:
    """Writes the files of jobs that are over, in a fifth of the time that Hydra takes.

    Hydra copies a config four times, and YAML is written by Python: that is 90 ms of CPU for a job, more than MLflow takes
    for a run. The first job's files are left to Hydra, and all are where these would say otherwise.
    """

    def __init__(self) -> None:
        self._is_like_hydra = False

    def write(self, config: DictConfig) -> bool:
        """Write the files of a job; return whether that was done, which else is left to Hydra. Raises OSError."""
        if not self._is_like_hydra:
            return False
        try:
            with open_dict(config):
                config.hydra.runtime.output_dir = _output_dir(config)
            Path(config.hydra.runtime.output_dir).mkdir(parents=True, exist_ok=True)
            if folder := _folder(config):
                folder.mkdir(exist_ok=True, parents=True)
                for name, content in _contents(config).items():
                    (folder / name).write_text(self._text(content), encoding="utf-8")
        except OSError:
            raise
        except Exception:  # whatever it is, Hydra goes on or says what is wrong
            return False
        return True

    def compare(self, config: DictConfig) -> None:
        """Find out, from the files of a job that Hydra has run, whether the next ones can be written here."""
        with suppress(Exception):  # whatever it is, Hydra goes on
            folder, theirs = _folder(config), {}
            for file in folder.iterdir() if folder else ():
                theirs[file.name] = yaml.safe_load(file.read_text(encoding="utf-8"))
            ours = {name: yaml.safe_load(self._text(content)) for name, content in _contents(config).items()}
            is_alike = folder is None or ours == theirs
            is_there = config.hydra.runtime.output_dir == _output_dir(config)
            # Who calls back is told by Hydra, and sees its state.
            self._is_like_hydra = is_alike and is_there and config.hydra.callbacks.keys() == OURS

    def _text(self, content: Any) -> str:
        text: str = yaml.dump(
            content, default_flow_style=False, allow_unicode=True, sort_keys=False, Dumper=self._dumper
        )
        return text

    @cached_property
    def _dumper(self) -> Any:
        return hydra_private.yaml_dumper()


def _output_dir(config: DictConfig) -> str:
    parts = (str(OmegaConf.select(config, f"hydra.sweep.{part}")) for part in ("dir", "subdir"))
    return os.path.abspath(os.path.join(*parts))


def _folder(config: DictConfig) -> Path | None:
    """Return where a job's files are, None where there are to be none."""
    subdir = config.hydra.output_subdir
    return None if subdir is None else Path(config.hydra.runtime.output_dir, subdir)


def _contents(config: DictConfig) -> dict[str, Any]:
    """Return what stands in a job's files, by their names."""
    whole: Any = OmegaConf.to_container(config, resolve=False, enum_to_str=True)
    hydra = whole.pop("hydra")
    return {
        "config.yaml": whole,
        "hydra.yaml": {"hydra": hydra},
        "overrides.yaml": hydra["overrides"]["task"],
    }
