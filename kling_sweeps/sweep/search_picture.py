"""The picture of a search: what was tried, what came of it, and what was best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import TYPE_CHECKING, Any

from kling_sweeps.metrics import declared
from kling_sweeps.sweep.search import Proposal, Trial
from kling_sweeps.sweep.search_results import Comparison, Found, described

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# More keys have no panel of their own, and longer values are cut.
MOST_KEYS, LONGEST = 4, 18
INK, FAINT, BEST, OTHER = "#222222", "#8a8a8a", "#d55e00", "#0072b2"
MARKS = {"failed": "X", "pruned": "v"}
WORDS = {"failed": "failed", "pruned": "not measured"}


def figure_of(found: Found, note: str) -> Figure:
    """Return a figure with a panel of the trials in their order, or of two metrics against each other, and one a key.

    Each panel of a key has its values across and a metric upwards; what has no value stands at the foot.
    `note` is the second line of the title.
    """
    from matplotlib.figure import Figure

    keys = list(dict.fromkeys(name for trial in found.trials for name in trial.settings))[:MOST_KEYS]
    rows, columns = len(found.goal), 1 + len(keys)
    figure = Figure(figsize=(1 + 4.2 * columns, 1.5 + 3.2 * rows), dpi=130, layout="constrained")
    grid = figure.add_gridspec(rows, columns)
    first = figure.add_subplot(grid[:, 0])
    if rows == 1:
        _draw_order(first, found)
    else:
        _draw_front(first, found)
    for column, key in enumerate(keys, 1):
        above = None
        for row in range(rows):
            axes = figure.add_subplot(grid[row, column], sharex=above)
            above = above or axes
            _draw_key(axes, found, key, row)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
    goals = " and ".join(
        f"{'highest' if way == 'max' else 'lowest'} {metric}" for metric, way in found.goal.items()
    )
    best = f"best: {described(found.best.settings)}" if found.best else "no trial is complete"
    figure.suptitle(f"Search for the {goals}\n{note}\n{best}", fontsize=11, color=INK)
    handles = {
        label: handle
        for axes in figure.axes
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        [*handles.values()], [*handles], loc="outside lower center", ncols=5, frameon=False, fontsize=9
    )
    return figure


def _draw_order(axes: Axes, found: Found) -> None:
    """Draw the trials as they were tried, and the best so far."""
    from matplotlib.ticker import MaxNLocator

    trials = found.complete
    (way,) = found.goal.values()
    numbers, values = [trial.number for trial in trials], [trial.values[0] for trial in trials]
    so_far = [(max if way == "max" else min)(values[: n + 1]) for n in range(len(values))]
    axes.step(numbers, so_far, where="post", color=FAINT, linewidth=1.2, label="best so far")
    _draw_points(axes, found, numbers, values, _noise(found)[0])
    _draw_lacking(axes, found, {trial.number: trial.number for trial in found.trials})
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="trial", ylabel=_title(next(iter(found.goal))))


def _draw_front(axes: Axes, found: Found) -> None:
    """Draw one metric against the other, and the line of those that no other trial beats in both."""
    across, up = found.goal
    front = [trial.values for trial in found.front]
    axes.plot(
        [one for one, _ in front],
        [two for _, two in front],
        color=FAINT,
        linewidth=1.2,
        label="not beaten in both",
    )
    values = [trial.values for trial in found.complete]
    errors = _noise(found)
    _draw_points(axes, found, [one for one, _ in values], [two for _, two in values], errors[1], errors[0])
    for trial in found.front:
        axes.annotate(
            str(trial.number),
            (trial.values[0], trial.values[1]),
            xytext=(5, 5),
            textcoords="offset points",
            fontsize=8,
            color=INK,
        )
    if compared := _fresh(found):
        values = [Trial(0, Proposal({}), outcomes).values for outcomes in compared.outcomes]
        _draw_fresh(axes, compared, [one[0] if one else None for one in values], 1)
    axes.set(xlabel=_title(across), ylabel=_title(up), title="trials that trade off, by number")
    axes.title.set_fontsize(9)


def _draw_key(axes: Axes, found: Found, key: str, row: int) -> None:
    """Draw a metric against the values of a key; texts have places in the order in which they came up."""
    metric = [*found.goal][row]
    named = {trial.number: trial.settings.get(key) for trial in found.trials}
    compared = _fresh(found)
    others = [setting.get(key) for setting in compared.settings] if compared else []
    every = [value for value in (*named.values(), *others) if value is not None]
    is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in every)
    texts = list(dict.fromkeys(map(_text, every)))
    place = (lambda value: value) if is_number else (lambda value: texts.index(_text(value)))
    places = {number: place(value) for number, value in named.items() if value is not None}
    trials = [trial for trial in found.complete if trial.number in places]
    _draw_points(
        axes,
        found,
        [places[trial.number] for trial in trials],
        [trial.values[row] for trial in trials],
        _noise(found)[row],
        trials=trials,
    )
    if compared:
        _draw_fresh(axes, compared, [None if one is None else place(one) for one in others], row)
    _draw_lacking(axes, found, places)
    if not is_number:
        axes.set_xticks(range(len(texts)), texts, rotation=20 if len(texts) > 3 else 0)
        axes.set_xlim(-0.5, len(texts) - 0.5)
    axes.set(xlabel=key, ylabel=_title(metric))


def _draw_points(
    axes: Axes,
    found: Found,
    across: Sequence[float],
    up: Sequence[float],
    error: float,
    error_across: float = 0.0,
    trials: Sequence[Trial] | None = None,
) -> None:
    """Draw the complete trials, later ones darker, with the noise of their repeats where it is known."""
    trials = found.complete if trials is None else trials
    if error:
        axes.errorbar(
            across,
            up,
            yerr=error,
            xerr=error_across or None,
            fmt="none",
            ecolor="#bdbdbd",
            elinewidth=1,
            label="95 % of the noise between repeats",
        )
    last = max(len(found.trials) - 1, 1)
    shades = [0.35 + 0.65 * trial.number / last for trial in trials]
    axes.scatter(
        across, up, c=shades, cmap="Blues", vmin=0, vmax=1, s=36, edgecolors=OTHER, linewidths=0.6, zorder=3,
        label="trial (later: darker)",
    )  # fmt: skip
    if found.best in trials:
        place = trials.index(found.best)
        axes.scatter(
            [across[place]], [up[place]], s=150, facecolors="none", edgecolors=BEST, linewidths=2, zorder=4,
            label="best",
        )  # fmt: skip


def _draw_fresh(axes: Axes, compared: Comparison, places: Sequence[float | None], row: int) -> None:
    """Draw the two settings that were compared in the end, by their further videos."""
    named = zip(compared.outcomes, places, (BEST, INK), ("best", compared.other), strict=True)
    for outcomes, place, color, name in named:
        values = Trial(0, Proposal({}), outcomes).values
        if values and place is not None:
            axes.scatter(
                [place], [values[row]], marker="D", s=44, color=color, zorder=5, edgecolors="white",
                label=f"{name}, in further videos",
            )  # fmt: skip


def _fresh(found: Found) -> Comparison | None:
    return found.comparison if found.comparison and found.comparison.is_fresh else None


def _draw_lacking(axes: Axes, found: Found, places: Mapping[int, Any]) -> None:
    """Mark what has no value at the foot of a panel."""
    for state, mark in MARKS.items():
        across = [
            places[trial.number] for trial in found.trials if trial.state == state and trial.number in places
        ]
        if across:
            axes.scatter(
                across, [0.03] * len(across), marker=mark, color=FAINT, s=40, clip_on=False,
                transform=axes.get_xaxis_transform(), label=WORDS[state],
            )  # fmt: skip


def _noise(found: Found) -> list[float]:
    """Return by how much repeats alone move a trial's mean, at 95 %, a number a metric; 0 where there are none."""
    squares, freedom, runs = [0.0] * len(found.goal), 0, 0
    for trial in found.complete:
        for row in trial.outcomes:
            values = [run.values for run in row if run.state == "complete"]
            freedom += len(values) - 1
            for metric in range(len(found.goal)):
                column = [one[metric] for one in values]
                squares[metric] += sum((one - sum(column) / len(column)) ** 2 for one in column)
        runs = max(runs, len(trial.runs))
    return [1.96 * sqrt(one / freedom / runs) if freedom else 0.0 for one in squares]


def _title(metric: str) -> str:
    unit = declared()[metric].unit if metric in declared() else ""
    return metric if unit in ("", "1") else f"{metric}, {unit}"


def _text(value: object) -> str:
    text = str(value).strip("'\"") or "''"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
