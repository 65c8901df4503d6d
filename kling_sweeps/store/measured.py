"""The folder of one measurement, read without decoding what is in it."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

VALUES, FRAMES, FILMSTRIP = "values.json", "frames.parquet", "filmstrip.png"
# What a record has, and of what type.
RECORD = dict.fromkeys(("values", "errors", "facts", "versions"), dict)


def is_measured(folder: Path) -> bool:
    """Tell, without decoding them, whether a folder's files are those of a whole measurement."""
    try:
        read_record(folder)
        has_strip = _ends(folder / FILMSTRIP, b"\x89PNG", b"IEND\xaeB`\x82")
        return has_strip and _ends(folder / FRAMES, b"PAR1", b"PAR1")
    except (OSError, ValueError, RecursionError):
        return False


def read_record(folder: Path) -> dict[str, Any]:
    """Read what `Measurement.record` gave when it was saved; raise OSError or ValueError where that is torn."""
    saved = json.loads((folder / VALUES).read_bytes())
    if not isinstance(saved, dict) or {name: type(part) for name, part in saved.items()} != RECORD:
        raise ValueError(f"{folder / VALUES} is no record of a measurement")
    return saved


def read_values(folder: Path) -> dict[str, float]:
    """Read the values alone, without those that could not be measured; none where the record is gone."""
    with suppress(OSError, ValueError):
        return {name: value for name, value in read_record(folder)["values"].items() if value is not None}
    return {}


def read_flaws(folder: Path) -> str:
    """Read what went wrong, in one line: the name of a metric, or `video`, and why; "" where nothing did."""
    try:
        errors = read_record(folder)["errors"]
    except (OSError, ValueError) as error:
        return f"measurement: {error}"
    return "; ".join(f"{name}: {why}" for name, why in errors.items())


def _ends(path: Path, first: bytes, last: bytes) -> bool:
    content = path.read_bytes()
    return content.startswith(first) and content.endswith(last)
