"""A generation goes on from whatever its journal says was done last, and is paid for once."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from uuid import uuid4

import httpx
import pytest
from conftest import Emulator
from fal_client.auth import AuthCredentials

from kling_sweeps.errors import (
    CredentialsError,
    DownloadError,
    LostResultError,
    OverBudgetError,
    PollError,
    RejectedError,
    RunError,
    UnknownError,
    VideoError,
    submitted,
)
from kling_sweeps.experiment.emulator_settings import EmulatorSettings
from kling_sweeps.experiment.request import GenerationRequest
from kling_sweeps.experiment.settings import Policy, PollSettings, ProviderSettings
from kling_sweeps.generation import lifecycle, patience
from kling_sweeps.generation.budget import Budget
from kling_sweeps.generation.context import GenerationContext
from kling_sweeps.measurement.workers import Workers
from kling_sweeps.providers.fal import FalProvider
from kling_sweeps.providers.transport import Route
from kling_sweeps.store.folder import Store
from kling_sweeps.store.state_machine import Stage, State

ENDPOINT = "fal-ai/kling-video/v2.1/master/text-to-video"
ARGUMENTS = {
    "prompt": "a fox",
    "negative_prompt": "",
    "cfg_scale": 0.5,
    "aspect_ratio": "16:9",
    "duration": "5",
}
REQUEST = GenerationRequest(ENDPOINT, ARGUMENTS, 0, 1.4)
SETTINGS = ProviderSettings(
    name="fal",
    base_url=None,
    timeout_s=60,
    pause_s=0.05,
    history_wait_s=1,
    late_s=0,
    poll=PollSettings(share=0.1, min_s=0.02, max_s=0.1, far_s=1),
    max_video_mb=50,
    emulator=EmulatorSettings(),
)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path)


def generate(
    emulator: Emulator,
    store: Store,
    *requests: GenerationRequest,
    is_ephemeral: bool = False,
    policy: Policy = Policy(),
    max_usd: float = 100,
    told: list[tuple[str, str]] | None = None,
    **settings: float,
) -> list[State]:
    """Generate requests at once; return their states, or raise the first error."""

    submitted.clear()  # as `main` does

    async def run():
        key = AuthCredentials("Key", "k")
        provider = FalProvider(key, emulator.base_url, max_bytes=50_000_000, is_ephemeral=is_ephemeral)
        budget = Budget(store.root, "test", max_usd)
        context = GenerationContext(
            provider,
            store,
            budget,
            workers,
            "cfg",
            uuid4().hex,
            dataclasses.replace(SETTINGS, **settings),
            policy,
            {request.key: store.entry(request).state() for request in requests},
        )
        try:
            hear = [] if told is None else told
            work = (
                lifecycle.generate(context, request, lambda *heard: hear.append(heard))
                for request in requests
            )
            return await asyncio.gather(*work, return_exceptions=True)
        finally:
            await provider.close()

    with Workers(1) as workers:
        states = asyncio.run(run())
    for state in states:
        if isinstance(state, Exception):
            raise state
    return states


def events(store: Store) -> list[str]:
    return [event["event"] for event in store.entry(REQUEST).journal.events()]


def test_a_request_becomes_a_video(emulator, store):
    """Journals each step and ends with a video in the store."""
    (state,) = generate(emulator, store, REQUEST)
    assert state.stage is Stage.FINISHED
    assert state.request_id == emulator.ledger()[0]["request_id"]
    steps = [name for name in events(store) if name != "started"]
    assert steps == ["submitting", "submitted", "completed", "fetched", "downloaded"]
    assert state.inference_s > 0
    assert state.queue_s >= 0


def test_a_finished_request_asks_nobody(emulator, store):
    """Needs no server for what is in the store."""
    generate(emulator, store, REQUEST)
    nowhere = Emulator("http://127.0.0.1:9")
    (state,) = generate(nowhere, store, REQUEST)
    assert state.stage is Stage.FINISHED


def test_samples_of_one_cell_are_bought_each(emulator, store):
    """Buys a repeat for itself, since there is no seed."""
    generate(emulator, store, REQUEST, dataclasses.replace(REQUEST, sample=1))
    assert len(emulator.ledger()) == 2


def test_one_request_in_two_places_is_bought_once(emulator, store):
    """Lets the second of two that want the same wait for the first."""
    first, second = generate(emulator, store, REQUEST, REQUEST)
    assert first == second
    assert len(emulator.ledger()) == 1


@pytest.mark.parametrize("lost_after", ["submitted", "completed", "fetched"])
def test_what_was_begun_is_gone_on_with(emulator, store, lost_after):
    """Forgets all after a step, as a crash would, and buys nothing again."""
    generate(emulator, store, REQUEST)
    entry = store.entry(REQUEST)
    lines = entry.journal.path.read_text().splitlines(keepends=True)
    kept = next(i for i, line in enumerate(lines) if f'"event": "{lost_after}"' in line)
    entry.journal.path.write_text("".join(lines[: kept + 1]))
    entry.video.unlink()
    (state,) = generate(emulator, store, REQUEST)
    assert state.stage is Stage.FINISHED
    assert entry.video.exists()
    assert len(emulator.ledger()) == 1


def test_a_refused_submission_is_sent_again(emulator, store):
    """Tries again after a 429, which bought nothing."""
    emulator.set_faults({"at": "submit", "fault": "too_many_429", "times": 2})
    (state,) = generate(emulator, store, REQUEST)
    assert state.stage is Stage.FINISHED
    assert len(emulator.ledger()) == 1
    assert events(store).count("submitting") == 3


def test_a_lost_answer_is_found_in_the_history(emulator, store):
    """Adopts the request that was accepted, and does not send it again."""
    emulator.set_faults({"at": "submit", "fault": "drop"}, {"at": "history", "fault": "unfinished_too"})
    (state,) = generate(emulator, store, REQUEST)
    assert state.stage is Stage.FINISHED
    assert state.request_id == emulator.ledger()[0]["request_id"]
    assert len(emulator.ledger()) == 1


def test_lost_repeats_are_adopted_once_each(emulator, store):
    """Gives two requests of equal arguments an id each."""
    emulator.set_faults({"at": "submit", "fault": "drop"}, {"at": "history", "fault": "unfinished_too"})
    states = generate(emulator, store, REQUEST, dataclasses.replace(REQUEST, sample=1))
    assert {state.request_id for state in states} == {e["request_id"] for e in emulator.ledger()}
    assert len(emulator.ledger()) == 2


def test_what_the_history_does_not_know_is_never_sent_again(emulator, store):
    """Reports a submission whose fate is unknown, each time anew, until the history knows it."""
    emulator.set_faults({"at": "submit", "fault": "drop"}, {"at": "history", "fault": "missing"})
    for _ in range(2):
        with pytest.raises(UnknownError, match="may have been bought"):
            generate(emulator, store, REQUEST)
    assert len(emulator.ledger()) == 1
    emulator.set_faults({"at": "history", "fault": "unfinished_too"})
    (state,) = generate(emulator, store, REQUEST)
    assert state.stage is Stage.FINISHED
    assert len(emulator.ledger()) == 1


def test_silence_is_waited_out(emulator, store):
    """Goes on asking while fal does not answer, or locks the account."""
    emulator.set_faults(
        {"at": "status", "fault": "error_500", "times": 2},
        {"at": "status", "fault": "locked_403", "times": 2},
        {"at": "result", "fault": "result_504", "times": 2},
    )
    (state,) = generate(emulator, store, REQUEST)
    assert state.stage is Stage.FINISHED


def test_a_time_out_leaves_the_request_to_be_collected(emulator, store):
    """Stops waiting, keeps the request, and collects it the next time."""
    emulator.set_faults({"at": "status", "fault": "error_500"})
    with pytest.raises(PollError, match="the same command collects it"):
        generate(emulator, store, REQUEST, timeout_s=0.3)
    emulator.set_faults()
    (state,) = generate(emulator, store, REQUEST)
    assert state.stage is Stage.FINISHED
    assert len(emulator.ledger()) == 1


def test_a_moderated_request_is_failed_and_stays_so(emulator, store):
    """Records what the model refused, and does not ask it again."""
    emulator.set_faults({"at": "generate", "fault": "moderation_422"})
    for _ in range(2):
        (state,) = generate(emulator, store, REQUEST)
        assert state.stage is Stage.FAILED
        assert state.error.error_type == "content_policy_violation"
    assert len(emulator.ledger()) == 1


@pytest.mark.parametrize(
    ("fault", "error"),
    [("zero_bytes", DownloadError), ("not_a_video", VideoError), ("expired_410", DownloadError)],
)
def test_a_video_that_is_none_is_an_error_and_is_fetched_again_later(emulator, store, fault, error):
    """Keeps nothing that is not a video, and fetches it with the next command."""
    emulator.set_faults({"at": "file", "fault": fault})
    with pytest.raises(error):
        generate(emulator, store, REQUEST)
    assert not store.entry(REQUEST).video.exists()
    emulator.set_faults()
    (state,) = generate(emulator, store, REQUEST)
    assert state.stage is Stage.FINISHED


def test_a_file_of_zeros_is_no_video(emulator, store):
    """Decodes before it believes."""
    emulator.set_faults({"at": "file", "fault": "endless", "bytes": 100_000})
    with pytest.raises(VideoError):
        generate(emulator, store, REQUEST)
    assert not store.entry(REQUEST).video.exists()


def test_a_request_that_fal_does_not_know_is_asked_for_again_and_paid_for_only_when_told(emulator, store):
    """Asks for it with every command, and begins anew with retry=failed alone."""
    emulator.set_faults({"at": "status", "fault": "not_found_404"}, {"at": "history", "fault": "missing"})
    for _ in range(2):
        with pytest.raises(LostResultError):
            generate(emulator, store, REQUEST)
    assert len(emulator.ledger()) == 1
    emulator.set_faults()
    (state,) = generate(emulator, store, REQUEST)
    assert state.stage is Stage.FINISHED
    assert len(emulator.ledger()) == 1


def test_what_is_lost_is_bought_again_when_told(emulator, store):
    """Pays again with retry=failed for what an earlier command has lost, and not before."""
    emulator.set_faults({"at": "file", "fault": "expired_410", "times": 2})
    with pytest.raises(DownloadError):
        generate(emulator, store, REQUEST, policy=Policy(retry="failed"))
    assert len(emulator.ledger()) == 1
    (state,) = generate(emulator, store, REQUEST, policy=Policy(retry="failed"))
    assert state.stage is Stage.FINISHED
    assert state.committed_usd == 2.8
    assert len(emulator.ledger()) == 2


@pytest.mark.parametrize("fault", ["not_found_404", "forbidden_403", "expired_410", "zero_bytes"])
def test_a_file_that_is_late_is_waited_for_and_not_paid_again(emulator, store, fault):
    """Asks again for what is not there so soon after its completion, whatever the user said of failures."""
    emulator.set_faults({"at": "file", "fault": fault, "times": 3})
    (state,) = generate(emulator, store, REQUEST, policy=Policy(retry="failed"), late_s=60)
    assert state.stage is Stage.FINISHED
    assert len(emulator.ledger()) == 1


def test_what_was_completed_moments_ago_is_not_paid_again(emulator, store):
    """Waits for a file that an earlier command took for gone, as long as it may be late."""
    emulator.set_faults({"at": "file", "fault": "not_found_404", "times": 4})
    with pytest.raises(DownloadError, match="gone from fal"):
        generate(emulator, store, REQUEST, late_s=0)
    (state,) = generate(emulator, store, REQUEST, policy=Policy(retry="failed"), late_s=60)
    assert state.stage is Stage.FINISHED
    assert len(emulator.ledger()) == 1


@pytest.mark.parametrize("at", ["status", "result"])
def test_a_request_that_fal_does_not_know_yet_is_asked_for_again(emulator, store, at):
    """Takes nothing for lost that was submitted or completed just now."""
    emulator.set_faults(
        {"at": at, "fault": "not_found_404", "times": 3},
        {"at": "history", "fault": "missing"},
        {"at": "generate", "fault": "slow", "seconds": 0.5},
    )
    (state,) = generate(emulator, store, REQUEST, policy=Policy(retry="failed"), late_s=60)
    assert state.stage is Stage.FINISHED
    assert len(emulator.ledger()) == 1


def test_a_video_that_is_cut_off_each_time_is_kept_and_never_paid_again(emulator, store):
    """Keeps what can be decoded of it, says what is wrong, and is finished."""
    emulator.set_faults({"at": "file", "fault": "cut_off", "share": 0.9})
    for retry in ("none", "failed"):
        (state,) = generate(emulator, store, REQUEST, policy=Policy(retry=retry))
        assert state.stage is Stage.FINISHED
    (downloaded,) = [e for e in store.entry(REQUEST).journal.events() if e["event"] == "downloaded"]
    assert downloaded["problem"].startswith("the file ")
    assert store.entry(REQUEST).video.exists()
    assert len(emulator.ledger()) == 1


def test_what_can_never_be_decoded_is_kept_aside(emulator, store):
    """Leaves the file to the person, and fetches it again before it pays for another."""
    emulator.set_faults({"at": "file", "fault": "endless", "bytes": 100_000})
    with pytest.raises(VideoError, match=r"undecodable\.mp4"):
        generate(emulator, store, REQUEST)
    entry = store.entry(REQUEST)
    assert (entry.folder / "undecodable.mp4").stat().st_size > 0
    assert not entry.video.exists()
    emulator.set_faults()
    (state,) = generate(emulator, store, REQUEST, policy=Policy(retry="failed"))
    assert state.stage is Stage.FINISHED
    assert len(emulator.ledger()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("at", "fault"),
    [("submit", "too_many_429"), ("result", "error_500"), ("result", "too_many_429"), ("file", "drop")],
)
def test_what_costs_nothing_is_tried_for_as_long_as_a_status(emulator, store, at, fault):
    """Gives nothing up after a number of tries, and tells why it waits."""
    emulator.set_faults({"at": at, "fault": fault, "times": 30})
    told = []
    (state,) = generate(emulator, store, REQUEST, told=told)
    assert state.stage is Stage.FINISHED
    assert len(emulator.ledger()) == 1
    why = {stage for stage, text in told if text}
    assert why & {"not submitted", "no answer", "no video yet"}


def test_a_server_that_asks_to_come_back_later_is_obeyed_within_limits(emulator, store, monkeypatch):
    """Waits as long as a Retry-After says, but not for ever."""
    emulator.set_faults({"at": "submit", "fault": "too_many_429", "retry_after": 0.4, "times": 1})
    begin = time.monotonic()
    generate(emulator, store, REQUEST)
    assert time.monotonic() - begin >= 0.4
    monkeypatch.setattr(patience, "MAX_RETRY_AFTER_S", 0.1)
    emulator.set_faults({"at": "submit", "fault": "too_many_429", "retry_after": 86400, "times": 1})
    (state,) = generate(emulator, store, dataclasses.replace(REQUEST, sample=1))
    assert state.stage is Stage.FINISHED


def test_a_network_that_comes_back_is_waited_for(emulator, store, monkeypatch):
    """Submits once the connection is there again, and has nothing to look up."""
    tries = iter([httpx.ConnectError("no route")] * 12)
    handle = Route.handle_async_request

    async def unreachable(self, request):
        if request.method == "POST" and (error := next(tries, None)):
            raise error
        return await handle(self, request)

    monkeypatch.setattr(Route, "handle_async_request", unreachable)
    (state,) = generate(emulator, store, REQUEST)
    assert (state.stage, state.unanswered) == (Stage.FINISHED, ())
    assert len(emulator.ledger()) == 1


def test_a_result_that_is_gone_is_taken_from_the_history(emulator, store):
    """Finds the video in the request's record."""
    emulator.set_faults({"at": "result", "fault": "expired_410"})
    (state,) = generate(emulator, store, REQUEST)
    assert state.stage is Stage.FINISHED
    assert len(emulator.ledger()) == 1


