"""JSON Schema as model files hold it: what is configured as the JSON that is sent, and what is wrong with it in a line.

The dialect is draft 2020-12, validated by jsonschema, with two differences: `multipleOf` allows for the rounding of
binary fractions (0.15 is a multiple of 0.05), and keywords that say what an argument means (ANNOTATIONS) are known.
"""

from __future__ import annotations

import math
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from kling_sweeps.experiment.reader import close, meant, said
from kling_sweeps.untrusted import clean


@contextmanager
def _without(*packages: str) -> Iterator[None]:
    """Let packages that are not imported yet seem not to be installed, unless what would import them is there."""
    absent = [] if "jsonschema" in sys.modules else [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None, as Python documents it
    try:
        yield
    finally:
        for name in absent:
            sys.modules.pop(name, None)


# jsonschema imports them where they are installed, for formats, which are not checked here; that takes two seconds.
with _without("rfc3987_syntax", "isoduration"):
    import jsonschema
    from jsonschema import ValidationError

Schema = Mapping[str, Any]
DIALECT = jsonschema.Draft202012Validator
SchemaError = jsonschema.SchemaError
ANNOTATIONS = (
    *("title", "description", "examples", "default", "format", "deprecated"),
    *("role", "fal_default", "x-fal"),
)
KEYWORDS = (
    *ANNOTATIONS,
    *(name for name in DIALECT.VALIDATORS if not name.startswith("$")),
    *("then", "else", "minContains", "maxContains"),
)
# Keywords whose value is a schema, a list of schemas, or a mapping of names to schemas.
OF_ONE = ("items", "additionalProperties", "contains", "not", "if", "then", "else", "propertyNames")
OF_MANY = ("anyOf", "oneOf", "allOf", "prefixItems")
BY_NAME = ("properties", "patternProperties", "dependentSchemas")
# What JSON Schema calls what other notations have another word for.
WORDS = {
    "float": "number",
    "enum": "string",
    "values": "enum",
    "min": "minimum",
    "max": "maximum",
    "min_length": "minLength",
    "max_length": "maxLength",
}
TYPES = ("string", "number", "integer", "boolean", "array", "object", "null")
NUMERIC = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
# Of values that are allowed, how many a line names.
NAMED = 12
NO_TEXT = "has a character that is no text (NUL or half of a surrogate pair)"


def _multiple_of(validator: Any, step: float, value: Any, schema: Schema) -> Iterator[ValidationError]:
    if validator.is_type(value, "number") and not isinstance(value, bool):
        steps = value / step if step and math.isfinite(value) else math.nan
        if not math.isfinite(steps) or abs(steps - round(steps)) > 1e-9 * max(1.0, abs(steps)):
            yield ValidationError(f"{value} is not a multiple of {step}")


_Validator = jsonschema.validators.extend(DIALECT, {"multipleOf": _multiple_of})


def errors(schema: Schema, value: Any) -> list[ValidationError]:
    """Return what is wrong with a JSON value, as jsonschema has it."""
    return list(_Validator(schema).iter_errors(value))


def is_valid(schema: Schema, value: Any) -> bool:
    return bool(_Validator(schema).is_valid(value))


def check(schema: Any, where: str) -> None:
    """Raise ValueError, with the place and what is valid there, for what is no schema."""
    if not isinstance(schema, Mapping):
        raise ValueError(f"{where} is {schema!r}; a mapping is needed")
    for keyword in schema:
        if keyword not in KEYWORDS:
            hint = (
                f"; JSON Schema calls it {WORDS[keyword]}" if keyword in WORDS else close(keyword, KEYWORDS)
            )
            raise ValueError(f"{where}.{keyword} is unknown{hint}")
    kind = schema.get("type")
    kinds = kind if isinstance(kind, list) else [] if kind is None else [kind]
    for name in kinds:
        if name not in TYPES:
            is_word = isinstance(name, str) and name in WORDS
            hint = f"JSON Schema calls it {WORDS[name]}" if is_word else f"valid are {', '.join(TYPES)}"
            raise ValueError(f"{where}.type is {name!r}; {hint}")
    try:
        check_keywords(schema)
    except jsonschema.SchemaError as error:
        key = ".".join(map(str, [where, *error.absolute_path]))
        raise ValueError(f"{key}: {clean(error.message)}") from None
    for name, nested in subschemas(schema):
        if not isinstance(nested, bool):
            check(nested, f"{where}.{name}")
    for one in schema.get("enum", ()):
        if "string" in kinds and not isinstance(one, str | None):
            raise ValueError(f"{where}.enum has {said(one)}, which is no text; quote it")
    if not schema.get("enum", True):
        raise ValueError(f"{where}.enum is empty; it lists what is allowed")


def check_keywords(schema: Schema) -> None:
    """Raise SchemaError for a value that a keyword can't have; what is within is not looked at, which is quick."""
    alone: dict[str, Any] = dict(schema)
    for keyword in {*OF_ONE, *OF_MANY, *BY_NAME} & alone.keys():
        value = alone[keyword]
        if isinstance(value, Mapping):
            alone[keyword] = dict.fromkeys(value, True) if keyword in BY_NAME else True
        elif isinstance(value, list) and keyword in OF_MANY:
            alone[keyword] = [True if isinstance(one, Mapping) else one for one in value]
    DIALECT.check_schema(alone)


def subschemas(schema: Schema) -> Iterator[tuple[str, Any]]:
    """Yield the schemas directly within a schema, with the path of each."""
    for keyword in OF_ONE:
        if keyword in schema:
            yield keyword, schema[keyword]
    for keyword in OF_MANY:
        for number, nested in enumerate(schema.get(keyword) or ()):
            yield f"{keyword}[{number}]", nested
    for keyword in BY_NAME:
        for name, nested in (schema.get(keyword) or {}).items():
            yield f"{keyword}.{name}", nested


def alternatives(schema: Schema) -> list[Schema]:
    """Return the schemas of which a value fits one, itself where there is no choice; without that of null alone."""
    branches = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    if isinstance(kinds := schema.get("type"), Sequence) and not isinstance(kinds, str):
        branches += [{**schema, "type": kind} for kind in kinds]
    found = [branch for branch in branches if isinstance(branch, Mapping) and branch.get("type") != "null"]
    return found or ([] if branches else [schema])


def is_nullable(schema: Schema) -> bool:
    return is_valid(schema, None)


def takes_text(schema: Schema) -> bool:
    """Tell whether a free text is a value, in which a comma is no more than a comma."""
    return any(one.get("type") == "string" and not choices(one) for one in alternatives(schema))


def choices(schema: Schema) -> list[Any]:
    """Return the values that a schema lists, none where it lists none."""
    return [schema["const"]] if "const" in schema else list(schema.get("enum", ()))


def normalised(schema: Any, value: Any) -> Any:
    """Return a configured value as the JSON that a schema asks for, or itself where it fits none.

    Spellings of a value become one: "5", 5 and 5.0 are "5" where an enum has that, and a number is a float that is
    rounded to ten decimals (0.1 + 0.2 is 0.3, and bought once).
    """
    if not isinstance(schema, Mapping):
        return value
    branches = alternatives(schema)
    if branches != [schema]:
        for branch in branches:
            if is_valid(branch, value):
                return normalised(branch, value)
        fitting = ((branch, normalised(branch, value)) for branch in branches)
        return next((one for branch, one in fitting if is_valid(branch, one)), value)
    for part in schema.get("allOf", ()):
        value = normalised(part, value)
    if listed := choices(schema):
        return _chosen(listed, value)
    read = READERS.get(str(schema.get("type")))
    return read(schema, value) if read else value


def _chosen(listed: Sequence[Any], value: Any) -> Any:
    for is_same in (_is_equal, _is_spelled):
        if found := [one for one in listed if is_same(one, value)]:
            return found[0]
    return value


def _is_equal(one: Any, value: Any) -> bool:
    return type(one) is type(value) and bool(one == value)


def _is_spelled(one: Any, value: Any) -> bool:
    if isinstance(one, bool) or isinstance(value, bool) or not isinstance(value, str | int | float):
        return False
    if isinstance(one, str):
        is_whole = isinstance(value, float) and value.is_integer()
        return one == str(value) or (is_whole and one == str(int(value)))
    return isinstance(one, int | float) and _number(value) == one


def _number(value: Any) -> float:
    """Return a number, NaN for what is none."""
    try:
        number = math.nan if isinstance(value, bool) or not str(value).isascii() else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def _float(schema: Schema, value: Any) -> Any:
    number = _number(value)
    return value if math.isnan(number) else round(number, 10)


def _integer(schema: Schema, value: Any) -> Any:
    if isinstance(value, int):
        return value
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,40}", value):
        return int(value)
    number = _number(value)
    return int(number) if number.is_integer() else value


