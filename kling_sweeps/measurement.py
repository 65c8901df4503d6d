"""What was measured on one video, in memory and as plain files in a folder."""

from __future__ import annotations

import json
import shutil
import uuid
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from io import BytesIO
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np

from kling_sweeps import opencv as cv2
from kling_sweeps.filmstrip import Filmstrip
from kling_sweeps.journal import force, sync_folder
from kling_sweeps.metric import PLANES_VERSION, FrameMetric, Requested
from kling_sweeps.video import Video

if TYPE_CHECKING:
    import pandas as pd

VALUES, FRAMES, FILMSTRIP = "values.json", "frames.parquet", "filmstrip.png"
# What a record has, and of what type.
RECORD = dict.fromkeys(("values", "errors", "facts", "versions"), dict)


@dataclass(frozen=True, eq=False)
class Measurement:
    """The numbers of one video and how they came about.

    `values`: metric name -> float, NaN where it could not be measured. `frames`: a row a frame, with
    `frame`, `time_s` and a column a series. `errors`: name of a metric, or `video`, -> what went wrong.
    `facts`: the file's properties and colour tags. `versions`: of decoder, libraries and metrics.
    `filmstrip`: BGR uint8, 240 pixels high.
    """

    values: Mapping[str, float]
    frames: pd.DataFrame
    errors: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    filmstrip: np.ndarray | None = None

    def save(self, folder: str | Path) -> None:
        """Write `frames.parquet`, `filmstrip.png` and, last, `values.json`, each whole, on disk, or not at all."""
        folder = Path(folder)
        if folder.is_file():
            folder.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / FRAMES, lambda path: path.write_bytes(self.frames.to_parquet(index=False)))
        if self.filmstrip is not None:
            png = cv2.imencode(".png", self.filmstrip)[1].tobytes()
            _replace(folder / FILMSTRIP, lambda path: path.write_bytes(png))
        _replace(folder / VALUES, lambda path: path.write_text(self._json(), encoding="utf-8"))
        sync_folder(folder.parent)

    @classmethod
    def load(cls, folder: str | Path) -> Measurement:
        """Read what `save` wrote; raise OSError or ValueError where it did not finish, or is no longer whole."""
        import pandas as pd

        folder = Path(folder)
        saved = read_record(folder)
        values = {name: nan if value is None else value for name, value in saved.pop("values").items()}
        strip = folder / FILMSTRIP
        return cls(
            values=values,
            frames=pd.read_parquet(BytesIO((folder / FRAMES).read_bytes())),
            filmstrip=_picture(strip.read_bytes()) if strip.exists() else None,
            **saved,
        )

    def record(self) -> dict[str, Any]:
        """Give the numbers and how they came about as JSON has them: None for NaN."""
        return _strict(
            {"values": self.values, "errors": self.errors, "facts": self.facts, "versions": self.versions}
        )

    def _json(self) -> str:
        return json.dumps(self.record(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def is_measured(folder: Path) -> bool:
    """Tell, without decoding them, whether a folder's files are those of a whole measurement."""
    try:
        read_record(folder)
        has_strip = _ends(folder / FILMSTRIP, b"\x89PNG", b"IEND\xaeB`\x82")
        return has_strip and _ends(folder / FRAMES, b"PAR1", b"PAR1")
    except (OSError, ValueError, RecursionError):
        return False


def is_readable(folder: Path) -> bool:
    """Tell whether all of a measurement can be read."""
    try:
        return Measurement.load(folder).filmstrip is not None
    except Exception:  # of whichever library
        return False


def _ends(path: Path, first: bytes, last: bytes) -> bool:
    content = path.read_bytes()
    return content.startswith(first) and content.endswith(last)


def observe(
    video: Video, metrics: Sequence[FrameMetric], requested: Requested | None = None
) -> Measurement:
    """Show every frame of a video to every metric, once; raise `VideoError` where there is none."""
    cv2.load()
    errors: dict[str, str] = {}
    for metric in metrics:
        with _recorded(metric, errors):
            metric.start(video, requested or Requested())
    times_s, strip = _decoded(video, metrics, errors)
    values = {name: value for metric in metrics for name, value in _values(metric, errors).items()}
    table = _table(times_s, metrics, errors)
    if video.facts.problem:
        errors["video"] = video.facts.problem
    return Measurement(
        values=values,
        frames=table,
        errors=errors,
        facts=asdict(video.facts),
        versions=_versions(metrics),
        filmstrip=strip.image(),
    )


def _decoded(
    video: Video, metrics: Sequence[FrameMetric], errors: dict[str, str]
) -> tuple[Sequence[float], Filmstrip]:
    times_s, strip = array("d"), Filmstrip()
    for frame in video:
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


def _table(
    times_s: Sequence[float], metrics: Sequence[FrameMetric], errors: dict[str, str]
) -> pd.DataFrame:
    import pandas as pd

    columns = {"frame": np.arange(len(times_s)), "time_s": np.array(times_s)}
    for metric in metrics:
        for name, series in metric.series.items():
            if name in columns:
                errors.setdefault(metric.name, f"there is a series {name} already, of another metric")
                continue
            columns[name] = np.full(len(times_s), nan)
            columns[name][: len(series)] = series
    return pd.DataFrame(columns)


def _versions(metrics: Sequence[FrameMetric]) -> dict[str, str]:
    libraries = {
        "av": av.__version__,
        "ffmpeg": av.ffmpeg_version_info,
        "opencv": cv2.load().__version__,
        "numpy": np.__version__,
        "planes": str(PLANES_VERSION),
    }
    return libraries | {f"metric.{metric.name}": str(metric.version) for metric in metrics}


def read_record(folder: Path) -> dict[str, Any]:
    """Read what `Measurement.record` gave when it was saved; raise OSError or ValueError where that is torn."""
    saved = json.loads((folder / VALUES).read_bytes())
    if not isinstance(saved, dict) or {name: type(part) for name, part in saved.items()} != RECORD:
        raise ValueError(f"{folder / VALUES} is no record of a measurement")
    return saved


def read_values(folder: Path) -> dict[str, float]:
    """Read the values alone, without those that could not be measured; none where the record is gone."""
    with suppress(OSError, ValueError):
        return {name: value for name, value in read_record(folder)["values"].items() if value is not None}
    return {}


def read_flaws(folder: Path) -> str:
    """Read what went wrong, in one line: the name of a metric, or `video`, and why; "" where nothing did."""
    try:
        errors = read_record(folder)["errors"]
    except (OSError, ValueError) as error:
        return f"measurement: {error}"
    return "; ".join(f"{name}: {why}" for name, why in errors.items())


def _picture(png: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)


def _strict(value: Any) -> Any:
    # JSON knows no NaN.
    if isinstance(value, Mapping):
        return {key: _strict(item) for key, item in value.items()}
    return None if isinstance(value, float) and not isfinite(value) else value


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        write(temporary)
        if path.is_dir():
            shutil.rmtree(path)
        force(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
