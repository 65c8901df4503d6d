"""What is printed before the runs, the plan, and after them, the results."""

from __future__ import annotations

import logging
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from rich.text import Text

from kling_sweeps.errors import BudgetError, NotTrackedError, OverBudgetError
from kling_sweeps.experiment.naming import NAMELESS
from kling_sweeps.experiment.request import Product
from kling_sweeps.experiment.settings import Cell, Settings
from kling_sweeps.metrics import build, remarks
from kling_sweeps.store.measured import read_values
from kling_sweeps.store.result import RunResult
from kling_sweeps.store.state_machine import COMPLETED, Attempt, Cost, Stage
from kling_sweeps.sweep import conclusions, gates
from kling_sweeps.sweep.conclusions import Outcome
from kling_sweeps.sweep.job import CONFIG_DUMP
from kling_sweeps.sweep.plan import WORDS, Plan
from kling_sweeps.sweep.scheduler import Runs
from kling_sweeps.terminal.console import show_line, working
from kling_sweeps.terminal.tables import (
    MANY,
    Column,
    Row,
    money,
    number_column,
    settings_columns,
    show,
    show_sums,
    word_column,
)
from kling_sweeps.tracking.note import REPORT
from kling_sweeps.tracking.tracker import Tracker, experiment_name

STYLES = {
    "failed": "red",
    "damaged": "red",
    "in the store": "green",
    "to generate": "yellow",
    "to look up": "magenta",
    "to collect": "cyan",
    "over budget": "red",
    "to generate again": "yellow",
    "to look up or generate again": "yellow",
}
log = logging.getLogger(__name__)
METRICS = ("luma_mean", "colorfulness", "sharpness", "motion")
# Of runs that are named in a line.
NAMED = 5


def show_plan(plan: Plan, settings: Settings, provider: str) -> None:
    """Print every cell with its state and price, and the total."""
    say_provider(provider, settings)
    is_new = "" if settings.store_dir.exists() else " (new)"
    show_line(f"Store: {settings.store_dir.absolute()}{is_new}")
    rows = [Row(p.cell, p.status, STYLES.get(p.status, "dim"), p.cost_usd) for p in plan.planned]
    if len(rows) > MANY:
        show_sums(rows)
        failed = [row.cell for row in rows if row.status in ("failed", "to look up")]
        show_line((f"failed or to look up: {_names(failed)}" * bool(failed), "red"))
        show_line(("Fewer runs are shown one by one: narrow it down, with KEY=VALUE dry_run=true.", "dim"))
    else:
        prices = [Text(_price(row.usd)) for row in rows]
        show(
            [
                *settings_columns([row.cell for row in rows]),
                _statuses("status", rows),
                number_column("USD", prices),
            ]
        )
    say_total(plan, settings, provider, "run", f"prices {plan.price_words}" * bool(plan.price_words))
    for remark in dict.fromkeys(remark for planned in plan.planned for remark in planned.cell.remarks):
        show_line((remark, "yellow"))
    for remark in remarks(settings.metrics, [planned.cell.requested for planned in plan.planned]):
        show_line((remark, "yellow"))
    _say_changes([planned.cell for planned in plan.planned if not planned.is_repeat])
    for dispute in plan.disputes:
        show_line((dispute, "yellow"))
    for planned in plan.planned:
        if planned.state.stage is Stage.DAMAGED:
            show_line((f"damaged {planned.cell.name}: {planned.state.error}", "red"))
    _say_left_out(plan)


def say_nameless(settings: Settings, number: int) -> None:
    """Say of several runs without a name what they share it with, and how they are given one."""
    if settings.sweep == NAMELESS and number > 1:
        looks = ", and tells later commands of its looks" * (settings.repeats is not None)
        said = (
            f"Kept under {NAMELESS}, with all other runs without a name: experiment=NAME gives these their own report, "
            f"effects and votes{looks}."
        )
        show_line((said, "dim"))


def say_total(plan: Plan, settings: Settings, provider: str, what: str, note: str) -> None:
    """Print how many there are of what a plan plans, how they stand, and what the rest costs."""
    counts = Counter(planned.status for planned in plan.planned)
    summary = ", ".join(f"{n} {status}" for status, n in counts.items())
    whose = "the emulator charges nothing" if provider == "emulator" else "on fal"
    number, total = len(plan.planned), _begun(money(planned.cost_usd for planned in plan.planned))
    show_line(
        *(f"{number} {what}{'s' * (number != 1)}: {summary}. ", (total, "bold")),
        f" ({'; '.join(filter(None, (note, whose)))}; budget.max_usd={settings.budget.max_usd:g})",
    )


