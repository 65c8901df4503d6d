"""What a person sees in the terminal before the runs, the plan, and after them, the results."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kling_sweeps.errors import NotTrackedError
from kling_sweeps.journal import Stage
from kling_sweeps.measurement import read_flaws, read_values
from kling_sweeps.metrics import build
from kling_sweeps.plan import WORDS, Plan
from kling_sweeps.run import Landed, Runs
from kling_sweeps.settings import Cell, Settings
from kling_sweeps.tracking import Tracker

# What fal has finished is paid for, collected or not.
PAID = (Stage.COMPLETED, Stage.FETCHED)
STYLES = {
    "failed": "red",
    "tracked": "green",
    "in the store": "green",
    "to generate": "yellow",
    "to look up": "magenta",
    "to collect": "cyan",
    "over budget": "red",
    "to generate again": "yellow",
    "to look up or generate again": "yellow",
}
METRICS = ("luma_mean", "colorfulness", "sharpness", "motion")


class _Console(Console):
    """A console that falls silent when nobody reads it any more: what is paid for is still collected."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


console = _Console(highlight=False)
if not console.is_terminal:
    console.width = 160


def show_plan(plan: Plan, settings: Settings, provider: str) -> None:
    """Print every cell with its state and price, and the total."""
    _say_provider(provider, settings)
    is_new = "" if settings.store_dir.exists() else " (new)"
    console.print(Text(f"Store: {settings.store_dir.absolute()}{is_new}"), soft_wrap=True)
    cells = [planned.cell for planned in plan.planned]
    table = _table(cells)
    table.add_column("status")
    table.add_column("USD", justify="right")
    for planned in plan.planned:
        status = Text(planned.status, style=STYLES.get(planned.status, "dim"))
        table.add_row(*_row(planned.cell, table), status, _usd(planned.cost_usd))
    console.print(table)
    counts = Counter(planned.status for planned in plan.planned)
    summary = ", ".join(f"{n} {status}" for status, n in counts.items())
    price = "prices as on fal; the emulator charges nothing" if provider == "emulator" else "on fal"
    console.print(
        f"{len(cells)} run{'s' * (len(cells) != 1)}: {summary}. "
        f"[bold]{plan.total_usd:.2f} USD[/bold] ({price}; budget.max_usd={settings.budget.max_usd:g})",
        soft_wrap=True,
    )


def _say_provider(provider: str, settings: Settings) -> None:
    where = settings.provider.base_url or ("this machine" if provider == "emulator" else "fal.ai")
    if provider == "emulator":
        why = ": no fal credentials are set" if settings.provider.name == "auto" else ""
        console.print(f"[yellow]Emulated[/yellow] on {where}{why}. The videos are synthetic.")
    else:
        console.print(f"[bold]fal[/bold] at {where}, for money.")


def _usd(amount: float | None) -> str:
    return "?" if amount is None else f"{amount:.2f}" if amount else "–"


def _values(cell: Cell) -> dict[str, str]:
    return {key: str(value) for key, value in cell.params.items()}


def _table(cells: Sequence[Cell]) -> Table:
    """Print the settings that all runs share; return a table with a column for each other one."""
    rows = [_values(cell) for cell in cells]
    names = [name for name in rows[0] if name not in ("prompt", "prompt_text", "endpoint", "sample")]
    varying = [name for name in names if len({row.get(name) for row in rows}) > 1]
    fixed = (f"{name}={_short(rows[0][name])}" for name in names if name not in varying)
    console.print(Text("  ".join(fixed), style="dim"), soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("#", justify="right", style="dim", min_width=2)
    for name in dict.fromkeys(["prompt", *varying]):
        table.add_column(name, max_width=max(12, console.width // 5), no_wrap=True, overflow="ellipsis")
    table.add_column("sample", min_width=6)
    return table


def _short(text: str) -> str:
    line = " ".join(text.split()) or "''"
    return line if len(line) <= 40 else f"{line[:39]}…"


def _row(cell: Cell, table: Table) -> list[Text]:
    values = _values(cell)
    named = [str(column.header) for column in table.columns[1:]]
    texts = [" ".join(values[name].split()) or "''" for name in named if name in values]
    return [Text(text) for text in (str(table.row_count), *texts)]


def show_results(landed: Sequence[Landed], runs: Runs, tracker: Tracker) -> None:
    """Print what each run gave, the money spent, and where the runs can be compared."""
    if not landed:
        return
    order = {cell.request.key: number for number, cell in enumerate(runs.cells)}
    landed = sorted(landed, key=lambda one: order[one.cell.request.key])
    table = _table([one.cell for one in landed])
    shown = _shown_metrics(runs.settings)
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    table.add_column("result", min_width=8)
    for one in landed:
        measured = read_values(one.measurement) if one.measurement else {}
        numbers = [f"{measured[name]:.4g}" if name in measured else "" for name in shown]
        style, result = ("red", one.error.error_type) if one.error else ("green", "tracked")
        table.add_row(*_row(one.cell, table), *numbers, Text(result, style=style))
    console.print(table)
    for one in landed:
        if one.error:
            failed = Text.assemble(("failed ", "red"), f"{one.cell.name}: {one.error}")
            console.print(failed, soft_wrap=True)
        elif flawed := read_flaws(one.measurement):
            console.print(Text(f"flawed {one.cell.name}: {flawed}", style="yellow"), soft_wrap=True)
    console.print(Text(_spent(landed, runs)), soft_wrap=True)
    if not all(isinstance(one.error, NotTrackedError) for one in landed):
        with suppress(Exception):  # MLflow has gone away meanwhile
            console.print(Text(tracker.address()), soft_wrap=True)


def _shown_metrics(settings: Settings) -> list[str]:
    """Return the metrics that fit on a line, the user's own first."""
    own = {name: given for name, given in settings.metrics.items() if given and "target" in given}
    names = [value.name for metric in build(own) for value in metric.values]
    return [*names, *METRICS][: max(1, (console.width - 60) // 14)]


def show_in_flight(runs: Runs) -> None:
    """Say what fal still has, what it costs, and how it is collected; nothing where there is nothing."""
    in_flight = runs.in_flight()
    if not in_flight:
        return
    if runs.forgets:
        console.print(f"{len(in_flight)} not finished; the same command renders them again.")
        return
    paid = sum(cell.request.price_usd or 0 for cell, state in in_flight if state.stage in PAID)
    cost = sum(cell.request.price_usd or 0 for cell, _ in in_flight) - paid
    for cell, state in in_flight:
        request = state.request_id or "its submission's answer was lost"
        console.print(Text(f"{WORDS[state.stage]}: {cell.name} ({request})"), soft_wrap=True)
    amounts = [f"for {cost:.2f} USD"] * (cost > 0) + [f"{paid:.2f} USD spent"] * (paid > 0)
    said = ", ".join([f"{len(in_flight)} left with fal", *amounts])
    console.print(f"{said}. The same command collects them.", soft_wrap=True)


def _spent(landed: Sequence[Landed], runs: Runs) -> str:
    """Say what this command has cost, and what it may have."""
    made = [attempt for one in landed for attempt in one.attempts(runs.settings.command)]
    spent = sum(attempt.committed_usd for attempt in made if attempt.cost == "spent")
    perhaps = sum(attempt.committed_usd for attempt in made) - spent
    if not made:
        return "Nothing was generated."
    more = f", and {perhaps:.2f} USD perhaps" if perhaps else ""
    if runs.provider_name == "emulator":
        return f"On fal this would have cost {spent:.2f} USD{more}; the emulator charged nothing."
    return f"{spent:.2f} USD spent{more}."
