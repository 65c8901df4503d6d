"""The page itself: one HTML file that holds its pictures, clips, style and scripts, and asks nobody for anything."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from math import isfinite
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from kling_sweeps.reports.clips import Strip, groups, strip_of
from kling_sweeps.reports.contents import EXPENSES, NOTHING, Contents, Factor, Video
from kling_sweeps.reports.player import SCRIPTS as PLAYER
from kling_sweeps.reports.player import STYLE, as_base64, inlined, template

if TYPE_CHECKING:
    import numpy as np

FOLDER = Path(__file__).parent / "page"
SCRIPTS = ("numbers.js", "strips.js", "matrix.js", "theatre.js", "charts.js", "start.js")
# In bytes: what MLflow's page of artifacts still shows (50 MiB), with some room; and what a run's clip takes beside itself.
LIMIT, AROUND = 45 * 2**20, 120


def render(contents: Contents, config: str = "", limit: int = LIMIT) -> str:
    """Return the page of a sweep, of at most `limit` bytes: of clips that don't fit the filmstrips are there."""
    films = [as_base64(video.clip.film.read_bytes()) if video.clip else "" for video in contents.videos]
    tracks = _tracks(contents)
    data = _data(contents, tracks)
    page = partial(
        template(FOLDER / "report.html").render,
        contents=contents,
        facts=_facts(contents),
        expenses=list(_expenses(contents)),
        data=data,
        films=films,
        series=tracks.texts,
        config=config,
        style=inlined([*STYLE, FOLDER / "style.css"]),
        script=inlined([*PLAYER, *(FOLDER / name for name in SCRIPTS)]),
    )
    taken = len(page(strips=[], playing=0).encode()) + AROUND * len(films)
    strips = list(_strips(contents.videos, limit - taken))
    for number, strip in enumerate(strips):
        for index, left in zip(strip.clips, strip.lefts, strict=True):
            data["runs"][index]["clip"] = [number, left]
    playing = sum(len(strip.clips) for strip in strips)
    return page(strips=strips, playing=playing)


@dataclass(frozen=True)
class Tracks:
    """The series of all runs by a byte a point: 0 to 254 from `low` to `high` of a metric's `ranges`, 255 for none.

    `texts` has a text a run, in Base64: its metrics one after another, each with as many points as `points` says.
    """

    ranges: Mapping[str, tuple[float, float]]
    texts: Sequence[str]
    points: Sequence[int]


def _tracks(contents: Contents) -> Tracks:
    import numpy as np

    with ThreadPoolExecutor() as threads:
        series = list(threads.map(Video.series, contents.videos))
    ranges = {}
    for quantity in contents.quantities:
        found = [one[quantity.name] for one in series if quantity.name in one]
        values = np.concatenate(found) if found else np.array([])
        values = values[np.isfinite(values)]
        if values.size:
            ranges[quantity.name] = float(values.min()), float(values.max())
    texts, points = [], []
    for one in series:
        points.append(len(next(iter(one.values()), ())))
        missing = np.full(points[-1], np.nan)
        rows = [_bytes(one.get(name, missing), *limits) for name, limits in ranges.items()]
        texts.append(as_base64(b"".join(rows)))
    return Tracks(ranges, texts, points)


def _bytes(values: np.ndarray, low: float, high: float) -> bytes:
    import numpy as np

    share = (values - low) / ((high - low) or 1.0)
    return np.where(np.isfinite(share), np.nan_to_num(share * 254).round(), 255).astype(np.uint8).tobytes()


