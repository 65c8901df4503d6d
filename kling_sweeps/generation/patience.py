"""The pauses between two tries of a step, and when it is given up: one rule for submissions, results and files."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from kling_sweeps.errors import LockedAccountError, RateLimitedError, RunError
from kling_sweeps.experiment.settings import ProviderSettings

# The longest that a server's Retry-After is obeyed, in seconds.
MAX_RETRY_AFTER_S = 120.0

Notify = Callable[[str, str], None]


class Patience:
    """The tries of one step: at growing intervals, for `timeout_s` seconds from its first error."""

    def __init__(self, settings: ProviderSettings, notify: Notify) -> None:
        self.settings = settings
        self.notify = notify
        self.begin: float | None = None

    async def wait(self, error: RunError, stage: str = "no answer") -> None:
        """Notify of the error and wait before the next try; raise the error where the time is up."""
        if self.begin is None:
            self.begin = time.monotonic()
        age_s = time.monotonic() - self.begin
        if age_s > self.settings.timeout_s:
            error.args = (f"{error}; given up after {self.settings.timeout_s:g} s (provider.timeout_s)",)
            raise error
        self.notify("paused" if isinstance(error, LockedAccountError) else stage, str(error))
        await asyncio.sleep(self._pause_s(error, age_s))

    def _pause_s(self, error: RunError, age_s: float) -> float:
        if isinstance(error, LockedAccountError):
            return self.settings.pause_s
        asked_s = error.retry_after_s if isinstance(error, RateLimitedError) else None
        return max(self.settings.poll.interval(age_s), min(asked_s or 0.0, MAX_RETRY_AFTER_S))
