"""Sets of metrics: the files of `conf/metrics/`, and those of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kling_sweeps import CONF
from kling_sweeps.errors import ConfigError

Spec = Mapping[str, Mapping[str, Any] | None]

FOLDER = CONF / "metrics"


def specification(name: str | Path) -> Spec:
    """Read a set of metrics, one of `conf/metrics/` by name or a YAML file, as Hydra does.

    A file's `defaults` name other sets, found beside it or in `conf/metrics/`, and are merged in their
    order. Raises `ConfigError` for what is not a set.
    """
    from omegaconf import OmegaConf

    spec: Any = OmegaConf.to_container(_read(str(name), Path(), ()))
    if not spec:
        raise ConfigError(f"metrics={name}: there is no metric in it")
    read: Spec = spec
    return read


# Not Hydra's compose: within a command Hydra is at work already, with one search path, and a set may lie anywhere.
def _read(name: str, folder: Path, seen: tuple[Path, ...]) -> Any:
    """Load a file and what its `defaults` name, as an OmegaConf config."""
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    path = _found(name, folder, seen)
    if path in seen:
        raise ConfigError(f"metrics={name}: its defaults lead back to itself")
    try:
        config = OmegaConf.load(path)
    except (
        OSError,
        UnicodeDecodeError,
        YAMLError,
        OmegaConfBaseException,
        ValueError,
        RecursionError,
    ) as error:
        raise ConfigError(f"metrics={name} can't be read: {error}") from error
    if not isinstance(config, DictConfig) or not all(isinstance(key, str) for key in config):
        raise ConfigError(f"metrics={name}: expected a mapping of metrics to their parameters")
    defaults = config.pop("defaults", OmegaConf.create([]))
    if not OmegaConf.is_list(defaults) or not all(isinstance(each, str) for each in defaults):
        raise ConfigError(f"metrics={name}: expected defaults to be a list of names")
    order = [*defaults] if "_self_" in defaults else [*defaults, "_self_"]
    parts = [config if each == "_self_" else _read(each, path.parent, (*seen, path)) for each in order]
    return OmegaConf.merge(*parts)


def _found(name: str, folder: Path, seen: tuple[Path, ...]) -> Path:
    sets = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    for path in (folder / f"{name}.yaml", FOLDER / f"{name}.yaml", folder / name):
        try:
            if path.exists() and not path.is_dir():
                return path.resolve()
        except (OSError, ValueError):
            break
    where = f"{seen[-1].name}, defaults: {name}" if seen else f"metrics={name}"
    raise ConfigError(f"{where}: neither a set ({', '.join(sets)}) nor a file")
