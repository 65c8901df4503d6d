"""What a setting changed in a sweep: `python -m kling_sweeps.effects SWEEP --factor SETTING`.

    python -m kling_sweeps.effects cfg --factor cfg_scale --metrics motion,sharpness --csv effects.csv

Prints a row for each metric and level of the factor that has an answer (`kling_sweeps.analysis.effects` explains the
columns), what they come to, and what is missing where there is none. Without a factor, of every setting that varies. The exit code is 0, or 2 for a bad command.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kling_sweeps.errors import say, say_interrupted
from kling_sweeps.terminal.console import READING, working
from kling_sweeps.terminal.streams import Parser, settle

if TYPE_CHECKING:
    import pandas as pd

# Metrics that are left out are named up to so many.
NAMED = 4
STYLES = {"found": "green", "worth a look": "cyan", "not distinguishable": ""}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables and their sentences; return the exit code."""
    settle()
    options = _parser().parse_args(arguments)
    try:
        with working(READING):
            runs, tables = _read(options)
        if options.csv:
            _write(tables, options.csv)
    except (LookupError, ValueError, OSError) as error:
        say(error.args[0] if isinstance(error, LookupError) else error)
        return 2
    except KeyboardInterrupt:
        return say_interrupted()
    if not options.metrics:
        _say_constant(runs)
    for table in tables:
        _show(table)
    _say(runs, tables)
    if options.csv:
        print(f"{options.csv}: {sum(map(len, tables))} rows, of all metrics and levels")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m kling_sweeps.effects",
        description="Say what a setting changed in a sweep, by how much, and how sure that is.",
    )
    parser.add_argument("sweep", help="a sweep (cfg), or an experiment ('kling_sweeps/cfg (emulator)')")
    parser.add_argument("--factor", help="the setting whose levels are compared; without it, all that vary")
    parser.add_argument(
        "--metrics", metavar="A,B", help="the metrics that are asked for; else the goal, then all"
    )
    parser.add_argument(
        "--reference", metavar="LEVEL", help="what the other levels are compared with; else the lowest"
    )
    parser.add_argument(
        "--scope", choices=("general", "these_prompts"), help="what is claimed; else by the number of prompts"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table to FILE")
    return parser


def _read(options: argparse.Namespace) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """Return the runs, and a table a factor."""
    from kling_sweeps.analysis import effects, factors, runs_df

    runs = runs_df(options.sweep)
    names = [options.factor] if options.factor else factors(runs)
    if not names:
        raise LookupError(f"nothing varies in {options.sweep}: its runs have one value of each setting")
    metrics = options.metrics.split(",") if options.metrics else None
    return runs, [
        effects(runs, name, metrics, _level(runs, name, options.reference), scope=options.scope)
        for name in names
    ]


def _level(runs: pd.DataFrame, factor: str, text: str | None) -> Any:
    """Return the level that is written so, or the text itself where none is."""
    if text is None or factor not in runs:
        return text
    return next((level for level in runs[factor].dropna().unique().tolist() if str(level) == text), text)


def _write(tables: Sequence[pd.DataFrame], path: Path) -> None:
    """Write the tables into one, the level of each in a column `level`."""
    import pandas as pd

    named = []
    for table in tables:
        factor = table.columns[1]
        one = table.rename(columns={factor: "level"})
        one.insert(1, "factor", factor)
        named.append(one)
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.concat(named).to_csv(path, index=False)


def _say_constant(runs: pd.DataFrame) -> None:
    """Print on a line what all videos have the same number of."""
    from kling_sweeps.analysis.pairing import listed
    from kling_sweeps.analysis.statements import number
    from kling_sweeps.experiment.naming import is_of_video
    from kling_sweeps.terminal.console import show_line

    finished = runs[runs["status"] == "FINISHED"]
    names = [name for name in listed(runs, "metrics") if is_of_video(name)]
    same = [
        name for name in names if finished[name].nunique(dropna=False) == 1 and finished[name].notna().all()
    ]
    if len(finished) > 1 and same:
        said = ", ".join(f"{name} {number(finished[name].iloc[0])}" for name in same)
        show_line((f"The same in all {len(finished)} videos: {said}.", "dim"))


def _show(table: pd.DataFrame) -> None:
    """Print the rows of a table that have an answer, how many have none, and what may bias those that have."""
    from rich.text import Text

    from kling_sweeps.analysis.comparison import ANSWERS, REFERENCE
    from kling_sweeps.analysis.pairing import plain, records
    from kling_sweeps.terminal.console import show_line
    from kling_sweeps.terminal.tables import number_column, show, text_column, whole_column

    answered = table[table["verdict"].isin(ANSWERS)]
    if answered.empty:
        return  # why is said in a sentence
    rows = records(answered)
    factor = str(table.columns[1])
    levels = list(dict.fromkeys(plain(row[factor]) for row in rows))
    interval = [
        f"{_told(row['low'], row, '+')} to {_told(row['high'], row, '+')}" * (row["low"] == row["low"])
        for row in rows
    ]
    columns = [
        whole_column("metric", [Text(row["metric"]) for row in rows]),
        *[text_column(factor, [Text(plain(row[factor])) for row in rows])] * (len(levels) > 1),
        number_column("difference", [Text(_told(row["difference"], row, "+")) for row in rows]),
        number_column("interval", list(map(Text, interval)), is_optional=True),
        number_column(
            "adjusted p",
            [Text(f"{p:.3g}" if (p := row["p_adjusted"]) == p else "") for row in rows],
            is_optional=True,
        ),
        number_column("smallest detectable", [Text(_told(row["smallest_detectable"], row)) for row in rows]),
        whole_column(
            "verdict", [Text(row["verdict"], style=STYLES.get(row["verdict"], "dim")) for row in rows]
        ),
        number_column("n", [Text(str(row["n_runs"])) for row in rows], is_optional=True),
        *[number_column("without", [Text(str(row["failed"] or "")) for row in rows], is_optional=True)]
        * any(row["failed"] for row in rows),
        number_column("mean", [Text(f"{row['mean']:.4g}") for row in rows], is_optional=True),
    ]
    claim = "prompts in general" if table["scope"].iloc[0] == "general" else "these prompts alone"
    of = factor if len(levels) > 1 else f"{factor}={levels[0]}"
    show_line((f"{of}, compared with {plain(table['reference'].iloc[0])}, of {claim}:", "bold"))
    show(columns)
    left = table[~table["verdict"].isin([*ANSWERS, REFERENCE]) & (table["difference"] != 0)]
    for reason, some in left.groupby("verdict", sort=False):
        names = some["metric"].unique()
        which = ", ".join(names) if len(names) <= NAMED else f"{len(names)} metrics"
        show_line((f"Not shown: {which}, since {reason}.", "dim"))
    for warning, some in answered[answered["warning"] != ""].groupby("warning", sort=False):
        at, metrics = (", ".join(map(str, some[name].unique())) for name in (factor, "metric"))
        which = f", {metrics}" if some["metric"].nunique() < answered["metric"].nunique() else ""
        show_line((f"{factor}={at}{which}: {warning}", "yellow"))


def _told(value: float, row: Mapping[str, Any], sign: str = "") -> str:
    """Return a difference of a row, as percent where it is of a ratio; "" for none."""
    from kling_sweeps.analysis.statements import number

    return number(value, row["scale"] == "log", sign) if value == value else ""


def _say(runs: pd.DataFrame, tables: Sequence[pd.DataFrame]) -> None:
    """Print what the tables come to, and how more can be told."""
    from kling_sweeps.analysis import statements
    from kling_sweeps.experiment.naming import NAMELESS
    from kling_sweeps.terminal.console import show_line

    for line in statements(*tables):
        show_line(f"- {line}")
    if not any(table.attrs["asked"] for table in tables):
        show_line(
            ("No metric was asked for; with --metrics A,B few comparisons are made, which show more.", "dim")
        )
    if runs.attrs["sweep"] == NAMELESS and len(tables) > 1:
        said = (
            f"{NAMELESS} has all runs that were given no name; experiment=NAME gives those of a command one."
        )
        show_line((said, "dim"))


if __name__ == "__main__":
    sys.exit(main())
