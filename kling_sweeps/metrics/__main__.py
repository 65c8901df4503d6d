"""Print what is measured, as the Markdown table of docs/measure.md: `python -m kling_sweeps.metrics`."""

from __future__ import annotations

import sys

from kling_sweeps.metrics import describe, remarks, specification
from kling_sweeps.terminal import streams

BETTER = {"higher": "more", "lower": "less", "neither": ""}
ALL = {**specification("full"), **specification("text")}


def table() -> str:
    """Write a row for each value, as its metric declares it, with the smallest set that has it."""
    sets = {name: {row.name for row in describe(name)} for name in ("fast", "default", "full", "text")}
    lines = ["| name | what | unit | better | alike in | set | source |", f"|{' --- |' * 7}"]
    for row in describe(ALL):
        smallest = next(name for name, has in sets.items() if row.name in has)
        better, alike = BETTER[row.direction], ", ".join(row.alike_in)
        cells = (f"`{row.name}`", row.meaning, row.unit, better, alike, smallest, row.source)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    streams.settle()
    print(table())
    for remark in remarks(ALL, []):
        print(remark, file=sys.stderr)
