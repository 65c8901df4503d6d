"""The folder of one measurement, read without decoding its files."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

VALUES, FRAMES, FILMSTRIP = "values.json", "frames.parquet", "filmstrip.png"
# The parts of a record, and their types.
RECORD = dict.fromkeys(("values", "errors", "facts", "versions"), dict)


def is_measured(folder: Path) -> bool:
    """Tell, without decoding them, whether a folder has all files of a measurement, each with its beginning and end."""
    try:
        read_record(folder)
        has_strip = _ends(folder / FILMSTRIP, b"\x89PNG", b"IEND\xaeB`\x82")
        return has_strip and _ends(folder / FRAMES, b"PAR1", b"PAR1")
    except (OSError, ValueError, RecursionError):
        return False


def read_record(folder: Path) -> dict[str, Any]:
    """Read a saved `Measurement.record`; raise OSError or ValueError where it is incomplete."""
    saved = json.loads((folder / VALUES).read_bytes())
    if not isinstance(saved, dict) or {name: type(part) for name, part in saved.items()} != RECORD:
        raise ValueError(f"{folder / VALUES} is no record of a measurement")
    return saved


def read_values(folder: Path) -> dict[str, float]:
    """Read the values, without those that could not be measured; none where the record can't be read."""
    with suppress(OSError, ValueError):
        return {name: value for name, value in read_record(folder)["values"].items() if value is not None}
    return {}


def read_facts(folder: Path) -> dict[str, Any]:
    """Read what the file turned out to be; nothing where the record can't be read."""
    with suppress(OSError, ValueError):
        facts: dict[str, Any] = read_record(folder)["facts"]
        return facts
    return {}


def read_flaws(folder: Path) -> str:
    """Read the errors in one line, each with the name of its metric or `video`; "" where there are none."""
    try:
        errors = read_record(folder)["errors"]
    except (OSError, ValueError) as error:
        return f"measurement: {error}"
    return "; ".join(f"{name}: {why}" for name, why in errors.items())


def _ends(path: Path, first: bytes, last: bytes) -> bool:
    content = path.read_bytes()
    return content.startswith(first) and content.endswith(last)
