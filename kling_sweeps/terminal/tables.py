"""Tables that fit the terminal: of runs that differ in their settings, or, where they are many, summed up."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.cells import cell_len, set_cell_size
from rich.table import Table
from rich.text import Text

from kling_sweeps.experiment.settings import Cell
from kling_sweeps.terminal.console import console, show_line
from kling_sweeps.untrusted import printable

# More runs than fit a screen are summed up, and of more values than these only the number is told.
MANY, MANY_VALUES = 40, 12
# In characters: between two columns; and of a text at the very least, at least where it is longer, and at most.
GAP, SHORTEST, SHORT, LONG = 2, 4, 8, 60
# Of a name that is cut in its middle.
END = 6


@dataclass(frozen=True)
class Row:
    """A run, how it stands in a word of a colour, its price in USD (None: unknown), and numbers that it has."""

    cell: Cell
    status: str
    style: str
    usd: float | None
    numbers: Sequence[str] = ()


@dataclass(frozen=True)
class Column:
    """A column of at least and at most so many characters: cut, or broken between words; or left out."""

    name: str
    texts: Sequence[Text]
    least: int
    most: int
    is_optional: bool = False
    breaks: bool = False
    justify: Literal["left", "right"] = "left"


def settings_columns(cells: Sequence[Cell]) -> list[Column]:
    """Return a column for each setting that not all runs share, empty where a run has none; print the others."""
    rows = [_settings(cell) for cell in cells]
    numbers = [Text(str(number), style="dim") for number in range(1, len(rows) + 1)]
    varying = _show_shared(rows)
    prompt = ["prompt"] * any("prompt" in row for row in rows)
    names = dict.fromkeys([*prompt, *(n for n in varying if n == "model"), *varying, "sample"])
    texts = {name: [Text(row.get(name, "")) for row in rows] for name in names}
    return [
        number_column("#", numbers),
        *(
            text_column(name, column, is_optional=name not in ("prompt", "model"))
            for name, column in texts.items()
        ),
    ]


def _settings(cell: Cell) -> dict[str, str]:
    """Return a run's settings, each on a line, without what says the same as another, and what its model does not take."""
    params = {name: _line(str(value)) or "''" for name, value in cell.params.items()}
    left_out = {"prompt_text", "endpoint", *cell.absent, *["prompt"] * (cell.prompt_argument is None)}
    return {name: text for name, text in params.items() if name not in left_out}