def _say_changes(cells: Sequence[Cell]) -> None:
    """Say which runs are in the store under an earlier form of their model's file, and what becomes of them."""
    taken: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    changed: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        if cell.added:
            taken[cell.model, ", ".join(cell.added)].append(cell)
        if cell.changes:
            changed[cell.model, "; ".join(cell.changes)].append(cell)
    for (model, names), runs in taken.items():
        what = f"{names} is new in the file of {model} and at fal's default, as fal had it then"
        are = "they are" if len(runs) > 1 else "it is"
        show_line((f"{_counted(runs)} taken from the store as {are}: {what}.", "green"))
    for (model, changes), runs in changed.items():
        known = f"{_counted(runs)} in the store under an earlier form of the file of {model}: {changes}. "
        show_line(
            (known, "bold red"),
            f"To buy {'them' if len(runs) > 1 else 'it'} again costs {_price_of(runs)}; the file as it was, or the "
            "argument set to its earlier value, finds what is there.",
        )


def _counted(runs: Sequence[Cell]) -> str:
    return f"{len(runs)} run{'s are' if len(runs) > 1 else ' is'}"


def show_refusal(runs: Runs) -> None:
    """Say whether the plan would be refused for its price, and why."""
    try:
        runs.check_price()
        if runs.is_ephemeral and not runs.settings.budget.allow_unknown_price:
            _show_refusal_on_fal(runs.plan)
    except BudgetError as error:
        show_line((f"Without dry_run=true this would be refused: {error}", "bold red"))


def _show_refusal_on_fal(plan: Plan) -> None:
    """Say that what the emulator does for nothing fal would be asked for only if its price may be unknown."""
    try:
        plan.check_price()
    except BudgetError as error:
        show_line((f"On fal this would be refused: {error}", "yellow"))


def say_provider(provider: str, settings: Settings) -> None:
    where = settings.provider.base_url or ("this machine" if provider == "emulator" else "fal.ai")
    if provider == "emulator":
        why = ": no fal credentials are set" if settings.provider.name == "auto" else ""
        show_line(("Emulated", "yellow"), f" on {where}{why}. The videos are synthetic.")
    else:
        show_line(("fal", "bold"), f" at {where}, for money.")


def _say_left_out(plan: Plan) -> None:
    """Say which runs `budget.partial` leaves out, and what they would cost."""
    left = [p.cell for p in plan.planned if not p.fits and not p.is_repeat]
    if left:
        whole = plan.committed_usd + plan.total_usd + sum(cell.request.price_usd or 0 for cell in left)
        show_line(
            f"{len(left)} left out by budget.partial=true, for {_price_of(left)}: {_names(left)}. "
            f"budget.max_usd={whole:.10g} runs them too."
        )


