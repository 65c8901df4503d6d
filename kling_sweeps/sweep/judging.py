"""Judging: what models that see say of videos of the store, planned, bought once and found again as videos are."""

from __future__ import annotations

import hashlib
import logging
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Self, TypeVar

from filelock import Timeout
from rich.text import Text

from kling_sweeps import providers
from kling_sweeps.errors import ConfigError, RefusedError, UnreadableAnswerError
from kling_sweeps.experiment.naming import COUNT, JUDGED
from kling_sweeps.experiment.request import GenerationRequest, Product
from kling_sweeps.experiment.rubric import MOST_REPEATS, Rubric
from kling_sweeps.experiment.settings import Cell, Settings
from kling_sweeps.judges.answer import read_grades, read_verdicts
from kling_sweeps.judges.instructions import Verdict, arguments, instructions, version
from kling_sweeps.judges.looked_at import looked_at
from kling_sweeps.providers.answers import answer_text
from kling_sweeps.reports.contents import EMULATED
from kling_sweeps.reports.publish import present_anew
from kling_sweeps.store.folder import Entry, Store
from kling_sweeps.store.result import RunResult
from kling_sweeps.store.state_machine import Attempt, Stage
from kling_sweeps.sweep import summary
from kling_sweeps.sweep.job import unjudged
from kling_sweeps.sweep.plan import Plan
from kling_sweeps.sweep.scheduler import Runs
from kling_sweeps.terminal import tables
from kling_sweeps.terminal.console import show_line
from kling_sweeps.terminal.progress import Progress
from kling_sweeps.tracking.judged import Given, track_given
from kling_sweeps.tracking.tracker import PARAM_LENGTH, Tracker, sweep_name
from kling_sweeps.votes.poll import factor_of

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
Said = TypeVar("Said")
# Answers that are with fal at once.
IN_FLIGHT = 32


@dataclass(frozen=True)
class Subject:
    """A video that is judged: what its run is called, the key of its request, its prompt and its file."""

    name: str
    key: str
    prompt: str
    path: Path

    @cached_property
    def digest(self) -> str:
        found = self.path.stat()
        return _digest(self.path, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=20_000)
