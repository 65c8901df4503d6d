"""What was spent: every submission in a store, of videos and of judgements, by sweep, day and endpoint.

    python -m kling_sweeps.ledger
    python -m kling_sweeps.ledger --store store --by day --csv spent.csv
    python -m kling_sweeps.ledger --reconcile

A submission is `spent` (fal completed it), `in flight`, `unknown` (its answer was lost, so it may have
been bought), `perhaps` (it failed in a way that fal may charge) or `free` (it bought nothing). What an
emulator rendered cost nothing and is left out, or, with --emulated, listed by itself, with fal's prices.

What was spent is what fal says that it has charged, as far as it says so, and otherwise what was expected. --reconcile asks fal,
which may tell hours later, for all that it has not told yet, and writes it to the store and to the runs in MLflow (`cost_usd`).
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kling_sweeps.errors import (
    LockedAccountError,
    RefusedError,
    RunError,
    StoreError,
    say,
    say_interrupted,
    say_refused,
)
from kling_sweeps.experiment.request import Product
from kling_sweeps.experiment.tracking_uri import default_uri
from kling_sweeps.store.folder import Entry, Store
from kling_sweeps.store.state_machine import Attempt, Cost, fold
from kling_sweeps.terminal.streams import Parser, settle

if TYPE_CHECKING:
    from kling_sweeps.generation.billing import Unbilled

COSTS = (Cost.SPENT, Cost.IN_FLIGHT, Cost.UNKNOWN, Cost.PERHAPS)
GROUPS = ("sweep", "day", "endpoint")
PRODUCTS = {Product.VIDEO: "videos", Product.ANSWER: "judgements"}
COLUMNS = (
    *("day", "time", "sweep", "product", "endpoint", "request_id", "cost"),
    *("price_usd", "billed_usd", "key"),
)
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Line:
    """One submission in the ledger; `day` is of UTC."""

    key: str
    product: Product
    endpoint: str
    attempt: Attempt

    @property
    def day(self) -> str:
        return self.attempt.at.date().isoformat()

    @property
    def time(self) -> str:
        return self.attempt.at.time().isoformat("seconds")

    @property
    def sweep(self) -> str:
        return self.attempt.sweep or UNKNOWN

    def row(self) -> dict[str, object]:
        """Return the line as the CSV file has it."""
        attempt = self.attempt
        values = (
            self.day,
            self.time,
            self.sweep,
            self.product,
            self.endpoint,
            attempt.request_id,
            attempt.cost,
            attempt.price_usd,
            attempt.billed_usd,
        )
        return dict(zip(COLUMNS, (*values, self.key), strict=True))


@dataclass(frozen=True)
class Ledger:
    """The submissions of a store, the oldest first, and which of its files could not be read and why."""

    lines: list[Line]
    problems: list[str]


def read_ledger(store: Path, provider: str = "fal") -> Ledger:
    """Read every submission to a provider, fal or emulator, that a store knows."""
    lines: list[Line] = []
    problems: list[str] = []
    for entry in Store(store / provider).entries(*Product):
        try:
            lines += _lines(entry, problems)
        except (OSError, StoreError) as error:
            problems.append(f"{entry.journal.path} can't be read: {error!r}")
    return Ledger(sorted(lines, key=lambda line: line.attempt.at), problems)


def _lines(entry: Entry, problems: list[str]) -> Iterator[Line]:
    path = entry.journal.path
    made = fold(entry.journal.events()).attempts
    if not made and path.stat().st_size:
        problems.append(f"{path} has no submission that can be read")
    if made:
        endpoint = _endpoint(path.with_name("request.json"), problems)
        yield from (Line(entry.key, entry.product, endpoint, attempt) for attempt in made)


def _endpoint(path: Path, problems: list[str]) -> str:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["endpoint"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        problems.append(f"{path} can't be read: {error!r}")
        return UNKNOWN


def totals(lines: Iterable[Line], by: str) -> dict[str, dict[str, list[float | None]]]:
    """Return the prices in USD by group (sweep, day or endpoint) and by cost, None where one is unknown."""
    prices: dict[str, dict[str, list[float | None]]] = defaultdict(lambda: {cost: [] for cost in COSTS})
    for line in lines:
        if line.attempt.cost in COSTS:
            prices[getattr(line, by)][line.attempt.cost].append(line.attempt.usd)
    return dict(sorted(prices.items()))


def reconcile(store: Path, provider: str, base_url: str | None, tracking_uri: str) -> None:
    """Ask fal what it has charged for all that it has not said yet, and write that to the store and to MLflow.

    Raises RefusedError where there is no key, and LockedAccountError or PollError where fal does not say.
    """
    import asyncio

    from kling_sweeps.generation import billing
    from kling_sweeps.providers import asked

    left = billing.unbilled(Store(store / provider).entries(*Product))
    told = asyncio.run(asked(provider, base_url, lambda fal: billing.reconcile(fal, left))) if left else []
    for line in _reconciled(told, len(left)):
        _say(line)
    states = {one.entry.key: one.entry.state() for one, _ in told}
    costs = {key: (state.spent_usd, state.estimate_usd) for key, state in states.items()}
    if costs and (changed := _write_costs(tracking_uri, provider, costs)):
        _say(f"{changed} runs in MLflow have what was charged as their cost_usd.")


def _reconciled(told: Sequence[tuple[Unbilled, float]], number: int) -> Iterator[str]:
    if not number:
        yield "fal has said of all that was bought what it has charged."
    if told:
        expected = [one.attempt.price_usd for one, _ in told]
        charged = sum(usd for _, usd in told)
        yield (
            f"{len(told)} submissions: {sum(filter(None, expected)):.2f} USD expected, {charged:.2f} USD charged."
        )
    if len(told) < number:
        yield f"fal has not said yet what it has charged for {number - len(told)} submissions."


def _write_costs(tracking_uri: str, provider: str, costs: Mapping[str, tuple[float, float]]) -> int:
    from kling_sweeps.experiment.tracking_uri import Address
    from kling_sweeps.tracking.tracker import set_costs

    if Address(tracking_uri).is_new:
        return 0
    return set_costs(tracking_uri, provider, costs)


def write_csv(lines: Iterable[Line], path: Path) -> None:
    """Write a row for each submission."""
    with open(path, "w", newline="", encoding="utf-8", errors="replace") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(line.row() for line in lines)


def show(ledger: Ledger, by: str, provider: str) -> None:
    """Print the totals, what is not settled yet, and what could not be read."""
    if ledger.lines:
        if provider == "emulator":
            _say(("Emulated, for nothing: the prices are what fal would have charged.", "yellow"))
        _show_totals(ledger.lines, by)
    elif provider == "emulator":
        _say("Nothing was emulated.")
    else:
        _say("Nothing was bought on fal. Emulated videos cost nothing, and are listed with --emulated.")
    for line in ledger.lines:
        if line.attempt.cost in (Cost.IN_FLIGHT, Cost.UNKNOWN):
            known = line.attempt.request_id or "no request id"
            _say(f"{line.attempt.cost}: {line.sweep}, {line.day} {line.time} UTC, {known}")
    for problem in ledger.problems:
        _say((f"not counted whole: {problem}", "red"))


def _say(*parts: str | tuple[str, str]) -> None:
    from kling_sweeps.terminal.console import show_line

    show_line(*parts)


def _show_totals(lines: list[Line], by: str) -> None:
    from rich.text import Text

    from kling_sweeps.terminal import tables

    groups = list(totals(lines, by).items())
    groups.append(("in all", {c: [p for _, prices in groups for p in prices[c]] for c in COSTS}))
    costs = [cost for cost in COSTS if cost is Cost.SPENT or groups[-1][1][cost]]
    columns = [tables.text_column(by, [Text(group) for group, _ in groups])]
    for product, name in PRODUCTS.items():
        own = [line for line in lines if line.product is product and line.attempt.cost is Cost.SPENT]
        number = Counter(getattr(line, by) for line in own) + Counter({"in all": len(own)})
        if own or product is Product.VIDEO:
            columns.append(tables.number_column(name, [Text(str(number[group])) for group, _ in groups]))
    for cost in costs:
        sums = [Text(tables.money(prices[cost], unit="")) for _, prices in groups]
        columns.append(tables.number_column(f"{cost} USD", sums))
    tables.show(columns)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    settle()
    parser = Parser(
        "python -m kling_sweeps.ledger",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_store()
    parser.add_argument("--by", choices=GROUPS, default="sweep", help="what to sum up by (sweep)")
    parser.add_argument(
        "--emulated", action="store_true", help="what emulators rendered instead, for nothing"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write every submission to a file")
    parser.add_argument("--reconcile", action="store_true", help="ask fal what it has really charged")
    parser.add_argument("--base-url", metavar="URL", help="a server in place of fal's, as provider.base_url")
    parser.add_argument("--tracking", metavar="URI", default=default_uri(), help="as tracking.uri")
    options = parser.parse_args(arguments)
    if not options.store.is_dir():
        say(f"there is no store at {options.store}; name it with --store")
        return 2
    provider = "emulator" if options.emulated else "fal"
    try:
        if options.reconcile:
            reconcile(options.store, provider, options.base_url, options.tracking)
        ledger = read_ledger(options.store, provider)
        show(ledger, options.by, provider)
        if options.csv:
            options.csv.parent.mkdir(parents=True, exist_ok=True)
            write_csv(ledger.lines, options.csv)
            _say(f"{len(ledger.lines)} submissions written to {options.csv}")
    except OSError as error:
        say(f"--csv: {options.csv} can't be written: {error.strerror}")
        return 2
    except RefusedError as error:
        return say_refused(error)
    except LockedAccountError as error:
        say(f"This key may not ask what was charged; one of the account's administrator may: {error}")
        return 1
    except RunError as error:
        say(f"fal does not say what was charged: {error}")
        return 1
    except KeyboardInterrupt:
        return say_interrupted()
    return 0


if __name__ == "__main__":
    sys.exit(main())
