"""A valid value for an argument, as an override of the command line has it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString

from kling_sweeps.experiment import json_schema
from kling_sweeps.experiment.config import ARGUMENTS, KEYS
from kling_sweeps.experiment.model import Model
from kling_sweeps.experiment.reader import said
from kling_sweeps.experiment.roles import IMAGE

PICTURE = "https://example.com/picture.png"


def overrides(model: Model) -> list[str]:
    """Return what has to be given for a model, for a shell: its required arguments that have no default."""
    names = [
        name for name in model.required if name != model.prompt and "default" not in model.arguments[name]
    ]
    return [_for_shell(_override(name, _example(model.arguments[name]))) for name in names]


def _for_shell(text: str) -> str:
    return f'"{text}"' if "'" in text and not set(text) & set('$`"\\!') else shlex.quote(text)


def _override(name: str, value: Any) -> str:
    key = name if name in ARGUMENTS else f"+arguments.{name}" if name in KEYS else f"+{name}"
    return f"{key}={_written(value)}"


def _example(schema: Any) -> Any:
    """Return a value that a schema allows, as far as it is of the common kinds."""
    if not isinstance(schema, Mapping):
        return "a text"
    if "default" in schema:
        return schema["default"]
    if listed := json_schema.choices(schema):
        return listed[0]
    branches = json_schema.alternatives(schema)
    if branches and branches != [schema]:
        return _example({**branches[0], "role": schema.get("role")})
    kind, role = schema.get("type"), schema.get("role")
    if kind in ("integer", "number"):
        low, high = schema.get("minimum", schema.get("exclusiveMinimum", 0)), schema.get("maximum")
        return low + 1 if "exclusiveMinimum" in schema or (low == 0 and high is None) else low
    if kind == "array":
        nested = {**schema["items"], "role": role} if isinstance(schema.get("items"), Mapping) else {}
        return [_example(nested)] * max(1, schema.get("minItems", 1))
    if kind == "object":
        properties = schema.get("properties", {})
        return {name: _example(properties.get(name)) for name in schema.get("required", properties)}
    if kind == "boolean":
        return False
    return PICTURE if role == IMAGE else "a text".ljust(schema.get("minLength", 0), "!")


def _written(value: Any) -> str:
    """Return a value in Hydra's grammar."""
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{name}: {_written(one)}" for name, one in value.items()) + "}"
    if isinstance(value, str):
        return QuotedString(value, Quote.single).with_quotes()
    return said(value)
