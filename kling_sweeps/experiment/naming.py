"""What things are called: the metrics that are a run's money and time, and the parts of its name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

# The metrics of a run's time, in seconds, in their order, and of its time and its money.
TIMES = ("queue_s", "inference_s", "download_s", "measure_s")
BOOKKEEPING = ("cost_usd", *TIMES)
# The metrics of what people preferred: the share of its votes that a run won, a tie counting half, and how many those are.
VOTES = ("votes/win_share", "votes/n")
# What the metrics begin with that judges gave, a metric a question, and the tags, one a question too, that say what of
# their answers could not be read.
JUDGED, UNREADABLE = "judge/", "judge_unreadable/"
# What the name of a judge's metric ends with that says of how many answers another one is the mean.
COUNT = "/n"
# What runs are kept under that are of no sweep, and were given no name.
NAMELESS = "single"
# What the reports of all sweeps are kept under.
REPORTS = "reports"
LENGTH = 40
FORMS = {
    "prompt": "{}",
    "prompts": "prompts {}",
    "cfg_scale": "cfg {}",
    "aspect_ratio": "{}",
    "duration": "{} s",  # of a number; "8s" stands for itself
    "negative_prompt": "not {}",
}


def is_grade(name: str) -> bool:
    """Tell whether a metric is what a judge gave; `judge/n` is, of a question that is called so, and `judge/n/n` is not."""
    return name.startswith(JUDGED) and not name.removeprefix(JUDGED).endswith(COUNT)


def is_of_video(name: str) -> bool:
    """Tell whether a metric is of a video itself, and not of its money and time, its votes, or how many answers it had."""
    return name not in (*BOOKKEEPING, *VOTES) and (is_grade(name) or not name.startswith(JUDGED))


def part(key: str, value: Any) -> str:
    """Return what stands for a key's value: at most 40 characters, distinct for distinct values."""
    if value == "":
        return _short(f"no {key}")
    said = _said(value)
    is_plain = isinstance(value, str) and "." not in key
    form = FORMS.get(key, "{}" if is_plain else f"{key} {{}}")
    return _short(said if form == FORMS["duration"] and not said[-1:].isdigit() else form.format(said))


def _said(value: Any) -> str:
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _short(text: str) -> str:
    """Return a text on one line, with a digest of it where it is cut or could be mistaken for another."""
    line = " ".join(text.split())
    if line == text and 0 < len(line) <= LENGTH and not set(line) & set("·…"):
        return line
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return f"{line[: LENGTH - 8].rstrip()}… {digest}"


def in_words(some: Iterable[object]) -> str:
    """Return a list as a sentence has it."""
    *first, last = map(str, some)
    return f"{', '.join(first)} and {last}" if first else last