@pytest.mark.parametrize("fault", ["error_500", "unavailable_503", "nginx_502", "too_many_429", "html_200"])
def test_trouble_with_the_result_is_no_failure(emulator, store, fault):
    """Asks again for a video that is there and paid for, and never buys it again."""
    emulator.set_faults({"at": "result", "fault": fault, "times": 1})
    (state,) = generate(emulator, store, REQUEST)
    assert state.stage is Stage.FINISHED
    assert len(emulator.ledger()) == 1


def test_a_new_emulator_renders_what_an_old_one_had(emulator, store):
    """Begins anew where that costs nothing: an emulator that was just started knows no requests."""
    emulator.set_faults({"at": "file", "fault": "expired_410"})
    with pytest.raises(DownloadError):
        generate(emulator, store, REQUEST)
    emulator.set_faults()
    (state,) = generate(emulator, store, REQUEST, is_ephemeral=True)
    assert state.stage is Stage.FINISHED
    assert len(emulator.ledger()) == 2


def test_a_failure_that_is_not_charged_is_tried_again_twice(emulator, store):
    """Begins anew after a 5xx, and gives up after the third."""
    emulator.set_faults({"at": "generate", "fault": "error_500", "times": 2})
    (state,) = generate(emulator, store, REQUEST)
    assert (state.stage, state.committed_usd) == (Stage.FINISHED, 1.4)
    emulator.set_faults({"at": "generate", "fault": "error_500"})
    other = dataclasses.replace(REQUEST, sample=1)
    (state,) = generate(emulator, store, other)
    assert (state.stage, state.committed_usd) == (Stage.FAILED, 0)
    assert len(emulator.ledger()) == 6


