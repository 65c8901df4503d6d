"""What a command expects of its runs and of its sweep, its gates: read and checked before anything is submitted."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from kling_sweeps.experiment.naming import BOOKKEEPING, JUDGED
from kling_sweeps.experiment.reader import LARGEST, close, said
from kling_sweeps.metrics.camera import WORDS, Camera

# Keys of `expect` that are no metrics.
ERRORS, JUNIT, CAMERA = "measurement_errors", "junit", "camera"
BOUNDS, WAYS = ("min", "max"), ("drop", "rise")
CHANGE = ("max", "confidence")
CONFIDENCE = 0.95
PERCENT = re.compile(r"\s*(\d+(?:\.\d*)?)\s*%\s*")


@dataclass(frozen=True)
class Limits:
    """A gate of each run: its metric is at least `min` and at most `max`, where these are given."""

    metric: str
    min: float | None = None
    max: float | None = None

    def __str__(self) -> str:
        given = (("min", self.min), ("max", self.max))
        return ", ".join(f"{name} {bound:g}" for name, bound in given if bound is not None)

    def holds(self, value: float) -> bool:
        """Tell whether a value is within the limits, which NaN never is."""
        low, high = -inf if self.min is None else self.min, inf if self.max is None else self.max
        return low <= value <= high


@dataclass(frozen=True)
class Change:
    """A gate of the sweep: the mean of a metric is at most `percent` below (`drop`) or above (`rise`) its baseline.

    It holds where all of the mean's interval does, at a `confidence` between 0 and 1.
    """

    metric: str
    baseline: float
    way: str
    percent: float
    confidence: float = CONFIDENCE

    def __str__(self) -> str:
        return (
            f"{self.way} from {self.baseline:g} at most {self.percent:g} %, "
            f"with {100 * self.confidence:g} % confidence"
        )

    def of(self, mean: float) -> float:
        """Return how far a mean is below or above the baseline, in percent of it."""
        change = self.baseline - mean if self.way == "drop" else mean - self.baseline
        return 100 * change / abs(self.baseline)


@dataclass(frozen=True)
class Expectations:
    """The gates of a command; `junit` is the file that gets the results.

    Of each run are the `limits`, `no_errors`, and the words of which one says what its `camera` does, any where there is none.
    """

    limits: tuple[Limits, ...] = ()
    no_errors: bool = False
    camera: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()
    junit: Path | None = None

    @property
    def of_runs(self) -> bool:
        """Tell whether there is a gate of each run."""
        return bool(self.limits or self.camera) or self.no_errors

    @property
    def metrics(self) -> list[str]:
        """Return the metrics that have gates."""
        return [*(one.metric for one in self.limits), *(one.metric for one in self.changes)]

    def __bool__(self) -> bool:
        return self.of_runs or bool(self.changes) or self.junit is not None


def _meant(name: str, known: Collection[str]) -> str:
    """Return what to say after a metric that nobody gives: who would, the one that was meant, or all there are."""
    if name.startswith(JUDGED) and not any(one.startswith(JUDGED) for one in known):
        return "; add the judge that gives it, as judge=fidelity"
    return close(name, known)


def read_expectations(given: Any, measured: Iterable[str]) -> tuple[Expectations, list[str]]:
    """Read what `expect` holds, of metrics that are `measured`; return it with all that is wrong with it."""
    problems: list[str] = []
    entries = _mapping(given, "expect", "{cuts: {max: 0}}", problems)
    known = [*measured, *BOOKKEEPING]
    limits: list[Limits] = []
    changes: list[Change] = []
    for metric, entry in entries.items():
        if metric in (ERRORS, JUNIT, CAMERA):
            continue
        key = f"expect.{metric}"
        if metric not in known:
            problems.append(f"{key} is not measured{_meant(metric, known)}")
        elif parts := _mapping(entry, key, "{max: 0}", problems, (*BOUNDS, "baseline", *WAYS)):
            limits += _limits(metric, key, parts, problems)
            changes += _changes(metric, key, parts, problems)
        elif isinstance(entry, Mapping) and not entry:
            problems.append(f"{key} expects nothing; give min, max, or a baseline with drop or rise")
    errors, junit = entries.get(ERRORS), entries.get(JUNIT)
    if errors not in (None, "none"):
        problems.append(f"expect.{ERRORS}={said(errors)}: nothing but none can be expected")
    if junit is not None and not (isinstance(junit, str) and junit.strip()):
        problems.append(f"expect.{JUNIT}={said(junit)} is not the name of a file")
    camera = _camera(entries.get(CAMERA), known, problems)
    file = Path(junit).expanduser() if isinstance(junit, str) and junit.strip() else None
    return Expectations(tuple(limits), errors is not None, camera, tuple(changes), file), problems


def _camera(given: Any, known: Sequence[str], problems: list[str]) -> tuple[str, ...]:
    """Return the words for the camera that are expected, one or a list of them."""
    if given is None:
        return ()
    key, words = f"expect.{CAMERA}", given if isinstance(given, list) else [given]
    problems += [
        f"{key}={said(one)} is no word for a camera{close(str(one), WORDS)}"
        for one in words
        if one not in WORDS
    ]
    if not words:
        problems.append(f"{key} expects nothing; give one of {', '.join(WORDS)}")
    if missing := [value.name for value in Camera.values if value.name not in known]:
        problems.append(f"{key}: {', '.join(missing)} are not measured; metrics=default measures them")
    return tuple(map(str, words))


def _mapping(
    value: Any, key: str, example: str, problems: list[str], valid: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return a mapping without what is null, which expects nothing; report what is none, and keys that are not valid."""
    if not isinstance(value, Mapping | None):
        problems.append(f"{key}={said(value)} is not a mapping, as {example}")
        return {}
    found = {str(name): one for name, one in (value or {}).items() if one is not None}
    unknown = [name for name in found if valid and name not in valid]
    problems += [f"{key}.{name} is unknown{close(name, valid or ())}" for name in unknown]
    return found


