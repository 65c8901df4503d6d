"""What was measured on one video, in memory, and saved as plain files in a folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kling_sweeps.store.journal import force, sync_folder, written_whole
from kling_sweeps.store.measured import FILMSTRIP, FRAMES, VALUES, read_record
from kling_sweeps.video import opencv as cv2
from kling_sweeps.video.picture_hash import distance, picture_hash, written

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Measurement:
    """The numbers of one video and how they came about.

    `values`: metric name -> float, NaN where it could not be measured. `columns`: `frame`, `time_s` and each
    series, an int64 or float64 a frame, of which `frames` is the table. `errors`: name of a metric, or `video`, -> what went wrong.
    `facts`: the file's properties and colour tags, and `picture_hashes`, by which videos are told apart. `versions`: of decoder, libraries and metrics.
    `filmstrip`: BGR uint8, 240 pixels high.
    """

    values: Mapping[str, float]
    columns: Mapping[str, np.ndarray]
    errors: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    filmstrip: np.ndarray | None = None

    @cached_property
    def frames(self) -> pd.DataFrame:
        """Give the columns as a data frame with a row a frame."""
        import pandas as pd

        return pd.DataFrame(self.columns)

    def save(self, folder: str | Path) -> None:
        """Write `frames.parquet`, `filmstrip.png` and, last, `values.json`, each whole, on disk, or not at all."""
        folder = Path(folder)
        if folder.is_file():
            folder.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / FRAMES, lambda path: path.write_bytes(_parquet(self.columns)))
        if self.filmstrip is not None:
            png = cv2.imencode(".png", self.filmstrip)[1].tobytes()
            _replace(folder / FILMSTRIP, lambda path: path.write_bytes(png))
        _replace(folder / VALUES, lambda path: path.write_text(self._json(), encoding="utf-8"))
        sync_folder(folder.parent)

    @classmethod
    def load(cls, folder: str | Path) -> Measurement:
        """Read what `save` wrote; raise OSError or ValueError where it did not finish, or is no longer whole."""
        folder = Path(folder)
        saved = read_record(folder)
        values = {name: nan if value is None else value for name, value in saved.pop("values").items()}
        strip = folder / FILMSTRIP
        return cls(
            values=values,
            columns=read_series(folder),
            filmstrip=_picture(strip.read_bytes()) if strip.exists() else None,
            **saved,
        )

    def record(self) -> dict[str, Any]:
        """Give the numbers and how they came about as JSON has them: None for NaN."""
        record: dict[str, Any] = _strict(
            {"values": self.values, "errors": self.errors, "facts": self.facts, "versions": self.versions}
        )
        return record

    def _json(self) -> str:
        return json.dumps(self.record(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def is_readable(folder: Path) -> bool:
    """Tell whether all of a measurement can be read."""
    try:
        return Measurement.load(folder).filmstrip is not None
    except Exception:  # of whichever library
        return False


# By Arrow alone: pandas, which pa.array would import to look for a series, is 45 MB of every worker process.
def _parquet(columns: Mapping[str, np.ndarray]) -> bytes:
    """Write columns as a Parquet file, NaN as null."""
    import pyarrow as pa
    from pyarrow import parquet

    arrays = []
    for column in columns.values():
        is_there = np.packbits(~np.isnan(column), bitorder="little")
        buffers = [pa.py_buffer(part) for part in (is_there, np.ascontiguousarray(column))]
        arrays.append(pa.Array.from_buffers(pa.from_numpy_dtype(column.dtype), len(column), buffers))
    file = BytesIO()
    parquet.write_table(pa.Table.from_arrays(arrays, list(columns)), file)
    return file.getvalue()


def read_series(folder: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Read the series of a saved measurement, or those with these names, null as NaN.

    Raises OSError or ValueError where they can't be read.
    """
    from pyarrow import parquet

    # pandas would read it by Arrow's datasets, which take 18 MB.
    file = parquet.ParquetFile(BytesIO((folder / FRAMES).read_bytes()))
    table = file.read(None if names is None else list(names), use_threads=False)
    return {name: table[name].to_numpy() for name in table.column_names}


def distance_from(picture: Path, facts: Mapping[str, Any]) -> float:
    """Return how unlike a picture the first frame of a measured video is, by `picture_hash.distance`; NaN where that can't be told."""
    first = str(facts.get("picture_hashes", "")).split()[:1]
    try:
        luma = cv2.imdecode(np.frombuffer(picture.read_bytes(), np.uint8), cv2.IMREAD_GRAYSCALE)
    except OSError:
        return nan
    return nan if luma is None or not first else distance(written([picture_hash(luma)]), first[0])


def _picture(png: bytes) -> np.ndarray:
    picture: np.ndarray = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    return picture


def _strict(value: Any) -> Any:
    # JSON knows no NaN.
    if isinstance(value, Mapping):
        return {key: _strict(item) for key, item in value.items()}
    return None if isinstance(value, float) and not isfinite(value) else value


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    with written_whole(path, force) as part:
        write(part)
        if path.is_dir():
            shutil.rmtree(path)
