"""What was spent: every submission in a store, by sweep, day and endpoint.

    python -m kling_sweeps.ledger
    python -m kling_sweeps.ledger --store store --by day --csv spent.csv

A submission is `spent` (fal completed it), `in flight`, `unknown` (its answer was lost, so it may have
been bought), `perhaps` (it failed in a way that fal may charge) or `free` (it bought nothing). What an
emulator rendered cost nothing and is left out.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kling_sweeps.journal import Attempt, Journal, attempts

COSTS = ("spent", "in flight", "unknown", "perhaps")
GROUPS = ("sweep", "day", "endpoint")
COLUMNS = ("day", "time", "sweep", "endpoint", "request_id", "cost", "price_usd", "key")


@dataclass(frozen=True)
class Line:
    """One submission in the ledger; `day` is of UTC."""

    key: str
    endpoint: str
    attempt: Attempt

    @property
    def day(self) -> str:
        return self.attempt.at.date().isoformat()

    @property
    def sweep(self) -> str:
        return self.attempt.sweep

    def row(self) -> dict[str, object]:
        """Return the line as the CSV file has it."""
        attempt = self.attempt
        time = attempt.at.time().isoformat("seconds")
        values = (self.day, time, self.sweep, self.endpoint, attempt.request_id, attempt.cost, attempt.price_usd)
        return dict(zip(COLUMNS, (*values, self.key), strict=True))


def read_ledger(store: Path) -> list[Line]:
    """Return every submission to fal that a store knows, the oldest first."""
    lines = list(_lines(store / "fal"))
    return sorted(lines, key=lambda line: line.attempt.at)


def _lines(root: Path) -> Iterator[Line]:
    for path in root.glob("??/*/journal.jsonl"):
        endpoint = json.loads((path.parent / "request.json").read_text(encoding="utf-8"))["endpoint"]
        for attempt in attempts(Journal(path).events()):
            yield Line(path.parent.name, endpoint, attempt)


def totals(lines: Iterable[Line], by: str) -> dict[str, dict[str, float]]:
    """Return USD by group (sweep, day or endpoint) and by cost, and `videos`, the number that is spent."""
    sums: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys((*COSTS, "videos"), 0.0))
    for line in lines:
        if line.attempt.cost in COSTS:
            group = sums[getattr(line, by)]
            group[line.attempt.cost] += line.attempt.price_usd or 0.0
            group["videos"] += line.attempt.cost == "spent"
    return dict(sorted(sums.items()))


def write_csv(lines: Iterable[Line], path: Path) -> None:
    """Write a row for each submission."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(line.row() for line in lines)


def show(lines: list[Line], by: str) -> None:
    """Print the totals, and what is not settled yet."""
    from rich.table import Table

    from kling_sweeps.terminal import console

    if not lines:
        console.print("Nothing was bought on fal. Emulated videos cost nothing and are not listed.")
        return
    table = Table(box=None, pad_edge=False, show_footer=True)
    sums = totals(lines, by)
    table.add_column(by, "in all")
    table.add_column("videos", f"{sum(s['videos'] for s in sums.values()):.0f}", justify="right")
    for cost in COSTS:
        table.add_column(f"{cost} USD", f"{sum(s[cost] for s in sums.values()):.2f}", justify="right")
    for group, amounts in sums.items():
        table.add_row(group, f"{amounts['videos']:.0f}", *(f"{amounts[cost]:.2f}" for cost in COSTS))
    console.print(table)
    for line in lines:
        if line.attempt.cost in ("in flight", "unknown"):
            known = line.attempt.request_id or "no request id"
            console.print(f"{line.attempt.cost}: {line.sweep}, {line.attempt.at:%Y-%m-%d %H:%M} UTC, {known}")


def main() -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        "python -m kling_sweeps.ledger",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--store", type=Path, default=Path("store"), help="the folder of store.dir (store)")
    parser.add_argument("--by", choices=GROUPS, default="sweep", help="what to sum up by (sweep)")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write every submission to a file")
    options = parser.parse_args()
    if not options.store.is_dir():
        parser.error(f"there is no store at {options.store}; name it with --store")
    lines = read_ledger(options.store)
    show(lines, options.by)
    if options.csv:
        write_csv(lines, options.csv)
        print(f"{len(lines)} submissions written to {options.csv}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
