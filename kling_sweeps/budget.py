"""What one command may cost: a running total that all its processes share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from kling_sweeps.errors import OverBudgetError

UNIT = 10_000  # of a dollar: sums are whole numbers, so that they are exact


class Budget:
    """What each request of a command has cost, or may have, in a file; nobody gets the sum past the limit.

    Each change is a line, `<key> <amount>`, and whoever looks reads what was added since. `reserve` and
    `settle` are for whoever holds the request's lock.
    """

    def __init__(self, path: Path, max_usd: float) -> None:
        self.path = path
        self.max = round(max_usd * UNIT)
        self.amounts: dict[str, int] = {}
        self.sum = self.offset = 0
        path.parent.mkdir(parents=True, exist_ok=True)

    def reserve(self, key: str, usd: float) -> None:
        """Add to what a request costs; raise OverBudgetError, and add nothing, where it does not fit."""
        with self._file() as file:
            more = round(usd * UNIT)
            if self.sum + more > self.max:
                raise OverBudgetError(
                    f"{usd:.2f} USD more would make {(self.sum + more) / UNIT:.2f}, and budget.max_usd is "
                    f"{self.max / UNIT:.2f}; nothing was sent"
                )
            self._write(file, {key: self.amounts.get(key, 0) + more})

    def settle(self, key: str, usd: float) -> None:
        """Set what a request has cost, as its journal says, fit or not."""
        with self._file() as file:
            self._write(file, {key: round(usd * UNIT)})

    def count(self, costs: Mapping[str, float]) -> None:
        """Note what requests have cost at least: another process may have reserved more meanwhile."""
        with self._file() as file:
            least = {key: round(usd * UNIT) for key, usd in costs.items()}
            self._write(file, {key: max(self.amounts.get(key, 0), amount) for key, amount in least.items()})

    @contextmanager
    def _file(self) -> Iterator[BinaryIO]:
        """Lock the file, and read what others have added to it."""
        with FileLock(self.path.with_suffix(".lock")), open(self.path, "ab+") as file:
            file.seek(self.offset)
            added = file.read()
            whole = added[: added.rfind(b"\n") + 1]
            self._take(whole)
            if whole != added:
                file.truncate(self.offset)  # somebody was killed in the middle of a line
            yield file

    def _write(self, file: BinaryIO, amounts: Mapping[str, int]) -> None:
        changed = {key: amount for key, amount in amounts.items() if amount != self.amounts.get(key, 0)}
        lines = "".join(f"{key} {amount}\n" for key, amount in changed.items()).encode()
        file.write(lines)
        file.flush()
        self._take(lines)

    def _take(self, lines: bytes) -> None:
        for line in lines.decode().splitlines():
            key, amount = line.rsplit(" ", 1)
            self.sum += int(amount) - self.amounts.get(key, 0)
            self.amounts[key] = int(amount)
        self.offset += len(lines)
