"""A rubric as a file of conf/judge/ declares it: which model is asked what about videos, and which answers there are."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from math import inf
from typing import Any

from kling_sweeps.errors import ConfigError
from kling_sweeps.experiment.naming import JUDGED
from kling_sweeps.experiment.reader import close, said

# The endpoints of fal that answer about videos, and the argument that takes the addresses of what is looked at.
VIDEO, VISION = "openrouter/router/video", "openrouter/router/vision"
LOOKS_AT = {VIDEO: "video_urls", VISION: "image_urls"}
NAME, QUESTION, GRADE = (
    re.compile(r"[\w.-]{1,60}"),
    re.compile(r"[a-z][a-z0-9_]{0,39}"),
    re.compile(r"-?[0-9]{1,3}"),
)
MOST_FRAMES, MOST_REPEATS, MOST_TEMPERATURE = 64, 100, 2


@dataclass(frozen=True)
class Question:
    """What is asked of a video, and what each grade means; a higher grade is better."""

    name: str
    ask: str
    scale: Mapping[int, str]


@dataclass(frozen=True)
class Rubric:
    """A judge: an endpoint and its model, the questions, and how they are asked.

    `frames` is how many stills of a video are sent, None where the video is. `max_usd` bounds what a call costs,
    `repeats` is how often each is made. With `pairs` two videos that differ in `factor` are compared, None being the
    only setting that varies.
    """

    name: str
    endpoint: str
    model: str
    frames: int | None
    show_prompt: bool
    temperature: float
    max_tokens: int
    max_usd: float
    repeats: int
    pairs: bool
    factor: str | None
    questions: Sequence[Question]

    @property
    def metrics(self) -> list[str]:
        """Return the names of the metrics that a run gets: of each question the grade, or the share of comparisons won."""
        end = "/win_share" * self.pairs
        return [f"{JUDGED}{question.name}{end}" for question in self.questions]


def read_rubric(node: Any) -> Rubric:
    """Read what `judge` holds in a config, resolved; raise ConfigError with all that is wrong with it."""
    reader = _Reader(node)
    rubric = reader.rubric()
    if reader.problems:
        raise ConfigError(*reader.problems)
    return rubric


class _Reader:
    """Reads one rubric and collects what is wrong with it."""

    def __init__(self, node: Any) -> None:
        self.problems: list[str] = []
        self.node: Mapping[Any, Any] = node if isinstance(node, dict) else {}
        valid = [one.name for one in fields(Rubric)]
        if not isinstance(node, dict):
            self.report(f"judge={said(node)} is not a mapping of {', '.join(valid)}")
            return
        self.problems += [f"judge.{key} is unknown{close(key, valid)}" for key in node if key not in valid]
        if missing := [key for key in valid if key not in node]:
            self.report(
                f"judge.{', judge.'.join(missing)}: missing; a judge's file begins with `defaults: [base]`"
            )

    def report(self, problem: str) -> None:
        self.problems.append(problem)

    def rubric(self) -> Rubric:
        endpoint = self.checked("endpoint", VIDEO, LOOKS_AT.__contains__, f"one of {', '.join(LOOKS_AT)}")
        return Rubric(
            name=self.checked("name", "", NAME.fullmatch, "a name of letters, digits, dots and dashes"),
            endpoint=endpoint,
            model=self.checked(
                "model", "", _is_plain, "OpenRouter's name of a model, as google/gemini-2.5-flash"
            ),
            frames=self.frames(endpoint),
            show_prompt=self.flag("show_prompt"),
            temperature=float(self.number("temperature", 0, MOST_TEMPERATURE)),
            max_tokens=self.count("max_tokens", 1_000_000),
            max_usd=self.max_usd(),
            repeats=self.count("repeats", MOST_REPEATS),
            pairs=self.flag("pairs"),
            factor=self.factor(),
            questions=self.questions(),
        )

    def checked(self, key: str, default: str, is_good: Callable[[str], object], wanted: str) -> str:
        """Return a text that passes a check."""
        value = self.node.get(key, default)
        if key in self.node and not (isinstance(value, str) and is_good(value)):
            self.report(f"judge.{key}={said(value)} is not {wanted}")
        return str(value)

    def flag(self, key: str) -> bool:
        value = self.node.get(key, False)
        if not isinstance(value, bool):
            self.report(f"judge.{key}={said(value)} is neither true nor false")
        return bool(value)

    def number(self, key: str, low: float, high: float) -> float:
        value = self.node.get(key, low)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            self.report(f"judge.{key}={said(value)} is not a number from {low:g} to {high:g}")
            return low
        return value

    def count(self, key: str, most: int) -> int:
        value = self.node.get(key, 1)
        if type(value) is not int or not 1 <= value <= most:
            self.report(f"judge.{key}={said(value)} is not a whole number from 1 to {most}")
            return 1
        return value

    def max_usd(self) -> float:
        value = self.node.get("max_usd", 1)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < inf:
            self.report(f"judge.max_usd={said(value)} is not a number above 0, in US dollars")
            return 1.0
        return float(value)

    def frames(self, endpoint: str) -> int | None:
        given = self.node.get("frames")
        if endpoint == VISION:
            return self.count("frames", MOST_FRAMES)
        if given is not None:
            self.report(f"judge.frames={said(given)} is of {VISION}; {endpoint} takes the whole video")
        return None

    def factor(self) -> str | None:
        value = self.node.get("factor")
        if value is not None and not (isinstance(value, str) and _is_plain(value)):
            self.report(f"judge.factor={said(value)} is no setting, such as cfg_scale")
        return None if value is None else str(value)

    def questions(self) -> tuple[Question, ...]:
        given = self.node.get("questions", {})
        if "questions" in self.node and not (isinstance(given, dict) and given):
            self.report(
                "judge.questions is not a mapping of names to `ask` and `scale`, of one question at least"
            )
        return (
            tuple(self.question(str(name), one) for name, one in given.items())
            if isinstance(given, dict)
            else ()
        )

    def question(self, name: str, given: Any) -> Question:
        where = f"judge.questions.{name}"
        if not QUESTION.fullmatch(name):
            self.report(
                f"{where}: a question's name has lower-case letters, digits and _, 40 at most, and begins with a letter"
            )
        if not isinstance(given, dict) or {*given} != {"ask", "scale"}:
            self.report(f"{where} is not a mapping with `ask` and `scale` alone")
            return Question(name, "", {})
        ask, scale = given["ask"], given["scale"]
        if not _is_text(ask):
            self.report(f"{where}.ask={said(ask)} is no text")
        return Question(name, _line(ask), self.scale(where, scale))

    def scale(self, where: str, given: Any) -> dict[int, str]:
        """Return the anchors by grade, the lowest first."""
        grades = given if isinstance(given, dict) else {}
        good = {
            int(str(grade)): _line(anchor) for grade, anchor in grades.items() if GRADE.fullmatch(str(grade))
        }
        if len(good) < 2 or len(good) < len(grades):
            self.report(
                f"{where}.scale is not a mapping of two or more whole numbers to what they mean, as {{1: …, 5: …}}"
            )
        for grade, anchor in grades.items():
            if not _is_text(anchor):
                self.report(
                    f"{where}.scale.{said(grade)}={said(anchor)} is no text; say what the grade means"
                )
        return dict(sorted(good.items()))


def _is_text(value: Any) -> bool:
    """Tell whether something is a text that says anything, and can be sent: half of a surrogate pair can't."""
    return isinstance(value, str) and bool(_line(value)) and value == value.encode(errors="ignore").decode()


def _is_plain(value: str) -> bool:
    return value == _line(value) != "" and value.isprintable()


def _line(value: Any) -> str:
    """Return a text on one line."""
    return " ".join(str(value).split())
