"""The runs of a command: all generated and measured concurrently, each yielded as it completes."""

from __future__ import annotations

import asyncio
import logging
import queue
import signal
import threading
from collections.abc import Coroutine, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self

from filelock import Timeout

from kling_sweeps import metrics, providers
from kling_sweeps.errors import (
    GenerationError,
    LockedAccountError,
    PollError,
    RefusedError,
    RunError,
    StoreError,
    UnavailableError,
    explained,
    submitted,
)
from kling_sweeps.experiment.request import Product
from kling_sweeps.experiment.settings import Cell, Settings
from kling_sweeps.generation.billing import ask, reconcile, unbilled
from kling_sweeps.generation.budget import Budget
from kling_sweeps.generation.context import GenerationContext
from kling_sweeps.generation.lifecycle import generate
from kling_sweeps.measurement.measurement import is_readable
from kling_sweeps.measurement.workers import Workers
from kling_sweeps.provider import CANCELLED, Provider
from kling_sweeps.store.folder import Entry, Store
from kling_sweeps.store.measured import is_measured
from kling_sweeps.store.result import RunResult
from kling_sweeps.store.state_machine import OVER, Stage, State
from kling_sweeps.sweep.handles import room_for
from kling_sweeps.sweep.plan import Plan, make_plan
from kling_sweeps.video import opencv

log = logging.getLogger(__name__)
# How old a run may be that every command asks fal's bill of, and how many seconds it waits for that.
RECENTLY, BILLS_TIMEOUT_S = timedelta(days=30), 20.0

# What is over, in the order in which it came to its end; then an error that ended all, or None.
Finished = queue.SimpleQueue[RunResult | BaseException | None]


class Observer(Protocol):
    """Is told the stage of each run; called from any thread."""

    def update(self, cell: Cell, stage: str, text: str) -> None: ...


