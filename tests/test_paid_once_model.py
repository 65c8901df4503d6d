"""Two processes on one store, a fal that does what it likes, and a crash at any gate: each thing is paid for once.

Hypothesis writes the script: who has its turn and for how long, who is killed where, with half a line
in its journal or not, and what fal answers. The model of fal knows the truth that each line of a
journal is held against when it is written.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fal_in_memory import Accepted, Answer, End, Fal, FalProvider, Trouble
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from interleaving import HERE, Clock, Process, gate

from kling_sweeps.errors import RunError, submitted
from kling_sweeps.experiment.emulator_settings import EmulatorSettings
from kling_sweeps.experiment.request import GenerationRequest, Product
from kling_sweeps.experiment.settings import Policy, PollSettings, ProviderSettings
from kling_sweeps.generation import budget, lifecycle, patience, submitter, watch
from kling_sweeps.generation.budget import Budget
from kling_sweeps.generation.context import GenerationContext
from kling_sweeps.store import folder as store
from kling_sweeps.store import journal
from kling_sweeps.store.folder import Entry, Store
from kling_sweeps.store.journal import Journal
from kling_sweeps.store.state_machine import Stage, fold

pytestmark = pytest.mark.slow

EXAMPLES = 600
PRICE_USD = 1.4
MANY_TURNS = 10_000
# Two repeats: nothing but their keys tells them apart.
REQUESTS = {
    product: [
        GenerationRequest("a/b", {"prompt": "a fox"}, sample, PRICE_USD, product=product) for sample in (0, 1)
    ]
    for product in Product
}
SETTINGS = ProviderSettings(
    name="fal",
    base_url=None,
    timeout_s=20,
    pause_s=2,
    history_wait_s=5,
    late_s=3,
    poll=PollSettings(share=0, min_s=1, max_s=1, far_s=1),
    max_video_mb=50,
    emulator=EmulatorSettings(),
)


@dataclass
class World:
    """A store, a fal, the processes `a` and `b`, and what must hold between them."""

    root: Path
    fal: Fal
    max_usd: float
    shares_command: bool
    policies: deque[Policy]
    requests: list[GenerationRequest]
    commands: int = 0
    processes: dict[str, Process] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store = Store(self.root)
        self.entries = {request.key: self.store.entry(request) for request in self.requests}
        self.fal.allow = self.allow

    def step(self, verb: str, who: str, turns: int) -> None:
        """Give a process some turns, then do to it what the script says."""
        if who not in self.processes:
            self.start(who)
        process = self.processes[who]
        process.step(turns)
        assert process.is_over or turns < MANY_TURNS, "it does not end"
        if process.is_over:
            del self.processes[who]
        elif verb != "run":
            getattr(self, verb)(who)
        self.check_costs()

    def start(self, who: str) -> None:
        """Start the command anew, or a second process of the same command."""
        policy = self.policies.popleft() if self.policies else Policy()
        if not (self.shares_command and self.commands == 1):
            self.commands += 1
        command = f"command-{self.commands}"
        submitted.clear()
        process = Process(self.fal.clock, lambda: self.work(command, policy))
        process.world, process.policy = self, policy
        self.processes[who] = process

    async def work(self, command: str, policy: Policy) -> None:
        """Do what a command does: count what was spent, and generate all at once."""
        provider = FalProvider(self.fal, command)
        HERE.process.provider = provider
        shared = Budget(self.root, command, self.max_usd)
        planned = {key: entry.state() for key, entry in self.entries.items()}
        gate()
        shared.count({key: state.committed_usd for key, state in planned.items()})
        context = GenerationContext(
            provider=provider,
            store=self.store,
            budget=shared,
            workers=provider,
            sweep="sweep",
            command=command,
            settings=SETTINGS,
            policy=policy,
            planned=planned,
        )
        work = (lifecycle.generate(context, request, lambda stage, text: None) for request in self.requests)
        for outcome in await asyncio.gather(*work, return_exceptions=True):
            if isinstance(outcome, Exception) and not isinstance(outcome, RunError):
                raise outcome

    def kill(self, who: str) -> None:
        self.processes.pop(who).kill()

    def tear(self, who: str) -> None:
        """Cut the line that a process is writing in half, and kill it."""
        self._cut(who, 0.5)

    def tear_end(self, who: str) -> None:
        """Cut off nothing but the end of the line that a process is writing, and kill it."""
        self._cut(who, 1.0)

    def _cut(self, who: str, share: float) -> None:
        if path := self.processes[who].writing:
            *whole, last = path.read_bytes().splitlines(keepends=True)
            path.write_bytes(b"".join(whole) + last[: int(share * (len(last) - 1))])
        self.kill(who)

    def interrupt(self, who: str) -> None:
        self.processes[who].interrupt()

    def cancel(self, who: str) -> None:
        self.fal.cancel_last()

    def finish(self) -> None:
        """Make all well, and run the command, with leave to pay for what failed, until all is there."""
        self.complete_all()
        self.fal.clear()
        self.max_usd, self.shares_command = 1000.0, False
        for _ in range(3):  # what is under way may fail, and be paid for again
            self.policies = deque([Policy(unknown="resubmit", retry="failed")])
            self.start("a")
            self.complete_all()
            if all(entry.state().stage is Stage.FINISHED for entry in self.entries.values()):
                return

    def complete_all(self) -> None:
        """Give all processes their turns until they are over."""
        for _ in range(MANY_TURNS):
            for who in list(self.processes):
                self.step("run", who, 1 if len(self.processes) > 1 else MANY_TURNS)
            if not self.processes:
                return
        raise AssertionError("they wait for each other")

    def check_end(self) -> None:
        """Hold that each request has its own video or answer, and that nothing was paid for beside it unasked."""
        for entry in self.entries.values():
            state = entry.state()
            assert state.stage is Stage.FINISHED
            bought = self.fal.accepted[state.request_id]
            assert entry.read_json("result.json") == bought.result()
            assert entry.product is Product.ANSWER or entry.video.read_bytes() == bought.video
            unknown = [one for one in state.attempts if one.cost == "unknown"]
            assert len(unknown) == self.resubmissions(entry)
        permits = sum(self.permits(entry) for entry in self.entries.values())
        assert len(self.requests) <= len(self.fal.paid()) <= len(self.requests) + permits
        stray = [one for one in self.fal.paid() if not self.owners(one.request_id)]
        assert len(stray) <= sum(self.resubmissions(entry) for entry in self.entries.values())

    def check_costs(self) -> None:
        """Hold that the journals never count less than what was paid."""
        counted = sum(entry.state().committed_usd for entry in self.entries.values())
        assert counted >= len(self.fal.paid()) * PRICE_USD - 1e-9

    def allow(self, command: str) -> None:
        """Hold that what fal accepts just now is wanted, and fits into the budget.

        Repeats may have taken each other's ids over, so that they are counted together.
        """
        paid = self.fal.paid()
        assert len(paid) < len(self.requests) + sum(self.permits(entry) for entry in self.entries.values())
        assert (len(paid) + 1) * PRICE_USD <= self.max_usd + 1e-9

    def permits(self, entry: Entry) -> int:
        """Count the user's words to pay again."""
        asked_for = sum(event["event"] == "retrying" for event in entry.journal.events())
        return asked_for + self.resubmissions(entry)

    def resubmissions(self, entry: Entry) -> int:
        """Count the submissions that left while the answer to an earlier one was lost."""
        count, events = 0, entry.journal.events()
        for number, event in enumerate(events):
            is_unknown = fold(events[:number]).stage is Stage.UNKNOWN
            count += event["event"] == "submitting" and is_unknown
            count -= event["event"] == "not_submitted" and len(fold(events[:number]).unanswered) > 1
        return count

    def ids(self, entry: Entry) -> list[str]:
        return [event["request_id"] for event in entry.journal.events() if event["event"] == "submitted"]

    def owners(self, request_id: str) -> list[str]:
        return [key for key, entry in self.entries.items() if request_id in self.ids(entry)]

    def claimed_by(self, request_id: str) -> str | None:
        path = self.root / "claims" / request_id
        return next(path.iterdir()).name if path.exists() else None

    def judge(self, entry: Entry, event: str, facts: dict[str, Any]) -> None:
        """Hold a line that is about to be written against the truth."""
        asked = self.fal.accepted.get(facts.get("request_id") or entry.state().request_id or "")
        rule = getattr(self, f"judge_{event}", None)
        assert rule is None or rule(entry, facts, asked) is not False, (event, facts, asked)

    def judge_submitting(self, entry: Entry, facts: dict, asked: Accepted | None) -> bool:
        state, policy = entry.state(), HERE.process.policy
        if state.stage is Stage.NEW:
            return True
        is_told = state.stage is Stage.UNKNOWN and policy.unknown == "resubmit"
        return is_told and not self.overlooked(entry)

    def judge_submitted(self, entry: Entry, facts: dict, asked: Accepted) -> bool:
        """An id belongs to one key, and to one attempt of it."""
        return not self.owners(asked.request_id) and asked.at <= self.fal.clock.now

    def judge_not_submitted(self, entry: Entry, facts: dict, asked: Accepted | None) -> bool:
        return HERE.process.provider.sent[entry.key] is None

    def judge_started(self, entry: Entry, facts: dict, asked: Accepted) -> bool:
        return asked.stage(self.fal.clock.now) != "IN_QUEUE"

    def judge_completed(self, entry: Entry, facts: dict, asked: Accepted) -> bool:
        is_over = asked.stage(self.fal.clock.now) == "COMPLETED"
        return is_over and facts["failed"] == (asked.end is not End.VIDEO)

    def judge_fetched(self, entry: Entry, facts: dict, asked: Accepted) -> bool:
        return entry.read_json("result.json") == asked.result()

    def judge_billed(self, entry: Entry, facts: dict, asked: Accepted) -> bool:
        return asked.is_paid and facts["usd"] == PRICE_USD

    def judge_answered(self, entry: Entry, facts: dict, asked: Accepted) -> bool:
        return entry.read_json("result.json") == asked.result()

    def judge_downloaded(self, entry: Entry, facts: dict, asked: Accepted) -> bool:
        return entry.video.read_bytes() == asked.video

    def judge_failed(self, entry: Entry, facts: dict, asked: Accepted) -> bool:
        is_free = not asked.is_paid or not facts["begins_anew"]
        return asked.end is not End.VIDEO and facts["may_have_cost"] == (asked.end is End.CHARGED) and is_free

    def judge_cancelled(self, entry: Entry, facts: dict, asked: Accepted) -> bool:
        return asked.end is End.CANCELLED

    def judge_retrying(self, entry: Entry, facts: dict, asked: Accepted | None) -> bool:
        state, policy = entry.state(), HERE.process.policy
        return policy.retry == "failed" and state.is_failed

    def overlooked(self, entry: Entry) -> list[Accepted]:
        """Return what the history listed in time, for whoever lost such a request, and nobody took."""
        left = [(date - Clock().date()).total_seconds() for date in entry.state().unanswered]
        since, until = left[0], left[-1] + SETTINGS.history_wait_s - self.fal.lag_s
        listed = [one for one in self.fal.accepted.values() if since - 300 <= one.at <= until]
        free = [one for one in listed if self.claimed_by(one.request_id) in (None, entry.key)]
        return [one for one in free if one.request_id not in self.ids(entry)]


