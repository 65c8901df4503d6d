"""Tables hold runs of any arguments in any width, and where runs are many, sums of them."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.text import Text

from kling_sweeps.experiment.request import GenerationRequest
from kling_sweeps.experiment.settings import Cell
from kling_sweeps.terminal import tables
from kling_sweeps.terminal.console import console
from kling_sweeps.terminal.tables import (
    Row,
    money,
    number_column,
    settings_columns,
    show,
    show_sums,
    text_column,
    word_column,
)


@pytest.fixture
def shown(monkeypatch):
    """Return a function that prints something on a terminal of a width, and returns its lines."""

    def shown(width: int, what, *given) -> list[str]:
        monkeypatch.setattr(console, "_file", io.StringIO())  # whose default is stdout as it is
        monkeypatch.setattr(console, "width", width)
        what(*given)
        return [line.rstrip() for line in console.file.getvalue().splitlines()]

    return shown


def cell(prompt: str = "fox", sample: int = 0, model: str = "m", **arguments) -> Cell:
    return Cell(
        GenerationRequest(f"fal-ai/{model}", {"prompt": prompt, **arguments}, sample, 1.4),
        model,
        prompt,
        {},
        prompt,
    )


def plan(*cells: Cell) -> None:
    show([*settings_columns(cells), word_column("status", [Text("to generate") for _ in cells])])


def test_models_have_what_is_theirs_on_a_line(shown):
    """Tells what all runs of a model share once, keeps what varies under its name, and cuts no model's name."""
    long = "a_model_whose_name_differs_at_its_end"
    cells = (
        cell(model=f"{long}_1", duration="5", cfg_scale=0.5, seed=1),
        cell(model=f"{long}_1", duration="5", cfg_scale=0.7, seed=1),
        cell(model=f"{long}_2", resolution="720p"),
    )
    first, second, head, *rows = shown(80, plan, *cells)
    assert first == f"{long}_1: duration=5  seed=1"
    assert second == f"{long}_2: resolution=720p"
    columns = {name: head.index(name) for name in ("model", "cfg")}
    found = [[row[at:].split("  ")[0].strip() for at in columns.values()] for row in rows]
    assert found == [[f"{long}_1", "0.5"], [f"{long}_1", "0.7"], [f"{long}_2", ""]]


def test_what_a_model_does_not_take_is_no_setting(shown):
    """Shows neither an argument that the model lacks nor a prompt that is sent to nobody, and keeps both apart from null."""
    requests = [GenerationRequest("fal-ai/m", {"image_url": f"{n}.png"}, n, 1.4) for n in (0, 1)]
    cells = [Cell(one, "m", "", {}, "", prompt_argument=None, absent=["cfg_scale"]) for one in requests]
    first, head, *_ = shown(80, plan, *cells)
    assert (first, head.split()) == ("model=m", ["#", "image_url", "sample", "status"])
    mixed = [cell("fox", cfg_scale=0.5), replace(cell("fox", model="other"), absent=["cfg_scale"])]
    assert "null" not in "".join(shown(80, plan, *mixed))


@pytest.mark.parametrize("width", [30, 40, 60, 80, 140])
def test_no_width_costs_the_status_or_the_price(shown, width):
    """Cuts texts first, then leaves settings and numbers out, by name, and breaks no row."""
    cells = [
        cell(f"{n} " + "a fox " * 30, n, aspect_ratio="16:9" if n else "9:16", seed=n, extra="x" * n * 40)
        for n in range(3)
    ]

    def table() -> None:
        status = word_column("status", [Text("to generate")] * 3)
        prices = number_column("USD", [Text("1.40")] * 3)
        numbers = number_column("sharpness", [Text("12.34")] * 3, is_optional=True)
        show([*settings_columns(cells), numbers, status, prices])

    _, head, *rows = shown(width, table)
    assert head.endswith("status        USD")
    assert [row.endswith("to generate  1.40") for row in rows[:3]] == [True] * 3
    assert all(len(line) <= width for line in [head, *rows[:3]])
    missing = {name for name in ("aspect_ratio", "seed", "extra", "sample") if name[:3] not in head}
    assert missing == set(rows[3].removeprefix("No room for ").rstrip(".").split(", ") if rows[3:] else [])


def test_many_runs_are_summed_up_by_what_varies(shown):
    """Counts by status and value, sums prices, and only counts values that are many."""
    rows = [
        Row(
            cell(prompt, sample), "failed" if sample == 7 else "tracked", "", 1.4 if prompt == "fox" else None
        )
        for prompt in ("fox", "potter")
        for sample in range(30)
    ]
    lines = [line.split() for line in shown(100, show_sums, rows)]
    assert lines == [
        ["model=m"],
        ["setting", "value", "tracked", "failed", "USD"],
        ["prompt", "fox", "29", "1", "42.00"],
        ["potter", "29", "1", "30", "unknown"],
        ["sample", "30", "different", "58", "2", "42.00", "+", "30", "unknown"],
        ["in", "all", "58", "2", "42.00", "+", "30", "unknown"],
    ]


@pytest.mark.parametrize(
    ("prices", "said"),
    [
        ([], "0.00 USD"),
        ([1.4, 2.8], "4.20 USD"),
        ([None, None], "the unknown price of 2 runs"),
        ([1.4, None, 0.0], "1.40 USD and the unknown price of 1 run"),
        ([0.0, None], "the unknown price of 1 run"),
    ],
)
def test_an_unknown_price_is_not_nothing(prices, said):
    """Tells how many have no price beside the sum of the others."""
    assert money(prices) == said


@pytest.mark.parametrize(
    "text",
    ["[bold]fox[/bold]", "[/red]", "[link=http://x]y[/link]", ":cat:", "\x1b[31mred\x1b[0m", "a\tb\r\nc"],
)
def test_a_text_is_text(shown, text):
    """Shows markup as it is written, on one line, and no escape sequence."""
    said = "\n".join(shown(100, plan, cell(text), cell("other")))
    assert "\x1b" not in said
    assert " ".join(text.split()).replace("\x1b", "\ufffd") in said


def test_wide_letters_are_as_wide_as_they_are(shown):
    """Aligns columns after Chinese texts."""
    _, _, *rows = shown(60, plan, cell("一只狐狸在草地上奔跑" * 4), cell("fox"))
    assert tables.cell_len(rows[0][: rows[0].index("to generate")]) == rows[1].index("to generate")


def test_a_column_is_never_narrower_than_its_numbers(shown):
    """Cuts no digit, whatever the width."""
    columns = [text_column("prompt", [Text("a fox")]), number_column("in flight USD", [Text("123456.78")])]
    assert shown(16, show, columns)[-1].endswith("123456.78")
