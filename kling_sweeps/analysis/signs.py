"""An exact sign test for a level that has won all votes against another one, whatever the side on which it was is worth.

Each prompt (or rater) is one coin toss, however many votes it has. Where the level was on the left, it is won with the odds
exp(strength + side), on the right with exp(strength - side), and where it was seen on both, at most with the worse of the two.
The side's effect is not known: the test takes that at which all tosses are likeliest won, so its error is at most what it
says at any (as in Barnard 1947).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log
from typing import Any, Self

import numpy as np
import pandas as pd
from scipy import optimize, special

# Log odds beyond which a side, or a strength, is as good as certain.
FAR = 30.0


def unbeaten(votes: pd.DataFrame, level: Any, other: Any) -> int:
    """Return 1 where a level has won all its votes against another, -1 where it has lost all, 0 in all other cases."""
    won = _won(votes, level, other)
    return 0 if won.empty or won.nunique() > 1 else int(np.sign(won.iloc[0] - 0.5))


def _won(votes: pd.DataFrame, level: Any, other: Any) -> pd.Series:
    """Return the votes between two levels, 1 where the first one won."""
    left = votes[(votes["left"] == level) & (votes["right"] == other)]["outcome"]
    right = votes[(votes["left"] == other) & (votes["right"] == level)]["outcome"]
    won: pd.Series = pd.concat([left, 1 - right])
    return won


@dataclass(frozen=True)
class Signs:
    """How many coin tosses were all won: with the winner on the left, on the right, and seen on both sides."""

    left: int
    right: int
    both: int

    @classmethod
    def of(cls, votes: pd.DataFrame, level: Any, other: Any, source: str) -> Self:
        """Count the prompts, or the raters, with votes on two levels of which one has won all."""
        winner = level if unbeaten(votes, level, other) > 0 else other
        ours = votes[votes[["left", "right"]].isin([level, other]).all(axis=1)]
        sides = (ours["left"] == winner).groupby(ours[source]).mean()
        return cls(int((sides == 1).sum()), int((sides == 0).sum()), int(((sides > 0) & (sides < 1)).sum()))

    def p(self) -> float:
        """Return the two-sided p value of no preference."""
        return min(1.0, 2 * float(np.exp(self._log_most(0.0))))

    def least(self, alpha: float) -> float:
        """Return the lower end of the two-sided confidence interval of the winner's log odds; the upper one is open."""
        if not (self.left + self.both and self.right + self.both):
            return -inf  # the side alone may have won them all
        return float(optimize.brentq(lambda odds: self._log_most(odds) - log(alpha / 2), -FAR, FAR))

    def _log_most(self, odds: float) -> float:
        """Return the logarithm of how likely all tosses are won at such odds, at the side that makes it likeliest."""
        # A prompt that was seen on both sides is as likely as its worse one: right where the left has the better of it.
        return max(
            _log_most(odds, self.left, self.right + self.both),
            _log_most(odds, self.right, self.left + self.both),
        )


def _log_most(odds: float, better: int, worse: int) -> float:
    """Return the largest logarithm over all sides from 0 on."""

    def unlikely(side: float) -> float:
        return -float(better * special.log_expit(odds + side) + worse * special.log_expit(odds - side))

    if worse == 0:
        return 0.0
    found = optimize.minimize_scalar(unlikely, bounds=(0.0, FAR), method="bounded")  # which tries no end
    return -min(float(found.fun), unlikely(0.0))