@dataclass(frozen=True)
class Runs:
    """The runs of one command, on one store and one provider."""

    settings: Settings
    provider_name: str
    store: Store
    plan: Plan

    @classmethod
    def read(cls, settings: Settings, cells: Sequence[Cell]) -> Self:
        """Read from the store how far each cell has come, and plan the rest; raise RefusedError where it can't be read."""
        provider_name = providers.resolve(settings.provider)
        store = Store(settings.store_dir / provider_name)
        store.check_readable()
        plan = make_plan(cells, store, settings.policy, _is_ephemeral(settings, provider_name))
        if plan.new_endpoints:
            plan = plan.quoted(providers.told_prices(settings.provider, provider_name, plan.new_endpoints))
        if settings.budget.partial:
            plan = plan.fitted(settings.budget.max_usd)
        return cls(settings, provider_name, store, plan)

    @property
    def is_ephemeral(self) -> bool:
        """Tell whether the provider is an emulator that is started for this command and ends with it."""
        return _is_ephemeral(self.settings, self.provider_name)

    @cached_property
    def cells(self) -> list[Cell]:
        """Return the cells that fit into the budget, without repeats of a request."""
        fitting = {
            planned.cell.request.key: planned.cell for planned in reversed(self.plan.planned) if planned.fits
        }
        return [*fitting.values()][::-1]

    @cached_property
    def fingerprint(self) -> str:
        return metrics.fingerprint(self.settings.metrics)

    def check(self) -> None:
        """Raise RefusedError where the plan is over budget, or where it submits and the store can't be written."""
        self.check_price()
        try:
            self.store.check()
            _ = self.budget
        except UnavailableError:
            if self.plan.pending:
                raise

    @cached_property
    def budget(self) -> Budget:
        """Return the command's budget, in which what the plan's cells have cost before is counted."""
        budget = Budget(self.store.root, self.settings.command, self.settings.budget.max_usd)
        entries = {p.cell.request.key: self.store.entry(p.cell.request) for p in self.plan.planned}
        for key in budget.count({p.cell.request.key: p.state.committed_usd for p in self.plan.planned}):
            entry = entries[key]
            # Or else whoever works on it settles it.
            with suppress(Timeout, OSError), entry.lock(timeout_s=0):
                state = entry.state()
                if state.stage is not Stage.DAMAGED and not entry.has_lost_journal():
                    budget.settle(key, state.committed_usd)
        return budget

    def check_price(self) -> None:
        """Raise BudgetError where the plan is over budget, or a price is unknown and has to be known."""
        if not (self.settings.budget.allow_unknown_price or self.is_ephemeral):
            self.plan.check_price()
        self.plan.check_budget(self.settings.budget.max_usd)

    def is_told_bills(self) -> bool:
        """Ask fal what the runs that are over were charged; return whether it said so of one, by which states change."""
        entries = [self.store.entry(p.cell.request) for p in self.plan.planned if p.state.stage in OVER]
        since = datetime.now(UTC) - RECENTLY
        left = [one for one in unbilled(entries) if one.attempt.at > since]
        if self.is_ephemeral or not left:
            return False
        given = self.settings.provider
        try:
            told = asyncio.run(
                providers.asked(given.name, given.base_url, lambda fal: reconcile(fal, left), BILLS_TIMEOUT_S)
            )
        except (PollError, LockedAccountError):
            return False  # the runs of this command ask again, or say why they can't
        return bool(told)

    def in_flight(self) -> list[tuple[Cell, State]]:
        """Return the cells that fal has, or may have, and whose videos are not in the store."""
        states = ((cell, self.store.entry(cell.request).state()) for cell in self.cells)
        return [(cell, state) for cell, state in states if state.is_open]

    def finished(self) -> Iterator[RunResult]:
        """Yield the runs that the store has, generated and measured."""
        for planned in self.plan.planned:
            entry = self.store.entry(planned.cell.request)
            folder = entry.measurements(self.fingerprint)
            if planned.state.stage is Stage.FINISHED and not planned.is_repeat and is_measured(folder):
                with suppress(OSError):  # a store that can't be written is good enough to read
                    entry.write_request(planned.cell.request)
                yield RunResult(planned.cell, entry, planned.state, folder)

    def complete(self, cells: Sequence[Cell], observer: Observer, max_in_flight: int) -> Generator[RunResult]:
        """Generate and measure cells concurrently, and yield each as soon as it is over.

        Raises RefusedError where the provider can't be used; then nothing was submitted.
        """
        finished: Finished = queue.SimpleQueue()
        wanted = min(max_in_flight, len(cells))
        slots = room_for(wanted)
        if slots < wanted:
            log.warning(
                "No more than %d of %d runs are in flight at once: this process may not open more files (ulimit -Hn)",
                slots,
                wanted,
            )
        with ExitStack() as stack:
            provider = None
            if self.plan.pending:
                provider = stack.enter_context(providers.opened(self.settings.provider, self.provider_name))
            workers = stack.enter_context(Workers(len(cells), max_pixels=self.settings.max_pixels))
            context = self._context(provider, workers) if provider else None
            scheduler = _Scheduler(
                self, cells, context, workers, observer, asyncio.Semaphore(slots), finished
            )
            stack.enter_context(_in_thread(scheduler.work(), finished))
            while (result := finished.get()) is not None:
                if isinstance(result, BaseException):
                    raise result
                yield result

    def _context(self, provider: Provider, workers: Workers) -> GenerationContext:
        settings = self.settings
        return GenerationContext(
            provider,
            self.store,
            self.budget,
            workers,
            settings.sweep,
            settings.command,
            settings.provider,
            settings.policy,
            {planned.cell.request.key: planned.state for planned in self.plan.planned},
        )


def _is_ephemeral(settings: Settings, provider_name: str) -> bool:
    return provider_name == "emulator" and not settings.provider.base_url


