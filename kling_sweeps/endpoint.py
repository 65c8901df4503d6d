"""Use an endpoint of fal: write its model file from what fal says of it.

    python -m kling_sweeps.endpoint fal-ai/veo3.1 --config-dir mine
    python -m kling_sweeps.endpoint --list veo
    python -m kling_sweeps.endpoint --diff --config-dir mine

The file goes to `model/` in --config-dir, or in the conf/ of a clone. It has every argument in fal's order, with fal's description, says what
the prompt, the seconds, the shape, the seed and pictures are, and switches off what rewrites the prompt. --schema reads a
saved OpenAPI document, or a page of fal's models, instead of asking fal, which needs no key; with one, the price is
asked for too. --diff says what fal has changed since a file was written, and exits with 1 where that is anything.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from kling_sweeps import CONF
from kling_sweeps.errors import ConfigError, RefusedError, UnavailableError, say, say_interrupted
from kling_sweeps.terminal.streams import Parser, settle
from kling_sweeps.untrusted import clean

EXPANDED = "openapi-3.0"
# The parts of an endpoint's id that tell it from no other.
COMMON = re.compile(r"^fal-ai/|/text-to-video$")
# How what a user has begins in the place of a picture or an address.
PLACE = "PATH/OF/"
NOT_IN_A_NAME = re.compile(r"[^\w.-]+")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0, 1 where fal has changed something, 2 where it was refused."""
    settle()
    parser = _parser()
    options = parser.parse_args(arguments)
    if not (options.endpoint or options.list is not None or options.diff):
        parser.error("which endpoint? Give its id, as fal-ai/veo3.1, or search for one with --list QUERY")
    try:
        if options.list is not None:
            return _list(options)
        return _diff(options) if options.diff else _import(options)
    except UnavailableError as error:
        say(f"{error}; --schema FILE reads a saved document instead")
        return 2
    except RefusedError as error:
        say(error)
        return 2
    except KeyboardInterrupt:
        return say_interrupted()


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "python -m kling_sweeps.endpoint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("endpoint", nargs="?", type=_id, metavar="ID", help="fal's id, as fal-ai/veo3.1")
    parser.add_argument("--list", metavar="QUERY", help="search fal's endpoints that make videos")
    parser.add_argument("--schema", type=Path, metavar="FILE", help="a saved document, in place of fal")
    parser.add_argument(
        "--config-dir", type=Path, metavar="DIR", help="your own folder (the conf/ of a clone)"
    )
    parser.add_argument("--name", metavar="NAME", help="what the model is called (made of the id)")
    parser.add_argument("--replace", action="store_true", help="write a file anew; its price is kept")
    parser.add_argument(
        "--diff", action="store_true", help="say what has changed; of all files without an ID"
    )
    parser.add_argument("--base-url", metavar="URL", help="a server in place of fal's, as provider.base_url")
    return parser


def _id(text: str) -> str:
    return re.sub(r"^(https?://)?((www\.)?fal\.ai/models/|queue\.fal\.run/|fal\.run/)", "", text).strip("/")


def name_of(endpoint: str) -> str:
    """Return what the model of an endpoint is called: its id without what most have in common."""
    short = COMMON.sub("", endpoint)
    return NOT_IN_A_NAME.sub("_", short).strip("._-") or "endpoint"


def _import(options: argparse.Namespace) -> int:
    from kling_sweeps.experiment import model_file, yaml_files
    from kling_sweeps.experiment.model import read_model
    from kling_sweeps.store.journal import written_whole

    folder = _folder(options)
    found = _described(options.endpoint, options)
    name = options.name or name_of(options.endpoint)
    if NOT_IN_A_NAME.search(name):
        raise ConfigError(f"--name={name} can't be a file's name; letters, digits, . _ and - can")
    path = folder / "model" / f"{name}.yaml"
    old = yaml_files.content(path) if path.exists() else {}
    price, said = _price(options, old.get("price"))
    model = found.model(name, price)
    usage = " ".join(["python -m kling_sweeps", *_own(options), f"model={name}"])
    text = model_file.written(model, found.comments, usage)
    if old and old != model and not options.replace:
        _say(f"{path} is there already, and differs:", *changes(old, model))
        raise ConfigError(
            f"{path} would be written over: add --replace, which keeps its price, or another --name"
        )
    try:
        read = read_model(model)
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as part:
            part.write_text(text, encoding="utf-8")
            if yaml_files.content(part) != json.loads(json.dumps(model)):
                raise ConfigError(f"{options.endpoint} has texts that a YAML file of Hydra's can't hold")
    except ValueError as error:
        raise ConfigError(f"{path} is left as it was: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path} can't be written: {error.strerror}") from None
    _say(f"{path}: model={name}, {len(model['arguments'])} arguments, as of {_today()}.")
    if options.config_dir is None:
        _say("  That is this clone's own folder; --config-dir DIR writes into one of yours.")
    _say(*_meanings(read), said)
    trial = _trial(read, options)
    _say(f"Try it for nothing{', with yours for what is in capitals' * (PLACE in trial)}:", f"  {trial}")
    return 0


