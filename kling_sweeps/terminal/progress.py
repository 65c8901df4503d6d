"""What a person sees while the runs come along: a live table in a terminal, a line a change elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kling_sweeps.experiment.request import Product
from kling_sweeps.experiment.settings import Cell
from kling_sweeps.store.result import RunResult
from kling_sweeps.store.state_machine import Cost
from kling_sweeps.terminal.console import console
from kling_sweeps.terminal.tables import GAP, money, shortened

OVER = ("failed", "tracked", "judged", "cancelled")
# Nothing is done with these at the moment, and they are counted rather than shown.
IDLE = ("planned", "waiting")
# These wait for fal, and are shown where there is room.
QUEUED = ("submitting", "in queue")
SHOWN = 20
# In lines, what the live table has besides runs, and in characters the widths of its columns, a name's at least.
FRAME, NAME, STAGE, ELAPSED = 6, 24, 15, 7
# Of many runs a log tells only how they end, and what is unusual.
USUAL = ("submitting", "in queue", "generating", "downloading", "measuring")
MANY = 20
# Stages that are over in no time are not worth a line in any log.
QUIET = ("waiting", "fetching result", "over", "tracking")


@dataclass
class _Line:
    """Where one run is, and since when (monotonic seconds)."""

    cell: Cell
    stage: str = "planned"
    text: str = ""
    begin: float = field(default_factory=time.monotonic)
    is_new: bool = False


class Progress:
    """The live display of a command's runs; `command` is its id, and `done` of them were complete before it.

    A run that has not failed is `tracked` in the end, or whatever else is done with it.
    """

    def __init__(self, cells: Sequence[Cell], done: int, command: str, end: str = "tracked") -> None:
        self.lines = {cell.request.key: _Line(cell) for cell in cells}
        self.longest = max((cell_len(cell.name) for cell in cells), default=0)
        self.total = done + len(cells)
        self.end = end
        self.over_counts = Counter({end: done})
        self.command = command
        self.begin = time.monotonic()
        self.finished_at: list[float] = []
        self.prices: list[float | None] = []
        self.lock = threading.Lock()

    @contextmanager
    def shown(self) -> Iterator[Progress]:
        if not console.is_terminal:
            yield self
            return
        # What is redirected to a file stays there.
        with Live(
            get_renderable=self.render,
            console=console,
            refresh_per_second=4,
            redirect_stderr=sys.stderr.isatty(),
            transient=True,
        ):
            yield self

    def update(self, cell: Cell, stage: str, text: str) -> None:
        """Note where a run is; called from any thread."""
        with self.lock:
            line = self.lines.get(cell.request.key)
            if line is None:  # it is over: a last word of its own thread
                return
            changed = line.stage != stage
            line.stage, line.text = stage, text
            line.is_new |= stage not in (*QUIET, *OVER)
            if stage in OVER:
                del self.lines[cell.request.key]
                self.over_counts[stage] += 1
        if changed and self._is_worth_a_line(line):
            self._say(line)

    def over(self, result: RunResult) -> None:
        """Note that a run is over, one way or the other."""
        made = result.attempts(self.command)
        paid = [attempt for attempt in made if attempt.cost is not Cost.FREE]
        is_answer = result.cell.request.product is Product.ANSWER  # whose price is its bound
        with self.lock:
            self.prices += [attempt.usd if is_answer else attempt.price_usd for attempt in paid]
            if made:
                self.finished_at.append(time.monotonic())
        if result.error:
            self.update(result.cell, "failed", f"{result.error.error_type}: {result.error}")
        else:
            self.update(result.cell, self.end, "")

    def _is_worth_a_line(self, line: _Line) -> bool:
        if line.stage in QUIET or not (line.is_new or line.text):
            return False
        if console.is_terminal:
            return line.stage == "failed"
        return self.total <= MANY or line.stage not in USUAL

    def _say(self, line: _Line) -> None:
        seconds = f"{time.monotonic() - line.begin:.0f} s"
        said = f"{seconds:>6}  {line.cell.name}: {line.stage} {line.text}".rstrip()
        if line.stage in OVER and self.total > MANY:
            said = f"{said}  [{self.summary()}]"
        console.print(Text(said, style="red" if line.stage == "failed" else ""), soft_wrap=True)

    def summary(self) -> str:
        """Return what is over, what it has cost, at which rate and how long the rest will take."""
        parts = [f"{self.over_counts[self.end]} of {self.total} {self.end}"]
        parts += [
            f"{self.over_counts[stage]} {stage}"
            for stage in OVER
            if stage != self.end and self.over_counts[stage]
        ]
        if self.prices:
            parts.append(money(self.prices))
        if len(self.finished_at) > 1:
            per_run_s = (self.finished_at[-1] - self.begin) / len(self.finished_at)
            parts.append(f"{60 / per_run_s:.3g} a minute")
            if self.lines:
                parts.append(f"about {_duration(per_run_s * len(self.lines))} left")
        return ", ".join(parts)

    def render(self) -> Group:
        """Return the live table: what is active, and the rest counted."""
        with self.lock:
            lines = list(self.lines.values())
            summary = self.summary()
        active = sorted(
            (line for line in lines if line.stage not in IDLE), key=lambda line: line.stage in QUEUED
        )
        room = max(1, min(SHOWN, console.height - FRAME))
        table = Table(box=None, pad_edge=False, show_edge=False)
        widths = self._widths()
        for name, width in zip(("run", "stage", "", "elapsed"), widths, strict=True):
            table.add_column(
                name,
                width=width,
                no_wrap=True,
                overflow="ellipsis",
                justify="right" if name == "elapsed" else "left",
            )
        for line in active[:room]:
            run = Text(shortened(line.cell.name, widths[0]))
            elapsed = Text(_duration(time.monotonic() - line.begin))
            table.add_row(run, Text(line.stage, style="cyan"), Text(line.text), elapsed)
        idle = [line for line in lines if line.stage in IDLE]
        counts = Counter([*(line.stage for line in active[room:]), *("waiting" for _ in idle)])
        rest = ", ".join(f"{n} more {stage}" for stage, n in counts.items())
        texts = [Text(rest, "dim", overflow="ellipsis", no_wrap=True), Text(summary, "bold", no_wrap=True)]
        return Group(table, *texts[not rest :])

    def _widths(self) -> tuple[int, int, int, int]:
        """Return the widths of a run's name, its stage, what is said of it, and its time: no stage moves a column."""
        room = console.width - STAGE - ELAPSED - 3 * GAP
        name = max(1, min(self.longest, max(room * 3 // 5, min(room, NAME))))
        return name, STAGE, max(room - name, 0), ELAPSED


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
