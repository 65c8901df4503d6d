"""What the tracker is told of a run: its metrics, its tags, its description."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from kling_sweeps.experiment.naming import JUDGED, UNREADABLE
from kling_sweeps.experiment.picture import Attachment
from kling_sweeps.experiment.request import GenerationRequest
from kling_sweeps.experiment.settings import Cell
from kling_sweeps.measurement.measurement import distance_from, read_series
from kling_sweeps.metrics.camera import word
from kling_sweeps.store.measured import read_facts, read_flaws, read_record, read_values
from kling_sweeps.store.result import RunResult

if TYPE_CHECKING:
    import numpy as np

# The series that are worth a chart; all others are in frames.parquet.
CHARTED = ("brightness", "motion", "structure")
CHART_POINTS = 300
# Numeric settings are metrics of this prefix too, since MLflow draws charts against metrics alone.
SETTING = "setting/"
SERIES = "frame/"
# Changed with what a run is written as, so that the same command writes an older one anew.
LAYOUT = 3
# Settings that may look like numbers and are texts all the same.
TEXTS = {"prompt", "negative_prompt"}
# Three texts and as many names fit into a description, which is a tag: MLflow takes 8,000 characters.
TEXT_LENGTH, ERROR_LENGTH, SETTINGS_LENGTH, NAME_LENGTH = 2500, 1500, 600, 100
DESCRIPTION_LENGTH = 8000
NAME, DESCRIPTION, COLOR = "mlflow.runName", "mlflow.note.content", "mlflow.runColor"
# Arguments whose picture is not what a video begins with: where it is to end, what is in it, what of it may move.
ENDINGS = re.compile(r"tail|end|last|reference|element|mask")
# What the first line of a description begins with that names a run's neighbours; MLflow shows few lines at first.
BESIDE = "Beside it: "
BESIDE_LINE = re.compile(rf"\A{BESIDE}.*\n\n")
# The tags that are written here; any other is a person's.
OURS = {
    "request_key", "request_id", "provider", "sweep", "content", "error", "error_type", "error_stage",
    "may_have_cost_usd", "estimate_usd", "measurement_errors", "named", "described", "colored", "kind", "search",
    "expect", "expect_failed", "camera", "picture_hashes", "text_read",
}  # fmt: skip


class Point(NamedTuple):
    """One value of a metric, its time in milliseconds since 1970 and its step."""

    name: str
    value: float
    at_ms: int
    step: int


def content(result: RunResult) -> str:
    """Return what tells a run from its earlier or later self: how it ended, with what, and what it is called."""
    ended = result.error.error_type if result.error else "finished"
    measured = result.measurement.name if result.measurement else "not measured"
    said = repr((LAYOUT, result.cell.name, sorted(result.cell.params.items()), result.state.committed_usd))
    return f"{result.state.request_id} {ended} {measured} {digest(said)}"


def words(result: RunResult) -> dict[str, str]:
    """Return a run's name and description, and tags that tell later whether a person has changed them."""
    name = result.cell.name
    return {NAME: name, "named": name, **described(description(result))}


def described(text: str) -> dict[str, str]:
    """Return a description as tags."""
    return {DESCRIPTION: text, "described": digest(text)}


def beside(text: str, line: str) -> str:
    """Return a description below its neighbours' line, in place of an earlier one; without it where it is too long."""
    bare = _bare(text)
    whole = f"{line}\n\n{bare}"
    return whole if line and len(whole) <= DESCRIPTION_LENGTH else bare


def _bare(text: str) -> str:
    return BESIDE_LINE.sub("", text)


def colored(color: str) -> dict[str, str]:
    """Return a run's colour in charts as tags."""
    return {COLOR: color, "colored": color}


def theirs(tags: Mapping[str, str]) -> dict[str, str]:
    """Return what people gave a run: tags of their own, and a name, description or colour that they changed."""
    found = {key: value for key, value in tags.items() if key not in {*OURS, *judges(tags)}}
    for key, ours in ((NAME, "named"), (COLOR, "colored")):
        if found.get(key) == tags.get(ours):
            found.pop(key, None)
    if digest(_bare(found.get(DESCRIPTION, ""))) == tags.get("described"):
        found.pop(DESCRIPTION, None)
    return found


def judges(tags: Mapping[str, str]) -> dict[str, str]:
    """Return what a run's tags say of the judges of its video."""
    return {key: value for key, value in tags.items() if key.startswith((JUDGED, UNREADABLE))}


def start_ms(result: RunResult) -> int:
    """Return when a run was submitted, or else now, in milliseconds since 1970."""
    submitted = result.state.submitting_at
    return int((submitted.timestamp() if submitted else time.time()) * 1000)


def tags(result: RunResult) -> dict[str, str]:
    """Return what a run is found by, and why it failed if it did."""
    found = {"request_id": result.state.request_id or ""}
    if result.measurement:
        if flaws := read_flaws(result.measurement):
            found["measurement_errors"] = flaws
        if "camera_pan" in (values := read_values(result.measurement)):
            found["camera"] = word(values)
        facts = read_facts(result.measurement)
        found |= {name: str(facts[name]) for name in ("picture_hashes", "text_read") if facts.get(name)}
    if result.error:
        found |= {
            "error": str(result.error),
            "error_type": result.error.error_type,
            "error_stage": result.error.stage,
        }
    if result.state.spent_usd:
        found["estimate_usd"] = f"{result.state.estimate_usd:g}"
    if perhaps := round(result.state.committed_usd - result.state.spent_usd, 4):
        found["may_have_cost_usd"] = f"{perhaps:g}"
    return found


