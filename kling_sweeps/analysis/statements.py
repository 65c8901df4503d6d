"""What a row of `effects` says, in the words of a person."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from kling_sweeps.analysis.comparison import (
    ANSWERS,
    FOUND,
    NOT_DISTINGUISHABLE,
    NOTHING_VARIES,
    REFERENCE,
    WORTH_A_LOOK,
)
from kling_sweeps.analysis.estimates import GENERAL
from kling_sweeps.analysis.looks import CLOSED, EXHAUSTED, HOPELESS, OPEN, UNKNOWN, Looked, Looks
from kling_sweeps.analysis.pairing import TWINS, plain, records
from kling_sweeps.analysis.repeats import REPEAT_DISTANCE
from kling_sweeps.experiment.naming import in_words
from kling_sweeps.metrics import declared

MOST = 5
# How a comparison by looks stands, before its number of repeats.
STANDS = {
    CLOSED: "closed at",
    HOPELESS: "hopeless at",
    EXHAUSTED: "open after all",
    OPEN: "open at",
    UNKNOWN: "without an answer at",
}

Row = Mapping[str, Any]


def statement(row: Row | pd.Series) -> str:
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
            f"{told['failed']} without it {'was' if told['failed'] == 1 else 'were'} left out; if {factor} makes them fail, this is biased."
        )
    if told["warning"]:
        parts.append(f"Mind: {told['warning']}.")
    return " ".join(parts)


def statements(*tables: pd.DataFrame, most: int = MOST) -> list[str]:
    """Return what tables of `effects` say: what was found, at most so many, and what could not be told.

    Where metrics were asked for, it is of them that it is said what was not distinguishable.
    """
    rows = [row for table in tables for row in records(table)]
    found = [row for row in rows if row["verdict"] in (FOUND, WORTH_A_LOOK)]
    found.sort(key=lambda row: (row["verdict"] != FOUND, row["p_adjusted"], row["p"]))
    lines = [statement(row) for row in found[:most]]
    if len(found) > most:
        lines.append(f"{len(found) - most} more are in the table of python -m kling_sweeps.effects.")
    asked = {name for table in tables for name in table.attrs.get("asked", ())}
    wanted = [row for row in rows if row["metric"] in asked] or [row for row in rows if not _is_idle(row)]
    missed: dict[object, list[Row]] = defaultdict(list)
    for row in wanted:
        if row["verdict"] == NOT_DISTINGUISHABLE:
            missed[list(row)[1], row["prompts"]].append(row)
    lines += [_missed(some, most) for some in missed.values()]
    lines += _untold(wanted, most, bool(asked))
    lines += dict.fromkeys(table.attrs["further"] for table in tables if "further" in table.attrs)
    return [*lines, *(line for table in tables for line in table.attrs.get("by_looks", ()))]


def looks_statement(looked: Looked, plan: Looks) -> str:
    """Return where the looks have put repeats, and how each comparison stands, as a sentence."""
    rows = looked.table[looked.table["verdict"] != REFERENCE]
    parts = []
    for (stands, repeats), some in rows.groupby(["stands", "repeats"], sort=False):
        levels = [
            _level(level) + f" ({', '.join(its['metric'])})" * (len(plan.metrics) > 1)
            for level, its in some.groupby("level", sort=False)
        ]
        parts.append(f"{STANDS[str(stands)]} {repeats}: {', '.join(levels)}")
    ends = 100 * rows["confidence"].min(), 100 * rows["confidence"].max()
    least, most = (f"{end:.4g}%" for end in ends)
    each = least if least == most else f"{least} to {most}"
    return (
        f"Repeats of {plan.factor} by looks at {in_words(plan.repeats)}, compared with {_level(rows['reference'].iloc[0])}: "
        f"{'; '.join(parts)}. Each interval is that of its look, of {each} confidence, so that looking more than "
        "once finds no more by chance."
    )


def _claim(row: Row) -> str:
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
    interval = f"{_signed(row, row['low'])} to {_signed(row, row['high'])}, {100 * row['confidence']:.4g}% confidence"
    return (
        f"{metric} is {_amount(row, row['difference'])} {way}{_better(row)} at {at} than at "
        f"{_level(row['reference'])} ({interval}) {_scope(row)}"
    )


def _missed(rows: list[Row], most: int) -> str:
    """Say of which metrics nothing was seen, and what would have been; the levels once, where they are the same."""
    factor = list(rows[0])[1]
    by_metric: dict[object, list[Row]] = defaultdict(list)
    for row in rows:
        by_metric[row["metric"]].append(row)
    levels = {metric: in_words(_level(row[factor]) for row in some) for metric, some in by_metric.items()}
    shared = next(iter(levels.values())) if len({*levels.values()}) == 1 else ""
    told = []
    for metric, some in by_metric.items():
        largest = max(some, key=lambda row: row["smallest_detectable"])
        at = "" if shared else f" at {levels[metric]}"
        told.append(f"{metric}{at} ({_amount(largest, largest['smallest_detectable'])} would have been seen)")
    at = f" at {shared}" if shared else ""
    return (
        f"Not distinguishable from {factor}={_level(rows[0]['reference'])}{at} {_scope(rows[0])}, which is not to say "
        f"equal: {_some(told, most)}."
    )


def _untold(rows: Sequence[Row], most: int, is_asked: bool) -> Iterator[str]:
    """Yield for each reason of what nothing can be said: of which settings, and of which metrics where it is of few or asked."""
    compared = [row for row in rows if row["verdict"] != REFERENCE]
    number = Counter((list(row)[1], _level(row[list(row)[1]])) for row in compared)
    reasons: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in compared:
        if row["verdict"] not in ANSWERS:
            reasons[row["verdict"]][list(row)[1]].append(row)
    for reason, by_factor in reasons.items():
        whole = []
        for factor, some in by_factor.items():
            own = {level: count for (of, level), count in number.items() if of == factor}
            levels = list(dict.fromkeys(_level(row[factor]) for row in some))
            if not is_asked and 2 * len(some) > sum(own[level] for level in levels):
                whole.append(factor if len(levels) == len(own) else f"{factor}={in_words(levels)}")
                continue
            names = _some(list(dict.fromkeys(row["metric"] for row in some)), most)
            if reason == NOTHING_VARIES:
                yield f"By {factor} alone, without any noise, differ: {names}."
            else:
                yield f"No answer on {names} by {factor}: {reason}."
        if whole:
            yield f"No answer by {in_words(whole)}: {reason}."


def _is_idle(row: Row) -> bool:
    """Tell whether a row that nobody asked for says nothing: the same number everywhere, or no answer of few repeats."""
    is_constant = row["verdict"] == NOTHING_VARIES and row["difference"] == 0
    return bool(
        is_constant or (row["metric"] == REPEAT_DISTANCE and row["verdict"] not in (*ANSWERS, REFERENCE))
    )


def _some(names: list[str], most: int) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _scope(row: Row) -> str:
    if list(row)[1] in TWINS[0]:
        return "by the repeats of these prompts"
    prompts = row["prompts"]
    if row["scope"] == GENERAL:
        return f"in general, by {prompts} prompts"
    these = "this prompt" if prompts == 1 else f"these {prompts} prompts"
    return f"in {these}, not in prompts in general"


def _better(row: Row) -> str:
    if not row["goal"]:
        return ""
    return " (better)" if (row["difference"] > 0) == (row["goal"] == "max") else " (worse)"


def number(value: float, is_percent: bool = False, sign: str = "") -> str:
    """Return a number in three digits, or with none after the point where it has more before it."""
    text = f"{value:{sign}.0f}" if abs(value) >= 1000 else f"{value:{sign}.3g}"
    return f"{text} %" if is_percent else text


def _amount(row: Row, value: float) -> str:
    is_log = row["scale"] == "log"
    return number(abs(value), is_log) + ("" if is_log else unit_word(row["metric"]))


def _signed(row: Row, value: float) -> str:
    return number(value, row["scale"] == "log", "+")


def unit_word(metric: str) -> str:
    """Return a metric's unit with a space before it, where it is a word."""
    unit = declared()[metric].unit if metric in declared() else ""
    return f" {unit}" if unit[:1].isalpha() else ""


def _level(level: object) -> str:
    text = plain(level)
    return f"'{text}'" if " " in text else text
