"""Measure any videos, without generating: `python -m kling_sweeps.measure FILE...`.

Prints a table, or JSON with `--json`. One video is decoded on all cores, several on a core each. The exit
code is 0 when all was measured, 1 when some of it could not be, which is said, and 2 for a bad command.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

from kling_sweeps.errors import ConfigError, KlingSweepsError, VideoError

if TYPE_CHECKING:
    from rich.console import Console

    from kling_sweeps.measurement import Measurement
    from kling_sweeps.metrics import Row

# In characters: the outer columns, one of a file, and what a table needs to say what each row is.
NAME_AND_UNIT, COLUMN, EXPLAINED = 45, 16, 120


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the files of the command line, print the numbers, and return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        found = _measured(options)
    except KlingSweepsError as error:
        print(error, file=sys.stderr)
        return 2
    if options.json:
        json.dump([_record(file, found[file]) for file in options.files], sys.stdout, indent=2, ensure_ascii=False)
        print()
    else:
        _print_tables(options.metrics, {file: each for file, each in found.items() if not isinstance(each, VideoError)})
    problems = [problem for file, each in found.items() for problem in _problems(file, each)]
    print(*problems, sep="\n", end="\n" if problems else "", file=sys.stderr)
    return 1 if problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m kling_sweeps.measure",
        description="Measure videos: exposure, colour, sharpness, noise, motion, flicker, cuts and more.",
        epilog="`python -m kling_sweeps.metrics` lists what is measured.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="a video")
    parser.add_argument(
        "--metrics", default="default", metavar="SET", help="default, fast, full, or a YAML file like those in conf/metrics"
    )
    parser.add_argument("--aspect-ratio", metavar="W:H", help="what was requested, for aspect_error")
    parser.add_argument("--duration", type=float, metavar="S", help="what was requested, for duration_error_s")
    parser.add_argument("--json", action="store_true", help="print JSON, with the file's facts and all versions")
    parser.add_argument(
        "--save", type=Path, metavar="DIR", help="write values.json, frames.parquet and filmstrip.png to DIR/<name of the file>"
    )
    return parser


def _measured(options: argparse.Namespace) -> dict[str, Measurement | VideoError]:
    """Measure each file into a folder; raise ConfigError before the first for what is wrong with the command."""
    from kling_sweeps import metrics

    spec = metrics.specification(options.metrics)
    metrics.build(spec)
    metrics.ratio_of(options.aspect_ratio)
    files = list(dict.fromkeys(options.files))
    names = [Path(file).name for file in files]
    if options.save and len(set(names)) < len(names):
        raise ConfigError("--save: two of the files have one name, and would be written to one folder")
    requested = {"aspect_ratio": options.aspect_ratio, "duration": options.duration}
    with tempfile.TemporaryDirectory(prefix="kling_sweeps-") as temporary:
        folders = [options.save / name if options.save else Path(temporary, str(i)) for i, name in enumerate(names)]
        if len(files) == 1:
            found = [_alone(files[0], folders[0], spec, requested)]
        else:
            found = asyncio.run(_together(files, folders, spec, requested))
    return dict(zip(files, found, strict=True))


def _alone(file: str, folder: Path, spec: dict, requested: dict) -> Measurement | VideoError:
    from kling_sweeps import metrics

    try:
        measurement = metrics.measure(file, spec, **requested)
    except VideoError as error:
        return error
    measurement.save(folder)
    return measurement


async def _together(
    files: list[str], folders: list[Path], spec: dict, requested: dict
) -> list[Measurement | VideoError]:
    """Measure several files in worker processes."""
    from rich.console import Console
    from rich.progress import Progress

    from kling_sweeps.measurement import Measurement
    from kling_sweeps.workers import Workers

    console = Console(stderr=True)
    shown = Progress(console=console, transient=True, disable=not console.is_terminal)
    with Workers(len(files)) as workers, shown as progress:
        bar = progress.add_task("measuring", total=len(files))

        async def one(file: str, folder: Path) -> Measurement | VideoError:
            try:
                await workers.measure(folder, Path(file), spec, **requested)
            except VideoError as error:
                return error
            finally:
                progress.advance(bar)
            return Measurement.load(folder)

        return await asyncio.gather(*map(one, files, folders))


def _record(file: str, found: Measurement | VideoError) -> dict:
    if isinstance(found, VideoError):
        return {"file": file, "values": {}, "errors": {"video": str(found)}}
    return {"file": file, **found.record()}


def _problems(file: str, found: Measurement | VideoError) -> list[str]:
    if isinstance(found, VideoError):
        return [str(found)]
    return [f"{file}: {name}: {message}" for name, message in found.errors.items()]


def _print_tables(metrics: str, found: dict[str, Measurement]) -> None:
    """Print a table of as many columns as fit, then the next."""
    from rich.console import Console

    from kling_sweeps.metrics import describe

    console, rows = Console(markup=False, highlight=False), describe(metrics)
    files = list(found)
    fit = max(1, (console.width - NAME_AND_UNIT) // COLUMN)
    for first in range(0, len(files), fit):
        _print_table(console, rows, {file: found[file] for file in files[first : first + fit]})


def _print_table(console: Console, rows: list[Row], found: dict[str, Measurement]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for title in _titles(list(found)):
        table.add_column(Text(title), justify="right", overflow="fold", min_width=8)
    table.add_column("unit", style="dim", no_wrap=True)
    explained = len(found) == 1 and console.width >= EXPLAINED
    if explained:
        table.add_column("what", style="dim")
    for row in rows:
        shown = [_shown(measurement.values[row.name]) for measurement in found.values()]
        table.add_row(row.name, *shown, row.unit, *([row.meaning] if explained else []))
    console.print(table)


def _titles(files: Sequence[str]) -> list[str]:
    """Name files without their folders, or, where names are the same, by where their paths begin to differ."""
    names = [Path(file).name for file in files]
    if len(set(names)) == len(names):
        return names
    common = os.path.commonpath([os.path.abspath(file) for file in files])
    paths = [os.path.relpath(file, common) for file in files]
    return [path if len(path) < COLUMN - 3 else f"{path[: COLUMN - 5]}…" for path in paths]


def _shown(value: float) -> str:
    if isnan(value):
        return "–"
    return f"{value:.0f}" if value == round(value) else f"{value:.4g}"


if __name__ == "__main__":
    sys.exit(main())
