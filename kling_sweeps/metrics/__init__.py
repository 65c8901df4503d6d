"""The metrics by name, and `measure`, which takes them all in one pass over a video.

A new metric is a file here, a line in `METRICS` and a line in `conf/metrics/`. One of your own needs no
place here: name it in YAML by `target`, as `my_metric: {target: "package.module:Class", size: 3}`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import traceback
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kling_sweeps.errors import ConfigError
from kling_sweeps.metric import (
    PLANES_VERSION,
    FrameMetric,
    Requested,
    Value,
    parameters,
)
from kling_sweeps.metrics.bars import Bars
from kling_sweeps.metrics.blockiness import Blockiness
from kling_sweeps.metrics.camera import Camera
from kling_sweeps.metrics.color import Colorfulness, Saturation
from kling_sweeps.metrics.cuts import Cuts
from kling_sweeps.metrics.edges import EdgeWidth
from kling_sweeps.metrics.file import File
from kling_sweeps.metrics.flicker import StaticFlicker
from kling_sweeps.metrics.freeze import Freeze
from kling_sweeps.metrics.information import SpatialInformation, TemporalInformation
from kling_sweeps.metrics.loop import LoopGap
from kling_sweeps.metrics.luma import Luma
from kling_sweeps.metrics.motion import Dynamic, Motion, WarpError
from kling_sweeps.metrics.noise import Noise
from kling_sweeps.metrics.sets import Spec as Spec
from kling_sweeps.metrics.sets import specification as specification
from kling_sweeps.metrics.sharpness import Sharpness
from kling_sweeps.metrics.steadiness import ColorDrift, Exposure, Stutter
from kling_sweeps.metrics.text import Text
from kling_sweeps.metrics.vbench import TemporalFlickering
from kling_sweeps.video import MAX_PIXELS

if TYPE_CHECKING:
    from kling_sweeps.measurement.measurement import Measurement

METRICS: Mapping[str, type[FrameMetric]] = {
    "file": File,
    "bars": Bars,
    "luma": Luma,
    "exposure": Exposure,
    "saturation": Saturation,
    "colorfulness": Colorfulness,
    "color_drift": ColorDrift,
    "sharpness": Sharpness,
    "edge_width": EdgeWidth,
    "noise": Noise,
    "blockiness": Blockiness,
    "spatial_information": SpatialInformation,
    "temporal_information": TemporalInformation,
    "motion": Motion,
    "dynamic": Dynamic,
    "camera": Camera,
    "warp_error": WarpError,
    "static_flicker": StaticFlicker,
    "freeze": Freeze,
    "stutter": Stutter,
    "cuts": Cuts,
    "loop": LoopGap,
    "vbench_temporal_flickering": TemporalFlickering,
    "text": Text,
}

# As endpoints write them: "16:9", "21:9 ", 5, "8.0", "8s".
NUMBER = r"\s*(\d+(?:\.\d*)?)\s*"
RATIO = re.compile(f"{NUMBER}[:/]{NUMBER}")
SECONDS = re.compile(f"{NUMBER}(?:s|sec|seconds?)?\\s*")


@dataclass(frozen=True)
class Row:
    """A value as the table of metrics shows it; `metric` is its name in `conf/metrics/`."""

    metric: str
    name: str
    meaning: str
    unit: str
    range: tuple[float, float]
    direction: str
    version: int
    source: str
    alike_in: tuple[str, ...]


def build(spec: Spec | str | Path = "default") -> list[FrameMetric]:
    """Make the metrics of a specification, those whose packages are installed; raise `ConfigError` with all that is wrong with it."""
    return [metric for metric in _all(spec) if not metric.missing()]


def remarks(spec: Spec | str | Path, requested: Iterable[Requested]) -> list[str]:
    """Say, once each, what there will be no value of: for want of a package, or since a request does not ask for it."""
    absent = [_absent(metric) for metric in _all(spec) if metric.missing()]
    metrics = build(spec)
    said = [metric.remark(each) for each in dict.fromkeys(requested) for metric in metrics]
    return [*dict.fromkeys(filter(None, absent + said))]


def _absent(metric: FrameMetric) -> str:
    names, packages = ", ".join(value.name for value in metric.values), metric.missing()
    remedy = f"'kling-sweeps[{metric.extra}]'" if metric.extra else " ".join(packages)
    return f"{names} are not measured without {' and '.join(packages)}: pip install {remedy}"


def _all(spec: Spec | str | Path) -> list[FrameMetric]:
    """Make all metrics of a specification, whether they can measure here or not."""
    metrics: list[FrameMetric] = []
    problems: list[str] = []
    spec = specification(spec) if isinstance(spec, str | Path) else spec
    if not isinstance(spec, Mapping):
        raise ConfigError(f"metrics={spec!r}: expected a mapping of metrics to their parameters")
    for name, settings in spec.items():
        try:
            metrics.append(_built(name, settings))
        except ConfigError as error:
            problems += error.problems
    problems += _produced_twice(metrics)
    if problems:
        raise ConfigError(*dict.fromkeys(problems))
    return metrics


def fingerprint(spec: Spec | str | Path) -> str:
    """Digest the metrics with their versions and parameters: 16 hex digits, equal for equal numbers."""
    identity = {
        metric.name: [_identity(type(metric)), metric.version, parameters(metric)] for metric in build(spec)
    }
    canonical = json.dumps([PLANES_VERSION, identity], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def describe(spec: Spec | str | Path = "full") -> list[Row]:
    """List every value that the metrics of a specification produce, those of packages that are not installed too."""
    return [
        Row(
            metric.name,
            value.name,
            value.meaning,
            value.unit,
            value.range,
            value.direction,
            metric.version,
            value.source,
            value.alike_in,
        )
        for metric in _all(spec)
        for value in metric.values
    ]


@cache
def declared() -> Mapping[str, Value]:
    """Return every value that the metrics here produce, by name."""
    return {value.name: value for kind in METRICS.values() for value in kind.values}


def measure(
    path: str | Path,
    metrics: Spec | str | Path = "default",
    *,
    aspect_ratio: str | None = None,
    duration: float | None = None,
    prompt: str = "",
    threads: int = 0,
    max_pixels: int = MAX_PIXELS,
) -> Measurement:
    """Measure a video in one decode.

    `metrics` is a set of `conf/metrics/` (default, fast, full, text), a YAML file like them, or what they
    hold. `aspect_ratio` ("16:9"), `duration` (seconds) and `prompt` are what was requested; without them what
    compares with them is NaN. What there is no value of, for want of a package or of words in quotes, is a warning. `threads` decode; 0 leaves their number to FFmpeg. A frame of more than `max_pixels`
    is not decoded. Raises `VideoError` where
    nothing can be decoded and `ConfigError` for a bad specification. A metric that fails is NaN
    and has its message in `errors`, a file with a broken tail has one under `video`.
    """
    from kling_sweeps.measurement.observe import observe
    from kling_sweeps.video.decode import Video

    wanted = requested(aspect_ratio, duration, prompt)
    for remark in remarks(metrics, [wanted]):
        warnings.warn(remark, stacklevel=2)
    return observe(Video(Path(path), threads, max_pixels), build(metrics), wanted)


def requested(aspect_ratio: str | None, duration: float | None, prompt: str = "") -> Requested:
    """Read what was requested, "16:9", seconds and a prompt; raise `ConfigError` for what no video can have."""
    wanted = comparable(aspect_ratio, duration)
    if aspect_ratio is not None and wanted.aspect_ratio is None:
        raise ConfigError(f"aspect_ratio={aspect_ratio!r}: expected width:height, as 16:9")
    if duration is not None and wanted.duration_s is None:
        raise ConfigError(f"duration={duration!r}: expected seconds, more than 0")
    return replace(wanted, prompt=prompt)


def comparable(aspect_ratio: object, duration: object) -> Requested:
    """Read what an endpoint was sent, as far as a video can be compared with it: "auto" asks for nothing."""
    ratio, seconds = RATIO.fullmatch(str(aspect_ratio)), SECONDS.fullmatch(str(duration))
    return Requested(
        _above_0(float(ratio[1]), float(ratio[2])) if ratio else None,
        _above_0(float(seconds[1]), 1.0) if seconds else None,
    )


def _above_0(numerator: float, denominator: float) -> float | None:
    divided = numerator / denominator if denominator else inf
    return divided if 0 < divided < inf else None


def _built(name: str, settings: Mapping[str, Any] | None) -> FrameMetric:
    if settings is not None and not isinstance(settings, Mapping):
        raise ConfigError(f"metrics.{name}={settings!r}: expected its parameters, or nothing")
    arguments = dict(settings or {})
    kind = _kind(name, arguments.pop("target", None))
    _check(name, kind, arguments)
    defaults = parameters(kind)
    # 27 and 27.0 are one parameter, and one fingerprint.
    try:
        metric = kind(
            **{
                key: float(value) if isinstance(defaults[key], float) else value
                for key, value in arguments.items()
            }
        )
    except Exception as error:
        raise ConfigError(f"metrics.{name}: {error}") from error
    metric.name = name
    return metric


def _kind(name: str, target: str | None) -> type[FrameMetric]:
    if target is not None:
        return _imported(name, target)
    if name not in METRICS:
        raise ConfigError(f"metrics.{name} is not a metric{_instead(name, METRICS)}")
    return METRICS[name]


def _imported(name: str, target: str) -> type[FrameMetric]:
    module, _, attribute = str(target).partition(":")
    try:
        kind = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        why = _own_fault(module, error) or f"metrics.{name}.target={target!r} can't be imported: {error}"
        raise ConfigError(why) from error
    if not (isinstance(kind, type) and issubclass(kind, FrameMetric)):
        raise ConfigError(f"metrics.{name}.target={target!r} is not a class derived from FrameMetric")
    values = getattr(kind, "values", None)
    is_declared = isinstance(values, tuple | list) and all(isinstance(value, Value) for value in values)
    if not (hasattr(kind, "version") and is_declared):
        raise ConfigError(f"metrics.{name}.target={target!r} declares no version, or no tuple of values")
    return kind


def _own_fault(module: str, error: Exception) -> str:
    """Say where a file of metrics is wrong in itself, whichever of its metrics was wanted; "" where it is not."""
    places = [(line.filename, line.lineno) for line in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        places.append((error.filename or "", error.lineno))
    for file, line in reversed(places):
        if file.endswith(f"/{module.replace('.', '/')}.py"):
            return f"{file}, line {line}: {type(error).__name__}: {error}"
    return ""


def _check(name: str, kind: type[FrameMetric], arguments: Mapping[str, Any]) -> None:
    defaults = parameters(kind)
    problems = [
        f"metrics.{name}.{key} is not a parameter{_instead(key, defaults)}"
        for key in arguments
        if key not in defaults
    ]
    problems += [
        f"metrics.{name}.{key}={value!r}: expected {type(defaults[key]).__name__}, as {defaults[key]!r}"
        for key, value in arguments.items()
        if key in defaults and not _fits(value, defaults[key])
    ]
    if problems:
        raise ConfigError(*problems)


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return type(value) is type(default)
    if isinstance(default, float):
        return isinstance(value, int | float)
    return not isinstance(default, int | str) or isinstance(value, type(default))


def _instead(name: str, valid: Mapping[str, Any]) -> str:
    if not valid:
        return "; there are none"
    close = get_close_matches(str(name), valid, n=1)
    meant = f"; did you mean {close[0]}?" if close else ";"
    shown = (key if valid is METRICS else f"{key}={value!r}" for key, value in valid.items())
    return f"{meant} valid: {', '.join(shown)}"


def _produced_twice(metrics: list[FrameMetric]) -> list[str]:
    first: dict[str, str] = {}
    problems = []
    for metric in metrics:
        for value in metric.values:
            if value.name in first:
                both = f"metrics.{first[value.name]} and metrics.{metric.name}"
                problems.append(f"{both} both give {value.name}")
            first.setdefault(value.name, metric.name)
    return problems


def _identity(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"
