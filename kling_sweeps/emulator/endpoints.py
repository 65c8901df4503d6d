"""The endpoints that are emulated, as the files of `conf/model/` declare them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

from kling_sweeps import CONF
from kling_sweeps.experiment.model import REQUIRED, Argument, Model, read_model

if TYPE_CHECKING:
    from pydantic import BaseModel

Problem = dict[str, Any]

# Whose arguments an endpoint without a file is taken to have.
KNOWN = "fal-ai/kling-video/v2.1/master/text-to-video"
TYPES = {"string": str, "float": float, "integer": int, "boolean": bool}


@cache
def models() -> dict[str, Model]:
    """Return the model of every endpoint that has a file, whichever of its files comes first."""
    import yaml

    found: dict[str, Model] = {}
    for path in sorted(CONF.glob("model/*.yaml")):
        try:
            model = read_model(yaml.safe_load(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, yaml.YAMLError):
            continue  # the command that asks for this model says what is wrong with it
        found.setdefault(model.endpoint, model)
    return found


def model(endpoint: str) -> Model:
    """Return an endpoint's model; one without a file has no price."""
    return models().get(endpoint) or replace(models()[KNOWN], endpoint=endpoint, price=None)


def price_usd(endpoint: str, arguments: Mapping[str, Any]) -> float:
    """Return what a video costs in US dollars; 0 where no price is known or the arguments are refused."""
    complete, problems = read(endpoint, arguments)
    return 0.0 if problems else model(endpoint).price_usd(complete) or 0.0


def billable_seconds(endpoint: str, arguments: Mapping[str, Any]) -> int:
    """Return the seconds of video that a request asks for; 0 where its arguments are refused."""
    complete, problems = read(endpoint, arguments)
    return 0 if problems else int(complete.get("duration", 0))


def read(endpoint: str, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Return the arguments with those that were left out, or what is wrong with them as fal's `detail` has it."""
    from pydantic import ValidationError

    try:
        return _body(endpoint).model_validate(arguments).model_dump(), []
    except ValidationError as error:
        found = error.errors(include_url=False)
        return {}, [{**problem, "loc": ["body", *problem["loc"]]} for problem in found]


@cache
def _body(endpoint: str) -> type[BaseModel]:
    """Return the Pydantic model of a request's body, which is what fal checks it with."""
    from pydantic import ConfigDict, create_model

    declared: dict[str, Any] = {name: _field(one) for name, one in model(endpoint).arguments.items()}
    config = ConfigDict(extra="allow", protected_namespaces=())
    return create_model("Body", __config__=config, **declared)


def _field(argument: Argument) -> tuple[Any, Any]:
    """Return the type and the default value of an argument."""
    from pydantic import Field

    default = ... if argument.default is REQUIRED else argument.default
    if argument.type == "enum":
        return Literal[argument.values], default
    limits: dict[str, Any] = {"min_length": argument.min_length, "max_length": argument.max_length}
    if argument.type != "string":
        limits = {"ge": argument.min, "le": argument.max}
        limits = {name: limit for name, limit in limits.items() if math.isfinite(limit)}
    return Annotated[TYPES[argument.type], Field(**limits)], default
