"""What the emulator's endpoints share."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from kling_sweeps.experiment.emulator_settings import EmulatorSettings

from .faults import Fault, Faults
from .queue import RequestQueue
from .submission import Submission


@dataclass(frozen=True)
class Emulator:
    """One emulator: its queue, its faults and its counters."""

    settings: EmulatorSettings
    queue: RequestQueue
    faults: Faults
    counters: Counter[str] = field(default_factory=Counter)

    def fault(self, at: str, submission: Submission | None) -> Fault | None:
        """Return the fault that an event about a submission meets, if any."""
        if submission is None:
            return self.faults.pick(at)
        return self.faults.pick(at, submission.prompt, submission.request_id)
