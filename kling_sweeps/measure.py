"""Measure any videos, without generating: `python -m kling_sweeps.measure FILE...`.

Prints a table, of several files with a row a file, or JSON with `--json`. One video is decoded on all cores, several on a core each. The exit
code is 0 when all was measured, 1 when some of it could not be, which is said, and 2 for a bad command.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kling_sweeps.errors import ConfigError, KlingSweepsError, VideoError, say, say_interrupted
from kling_sweeps.terminal.streams import Parser, settle
from kling_sweeps.video import MAX_PIXELS

if TYPE_CHECKING:
    from rich.console import Console

    from kling_sweeps.metrics import Row, Spec

# What is told of a file: its values, errors, facts and versions, or its errors alone.
Record = Mapping[str, Any]

# In characters: what a table needs to say what each value is, and at least.
EXPLAINED, NARROWEST = 120, 60


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the files of the command line, print the numbers, and return the exit code."""
    settle(drops_stdout=False)
    options = _parser().parse_args(arguments)
    try:
        spec, files = _checked(options)
        records = _measured(options, spec, files)
        _print(options, spec, records)
    except KlingSweepsError as error:
        say(error)
        return 2
    except KeyboardInterrupt:
        return say_interrupted(": nothing is printed")
    except OSError as error:
        # Nobody reads on, or nothing can be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"The numbers could not be written: {error}", file=sys.stderr)
        return 1
    problems = [problem for file, record in records.items() for problem in _problems(file, record)]
    for problem in problems:
        print(_line(problem), file=sys.stderr)
    return 1 if problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m kling_sweeps.measure",
        description="Measure videos: exposure, colour, sharpness, noise, motion, flicker, cuts and more.",
        epilog="`python -m kling_sweeps.metrics` lists what is measured.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="a video")
    parser.add_argument(
        "--metrics",
        default="default",
        metavar="SET",
        help="default, fast, full, text, or a YAML file like those in conf/metrics",
    )
    parser.add_argument("--aspect-ratio", metavar="W:H", help="what was requested, for aspect_error")
    parser.add_argument(
        "--duration", type=float, metavar="S", help="what was requested, for duration_error_s"
    )
    parser.add_argument("--prompt", default="", metavar="TEXT", help="what was requested, for text_legible")
    parser.add_argument(
        "--max-pixels", type=int, default=MAX_PIXELS, metavar="N", help="do not decode larger frames (8K)"
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON, with the file's facts and all versions"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write a row a file to FILE")
    parser.add_argument(
        "--save",
        type=Path,
        metavar="DIR",
        help="write values.json, frames.parquet and filmstrip.png to DIR/<name of the file>",
    )
    return parser


def _checked(options: argparse.Namespace) -> tuple[Spec, list[str]]:
    """Read the set of metrics and the files; raise ConfigError for what is wrong with the command."""
    from kling_sweeps import metrics

    spec = metrics.specification(options.metrics)
    metrics.build(spec)
    wanted = metrics.requested(**_requested(options))
    for remark in metrics.remarks(spec, [wanted]):
        print(_line(remark), file=sys.stderr)
    files = list(dict.fromkeys(options.files))
    if options.csv:
        _writable(options.csv, files)
    named: dict[str, str] = {}
    for file in files:
        first = named.setdefault(Path(file).name, file)
        if options.save and first != file:
            raise ConfigError(
                f"--save: {first} and {file} would be written to one folder; save them one by one"
            )
    return spec, files


def _measured(options: argparse.Namespace, spec: Spec, files: list[str]) -> dict[str, Record]:
    """Measure each file into a folder, and read there what is told of it."""
    requested = _requested(options)
    with tempfile.TemporaryDirectory(prefix="kling_sweeps-") as temporary:
        names = [Path(file).name if options.save else str(index) for index, file in enumerate(files)]
        folders = [_emptied((options.save or Path(temporary)) / name) for name in names]
        if len(files) == 1:
            records = [_alone(files[0], folders[0], spec, requested, options.max_pixels)]
        else:
            records = asyncio.run(_together(files, folders, spec, requested, options.max_pixels))
    return dict(zip(files, records, strict=True))


def _requested(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "aspect_ratio": options.aspect_ratio,
        "duration": options.duration,
        "prompt": options.prompt,
    }


def _writable(path: Path, files: Sequence[str]) -> None:
    """Raise ConfigError where a CSV file can't be written, or would take the place of a video."""
    if path.resolve() in (Path(file).resolve() for file in files):
        raise ConfigError(f"--csv: {path} is one of the videos")
    try:
        path.open("a").close()
    except OSError as error:
        raise ConfigError(f"--csv: {path} can't be written: {error.strerror}") from error


def _emptied(folder: Path) -> Path:
    """Make a folder in which no measurement seems to be; raise ConfigError where that is impossible."""
    from kling_sweeps.store.measured import VALUES

    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / VALUES).unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"--save: {folder} can't be written: {error.strerror}") from error
    return folder


