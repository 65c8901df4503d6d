"""An endpoint as fal describes it, in an OpenAPI document, as a model file has it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Any
from urllib.parse import unquote

import yaml

from kling_sweeps.experiment import json_schema
from kling_sweeps.experiment.hydra_private import yaml_loader
from kling_sweeps.experiment.json_schema import ANNOTATIONS, KEYWORDS, SchemaError
from kling_sweeps.experiment.model import read_model
from kling_sweeps.experiment.picture import LIMITS, is_address
from kling_sweeps.experiment.reader import close
from kling_sweeps.experiment.roles import (
    IMAGE,
    OFF,
    PROMPT,
    REWRITES_PROMPT,
    SECONDS,
    SEED,
    SHAPE,
    ratio_of,
    seconds_of,
)
from kling_sweeps.untrusted import clean

# What arguments of a role are called, the likeliest first.
NAMES = {
    PROMPT: ("prompt", "text_prompt", "prompt_text", "input_prompt", "video_prompt", "positive_prompt"),
    SECONDS: (
        *("duration", "duration_seconds", "duration_s", "duration_in_seconds", "seconds", "num_seconds"),
        *("video_duration", "video_length", "length", "length_seconds", "clip_duration"),
    ),
    SHAPE: (
        *("aspect_ratio", "ratio", "video_aspect_ratio", "video_size", "image_size", "size", "frame_size"),
        *("dimensions", "resolution"),
    ),
    SEED: ("seed", "random_seed", "noise_seed"),
}
PICTURE = re.compile(r"(?:^|_)(?:image|img|picture|photo|frame)s?(?:_|$)")
ADDRESS = re.compile(r"(?:^|_)(?:url|uri)s?(?:_|$)|^(?:image|img|picture|photo)s?$")
CHANGE = r"(?:rewrit|re-writ|expan[ds]|enhanc|optimi[sz]|extend|extension|upsampl|improv|refin|magic|augment|polish)\w*"
REWRITES = re.compile(rf"prompt\w*_{CHANGE}|{CHANGE}_prompt|auto_?fix", re.I)
SAYS_SO = re.compile(rf"\b{CHANGE}\b[^.]*\bprompts?\b|\bprompts?\b[^.]*\b{CHANGE}\b", re.I)
DEFINITIONS = ("$ref", "$defs", "definitions")
# Of longer defaults, which are texts, it is not noted twice that they are fal's own.
SHORT = 40
# A document whose references double may be of any size.
MOST_NODES, MOST_DEPTH = 5_000, 60
NUMERIC_BOUNDS = {"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}


@dataclass(frozen=True)
class Described:
    """An endpoint of a document: what fal says of it, and its OpenAPI document."""

    endpoint: str
    openapi: Mapping[str, Any]
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Imported:
    """What a model file is written from: its content but for its name, and comments by argument, "" for its head."""

    endpoint: str
    arguments: Mapping[str, Mapping[str, Any]]
    required: Sequence[str]
    comments: Mapping[str, str]

    def model(self, name: str, price: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the content of the model file."""
        return {
            "name": name,
            "endpoint": self.endpoint,
            "arguments": dict(self.arguments),
            "required": list(self.required),
            **({"price": price} if price else {}),
        }