def _begun(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _price(usd: float | None) -> str:
    return "unknown" if usd is None else f"{usd:.2f}" if usd else "–"


def _price_of(cells: Iterable[Cell]) -> str:
    return money(cell.request.price_usd for cell in cells)


def _names(cells: Sequence[Cell]) -> str:
    more = f" and {len(cells) - NAMED} more" * (len(cells) > NAMED)
    return ", ".join(cell.name for cell in cells[:NAMED]) + more


def _statuses(name: str, rows: Sequence[Row]) -> Column:
    return word_column(name, [Text(row.status, style=row.style) for row in rows])


def show_results(results: Sequence[RunResult], runs: Runs, tracker: Tracker) -> None:
    """Print what each run gave, the money spent, how to go on, and where the runs can be compared."""
    ends = {one.cell.request.key: one for one in results}
    made = {cell.request.key: _made(cell, runs) for cell in runs.cells}
    rows = [row for cell in runs.cells if (row := _row(cell, ends, made, runs))]
    if not rows and not any(made.values()):
        return
    over = [ends[row.cell.request.key] for row in rows if row.cell.request.key in ends]
    if len(rows) > MANY:
        show_sums(rows)
        show_line(
            ("Each run is in MLflow; what each has cost: python -m kling_sweeps.ledger --csv FILE", "dim")
        )
    elif rows:
        columns = _metrics([ends.get(row.cell.request.key) for row in rows], runs.settings)
        show([*settings_columns([row.cell for row in rows]), *columns, _statuses("result", rows)])
    say_ends(over)
    show_line(spent([attempt for attempts in made.values() for attempt in attempts], runs.provider_name))
    if len(runs.cells) == 1 and over and not over[0].error:
        show_line(f"The video: {over[0].entry.video.absolute()}")
    _say_left_out(runs.plan)
    say_remedies([one for one in over if one.error], runs)
    if any(not isinstance(one.error, NotTrackedError) for one in results):
        with suppress(Exception):  # MLflow has gone away meanwhile
            show_line(tracker.address())


def present(tracker: Tracker, is_due: bool = False) -> None:
    """Bring the views and the note in MLflow up to date; where that fails, the same command does it."""
    try:
        tracker.present(is_due=is_due)
    except Exception as error:
        log.warning("The views in MLflow are not up to date: %s", tracker.said(error))


def show_sweep(runs: Runs, outputs: Path) -> None:
    """Print the stages, the cost and the MLflow address of all runs of a sweep, after other processes have made them."""
    states = [runs.store.entry(cell.request).state() for cell in runs.cells]
    counts = Counter(WORDS[state.stage] for state in states)
    summary = ", ".join(f"{n} {word}" for word, n in counts.items())
    made = [attempt for cell in runs.cells for attempt in _made(cell, runs)]
    show_line(f"The whole sweep, {len(states)} runs: {summary}. {spent(made, runs.provider_name)}")
    show_in_flight(runs)
    tracker = Tracker(runs.settings.tracking_uri, runs.settings.sweep, runs.provider_name)
    has_grades = False
    if runs.settings.judge:
        from kling_sweeps.sweep import judging

        has_grades = judging.judge_runs(runs, tracker)
    outcome = Outcome(runs, tracker)
    lines = conclusions.draw(outcome) if made or has_grades else conclusions.recall(outcome)
    present(tracker)
    with suppress(Exception):  # MLflow has gone away meanwhile
        show_line(tracker.address())
    conclusions.show(lines)
    has_changed = gates.conclude(outcome)
    if made or has_changed or has_grades:
        show_report(runs, tracker, outputs)
    else:
        say_report(runs, tracker)


def show_report(runs: Runs, tracker: Tracker, outputs: Path) -> None:
    """Make the report of a sweep, beside what Hydra keeps of it and in MLflow; say where it is, or why it is not."""
    settings = runs.settings
    try:
        from kling_sweeps.reports.publish import config_of, make_report

        name = experiment_name(tracker.sweep, tracker.provider)
        config = config_of(outputs / CONFIG_DUMP)
        with working("Making the report"):
            make_report(name, settings.store_dir, settings.tracking_uri, outputs / REPORT, config)
    except (Exception, KeyboardInterrupt) as error:  # the runs are as they are
        why = tracker.said(error) if isinstance(error, Exception) else "interrupted"
        show_line(
            (f"The report could not be made: {why}. ", "yellow"),
            f"To try again: {_report_command(runs)}",
        )
    else:
        present(tracker, is_due=tracker.report is None)  # the note names it from now on
        page = f"{tracker.link(tracker.report)}, or " if tracker.report else ""
        show_line(f"See the videos in step: {page}{(outputs / REPORT).absolute()}")


def say_report(runs: Runs, tracker: Tracker) -> None:
    """Say where the report of runs is that have not changed since, and how one is made."""
    noted = tracker.noted
    page = tracker.report or (noted.report if noted else None)
    show_line(
        f"See the videos in step: {f'{tracker.link(page)}, or ' if page else ''}{_report_command(runs)}"
    )


def _report_command(runs: Runs) -> str:
    store = runs.settings.store_dir
    where = f" --store {shlex.quote(str(store))}" if store != Path("store") else ""
    return f"python -m kling_sweeps.report {runs.settings.sweep}{where}"


def _made(cell: Cell, runs: Runs) -> list[Attempt]:
    """Return the submissions that this command made for a run, which may not be over."""
    return runs.store.entry(cell.request).attempts(runs.settings.command)


def _row(
    cell: Cell, ends: Mapping[str, RunResult], made: Mapping[str, list[Attempt]], runs: Runs
) -> Row | None:
    """Return the row of a run that is over or that fal has charged; None for any other."""
    key = cell.request.key
    prices = [attempt.price_usd for attempt in made[key] if attempt.cost is not Cost.FREE]
    known = [price for price in prices if price is not None]
    usd = sum(known) if len(known) == len(prices) else None
    if key in ends:
        error = ends[key].error
        return Row(cell, error.error_type, "red", usd) if error else Row(cell, "tracked", "green", usd)
    stage = runs.store.entry(cell.request).state().stage
    if stage is Stage.FINISHED:
        return Row(cell, "to track", "cyan", usd)
    return Row(cell, "to collect", "cyan", usd) if stage in COMPLETED and not runs.is_ephemeral else None


def _metrics(ends: Sequence[RunResult | None], settings: Settings) -> list[Column]:
    """Return the columns of the metrics, those of the goal and the gates first, then the user's own; as many as fit are shown."""
    own = {name: given for name, given in settings.metrics.items() if given and "target" in given}
    values = (value.name for metric in build(own) for value in metric.values)
    names = dict.fromkeys([*settings.goal, *settings.expect.metrics, *values, *METRICS])
    measured = [read_values(one.measurement) if one and one.measurement else {} for one in ends]
    shown = {name: [f"{values[name]:.4g}" if name in values else "" for values in measured] for name in names}
    return [
        number_column(name, list(map(Text, texts)), is_optional=True)
        for name, texts in shown.items()
        if any(texts)
    ]


def say_ends(over: Sequence[RunResult]) -> None:
    """Name the runs that failed and those that something went wrong with, and say why."""
    said: list[tuple[str | tuple[str, str], ...]] = [
        (("failed ", "red"), f"{one.cell.name}: {one.error}") for one in over if one.error
    ]
    said += [
        ((f"flawed {one.cell.name}: {one.flaws}", "yellow"),) for one in over if one.flaws and not one.error
    ]
    for parts in said[:MANY]:
        show_line(*parts)
    if len(said) > MANY:
        show_line(
            f"and {len(said) - MANY} more, whose reasons are in MLflow, in the tags error and measurement_errors"
        )


def say_remedies(failed: Sequence[RunResult], runs: Runs) -> None:
    """Say what is to be done about runs that failed, by whether that costs anything."""
    over_budget = [one.cell for one in failed if isinstance(one.error, OverBudgetError)]
    again = [one.cell for one in failed if one.state.is_failed]
    new = [one.cell for one in failed if one.state.stage is Stage.NEW and one.cell not in over_budget]
    here = [one.cell for one in failed if isinstance(one.error, NotTrackedError)]
    for cells, remedy in (
        (again, "retry=failed generates {n} again, for {price}"),
        (new, "The same command submits {n} again, for {price}"),
        (over_budget, "A higher budget.max_usd generates {n}, for {price}"),
        (here, "The same command tracks {n}, for nothing"),
    ):
        if cells and cells[0].request.product is Product.ANSWER:
            remedy = remedy.replace("generates", "asks for").replace("budget.max_usd", "limit")
        if cells:
            show_line(f"{remedy.format(n=len(cells), price=_price_of(cells))}: {_names(cells)}.")


def show_in_flight(runs: Runs) -> None:
    """Say which requests fal still has, what they cost, and how they are collected, where there are any."""
    in_flight = runs.in_flight()
    if not in_flight:
        return
    if runs.is_ephemeral:
        show_line(f"{len(in_flight)} not finished; the same command renders them again.")
        return
    for cell, state in in_flight[:MANY]:
        request = state.request_id or "its submission's answer was lost"
        show_line(f"{WORDS[state.stage]}: {cell.name} ({request})")
    if len(in_flight) > MANY:
        show_line(f"and {len(in_flight) - MANY} more")
    paid = [cell for cell, state in in_flight if state.stage in COMPLETED]
    others = [cell for cell, state in in_flight if state.stage not in COMPLETED]
    amounts = [f"for {_price_of(others)}"] * bool(others) + [f"{_price_of(paid)} spent"] * bool(paid)
    show_line(f"{', '.join([f'{len(in_flight)} left with fal', *amounts])}. The same command collects them.")
    if lost := [cell for cell, state in in_flight if state.stage is Stage.UNKNOWN]:
        show_line(
            f"Where fal's history never shows one whose answer was lost, unknown=resubmit pays again, "
            f"{_price_of(lost)} for {_names(lost)}."
        )


def say_what_is_here(runs: Runs) -> None:
    """Say how the videos of a sweep are seen that is broken off, where it has a name and any are there."""
    entries = [runs.store.entry(cell.request) for cell in runs.cells]
    with suppress(OSError):
        if runs.settings.sweep != NAMELESS and any(entry.video.exists() for entry in entries):
            show_line(f"See what is here: {_report_command(runs)}")


def spent(made: Sequence[Attempt], provider: str, done: str = "generated") -> str:
    """Say what submissions have cost, and what they may have; `done` is what became of them."""
    prices: dict[Cost, list[float | None]] = {Cost.SPENT: [], Cost.IN_FLIGHT: [], Cost.PERHAPS: []}
    for attempt in made:
        if attempt.cost is not Cost.FREE:
            prices[Cost.PERHAPS if attempt.cost is Cost.UNKNOWN else attempt.cost].append(attempt.price_usd)
    if not made:
        return f"Nothing was {done}."
    more = "".join(
        f", {money(some)} {cost}" for cost, some in prices.items() if some and cost is not Cost.SPENT
    )
    if provider == "emulator":
        return f"On fal this would have cost {money(prices[Cost.SPENT])}{more}; the emulator charged nothing."
    return f"{_begun(money(prices[Cost.SPENT]))} spent{more}."
