"""The budget of a command, checked against one running total of the store, which all its processes share."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from kling_sweeps.errors import OverBudgetError, StoreError
from kling_sweeps.experiment.price import amount
from kling_sweeps.store.state_machine import DIGITS

UNIT = 10**DIGITS  # of a dollar: sums are whole numbers, so that they are exact
AMOUNT = re.compile(rb"(\S+) (\d{1,15})")


class Budget:
    """The sum of what a command's requests cost, or may cost, whichever command submitted them, and its limit.

    `<root>/spending` has a line `<key> <amount>` for each change of what a request costs, by any command, and
    `<root>/budgets/<command>` has the keys that the command counts, in all its processes. Both files only grow, so
    that a process reads only what was added since it last looked. Call `reserve` and `settle` with the lock of the
    request held. The files survive a crash of the process, and not always a power cut; the journals survive both.
    """

    def __init__(self, root: Path, command: str, max_usd: float) -> None:
        self.max = round(max_usd * UNIT)
        self.closed = ""
        self.amounts: dict[str, int] = {}
        self.keys: set[str] = set()
        self.sum = 0
        self.spending = _Lines(root / "spending")
        self.counted = _Lines(root / "budgets" / command)
        self.counted.path.parent.mkdir(parents=True, exist_ok=True)

    def count(self, costs: Mapping[str, float]) -> list[str]:
        """Count requests that cost at least so much in USD; return the keys of those that cost more by the running total."""
        with self._open() as (spending, counted):
            self._write_keys(counted, costs)
            least = {key: round(usd * UNIT) for key, usd in costs.items()}
            more = [key for key, amount in least.items() if self.amounts.get(key, 0) > amount]
            self._write(spending, {key: amount for key, amount in least.items() if key not in more})
        return more

    def reserve(self, key: str, usd: float) -> None:
        """Add to the cost of a request; raise OverBudgetError, and add nothing, where the sum would exceed the limit."""
        if self.closed:
            raise OverBudgetError(f"{self.closed}; nothing more is sent")
        with self._open() as (spending, counted):
            self._write_keys(counted, [key])
            more = round(usd * UNIT)
            if self.sum + more > self.max:
                raise OverBudgetError(
                    f"{amount(usd)} USD more would make {amount((self.sum + more) / UNIT)}, and budget.max_usd is "
                    f"{amount(self.max / UNIT)}; nothing was sent"
                )
            self._write(spending, {key: self.amounts.get(key, 0) + more})

    def close(self, why: str) -> None:
        """Have this process reserve nothing more."""
        self.closed = why

    def settle(self, key: str, usd: float) -> None:
        """Set the cost of a request to what its journal says, even beyond the limit."""
        with self._open() as (spending, _):
            self._write(spending, {key: round(usd * UNIT)})

    @contextmanager
    def _open(self) -> Iterator[tuple[BinaryIO, BinaryIO]]:
        """Lock the files, and read what other processes have added to them."""
        lock = FileLock(self.spending.path.with_suffix(".lock"))
        with lock, self.spending.opened() as spending, self.counted.opened() as counted:
            self._take(self.spending.read(spending))
            self._take_keys(self.counted.read(counted))
            yield spending, counted

    def _write(self, file: BinaryIO, amounts: Mapping[str, int]) -> None:
        changed = {key: amount for key, amount in amounts.items() if amount != self.amounts.get(key, 0)}
        self._take(self.spending.add(file, (f"{key} {amount}" for key, amount in changed.items())))

    def _write_keys(self, file: BinaryIO, keys: Iterable[str]) -> None:
        self._take_keys(self.counted.add(file, (key for key in keys if key not in self.keys)))

    def _take(self, lines: list[bytes]) -> None:
        for line in lines:
            if amount := AMOUNT.fullmatch(line):  # a power cut may have left anything
                key, units = amount[1].decode(errors="replace"), int(amount[2])
                self.sum += (units - self.amounts.get(key, 0)) * (key in self.keys)
                self.amounts[key] = units

    def _take_keys(self, lines: list[bytes]) -> None:
        for key in {line.decode(errors="replace") for line in lines} - self.keys:
            self.keys.add(key)
            self.sum += self.amounts.get(key, 0)


class _Lines:
    """A file of lines that only grows, read on from where it was read before; its first line is its random id."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        self.first = b""

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """Open the file; raise StoreError where it is another one than before."""
        with open(self.path, "ab+") as file:
            size = file.tell()
            first = self._first(file)
            if not self.first:
                self.first = first if first.endswith(b"\n") else self._begin(file)
                self.offset = len(self.first)
            elif first != self.first or size < self.offset:
                raise StoreError(
                    f"{self.path} is not the file that this command began with: the store was removed or "
                    "replaced meanwhile. Nothing more is bought; bring the store back and run the command again"
                )
            yield file

    @staticmethod
    def _first(file: BinaryIO) -> bytes:
        file.seek(0)
        return file.readline(100)

    @staticmethod
    def _begin(file: BinaryIO) -> bytes:
        """Write the first line of a file that is new, or whose first line was cut off."""
        first = f"# {uuid.uuid4().hex}\n".encode()
        file.truncate(0)
        file.write(first)
        file.flush()
        return first

    def read(self, file: BinaryIO) -> list[bytes]:
        """Return the lines that were added, and cut off the part of a line that a killed process left."""
        file.seek(self.offset)
        added = file.read()
        whole = added[: added.rfind(b"\n") + 1]
        self.offset += len(whole)
        if whole != added:
            file.truncate(self.offset)
        return whole.splitlines()

    def add(self, file: BinaryIO, lines: Iterable[str]) -> list[bytes]:
        """Write lines; return them as `read` does."""
        added = "".join(f"{line}\n" for line in lines).encode()
        file.write(added)
        file.flush()
        self.offset += len(added)
        return added.splitlines()
