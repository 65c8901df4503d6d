"""Processes that take turns: each runs on an event loop of its own to the next gate, and may die there.

A gate is any point where another process may come in between, or the power may fail. Time is virtual:
it passes when a process that sleeps is given its turn.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

HERE = threading.local()


class Killed(BaseException):
    """The process is no more; nothing that it does from here on has an effect."""


@dataclass
class Clock:
    """The time of a world, in seconds since it began."""

    now: float = 0.0

    def monotonic(self) -> float:
        return self.now

    def date(self, zone: Any = UTC) -> datetime:
        return datetime(2026, 1, 1, tzinfo=zone) + timedelta(seconds=self.now)


class Process:
    """Runs a coroutine in a thread that has its turns when `step` is called, each until the next gate."""

    def __init__(self, clock: Clock, work: Callable[[], Coroutine]) -> None:
        self.clock = clock
        self.work = work
        self.is_over = self.is_killed = self.is_interrupted = False
        self.turns_left = 0
        self.writing: Path | None = None
        self.error: BaseException | None = None
        self.turn, self.rest = threading.Lock(), threading.Lock()
        self.turn.acquire()
        self.rest.acquire()
        threading.Thread(target=self._live, daemon=True).start()

    def step(self, turns: int = 1) -> None:
        """Let the process go on through some gates; raise what the test found wrong in it."""
        self.turns_left = turns
        self.turn.release()
        self.rest.acquire()
        if self.error:
            raise self.error

    def kill(self) -> None:
        """End the process where it stands."""
        self.is_killed = True
        self.step()
        assert self.is_over

    def interrupt(self) -> None:
        """Press Ctrl-C, which the process hears of when it is idle."""
        self.is_interrupted = True

    def gate(self) -> None:
        """Wait for the next turn; raise Killed where there is none."""
        self.turns_left -= 1
        if not self.is_killed:
            self.clock.now += 0.001
        if not self.is_killed and not self.turns_left:
            self.rest.release()
            self.turn.acquire()
        if self.is_killed:
            raise Killed

    def _live(self) -> None:
        self.turn.acquire()
        HERE.process = self
        try:
            if not self.is_killed:
                _Loop(self).live()
        except BaseException as error:
            self.error = error
        self.is_over = True
        self.rest.release()


def gate() -> None:
    """Pass a gate, where the caller is in a process."""
    if process := getattr(HERE, "process", None):
        process.gate()


class _Loop(asyncio.BaseEventLoop):
    """An event loop without input or output, whose sleep is a gate."""

    def __init__(self, process: Process) -> None:
        super().__init__()
        self.process = process
        self.after_death_s = 0.0
        self._selector = self
        self.set_exception_handler(lambda loop, context: None)

    def live(self) -> None:
        """Run the process's work to its end, or to that of the process."""
        main = self.create_task(self.process.work())
        self.main = main
        try:
            self.run_until_complete(main)
        except (Killed, asyncio.CancelledError):
            pass
        finally:
            self._clear()
            self.close()

    def select(self, timeout: float | None) -> list:
        """Let time pass until the next timer is due; asyncio calls this whenever it is idle."""
        if timeout == 0:
            return []
        if self.process.is_killed:
            self.after_death_s += timeout or 0.0
            self._cancel_all()
            return []
        assert timeout is not None, "everything waits, and for nothing"
        due = self.time() + timeout
        try:
            self.process.gate()
        except Killed:
            return self.select(timeout)
        if self.process.is_interrupted:
            self.process.is_interrupted = False
            self.main.cancel()
        self.process.clock.now = max(self.process.clock.now, due)
        return []

    def time(self) -> float:
        return self.process.clock.now + self.after_death_s

    def _cancel_all(self) -> None:
        for task in asyncio.all_tasks(self):
            task.cancel()

    def _clear(self) -> None:
        while left := asyncio.all_tasks(self):
            self.process.is_killed = True
            self._cancel_all()
            self.run_until_complete(asyncio.wait(left))
        self.run_until_complete(self.shutdown_asyncgens())

    def _process_events(self, events: list) -> None:
        pass

    def _write_to_self(self) -> None:
        pass
