"""Reading values out of a DictConfig, with all that is wrong collected on the way."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kling_sweeps.experiment.hydra_private import yaml_loader

LARGEST = 1e15
# Of names that are all said where none is close.
MOST_NAMES = 24
LITERAL = "where the characters ${ are meant, write \\${"


# Not a Pydantic model: each value of a DictConfig may raise when it is resolved, a message has to say the value
# as it was written and how Hydra wants it written, and Pydantic's import takes 0.2 s of what a refusal may take.
class Reader:
    """Reads one config and collects what is wrong with it."""

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        self.raw = unresolved(cfg)
        self.raw.pop("hydra", None)
        self.groups: dict[str, Any] = {}
        self.known: dict[str, Any] = {}
        self.problems: dict[str, None] = {}

    def report(self, *problems: str) -> None:
        self.problems.update(dict.fromkeys(problems))

    def value(self, key: str, default: Any = None) -> Any:
        """Return the resolved value at a dotted key."""
        group, _, name = key.partition(".")
        if name and group not in self.groups:
            self.groups[group] = self._whole(group)
        if name in self.groups.get(group, ()):
            return self.groups[group][name]
        try:
            if key not in self.known:
                self.known[key] = self._select(key, default)
            return self.known[key]
        except OmegaConfBaseException as error:
            self.report(f"{key}: {reason(error)}")
            return default

    def at(self, *path: str | int) -> Any:
        """Return the resolved value at a path, whose names may have dots; raise what OmegaConf raises."""
        node = self.cfg
        for name in path:
            node = node[name]
        return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node

    def _whole(self, group: str) -> dict[str, Any]:
        """Return a resolved group, which is quicker than key by key; nothing where one of its keys is wrong."""
        try:
            found = self._select(group, None)
        except OmegaConfBaseException:
            found = None
        return {k: v for k, v in found.items() if v != "???"} if isinstance(found, dict) else {}

    def _select(self, key: str, default: Any) -> Any:
        value = OmegaConf.select(self.cfg, key, default=default)
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value

    def number(self, key: str, low: float = 0.0, whole: bool = False) -> float:
        """Return a number of at least `low`, and not so large that floats don't tell whole numbers apart."""
        value = self.value(key)
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
        if good and low <= value <= LARGEST and (not whole or value == int(value)):
            return int(value) if whole else float(value)
        kind = "whole number" if whole else "number"
        limit = f"from {low:g} to {LARGEST:g}" if good and value > LARGEST else f"of {low:g} or more"
        self.report(f"{key}={value} is not a {kind} {limit}")
        return low

    def flag(self, key: str) -> bool:
        """Return true or false."""
        value = self.value(key)
        if not isinstance(value, bool):
            self.report(f"{key}={value} is neither true nor false")
        return bool(value)

    def choice(self, key: str, valid: Iterable[str]) -> str:
        """Return one of the valid words."""
        value = str(self.value(key)).lower()
        if value not in valid:
            self.report(f"{key}={value} is unknown; valid are {', '.join(valid)}")
        return value

    def group(self, key: str, valid: Iterable[str]) -> None:
        """Report the keys of a mapping that nobody reads."""
        valid = list(valid)
        node = self.value(key, {})
        if not isinstance(node, dict):
            self.report(f"{key}={node} is not a mapping of {', '.join(valid)}")
            return
        for name in node:
            if name not in valid:
                self.report(f"{key}.{name} is unknown{close(name, valid)}")


def unresolved(cfg: DictConfig) -> dict[str, Any]:
    """Return a config as plain values, its interpolations as they are written."""
    plain: Any = OmegaConf.to_container(cfg, resolve=False)
    return dict(plain)


def reason(error: Exception) -> str:
    """Return in one line why a value can't be resolved."""
    said = (str(error).splitlines() or [type(error).__name__])[0]
    return f"{said}; {LITERAL}" if "nterpolat" in said else said


def leaves(node: Any, *path: str | int) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Yield the path and the value of everything in a config that holds nothing else."""
    if isinstance(node, dict) and node:
        for name, value in node.items():
            yield from leaves(value, *path, name)
    elif isinstance(node, list) and node:
        for number, value in enumerate(node):
            yield from leaves(value, *path, number)
    else:
        yield path, node


def said(value: Any) -> str:
    """Return a value as it is written on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def meant(value: Any, names: Iterable[str]) -> str | None:
    """Return the name that YAML would read as a value which is no text; None where none or several would be."""
    found = [name for name in names if repr(_scalar(name)) == repr(value)]
    return found[0] if len(found) == 1 else None


def _scalar(name: str) -> Any:
    try:
        return yaml.load(name, Loader=yaml_loader())
    except yaml.YAMLError:
        return name


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """Return the valid name that was meant by one that is not, None where there is no telling."""
    valid = sorted(valid)
    close = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.7)
    return next(iter(close or [word for word in valid if word.startswith(f"{name}_")]), None)


def close(name: str, valid: Iterable[str]) -> str:
    """Return what to say after a name that is not valid: the one that was meant, or all there are."""
    valid = sorted(valid)
    if meant := nearest(name, valid):
        return f"; did you mean {meant}?"
    more = len(valid) - MOST_NAMES
    return f"; valid are {', '.join(valid[:MOST_NAMES])}{f' and {more} more' * (more > 0)}"
