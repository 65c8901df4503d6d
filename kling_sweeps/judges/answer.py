"""What a judge answered: grades or verdicts, or an error; nothing that it says beside them is ever a number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TypeVar

from kling_sweeps.errors import UnreadableAnswerError
from kling_sweeps.experiment.rubric import Rubric
from kling_sweeps.judges.instructions import END, Verdict
from kling_sweeps.untrusted import clean

Answer = TypeVar("Answer", int, Verdict)
# What a model may set in bold or as code.
MARKS = "*`"


def read_grades(rubric: Rubric, code: str, text: str) -> dict[str, int]:
    """Return the grade of each question of a rubric, of an answer to instructions with a code.

    Raises UnreadableAnswerError where an answer does not have each question once, with a grade of its scale, and the form's last line after them.
    """
    answers = {one.name: {str(grade): grade for grade in one.scale} for one in rubric.questions}
    return _read(answers, code, text)


def read_verdicts(rubric: Rubric, code: str, text: str) -> dict[str, Verdict]:
    """Return by question which of two videos is better; raise as `read_grades` does."""
    verdicts = {str(verdict): verdict for verdict in Verdict}
    return _read({one.name: verdicts for one in rubric.questions}, code, text)


def _read(answers: Mapping[str, Mapping[str, Answer]], code: str, text: str) -> dict[str, Answer]:
    """Return what stands for the words in the lines of an answer that have the code; every such line has to be one.

    The last of them is the form's end, which an answer that was cut off does not have.
    """
    lines = [_words(line) for line in text.splitlines() if code in line]
    if is_whole := lines[-1:] == [[code, END]]:
        lines.pop()
    for words in lines:
        if len(words) != 3 or words[0] != code or words[1][-1] != ":" or words[1][:-1] not in answers:
            raise _unreadable(f"has no answer in the line {' '.join(words)!r}", text)
        if words[2].lower() not in answers[words[1][:-1]]:
            raise _unreadable(f"has {words[2]!r} for {words[1][:-1]}", text)
    counted = Counter(words[1][:-1] for words in lines)
    for name in answers:
        if counted[name] != 1:
            raise _unreadable(f"has {counted[name] or 'no'} answers to {name}", text)
    if not is_whole:
        raise _unreadable("has no last line, and may have been cut off", text)
    return {words[1][:-1]: answers[words[1][:-1]][words[2].lower()] for words in lines}


def _words(line: str) -> list[str]:
    """Return the words of a line, without the dash of a list and what sets them off."""
    words = (word.strip(MARKS) for word in line.strip().removeprefix("- ").split())
    return [word for word in words if word]


def _unreadable(why: str, text: str) -> UnreadableAnswerError:
    return UnreadableAnswerError(f"the judge's answer {clean(why, 120)}: {clean(text, 200) or 'it is empty'}")