def _folder(options: argparse.Namespace) -> Path:
    """Return the folder that files are written into, which is the user's; raise ConfigError where there is none."""
    if options.config_dir is None and CONF.parent == Path(__file__).resolve().parent:
        raise ConfigError(
            f"the model's file would go into the installed package ({CONF}); say which folder is yours: --config-dir mine"
        )
    return Path(options.config_dir or CONF)


def _own(options: argparse.Namespace) -> list[str]:
    return ["--config-dir", shlex.quote(str(options.config_dir))] if options.config_dir else []


def _trial(model: Any, options: argparse.Namespace) -> str:
    from kling_sweeps.experiment.example import overrides

    given = overrides(model, f"{PLACE}A/PICTURE.png", f"https://{PLACE}IT")
    words = ["python -m kling_sweeps", *_own(options), f"model={model.name}", *given]
    return " ".join([*words, "provider=emulator"])


def _meanings(model: Any) -> Iterator[str]:
    """Yield what the arguments of a model mean, and what has to be known of them."""
    for name, schema in model.arguments.items():
        role = schema.get("role")
        if role == "rewrites_prompt":
            by_default = "" if "fal_default" not in schema else ", where fal has it on by default"
            yield f"  {name} rewrites the prompt, and is off in the file{by_default}"
        elif role:
            yield f"  {role}: {name}"
    if model.required:
        yield f"  required: {', '.join(model.required)}"


def _described(endpoint: str, options: argparse.Namespace) -> Any:
    """Return what a document or fal says of an endpoint; raise RefusedError."""
    from kling_sweeps.experiment import openapi

    where = str(options.schema or "fal")
    try:
        if options.schema:
            document = _parsed(options.schema)
        else:
            from kling_sweeps.providers import catalogue

            document = catalogue.models(options.base_url, endpoint_id=endpoint, expand=EXPANDED)
            if not openapi.endpoints(document):
                raise ConfigError(f"fal has no {endpoint}; --list QUERY searches")
        source = openapi.described(document, endpoint)
    except ValueError as error:
        raise ConfigError(f"{where} {error}") from None
    if source.metadata.get("status") == "deprecated":
        _say(f"fal has deprecated {endpoint}, and may take it off.")
    try:
        return openapi.imported(source)
    except ValueError as error:
        raise ConfigError(f"{endpoint} can't be used: {error}") from None


