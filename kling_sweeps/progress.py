"""What a person sees while the runs come along: a live table in a terminal, a line a change elsewhere."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kling_sweeps.console import console
from kling_sweeps.run import Landed
from kling_sweeps.settings import Cell
from kling_sweeps.tables import money

OVER = ("failed", "tracked", "cancelled")
# Nothing is done with these at the moment, and they are counted rather than shown.
IDLE = ("planned", "waiting")
SHOWN = 20
# Of many runs a log tells only how they end, and what is unusual.
USUAL = ("submitting", "in queue", "generating", "downloading", "measuring")
MANY = 20
# Stages that are over in no time are not worth a line in any log.
QUIET = ("waiting", "fetching result", "landed", "tracking")


@dataclass
class _Line:
    """Where one run is, and since when (monotonic seconds)."""

    cell: Cell
    stage: str = "planned"
    text: str = ""
    begin: float = field(default_factory=time.monotonic)
    is_new: bool = False


class Progress:
    """The runs of a command, `command` by its id; `done` were finished before it.

    `moving` is set once something was submitted, or is past that.
    """

    def __init__(self, cells: Sequence[Cell], done: int, command: str) -> None:
        self.lines = {cell.request.key: _Line(cell) for cell in cells}
        self.total = done + len(cells)
        self.over_counts = Counter(tracked=done)
        self.command = command
        self.begin = time.monotonic()
        self.finished_at: list[float] = []
        self.prices: list[float | None] = []
        self.moving = threading.Event()
        self.lock = threading.Lock()

    @contextmanager
    def shown(self) -> Iterator[Progress]:
        if not console.is_terminal:
            yield self
            return
        with Live(get_renderable=self.render, console=console, refresh_per_second=4, transient=True):
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
        if stage not in ("waiting", "submitting"):
            self.moving.set()
        if changed and self._is_worth_a_line(line):
            self._say(line)

    def over(self, landed: Landed) -> None:
        """Note that a run is over, one way or the other."""
        made = landed.attempts(self.command)
        with self.lock:
            self.prices += [attempt.price_usd for attempt in made if attempt.cost != "free"]
            if made:
                self.finished_at.append(time.monotonic())
        if landed.error:
            self.update(landed.cell, "failed", f"{landed.error.error_type}: {landed.error}")
        else:
            self.update(landed.cell, "tracked", "")

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
        parts = [f"{self.over_counts['tracked']} of {self.total} tracked"]
        parts += [f"{self.over_counts[stage]} {stage}" for stage in OVER if stage != "tracked" and self.over_counts[stage]]
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
        active = [line for line in lines if line.stage not in IDLE]
        active.sort(key=lambda line: (line.stage == "in queue", line.begin))
        table = Table(box=None, pad_edge=False, expand=True)
        table.add_column("run", no_wrap=True, overflow="ellipsis", ratio=3)
        table.add_column("stage", no_wrap=True, min_width=12)
        table.add_column("", no_wrap=True, overflow="ellipsis", ratio=2)
        table.add_column("elapsed", no_wrap=True, justify="right", min_width=7)
        for line in active[:SHOWN]:
            elapsed = _duration(time.monotonic() - line.begin)
            table.add_row(Text(line.cell.name), Text(line.stage, style="cyan"), Text(line.text), elapsed)
        counts = Counter(line.stage for line in [*active[SHOWN:], *(line for line in lines if line.stage in IDLE)])
        rest = ", ".join(f"{n} more {'waiting' if stage in IDLE else stage}" for stage, n in counts.items())
        return Group(table, *[Text(rest, style="dim")] * bool(rest), Text(summary, style="bold"))


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