def _show_shared(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Print the settings that all runs share, or all of a model; return the names of the others."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    varying = [name for name in names if len({row.get(name) for row in rows}) > 1]
    _show_settings("", rows[:1], [name for name in names if name not in (*varying, "prompt", "sample")])
    by_model: dict[str, list[Mapping[str, str]]] = defaultdict(list)
    for row in rows:
        by_model[row["model"]].append(row)
    if len(by_model) < 2:
        return varying
    fixed = [
        name
        for name in varying
        if name not in ("prompt", "model", "sample")
        and all(len({row.get(name) for row in own}) == 1 for own in by_model.values())
    ]
    for model, own in by_model.items():
        _show_settings(f"{model}: ", own, [name for name in fixed if name in own[0]])
    return [name for name in varying if name not in fixed]


def _show_settings(head: str, rows: Sequence[Mapping[str, str]], names: Sequence[str]) -> None:
    """Print settings of the first of some rows on a line."""
    if names:
        settings = "  ".join(f"{name}={_cut(rows[0][name])}" for name in names)
        show_line((f"{head}{settings}", "dim"))


def text_column(name: str, texts: Sequence[Text], is_optional: bool = False) -> Column:
    """Return a column of texts that are cut where there is no room, its name before them."""
    widest = _widest(*texts)
    least = widest if name == "model" else max(SHORTEST, min(SHORT, widest))  # models differ at their ends
    return Column(name, texts, least, max(least, min(LONG, _widest(name, *texts))), is_optional)


def whole_column(name: str, texts: Sequence[Text]) -> Column:
    """Return a column of texts that are neither cut nor broken."""
    widest = _widest(name, *texts)
    return Column(name, texts, widest, widest)


def word_column(name: str, texts: Sequence[Text]) -> Column:
    """Return a column of texts that are whole, and the longest broken between words where there is no room."""
    words = [word for text in texts for word in text.plain.split()]
    most = _widest(name, *texts)
    return Column(name, texts, max(_widest(name, *words), min(most, 2 * SHORT)), most, breaks=True)


def number_column(name: str, texts: Sequence[Text], is_optional: bool = False) -> Column:
    """Return a column of numbers, which are never cut; its name is broken between words."""
    numbers = _widest(*texts)
    most = max(numbers, _widest(name))
    least = most if is_optional else max(numbers, _widest(*name.split()))
    return Column(name, texts, least, most, is_optional, breaks=True, justify="right")


def show(columns: Sequence[Column]) -> None:
    """Print a table; where it is too wide, texts are cut, and then the last optional columns are left out."""
    shown = list(columns)
    while (optional := [c for c in shown if c.is_optional]) and _whole(
        c.least for c in shown
    ) > console.width:
        shown.remove(optional[-1])
    table = Table(box=None, pad_edge=False)
    for column, width in zip(shown, _widths(shown), strict=True):
        name, justify, no_wrap = Text(column.name), column.justify, not column.breaks
        table.add_column(name, justify=justify, width=width, no_wrap=no_wrap, overflow="ellipsis")
    for texts in zip(*(column.texts for column in shown), strict=True):
        table.add_row(*texts)
    console.print(table)
    if hidden := [c.name for c in columns if c not in shown and c.justify == "left"]:
        show_line((f"No room for {', '.join(hidden)}.", "dim"))


def _widths(columns: Sequence[Column]) -> list[int]:
    """Return how wide each column is: the widest that can be narrower give way, until all fit."""
    widths = [column.most for column in columns]
    for _ in range(_whole(widths) - console.width):
        wide = [n for n, column in enumerate(columns) if widths[n] > column.least]
        if wide:
            widths[max(wide, key=widths.__getitem__)] -= 1
    return widths


def _whole(widths: Iterable[int]) -> int:
    each = list(widths)
    return sum(each) + GAP * (len(each) - 1)


def show_sums(rows: Sequence[Row]) -> None:
    """Print, for each value of what varies, how many runs stand how, and what they cost."""
    statuses = list(dict.fromkeys(row.status for row in rows))
    groups = list(_groups(rows))
    counts = [Counter(row.status for row in group) for _, _, group in groups]
    show(
        [
            text_column("setting", [Text(name) for name, _, _ in groups]),
            text_column("value", [Text(value) for _, value, _ in groups]),
            *(
                number_column(status, [Text(str(count[status] or "")) for count in counts])
                for status in statuses
            ),
            number_column(
                "USD", [Text(money((row.usd for row in group), unit="")) for _, _, group in groups]
            ),
        ]
    )


def _groups(rows: Sequence[Row]) -> Iterator[tuple[str, str, Sequence[Row]]]:
    """Yield each setting that varies, each of its values, and their runs."""
    settings = [_settings(row.cell) for row in rows]
    for name in _show_shared(settings):
        found = defaultdict(list)
        for row, given in zip(rows, settings, strict=True):
            found[given.get(name, "")].append(row)
        if len(found) > MANY_VALUES:
            yield name, f"{len(found)} different", rows
        else:
            yield from ((name * (n == 0), value, group) for n, (value, group) in enumerate(found.items()))
    yield "in all", "", rows


def money(prices: Iterable[float | None], unit: str = " USD") -> str:
    """Return a sum of prices, and how many runs have none that anybody knows: in words, or short where there is no unit."""
    prices = list(prices)
    known = [price for price in prices if price is not None]
    unknown = len(prices) - len(known)
    digits = 4 if 0 < sum(known) < 0.01 else 2
    said = [f"{sum(known):.{digits}f}{unit}"] * (any(known) or not unknown)
    if not unit:
        return " + ".join([*said, *[f"{unknown} unknown"] * (unknown > 0)])
    words = f"the unknown price of {unknown} run{'s' * (unknown > 1)}"
    return " and ".join([*said, *[words] * (unknown > 0)])


def _line(text: str) -> str:
    return printable(" ".join(text.split()))


def shortened(name: str, width: int) -> str:
    """Return a run's name in so many columns, its end, which tells repeats apart, whole where there is room."""
    if cell_len(name) <= width:
        return name
    end = name[-END:] if width >= 2 * END else ""
    return f"{set_cell_size(name, max(0, width - cell_len(end) - 1))}…{end}"


def _cut(line: str) -> str:
    return line if len(line) <= SHORT * 5 else f"{line[: SHORT * 5 - 1]}…"


def _widest(*texts: str | Text) -> int:
    return max((cell_len(str(text)) for text in texts), default=0)