@dataclass(frozen=True)
class _Scheduler:
    """Schedules the runs in the event loop's thread; without a context there is only measuring to do."""

    runs: Runs
    cells: Sequence[Cell]
    context: GenerationContext | None
    workers: Workers
    observer: Observer
    slots: asyncio.Semaphore
    finished: Finished
    failed: asyncio.Event = field(default_factory=asyncio.Event)
    bills_refused: asyncio.Event = field(default_factory=asyncio.Event)

    async def work(self) -> None:
        if self.context is None:
            return await self._run_all()
        provider = self.context.provider
        try:
            endpoints = {cell.request.endpoint for cell in self.cells}
            # What can't measure shall not buy, nor what fal does not know.
            await asyncio.gather(asyncio.to_thread(opencv.load), *map(provider.check, endpoints))
            await self._run_all()
        except asyncio.CancelledError:
            if self.context.policy.on_interrupt == "cancel":
                await asyncio.gather(*(self._cancel(cell, provider) for cell, _ in self.runs.in_flight()))
            raise
        finally:
            await provider.close()

    async def _run_all(self) -> None:
        # The first answer shows what one costs before the others are bought.
        first = [cell for cell in self.cells[:1] if cell.request.product is Product.ANSWER]
        try:
            for cell in first:
                await self._run(cell)
            async with asyncio.TaskGroup() as group:
                for cell in self.cells[len(first) :]:
                    group.create_task(self._run(cell))
        except* RefusedError as refused:
            raise refused.exceptions[0] from None

    async def _cancel(self, cell: Cell, provider: Provider) -> None:
        """Cancel a request that waits in fal's queue; one that runs is charged in any case."""
        entry = self.runs.store.entry(cell.request)
        try:
            async with entry.async_lock(timeout_s=0):
                await self._cancel_queued(cell, entry, provider)
        except Timeout:
            pass  # another command works on it
        except (RunError, OSError) as error:
            log.warning("%s could not be cancelled: %s", cell.name, error)

    async def _cancel_queued(self, cell: Cell, entry: Entry, provider: Provider) -> None:
        state = entry.state()
        if state.stage is not Stage.SUBMITTED or state.ticket is None:
            return
        if (await provider.status(state.ticket)).stage != "IN_QUEUE":
            return
        entry.journal.append("cancelling")
        try:
            await provider.cancel(state.ticket)
            if (await provider.status(state.ticket)).failed:
                await provider.result(state.ticket, True, cell.request.product)
        except GenerationError as error:
            if error.error_type == CANCELLED:
                entry.journal.append("cancelled")
                self.observer.update(cell, "cancelled", "")

    async def _run(self, cell: Cell) -> None:
        entry = self.runs.store.entry(cell.request)
        measurement = error = None
        try:
            async with self.slots:
                if self.failed.is_set() and self.runs.settings.policy.fail_fast:
                    return
                state = await self._generate(cell)
            error = state.error
            if error is None and cell.request.product is Product.VIDEO:
                measurement = await self._measure(cell, entry)
            if error is None:
                await self._bill(entry)
        except RunError as failed:
            error = failed
        except RefusedError as refused:
            if self.context and not submitted.is_set():
                raise  # nothing was submitted, and nothing can be
            error = RunError(str(refused), error_type="refused")
        except Exception as unexpected:  # one run's bad luck must not cost the others
            error = _unexpected(cell, unexpected)
        if error:
            self.failed.set()
        self.observer.update(cell, "over", "")
        self.finished.put(RunResult(cell, entry, entry.state(), measurement, error))

    async def _generate(self, cell: Cell) -> State:
        state = self.runs.store.entry(cell.request).state()
        if self.context is None:
            return state
        return await generate(
            self.context, cell.request, lambda stage, text: self.observer.update(cell, stage, text)
        )

    async def _bill(self, entry: Entry) -> None:
        """Journal what fal says that a run was charged, if it says so already and to this key."""
        if self.context is None or self.runs.is_ephemeral or self.bills_refused.is_set():
            return
        if why := await ask(self.context.provider, [entry]):
            if not self.bills_refused.is_set():
                log.warning("What was charged stays estimated: this key may not ask for bills (%s)", why)
            self.bills_refused.set()
        self.context.budget.settle(entry.key, entry.state().committed_usd)

    async def _measure(self, cell: Cell, entry: Entry) -> Path:
        """Return the folder of the measurement; make it, unless another command has."""
        folder = entry.measurements(self.runs.fingerprint)
        if await _is_whole(folder):
            return folder
        self.observer.update(cell, "measuring", "")
        async with entry.async_lock():
            if not await _is_whole(folder):
                await self._measure_into(folder, cell, entry)
        return folder

    async def _measure_into(self, folder: Path, cell: Cell, entry: Entry) -> None:
        seconds = await self.workers.measure(folder, entry.video, self.runs.settings.metrics, cell.requested)
        entry.journal.append("measured", fingerprint=folder.name, seconds=seconds)


async def _is_whole(folder: Path) -> bool:
    return is_measured(folder) and await asyncio.to_thread(is_readable, folder)


def _unexpected(cell: Cell, error: Exception) -> RunError:
    """Return an unexpected exception as a RunError, logged with its traceback, or as StoreError where a disk refused."""
    if isinstance(error, OSError) and error.errno and not isinstance(error, (ConnectionError, TimeoutError)):
        return StoreError(explained(error))
    log.error("%s failed unexpectedly", cell.name, exc_info=error)
    return RunError(f"{type(error).__name__}: {error}", error_type="unexpected")


@contextmanager
def _in_thread(work: Coroutine[Any, Any, None], finished: Finished) -> Iterator[None]:
    """Run a coroutine in a thread, cancelled when the block ends; at its end, put None or its error into `finished`."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(work)

    def run() -> None:
        # Ctrl-C is the main thread's: a worker that is starting would print a traceback. Windows has no masks.
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            loop.run_until_complete(task)
            finished.put(None)
        except BaseException as error:
            finished.put(error)
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    thread = threading.Thread(target=run, name="fal", daemon=True)
    thread.start()
    try:
        yield
    finally:
        with suppress(RuntimeError):  # the loop is closed: the work was done
            loop.call_soon_threadsafe(task.cancel)
        thread.join()
