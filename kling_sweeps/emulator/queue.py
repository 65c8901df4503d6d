"""The queue: accepted submissions, slots to run them in, and how they end."""

from __future__ import annotations

import asyncio
import threading
import time
from bisect import bisect_left, insort
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from kling_sweeps.experiment.emulator_settings import EmulatorSettings

from . import judging, outcomes
from .endpoints import JUDGES, Endpoints, Scene
from .faults import Faults
from .rendering import RenderStopped, is_rendered, prepare, render_video, render_workers
from .submission import IN_QUEUE, Outcome, Submission
from .submission_log import SubmissionLog
from .webhooks import Webhooks


class RequestQueue:
    """All submissions; at most `settings.slots` of them run, the others wait in their order."""

    def __init__(
        self,
        settings: EmulatorSettings,
        folder: Path,
        log: SubmissionLog,
        faults: Faults,
        webhooks: Webhooks,
    ) -> None:
        self.folder, self.webhooks = folder, webhooks
        self._settings, self._log, self._faults = settings, log, faults
        self.endpoints = Endpoints(settings.models)
        self._submissions = {known.request_id: known for known in log.read()}
        waiting = (known for known in self._submissions.values() if known.status == IN_QUEUE)
        self._waiting = sorted(waiting, key=_turn)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._threads = ThreadPoolExecutor(render_workers(settings.slots), "render")
        self._stopping = threading.Event()
        self._changed = asyncio.Event()

    def start(self) -> None:
        """Take up again what an earlier emulator left unfinished."""
        self._threads.submit(self._prepare)
        self._fill_slots()

    def _prepare(self) -> None:
        prepare()
        _ = self.endpoints.models

    async def stop(self) -> None:
        """Stop rendering at the next frame; the next emulator takes up what is unfinished."""
        self._stopping.set()
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self.webhooks.close()
        self._threads.shutdown(cancel_futures=True)

    def all(self) -> list[Submission]:
        """Return every accepted submission, the oldest first."""
        return list(self._submissions.values())

    def find(self, request_id: str) -> Submission | None:
        """Return the submission of an id."""
        return self._submissions.get(request_id)

    @property
    def is_full(self) -> bool:
        """Whether every slot is taken."""
        return len(self._tasks) >= self._settings.slots

    def accept(
        self,
        endpoint: str,
        arguments: dict[str, Any],
        low_priority: bool,
        start_timeout_s: float | None,
        tags: str = "",
        webhook: str | None = None,
        base_url: str = "",
    ) -> Submission:
        """Accept a submission: from here on it is run and charged, whatever the client hears of it."""
        accepted = Submission(
            len(self._submissions),
            endpoint,
            arguments,
            low_priority,
            start_timeout_s,
            tags,
            webhook,
            base_url,
        )
        self._log.accepted(accepted)
        self._submissions[accepted.request_id] = accepted
        insort(self._waiting, accepted, key=_turn)
        if start_timeout_s is not None:
            asyncio.get_running_loop().call_later(
                start_timeout_s, self._end_waiting, accepted, "request_timeout_504"
            )
        self._fill_slots()
        return accepted

    def mark_answered(self, submission: Submission) -> None:
        """Note that the client was sent the request id."""
        submission.answered = True
        self._log.answered(submission)

    def position(self, submission: Submission) -> int:
        """Return how many requests are before this one; 0 when it isn't waiting."""
        is_waiting = submission.status == IN_QUEUE
        return bisect_left(self._waiting, _turn(submission), key=_turn) if is_waiting else 0

    def cancel(self, submission: Submission) -> bool:
        """Cancel what still waits; what runs goes on, as it may at fal. False when it has ended."""
        if submission.outcome is not None:
            return False
        self._end_waiting(submission, "client_cancelled_499")
        return True

    async def change(self) -> None:
        """Wait until any request starts or ends."""
        await self._changed.wait()

    async def ended(self, submission: Submission) -> Outcome:
        """Wait until a request has ended."""
        while submission.outcome is None:
            await self.change()
        return submission.outcome

    def _fill_slots(self) -> None:
        while not self.is_full and not self._stopping.is_set() and self._waiting:
            submission = self._waiting.pop(0)
            submission.started_at = time.time()
            self._tasks[submission.request_id] = asyncio.create_task(self._run(submission))
            self._announce()

    async def _run(self, submission: Submission) -> None:
        try:
            outcome = await self._generate(submission)
        except (RenderStopped, asyncio.CancelledError):
            return
        del self._tasks[submission.request_id]
        self._end(submission, outcome)

    async def _generate(self, submission: Submission) -> Outcome:
        fault = self._faults.pick("generate", submission.prompt, submission.request_id)
        latency = self._settings.latency_s
        if fault is not None and fault.name == "slow":
            latency, fault = latency + fault.options["seconds"], None
        wait = asyncio.create_task(asyncio.sleep(latency))
        if fault is not None:
            outcome = outcomes.of_fault(
                fault, *self.endpoints.charge(submission.endpoint, submission.arguments)
            )
        else:
            arguments, problems = self.endpoints.read(submission.endpoint, submission.arguments)
            work = self._judge if submission.endpoint in JUDGES else self._render
            outcome = outcomes.of_problems(problems) if problems else await work(submission, arguments)
        await wait
        return outcome

    async def _render(self, submission: Submission, arguments: Mapping[str, Any]) -> Outcome:
        name = f"{submission.request_id}_output.mp4"
        try:
            scene = self.endpoints.scene(submission.endpoint, arguments)
            await self._write(name, scene, submission.request_id)
        except RenderStopped:
            raise
        except Exception as error:  # whatever it is, the request has to end
            return outcomes.of_failure(error)
        size = (self.folder / name).stat().st_size
        return outcomes.of_video(
            name, size, *self.endpoints.charge(submission.endpoint, submission.arguments)
        )

    async def _judge(self, submission: Submission, arguments: Mapping[str, Any]) -> Outcome:
        fault = self._faults.pick("judge", submission.prompt, submission.request_id)
        asked = (
            self.folder,
            submission.endpoint,
            arguments,
            submission.request_id,
            self._settings.judge,
            fault,
        )
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, judging.answered, *asked)
        except Exception as error:  # whatever it is, the request has to end
            return outcomes.of_failure(error)

    async def _write(self, name: str, scene: Scene, request_id: str) -> None:
        path = self.folder / name
        if not is_rendered(path):
            work = (path, scene, request_id, self._settings, self._stopping)
            await asyncio.get_running_loop().run_in_executor(self._threads, render_video, *work)

    def _end(self, submission: Submission, outcome: Outcome) -> None:
        submission.end(outcome)
        self._log.ended(submission)
        self.webhooks.call(submission)
        self._announce()
        self._fill_slots()

    def _end_waiting(self, submission: Submission, why: str) -> None:
        if submission.status == IN_QUEUE:
            del self._waiting[self.position(submission)]
            self._end(submission, outcomes.of_request(why))

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _turn(submission: Submission) -> tuple[bool, int]:
    """Return by what a queue is sorted."""
    return submission.low_priority, submission.ordinal
