"""One generation, or one judgement, step by step, from the stage that its journal says."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kling_sweeps.errors import (
    DownloadError,
    GenerationError,
    LockedAccountError,
    LostResultError,
    PollError,
    RejectedError,
    StoreError,
    UnreadableResultError,
    VideoError,
)
from kling_sweeps.experiment.request import GenerationRequest, Product
from kling_sweeps.generation.context import GenerationContext
from kling_sweeps.generation.patience import Notify, Patience
from kling_sweeps.generation.submitter import LARGEST_SKEW, Submitter
from kling_sweeps.generation.watch import Watch
from kling_sweeps.provider import CANCELLED, FILE_GONE, Status
from kling_sweeps.providers.answers import has, usage_usd, video_url
from kling_sweeps.providers.download import EMPTY, EXPIRED
from kling_sweeps.store.folder import Entry
from kling_sweeps.store.state_machine import Stage, State, Ticket
from kling_sweeps.untrusted import clean

# How often in a row the same broken bytes have to be downloaded before they are taken for what fal has.
VIDEO_ATTEMPTS = 3
# How often a request that fal failed and does not charge is submitted again without the user asking for it.
FREE_RETRIES = 2


async def generate(context: GenerationContext, request: GenerationRequest, notify: Notify) -> State:
    """Generate what a request buys into the store, paid for once; return its state, finished or failed.

    Goes on from what the journal says. Where it raises RunError, the next call does the same; only what fal itself
    fails is journalled as failed. `notify(stage, text)` is called with every progress.
    """
    entry = context.store.entry(request)
    if entry.state().stage in (Stage.FINISHED, Stage.DAMAGED) and not _is_asked_again(entry, context):
        return entry.state()
    entry.make_folder()
    notify("waiting", "")
    async with entry.async_lock():
        _check_there(entry, context)
        entry.create(request)
        _begin_anew(entry, context)
        # Another command may have come further with it since this one was planned.
        context.budget.settle(entry.key, entry.state().committed_usd)
        steps = _steps(context, request, entry, notify)
        while step := steps.get(entry.state().stage):
            await step()
    return entry.state()


def _check_there(entry: Entry, context: GenerationContext) -> None:
    """Raise StoreError where the journal of what was bought is damaged or gone, since it would be bought again."""
    state, planned = entry.state(), context.planned.get(entry.key, State())
    if state.stage is Stage.DAMAGED:
        assert state.error  # damage is told as one
        raise state.error
    is_gone = state.is_blank and not planned.is_blank
    if is_gone or (context.budget.amounts.get(entry.key) and entry.has_lost_journal()):
        raise StoreError(
            f"{entry.journal.path} is gone, and fal had the request; it is not bought again. Bring it back, or "
            f"remove {entry.folder} whole, and the next command generates and pays for it anew"
        )


def _begin_anew(entry: Entry, context: GenerationContext) -> None:
    """Begin anew where the user's policy pays again, or where the request was an earlier emulator's, which has ended."""
    state = entry.state()
    if context.provider.is_ephemeral and state.is_open:
        entry.journal.append("forgotten")
    elif _is_asked_again(entry, context) or (
        state.stage is Stage.FAILED and context.may_pay_again(entry.key, state)
    ):
        entry.journal.append("retrying")
        if entry.product is Product.ANSWER:  # whose text was paid for, whatever it says
            entry.set_aside("result.json", hashlib.sha256((state.request_id or "").encode()).hexdigest()[:8])


def _is_asked_again(entry: Entry, context: GenerationContext) -> bool:
    """Tell whether the user's policy pays once more for an answer that is here and of no use."""
    state = entry.state()
    is_lost = entry.product is Product.ANSWER and state.stage is Stage.FINISHED and state.lost_by is not None
    return is_lost and context.may_pay_again(entry.key, state)


def _steps(
    context: GenerationContext, request: GenerationRequest, entry: Entry, notify: Notify
) -> dict[Stage, Callable[[], Awaitable[None]]]:
    """Return the step that leads from each stage to the next."""
    submitter = Submitter(context, request, entry, notify)
    generation = _Generation(context, request, entry, notify)
    return {
        Stage.NEW: submitter.submit,
        Stage.UNKNOWN: submitter.look_up,
        Stage.SUBMITTED: generation.wait,
        Stage.COMPLETED: generation.fetch,
        Stage.FETCHED: generation.download if request.product is Product.VIDEO else generation.answer,
    }


