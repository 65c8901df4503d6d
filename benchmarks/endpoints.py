"""How far model files, the reader and the emulator agree with fal's own schemas.

    python benchmarks/endpoints.py DOCUMENT...

Imports every endpoint of OpenAPI documents or pages of fal's models, and tries values on each of its arguments: limits and
what lies beyond them, each choice, wrong types, lists too long, mappings that lack something. What is valid is decided
by the document itself, by plain jsonschema. Prints what can't be imported, and each disagreement: a valid value that
is refused, one whose reading is not valid, an invalid one that the emulator takes; and a command line that the
importer prints and that can't be read. Exits with 1 where there is any.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from kling_sweeps import CONF, endpoint
from kling_sweeps.emulator.endpoints import Endpoints
from kling_sweeps.experiment import example, json_schema, openapi, yaml_files
from kling_sweeps.experiment.config import read_job
from kling_sweeps.experiment.json_schema import jsonschema
from kling_sweeps.experiment.model import Model, read_model
from kling_sweeps.experiment.picture import is_address

ODD = (True, False, -1, 0, 1, 3.7, 10**12, "", "zzz~", "5", [], {}, [[]], [None], {"zzz~": 1})
TEXT = "https://example.com/a.png"
DEPTH = 4


def main() -> int:
    """Run it; return 1 where something disagrees."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("documents", nargs="+", type=Path)
    counts: Counter[str] = Counter()
    for path in parser.parse_args().documents:
        document = json.loads(path.read_text(encoding="utf-8"))
        for found in openapi.endpoints(document).values():
            with tempfile.TemporaryDirectory() as folder:
                _try(found, path, Path(folder), counts)
    print(", ".join(f"{count} {what}" for what, count in counts.items()))
    return int(bool(counts["disagreements"]))


def _try(found: openapi.Described, path: Path, folder: Path, counts: Counter[str]) -> None:
    counts["endpoints"] += 1
    try:
        openapi.imported(found)
    except ValueError as error:
        counts["not imported"] += 1
        print(f"{found.endpoint}: not imported: {error}")
        return
    arguments = [found.endpoint, "--schema", str(path), "--config-dir", str(folder), "--name", "m"]
    with redirect_stdout(StringIO()):
        assert endpoint.main(arguments) == 0
    model = read_model(yaml_files.content(folder / "model" / "m.yaml"))
    schema = openapi._Input(found.openapi).schema(found.endpoint)
    for problem in _disagreements(model, schema, Endpoints([folder / "model"]), counts):
        counts["disagreements"] += 1
        print(f"{found.endpoint}: {problem}")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        given = shlex.split(" ".join(example.overrides(model)))
        own = [f"hydra.searchpath=[file://{folder}]", "model=m"]
        try:
            read_job(compose("config", [*own, *given], return_hydra_config=True))
        except Exception as error:
            counts["disagreements"] += 1
            print(f"{found.endpoint}: {' '.join(given)}: {error}")


def _disagreements(
    model: Model, schema: Mapping[str, Any], emulated: Endpoints, counts: Counter[str]
) -> Iterator[str]:
    """Yield where reader or emulator see a value otherwise than the document."""
    base = {name: _valid(model.arguments[name]) for name in model.required}
    for name, theirs in schema["properties"].items():
        is_valid = jsonschema.Draft202012Validator(_in_dialect(theirs)).is_valid
        for value in (*_candidates(theirs), *ODD):
            is_good = is_valid(value)
            counts["valid values" if is_good else "invalid values"] += 1
            sent, problems = model.read_arguments({**base, name: value})
            refused = emulated.read(model.endpoint, {**base, name: value})[1]
            shown = f"{name}={json.dumps(value)[:80]}"
            if is_good and problems and not _is_ours(model, name, value):
                yield f"{shown} is valid, and refused: {problems[0]}"
            if not problems and name in sent and not is_valid(sent[name]):
                yield f"{shown} is read as {sent[name]!r}, which is not valid"
            if is_good == bool(refused):
                yield f"{shown} is {'valid' if is_good else 'invalid'}, and the emulator disagrees: {refused[:1]}"


def _is_ours(model: Model, name: str, value: Any) -> bool:
    """Tell whether a value is refused here on purpose: an empty prompt, or what is no address of a picture."""
    role = model.arguments[name].get("role")
    pictures: list[str] = []

    def note(text: str, _: Mapping[str, Any]) -> str:
        pictures.append(text)
        return text

    model.with_pictures(name, value, note)
    return any(not is_address(one) for one in pictures) or (role == "prompt" and not str(value).strip())


def _in_dialect(node: Any) -> Any:
    """Return a schema of OpenAPI's in the dialect that jsonschema is of, by itself and not by the importer."""
    if isinstance(node, list):
        return [_in_dialect(one) for one in node]
    if not isinstance(node, dict):
        return node
    found = {name: _in_dialect(one) for name, one in node.items()}
    step = found.pop("multipleOf", None)  # which jsonschema takes without regard to binary fractions
    return {**found, **({"multipleOf": step} if isinstance(step, int) else {})}


def _candidates(schema: Any, depth: int = 0) -> list[Any]:
    """Return values at the limits of a schema and beyond, deeper ones within them."""
    if not isinstance(schema, Mapping) or depth > DEPTH:
        return []
    found = [schema["default"]] if "default" in schema else []
    found += json_schema.choices(schema)
    for branch in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())):
        found += _candidates(branch, depth + 1)
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    step = schema.get("multipleOf", 1)
    for limit in (low, high):
        if limit is not None:
            found += [limit, limit - step, limit + step, limit + 0.5]
    if schema.get("type") == "string":
        short, long = schema.get("minLength", 0), schema.get("maxLength", 60)
        found += [TEXT.ljust(short, "a"), "a" * short, "a" * max(0, short - 1), "a" * long, "a" * (long + 1)]
    if schema.get("type") == "array":
        items = _candidates(schema.get("items"), depth + 1) or ["a"]
        least, most = schema.get("minItems", 0), schema.get("maxItems", 3)
        found += [[one] * max(1, least) for one in items] + [
            items[:1] * number for number in (least, most, most + 1)
        ]
    if schema.get("type") == "object":
        found += _objects(schema, depth)
    return found


def _objects(schema: Mapping[str, Any], depth: int) -> list[Any]:
    properties = schema.get("properties", {})
    values = {name: _candidates(one, depth + 1) or ["a", 1] for name, one in properties.items()}
    whole = {name: options[0] for name, options in values.items()}
    needed = {name: whole[name] for name in schema.get("required", ()) if name in whole}
    lacking = [{other: one for other, one in needed.items() if other != name} for name in needed]
    changed = [{**needed, name: one} for name, options in values.items() for one in options]
    return [whole, needed, *lacking, *changed]


def _valid(schema: Mapping[str, Any]) -> Any:
    """Return any value that a schema allows."""
    good = (one for one in (*_candidates(schema), *ODD) if json_schema.is_valid(schema, one) and one != "")
    return next(good)


if __name__ == "__main__":
    sys.exit(main())
