"""A model as its YAML file declares it: the endpoint, its arguments and its price."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

REQUIRED = object()
# What an argument declares by a number.
NUMBERS = {"min", "max", "min_length", "max_length"}


@dataclass(frozen=True)
class Argument:
    """One argument of an endpoint; `read` turns a configured value into the one that is sent."""

    type: str
    default: Any = REQUIRED
    min: float = -math.inf
    max: float = math.inf
    min_length: int = 0
    max_length: int | None = None
    values: tuple[str, ...] = ()

    def read(self, value: Any) -> Any:
        """Return the value to send; raise ValueError with what is wrong and what is allowed."""
        if value is None:
            raise ValueError("has no value")
        return READERS[self.type](self, value)


def _read_string(argument: Argument, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("is not a text; quote it")
    text = value
    length = len(text)
    if len(text.strip()) < argument.min_length:
        raise ValueError(f"is empty; at least {argument.min_length} character is needed")
    if argument.max_length is not None and length > argument.max_length:
        raise ValueError(f"is {length:,} characters long; at most {argument.max_length:,} are allowed")
    if "\x00" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError("has a character that is no text (NUL or half of a surrogate pair)")
    return text


def _read_number(argument: Argument, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) or not str(value).isascii() else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and argument.min <= number <= argument.max):
        raise ValueError(f"is not a number from {argument.min:g} to {argument.max:g}")
    return round(number, 10)  # 0.1 + 0.2 is 0.3, and bought once


def _read_integer(argument: Argument, value: Any) -> int:
    number = _read_number(argument, value)
    if not number.is_integer():
        raise ValueError("is not a whole number")
    return int(number)


def _read_boolean(argument: Argument, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("is neither true nor false")
    return value


def _read_enum(argument: Argument, value: Any) -> str:
    whole = isinstance(value, float) and value.is_integer()
    text = str(int(value) if whole and str(value) not in argument.values else value)
    if text in argument.values and not isinstance(value, bool):
        return text
    allowed = "allowed are " + ", ".join(argument.values)
    for ratio in argument.values:
        minutes, colon, seconds = ratio.partition(":")
        if colon and text == str(int(minutes) * 60 + int(seconds)):
            allowed = f"YAML reads an unquoted {ratio} as a number of seconds: write '\"{ratio}\"'"
    raise ValueError(f"is not allowed; {allowed}")


READERS = {
    "string": _read_string,
    "float": _read_number,
    "integer": _read_integer,
    "boolean": _read_boolean,
    "enum": _read_enum,
}


@dataclass(frozen=True)
class Price:
    """The price of one video in US dollars, which depends on its duration alone."""

    first_seconds: float
    first_usd: float
    further_second_usd: float

    def of(self, seconds: float) -> float:
        """Return the price in USD of a video of `seconds`, exact to a hundredth of a cent."""
        further = max(0.0, seconds - self.first_seconds)
        return round(self.first_usd + further * self.further_second_usd, 4)


@dataclass(frozen=True)
class Model:
    """An endpoint, its arguments and its price; `price` is None where nobody knows it."""

    name: str
    endpoint: str
    arguments: Mapping[str, Argument] = field(default_factory=dict)
    price: Price | None = None

    def read_arguments(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Return every argument as it is sent, and a problem for each that can't be.

        An argument that `values` does not name is sent with its default.
        """
        arguments, problems = {}, []
        for name, argument in self.arguments.items():
            value = values.get(name, argument.default)
            if value is REQUIRED:
                problems.append(f"{name} is missing; {self.name} requires it")
                continue
            try:
                arguments[name] = argument.read(value)
            except ValueError as error:
                problems.append(f"{name}={_shown(value)} {error}")
        return arguments, problems

    def price_usd(self, arguments: Mapping[str, Any]) -> float | None:
        """Return the price in USD of one video with these arguments, or None."""
        return self.price.of(float(arguments.get("duration", 0))) if self.price else None


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) and not value.strip() else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_model(node: Mapping[str, Any]) -> Model:
    """Read a model file's content; raise ValueError with the key that is wrong."""
    _refuse_unknown(node, Model, "model")
    if not node.get("name") or not node.get("endpoint"):
        raise ValueError("model has no name or no endpoint; a model file needs both")
    declared = node.get("arguments") or {}
    if not isinstance(declared, Mapping):
        raise ValueError(f"model.arguments is {declared!r}; a mapping is needed")
    arguments = {name: _read_argument(f"model.arguments.{name}", one) for name, one in declared.items()}
    if "prompt" not in arguments:
        raise ValueError("model.arguments has no prompt")
    price = node.get("price")
    return Model(
        name=str(node["name"]),
        endpoint=str(node["endpoint"]).strip("/"),
        arguments=arguments,
        price=None if price is None else _read_price(price),
    )


def _read_argument(where: str, declared: Mapping[str, Any]) -> Argument:
    _refuse_unknown(declared, Argument, where)
    if declared.get("type") not in READERS:
        raise ValueError(f"{where}.type is {declared.get('type')!r}; valid are {', '.join(READERS)}")
    for key in NUMBERS & set(declared):
        if isinstance(declared[key], bool) or not isinstance(declared[key], int | float):
            raise ValueError(f"{where}.{key} is {declared[key]!r}; a number is needed")
    values = declared.get("values", ())
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise ValueError(f"{where}.values is {values!r}; a list is needed")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError(f"{where}.values has {value!r}, which is no text; quote it")
    if declared["type"] == "enum" and not values:
        raise ValueError(f"{where}.values is missing; an enum lists what it allows")
    return Argument(**{**declared, "values": tuple(map(str, values))})


def _read_price(price: Mapping[str, Any]) -> Price:
    _refuse_unknown(price, Price, "model.price")
    try:
        read = Price(**{key: float(value) for key, value in price.items()})
    except (TypeError, ValueError):
        wanted = ", ".join(f.name for f in fields(Price))
        raise ValueError(f"model.price needs three numbers: {wanted}") from None
    if not all(math.isfinite(v) and v >= 0 for v in vars(read).values()):
        raise ValueError("model.price has a number that is not 0 or more")
    return read


def _refuse_unknown(node: Mapping[str, Any], kind: type, where: str) -> None:
    if not isinstance(node, Mapping):
        raise ValueError(f"{where} is {node!r}; a mapping is needed")
    valid = [f.name for f in fields(kind)]
    for key in node:
        if key not in valid:
            raise ValueError(f"{where}.{key} is unknown; valid are {', '.join(valid)}")