@pytest.fixture(autouse=True, scope="module")
def gates() -> Iterator[None]:
    """Put a gate before and after all that a process leaves behind, and the world's time in place of ours."""

    def between(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def gated(*args: Any, **kwargs: Any) -> Any:
            gate()
            result = original(*args, **kwargs)
            gate()
            return result

        patch.setattr(owner, name, gated)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "append", _appending(Journal.append))
        patch.setattr(store, "os", SimpleNamespace(**vars(os)))
        for name in ("reserve", "settle", "count"):
            between(Budget, name)
        for owner, name in ((Store, "claim"), (store.os, "replace"), (store.os, "rename")):
            between(owner, name)
        # There is no gate inside a budget, so that nobody ever waits for its lock.
        patch.setattr(budget, "FileLock", nullcontext)
        # Who waits for a lock looks seldom: most of its turns would go by with that.
        patch.setattr(store, "AsyncFileLock", partial(_seldom, store.AsyncFileLock))
        patch.setattr(journal, "_now", lambda: HERE.process.clock.date().isoformat())
        patch.setattr(lifecycle, "datetime", SimpleNamespace(now=lambda zone: HERE.process.clock.date(zone)))
        for module in (lifecycle, patience, submitter, watch):
            patch.setattr(module, "time", SimpleNamespace(monotonic=lambda: HERE.process.clock.now))
        yield