class _Generation:
    """A request that fal has accepted; each step leads to the next stage or raises."""

    def __init__(
        self, context: GenerationContext, request: GenerationRequest, entry: Entry, notify: Notify
    ) -> None:
        self.command = context.command
        self.provider = context.provider
        self.budget = context.budget
        self.workers = context.workers
        self.pictures = context.pictures
        self.settings = context.settings
        self.request = request
        self.entry = entry
        self.notify = notify
        # A lost result is asked for once more before it is paid for once more.
        state = entry.state()
        self.may_pay_again = state.lost_by is not None and context.may_pay_again(entry.key, state)

    @property
    def ticket(self) -> Ticket:
        ticket = self.entry.state().ticket
        assert ticket is not None  # every stage from SUBMITTED on has one
        return ticket

    async def wait(self) -> None:
        """Ask for the status until the request is completed; no answers and a locked account are waited out."""
        with Watch(self.provider, self.ticket, self.settings.poll) as watch:
            while watch.age_s < self.settings.timeout_s:
                try:
                    if await self._is_over(watch):
                        return None
                except LockedAccountError as error:
                    self.notify("paused", str(error))
                    await asyncio.sleep(self.settings.pause_s)
                except PollError as error:
                    self.notify("no answer", str(error))
                except GenerationError as error:
                    return await self._failed(error)
        raise PollError(
            f"not completed after {self.settings.timeout_s:g} s (provider.timeout_s); it goes on at "
            "fal, and the same command collects it"
        )

    async def _is_over(self, watch: Watch) -> bool:
        try:
            return self._is_completed(await watch.next())
        except LostResultError as error:
            if await self._is_recovered(error):
                return True
            raise PollError(str(error)) from None

    def _is_completed(self, status: Status) -> bool:
        """Journal a status that is new, and notify of it; return whether the request is completed."""
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
        """Fetch the result; a failure that fal reports is journalled."""
        self.notify("fetching result", "")
        patience = Patience(self.settings, self.notify)
        failed = self.entry.state().failed
        while True:
            try:
                return await self._fetch_once(failed)
            except GenerationError as error:
                return await self._failed(error)
            except UnreadableResultError as error:
                self._unreadable(error)
            except (PollError, LockedAccountError) as error:
                await patience.wait(error)

    async def _fetch_once(self, failed: bool) -> None:
        try:
            self._keep(await self.provider.result(self.ticket, failed, self.request.product))
        except LostResultError as error:
            if not await self._is_recovered(error):
                raise PollError(str(error)) from None

    def _keep(self, result: dict[str, Any]) -> None:
        self.entry.discard_part("video.mp4")  # it was another attempt's
        self.entry.write_json("result.json", result)
        self.entry.journal.append("fetched")

    def _unreadable(self, error: UnreadableResultError) -> None:
        """Save a result without what was bought, which is not paid for again, and raise the error."""
        self.entry.write_json("result.json", error.result)
        if not self.entry.state().is_unreadable:
            self.entry.journal.append("unreadable")
        error.args = (f"{error}. It is in {self.entry.folder / 'result.json'}, and is not paid for again",)
        raise error

    async def _is_recovered(self, lost: LostResultError) -> bool:
        """Look in fal's history for a result that fal says it does not have; return whether the stage has changed.

        A request of less than `late_s` ago may only be late, and returns False. Raises the error where the history
        can't be read, or does not have the result either, which is journalled as lost.
        """
        is_confirmed, output = True, None
        try:
            output = await self._output_in_history()
        except (PollError, LockedAccountError, LostResultError, RejectedError):
            is_confirmed = False
        if output is not None:
            self._keep(output)
        elif self._is_recent:
            return False
        elif not is_confirmed:
            raise lost from None
        else:
            self._lost(lost)
        return True

    async def _output_in_history(self) -> dict[str, Any] | None:
        since = self.entry.state().submitting_at or self.provider.now()
        async for past in self.provider.history(self.request.endpoint, since - LARGEST_SKEW):
            if past.request_id == self.ticket.request_id and has(self.request.product, past.output):
                return dict(past.output or {})
        return None

    @property
    def _is_recent(self) -> bool:
        """Tell whether fal completed the request less than `late_s` ago, so that its result may only be late."""
        since = self.entry.state().at_fal_since
        return since is not None and (datetime.now(UTC) - since).total_seconds() < self.settings.late_s

    def _lost(self, error: LostResultError | DownloadError | VideoError) -> None:
        """Journal that fal no longer has the result, and raise; where `may_pay_again`, begin anew instead, once."""
        if self.may_pay_again:
            self.may_pay_again = False
            self.entry.journal.append("retrying")
            return
        self.entry.journal.append("lost", message=str(error), command=self.command)
        error.args = (f"{error}; retry=failed asks once more, and then pays again",)
        raise error

    async def _failed(self, error: GenerationError) -> None:
        """Journal a failure; one that fal does not charge is submitted again, `FREE_RETRIES` times at the most."""
        state = self.entry.state()
        if error.error_type == FILE_GONE:
            await self.pictures.forget(self.request)
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

    async def answer(self) -> None:
        """Note that an answer is here, and what it says that it has cost; what else it says is read by who asked.

        One that says that it was for nothing counts as much as it may cost, until fal bills it. Where it has cost more than
        it may, nothing more is bought, since the others may do so too.
        """
        usd, most = usage_usd(self.entry.read_json("result.json")), self.request.price_usd
        if usd and most is not None and usd > most:
            self.budget.close(f"an answer has cost {usd:.6g} USD, and was to cost {most:.6g} at most")
        self.entry.journal.append("answered", **({"usd": usd} if usd else {}))
        self.budget.settle(self.entry.key, self.entry.state().committed_usd)

    async def download(self) -> None:
        """Download the video; a broken one is downloaded again, until the same bytes came `VIDEO_ATTEMPTS` times."""
        self.notify("downloading", "")
        begin, patience = time.monotonic(), Patience(self.settings, self.notify)
        came: list[str] = []
        while True:
            try:
                problem = await self._download_once(came)
                break
            except DownloadError as error:
                if error.error_type in (EXPIRED, EMPTY) and not self._is_recent:
                    error.args = (f"the video is gone from fal: {error}",)
                    self._lost(error)
                    return
                if error.is_final:
                    raise
                await patience.wait(error, "no video yet")
            except VideoError as error:
                if _came_again(came):
                    self._lost(error)
                    return
                await patience.wait(error, "no video yet")
        seconds, size = round(time.monotonic() - begin, 3), self.entry.video.stat().st_size
        self.entry.journal.append("downloaded", seconds=seconds, bytes=size, problem=problem)

    async def _download_once(self, came: list[str]) -> str:
        """Download the video; return "", or what is wrong with it where fal has no better one.

        Raises VideoError where another download may be whole, and where no frame of the video can be decoded, which
        is then kept as `undecodable.mp4`.
        """
        with self.entry.replacing("video.mp4") as part:
            await self.provider.download(video_url(self.entry.read_json("result.json")) or "", part)
            try:
                await self.workers.verify(part)
            except VideoError as error:
                came.append(_digest(part))
                if not _came_again(came):
                    part.unlink()
                    raise
                if error.decodable:
                    return str(error).replace(str(part), "the file")
                aside = self.entry.folder / "undecodable.mp4"
                os.replace(part, aside)
                error.args = (str(error).replace(str(part), str(aside)) + _beginning(aside),)
                raise
        return ""


def _came_again(came: list[str]) -> bool:
    """Tell whether the last `VIDEO_ATTEMPTS` downloads were the same bytes."""
    return came[-VIDEO_ATTEMPTS:] == [came[-1]] * VIDEO_ATTEMPTS


def _beginning(path: Path) -> str:
    """Return, for an error message, the beginning of a file that is text in place of a video; "" for any other."""
    with open(path, "rb") as file:
        head = file.read(200).strip()
    return (
        f"; it begins with {clean(head.decode(errors='replace'), 80)}"
        if head[:1] in (b"<", b"{", b"[")
        else ""
    )


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
