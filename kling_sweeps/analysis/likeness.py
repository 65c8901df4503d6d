"""What the videos of two levels must have in common, before a number of theirs is compared."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass

import pandas as pd

from kling_sweeps.metrics import declared

# By how much medians may differ that are taken for equal.
ROOM = 0.02
# The metrics that tell what a file is like, and how it is said.
TOLD = {
    "size": (("width", "height"), "{:.0f} x {:.0f} px"),
    "rate": (("fps",), "{:.4g} frames a second"),
    "duration": (("duration_s",), "{:.3g} s"),
}


@dataclass(frozen=True)
class Unlike:
    """The finished runs of a factor, whose levels are held against the level `base`."""

    runs: pd.DataFrame
    factor: str
    base: Hashable

    def __call__(self, level: Hashable, metric: str) -> Iterator[str]:
        """Yield in what the videos of a level differ from those of the base that the metric depends on, as a clause."""
        for name in declared()[metric].alike_in if metric in declared() else ():
            columns, told = TOLD[name]
            if not set(columns) <= {*self.runs}:
                continue
            here, there = (self._median(which, columns) for which in (level, self.base))
            if any(abs(one - other) > ROOM * other for one, other in zip(here, there, strict=True)):
                at = f"{told.format(*here)} here and {told.format(*there)} at {self.base}"
                yield f"it depends on the {name} of a video, which is {at}"

    def _median(self, level: Hashable, columns: tuple[str, ...]) -> list[float]:
        return list(self.runs.loc[self.runs[self.factor] == level, [*columns]].median())
