"""What one command may cost: a running total that all its processes share."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from kling_sweeps.errors import OverBudgetError

UNIT = 10_000  # of a dollar: sums are whole numbers, so that they are exact


class Budget:
    """What each request of a command has cost, or may have, in a file; nobody gets the sum past the limit.

    `reserve` and `settle` are for whoever holds the request's lock.
    """

    def __init__(self, path: Path, max_usd: float) -> None:
        self.path = path
        self.max = round(max_usd * UNIT)
        path.parent.mkdir(parents=True, exist_ok=True)

    def reserve(self, key: str, usd: float) -> None:
        """Add to what a request costs; raise OverBudgetError, and add nothing, where it does not fit."""
        with self._amounts() as amounts:
            after = sum(amounts.values()) + round(usd * UNIT)
            if after > self.max:
                raise OverBudgetError(
                    f"{usd:.2f} USD more would make {after / UNIT:.2f}, and budget.max_usd is "
                    f"{self.max / UNIT:.2f}; nothing was sent"
                )
            amounts[key] = amounts.get(key, 0) + round(usd * UNIT)

    def settle(self, key: str, usd: float) -> None:
        """Set what a request has cost, as its journal says, fit or not."""
        with self._amounts() as amounts:
            amounts[key] = round(usd * UNIT)

    def count(self, costs: Mapping[str, float]) -> None:
        """Note what requests have cost at least: another process may have reserved more meanwhile."""
        with self._amounts() as amounts:
            for key, usd in costs.items():
                amounts[key] = max(amounts.get(key, 0), round(usd * UNIT))

    @contextmanager
    def _amounts(self) -> Iterator[dict[str, int]]:
        with FileLock(self.path.with_suffix(".lock")):
            before = json.loads(self.path.read_text()) if self.path.exists() else {}
            amounts = dict(before)
            yield amounts
            if amounts != before:
                part = self.path.with_suffix(".part")
                part.write_text(json.dumps(amounts))
                os.replace(part, self.path)