def _alone(file: str, folder: Path, spec: Spec, requested: Mapping[str, Any], max_pixels: int) -> Record:
    from kling_sweeps import metrics
    from kling_sweeps.measurement.observe import observe
    from kling_sweeps.store.measured import read_record
    from kling_sweeps.video.decode import Video

    try:
        video = Video(Path(file), max_pixels=max_pixels)
        observe(video, metrics.build(spec), metrics.requested(**requested)).save(folder)
    except (VideoError, OSError) as error:
        return _unmeasured(error)
    return read_record(folder)


async def _together(
    files: list[str], folders: list[Path], spec: Spec, requested: Mapping[str, Any], max_pixels: int
) -> list[Record]:
    """Measure several files in worker processes."""
    from rich.console import Console
    from rich.progress import Progress

    from kling_sweeps import metrics
    from kling_sweeps.measurement.workers import Workers
    from kling_sweeps.store.measured import read_record

    console = Console(stderr=True)
    shown = Progress(console=console, transient=True, disable=not console.is_terminal)
    with Workers(len(files), timeout_s=None, max_pixels=max_pixels) as workers, shown as progress:
        bar = progress.add_task("measuring", total=len(files))

        async def one(file: str, folder: Path) -> Record:
            try:
                await workers.measure(folder, Path(file), spec, metrics.requested(**requested))
            except (VideoError, OSError) as error:
                return _unmeasured(error)
            finally:
                progress.advance(bar)
            return read_record(folder)

        return await asyncio.gather(*map(one, files, folders))


def _unmeasured(error: Exception) -> Record:
    return {"values": {}, "errors": {"video": str(error)}}


def _problems(file: str, record: Record) -> list[str]:
    if not record["values"]:
        return [record["errors"]["video"]]
    return [f"{file}: {name}: {message}" for name, message in record["errors"].items()]


def _print(options: argparse.Namespace, spec: Spec, records: Mapping[str, Record]) -> None:
    """Print JSON, a table of one file with all that is said of a value, or a row a file; write the CSV."""
    from rich.console import Console

    from kling_sweeps.metrics import build, describe

    measured = {value.name for metric in build(spec) for value in metric.values}
    rows = [row for row in describe(spec) if row.name in measured]
    if options.csv:
        _write_csv(options.csv, [row.name for row in rows], records)
    if options.json:
        told = [{"file": file, **record} for file, record in records.items()]
        print(json.dumps(told, indent=2, ensure_ascii=sys.stdout.encoding.lower() != "utf-8"), flush=True)
        return
    console = Console(markup=False, highlight=False)
    console.width = max(console.width, NARROWEST)
    if len(records) > 1:
        _print_rows([row.name for row in rows], records, console.width if console.is_terminal else inf)
    elif values := next(iter(records.values()))["values"]:
        _print_values(console, rows, _titles(list(records))[0], values)
    sys.stdout.flush()


def _print_values(console: Console, rows: list[Row], title: str, values: Mapping[str, float | None]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column(Text(title), justify="right", overflow="fold", min_width=8)
    table.add_column("unit", style="dim", no_wrap=True)
    explained = console.width >= EXPLAINED
    if explained:
        table.add_column("what", style="dim")
    for row in rows:
        table.add_row(row.name, _shown(values[row.name]), row.unit, *([row.meaning] if explained else []))
    console.print(table)


def _print_rows(names: Sequence[str], records: Mapping[str, Record], room: float) -> None:
    """Print a row a file; as many values side by side as `room` has characters for, the others below."""
    from rich.cells import cell_len

    lines = [("file", *names)]
    for title, record in zip(_titles(list(records)), records.values(), strict=True):
        lines.append((title, *(_shown(record["values"].get(name)) for name in names)))
    first, *widths = (max(map(cell_len, column)) for column in zip(*lines, strict=True))
    begin = 0
    while begin < len(names):
        end, used = begin, first
        while end < len(names) and (end == begin or used + 2 + widths[end] <= room):
            used += 2 + widths[end]
            end += 1
        for title, *cells in lines:
            shown = (
                cell.rjust(width) for cell, width in zip(cells[begin:end], widths[begin:end], strict=True)
            )
            print(title + " " * (first - cell_len(title)), *shown, sep="  ")
        print()
        begin = end


def _write_csv(path: Path, names: Sequence[str], records: Mapping[str, Record]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["file", *names, "error"])
        for name, record in records.items():
            errors = "; ".join(f"{key}: {why}" for key, why in record["errors"].items())
            writer.writerow([name, *(record["values"].get(value) for value in names), errors])


def _titles(files: Sequence[str]) -> list[str]:
    """Name files without their folders, or, where names are the same, by where their paths begin to differ."""
    names = [_line(Path(file).name) for file in files]
    if len(set(names)) == len(names):
        return names
    common = os.path.commonpath([os.path.abspath(file) for file in files])
    return [_line(os.path.relpath(file, common)) for file in files]


def _line(text: str) -> str:
    """Replace what would end the line or command the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text.strip())


def _shown(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if value == round(value) else f"{value:.4g}"


if __name__ == "__main__":
    sys.exit(main())