def _seldom(lock: Any, path: Path, **how: Any) -> Any:
    return lock(path, **{**how, "poll_interval": 2.0})


def _appending(original: Any) -> Any:
    def append(self: Journal, event: str, **facts: Any) -> None:
        process = HERE.process
        gate()
        process.world.judge(process.world.entries[self.path.parent.name], event, facts)
        process.writing = self.path
        original(self, event, **facts)
        gate()
        process.writing = None

    return append


@dataclass(frozen=True)
class Luck:
    """What hypothesis chooses for a world."""

    answers: list[Answer]
    ends: list[End]
    troubles: list[Trouble]
    lag_s: float
    affordable: int
    shares_command: bool
    policies: list[Policy]
    script: list[tuple[str, str, int]]


VERBS = ["run"] * 4 + ["kill", "kill", "tear", "tear_end", "interrupt", "cancel"]
LUCK = st.builds(
    Luck,
    answers=st.lists(st.sampled_from(Answer), max_size=6),
    ends=st.lists(st.sampled_from([End.VIDEO, End.FREE, End.CHARGED]), max_size=6),
    troubles=st.lists(st.sampled_from(Trouble), max_size=12),
    lag_s=st.sampled_from([0.0, 2.0, 4.5, 50.0]),
    affordable=st.integers(1, 5),
    shares_command=st.booleans(),
    policies=st.lists(
        st.builds(
            Policy, unknown=st.sampled_from(["wait", "resubmit"]), retry=st.sampled_from(["none", "failed"])
        ),
        max_size=5,
    ),
    script=st.lists(
        st.tuples(st.sampled_from(VERBS), st.sampled_from("ab"), st.integers(1, 30)), max_size=20
    ),
)


known = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@known
@given(LUCK)
def test_whatever_happens_in_whatever_order_a_video_is_paid_for_once(luck):
    """Holds every journal line against the truth, and ends with each video there, paid for once."""
    live(luck)


@pytest.mark.timeout(900)  # a failure is made as small as it can be before it is shown
@settings(known, max_examples=EXAMPLES // 5, derandomize=False)
@given(LUCK)
def test_what_nobody_has_tried_before_is_paid_for_once(luck):
    """Holds the same of cases that are new in each run of the tests; the seed stands in pytest's header."""
    live(luck)


@settings(known, max_examples=EXAMPLES // 5)
@given(LUCK)
def test_an_answer_is_paid_for_once(luck):
    """Holds the same of what is no file, whose cost its result tells."""
    live(luck, Product.ANSWER)


def live(luck: Luck, product: Product = Product.VIDEO) -> None:
    """Let a world go by as the luck has it, and hold what must be true of it."""
    fal = Fal(Clock(), deque(luck.answers), deque(luck.ends), deque(luck.troubles), luck.lag_s)
    root = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    max_usd = luck.affordable * PRICE_USD
    world = World(root, fal, max_usd, luck.shares_command, deque(luck.policies), REQUESTS[product])
    try:
        for verb, who, turns in luck.script:
            world.step(verb, who, turns)
        world.finish()
        world.check_end()
    finally:
        for who in list(world.processes):
            if not world.processes[who].is_over:
                world.kill(who)
        shutil.rmtree(root)
