"""A prompt of a set: its text, what a template takes, and which prompts of a set are meant by `all` and the like."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Quote, QuotedString
from hydra.errors import HydraException

from kling_sweeps.errors import ConfigError

ALL = "all"
FACTOR = re.compile(r"(?<!\\)\$\{\s*([A-Za-z_]\w*)\s*\}")
CHOICE = re.compile(r"all|(?:pick|glob)\(.*\)", re.DOTALL)
OVERRIDE = re.compile(rf"(\+{{0,2}}(prompt|optimize\.prompts)=)\s*({CHOICE.pattern})\s*", re.DOTALL)
WAYS_TO_CHOOSE = (ALL, "pick(20)", "glob(*)")
# Ids are named as long as they are no more letters than this.
NAMED = 120
PICK = re.compile(r"pick\(\s*(\d{1,9})\s*(?:,\s*(?:seed\s*=\s*)?(\d{1,18})\s*)?\)")


@dataclass(frozen=True)
class Prompt:
    """A text, which is a template where it has factors, as `${camera}`, and where it stands.

    `values` are arguments and factors that the prompt brings along. `path` is where the text is in a config, whose
    interpolations OmegaConf resolves; None of a file, where nothing but factors is filled in. A file may have it
    several `times`, which is once.
    """

    text: str
    where: str
    values: Mapping[str, Any] = field(default_factory=dict)
    path: tuple[Any, ...] | None = None
    times: int = 1


def factors(template: str) -> list[str]:
    """Return the names of a template's factors."""
    return FACTOR.findall(template)


def filled(template: str, values: Mapping[str, str]) -> str:
    """Return the text that a template of a file makes; a factor that has no value stays, and `\\${` is `${`."""
    text = FACTOR.sub(lambda factor: values.get(factor[1], factor[0]), template)
    return text.replace("\\${", "${")


def escaped(text: str) -> str:
    """Return the template that makes this text."""
    return text.replace("${", "\\${")


def quoted(overrides: Iterable[str]) -> list[str]:
    """Return overrides with `prompt=pick(20)` and the like as texts, since Hydra knows no such function."""
    found = [(override, OVERRIDE.fullmatch(override)) for override in overrides]
    return [one[1] + QuotedString(one[3], Quote.single).with_quotes() if one else o for o, one in found]


def sweeps(overrides: Iterable[str]) -> bool:
    """Tell whether an override chooses the prompts of a sweep."""
    return any((one := OVERRIDE.fullmatch(override)) and one[2] == "prompt" for override in overrides)


def chosen(choice: str, names: Sequence[str]) -> list[str]:
    """Return the ids that `all`, `pick(20)`, `pick(20, seed=1)` or `glob(night_*)` chooses, in the order of the set.

    A pick is the ids that are first by a digest of seed and id, so that a larger pick has those of a smaller one, and
    lines that are added to a set change little. Raises ConfigError.
    """
    if choice == ALL:
        return [*names]
    if choice.startswith("glob"):
        found = _glob(choice).filter([*names])
        if not found:
            raise ConfigError(f"{choice} matches none of the {len(names)} prompts of the set")
        return found
    if not (pick := PICK.fullmatch(choice)):
        raise ConfigError(f"{choice} is no pick; write it as pick(20), or pick(20, seed=1)")
    number, seed = int(pick[1]), int(pick[2] or 0)
    if not 1 <= number <= len(names):
        asked = f"asks for {number} prompts" if number else "asks for none"
        raise ConfigError(f"{choice} {asked}, and the set has {len(names)}; prompt={ALL} is all of them")
    picked = {*sorted(names, key=lambda name: _digest(seed, name))[:number]}
    return [name for name in names if name in picked]


def choices(names: Sequence[str]) -> str:
    """Return how many prompts a set has, and how they are chosen, as a shell takes it."""
    if len(names) == 1:
        return f"one prompt: prompt={names[0]}"
    some = f"'prompt=pick({min(20, len(names) // 2)})', 'prompt=glob({names[0][:1]}*)'"
    all_names = ", ".join(names)
    one = f"one of {all_names}" if len(all_names) <= NAMED else f"an id, as prompt={names[0]}"
    return f"{len(names)} prompts; say which: prompt={ALL}, {some} or {one}"


def _glob(choice: str) -> Glob:
    try:
        found = OverridesParser.create().parse_override(f"prompt={choice}").value()
    except HydraException as error:
        raise ConfigError(
            f"{choice} is no glob: {error}; write it as glob(night_*), or glob('night *')"
        ) from None
    assert isinstance(found, Glob)  # which no other function of this name makes
    return found


def _digest(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed} {name}".encode()).digest()