def metrics(result: RunResult) -> list[Point]:
    """Return a run's metrics: its numeric settings, what it cost, how long each part took, and what was measured."""
    at_ms = start_ms(result)
    has_price = result.cell.request.price_usd is not None
    seconds = {name: getattr(result.state, name) for name in ("queue_s", "inference_s", "download_s")}
    values = {**settings(result.cell), "cost_usd": result.state.spent_usd if has_price else None, **seconds}
    if result.measurement is None:
        return _points(values, at_ms)
    measured = read_record(result.measurement)
    values |= {"measure_s": _measure_s(result), **measured["values"]}
    if begins := _beginning(result.cell.request):
        kept = result.entry.store.pictures / begins.file_name  # its own file may be another by now
        values["input_distance"] = distance_from(kept, measured["facts"])
    # The other series, and the filmstrip, would take as long to read as MLflow takes to create a run.
    charted = read_series(result.measurement, ("frame", "time_s", *CHARTED))
    return _points(values, at_ms) + list(_series(charted, at_ms))


def _beginning(request: GenerationRequest) -> Attachment | None:
    """Return the picture that a video was to begin with, None where it was given none."""
    given = request.pictures_by_argument()
    return next((picture for name, picture in given if not ENDINGS.search(name)), None)


def settings(cell: Cell) -> dict[str, float]:
    """Return the arguments and template factors of a cell that are numbers, as metrics."""
    given = {**cell.request.shown, **cell.factors}
    texts = {*TEXTS, cell.prompt_argument}
    numbers = {key: number(value) for key, value in given.items() if key not in texts}
    return {f"{SETTING}{key}": value for key, value in numbers.items() if value is not None}


def number(value: object) -> float | None:
    """Return a setting as a number, None where it is none."""
    try:
        found = math.nan if isinstance(value, bool) else float(str(value))
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def description(result: RunResult) -> str:
    """Return the run in Markdown, for MLflow's run page; what others wrote is in it as text, as it is."""
    cell = result.cell
    parts = [_settings_line(cell), _block(cell.prompt_text)]
    if negative := cell.request.arguments.get("negative_prompt"):
        parts += ["Without:", _block(negative)]
    if error := result.error:
        parts += [
            f"**Failed** ({inline(error.error_type)}, at {error.stage}):",
            _block(str(error), ERROR_LENGTH),
        ]
    parts.append(inline(cell.request.endpoint))
    return "\n\n".join(parts)


def _settings_line(cell: Cell) -> str:
    """Return a run's settings and its price, as many as fit on a line."""
    given = {**cell.factors, **cell.request.shown}
    texts = {*TEXTS, cell.prompt_argument}
    said = [f"{key} {inline(str(value))}" for key, value in given.items() if key not in texts]
    price = cell.request.price_usd
    said.append("price unknown" if price is None else f"{price:.2f} USD")
    while len(line := " · ".join(said)) > SETTINGS_LENGTH:
        said.pop(-2)
    return line


def _block(text: str, length: int = TEXT_LENGTH) -> str:
    """Return a text as a code block, fenced by more backticks than it has in a row."""
    text = _bounded(text, length)
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}\n{text}\n{fence}"


def inline(text: str) -> str:
    """Return a text as a code span on one line, between more backticks than it has in a row."""
    line = _bounded(" ".join(text.split()), NAME_LENGTH)
    fence = "`" * (_longest_run(line) + 1)
    space = " " * (line[:1] == "`" or line[-1:] == "`")
    return f"{fence}{space}{line}{space}{fence}"


def _bounded(text: str, length: int) -> str:
    """Return a text, or the beginning of a long one, with at most nine backticks in a row."""
    text = re.sub("`{9,}", "`" * 9, text)
    return text if len(text) <= length else f"{text[:length]}…"


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def digest(text: str) -> str:
    return sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def _points(values: Mapping[str, float | None], at_ms: int) -> list[Point]:
    """Return the values that there are; MLflow's charts have no use for NaN."""
    return [
        Point(name, float(value), at_ms, 0)
        for name, value in values.items()
        if value is not None and value == value
    ]


def _measure_s(result: RunResult) -> float | None:
    if result.measurement is None:
        return None
    made = [
        event["seconds"]
        for event in result.entry.journal.events()
        if event["event"] == "measured" and event["fingerprint"] == result.measurement.name
    ]
    return made[-1] if made else None


def _series(columns: Mapping[str, np.ndarray], start_ms: int) -> Iterator[Point]:
    """Yield the charted series, a point a frame, their times those of the video."""
    step = -(-len(columns["frame"]) // CHART_POINTS) or 1
    thinned = {name: column[::step].tolist() for name, column in columns.items()}
    for name in set(CHARTED) & thinned.keys():
        for frame, time_s, value in zip(thinned["frame"], thinned["time_s"], thinned[name], strict=True):
            if value == value:
                yield Point(f"{SERIES}{name}", value, start_ms + int(time_s * 1000), frame)
