"""One generation, step by step, from whatever its journal says was done last."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import stamina

from kling_sweeps.download import EMPTY, EXPIRED
from kling_sweeps.errors import (
    DownloadError,
    GenerationError,
    LockedAccountError,
    LostResultError,
    PollError,
    UnreadableResultError,
    VideoError,
)
from kling_sweeps.journal import Stage, State, Ticket
from kling_sweeps.provider import CANCELLED, Status
from kling_sweeps.providers.answers import video_url
from kling_sweeps.request import GenerationRequest
from kling_sweeps.store import Entry
from kling_sweeps.submission import LARGEST_SKEW, Means, Notify, Submission
from kling_sweeps.watch import Watch

RESULT_ATTEMPTS = 8
VIDEO_ATTEMPTS = 3
# How often what fal failed, and does not charge, is begun anew without anybody's word.
FREE_RETRIES = 2


async def generate(means: Means, request: GenerationRequest, notify: Notify) -> State:
    """Take a request to a video in the store, paid for once; return its state, finished or failed.

    A RunError ends the run and leaves the journal where it was, so that the next call goes on from
    there; what fal itself failed is journalled. `notify(stage, text)` hears of progress.
    """
    entry = means.store.entry(request)
    if entry.state().stage is Stage.FINISHED:
        return entry.state()
    entry.make_folder()
    notify("waiting", "")
    async with entry.async_lock():
        entry.create(request)
        _begin_anew(entry, means)
        # Another command may have come further with it since this one was planned.
        means.budget.settle(entry.key, entry.state().committed_usd)
        steps = _steps(means, request, entry, notify)
        while step := steps.get(entry.state().stage):
            await step()
    return entry.state()


def _begin_anew(entry: Entry, means: Means) -> None:
    """Begin anew where the user asked to pay again, or where a new emulator can't know what an old one had."""
    state = entry.state()
    if means.provider.forgets and state.is_open:
        entry.journal.append("forgotten")
    elif state.stage is Stage.FAILED and means.may_pay_again(entry.key, state):
        entry.journal.append("retrying")


def _steps(
    means: Means, request: GenerationRequest, entry: Entry, notify: Notify
) -> dict[Stage, Callable[[], Awaitable[None]]]:
    """Return what leads from each stage to the next."""
    submission = Submission(means, request, entry, notify)
    generation = _Generation(means, request, entry, notify)
    return {
        Stage.NEW: submission.submit,
        Stage.UNKNOWN: submission.look_up,
        Stage.SUBMITTED: generation.wait,
        Stage.COMPLETED: generation.fetch,
        Stage.FETCHED: generation.download,
    }


