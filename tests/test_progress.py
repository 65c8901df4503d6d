"""What is said while runs come along: in a terminal what is active, in a log what matters."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from lab import cell
from rich.console import Console

from kling_sweeps.errors import GenerationError
from kling_sweeps.store.folder import Store
from kling_sweeps.store.result import RunResult
from kling_sweeps.store.state_machine import Stage, State
from kling_sweeps.terminal import progress
from kling_sweeps.terminal.progress import Progress


@pytest.fixture
def said(monkeypatch) -> io.StringIO:
    """Collect what is printed where nobody watches."""
    console = Console(file=io.StringIO(), width=160, highlight=False)
    monkeypatch.setattr(progress, "console", console)
    return console.file


def result(store: Store, one, error=None) -> RunResult:
    """Return a run that a command `c` bought."""
    entry = store.entry(one.request)
    entry.create(one.request)
    entry.journal.append("submitting", sweep="s", command="c", price_usd=1.4)
    entry.journal.append("completed", inference_s=1)
    return RunResult(one, entry, State(Stage.FINISHED), error=error)


def rendered(bar: Progress, width: int = 100, height: int = 60) -> list[str]:
    console = progress.console
    console.width, console.height = width, height
    console.file = io.StringIO()
    console.print(bar.render())
    return console.file.getvalue().splitlines()


def test_five_hundred_runs_are_shown_by_what_is_active(tmp_path, said):
    """Shows twenty that something is done with, and counts all others."""
    cells = [cell(f"run {number}") for number in range(500)]
    bar = Progress(cells, done=7, command="c")
    for one in cells[:60]:
        bar.update(one, "in queue", "position 3")
    for one in cells[:8]:
        bar.update(one, "generating", "")
    lines = rendered(bar)
    assert sum(" in queue " in line for line in lines) + sum("generating" in line for line in lines) == 20
    assert "40 more in queue, 440 more waiting" in "\n".join(lines)
    assert lines[-1].strip() == "7 of 507 tracked"
    assert len(lines) == 1 + 20 + 2


def test_the_live_table_fits_the_screen(said):
    """Shows fewer runs on a low terminal, and the whole of them in the last line."""
    cells = [cell(f"run {number}") for number in range(60)]
    bar = Progress(cells, done=0, command="c")
    for number, one in enumerate(cells):
        bar.update(one, "submitting" if number < 50 else "measuring", "")
    lines = rendered(bar, height=24)
    assert len(lines) < 24
    assert sum("measuring" in line for line in lines) == 10
    assert lines[-1].strip() == "0 of 60 tracked"


def test_no_stage_moves_a_column(said):
    """Keeps everything where it is whatever is done with the runs."""
    cells = [cell(f"run {number}") for number in range(3)]
    bar = Progress(cells, done=0, command="c")
    heads = set()
    for stage in ("in queue", "fetching result", "not tracked yet", "generating"):
        bar.update(cells[0], stage, "position 3")
        head, row, *_ = rendered(bar, 80)
        heads.add(head)
        assert row.index(stage) == head.index("stage")
    assert len(heads) == 1


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_a_row_is_a_line(said, width):
    """Shortens names in their middle rather than breaking them over lines."""
    one = cell("a very long prompt that says a lot about a fox and a lot about a dog " * 3)
    bar = Progress([one], done=0, command="c")
    bar.update(one, "generating", "a log line that goes on and on " * 9)
    lines = rendered(bar, width)
    assert len(lines) == 3
    assert "generating" in lines[1] and "· #0 " in lines[1]


def test_the_summary_tells_money_rate_and_time_left(tmp_path, said, monkeypatch):
    """Counts what was bought, and takes the time that is left from what is finished."""
    now = SimpleNamespace(monotonic=lambda: clock)
    clock = 0.0
    monkeypatch.setattr(progress, "time", now)
    store, cells = Store(tmp_path), [cell(f"run {number}") for number in range(4)]
    bar = Progress(cells[:3], done=1, command="c")
    clock = 30.0
    bar.over(result(store, cells[0]))
    clock = 60.0
    error = GenerationError("no", error_type="content_policy_violation", may_have_cost=True)
    bar.over(result(store, cells[1], error))
    assert bar.summary() == "2 of 4 tracked, 1 failed, 2.80 USD, 2 a minute, about 30 s left"


def test_a_log_of_many_runs_tells_how_they_end(tmp_path, said):
    """Prints a line for each end and for what is unusual, with the state of the whole."""
    cells = [cell(f"run {number}") for number in range(30)]
    bar = Progress(cells, done=0, command="c")
    bar.update(cells[0], "submitting", "")
    bar.update(cells[0], "generating", "")
    assert said.getvalue() == ""
    bar.update(cells[1], "paused", "fal refuses the account (403)")
    bar.over(result(Store(tmp_path), cells[0]))
    paused, over = said.getvalue().splitlines()
    assert "run 1 · #0: paused fal refuses the account (403)" in paused
    assert over.endswith("run 0 · #0: tracked  [1 of 30 tracked, 1.40 USD]")
