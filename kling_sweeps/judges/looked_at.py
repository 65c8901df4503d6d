"""What of a video a judge gets to see: the file itself, or stills of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from kling_sweeps.experiment.picture import Attachment
from kling_sweeps.experiment.rubric import Rubric
from kling_sweeps.video.stills import stills


@dataclass(frozen=True)
class Still(Attachment):
    """One still of `of`, evenly spaced, of the video of a path and a digest, `number` counting from 1."""

    number: int
    of: int

    @property
    def name(self) -> str:
        return f"{self.digest}-{self.number}of{self.of}"

    def content(self, path: Path) -> bytes | None:
        is_video = super().content(path) is not None
        return _stills(path, self.digest, self.of)[self.number - 1] if is_video else None


@lru_cache(maxsize=8)
def _stills(path: Path, digest: str, number: int) -> Sequence[bytes]:
    """Return the stills of a video; they are asked for one by one."""
    return stills(path, number)


def looked_at(rubric: Rubric, video: Path, digest: str) -> list[Attachment]:
    """Return the files that are uploaded of a video, whose digest is the SHA-256 of its bytes."""
    if rubric.frames is None:
        return [Attachment(video, digest, "mp4")]
    return [Still(video, digest, "jpg", number + 1, rubric.frames) for number in range(rubric.frames)]
