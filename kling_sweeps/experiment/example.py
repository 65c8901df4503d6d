"""A valid value for an argument, as an override of the command line has it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString

from kling_sweeps.experiment import json_schema
from kling_sweeps.experiment.keys import ARGUMENTS, KEYS
from kling_sweeps.experiment.model import Model
from kling_sweeps.experiment.reader import said
from kling_sweeps.experiment.roles import IMAGE

PICTURE, ADDRESS = "https://example.com/picture.png", "https://example.com/file"
IS_ADDRESS = re.compile(r"(?:^|_)ur[il]s?$")
# What Hydra's grammar takes for one text, and no YAML for anything else.
BARE = re.compile(r"[A-Za-z_][\w./-]*|https?://[\w./-]+")


def overrides(model: Model, picture: str = PICTURE, address: str = ADDRESS) -> list[str]:
    """Return what has to be given for a model, for a shell: its required arguments that have no default.

    Each picture among them is `picture`, and what is called an address is `address`.
    """
    names = [
        name for name in model.required if name != model.prompt and "default" not in model.arguments[name]
    ]
    example = _Example(picture, address)
    return [_for_shell(_override(name, example.of(name, model.arguments[name]))) for name in names]


def _for_shell(text: str) -> str:
    return f'"{text}"' if "'" in text and not set(text) & set('$`"\\!') else shlex.quote(text)


def _override(name: str, value: Any) -> str:
    key = name if name in ARGUMENTS else f"+arguments.{name}" if name in KEYS else f"+{name}"
    return f"{key}={_written(value)}"


@dataclass(frozen=True)
class _Example:
    """Makes values that schemas allow, as far as they are of the common kinds."""

    picture: str
    address: str

    def of(self, name: str, schema: Any, role: str | None = None) -> Any:
        """Return a value of what is called so."""
        if not isinstance(schema, Mapping):
            return "a text"
        role = schema.get("role", role)
        if "default" in schema:
            return schema["default"]
        if listed := json_schema.choices(schema):
            return listed[0]
        branches = json_schema.alternatives(schema)
        if branches and branches != [schema]:
            return self.of(name, branches[0], role)
        kind = schema.get("type")
        if kind in ("integer", "number"):
            low, high = schema.get("minimum", schema.get("exclusiveMinimum", 0)), schema.get("maximum")
            return low + 1 if "exclusiveMinimum" in schema or (low == 0 and high is None) else low
        if kind == "array":
            return [self.of(name, schema.get("items", {}), role)] * max(1, schema.get("minItems", 1))
        if kind == "object":
            properties = schema.get("properties", {})
            return {one: self.of(one, properties.get(one)) for one in schema.get("required", properties)}
        if kind == "boolean":
            return False
        if role == IMAGE:
            return self.picture
        return self.address if IS_ADDRESS.search(name) else "a text".ljust(schema.get("minLength", 0), "!")


def _is_text(value: str) -> bool:
    """Tell whether Hydra reads a word as a text, and not as a number, a switch or nothing."""
    return bool(OverridesParser.create().parse_override(f"a={value}").value() == value)


def _written(value: Any) -> str:
    """Return a value in Hydra's grammar."""
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{name}: {_written(one)}" for name, one in value.items()) + "}"
    if isinstance(value, str) and BARE.fullmatch(value) and _is_text(value):
        return value
    if isinstance(value, str):
        return QuotedString(value, Quote.single).with_quotes()
    return said(value)