def _array(schema: Schema, value: Any) -> Any:
    if not isinstance(value, list):
        return value
    first = schema.get("prefixItems", ())
    rest = schema.get("items", {})
    return [normalised(first[n] if n < len(first) else rest, one) for n, one in enumerate(value)]


def _object(schema: Schema, value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    named, others = schema.get("properties", {}), schema.get("additionalProperties", {})
    return {name: normalised(named.get(name, others), one) for name, one in value.items()}


def _boolean(schema: Schema, value: Any) -> Any:
    return {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value


READERS: Mapping[str, Callable[[Schema, Any], Any]] = {
    "boolean": _boolean,
    "number": _float,
    "integer": _integer,
    "array": _array,
    "object": _object,
}


def is_finite(value: Any) -> bool:
    """Tell whether all numbers in a value are finite, as those of JSON are."""
    return all(not isinstance(one, float) or math.isfinite(one) for one in _scalars(value))


def problem(name: str, schema: Schema, given: Any) -> str | None:
    """Return in a line what is wrong with an argument's value, where in it, and what is allowed; None where nothing is."""
    value = normalised(schema, given)
    scalars = list(_scalars(value))
    if any(isinstance(one, str) and _is_no_text(one) for one in scalars):
        return f"{name}={shown(value)} {NO_TEXT}"
    if not is_finite(value):
        return f"{name}={shown(value)} is not {wanted(schema)}"
    found = errors(schema, value)
    if not found:
        return None
    if value is None:
        return f"{name}=null has no value"
    error, sentence = _explained(found)
    if not error.absolute_path:
        return f"{name}={shown(given)} {sentence}"
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.absolute_path)
    return f"{name}{path}={shown(error.instance)} {sentence}"


def shown(value: Any) -> str:
    """Return a value as it is written on the command line, cut where it is long."""
    text = repr(value) if isinstance(value, str) and not value.strip() else said(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _scalars(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for one in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from _scalars(one)
    else:
        yield value


def _is_no_text(text: str) -> bool:
    return "\x00" in text or any("\ud800" <= c <= "\udfff" for c in text)


def _explained(found: Sequence[ValidationError]) -> tuple[ValidationError, str]:
    """Return the error to tell of several, and the rest of the sentence that begins with the value."""
    error = next((one for one in found if one.validator in ("enum", "const")), found[0])
    if error.validator not in ("anyOf", "oneOf"):
        return error, _sentence(error)
    if not error.context:
        return error, "fits several alternatives, of which it may fit one"
    by_branch = defaultdict(list)
    for one in error.context:
        if one.relative_schema_path:  # that of an alternative which allows nothing has none
            by_branch[one.relative_schema_path[0]].append(one)
    branches = {
        number: branch
        for number, branch in enumerate(error.validator_value)
        if isinstance(branch, Mapping) and branch.get("type") != "null" and by_branch[number]
    }
    told = [n for n in branches if not any(map(_is_of_another_type, by_branch[n]))] or list(branches)
    if len(told) == 1:
        return _explained(by_branch[told[0]])
    return error, f"is not {' or '.join(wanted(branches[n]) for n in told) or 'allowed'}"


def _is_of_another_type(error: ValidationError) -> bool:
    is_listed = error.validator in ("enum", "const") and isinstance(error.instance, dict | list)
    return not error.relative_path and (error.validator == "type" or is_listed)


def _sentence(error: ValidationError) -> str:
    keyword, schema, value = str(error.validator), error.schema, error.instance
    if keyword in ("enum", "const"):
        return f"is not allowed; {_allowed(choices(schema), value)}"
    if keyword in (*NUMERIC, "type"):
        if schema.get("type") == "boolean":
            return "is neither true nor false"
        quote = "; quote it" if schema.get("type") == "string" and not isinstance(value, dict | list) else ""
        return f"is not {wanted(schema)}{quote}"
    if keyword in SENTENCES:
        return SENTENCES[keyword](error.validator_value, value)
    return f"is not valid: {clean(error.message)}"


def _missing(needed: Sequence[str], value: Mapping[str, Any]) -> str:
    return f"has no {', '.join(name for name in needed if name not in value)}"


SENTENCES: Mapping[str, Callable[[Any, Any], str]] = {
    "minLength": lambda least, text: (
        f"is {f'{len(text)} characters long' if text else 'empty'}; at least {least} character{'s' * (least > 1)} "
        f"{'are' if least > 1 else 'is'} needed"
    ),
    "maxLength": lambda most, text: f"is {len(text):,} characters long; at most {most:,} are allowed",
    "minItems": lambda least, items: f"has {len(items)} items; at least {least} are needed",
    "maxItems": lambda most, items: f"has {len(items)} items; at most {most} are allowed",
    "uniqueItems": lambda _, items: "has an item twice",
    "pattern": lambda pattern, _: f"does not match {pattern}",
    "required": _missing,
}


def _allowed(listed: Sequence[Any], value: Any) -> str:
    """Return what is allowed in place of a value, and how to write it where YAML has read something else."""
    texts = [str(one) for one in listed if isinstance(one, str)]
    if not isinstance(value, str) and (name := meant(value, texts)):
        if isinstance(value, int) and ":" in name:
            return f"YAML reads an unquoted {name} as a number of seconds: write '\"{name}\"'"
        return f"YAML reads an unquoted {name} as {said(value)}: write '\"{name}\"'"
    if len(listed) > NAMED:
        found = close(said(value), map(said, listed))
        if "did you mean" in found:
            return found.removeprefix("; ")
    more = f" and {len(listed) - NAMED} more" * (len(listed) > NAMED)
    return f"allowed are {', '.join(map(said, listed[:NAMED]))}{more}"


def wanted(schema: Schema) -> str:
    """Return what a schema asks for as a noun."""
    if listed := choices(schema):
        return f"one of {', '.join(map(said, listed[:NAMED]))}"
    branches = alternatives(schema)
    if branches != [schema]:
        return " or ".join(map(wanted, branches)) or "null"
    kind = schema.get("type", "value")
    if kind in ("number", "integer"):
        return f"a {'whole ' * (kind == 'integer')}number{_range(schema)}"
    if kind == "object":
        return f"a mapping{' of ' * ('properties' in schema)}{', '.join(schema.get('properties', ()))}"
    return {"string": "a text", "array": "a list", "boolean": "true or false"}.get(kind, f"a {kind}")


def _range(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    parts = []
    if low is not None and high is not None:
        parts = [f"from {low:g} to {high:g}"]
    else:
        parts += [f"of {low:g} or more"] if low is not None else []
        parts += [f"of at most {high:g}"] if high is not None else []
    parts += [f"above {above:g}"] if above is not None else []
    parts += [f"below {below:g}"] if below is not None else []
    parts += [f"in steps of {schema['multipleOf']:g}"] if "multipleOf" in schema else []
    return "".join(f" {part}" for part in parts)