def parsed(text: str) -> Any:
    """Read a document, JSON or YAML; raise ValueError for what is neither."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("is nested too deep") from None
    except ValueError:
        try:
            return yaml.load(text, Loader=yaml_loader())  # for which a date is a text
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ValueError(f"is neither JSON nor YAML: {clean(error)}") from None


def endpoints(document: Any) -> dict[str, Described]:
    """Return the endpoints of a document by id: of an OpenAPI document, of models of `/v1/models`, or of a page of them."""
    if isinstance(document, dict) and isinstance(document.get("models"), list):
        document = document["models"]
    found: dict[str, Described] = {}
    for one in document if isinstance(document, list) else [document]:
        if not isinstance(one, dict):
            continue
        openapi = one.get("openapi")
        if isinstance(openapi, str) or "paths" in one:  # the version of the document itself
            names = [_declared(one), *(path.strip("/") for path, _ in _posts(one))]
            for name in filter(None, names):
                found.setdefault(name, Described(name, one))
        elif isinstance(one.get("endpoint_id"), str):
            metadata = one.get("metadata")
            described = openapi if isinstance(openapi, dict) else {}
            name = one["endpoint_id"].strip("/")
            found[name] = Described(name, described, metadata if isinstance(metadata, dict) else {})
    return found


def described(document: Any, endpoint: str) -> Described:
    """Return an endpoint of a document; raise ValueError where it is not there.

    A document that does not say whose it is and has one POST is taken for that of the endpoint.
    """
    known = endpoints(document)
    posts = list(_posts(document)) if isinstance(document, dict) else []
    if endpoint not in known and len(posts) == 1 and not _declared(document):
        return Described(endpoint, document)
    if not known:
        raise ValueError("is neither an OpenAPI document nor a page of fal's models")
    if endpoint not in known:
        hint = close(endpoint, known)
        is_long = len(known) > json_schema.NAMED and "did you mean" not in hint
        raise ValueError(f"has no {endpoint}{f'; --list QUERY searches {len(known)}' if is_long else hint}")
    return known[endpoint]


def imported(source: Described) -> Imported:
    """Return what a model file is written from; raise ValueError that says in a line why there can be none."""
    found = _imported(source)
    read_model(found.model("imported"))
    return found


def _imported(source: Described) -> Imported:
    if "error" in source.openapi:
        error = source.openapi["error"]
        said = error if isinstance(error, Mapping) else {"message": error}
        raise ValueError(f"fal has no schema of it ({clean(said.get('code'))}): {clean(said.get('message'))}")
    root = source.openapi
    given = _Input(root).schema(source.endpoint)
    properties = {str(name): one for name, one in _properties(given).items() if isinstance(one, Mapping)}
    ordered = [name for name in _names(given, "x-fal-order-properties") if name in properties]
    names = list(dict.fromkeys([*ordered, *properties]))
    comments = {name: _comment(properties[name]) for name in names}
    schemas = {name: _cleaned(properties[name]) for name in names}
    required = [name for name in _names(given, "required") if name in schemas]
    _give_roles(schemas, comments)
    is_prompted = any(schema.get("role") == PROMPT for schema in schemas.values())
    if not is_prompted and not any(_has_picture(name, schema) for name, schema in schemas.items()):
        raise ValueError("it takes neither a prompt nor a picture")
    about = [str(source.metadata.get("display_name") or ""), _about(root)]
    comments[""] = ": ".join(filter(None, dict.fromkeys(about)))
    return Imported(source.endpoint, schemas, required, comments)


def _declared(openapi: Mapping[str, Any]) -> str | None:
    """Return the endpoint that a document says it is of."""
    try:
        found = openapi["info"]["x-fal-metadata"]["endpointId"]
    except (KeyError, TypeError):
        return None
    return found.strip("/") if isinstance(found, str) else None


def _about(openapi: Mapping[str, Any]) -> str:
    with suppress(KeyError, TypeError, AttributeError):
        return str(openapi["info"]["x-fal-metadata"]["about"]).strip().splitlines()[0]
    return ""


def _posts(openapi: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    paths = openapi.get("paths")
    for path, item in paths.items() if isinstance(paths, dict) else ():
        if isinstance(item, dict) and isinstance(item.get("post"), dict):
            yield str(path), item["post"]


class _Input:
    """Finds the input of an endpoint in a document, with all that it refers to in its place."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self.root = root
        self.nodes = 0

    def schema(self, endpoint: str) -> Mapping[str, Any]:
        """Return the schema of what is posted; raise ValueError where there is none."""
        posts = dict(_posts(self.root))
        post = posts.get(f"/{endpoint}") or posts.get(endpoint) or next(iter(posts.values()), None)
        if post is None:
            raise ValueError("its document has no POST")
        body = self.inlined(post.get("requestBody") or {})
        content = body.get("content") if isinstance(body, Mapping) else None
        kinds = content if isinstance(content, dict) else {}
        kind = kinds.get("application/json") or next(iter(kinds.values()), None)
        schema = kind.get("schema") if isinstance(kind, Mapping) else None
        if not isinstance(schema, Mapping):
            raise ValueError("its document does not say what is posted")
        whole = self.inlined(schema)
        return _merged([whole]) if isinstance(whole, Mapping) else {}

    def inlined(self, node: Any, above: tuple[str, ...] = (), depth: int = 0) -> Any:
        """Return a part of the document with what it refers to in place; what refers to itself may be anything there.

        Raises ValueError for a document that is too large or too deep to be an endpoint's.
        """
        if not isinstance(node, dict | list):
            return node
        if depth > MOST_DEPTH:
            raise ValueError("its document is nested too deep")
        if isinstance(node, list):
            return [self.inlined(one, above, depth + 1) for one in node]
        self.nodes += 1
        if self.nodes > MOST_NODES:
            raise ValueError(f"its document has more than {MOST_NODES:,} parts, references in their places")
        ref = node.get("$ref")
        if not isinstance(ref, str):
            return {name: self.inlined(one, above, depth + 1) for name, one in node.items()}
        if ref in above:
            return {}
        target = self.inlined(self.at(ref), (*above, ref), depth + 1)
        beside = {name: self.inlined(one, above, depth + 1) for name, one in node.items() if name != "$ref"}
        return _merged([target, beside]) if isinstance(target, dict) else beside

    def at(self, ref: str) -> Any:
        """Return what a reference points to; raise ValueError where that is not in the document."""
        node: Any = self.root
        for step in ref.removeprefix("#").split("/")[1:]:
            step = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(node, list) and step.isdecimal() and int(step) < len(node):
                node = node[int(step)]
            elif isinstance(node, dict) and step in node:
                node = node[step]
            else:
                raise ValueError(f"its document refers to {clean(ref)}, which is not in it")
        if not ref.startswith("#"):
            raise ValueError(f"its document refers to {clean(ref)}, which is another document")
        return node


