"""Worker processes that decode: whatever a file does to a decoder, it does to one worker alone."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import TimeoutError as OutOfTime
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pebble import ProcessExpired, ProcessPool

from kling_sweeps.errors import VideoError
from kling_sweeps.video import MAX_PIXELS

if TYPE_CHECKING:
    from kling_sweeps.metric import Requested
    from kling_sweeps.metrics import Spec

TIMEOUT_S = 900


def cores() -> int:
    """Return how many cores this process may use, or, where only Linux would tell, how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """As many processes as there are cores or videos; they start when they are first needed."""

    def __init__(
        self, videos: int, timeout_s: float | None = TIMEOUT_S, max_pixels: int = MAX_PIXELS
    ) -> None:
        self.number = max(1, min(cores(), videos))
        self.timeout_s = timeout_s
        self.max_pixels = max_pixels

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if "_pool" in vars(self):
            self._pool.stop()
            self._pool.join()

    @cached_property
    def _pool(self) -> ProcessPool:
        if multiprocessing.get_start_method(allow_none=True) not in (
            None,
            *multiprocessing.get_all_start_methods(),
        ):
            # A process of joblib's has a method of its own, which a spawned one is told of and looks for in vain.
            multiprocessing.set_start_method("spawn", force=True)
        context = multiprocessing.get_context("spawn")
        return ProcessPool(self.number, initializer=_start, context=context)

    @cached_property
    def _measuring(self) -> asyncio.Semaphore:
        """Hold what is to be measured back while all are busy, so that it stands before nothing that is to be verified."""
        return asyncio.Semaphore(self.number)

    async def verify(self, video: Path) -> None:
        """Raise VideoError where a file is not a whole video; a run at the provider may wait for this, none for a measurement."""
        await self._run(_verify, video, self.max_pixels)

    async def measure(self, folder: Path, video: Path, spec: Spec, requested: Requested) -> float:
        """Measure a video into a folder; return the seconds it took. Raises VideoError."""
        async with self._measuring:
            seconds: float = await self._run(_measure, folder, video, spec, requested, self.max_pixels)
        return seconds

    async def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        future = self._pool.schedule(function, args=args, timeout=self.timeout_s)
        try:
            return await asyncio.wrap_future(future)
        except ProcessExpired as error:
            raise VideoError(
                f"the decoder crashed on the file (exit code {error.exitcode})", error_type="decoder_crashed"
            ) from None
        except OutOfTime:
            raise VideoError(
                f"the decoder was not done with the file after {self.timeout_s:g} s",
                error_type="decoder_hung",
            ) from None


def _start() -> None:
    """Leave Ctrl-C to the parent, and the other cores to the other workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import cv2

    cv2.setNumThreads(1)


def _verify(video: Path, max_pixels: int) -> None:
    from kling_sweeps.video.decode import verify

    verify(video, max_pixels)


def _measure(folder: Path, video: Path, spec: Spec, requested: Requested, max_pixels: int) -> float:
    from kling_sweeps import metrics
    from kling_sweeps.measurement.observe import observe
    from kling_sweeps.video.decode import Video

    begin = time.monotonic()
    observe(Video(video, 1, max_pixels), metrics.build(spec), requested).save(folder)
    return round(time.monotonic() - begin, 3)
