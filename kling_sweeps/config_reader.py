"""Reading values out of a DictConfig, with all that is wrong collected on the way."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException


class Reader:
    """Reads one config and collects what is wrong with it."""

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        self.raw = OmegaConf.to_container(cfg, resolve=False)
        self.raw.pop("hydra", None)
        self.groups: dict[str, Any] = {}
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
            return self._select(key, default)
        except OmegaConfBaseException as error:
            self.report(f"{key}: {str(error).splitlines()[0]}")
            return default

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
        """Return a finite number of at least `low`."""
        value = self.value(key)
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
        if good and math.isfinite(value) and value >= low and (not whole or value == int(value)):
            return int(value) if whole else float(value)
        kind = "whole number" if whole else "number"
        self.report(f"{key}={value} is not a {kind} of {low:g} or more")
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


def close(name: str, valid: Iterable[str]) -> str:
    """Return what to say after a name that is not valid: the one that was meant, or all there are."""
    valid = sorted(valid)
    close = difflib.get_close_matches(str(name), valid, n=1)
    close = close or [word for word in valid if word.startswith(f"{name}_")]
    return f"; did you mean {close[0]}?" if close else f"; valid are {', '.join(valid)}"