def _digest(path: Path, changed_ns: int, size: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Call:
    """One question to a judge: the videos that it is about, the code of the lines that answer it, and what is bought."""

    subjects: tuple[Subject, ...]
    code: str
    cell: Cell

    @property
    def name(self) -> str:
        return " and ".join(subject.name for subject in self.subjects)


@dataclass(frozen=True)
class Answers:
    """What a judge answered: of each video its metrics by their names, what they say, and why calls have none."""

    names: Sequence[str]
    values: Mapping[str, Mapping[str, float]]
    unreadable: Sequence[tuple[Call, str]]
    sentences: Sequence[str] = ()


@dataclass(frozen=True)
class Judging:
    """What a command has a judge say: its calls, how far the store has each, and how many are of videos to come.

    `table` has the runs that are judged, as `runs_df` has them; videos that differ in `factor` are compared in pairs, None
    where each is judged alone. `further` are the repeats that an earlier command asked and this one does not.
    """

    rubric: Rubric
    table: pd.DataFrame
    factor: str | None
    calls: Sequence[Call]
    runs: Runs
    to_come: int
    further: Sequence[Call]

    @classmethod
    def read(cls, settings: Settings, rubric: Rubric, table: pd.DataFrame) -> Self:
        """Plan that the finished runs of a table of `runs_df` are judged, a repeat of everything before the next.

        Raises RefusedError where the store can't be read, or no setting is known in which two videos are compared.
        """
        from kling_sweeps.analysis.pairing import records

        factor = None
        if rubric.pairs:
            factor = factor_of(table, rubric.factor, settings.sweep, "judge.factor=")
        store = Store(settings.store_dir / providers.resolve(settings.provider))
        rows = records(table[(table["status"] == "FINISHED") & table["request_key"].notna()])
        here = {row["request_key"]: one for row in rows if (one := _subject(row, store))}
        asked: list[tuple[str, ...]] = [(row["request_key"],) for row in rows]
        if factor:
            from kling_sweeps.judges.pairs import orders, pairs

            try:
                asked = [order for pair in pairs(table, factor) for order in orders(pair)]
            except LookupError as error:
                raise ConfigError(f"judge.factor={factor}: {error.args[0]}") from None
        about = [[here[key] for key in keys] for keys in asked if here.keys() >= {*keys}]
        calls = [call(rubric, some, sample) for sample in range(rubric.repeats) for some in about]
        further = [one for some in about for one in _further(rubric, some, store)]
        to_come = len(asked) * rubric.repeats - len(calls)
        runs = Runs.read(settings, [one.cell for one in calls])
        refusal = _refusal(rubric, runs.plan, to_come)
        runs = replace(runs, plan=replace(runs.plan, refusal=refusal))
        return cls(rubric, table, factor, calls, runs, to_come, further)

    @property
    def subjects(self) -> list[Subject]:
        """Return the videos that are judged, each once."""
        return [*{subject.key: subject for one in self.calls for subject in one.subjects}.values()]

    @property
    def version(self) -> str:
        """Return what its values are of, so that no other ones stand beside them: what was asked, and of which pairs."""
        return version(self.rubric) + f" {self.factor}" * bool(self.factor)

    @property
    def most_usd(self) -> float:
        """Return what the answers that are not here cost at the most, in USD."""
        return self.runs.plan.total_usd + self.to_come * self.rubric.max_usd

    def show_plan(self) -> None:
        """Print how many answers there are, how they stand, and what the others cost at the most."""
        plan, rubric, settings = self.runs.plan, self.rubric, self.runs.settings
        finished = int((self.table["status"] == "FINISHED").sum())
        number = finished if self.to_come else len(self.subjects)
        show_line(
            (rubric.name, "bold"),
            f" ({rubric.model}, version {version(rubric)}) judges {_many(number, 'video')}"
            + f", two at a time in both orders, which differ in {self.factor}" * bool(self.factor)
            + f", {rubric.repeats} times each" * (rubric.repeats > 1),
        )
        note = f"at most {rubric.max_usd:g} each, by judge.max_usd"
        if self.calls:
            summary.say_total(plan, settings, self.runs.provider_name, "answer", note)
        if self.to_come:
            usd = self.to_come * rubric.max_usd
            show_line(
                f"{_many(self.to_come, 'answer')} about videos to come: ",
                (f"{usd:.2f} USD", "bold"),
                f" ({note})",
            )
        if self.factor:
            from kling_sweeps.analysis.preferences import FEWEST_PROMPTS

            if (prompts := self.table["prompt"].nunique()) < FEWEST_PROMPTS:
                few = f"{_many(prompts, 'prompt')} can't carry a claim about {self.factor}; it takes {FEWEST_PROMPTS}"
                show_line((few, "yellow"))
        if known := [*_charged(plan.planned)]:
            show_line((f"An answer that is here has cost {fmean(known):.4f} USD on average.", "dim"))

    def beside(self, usd: float) -> Self:
        """Return the same within a budget of which so many USD are committed to the videos that are judged."""
        budget, plan = self.runs.settings.budget, replace(self.runs.plan, before_usd=usd)
        plan = plan.fitted(budget.max_usd) if budget.partial else plan
        return replace(self, runs=replace(self.runs, plan=plan))

    def buy(self) -> bool:
        """Buy the answers that are not here, and say what became of them; return whether all of them are here."""
        runs = self.runs
        again = {one.cell.request.key for one in runs.plan.planned if one.is_new}
        left = [one for one in runs.cells if one.request.key in again or not self._is_here(one)]
        progress = Progress(left, len(runs.cells) - len(left), runs.settings.command, "judged")
        results: list[RunResult] = []
        try:
            if left:
                # Whatever ends the loop, nothing is submitted any more when the results are shown.
                with progress.shown(), closing(runs.complete(left, progress, IN_FLIGHT)) as completed:
                    for result in completed:
                        progress.over(result)
                        results.append(result)
        finally:
            self._say_ends(results)
        return all(self._is_here(one.cell) for one in self.calls)

    def _is_here(self, cell: Cell) -> bool:
        return self.runs.store.entry(cell.request).state().stage is Stage.FINISHED

    def _say_ends(self, results: Sequence[RunResult]) -> None:
        runs = self.runs
        entries = [runs.store.entry(one.request) for one in runs.cells]
        made = [
            replace(attempt, price_usd=attempt.usd)  # which an answer itself has told
            for entry in entries
            for attempt in entry.attempts(runs.settings.command)
        ]
        summary.say_ends(results)
        show_line(summary.spent(made, runs.provider_name, "bought"))
        summary.say_remedies([result for result in results if result.error], runs)
        summary.show_in_flight(runs)

    def conclude(self, tracker: Tracker) -> tuple[bool, bool]:
        """Show what the answers say and write it to MLflow; return whether all is told there, and whether any of it is new."""
        answers = self.answers()
        self._note(answers.unreadable)
        _show(self.subjects, answers)
        if number := len(answers.unreadable):
            show_line(
                f"retry=failed asks for {number} again, for {number * self.rubric.max_usd:.2f} USD at most."
            )
        why: dict[str, list[str]] = defaultdict(list)
        for one, said in answers.unreadable:
            for subject in one.subjects:
                why[subject.key].append(said)
        judged = {*answers.values, *why}
        given = {key: Given(answers.values.get(key, {}), "; ".join(why.get(key, ()))) for key in judged}
        try:
            changed = track_given(tracker, self.version, answers.names, given)
            if changed:
                present_anew(tracker)
        except Exception as error:  # whatever MLflow, its database or its server raise
            why_not = tracker.said(error)
            log.warning("The answers are in the store; MLflow did not take what they say: %s", why_not)
            return False, False
        return not answers.unreadable, changed > 0

    def _note(self, unreadable: Sequence[tuple[Call, str]]) -> None:
        """Journal that answers are of no use, unless that is noted, so that retry=failed asks for these again."""
        for one, why in unreadable:
            entry = self.runs.store.entry(one.cell.request)
            with suppress(Timeout, OSError), entry.lock(timeout_s=0):
                state = entry.state()
                if state.stage is Stage.FINISHED and state.lost_by is None:
                    entry.journal.append("lost", message=why, command=self.runs.settings.command)

    def answers(self) -> Answers:
        """Return what the answers that are here say, and which have nothing to say of those that this command asks for."""
        found = self._comparisons(self.factor) if self.factor else self._grades()
        own = {one.cell.request.key for one in self.calls}
        return replace(found, unreadable=[one for one in found.unreadable if one[0].cell.request.key in own])

    def _grades(self) -> Answers:
        """Return of a question the mean grade of a video's repeats, and of how many."""
        grades: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        readable, unreadable = self._read(read_grades)
        for one, own_grades in readable:
            for name, grade in own_grades.items():
                grades[one.subjects[0].key][name].append(grade)
        values: dict[str, dict[str, float]] = defaultdict(dict)
        for key, own in grades.items():
            for name, some in own.items():
                values[key] |= _counted(f"{JUDGED}{name}", fmean(some), len(some))
        return Answers(self.rubric.metrics, values, unreadable)

    def _comparisons(self, factor: str) -> Answers:
        """Return of a question the share of its comparisons that a video won, a tie counting as a half, of how many, and what they say."""
        from kling_sweeps.analysis import preference_statements, preferences
        from kling_sweeps.judges.pairs import verdicts_df
        from kling_sweeps.votes.results import win_shares

        told: dict[tuple[str, str, int], Mapping[str, Verdict]] = {}
        readable, unreadable = self._read(read_verdicts)
        for one, verdicts in readable:
            first, second = (subject.key for subject in one.subjects)
            told[first, second, one.cell.request.sample] = verdicts
        table = verdicts_df(self.table, factor, self.rubric.name, told)
        values: dict[str, dict[str, float]] = defaultdict(dict)
        sentences: list[str] = []
        for question, name in zip(self.rubric.questions, self.rubric.metrics, strict=True):
            own = table[table["question"] == question.name]
            if len(own):
                for key, share, number in win_shares(own).itertuples(name=None):
                    values[key] |= _counted(name, share, number)
                flips = f"{own['flipped'].mean():.0%} of the verdicts changed with the order, and are ties."
                told_by = [*preference_statements(preferences(own, factor)), flips]
                sentences += [f"{question.name}: {sentence}" for sentence in told_by]
        return Answers(self.rubric.metrics, values, unreadable, sentences)

    def _read(
        self, read: Callable[[Rubric, str, str], Said]
    ) -> tuple[list[tuple[Call, Said]], list[tuple[Call, str]]]:
        """Return the calls that are answered, each with what is read in its answer's text, and those where that fails, with why."""
        readable: list[tuple[Call, Said]] = []
        unreadable: list[tuple[Call, str]] = []
        for one in [*self.calls, *self.further]:
            entry = self.runs.store.entry(one.cell.request)
            if entry.state().stage is not Stage.FINISHED:
                continue
            try:
                text = answer_text(entry.read_json("result.json")) or ""
                readable.append((one, read(self.rubric, one.code, text)))
            except UnreadableAnswerError as error:
                unreadable.append((one, str(error)))
        return readable, unreadable


def planned(runs: Runs) -> Runs:
    """Show what the judge of a command is asked about its runs, and return them with what that costs in their plan."""
    runs, judging = with_judging(runs)
    if judging:
        judging.show_plan()
    if runs.plan.total_usd and runs.plan.more_usd:
        whole = runs.plan.total_usd + runs.plan.more_usd
        show_line("With the videos ", (f"{whole:.2f} USD", "bold"), " at most.")
    return runs


def with_judging(runs: Runs) -> tuple[Runs, Judging | None]:
    """Return the runs of a command with what judging them costs, and has cost, in their plan, and what is judged."""
    judging = of_runs(runs)
    if judging is None:
        return runs, None
    own = judging.runs.plan
    more = 0.0 if runs.settings.budget.partial else judging.most_usd  # or else as much as fits is judged
    plan = replace(runs.plan, more_usd=more, before_usd=own.committed_usd, refusal=own.refusal)
    return replace(runs, plan=plan), judging


def judge_runs(runs: Runs, tracker: Tracker) -> bool:
    """Judge those videos of a command's runs that are there; return whether MLflow was told anything new.

    Where an answer is missing or has no grade, the command's exit code is 1.
    """
    judging = of_runs(runs)
    if judging is None or not judging.calls:
        return False
    committed = sum(runs.store.entry(cell.request).state().committed_usd for cell in runs.cells)
    judging = judging.beside(committed)
    try:
        judging.runs.check()
        is_whole = judging.buy()
    except RefusedError as error:
        show_line((f"The videos were not judged: {error}", "red"))
        unjudged.set()
        return False
    is_told, is_new = judging.conclude(tracker)
    if not is_whole or not is_told:
        unjudged.set()
    return is_new


def of_runs(runs: Runs) -> Judging | None:
    """Return what the judge of a command is asked about its runs, as if all were there; None where nobody judges."""
    from kling_sweeps.sweep.repeats import params_of

    settings = runs.settings
    if settings.judge is None or not runs.cells:
        return None
    table = params_of(runs.cells)
    params = list(table)
    table = table.assign(
        status="FINISHED",
        request_key=[cell.request.key for cell in runs.cells],
        run_name=[cell.name for cell in runs.cells],
    )
    table.attrs.update(params=params, metrics=[])
    return Judging.read(settings, settings.judge, table)


def judge_sweep(settings: Settings, experiment: str) -> bool:
    """Judge the videos of a sweep that are in the store; return whether all of them have all their grades.

    A dry run says what there is to judge and what it costs. Raises LookupError where there is no such sweep, and
    RefusedError before anything is submitted.
    """
    from kling_sweeps.analysis import runs_df

    rubric, provider = settings.judge, providers.resolve(settings.provider)
    assert rubric  # as the command has checked
    if experiment.endswith(EMULATED) and provider != "emulator":
        raise ConfigError(f"{experiment} was emulated: judge it with provider=emulator, for nothing")
    settings = replace(settings, sweep=sweep_name(experiment))
    tracker = Tracker(settings.tracking_uri, settings.sweep, provider)
    judging = Judging.read(settings, rubric, runs_df(tracker.experiment, settings.tracking_uri))
    root = judging.runs.store.root
    if judging.factor and not judging.calls and not judging.to_come:
        raise ConfigError(
            f"no two finished videos of {tracker.experiment} are of the same prompt and differ in {judging.factor} alone"
        )
    if not judging.calls:
        raise ConfigError(
            f"no video of {tracker.experiment} is in {root}: run the sweep first, or name its store, with store.dir=DIR"
        )
    summary.say_provider(provider, settings)
    if judging.to_come:
        show_line(
            (f"{_many(judging.to_come, 'answer')} left out, about videos that are not in {root}", "yellow")
        )
        judging = replace(judging, to_come=0)
    judging.show_plan()
    if settings.dry_run:
        summary.show_refusal(judging.runs)
        return True
    judging.runs.check()
    tracker.check()
    is_whole = judging.buy()
    is_told, _ = judging.conclude(tracker)
    if is_told and not judging.factor:
        command = (
            f"python -m kling_sweeps.effects {shlex.quote(experiment)} --metrics {','.join(rubric.metrics)}"
        )
        show_line(f"What a setting changes in it: {command}")
    return is_told and is_whole


def call(rubric: Rubric, subjects: Sequence[Subject], sample: int) -> Call:
    """Return what is asked of a video, or of two to compare, once more with each sample."""
    prompts = {subject.prompt for subject in subjects}  # where they differ, they would tell the videos apart
    prompt = prompts.pop() if len(prompts) == 1 else None
    said = instructions(rubric, prompt, [subject.digest for subject in subjects])
    files = [file for one in subjects for file in looked_at(rubric, one.path, one.digest)]
    asked = arguments(rubric, said, [file.mark for file in files])
    request = GenerationRequest(
        rubric.endpoint, asked, sample, rubric.max_usd, [*dict.fromkeys(files)], product=Product.ANSWER
    )
    name = " and ".join(subject.name for subject in subjects) + f" · {rubric.name}"
    cell = Cell(request, rubric.name, name, {}, name + f" {sample + 1}" * (rubric.repeats > 1))
    return Call((*subjects,), said.code, cell)


def _further(rubric: Rubric, subjects: Sequence[Subject], store: Store) -> Iterator[Call]:
    """Yield what the store has of repeats beyond those that are asked for, up to the first that it has not."""
    for sample in range(rubric.repeats, MOST_REPEATS):
        one = call(rubric, subjects, sample)
        if store.entry(one.cell.request).state().stage is not Stage.FINISHED:
            break
        yield one


def _counted(name: str, value: float, number: float) -> dict[str, float]:
    """Return a metric, and of how many answers it is."""
    return {name: float(value), f"{name}{COUNT}": float(number)}


def _subject(row: Mapping[str, Any], store: Store) -> Subject | None:
    """Return the video of a run, None where it is not in the store."""
    entry = store.find(row["request_key"], Product.VIDEO)
    if entry.state().stage is not Stage.FINISHED:
        return None
    return Subject(row["run_name"], entry.key, _prompt(row.get("prompt_text"), entry), entry.video)


def _prompt(tracked: Any, entry: Entry) -> str:
    """Return the prompt of a run, whole, of which MLflow may have the beginning alone."""
    if not isinstance(tracked, str) or len(tracked) < PARAM_LENGTH:
        return tracked if isinstance(tracked, str) else ""
    sent = (entry.read_json("request.json").get("arguments") or {}).values()
    return next((text for text in sent if isinstance(text, str) and text.startswith(tracked)), tracked)


def _refusal(rubric: Rubric, plan: Plan, to_come: int) -> str:
    """Return why nobody may be asked: an answer that is here has cost more than one may."""
    most = max(_charged(plan.planned), default=0.0)
    if most <= rubric.max_usd or not (to_come or any(one.is_new for one in plan.planned)):
        return ""
    return (
        f"an answer of {rubric.name} has cost {most:.6g} USD, and judge.max_usd={rubric.max_usd:g}. Have it say less, with "
        f"judge.max_tokens, or allow it: judge.max_usd={2 * most:.1g}"
    )


def _charged(planned: Iterable[Any]) -> Iterator[float]:
    """Yield what each answer of a plan has cost, as far as fal or the answer itself says, in USD."""
    attempts: Iterable[Attempt] = (attempt for one in planned for attempt in one.state.attempts)
    yield from (attempt.known_usd for attempt in attempts if attempt.known_usd is not None)


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _show(subjects: Sequence[Subject], answers: Answers) -> None:
    """Print the values of each video, or, of many, of all of them, and which answers have none."""
    shown = sorted(subjects, key=lambda subject: subject.name)
    rows = [(subject, answers.values.get(subject.key, {})) for subject in shown]
    if 1 < len(rows) <= tables.MANY:
        columns = [tables.text_column("video", [Text(subject.name) for subject, _ in rows])]
        for name in answers.names:
            texts = [Text(f"{own[name]:.3g}" if name in own else "–") for _, own in rows]
            columns.append(tables.number_column(name, texts))
            if {*(counts := [own.get(f"{name}{COUNT}", 0) for _, own in rows])} - {1}:
                columns.append(tables.number_column("n", [Text(f"{count:g}") for count in counts]))
        tables.show(columns)
    for name in answers.names:
        values = [own[name] for _, own in rows if name in own]
        if values and not answers.sentences:
            counts = sorted(own[f"{name}{COUNT}"] for _, own in rows if name in own)
            mean = f": {fmean(values):.3g} on average of {_many(len(values), 'video')}"
            many = " to ".join(dict.fromkeys(f"{count:g}" for count in (counts[0], counts[-1])))
            each = f", by {many} grades each" * (counts[-1] > 1)
            show_line((name, "bold"), mean + each)
    for sentence in answers.sentences:
        show_line(f"- {sentence}")
    for one, why in answers.unreadable[: summary.NAMED]:
        show_line((f"no grade for {one.name}: {why}", "yellow"))
    if (more := len(answers.unreadable) - summary.NAMED) > 0:
        show_line((f"and {_many(more, 'answer')} more without a grade", "yellow"))