def _merged(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one schema for several that all hold, under `allOf` what can't be in one."""
    whole: dict[str, Any] = {}
    apart: list[Mapping[str, Any]] = []
    for part in parts:
        nested = part.get("allOf")
        if isinstance(nested, list):
            alone = {name: one for name, one in part.items() if name != "allOf"}
            part = _merged([*(one for one in nested if isinstance(one, Mapping)), alone])
        same = {name for name in part if name in whole and whole[name] != part[name]}
        if same <= {*ANNOTATIONS, "properties", "required", "x-fal-order-properties"}:
            properties = {**_shaped(whole, "properties", dict), **_shaped(part, "properties", dict)}
            required = list(dict.fromkeys([*_names(whole, "required"), *_names(part, "required")]))
            order = [*_names(whole, "x-fal-order-properties"), *_names(part, "x-fal-order-properties")]
            whole |= part
            for name, value in (
                ("properties", properties),
                ("required", required),
                ("x-fal-order-properties", order),
            ):
                if value:
                    whole[name] = value
        else:
            apart.append(part)
    return whole | ({"allOf": apart} if apart else {})


def _shaped(schema: Mapping[str, Any], keyword: str, shape: type) -> Any:
    """Return what a keyword has, or nothing of the shape where it has something else."""
    value = schema.get(keyword)
    return value if isinstance(value, shape) else shape()


def _names(schema: Mapping[str, Any], keyword: str) -> list[str]:
    return [name for name in _shaped(schema, keyword, list) if isinstance(name, str)]


def _properties(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the properties of an input, of all its alternatives where it has some."""
    whole = _merged([schema])
    found = dict(_shaped(whole, "properties", dict))
    for branch in chain(*(_shaped(whole, key, list) for key in ("anyOf", "oneOf", "allOf"))):
        if isinstance(branch, Mapping):
            found = {**_properties(branch), **found}
    return found


def _cleaned(schema: Any, is_nested: bool = False) -> dict[str, Any]:
    """Return a schema in draft 2020-12, of keywords that are known, without descriptions."""
    if not isinstance(schema, Mapping):
        return {"not": {}} if schema is False else {}
    whole = _merged([schema])
    is_nullable = whole.get("nullable") is True
    stated = _shaped(whole, "x-fal", dict)
    limits = {name: stated[name] for name in LIMITS if type(stated.get(name)) in (int, float)}
    whole = {name: one for name, one in whole.items() if name != "x-fal"} | (
        {"x-fal": limits} if limits else {}
    )
    if isinstance(whole.get("items"), list):
        whole["prefixItems"] = whole.pop("items")
    for bound, limit in NUMERIC_BOUNDS.items():
        if isinstance(whole.get(bound), bool) and whole.pop(bound) and limit in whole:
            whole[bound] = whole.pop(limit)
    dropped = {*ANNOTATIONS, *DEFINITIONS} - {"x-fal", *["default"] * (not is_nested)}
    kept = {name: one for name, one in whole.items() if name in KEYWORDS and name not in dropped}
    for keyword in json_schema.OF_ONE:
        if keyword in kept and not isinstance(kept[keyword], bool):
            kept[keyword] = _cleaned(kept[keyword], is_nested=True)
    for keyword in json_schema.OF_MANY:
        if isinstance(kept.get(keyword), list):
            kept[keyword] = [_cleaned(one, is_nested=True) for one in kept[keyword]]
    for keyword in json_schema.BY_NAME:
        if isinstance(kept.get(keyword), dict):
            kept[keyword] = {str(name): _cleaned(one, is_nested=True) for name, one in kept[keyword].items()}
    if is_nullable and not json_schema.is_nullable(_checked(kept)):
        default = {"default": kept.pop("default")} if "default" in kept else {}
        kept = {"anyOf": [kept, {"type": "null"}], **default}
    return _in_order(_checked(kept))


def _checked(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema without keywords whose value none can have, and without a default that it refuses itself."""
    found = dict(schema)
    kinds = found.get("type")
    known = [kind for kind in (kinds if isinstance(kinds, list) else [kinds]) if kind in json_schema.TYPES]
    if kinds is not None and len(known) != (len(kinds) if isinstance(kinds, list) else 1):
        found.pop("type")
    if isinstance(found.get("enum"), list):
        found["enum"] = [one for n, one in enumerate(found["enum"]) if one not in found["enum"][:n]]
        if found.get("type") == "string":
            found["enum"] = [one for one in found["enum"] if one is None or isinstance(one, str)]
    if found.get("enum", True) in ([], None):
        found.pop("enum")
    for keyword in [name for name, one in found.items() if isinstance(one, float) and not math.isfinite(one)]:
        found.pop(keyword)
    while found:
        try:
            json_schema.check_keywords(found)
            break
        except SchemaError as error:
            found.pop(str(error.absolute_path[0]) if error.absolute_path else next(iter(found)))
    if "default" in found:
        default = found["default"]
        if default is None or json_schema.problem("default", found, default) or default == "???":
            found.pop("default")
    return found


def _in_order(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema as it reads best: its role and type first, its default last."""
    first = ("role", "type")
    last = ("default", "fal_default")
    middle = [name for name in schema if name not in (*first, *last)]
    return {name: schema[name] for name in (*first, *middle, *last) if name in schema}


def _comment(schema: Mapping[str, Any]) -> str:
    text = _merged([schema]).get("description")
    is_old = " (deprecated)" if schema.get("deprecated") is True else ""
    return " ".join(text.split()) + is_old if isinstance(text, str) else is_old.strip()


def _give_roles(schemas: dict[str, dict[str, Any]], comments: Mapping[str, str]) -> None:
    """Write down what arguments mean, and switch off what rewrites the prompt."""
    for role, is_one in (
        (PROMPT, json_schema.takes_text),
        (SECONDS, _is_seconds),
        (SHAPE, _is_shape),
        (SEED, lambda schema: any(one.get("type") == "integer" for one in json_schema.alternatives(schema))),
    ):
        named = (name for name in NAMES[role] if name in schemas and is_one(schemas[name]))
        if (name := next(named, None)) and not (role == SECONDS and "frames" in comments[name].lower()):
            schemas[name] = _in_order({"role": role, **schemas[name]})
    for name, schema in schemas.items():
        if "default" in schema and len(json.dumps(schema["default"])) <= SHORT:
            schemas[name] = schema = {**schema, "fal_default": schema["default"]}
        if "role" not in schema and _is_image(name, schema):
            is_none = isinstance(schema.get("default"), str) and not is_address(schema["default"])
            kept = {
                key: one for key, one in schema.items() if not (is_none and key in ("default", "fal_default"))
            }
            schemas[name] = _in_order({"role": IMAGE, **kept})
        if "role" not in schema and _rewrites(name, comments[name]) and (off := _off(schema)):
            schemas[name] = _in_order({**schema, "role": REWRITES_PROMPT, "default": off[0]})
        if schemas[name].get("role") != IMAGE:
            schemas[name] = _with_images(schemas[name])


def _with_images(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema in which the pictures within its values have their role, and nothing else has limits of pictures."""
    found = {keyword: one for keyword, one in schema.items() if keyword != "x-fal"}
    if isinstance(found.get("items"), Mapping):
        found["items"] = _with_images(found["items"])
    for keyword in ("anyOf", "oneOf", "allOf"):
        if keyword in found:
            found[keyword] = [_with_images(one) for one in found[keyword]]
    if isinstance(found.get("properties"), Mapping):
        found["properties"] = {
            name: _in_order({"role": IMAGE, **one}) if _is_image(name, one) else _with_images(one)
            for name, one in found["properties"].items()
        }
    return found


def _values(schema: Mapping[str, Any]) -> list[Any]:
    """Return values that a schema names."""
    listed = chain(*(json_schema.choices(one) for one in json_schema.alternatives(schema)))
    return [*listed, *([schema["default"]] if "default" in schema else [])]


def _is_seconds(schema: Mapping[str, Any]) -> bool:
    is_number = any(one.get("type") in ("integer", "number") for one in json_schema.alternatives(schema))
    return is_number or any(seconds_of(one) for one in _values(schema))


def _is_shape(schema: Mapping[str, Any]) -> bool:
    if any(isinstance(one, int | float) for one in _values(schema)):
        return False
    is_size = any(
        {"width", "height"} <= {*one.get("properties", ())} for one in json_schema.alternatives(schema)
    )
    return is_size or any(ratio_of(one) for one in _values(schema))


def _is_image(name: str, schema: Mapping[str, Any]) -> bool:
    if not PICTURE.search(name) or not ADDRESS.search(name):
        return False
    found = chain(*([one, one.get("items", {})] for one in json_schema.alternatives(schema)))
    return any(json_schema.takes_text(one) for one in found if isinstance(one, Mapping))


def _has_picture(name: str, schema: Any) -> bool:
    """Tell whether an argument, or a part of it, is a picture."""
    if not isinstance(schema, Mapping):
        return False
    if PICTURE.search(name):
        kinds = {
            str(one.get("type")) for one in json_schema.alternatives(schema) if not json_schema.choices(one)
        }
        if kinds & {"string", "array", "object"}:
            return True
    return any(
        _has_picture(path.rpartition(".")[2], nested) for path, nested in json_schema.subschemas(schema)
    )


def _rewrites(name: str, comment: str) -> bool:
    return bool(REWRITES.search(name) or SAYS_SO.search(comment))


def _off(schema: Mapping[str, Any]) -> list[Any]:
    """Return the values of a switch that are off, none where it is no switch."""
    branches = json_schema.alternatives(schema)
    if any(one.get("type") == "boolean" for one in branches):
        return [False]
    return [
        one for branch in branches for one in json_schema.choices(branch) if one in OFF and one is not None
    ]
