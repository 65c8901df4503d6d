"""One pass over a video in which every metric sees every frame."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from math import isfinite, nan

import av
import numpy as np

from kling_sweeps.measurement.measurement import Measurement
from kling_sweeps.metric import PLANES_VERSION, FrameMetric, Requested
from kling_sweeps.video import opencv as cv2
from kling_sweeps.video.bars import without_bars
from kling_sweeps.video.decode import Video
from kling_sweeps.video.filmstrip import Filmstrip
from kling_sweeps.video.picture_hash import written


def observe(video: Video, metrics: Sequence[FrameMetric], requested: Requested | None = None) -> Measurement:
    """Show every frame of a video to every metric, once and without bars; raise `VideoError` where there is none."""
    cv2.load()
    errors: dict[str, str] = {}
    for metric in metrics:
        with _recorded(metric, errors):
            metric.start(video, requested or Requested())
    times_s, strip = _decoded(video, metrics, errors)
    values = {name: value for metric in metrics for name, value in _values(metric, errors).items()}
    facts = {name: fact for metric in metrics for name, fact in _facts(metric, errors).items()}
    columns = _columns(times_s, metrics, errors)
    if video.facts.problem:
        errors["video"] = video.facts.problem
    return Measurement(
        values=values,
        columns=columns,
        errors=errors,
        facts=facts | asdict(video.facts) | {"picture_hashes": written(strip.hashes())},
        versions=_versions(metrics),
        filmstrip=strip.image(),
    )


def _decoded(
    video: Video, metrics: Sequence[FrameMetric], errors: dict[str, str]
) -> tuple[Sequence[float], Filmstrip]:
    times_s, strip = array("d"), Filmstrip()
    for frame in without_bars(video):
        if not times_s:
            strip = Filmstrip(expected=video.declared_frames)
        times_s.append(frame.time_s)
        strip.update(frame)
        for metric in metrics:
            if metric.name not in errors:
                with _recorded(metric, errors):
                    metric.update(frame)
    return times_s, strip


@contextmanager
def _recorded(metric: FrameMetric, errors: dict[str, str]) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        errors.setdefault(metric.name, f"{type(error).__name__}: {error}")


def _values(metric: FrameMetric, errors: dict[str, str]) -> dict[str, float]:
    found = dict.fromkeys((value.name for value in metric.values), nan)
    if metric.name not in errors:
        with _recorded(metric, errors):
            computed = metric.compute()
            found = {name: float(computed.get(name, nan)) for name in found}
    return {name: value if isfinite(value) else nan for name, value in found.items()}


def _facts(metric: FrameMetric, errors: dict[str, str]) -> dict[str, str]:
    with _recorded(metric, errors):
        return {str(name): str(fact) for name, fact in metric.facts().items()}
    return {}


def _columns(
    times_s: Sequence[float], metrics: Sequence[FrameMetric], errors: dict[str, str]
) -> dict[str, np.ndarray]:
    columns = {"frame": np.arange(len(times_s)), "time_s": np.array(times_s)}
    for metric in metrics:
        for name, series in metric.series.items():
            if name in columns:
                errors.setdefault(metric.name, f"there is a series {name} already, of another metric")
                continue
            columns[name] = np.full(len(times_s), nan)
            columns[name][: len(series)] = series
    return columns


def _versions(metrics: Sequence[FrameMetric]) -> dict[str, str]:
    libraries = {
        "av": av.__version__,
        "ffmpeg": av.ffmpeg_version_info,
        "opencv": cv2.load().__version__,
        "numpy": np.__version__,
        "planes": str(PLANES_VERSION),
    }
    return libraries | {f"metric.{metric.name}": str(metric.version) for metric in metrics}