def test_a_wrong_key_is_refused_with_nothing_sent_but_one(emulator, store):
    """Sends the first submission alone, and stops where fal does not know the key."""
    emulator.set_faults({"at": "submit", "fault": "unauthorized_401"})
    repeats = [dataclasses.replace(REQUEST, sample=n) for n in range(4)]
    with pytest.raises(CredentialsError):
        generate(emulator, store, *repeats)
    assert emulator.ledger() == []


def test_a_key_that_is_withdrawn_fails_what_is_not_sent(emulator, store):
    """Goes on with what fal has when a later submission is refused."""
    emulator.set_faults({"at": "submit", "fault": "unauthorized_401", "nth": 2})
    repeats = [dataclasses.replace(REQUEST, sample=n) for n in range(3)]
    with pytest.raises(RejectedError) as caught:
        generate(emulator, store, *repeats)
    assert caught.value.error_type == "unauthorized"


def test_the_budget_is_never_exceeded(emulator, store):
    """Reserves before it submits, and gives back what bought nothing."""
    repeats = [dataclasses.replace(REQUEST, sample=n) for n in range(3)]
    emulator.set_faults({"at": "submit", "fault": "too_many_429", "times": 1})
    with pytest.raises(OverBudgetError):
        generate(emulator, store, *repeats, max_usd=2.81)
    assert len(emulator.ledger()) == 2


def test_an_unknown_submission_is_sent_again_when_told(emulator, store):
    """Pays again with unknown=resubmit, after the history was searched."""
    emulator.set_faults({"at": "submit", "fault": "drop", "times": 1}, {"at": "history", "fault": "missing"})
    (state,) = generate(emulator, store, REQUEST, policy=Policy(unknown="resubmit"), history_wait_s=0.1)
    assert state.stage is Stage.FINISHED
    assert state.committed_usd == 2.8
    assert len(emulator.ledger()) == 2


def test_every_error_of_a_run_has_a_type_of_its_own():
    """Tells the classes of errors apart in the tables."""

    def below(kind):
        yield kind
        for child in kind.__subclasses__():
            yield from below(child)

    types = [kind.error_type for kind in below(RunError)]
    assert len(set(types)) == len(types)
