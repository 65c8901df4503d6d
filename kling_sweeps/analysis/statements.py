"""What a row of `effects` says, in the words of a person."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import pandas as pd

from kling_sweeps.analysis.effects import FOUND, NOT_DISTINGUISHABLE, REFERENCE, WORTH_A_LOOK
from kling_sweeps.analysis.estimates import GENERAL
from kling_sweeps.metrics import declared

MOST = 5


def statement(row: Mapping[str, Any] | pd.Series) -> str:
    """Return a row of `effects` as a sentence, with what it is of and how far it can be trusted."""
    told = dict(row)
    parts = [f"{_claim(told)}."]
    if told["verdict"] == WORTH_A_LOOK:
        parts.append(
            f"Worth a look: one in {1 / (1 - told['confidence']):.0f} such is expected to be nothing."
        )
    if told["failed"] and told["verdict"] != REFERENCE:
        factor = list(told)[1]
        parts.append(
            f"{told['failed']} failed and {'was' if told['failed'] == 1 else 'were'} left out; if {factor} makes them fail, this is biased."
        )
    if told["warning"]:
        parts.append(f"Mind: {told['warning']}.")
    return " ".join(parts)


def statements(table: pd.DataFrame, most: int = MOST) -> list[str]:
    """Return what a table of `effects` says: what was found, at most so many, and what could not be told.

    Where metrics were asked for, it is of them that it is told what was not distinguishable.
    """
    rows: list[dict[str, Any]] = [
        {str(name): value for name, value in row.items()} for row in table.to_dict("records")
    ]
    found = [row for row in rows if row["verdict"] in (FOUND, WORTH_A_LOOK)]
    found.sort(key=lambda row: (row["verdict"] != FOUND, row["p_adjusted"], row["p"]))
    lines = [statement(row) for row in found[:most]]
    if len(found) > most:
        lines.append(f"{len(found) - most} more are in the table.")
    wanted = [row for row in rows if row["goal"]] or rows
    open_rows = [row for row in wanted if row["verdict"] == NOT_DISTINGUISHABLE]
    if open_rows:
        lines.append(_open(open_rows, most))
    untold: dict[str, dict[str, None]] = defaultdict(dict)
    for row in wanted:
        if row["verdict"] not in (FOUND, WORTH_A_LOOK, NOT_DISTINGUISHABLE, REFERENCE):
            untold[row["verdict"]].setdefault(row["metric"])
    lines += [f"No answer on {_some(list(names), most)}: {why}." for why, names in untold.items()]
    return lines


def _claim(row: Mapping[str, Any]) -> str:
    factor = list(row)[1]
    at = f"{factor}={_level(row[factor])}"
    verdict, metric = row["verdict"], row["metric"]
    if verdict == REFERENCE:
        return f"{metric} at {at} is what the other levels are compared with"
    if verdict == NOT_DISTINGUISHABLE:
        return (
            f"{metric} at {at} is not distinguishable from {_level(row['reference'])} {_scope(row)}; that is not "
            f"to say equal: {_amount(row, row['smallest_detectable'])} is the least that would have been seen"
        )
    if verdict not in (FOUND, WORTH_A_LOOK):
        return f"{metric} at {at}: no answer, {verdict}"
    way = "higher" if row["difference"] > 0 else "lower"
    interval = (
        f"{_signed(row, row['low'])} to {_signed(row, row['high'])}, {row['confidence']:.0%} confidence"
    )
    return (
        f"{metric} is {_amount(row, row['difference'])} {way}{_better(row)} at {at} than at "
        f"{_level(row['reference'])} ({interval}) {_scope(row)}"
    )


def _open(rows: list[dict[str, Any]], most: int) -> str:
    factor = list(rows[0])[1]
    by_metric: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_metric[row["metric"]].append(row)
    told = []
    for metric, some in by_metric.items():
        largest = max(some, key=lambda row: row["smallest_detectable"])
        levels = ", ".join(_level(row[factor]) for row in some)
        told.append(
            f"{metric} at {factor}={levels} ({_amount(largest, largest['smallest_detectable'])} would have been seen)"
        )
    return (
        f"Not distinguishable from {_level(rows[0]['reference'])} {_scope(rows[0])}, which is not to say equal: "
        f"{_some(told, most)}."
    )


def _some(names: list[str], most: int) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _scope(row: Mapping[str, Any]) -> str:
    prompts = row["prompts"]
    if row["scope"] == GENERAL:
        return f"in general, by {prompts} prompts"
    these = "this prompt" if prompts == 1 else f"these {prompts} prompts"
    return f"in {these}, not in prompts in general"


def _better(row: Mapping[str, Any]) -> str:
    if not row["goal"]:
        return ""
    return " (better)" if (row["difference"] > 0) == (row["goal"] == "max") else " (worse)"


def _amount(row: Mapping[str, Any], value: float) -> str:
    if row["scale"] == "log":
        return f"{abs(value):.3g} %"
    return f"{abs(value):.3g}{_unit(row['metric'])}"


def _signed(row: Mapping[str, Any], value: float) -> str:
    return f"{value:+.3g} %" if row["scale"] == "log" else f"{value:+.3g}"


def _unit(metric: str) -> str:
    """Return a metric's unit with a space before it, where it is a word."""
    unit = declared()[metric].unit if metric in declared() else ""
    return f" {unit}" if unit[:1].isalpha() else ""


def _level(level: object) -> str:
    text = f"{level:g}" if isinstance(level, float) else " ".join(str(level).split())
    return f"'{text}'" if " " in text else text
