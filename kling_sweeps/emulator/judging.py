"""How the emulator answers about videos: it looks at what it is sent, and fills in the form at the end of the prompt.

A form's lines are like `3fa9c1e2 fidelity: 1 | 2 | 3` for a grade, the worst first, and `3fa9c1e2 fidelity: first | second | tie`
for a comparison of the first half of what is sent with the second; its last line is `3fa9c1e2 end`. Answers follow how vivid the pictures are, which a higher
`cfg_scale` makes them, and how long the video is. Besides, a judge errs by so much in a question about a video, or about two in
either order, whenever it is asked; at a temperature above 0 each request has a further error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from kling_sweeps.experiment.emulator_settings import JudgeSettings

from . import outcomes
from .endpoints import LOOKED_AT, VIDEO
from .fault_kinds import PAGE
from .faults import Fault
from .submission import Outcome
from .uploads import content_of

if TYPE_CHECKING:
    from .sight import Seen

LINE = re.compile(r"(\w+) (\w+): (\S+(?: \| \S+)+)")
END = re.compile(r"\w+ end")
VERDICTS = ["first", "second", "tie"]
# Log odds that are closer to even than this are a tie; those of a quality of 1 against 0; how much a temperature of 1 adds.
TIE, SLOPE, HEAT = 0.1, 2.0, 0.5
# The seconds of a video whose length neither adds to its grade nor takes from it.
USUAL_S = 5.0
# In US dollars a token that is read, and one that is written; characters a token.
READ_USD, WRITTEN_USD, LETTERS = 3e-7, 2.5e-6, 4

GONE = {
    "type": "file_download_error",
    "msg": "Failed to download the file. Please check if the URL is accessible and try again.",
}


@dataclass(frozen=True)
class Line:
    """A line of a form: what it begins with, its question, and the answers that are offered."""

    code: str
    question: str
    offered: Sequence[str]


@dataclass(frozen=True)
class Judge:
    """A model with its biases, as it is asked once."""

    settings: JudgeSettings
    model: str
    temperature: float
    request_id: str

    def grade(self, line: Line, seen: Seen) -> str:
        """Return the grade of a video, one of those that are offered."""
        odds = SLOPE * seen.quality + self.error(line, [seen])
        if seen.seconds:
            odds += _logit(self.settings.length_bias) * math.log2(seen.seconds / USUAL_S)
        share = (1 + math.tanh(odds / 2)) / 2
        return line.offered[min(len(line.offered) - 1, int(share * len(line.offered)))]

    def verdict(self, line: Line, first: Seen, second: Seen) -> str:
        """Return which of two videos is better."""
        odds = SLOPE * (first.quality - second.quality) + _logit(self.settings.position_bias)
        if first.seconds and second.seconds:
            odds += _logit(self.settings.length_bias) * math.log2(first.seconds / second.seconds)
        way = 1 if first.digest <= second.digest else -1
        odds += way * self.error(line, sorted((first, second), key=lambda one: one.digest))
        return "tie" if abs(odds) < TIE else "first" if odds > 0 else "second"

    def error(self, line: Line, seen: Sequence[Seen]) -> float:
        """Return what an answer is off by, in log odds: of a logistic distribution, as Bradley and Terry's model has it."""
        own = _logit(Random("\n".join([self.model, line.question, *(one.digest for one in seen)])).random())
        heat = _logit(Random(f"{self.request_id}\n{line.question}").random())
        return self.settings.noise * (own + HEAT * self.temperature * heat)


def answered(
    folder: Path,
    endpoint: str,
    arguments: Mapping[str, Any],
    request_id: str,
    settings: JudgeSettings,
    fault: Fault | None,
) -> Outcome:
    """Return how a request ends whose complete arguments are right."""
    from . import sight

    contents, name = [], LOOKED_AT[endpoint]
    for number, address in enumerate(arguments.get(name) or ()):
        contents.append(content_of(folder, address))
        if not contents[-1]:
            return outcomes.of_problems([{**GONE, "loc": ["body", name, number], "input": address}])
    form = _form(arguments["prompt"])
    of_two = bool(form) and list(form[0].offered) == VERDICTS
    seen = [sight.of_video(one) for one in contents]
    if endpoint != VIDEO:
        half = len(contents) // 2 if of_two else len(contents)
        seen = [sight.of_stills(part) for part in (contents[:half], contents[half:]) if part]
    judge = Judge(settings, arguments["model"], float(arguments["temperature"]), request_id)
    text = _answer(judge, form, seen, of_two)
    longest = arguments.get("max_tokens")
    return _told(text if longest is None else text[: longest * LETTERS], form, seen, arguments, fault)


