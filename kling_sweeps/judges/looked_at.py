"""What of a video a judge gets to see: the file itself, or stills of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock

from kling_sweeps.experiment.picture import Attachment
from kling_sweeps.experiment.rubric import Rubric
from kling_sweeps.video.stills import STILLS_VERSION, stills

# Videos whose stills are held in memory: as many as are asked about at once, and some.
KEPT = 40


@dataclass(frozen=True)
class Still(Attachment):
    """One still of `of`, evenly spaced, of the video of a path and a digest, `number` counting from 1."""

    number: int
    of: int

    @property
    def name(self) -> str:
        return f"{self.digest}-{self.number}of{self.of}-v{STILLS_VERSION}"

    def content(self, path: Path) -> bytes | None:
        if not path.exists():
            return None
        with _making:
            made = _stills(path, self.digest, self.of)
        return made[self.number - 1] if made else None


# Held while stills are made, which are asked for one by one, of many videos at once.
_making = Lock()


@lru_cache(maxsize=KEPT)
def _stills(path: Path, digest: str, number: int) -> Sequence[bytes]:
    """Return the stills of a video; none of a file that is another."""
    is_video = Attachment(path, digest, "mp4").content(path) is not None
    return stills(path, number) if is_video else ()


def looked_at(rubric: Rubric, video: Path, digest: str) -> list[Attachment]:
    """Return the files that are uploaded of a video, whose digest is the SHA-256 of its bytes."""
    if rubric.frames is None:
        return [Attachment(video, digest, "mp4")]
    return [Still(video, digest, "jpg", number + 1, rubric.frames) for number in range(rubric.frames)]
