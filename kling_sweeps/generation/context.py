"""What all the generations of one command share."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from kling_sweeps.experiment.settings import Policy, ProviderSettings
from kling_sweeps.generation.budget import Budget
from kling_sweeps.generation.pictures import Pictures
from kling_sweeps.measurement.workers import Workers
from kling_sweeps.provider import Provider
from kling_sweeps.store.folder import Store
from kling_sweeps.store.state_machine import State


@dataclass(frozen=True)
class GenerationContext:
    """What all the generations of a command work with.

    `planned` is the state of each request when the command was planned, by key. `first_submission` is held by
    whoever submits while nothing was submitted yet.
    """

    provider: Provider
    store: Store
    budget: Budget
    workers: Workers
    sweep: str
    command: str
    settings: ProviderSettings
    policy: Policy = Policy()
    planned: Mapping[str, State] = field(default_factory=dict)
    first_submission: asyncio.Lock = field(default_factory=asyncio.Lock)

    @cached_property
    def pictures(self) -> Pictures:
        """Return what keeps and uploads the pictures of the requests."""
        return Pictures(self.provider, self.store.pictures)

    def may_pay_again(self, key: str, state: State) -> bool:
        """Tell whether `retry=failed` pays again for a failure: once, and for one from before the command was planned."""
        planned = self.planned.get(key, State())
        is_covered = planned.is_failed and planned.request_id == state.request_id
        is_own = (state.lost_by or state.attempted_by) == self.command
        return self.policy.retry == "failed" and is_covered and not is_own

    def may_resubmit(self, key: str, state: State) -> bool:
        """Tell whether `unknown=resubmit` pays again for a submission whose answer was lost: once since the plan."""
        lost = len(state.unanswered)
        is_own = state.attempted_by == self.command
        is_used_up = lost > 1 and (is_own or lost > len(self.planned.get(key, State()).unanswered))
        return self.policy.unknown == "resubmit" and not is_used_up