def _form(prompt: str) -> list[Line]:
    """Return the lines before the last one of a prompt that are to be filled in."""
    found: list[Line] = []
    *lines, last = prompt.splitlines() or [""]
    for text in reversed(lines if END.fullmatch(last) else []):
        if not (line := LINE.fullmatch(text)):
            break
        found.insert(0, Line(line[1], line[2], line[3].split(" | ")))
    return found


def _answer(judge: Judge, form: Sequence[Line], seen: Sequence[Seen], of_two: bool) -> str:
    """Return an answer: what is seen, and the form, where there is what it is about."""
    said = [f"It looks {'vivid' if one.quality > 0 else 'flat'}, as far as an emulator sees." for one in seen]
    if len(seen) != 1 + of_two:
        return " ".join([*said, f"I was shown {len(seen)} of {1 + of_two} videos."])
    answers = [judge.verdict(one, *seen) if of_two else judge.grade(one, *seen) for one in form]
    lines = [f"{one.code} {one.question}: {answer}" for one, answer in zip(form, answers, strict=True)]
    return "\n".join([" ".join(said), "", *lines, *(f"{one.code} end" for one in form[-1:])])


def _told(
    text: str, form: Sequence[Line], seen: Sequence[Seen], arguments: Mapping[str, Any], fault: Fault | None
) -> Outcome:
    """Return an answer with what it took, or what a fault makes of them."""
    name = "" if fault is None else fault.name
    if name in SPOILT:
        text = SPOILT[name](text, form)
    asked = f"{arguments.get('system_prompt') or ''}{arguments['prompt']}"
    read, written = sum(one.tokens for one in seen) + len(asked) // LETTERS, len(text) // LETTERS
    usd = round(read * READ_USD + written * WRITTEN_USD, 8)
    if fault is not None and name == "dear":
        usd = fault.options["usd"]
    details = {"cached_tokens": 0, "cache_write_tokens": 0}
    usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written, "cost": usd}
    return outcomes.of_answer(
        text, None if name == "no_usage" else {**usage, "prompt_tokens_details": details}, usd
    )


def _each(text: str, form: Sequence[Line], change: Callable[[Line, str], str]) -> str:
    """Return an answer with each line of the form changed."""
    by_start = {f"{one.code} {one.question}: ": one for one in form}
    lines = []
    for line in text.splitlines():
        start = next((start for start in by_start if line.startswith(start)), None)
        lines.append(line if start is None else change(by_start[start], line))
    return "\n".join(lines)


def _in_a_sentence(line: Line, text: str) -> str:
    return f"For {line.question} I would say {text.rpartition(' ')[2]}."


def _with_another(line: Line, text: str) -> str:
    other = next(one for one in line.offered if not text.endswith(f": {one}"))
    return f"{text}\n{line.code} {line.question}: {other}"


SPOILT: Mapping[str, Callable[[str, Sequence[Line]], str]] = {
    "no_grade": lambda text, form: _each(text, form, _in_a_sentence),
    "prose_around": lambda text, form: _each(text, form, lambda line, own: f"So, {own}, more or less."),
    "out_of_scale": lambda text, form: _each(text, form, lambda line, own: f"{own.rpartition(' ')[0]} 999"),
    "two_grades": lambda text, form: _each(text, form, _with_another),
    "empty": lambda text, form: "",
    "cut_short": lambda text, form: text[: Random(text).randrange(len(text))],
    "html": lambda text, form: PAGE,
}


def _logit(share: float) -> float:
    return math.log(share / (1 - share)) if 0 < share < 1 else 0.0
