"""The folders in which Hydra notes its jobs, and whether it can, before anything is bought."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from kling_sweeps.errors import ConfigError
from kling_sweeps.experiment.reader import reason
from kling_sweeps.untrusted import secrets

# What every file system of Linux and macOS takes: bytes of one name, and of a path with what Hydra adds to it.
NAME_BYTES = 255
PATH_BYTES = 960


def problems(hydra: DictConfig) -> Iterator[str]:
    """Yield why Hydra can't make the folder of a job, or write its files there."""
    is_sweep = hydra.mode == RunMode.MULTIRUN
    keys = ["sweep.dir", "sweep.subdir"] if is_sweep else ["run.dir"]
    found = {}
    for key in (*keys, "job.name"):
        try:
            group, name = key.split(".")
            found[key] = str(hydra[group][name])
        except OmegaConfBaseException as error:
            yield f"hydra.{key}: {reason(error)}"
    for key, text in found.items():
        for problem in _problems(text, is_inner=key not in keys[:1]):
            yield f"hydra.{key} {problem}; Hydra could not make the folder of a run"
    if "/" in found.get("job.name", ""):
        yield f"hydra.job.name={found['job.name']} has a slash, and names a file"
    if len("/".join(found.values()).encode("utf-8", "replace")) > PATH_BYTES:
        yield f"{' and '.join(f'hydra.{key}' for key in keys)} are together more than {PATH_BYTES} bytes long"


def _problems(text: str, is_inner: bool) -> Iterator[str]:
    """Yield what is wrong with a path, or with one that stays within a folder."""
    names = Path(text).parts
    if "\x00" in text:
        yield "holds a NUL"
    if any(secret in text for secret in secrets()):
        yield "holds a credential"
    if too_long := [
        name for name in names if len(name.encode("utf-8", "replace")) > NAME_BYTES - len(".log")
    ]:
        yield f"has a name of more than {NAME_BYTES - len('.log')} bytes ({too_long[0][:40]}…)"
    if is_inner and (Path(text).is_absolute() or ".." in names):
        yield f"leads out of its folder ({text[:40]})"


def make(hydra: DictConfig) -> None:
    """Make the folder of a command; raise ConfigError where it can't be made or written."""
    key = "hydra.sweep.dir" if hydra.mode == RunMode.MULTIRUN else "hydra.run.dir"
    folder = Path(hydra.sweep.dir if hydra.mode == RunMode.MULTIRUN else hydra.run.dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        why = None if os.access(folder, os.W_OK | os.X_OK) else "Permission denied"
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
    if why:
        raise ConfigError(f"{key}: {folder} can't be written ({why}); choose another with {key}=PATH")
