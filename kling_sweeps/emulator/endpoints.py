"""The endpoints that are emulated, as model files declare them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kling_sweeps import CONF
from kling_sweeps.errors import ConfigError

if TYPE_CHECKING:
    from jsonschema import ValidationError

    from kling_sweeps.experiment.model import Model

Problem = dict[str, Any]

# Whose arguments an endpoint without a file is taken to have.
KNOWN = "fal-ai/kling-video/v2.1/master/text-to-video"
# What is rendered where nothing definite is asked for, and at most.
SECONDS, MOST_SECONDS = 5.0, 60.0
# Pydantic's names for what JSON Schema's keywords find wrong, which are fal's: of a type, and of anything else.
TYPES = {
    "string": "string_type",
    "number": "float_type",
    "integer": "int_type",
    "boolean": "bool_type",
    "array": "list_type",
    "object": "dict_type",
    "null": "none_required",
}
OF_TEXT = {"number": "float_parsing", "integer": "int_parsing", "boolean": "bool_parsing"}
KINDS = {
    "enum": "literal_error",
    "const": "literal_error",
    "minimum": "greater_than_equal",
    "maximum": "less_than_equal",
    "exclusiveMinimum": "greater_than",
    "exclusiveMaximum": "less_than",
    "multipleOf": "multiple_of",
    "minLength": "string_too_short",
    "maxLength": "string_too_long",
    "pattern": "string_pattern_mismatch",
    "minItems": "too_short",
    "maxItems": "too_long",
    "required": "missing",
    "additionalProperties": "extra_forbidden",
}

# The endpoints that answer about videos: what is looked at, and what both have. The rubric names them too; its import takes
# longer than all others of the emulator.
VIDEO, VISION = "openrouter/router/video", "openrouter/router/vision"
LOOKED_AT = {VIDEO: "video_urls", VISION: "image_urls"}
_TEXT, _NULL = {"type": "string"}, {"type": "null"}
_URLS = {"type": "array", "items": _TEXT}
_ASKED = {
    "prompt": _TEXT,
    "system_prompt": {"anyOf": [_TEXT, _NULL]},
    "model": _TEXT,
    "reasoning": {"type": "boolean", "default": False},
    "temperature": {"type": "number", "minimum": 0, "maximum": 2, "default": 1},
    "max_tokens": {"anyOf": [{"type": "integer", "minimum": 1}, _NULL]},
}
JUDGES: dict[str, dict[str, Any]] = {
    VIDEO: {
        "arguments": {"video_urls": {"anyOf": [_URLS, _NULL]}, **_ASKED},
        "required": ("prompt", "model"),
    },
    VISION: {"arguments": {"image_urls": _URLS, **_ASKED}, "required": ("prompt", "image_urls", "model")},
}


@dataclass(frozen=True)
class Scene:
    """What is rendered: the words that decide it, its seconds, width over height, and the address of its first picture.

    `ratio` is None where nothing definite is asked for.
    """

    arguments: Mapping[str, Any]
    ratio: float | None
    picture: str | None = None


# Two threads that import Hydra at once would wait for each other's modules.
_reading = threading.Lock()


@dataclass(frozen=True)
class Endpoints:
    """The endpoints of `folders` of model files, or OpenAPI documents, and of the package's own files."""

    folders: Sequence[Path] = ()

    @property
    def models(self) -> dict[str, Model]:
        """Return the model of every endpoint that has a file, whichever of its files comes first."""
        with _reading:
            return self._models

    @cached_property
    def _models(self) -> dict[str, Model]:
        from kling_sweeps.experiment.model import read_model

        found: dict[str, Model] = {}
        for node in self._nodes():
            with suppress(ValueError):  # the command that asks for it says what is wrong with it
                model = read_model(node)
                found.setdefault(model.endpoint, model)
        return found

    def _nodes(self) -> Iterator[Mapping[str, Any]]:
        """Yield the contents of model files, of those folders and of what is in OpenAPI documents."""
        from kling_sweeps.experiment import openapi, yaml_files

        for path in (*self.folders, CONF / "model"):
            for file in sorted(path.glob("*.yaml")) if path.is_dir() else ():
                with suppress(ConfigError):
                    yield yaml_files.content(file)
            document = openapi.parsed(path.read_text(encoding="utf-8-sig")) if path.is_file() else []
            for described in openapi.endpoints(document).values():
                with suppress(ValueError):
                    yield openapi.imported(described).model(described.endpoint)

    def model(self, endpoint: str) -> Model:
        """Return an endpoint's model; one without a file has no price."""
        declared = JUDGES.get(endpoint, {})
        return self.models.get(endpoint) or replace(
            self.models[KNOWN], endpoint=endpoint, price=None, **declared
        )

    def charge(self, endpoint: str, arguments: Mapping[str, Any]) -> tuple[float, int]:
        """Return what a video costs in US dollars, 0 where no price is known, and the seconds that it is asked to have.

        Both are 0 where its arguments are refused.
        """
        complete, problems = self.read(endpoint, arguments)
        if problems:
            return 0.0, 0
        model = self.model(endpoint)
        return model.price_usd(complete) or 0.0, round(model.requested(complete).duration_s or 0)

    def read(self, endpoint: str, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
        """Return the arguments with those that were left out, or what is wrong with them as fal's `detail` has it.

        What no file declares is passed on, as fal does.
        """
        model = self.model(endpoint)
        from kling_sweeps.experiment.json_schema import errors, is_finite

        missing = [name for name in model.required if name not in arguments]
        found = [_problem("missing", [name], "Field required", dict(arguments)) for name in missing]
        for name, schema in model.arguments.items():
            if name in arguments:
                told = [_told([name], error) for error in errors(schema, arguments[name])]
                if not is_finite(arguments[name]):
                    told.append(_problem("finite_number", [name], "Input should be a finite number", None))
                # Of a value that is none of a list's, its type matters no more.
                listed = [one["loc"] for one in told if one["type"] == "literal_error"]
                found += [one for one in told if one["type"] == "literal_error" or one["loc"] not in listed]
        if found:
            return {}, found
        defaults = {
            name: schema.get("fal_default", schema.get("default")) for name, schema in model.arguments.items()
        }
        return {**{name: value for name, value in defaults.items() if value is not None}, **arguments}, []

    def scene(self, endpoint: str, arguments: Mapping[str, Any]) -> Scene:
        """Return what is rendered of complete arguments."""
        model = self.model(endpoint)
        asked = model.requested(arguments)
        words = {name: value for name, value in arguments.items() if value is not None}
        words["prompt"] = str(arguments.get(model.prompt or "") or "")
        words["duration"] = f"{min(asked.duration_s or SECONDS, MOST_SECONDS):g}"
        if "cfg_scale" in words:
            words["cfg_scale"] = min(1.0, max(0.0, float(words["cfg_scale"])))
        given = (arguments.get(name) for name in model.arguments if name in model.pictures)
        addresses = (one for value in given for one in (value if isinstance(value, list) else [value]) if one)
        return Scene(words, asked.aspect_ratio, next(map(str, addresses), None))


def _told(path: list[str | int], error: ValidationError) -> Problem:
    """Return an error of a JSON Schema as one of fal's, which are Pydantic's."""
    while error.context:  # of alternatives, the first
        error = error.context[0]
    keyword, value = str(error.validator), error.instance
    place = [*path, *error.absolute_path]
    kind = KINDS.get(keyword, "value_error")
    if keyword == "required":
        place += [name for name in error.validator_value if name not in value][:1]
    if keyword == "type":
        wanted = error.validator_value if isinstance(error.validator_value, str) else "object"
        kind = OF_TEXT.get(wanted, TYPES[wanted]) if isinstance(value, str) else TYPES[wanted]
    return _problem(kind, place, error.message, value)


def _problem(kind: str, place: Sequence[str | int], message: str, value: Any) -> Problem:
    return {"type": kind, "loc": ["body", *place], "msg": message, "input": value}