class _Generation:
    """One request that fal has; each step leads to the next stage or raises."""

    def __init__(self, means: Means, request: GenerationRequest, entry: Entry, notify: Notify) -> None:
        self.command = means.command
        self.provider = means.provider
        self.budget = means.budget
        self.workers = means.workers
        self.settings = means.settings
        self.request = request
        self.entry = entry
        self.notify = notify
        # It is asked for once more before it is paid for once more.
        state = entry.state()
        self.may_pay_again = state.lost_by is not None and means.may_pay_again(entry.key, state)

    @property
    def ticket(self) -> Ticket:
        ticket = self.entry.state().ticket
        assert ticket is not None  # every stage from SUBMITTED on has one
        return ticket

    async def wait(self) -> None:
        """Look until the request is completed; silence and a locked account are waited out."""
        with Watch(self.provider, self.ticket, self.settings.poll) as watch:
            while watch.age_s < self.settings.timeout_s:
                try:
                    status = await watch.next()
                except LockedAccountError as error:
                    self.notify("paused", str(error))
                    await asyncio.sleep(self.settings.pause_s)
                except PollError as error:
                    self.notify("no answer", str(error))
                except LostResultError as error:
                    return await self._recover(error)
                except GenerationError as error:
                    return self._failed(error)
                else:
                    if self._is_completed(status):
                        return
        raise PollError(
            f"not completed after {self.settings.timeout_s:g} s (provider.timeout_s); it goes on at "
            "fal, and the same command collects it"
        )

    def _is_completed(self, status: Status) -> bool:
        """Journal and tell what a status says that was not known."""
        if status.stage == "COMPLETED":
            self.entry.journal.append("completed", inference_s=status.inference_s, failed=status.failed)
            return True
        if status.stage == "IN_QUEUE":
            place = status.queue_position
            self.notify("in queue", "" if place is None else f"position {place}")
            return False
        if not self.entry.state().is_started:
            self.entry.journal.append("started")
        self.notify("generating", status.log)
        return False

    async def fetch(self) -> None:
        """Fetch the result; what failed at fal is journalled as failed."""
        self.notify("fetching result", "")
        try:
            async for attempt in stamina.retry_context(on=PollError, attempts=RESULT_ATTEMPTS, timeout=None):
                with attempt:
                    self._keep(await self._unlocked_result())
        except LostResultError as error:
            await self._recover(error)
        except GenerationError as error:
            self._failed(error)
        except UnreadableResultError as error:
            self._unreadable(error)

    async def _unlocked_result(self) -> dict:
        """Ask for the result; a locked account is waited out for as long as a video is."""
        failed = self.entry.state().failed
        give_up = time.monotonic() + self.settings.timeout_s
        while True:
            try:
                return await self.provider.result(self.ticket, failed)
            except LockedAccountError as error:
                if time.monotonic() > give_up:
                    raise
                self.notify("paused", str(error))
                await asyncio.sleep(self.settings.pause_s)

    def _keep(self, result: dict) -> None:
        self.entry.discard_part("video.mp4")  # it was another attempt's
        self.entry.write_json("result.json", result)
        self.entry.journal.append("fetched")

    def _unreadable(self, error: UnreadableResultError) -> None:
        """Keep what was delivered and can't be read, which nothing pays for again, and raise."""
        self.entry.write_json("result.json", error.result)
        if not self.entry.state().is_unreadable:
            self.entry.journal.append("unreadable")
        error.args = (f"{error}. It is in {self.entry.folder / 'result.json'}, and is not paid for again",)
        raise error

    async def _recover(self, lost: LostResultError) -> None:
        """Take what fal no longer has from its history; otherwise it is lost, for all that is known."""
        since = self.entry.state().submitting_at or self.provider.now()
        request_id = self.ticket.request_id
        try:
            async for past in self.provider.history(self.request.endpoint, since - LARGEST_SKEW):
                if past.request_id == request_id and video_url(past.output):
                    return self._keep(dict(past.output))
        except (PollError, LockedAccountError, LostResultError):
            raise lost from None  # which a history that can't be read does not confirm
        self._lost(lost)

    def _lost(self, error: LostResultError | DownloadError | VideoError) -> None:
        """Note what fal does not know any more, and raise; what was lost before is paid again where told."""
        if self.may_pay_again:
            self.may_pay_again = False
            self.entry.journal.append("retrying")
            return
        self.entry.journal.append("lost", message=str(error), command=self.command)
        error.args = (f"{error}; retry=failed asks once more, and then pays again",)
        raise error

    def _failed(self, error: GenerationError) -> None:
        """Journal a failure; one that fal does not charge is begun anew, twice at the most."""
        state = self.entry.state()
        if error.error_type == CANCELLED and state.is_cancelled:
            self.entry.journal.append("cancelled")
        else:
            is_free = not error.may_have_cost and error.error_type != CANCELLED
            self.entry.journal.append(
                "failed",
                stage=error.stage,
                error_type=error.error_type,
                message=str(error),
                may_have_cost=error.may_have_cost,
                begins_anew=is_free and state.retries < FREE_RETRIES,
            )
        self.budget.settle(self.entry.key, self.entry.state().committed_usd)

    async def download(self) -> None:
        """Fetch the video; a file that is no video is fetched anew, and then an error."""
        self.notify("downloading", "")
        begin = time.monotonic()
        try:
            async for attempt in stamina.retry_context(on=VideoError, attempts=VIDEO_ATTEMPTS, timeout=None):
                with attempt:
                    await self._download_once()
        except DownloadError as error:
            if error.error_type not in (EXPIRED, EMPTY):
                raise
            return self._lost(error)
        except VideoError as error:
            return self._lost(error)
        seconds = round(time.monotonic() - begin, 3)
        self.entry.journal.append("downloaded", seconds=seconds, bytes=self.entry.video.stat().st_size)

    async def _download_once(self) -> None:
        with self.entry.replacing("video.mp4") as part:
            await self.provider.download(video_url(self.entry.read_json("result.json")), part)
            try:
                await self.workers.verify(part)
            except VideoError:
                part.unlink()
                raise
