"""The contract of a metric: a dataclass whose fields are its parameters.

A metric measures one frame at a time in `per_frame` and sums up in `compute`, whose default is the mean
over the frames. It declares each value it produces, and its `version` goes up with every change of its
formula, so that old and new numbers never mix:

    @dataclass
    class Brightness(FrameMetric):
        version = 1
        values = (Value("brightness", "mean of Y", unit="0..1", range=(0, 1), direction="neither",
                        source="arithmetic mean"),)

        def per_frame(self, frame):
            return {"brightness": frame.luma.mean() / 255}

A metric that raises gives NaN and a message; it never ends the pass over the video.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.util import find_spec
from math import inf, nan
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from kling_sweeps.requested import Requested as Requested  # for metrics
from kling_sweeps.video import ratio as ratio

if TYPE_CHECKING:
    from kling_sweeps.video.decode import Video
    from kling_sweeps.video.frame import Frame

# Goes up when decoding or the planes of a frame change what all metrics see.
PLANES_VERSION = 2

# From the median absolute deviation of normal noise to its standard deviation.
NORMAL = 1.4826

Direction = Literal["higher", "lower", "neither"]
Scale = Literal["raw", "log"]
Likeness = Literal["size", "rate", "duration"]


@dataclass(frozen=True)
class Value:
    """One number that a metric produces, as the tables of the documentation show it.

    `range` is what it can be, both ends included, and `direction` which way is better, if any. `scale` is
    log for what is above 0 and varies by factors, not by steps: its differences are told in percent. `alike_in` is what two videos
    must have in common, besides what is shown, for their values to be compared: their size, frame rate, duration.
    """

    name: str
    meaning: str
    unit: str
    range: tuple[float, float] = (-inf, inf)
    direction: Direction = "neither"
    source: str = ""
    scale: Scale = "raw"
    alike_in: tuple[Likeness, ...] = ()


@dataclass
class FrameMetric(ABC):
    """Something measured on the frames of one video: `start`, `update` for each frame, `compute`.

    An instance serves one video. `series` holds what `per_frame` returned: name -> a float64 a frame,
    NaN for a frame on which there was none.
    """

    version: ClassVar[int]
    values: ClassVar[tuple[Value, ...]]
    # The packages without which it can't measure, and the extra of kling_sweeps that installs them.
    needs: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""

    name: str = field(default="", init=False)
    series: dict[str, array[float]] = field(default_factory=dict, init=False, repr=False)

    def start(self, video: Video, requested: Requested) -> None:  # noqa: B027 - most metrics have nothing to learn
        """Learn which video comes and what was requested; `video.facts` are known in `compute`."""

    def remark(self, requested: Requested) -> str:
        """Say what there will be no value of, and why, where that follows from what is requested."""
        return ""

    @classmethod
    def missing(cls) -> list[str]:
        """List the packages that it needs and that are not installed."""
        return [package for package in cls.needs if find_spec(package) is None]

    @abstractmethod
    def per_frame(self, frame: Frame) -> Mapping[str, float]:
        """Measure one frame: series name -> value, NaN where there is none."""

    def update(self, frame: Frame) -> None:
        """Measure the next frame and keep its values."""
        for name, value in self.per_frame(frame).items():
            series = self.series.setdefault(name, array("d"))
            series.extend([nan] * (frame.index - len(series)))
            series.append(float(value))

    def compute(self) -> dict[str, float]:
        """Sum up: each declared value by name, NaN where nothing was sampled.

        Raises `LookupError` for a declared value that `per_frame` does not give.
        """
        missing = [value.name for value in self.values if value.name not in self.series]
        if self.series and missing:
            raise LookupError(f"per_frame gave {', '.join(self.series)}, and not {', '.join(missing)}")
        return {value.name: mean(self.series.get(value.name, [])) for value in self.values}

    def facts(self) -> dict[str, str]:
        """Tell what was found that is no number, by name."""
        return {}


@dataclass
class SampledMetric(FrameMetric):
    """Something measured on one frame of each `every`, because it takes long; NaN on the others.

    The first frame that can be is measured, and of each `every` frames from there on one that is drawn at random,
    so that nothing which repeats (doubled frames, key frames) meets the same frame each time. The draw
    is the same for every video.
    """

    # What compares a frame with the one before can't begin at frame 0.
    first_frame: ClassVar[int] = 0

    every: int = 1

    def __post_init__(self) -> None:
        positive("every", self.every)

    def update(self, frame: Frame) -> None:
        """Measure the next frame if it is one of those drawn."""
        group, place = divmod(frame.index - self.first_frame, self.every)
        if group >= 0 and place == drawn(group, self.every):
            super().update(frame)


@cache
def drawn(group: int, every: int) -> int:
    """Draw which frame of a group of so many is measured; of the first group it is the first."""
    return int(np.random.default_rng(group).integers(every)) if group > 0 else 0


def strips(plane: np.ndarray, border: int = 0, rows: int = 64) -> Iterator[np.ndarray]:
    """Cut a plane into strips of rows, so that what is made of one stays in the processor's cache.

    A strip has at most `rows` rows, and `border` more above and below, for a mask to reach into: the
    inner rows of all strips are those of the plane, without its own border.
    """
    end = plane.shape[0] - border
    for top in range(border, end, rows):
        yield plane[top - border : min(top + rows, end) + border]


def inside(plane: np.ndarray) -> int:
    """Count the pixels of a plane that a 3x3 mask fits around."""
    return int(max(0, plane.shape[0] - 2) * max(0, plane.shape[1] - 2))


def samples(series: Iterable[float]) -> np.ndarray:
    """Give the numbers of a series without its NaN, as float64."""
    array = np.fromiter(series, np.float64)
    return array[~np.isnan(array)]


def mean(series: Iterable[float]) -> float:
    """Average a series without its NaN; NaN where nothing is left."""
    sampled = samples(series)
    return float(sampled.mean()) if sampled.size else nan


def percentile(series: Iterable[float], rank: float) -> float:
    """Give the percentile of a series without its NaN, interpolated; NaN where nothing is left."""
    sampled = samples(series)
    return float(np.percentile(sampled, rank)) if sampled.size else nan


def maximum(series: Iterable[float]) -> float:
    """Give the largest of a series without its NaN; NaN where nothing is left."""
    sampled = samples(series)
    return float(sampled.max()) if sampled.size else nan


def parameters(metric: FrameMetric | type[FrameMetric]) -> dict[str, Any]:
    """List a metric's parameters by name, with their values, or their defaults for a class."""
    return {item.name: getattr(metric, item.name, item.default) for item in fields(metric) if item.init}


def positive(name: str, number: float) -> None:
    """Raise `ValueError` for a parameter that is not above 0."""
    if not number > 0:
        raise ValueError(f"{name}={number!r}: expected more than 0")