def _parsed(path: Path) -> Any:
    """Return the document of a file; raise ConfigError where it can't be read."""
    from kling_sweeps.experiment import openapi

    try:
        return openapi.parsed(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"--schema: {path} can't be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"--schema: {path} {error}") from None


def _price(options: argparse.Namespace, old: Any) -> tuple[Any, str]:
    """Return the price that a file is written with, that of the old file where it has one, and what is said of it."""
    remedy = "give the file one, or run it with budget.allow_unknown_price=true"
    told, why = None, "not in a schema"
    if not options.schema:
        from kling_sweeps.providers import answers, catalogue

        try:
            told = answers.prices(catalogue.price(options.endpoint, options.base_url)).get(options.endpoint)
            why = "fal lists none that can be read"
        except RefusedError as error:
            why = f"fal does not say ({clean(error)})"
    listed = f"{told.usd:g} USD per {told.per}" if told else ""
    if old:
        return old, "  price: as in the file" + f"; fal lists {listed}" * bool(told)
    if told is None:
        return None, f"  price: {why}; {remedy}"
    return {"usd": told.usd, "per": told.per, "as_of": _today()}, f"  price: {listed}"


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _list(options: argparse.Namespace) -> int:
    from rich.text import Text

    from kling_sweeps.experiment import openapi
    from kling_sweeps.terminal import tables

    is_cut = False
    if options.schema:
        words = options.list.lower().split()
        found = openapi.endpoints(_parsed(options.schema)).values()
        rows = [one for one in found if all(word in _words(one) for word in words)]
    else:
        from kling_sweeps.providers import catalogue

        pages, is_cut = catalogue.search(options.list, options.base_url)
        rows = [one for page in pages for one in openapi.endpoints(page).values()]
    rows = [one for one in rows if "video" in str(one.metadata.get("category", "video"))]
    if not rows:
        _say(f"No endpoint that makes videos is found by {options.list!r}.")
        return 0
    columns = {
        "endpoint": [one.endpoint for one in rows],
        "name": [clean(one.metadata.get("display_name", "")) for one in rows],
        "category": [clean(one.metadata.get("category", "")) for one in rows],
        "status": [clean(one.metadata.get("status", "")) for one in rows],
    }
    tables.show(
        [tables.text_column(key, [*map(Text, texts)], key != "endpoint") for key, texts in columns.items()]
    )
    if is_cut:
        _say("There are more: give further words.")
    given = ["--schema", shlex.quote(str(options.schema))] if options.schema else []
    words = ["python -m kling_sweeps.endpoint", rows[0].endpoint, *given, *_own(options)]
    _say(f"To use one: {' '.join(words)}")
    return 0


def _words(one: Any) -> str:
    return f"{one.endpoint} {one.metadata.get('display_name', '')}".lower()


def _diff(options: argparse.Namespace) -> int:
    """Say of each model file what fal has changed since it was written; return 1 where that is anything."""
    from kling_sweeps.experiment import yaml_files

    files = sorted(((options.config_dir or CONF) / "model").glob("*.yaml"))
    has_changed = is_found = False
    for path in files:
        old = yaml_files.content(path)
        endpoint = str(old.get("endpoint", ""))
        # Of a file that is derived from another, that one is told.
        if not endpoint or options.endpoint not in (None, endpoint):
            continue
        is_found = True
        try:
            found = _described(endpoint, options)
        except RefusedError as error:
            lines = [f"  {error}"]
        else:
            lines = list(changes(old, found.model(str(old.get("name")), old.get("price"))))
        _say(f"{path}: {'as fal has it' if not lines else ''}", *lines)
        has_changed |= bool(lines)
    if not is_found:
        raise ConfigError(
            f"no model file in {(options.config_dir or CONF) / 'model'} is of {options.endpoint}"
        )
    return int(has_changed)


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Yield what fal has changed since a file was written, and what that means for the store."""
    before, after = _schemas(old), _schemas(new)
    for name in (name for name in after if name not in before):
        schema = after[name]
        is_fals = "default" in schema and schema.get("fal_default") == schema["default"]
        meaning = "stored videos are taken as they are" if is_fals else "the plan says what is bought anew"
        at = (
            f"at {json.dumps(schema['default'])}, {meaning}" if "default" in schema else "not sent unless set"
        )
        yield f"  {name} is new: {at}"
    for name in (name for name in before if name not in after):
        yield f"  {name} is gone: it was sent with what is in the store, which would be bought anew without it"
    for name in (name for name in before if name in after):
        for keyword in dict.fromkeys([*before[name], *after[name]]):
            yield from _change(name, keyword, before[name], after[name])
    required = [", ".join(sorted(map(str, of.get("required") or []))) or "none" for of in (old, new)]
    if required[0] != required[1]:
        yield f"  required: {required[0]} in the file, {required[1]} of fal's"


def _schemas(model: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    arguments = model.get("arguments")
    found = arguments.items() if isinstance(arguments, Mapping) else ()
    return {name: schema if isinstance(schema, Mapping) else {} for name, schema in found}


def _change(name: str, keyword: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """Yield how a keyword of an argument differs, unless the difference is the file's own."""
    one, other = (json.dumps(of.get(keyword), default=str) for of in (before, after))
    is_own = keyword == "role" or (keyword == "fal_default" and keyword not in before)
    if keyword == "default" and "fal_default" in before:
        is_own = before["fal_default"] == after.get("fal_default")
    if one != other and not is_own:
        meaning = "; what is in the store has the one of the file, and is bought anew" * (
            keyword == "default"
        )
        yield f"  {name}: {keyword} is {clean(one, 80)} in the file, {clean(other, 80)} of fal's{meaning}"


def _say(*lines: str) -> None:
    from kling_sweeps.terminal.console import show_line

    for line in lines:
        with suppress(BrokenPipeError):
            show_line(line)


if __name__ == "__main__":
    sys.exit(main())
