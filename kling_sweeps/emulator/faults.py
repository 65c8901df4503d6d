"""Rules that say where the emulator misbehaves, how, and how often."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .fault_kinds import KINDS

Options = Mapping[str, Any]
IS_OF: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "times": ("a whole number, 1 or more", lambda value: type(value) is int and value >= 1),
    "nth": ("a whole number, 1 or more", lambda value: type(value) is int and value >= 1),
    "probability": ("a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1),
    "seed": ("a whole number", lambda value: type(value) is int),
    "match": ("a text", lambda value: isinstance(value, str)),
}


class RuleError(ValueError):
    """A rule that can't be followed; the text says why and what is valid."""


@dataclass(frozen=True)
class Fault:
    """A fault that is to happen now, with its options."""

    name: str
    options: Options


@dataclass
class Rule:
    """One rule as it was set, with its luck and how often it was met and followed."""

    given: Mapping[str, Any]
    fault: Fault
    met: int = 0
    applied: int = 0
    luck: random.Random = field(default_factory=random.Random)

    def follows(self, prompt: str, request_id: str) -> bool:
        """Return whether the rule applies to this event, and count it."""
        match = self.given.get("match")
        if match is not None and match not in prompt and match != request_id:
            return False
        self.met += 1
        if self.given.get("nth", self.met) != self.met:
            return False
        if self.applied >= self.given.get("times", float("inf")):
            return False
        if self.luck.random() >= self.given.get("probability", 1.0):
            return False
        self.applied += 1
        return True


class Faults:
    """The rules in force; the first one that applies to an event is followed."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []

    def set(self, rules: Any) -> None:
        """Replace all rules. Raises RuleError, and then leaves the old ones in force."""
        if not isinstance(rules, list):
            raise RuleError("faults are a JSON list of rules; an empty one removes them all")
        self._rules = [_rule(position, given) for position, given in enumerate(rules)]

    def describe(self) -> list[dict[str, Any]]:
        """Return the rules with how often each applied."""
        return [{**rule.given, "applied": rule.applied} for rule in self._rules]

    def pick(self, at: str, prompt: str = "", request_id: str = "") -> Fault | None:
        """Return the fault that an event at a place meets, if any."""
        here = (rule for rule in self._rules if rule.given["at"] == at)
        return next((rule.fault for rule in here if rule.follows(prompt, request_id)), None)


def _rule(position: int, given: Any) -> Rule:
    where = f"rule {position}"
    if not isinstance(given, dict):
        raise RuleError(f'{where}: a rule is an object like {{"at": "submit", "fault": "drop"}}')
    kinds = _choice(where, "at", given.get("at"), KINDS)
    defaults = _choice(where, "fault", given.get("fault"), kinds)
    _check_names(where, given, defaults)
    options = {name: _option(where, name, given.get(name, value), value) for name, value in defaults.items()}
    seed = given.get("seed", 0)
    return Rule(given, Fault(given["fault"], options), luck=random.Random(seed))


def _choice(where: str, name: str, given: Any, choices: Mapping[str, Any]) -> Any:
    if not isinstance(given, str) or given not in choices:
        raise RuleError(f"{where}: {name} is {given!r}; valid: {_listed(choices)}")
    return choices[given]


def _check_names(where: str, given: Options, defaults: Options) -> None:
    valid = ["at", "fault", *IS_OF, *defaults]
    if unknown := set(given) - set(valid):
        raise RuleError(
            f"{where}: {given['fault']} has no {_listed(sorted(unknown))}; valid: {_listed(valid)}"
        )
    for name, (expected, is_valid) in IS_OF.items():
        if name in given and not is_valid(given[name]):
            raise RuleError(f"{where}: {name} is {given[name]!r}; it must be {expected}")


def _option(where: str, name: str, given: Any, default: Any) -> Any:
    is_same_kind = isinstance(given, bool) if isinstance(default, bool) else _is_number(given)
    if isinstance(default, str):
        is_same_kind = isinstance(given, str)
    if not is_same_kind or (_is_number(given) and given < 0):
        raise RuleError(f"{where}: {name} is {given!r}; it must be like {default!r}, which is the default")
    return given


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