def _limits(metric: str, key: str, parts: Mapping[str, Any], problems: list[str]) -> Iterator[Limits]:
    given = {name: _number(parts[name], f"{key}.{name}", problems) for name in BOUNDS if name in parts}
    limits = Limits(metric, **given)
    if limits.min is not None and limits.max is not None and limits.min > limits.max:
        problems.append(f"{key}: nothing is at least {limits.min:g} and at most {limits.max:g}")
    if given:
        yield limits


def _changes(metric: str, key: str, parts: Mapping[str, Any], problems: list[str]) -> Iterator[Change]:
    ways = [way for way in WAYS if way in parts]
    if "baseline" not in parts:
        problems += [f"{key}.{way} needs {key}.baseline, the mean that it is from" for way in ways]
        return
    baseline = _number(parts["baseline"], f"{key}.baseline", problems)
    if not ways:
        problems.append(f"{key}.baseline needs a drop or a rise, as drop: {{max: 10 %}}")
    if baseline == 0:
        problems.append(f"{key}.baseline=0 has no percent")
    for way in ways:
        place = f"{key}.{way}"
        entry = _mapping(parts[way], place, "{max: 10 %}", problems, CHANGE)
        if isinstance(parts[way], Mapping) and "max" not in entry:
            problems.append(f"{place} needs max, as {{max: 10 %}}")
        percent = _percent(entry["max"], f"{place}.max", problems) if "max" in entry else None
        confidence = _number(entry.get("confidence", CONFIDENCE), f"{place}.confidence", problems)
        if confidence is not None and not 0 < confidence < 1:
            problems.append(f"{place}.confidence={confidence:g} is not between 0 and 1, as 0.95")
        if None not in (baseline, percent, confidence):
            yield Change(metric, baseline or 0.0, way, percent or 0.0, confidence or 0.0)


def _number(value: Any, key: str, problems: list[str]) -> float | None:
    """Return a finite number, None where it is none."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST:
        return float(value)
    problems.append(f"{key}={said(value)} is not a finite number")
    return None


def _percent(value: Any, key: str, problems: list[str]) -> float | None:
    """Return the percent in `10 %` or 10. A number below 1 may as well be meant as a share, and is refused."""
    if isinstance(value, str):
        if found := PERCENT.fullmatch(value):
            return float(found[1])
        problems.append(f"{key}={value} is not a percentage, as 10 %")
        return None
    number = _number(value, key, problems)
    if number is not None and (number < 0 or 0 < number < 1):
        problems.append(
            f"{key}={value} is negative"
            if number < 0
            else f"{key}={value} may be a share or percent; write {number:g} % or {100 * number:g} %"
        )
        return None
    return number
