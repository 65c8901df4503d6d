"""Looking after a request: few questions, and its end is heard of at once; in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from interleaving import Clock, Process
from omegaconf import OmegaConf

from kling_sweeps import CONF
from kling_sweeps.errors import PollError
from kling_sweeps.experiment.settings import PollSettings
from kling_sweeps.generation import watch
from kling_sweeps.generation.watch import Watch
from kling_sweeps.provider import Status
from kling_sweeps.store.state_machine import Ticket

PLENTY = 10_000


@pytest.fixture
def poll() -> PollSettings:
    """Give the settings as they are shipped."""
    return PollSettings(**OmegaConf.load(CONF / "provider" / "base.yaml").poll)


@dataclass
class Fal:
    """One request: `ahead` others wait before it, `slots` run at once, and each takes `run_s` seconds."""

    clock: Clock
    run_s: float
    ahead: int = 0
    slots: int = 2
    stream: str = "none"  # or whole, silent, cut
    asked: list[float] = field(default_factory=list)
    streams: int = 0
    rings: asyncio.Event | None = None
    calls_s: float = 1e6
    misses: int = 0

    @property
    def starts_s(self) -> float:
        return self.ahead // self.slots * self.run_s

    @property
    def ends_s(self) -> float:
        return self.starts_s + self.run_s

    def now(self) -> Status:
        if self.clock.now >= self.ends_s:
            return Status("COMPLETED")
        if self.clock.now >= self.starts_s:
            return Status("IN_PROGRESS")
        begun = int(self.clock.now / self.run_s + 1) * self.slots
        return Status("IN_QUEUE", queue_position=max(0, self.ahead - begun))

    async def status(self, ticket: Ticket) -> Status:
        self.asked.append(self.clock.now)
        return self.now()

    def bell(self, ticket: Ticket) -> asyncio.Event | None:
        return self.rings

    def missed(self) -> None:
        self.misses += 1

    async def call(self) -> None:
        await asyncio.sleep(self.calls_s)
        self.rings.set()

    async def watch(self, ticket: Ticket) -> AsyncIterator[Status]:
        self.streams += 1
        if self.stream == "none":
            raise PollError("there is no stream")
        if self.stream != "silent":
            yield self.now()
        if self.stream == "cut":
            await asyncio.sleep(60)
            raise PollError("it broke off")
        await asyncio.sleep(self.ends_s - self.clock.now if self.stream == "whole" else 1e6)
        yield self.now()


def watched(fal: Fal, poll: PollSettings, monkeypatch) -> float:
    """Watch a request to its end; return how many seconds after it that was noticed."""
    monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: fal.clock.now))

    async def work() -> None:
        called = asyncio.create_task(fal.call()) if fal.rings else None
        with Watch(fal, Ticket("a/b", "r"), poll) as looks:
            while (await looks.next()).stage != "COMPLETED":
                pass
        if called:
            called.cancel()

    process = Process(fal.clock, work)
    process.step(PLENTY)
    assert process.is_over
    return fal.clock.now - fal.ends_s


@pytest.mark.parametrize("stream", ["none", "silent", "cut"])
def test_few_questions_are_asked_of_a_long_generation(poll, monkeypatch, stream):
    """Asks about forty times in five minutes where there is no stream, or it says nothing."""
    fal = Fal(Clock(), run_s=300, stream=stream)
    late_s = watched(fal, poll, monkeypatch)
    assert len(fal.asked) + fal.streams <= 45
    assert 0 <= late_s <= 1.1 * poll.max_s


def test_a_stream_tells_the_end_at_once(poll, monkeypatch):
    """Is there when the video is, with fewer questions still."""
    fal = Fal(Clock(), run_s=300, stream="whole")
    assert watched(fal, poll, monkeypatch) < 0.1
    assert len(fal.asked) + fal.streams <= 25


@pytest.mark.parametrize(("slots", "run_s"), [(8, 5.0), (2, 60.0), (40, 300.0)])
@pytest.mark.parametrize("ahead", [0, 7, 63, 500])
def test_a_place_far_behind_is_asked_after_seldom_and_a_near_one_in_time(
    poll, monkeypatch, slots, run_s, ahead
):
    """Notices that a request runs soon enough for the stream to tell of its end."""
    fal = Fal(Clock(), run_s, ahead, slots, stream="whole")
    late_s = watched(fal, poll, monkeypatch)
    assert late_s <= max(0.5, 0.02 * fal.ends_s)
    assert len(fal.asked) <= 45 + fal.ends_s / poll.max_s


def test_a_place_that_is_hours_away_is_asked_after_a_hundred_times(poll, monkeypatch):
    """Asks a tenth of what it would in equal steps, and not each second where the queue stands still before its turn."""
    fal = Fal(Clock(), run_s=120, ahead=5000, slots=40, stream="whole")
    late_s = watched(fal, poll, monkeypatch)
    assert late_s < 0.1
    assert len(fal.asked) <= 130 < fal.ends_s / poll.max_s / 7


@pytest.mark.parametrize("ahead", [0, 500])
def test_a_webhook_wakes_a_run_that_was_looked_at_once(poll, monkeypatch, ahead):
    """Is there when the video is, and reads no stream."""
    fal = Fal(Clock(), run_s=120, ahead=ahead, slots=500, stream="whole", rings=asyncio.Event())
    fal.calls_s = fal.ends_s
    assert watched(fal, poll, monkeypatch) < 0.1
    seldom = int(fal.ends_s / poll.far_s / 0.9)
    assert (len(fal.asked) <= 2 + seldom, fal.streams, fal.misses) == (True, 0, 0)


def test_a_webhook_that_does_not_come_is_not_waited_for(poll, monkeypatch):
    """Looks at the run all the same, seldom, and says that it was over."""
    fal = Fal(Clock(), run_s=400, rings=asyncio.Event())
    assert watched(fal, poll, monkeypatch) <= 1.1 * poll.far_s
    assert (len(fal.asked), fal.misses) == (3, 1)


def test_a_webhook_that_comes_too_early_leaves_a_run_that_is_asked_after(poll, monkeypatch):
    """Goes on as without webhooks where fal says that it is not over yet."""
    fal = Fal(Clock(), run_s=60, rings=asyncio.Event(), calls_s=30)
    assert watched(fal, poll, monkeypatch) <= 1.1 * poll.max_s


def test_runs_do_not_ask_in_step(poll):
    """Spreads equal waits."""
    waits = {round(poll.interval(20.0), 3) for _ in range(50)}
    assert len(waits) > 30
    assert all(0.9 <= wait / (poll.share * 20) <= 1.1 for wait in waits)
