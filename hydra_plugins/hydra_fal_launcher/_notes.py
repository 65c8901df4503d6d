"""What Hydra writes down of a job: its config, Hydra's own part of it, and its overrides."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from kling_sweeps.experiment import hydra_private

OURS = {"kling_sweeps"}


class Notes:
    """Writes the files of jobs that are over, in a fourth of the time that Hydra takes.

    Hydra copies a config four times, and has YAML written by Python: 80 ms of CPU for a job, more than MLflow takes for a
    run. The first job's files are left to Hydra, and so are all where these would not be the same.
    """

    def __init__(self) -> None:
        self._is_like_hydra: bool | None = None

    def write(self, config: DictConfig) -> bool:
        """Write the files of a job; return whether that was done, which else is left to Hydra. Raises OSError."""
        if not self._is_like_hydra:
            return False
        try:
            with open_dict(config):
                config.hydra.runtime.output_dir = _output_dir(config)
            for file, content in _contents(config).items():
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(self._text(content), encoding="utf-8")
        except OSError:
            raise
        except Exception:  # whatever it is, Hydra goes on or says what is wrong
            return False
        return True

    def compare(self, config: DictConfig) -> None:
        """Find out, once, from what Hydra has written of the first job, whether the next ones can be written here."""
        if self._is_like_hydra is not None:
            return
        self._is_like_hydra = False
        # Who else is called back is told by Hydra, and sees its state.
        if config.hydra.callbacks.keys() != OURS:
            return
        with suppress(Exception):  # whatever it is, Hydra goes on
            there = (file for file in Path(_output_dir(config)).rglob("*") if file.is_file())
            theirs = {file: _parsed(file.read_text(encoding="utf-8")) for file in there}
            ours = {file: _parsed(self._text(content)) for file, content in _contents(config).items()}
            self._is_like_hydra = bool(ours) and ours == theirs

    def _text(self, content: Any) -> str:
        text: str = yaml.dump(
            content, default_flow_style=False, allow_unicode=True, sort_keys=False, Dumper=self._dumper
        )
        return text

    @cached_property
    def _dumper(self) -> Any:
        return hydra_private.yaml_dumper()


def _parsed(text: str) -> Any:
    """Return what OmegaConf would read, for which other texts are numbers than for PyYAML."""
    return yaml.load(text, Loader=hydra_private.yaml_loader())


def _output_dir(config: DictConfig) -> str:
    with _current(config):
        parts = (str(OmegaConf.select(config, f"hydra.sweep.{part}")) for part in ("dir", "subdir"))
        return os.path.abspath(os.path.join(*parts))


@contextmanager
def _current(config: DictConfig) -> Iterator[None]:
    """Let interpolations such as `${hydra:job.num}` be those of a config."""
    hydra = HydraConfig.instance()
    before, hydra.cfg = hydra.cfg, cast(Any, config)
    try:
        yield
    finally:
        hydra.cfg = before


def _contents(config: DictConfig) -> dict[Path, Any]:
    """Return what stands in a job's files, none where Hydra is to write none."""
    whole: Any = OmegaConf.to_container(config, resolve=False, enum_to_str=True)
    hydra = whole.pop("hydra")
    if hydra["output_subdir"] is None:
        return {}
    folder = Path(hydra["runtime"]["output_dir"], hydra["output_subdir"])
    return {
        folder / "config.yaml": whole,
        folder / "hydra.yaml": {"hydra": hydra},
        folder / "overrides.yaml": hydra["overrides"]["task"],
    }
