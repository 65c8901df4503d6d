"""The figure that all plots draw into: its look, its panels, its colours."""

from __future__ import annotations

import io
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from textwrap import fill
from typing import TYPE_CHECKING, Any

try:
    import matplotlib as mpl
    from cycler import cycler
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter
except ModuleNotFoundError as error:
    raise ImportError("the plots need matplotlib: pip install 'kling-sweeps[notebooks]'") from error

from kling_sweeps.analysis.pairing import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito (2008), told apart with any colour vision; without the yellow, which is pale on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DARK, GREY, PALE, RED = "#333333", "#767676", "#dddddd", "#b03000"
WIDTH, PANEL_HEIGHT, COLUMNS = 10.0, 2.5, 3
# How much of the width few columns take.
SHARES = {1: 0.6, 2: 0.85}
DPI, SCREEN_DPI = 180, 96
# So many letters fit in an inch.
LETTERS = 14
# White, so that it reads in a dark page as in a light one, and whatever else the notebook has set.
LOOK: Any = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.facecolor": "white",
    "text.color": DARK,
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": DARK,
    "axes.labelsize": 8.5,
    "axes.labelcolor": DARK,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=COLORS),
    "grid.color": "#e8e8e8",
    "grid.linewidth": 0.8,
    "xtick.color": DARK,
    "ytick.color": DARK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.title_fontsize": 8.5,
}


class Picture(Figure):
    """A figure that a notebook shows by itself, without pyplot and its open figures."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        file = io.BytesIO()
        self.savefig(file, dpi=DPI, format="png")
        width, height = (round(inches * SCREEN_DPI) for inches in self.get_size_inches())
        return file.getvalue(), {"width": width, "height": height}


@contextmanager
def look() -> Iterator[None]:
    """Draw in the look of these plots, whatever the settings are outside."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(LOOK)
        yield


def picture(width: float, height: float) -> Picture:
    """Return an empty figure of so many inches."""
    figure = Picture(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panels(
    count: int,
    columns: int = COLUMNS,
    height: float = PANEL_HEIGHT,
    **shared: Any,
) -> tuple[Picture, list[Axes]]:
    """Return a figure of so many panels in rows, and the axes of each; empty places of the last row are removed."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = picture(WIDTH * SHARES.get(columns, 1.0), height * rows)
    grid = figure.subplots(rows, columns, squeeze=False, **shared).ravel()
    for axes in grid[count:]:
        axes.remove()
    return figure, list(grid[:count])


def sentence(text: str) -> Picture:
    """Return a figure that says why there is nothing to draw."""
    with look():
        figure = picture(WIDTH * 0.7, 0.6)
        figure.text(0.01, 0.5, fill(text, 100), va="center")
    return figure


def heading(figure: Picture, *parts: str) -> None:
    """Say above all panels what the figure is of."""
    text = fill(" · ".join(filter(None, parts)), round(figure.get_figwidth() * LETTERS))
    figure.suptitle(text, x=0.01, ha="left", fontsize=9.5, color=DARK)


def legend(figure: Picture, handles: Sequence[Any]) -> None:
    """Explain below all panels what is drawn, in as many columns as fit."""
    longest = max((len(str(handle.get_label())) for handle in handles), default=0)
    columns = max(1, min(len(handles), int(figure.get_figwidth() * LETTERS) // (longest + 8)))
    if handles:
        figure.legend(handles=handles, loc="outside lower left", ncols=columns)


def wrapped(level: object, width: int = 16) -> str:
    """Return a level on short lines, three at most."""
    text = plain(level) or "(empty)"
    kept = fill(text, width).split("\n")
    return "\n".join(kept[:3]) + "…" * (len(kept) > 3)


def places(levels: Sequence[Any]) -> tuple[dict[Hashable, float], list[str]]:
    """Return where each level stands on an axis, numbers where they are, and the labels to write there."""
    is_numeric = all(isinstance(level, (int, float)) for level in levels)
    where = {level: float(level if is_numeric else number) for number, level in enumerate(levels)}
    return where, [wrapped(level) for level in levels]


def level_axis(axes: Axes, name: str, levels: Sequence[Any]) -> dict[Hashable, float]:
    """Write the levels of a setting below an axis, and return where each stands."""
    where, labels = places(levels)
    crowded = max(map(len, "\n".join(labels).split("\n"))) * len(labels) > 36
    axes.set_xticks(
        list(where.values()), labels, rotation=40 if crowded else 0, ha="right" if crowded else "center"
    )
    axes.set_xlabel(name)
    if len(where) > 1:
        low, high = min(where.values()), max(where.values())
        margin = 0.12 * (high - low) if not crowded else 0.06 * (high - low)
        axes.set_xlim(low - margin, high + margin)
    return where


def shades(levels: Sequence[Any]) -> list[str]:
    """Return a colour for each level: from dark to light where they are many numbers, else as different as can be."""
    is_numeric = all(isinstance(level, (int, float)) for level in levels)
    if (is_numeric and len(levels) > 2) or len(levels) > len(COLORS):
        scale = mpl.colormaps["viridis"]
        steps = [0.8 * number / max(len(levels) - 1, 1) for number in range(len(levels))]
        return [mpl.colors.to_hex(scale(step)) for step in steps]
    return list(COLORS[: len(levels)])


def logarithmic(axes: Axes) -> None:
    """Give an axis equal steps for equal ratios, with round numbers."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    steps = (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(subs=steps if high / low > 4 else range(1, 10)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
