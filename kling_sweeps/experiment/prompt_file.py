"""Prompts as people have them: a text file with a prompt a line, CSV, TSV or JSONL."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from kling_sweeps.errors import ConfigError
from kling_sweeps.experiment.encoding import encoding
from kling_sweeps.experiment.prompt import ALL, Prompt, escaped, factors, filled
from kling_sweeps.untrusted import secrets

# What an id in a file may be, so that it can be written on a command line, in quotes, and read in a table.
ID = re.compile(r"\w[\w .:/+#@-]{0,199}")
TEXT_COLUMNS = ("text", "prompt")
# Characters of an id that is made: the first words of its text, and digits of the digest of its line.
WORDS, DIGITS = 28, 8
LINE_END = re.compile(r"\r\n|\r|\n")
Row = tuple[int, dict[str, Any]]


def is_prompt_file(name: str) -> bool:
    """Tell by its ending whether a prompt set is a file of these kinds, and no YAML file of conf/prompts/."""
    return Path(name).suffix.lower() in READERS


def read_prompt_file(path: Path) -> Mapping[str, Prompt]:
    """Return the prompts of a file by id, in its order; raise ConfigError with the line of everything that is wrong."""
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"prompts={path} can't be read: {why}") from None
    return _read(path.name, content)


@lru_cache(maxsize=8)
def _read(name: str, content: bytes) -> Mapping[str, Prompt]:
    """Read the content of a file, once however many runs of a sweep it is for."""
    found = _Found(name)
    try:
        for line, row in READERS[Path(name).suffix.lower()](_decoded(content)):
            found.add(line, row)
    except _LineError as error:
        found.report(error.line, str(error))
    if not found.prompts and not found.problems:
        found.problems.append(f"{name} holds no prompt")
    if found.problems:
        raise ConfigError(*found.problems)
    return found.prompts


class _LineError(ValueError):
    """A file can't be read beyond a line."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def _decoded(content: bytes) -> str:
    name = encoding(content)
    try:
        return content.decode(name)
    except UnicodeDecodeError as error:
        before = content[: error.start].decode(name, "replace")
        raise _LineError(len(LINE_END.split(before)), "is not UTF-8 text; save the file as UTF-8") from None


def _text_rows(text: str) -> Iterator[Row]:
    """Yield a prompt for each line that is neither empty nor a comment; `${` stands for itself."""
    for number, line in enumerate(LINE_END.split(text), 1):
        if (stripped := line.strip()) and not stripped.startswith("#"):
            yield number, {"text": escaped(stripped)}


def _table_rows(text: str) -> Iterator[Row]:
    """Yield the cells of each line that are not empty, by the names in the first line."""
    head = LINE_END.split(text, maxsplit=1)[0]
    # Excel writes what its language has for a list: commas, semicolons or tabs.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count), strict=True)
    columns: list[str] = []
    line = 1
    try:
        for cells in reader:
            if not columns:
                columns = _columns(cells)
            elif any(cell.strip() for cell in cells[len(columns) :]):
                raise _LineError(
                    line,
                    f"has {len(cells)} cells, and the first line names {len(columns)}; put a text that has the "
                    "character between two cells in double quotes",
                )
            elif row := {
                name: cell.strip() for name, cell in zip(columns, cells, strict=False) if cell.strip()
            }:
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise _LineError(line, f"is no row of a table: {error}") from None


def _columns(cells: Sequence[str]) -> list[str]:
    names = [
        name.lower() if name.lower() in ("id", *TEXT_COLUMNS) else name for name in map(str.strip, cells)
    ]
    if not set(names) & {*TEXT_COLUMNS}:
        raise _LineError(
            1, f"names the columns, and none is called text; it has {', '.join(names) or 'nothing'}"
        )
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise _LineError(1, f"names the column {twice[0]} twice")
    return names


def _json_rows(text: str) -> Iterator[Row]:
    """Yield the object of each line that is not empty, without what is null in it."""
    for number, line in enumerate(LINE_END.split(text), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_object, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise _LineError(number, f"is no JSON: {error}") from None
        if not isinstance(row, dict):
            raise _LineError(number, 'is no JSON object, such as {"id": "fox", "text": "A red fox"}')
        yield number, {name: value for name, value in row.items() if value is not None}


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON's")


READERS = {".txt": _text_rows, ".csv": _table_rows, ".tsv": _table_rows, ".jsonl": _json_rows}


@dataclass
class _Found:
    """What was found in a file so far: its prompts, the line of each, and what is wrong."""

    name: str
    prompts: dict[str, Prompt] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def report(self, line: int, problem: str) -> None:
        self.problems.append(f"{self.name}, line {line}: {problem}")

    def add(self, line: int, row: dict[str, Any]) -> None:
        """Take a line's prompt, or report why it is none; names that begin with _ are notes."""
        given = row.pop("id", None)
        texts = [row.pop(name) for name in TEXT_COLUMNS if name in row]
        values = {name: value for name, value in row.items() if not name.startswith("_")}
        if len(texts) != 1 or not isinstance(texts[0], str) or not texts[0].strip():
            self.report(line, "has a text and a prompt; one is enough" if len(texts) > 1 else "has no text")
        elif "" in values:
            self.report(line, "has a cell in a column that has no name")
        elif any(secret in str([given, *texts, values]) for secret in secrets()):
            self.report(
                line, "holds a credential, such as FAL_KEY, which would be sent and logged: take it out"
            )
        else:
            self._add(line, given, Prompt(texts[0].strip(), f"{self.name}, line {line}", values))

    def _add(self, line: int, given: Any, prompt: Prompt) -> None:
        name = _made(prompt) if given is None else str(given).strip()
        known = self.prompts.get(name)
        if isinstance(given, bool | float | list | dict) or not ID.fullmatch(name) or name == ALL:
            self.report(
                line,
                f"the id {str(given)[:60]!r} is none: letters, digits, spaces and any of _ . : / + # @ - are "
                f"allowed, 200 at most, and {ALL} is taken",
            )
        elif known and given is None and (known.text, known.values) == (prompt.text, prompt.values):
            self.prompts[name] = replace(known, times=known.times + 1)
        elif known:
            self.report(line, f"the id {name} is that of line {self.lines[name]} too")
        else:
            self.prompts[name], self.lines[name] = prompt, line


def _made(prompt: Prompt) -> str:
    """Return the id of a line that has none, by what is in it, wherever it stands: `a_red_fox-3f9a04c1`."""
    content = [prompt.text, prompt.values] if prompt.values else prompt.text
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:DIGITS]
    known = {name: str(prompt.values[name]) for name in factors(prompt.text) if name in prompt.values}
    words = "_".join(re.findall(r"\w+", filled(prompt.text, known)))[:WORDS].strip("_")
    return f"{words or 'prompt'}-{digest}"