def _strips(videos: Sequence[Video], room: int) -> Iterator[Strip]:
    """Yield the videos to play, the first repeat of every run before the next, until the room in bytes is taken.

    They are put together as they were asked for, so that what is added to a sweep leaves the strips before it as they are.
    """
    order = [index for index, video in enumerate(videos) if video.clip]
    order.sort(key=lambda index: (videos[index].sample, videos[index].asked_s))
    clips = [clip for index in order if (clip := videos[index].clip)]
    every, cores = groups(clips), os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as threads:
        for begin in range(0, len(every), cores):  # so that little is made in vain
            for strip in threads.map(partial(strip_of, clips), every[begin : begin + cores]):
                room -= -(-len(strip.content) // 3) * 4
                if room < 0:
                    return
                yield Strip(strip.content, tuple(order[number] for number in strip.clips), strip.lefts)


def _data(contents: Contents, tracks: Tracks) -> dict[str, Any]:
    """Return what the scripts are told, as JSON has it."""
    quantities = [
        {**asdict(one), "range": tracks.ranges.get(one.name), "isGoal": one.name in contents.goals}
        for one in contents.quantities
    ]
    names = [one.name for one in contents.quantities]
    texts = _texts(contents.videos)
    runs = [
        {
            "name": video.name,
            "status": video.status,
            "why": video.why,
            "flaws": video.flaws,
            "broken": video.broken,
            "levels": [video.levels[factor.key] for factor in contents.factors],
            "sample": video.sample,
            "text": texts.index(video.params.get("prompt_text", "")),
            "values": [_short(video.values.get(name)) for name in names],
            "points": points,
            "run": video.run_id,
            "size": [video.clip.width, video.clip.height] if video.clip else None,
            "seconds": round(video.clip.duration_s, 4) if video.clip else 0,
            "frames": len(video.clip.times) if video.clip else 0,
            "clip": None,
        }
        for video, points in zip(contents.videos, tracks.points, strict=True)
    ]
    return {
        "means": [
            {"factor": key, "metric": metric, "level": level, "mean": mean, "low": low, "high": high}
            for key, metric, level, (mean, low, high) in _means(contents)
        ],
        "factors": [
            {"key": one.key, "levels": one.levels, "isNumeric": one.is_numeric} for one in contents.factors
        ],
        "quantities": quantities,
        "tracks": list(tracks.ranges),
        "texts": texts,
        "prompts": _prompts(contents),
        "runs": runs,
    }


def _means(contents: Contents) -> Iterator[tuple[str, str, int, tuple[float | None, ...]]]:
    """Yield the mean and the interval of each level that has one, by factor and metric."""
    for factor in contents.factors:
        found = contents.findings.get(factor.key)
        for metric, by_level in (found.means if found else {}).items():
            for level, numbers in by_level.items():
                if level in factor.levels:
                    yield factor.key, metric, factor.levels.index(level), tuple(map(_finite, numbers))


def _finite(value: float) -> float | None:
    return _short(value) if isfinite(value) else None


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def _texts(videos: Iterable[Video]) -> list[str]:
    """Return the texts of the videos' prompts, each once."""
    return list(dict.fromkeys(video.params.get("prompt_text", "") for video in videos))


def _prompts(contents: Contents) -> dict[str, int]:
    """Return, for each prompt that has one text alone, the number of its text."""
    texts = _texts(contents.videos)
    found: dict[str, set[int]] = {}
    for video in contents.videos:
        found.setdefault(video.params.get("prompt", ""), set()).add(
            texts.index(video.params.get("prompt_text", ""))
        )
    return {prompt: min(numbers) for prompt, numbers in found.items() if len(numbers) == 1}


def _facts(contents: Contents) -> dict[str, Any]:
    """Return what stands above the matrix."""
    videos = contents.videos
    prices = [video.values["cost_usd"] for video in videos if "cost_usd" in video.values]
    begun = sorted(video.started_ms for video in videos if video.started_ms)
    differing = {factor.key for factor in contents.factors} | {"prompt_text", "sample", "endpoint"}
    settings = dict.fromkeys(key for video in videos for key in video.params if key not in differing)
    by_model = {video.params.get("model", ""): video.params for video in reversed(videos)}
    texts = _texts(videos)
    shared = {key for key in settings if len({video.params.get(key) for video in videos}) == 1}
    return {
        "asked": _asked(contents.factors, videos),
        "text": texts[0] if len(texts) == 1 else "",
        "finished": len(contents.of("finished")),
        "failed": len(contents.of("failed")),
        "coming": len(contents.of("coming")),
        "broken": sum(bool(video.broken) for video in videos),
        "usd": sum(prices),
        "unpriced": sum("cost_usd" not in video.values for video in contents.of("finished")),
        "begun": _span(begun),
        "fixed": {key: videos[0].params[key] for key in settings if key in shared},
        "of_models": {
            model: {key: own[key] for key in settings if key not in shared and key in own}
            for model, own in reversed(by_model.items())
        },
    }


def _asked(factors: Sequence[Factor], videos: Sequence[Video]) -> str:
    """Say in a line what was swept over."""
    parts = [
        f"{len(one.levels)} prompts"
        if one.key == "prompt"
        else f"{one.key} {', '.join(map(_cut, one.levels))}"
        for one in factors
    ]
    samples = len({video.sample for video in videos})
    return " × ".join([*parts, *([f"{samples} repeats"] * (samples > 1))])


def _cut(text: str, length: int = 40) -> str:
    return text if len(text) <= length else f"{text[:length].rstrip()}…"


def _span(begun_ms: Sequence[int]) -> str:
    """Return when the first and the last run were submitted."""
    if not begun_ms:
        return ""
    first, last = (datetime.fromtimestamp(ms / 1000, UTC) for ms in (begun_ms[0], begun_ms[-1]))
    day = "" if first.date() == last.date() else f"{last.day} {last:%B %Y}, "
    return f"{first.day} {first:%B %Y}, {first:%H:%M} to {day}{last:%H:%M} UTC"


def _expenses(contents: Contents) -> Iterator[tuple[str, list[tuple[str, list[str]]]]]:
    """Yield, for all the runs and for each factor, the rows of a table of money and times."""
    yield "", [("all", _sums(contents.videos))]
    for factor in contents.factors:
        rows = []
        for index, level in enumerate(factor.levels):
            rows.append(
                (_cut(level, 60), _sums([one for one in contents.videos if one.levels[factor.key] == index]))
            )
        yield factor.key, rows


def _sums(videos: Sequence[Video]) -> list[str]:
    prices = [video.values["cost_usd"] for video in videos if "cost_usd" in video.values]
    failed = sum(video.status == "failed" for video in videos)
    return [
        str(sum(video.status == "finished" for video in videos)),
        str(failed or NOTHING),
        f"{sum(prices):.2f}" if prices else NOTHING,
        *(_median(videos, name) for name in EXPENSES if name != "cost_usd"),
    ]


def _median(videos: Iterable[Video], name: str) -> str:
    found = [video.values[name] for video in videos if name in video.values]
    return f"{median(found):.1f}" if found else NOTHING
