"""A model as its YAML file declares it: the endpoint, its arguments as JSON Schema, and its price."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache, cached_property
from typing import Any

from kling_sweeps.experiment import json_schema
from kling_sweeps.experiment.json_schema import Schema
from kling_sweeps.experiment.picture import LIMITS, STANDS_FOR, is_address, replaced
from kling_sweeps.experiment.price import Price, Tier, read_price
from kling_sweeps.experiment.reader import close, said
from kling_sweeps.experiment.request import Form
from kling_sweeps.experiment.roles import (
    IMAGE,
    PROMPT,
    REWRITES_PROMPT,
    ROLES,
    SECONDS,
    SHAPE,
    SINGLE,
    is_on,
    ratio_of,
    seconds_of,
)
from kling_sweeps.requested import Requested

# The keywords within which a value's pictures are found.
VISITED = ("items", "properties", "anyOf", "oneOf", "allOf")
# What becomes of a picture's text, by the schema that has the role.
Change = Callable[[str, Schema], str]


@dataclass(frozen=True)
class Model:
    """An endpoint, its arguments and its price; `price` is None where nobody knows it.

    An argument is a JSON Schema whose `role` says what it means (ROLES), and whose `fal_default` is fal's own default,
    which is not known where there is none: `default` may be anybody's. `required` names those that fal insists on.
    """

    name: str
    endpoint: str
    arguments: Mapping[str, Schema] = field(default_factory=dict)
    required: Sequence[str] = ()
    price: Price | None = None

    def read_arguments(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Return every argument as it is sent, and a problem for each that can't be.

        An argument that `given` does not name is sent with its default. One that has none, or is given as null, is
        left to fal, unless null is a value that differs from the default.
        """
        arguments, problems = {}, []
        for name, schema in self.arguments.items():
            default = schema.get("default")
            value = given.get(name, default)
            if value is None and default is None and name not in self.required:
                continue
            if value is None and name not in given:
                problems.append(f"{name} is missing; {self.name} requires it")
            elif found := self._problem(name, schema, value):
                problems.append(found)
            else:
                arguments[name] = json_schema.normalised(schema, value)
        return arguments, problems

    def _problem(self, name: str, schema: Schema, value: Any) -> str | None:
        if found := json_schema.problem(name, schema, value):
            return found
        if schema.get("role") == PROMPT and isinstance(value, str) and not value.strip():
            return f"{name}={value!r} is empty; at least 1 character is needed"
        for one in _pictures(schema, value):
            if not is_address(one) and not STANDS_FOR.fullmatch(one):
                return f"{name}={json_schema.shown(one)} is neither a picture's file nor an address, as https://…"
        return None

    def with_pictures(self, name: str, value: Any, change: Change) -> Any:
        """Return a value of an argument with each picture in it changed; `change` is given its schema too."""
        return _changed(self.arguments[name], value, change) if name in self.arguments else value

    def named(self, role: str) -> str | None:
        """Return the argument of a role, None where there is none."""
        return next((name for name, schema in self.arguments.items() if schema.get("role") == role), None)

    @cached_property
    def pictures(self) -> set[str]:
        """Return the names of the arguments that are pictures themselves."""
        return {name for name, schema in self.arguments.items() if schema.get("role") == IMAGE}

    @cached_property
    def prompt(self) -> str | None:
        """Return the name of the argument that is the prompt."""
        return self.named(PROMPT)

    def requested(self, arguments: Mapping[str, Any]) -> Requested:
        """Return what a video of these arguments is asked to be, as far as it is asked for something definite."""
        seconds, shape = (arguments.get(self.named(role) or "") for role in (SECONDS, SHAPE))
        return Requested(ratio_of(shape), seconds_of(seconds), str(arguments.get(self.prompt or "", "")))

    def form(self, arguments: Mapping[str, Any]) -> Form:
        """Return which of the arguments of a request are at the file's default, and which at what it says is fal's."""
        defaults, theirs = self._defaults
        return Form(
            tuple(self.arguments),
            tuple(name for name, value in arguments.items() if value == defaults[name]),
            tuple(name for name, value in arguments.items() if name in theirs and value == theirs[name]),
        )

    @cached_property
    def _defaults(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Return the file's default of each argument, and fal's where it is known, as they are sent."""
        keys = ("default", "fal_default")
        file, theirs = (
            {
                name: json_schema.normalised(schema, schema.get(key))
                for name, schema in self.arguments.items()
                if key in schema or key == "default"
            }
            for key in keys
        )
        return file, theirs

    def price_usd(self, arguments: Mapping[str, Any]) -> float | None:
        """Return the price in USD of one video with these arguments, or None.

        Where fal chooses the seconds, it is the price of the longest.
        """
        if self.price is None:
            return None
        return self.price.of(arguments, self.paid_s(arguments))

    def paid_s(self, arguments: Mapping[str, Any]) -> float | None:
        """Return the seconds that a video of these arguments has at most, None where that is not known."""
        return self.requested(arguments).duration_s or self.longest_s

    @cached_property
    def longest_s(self) -> float | None:
        """Return the most seconds that can be asked for, None where that has no limit."""
        schema = self.arguments.get(self.named(SECONDS) or "", {})
        branches = json_schema.alternatives(schema)
        values = [one for branch in branches for one in (*json_schema.choices(branch), branch.get("maximum"))]
        return max(filter(None, map(seconds_of, values)), default=None)

    def remarks(self, arguments: Mapping[str, Any]) -> list[str]:
        """Return what a reader of the plan has to know of a video with these arguments."""
        found = [
            f"{name}={said(arguments[name])} lets {self.name} rewrite the prompt"
            for name, schema in self.arguments.items()
            if schema.get("role") == REWRITES_PROMPT and is_on(arguments.get(name, schema.get("fal_default")))
        ]
        name = self.named(SECONDS)
        is_open = self.price and self.price.unit_s and not self.requested(arguments).duration_s
        if name and is_open and self.longest_s:
            found.append(
                f"{name}={said(arguments.get(name))} lets {self.name} choose the seconds; the price is that of "
                f"{self.longest_s:g}"
            )
        return found


def read_model(node: Mapping[str, Any]) -> Model:
    """Read a model file's content; raise ValueError with the key that is wrong."""
    try:
        text = json.dumps(node)
    except TypeError:
        raise ValueError(
            "the model's file has values that are neither text, number, list nor mapping"
        ) from None
    return _read(text)


@cache
def _read(text: str) -> Model:
    """Read a model's file, which each job of a sweep has, once."""
    node = json.loads(text)
    if not isinstance(node, dict):
        raise ValueError(f"model is {node!r}; a mapping is needed")
    valid = [one.name for one in fields(Model)]
    for key in node:
        if key not in valid:
            raise ValueError(f"model.{key} is unknown{close(key, valid)}")
    if not node.get("name") or not node.get("endpoint"):
        raise ValueError("model has no name or no endpoint; a model file needs both")
    arguments = node.get("arguments") or {}
    if not isinstance(arguments, dict):
        raise ValueError(f"model.arguments is {arguments!r}; a mapping is needed")
    for name, schema in arguments.items():
        json_schema.check(schema, f"model.arguments.{name}")
        _check_role(name, schema)
        _check_within(f"model.arguments.{name}", schema)
    for role in SINGLE:
        if len(same := [name for name, schema in arguments.items() if schema.get("role") == role]) > 1:
            raise ValueError(f"model.arguments: {' and '.join(same)} have the role {role}; one can have it")
    required = node.get("required") or []
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise ValueError(f"model.required is {required!r}; a list of names is needed")
    for name in required:
        if name not in arguments:
            raise ValueError(f"model.required names {name}, which is no argument{close(name, arguments)}")
    price = None if node.get("price") is None else _priced(read_price(node["price"]), arguments)
    return Model(str(node["name"]), str(node["endpoint"]).strip("/"), arguments, tuple(required), price)


def _changed(schema: Schema, value: Any, change: Change) -> Any:
    """Return a value with the pictures in it changed, which are where its schema, or one within it, has that role."""
    if schema.get("role") == IMAGE:
        return replaced(value, lambda text: change(text, schema))
    for branch in [*json_schema.alternatives(schema), *schema.get("allOf", ())]:
        if branch is not schema and isinstance(branch, Mapping):
            value = _changed(branch, value, change)
    if isinstance(value, list) and isinstance(items := schema.get("items"), Mapping):
        return [_changed(items, one, change) for one in value]
    if isinstance(value, dict):
        parts = {
            name: part for name, part in schema.get("properties", {}).items() if isinstance(part, Mapping)
        }
        return {name: _changed(parts.get(name, {}), one, change) for name, one in value.items()}
    return value


def _pictures(schema: Schema, value: Any) -> list[str]:
    """Return the texts of a value that are pictures."""
    found: list[str] = []

    def note(text: str, _: Schema) -> str:
        found.append(text)
        return text

    _changed(schema, value, note)
    return found


def _check_within(where: str, schema: Schema, is_within: bool = False, is_visited: bool = True) -> None:
    """Refuse a role that a part of an argument can't have, or where no picture is looked for, and limits that are none."""
    if schema.get("role") == IMAGE and not is_visited:
        raise ValueError(f"{where}.role is 'image', which is looked for in {', '.join(VISITED)} alone")
    if is_within and schema.get("role") not in (None, IMAGE):
        raise ValueError(f"{where}.role is {schema['role']!r}; a part of an argument may be an image alone")
    limits = schema.get("x-fal", {})
    if not isinstance(limits, Mapping) or any(
        type(limits.get(name, 0)) not in (int, float) for name in LIMITS
    ):
        raise ValueError(
            f"{where}.x-fal is {limits!r}; a mapping of limits to numbers is needed: {', '.join(LIMITS)}"
        )
    for name, nested in json_schema.subschemas(schema):
        if isinstance(nested, Mapping):
            goes_there = is_visited and re.split(r"[.\[]", name, maxsplit=1)[0] in VISITED
            _check_within(f"{where}.{name}", nested, is_within=True, is_visited=goes_there)


def _check_role(name: str, schema: Schema) -> None:
    role = schema.get("role")
    if role is not None and role not in ROLES:
        raise ValueError(f"model.arguments.{name}.role is {role!r}; valid are {', '.join(ROLES)}")
    for one in schema.get("enum", ()) if role == SHAPE else ():
        if isinstance(one, int | float):
            raise ValueError(f"model.arguments.{name}.enum has {said(one)}, which is no shape; quote it")
    default = schema.get("default")
    if default is not None and (found := json_schema.problem("default", schema, default)):
        raise ValueError(f"model.arguments.{name}.{found}")


def _priced(price: Price, arguments: Mapping[str, Schema]) -> Price:
    """Return a price whose conditions have the values of arguments as they are sent."""
    tiers = []
    for number, tier in enumerate(price.tiers):
        when = {}
        for name, values in tier.when.items():
            if name not in arguments:
                raise ValueError(
                    f"model.price.tiers[{number}].when.{name} is no argument{close(name, arguments)}"
                )
            when[name] = [json_schema.normalised(arguments[name], value) for value in values]
            for value in when[name]:
                if found := json_schema.problem(name, arguments[name], value):
                    raise ValueError(f"model.price.tiers[{number}].when.{found}")
        tiers.append(Tier(tier.usd, when))
    return Price(price.usd, price.per, price.as_of, tuple(tiers))
