"""The fal provider against a server that speaks fal's protocol, with the real fal-client between."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import httpx
import pytest
from fal_client.auth import AuthCredentials

from kling_sweeps.errors import (
    CredentialsError,
    GenerationError,
    LockedAccountError,
    LostResultError,
    NeverSentError,
    PollError,
    RateLimitedError,
    UnavailableError,
    UnknownError,
)
from kling_sweeps.experiment.request import GenerationRequest
from kling_sweeps.providers import fal
from kling_sweeps.providers.fal import FalProvider
from kling_sweeps.store.state_machine import Ticket

ENDPOINT = "fal-ai/kling-video/v2.1/master/text-to-video"
ARGUMENTS = {
    "prompt": "a fox",
    "negative_prompt": "",
    "cfg_scale": 0.5,
    "aspect_ratio": "16:9",
    "duration": "5",
}
REQUEST = GenerationRequest(ENDPOINT, ARGUMENTS, 0, 1.4)


def on(base_url: str, work):
    """Run `work(provider)` against a server."""

    async def run():
        provider = FalProvider(AuthCredentials("Key", "k"), base_url, max_bytes=10**8)
        try:
            return await work(provider)
        finally:
            await provider.close()

    return asyncio.run(run())


async def completed(provider: FalProvider) -> Ticket:
    ticket = await provider.submit(REQUEST, "cfg")
    while (await provider.status(ticket)).stage != "COMPLETED":
        await asyncio.sleep(0.02)
    return ticket


def posts(emulator) -> int:
    return httpx.get(f"{emulator.base_url}/_emulator/counters").json()["submits"]


def test_a_video_comes_back(emulator, tmp_path):
    """Submits, waits, fetches the result and downloads a file."""

    async def work(provider):
        ticket = await completed(provider)
        status = await provider.status(ticket)
        result = await provider.result(ticket, failed=False)
        await provider.download(result["video"]["url"], tmp_path / "video.mp4")
        return ticket, status

    ticket, status = on(emulator.base_url, work)
    assert status.inference_s > 0
    assert ticket.status_url.startswith("https://queue.fal.run/fal-ai/kling-video/requests/")
    assert (tmp_path / "video.mp4").read_bytes()[4:8] == b"ftyp"
    (entry,) = emulator.ledger()
    assert entry["arguments"] == ARGUMENTS
    assert entry["endpoint"] == ENDPOINT


def test_a_request_is_found_by_its_id_alone(emulator):
    """Re-attaches to a request whose addresses nobody wrote down."""

    async def work(provider):
        ticket = await completed(provider)
        return await provider.result(Ticket(ENDPOINT, ticket.request_id), failed=False)

    assert on(emulator.base_url, work)["video"]["url"]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"fault": "drop"}, UnknownError),
        ({"fault": "reset"}, UnknownError),
        ({"fault": "cut"}, UnknownError),
        ({"fault": "nginx_502"}, UnknownError),
        ({"fault": "nginx_504"}, UnknownError),
        ({"fault": "error_500"}, UnknownError),
        ({"fault": "unavailable_503"}, UnknownError),
        ({"fault": "timeout_408"}, UnknownError),
        ({"fault": "too_many_429"}, RateLimitedError),
        ({"fault": "locked_403"}, LockedAccountError),
        ({"fault": "unauthorized_401"}, CredentialsError),
    ],
    ids=lambda value: value["fault"] if isinstance(value, dict) else value.__name__,
)
def test_a_submission_is_sent_once(emulator, fault, error):
    """Sends one POST whatever comes back, and says whether it may have been bought."""
    emulator.set_faults({"at": "submit", **fault})
    with pytest.raises(error):
        on(emulator.base_url, lambda provider: provider.submit(REQUEST, "cfg"))
    assert posts(emulator) == 1


def test_a_lost_answer_with_an_id_is_not_lost(emulator):
    """Takes the request id from the header where a page of HTML stands for the answer."""
    emulator.set_faults({"at": "submit", "fault": "html_200"})
    try:
        ticket = on(emulator.base_url, lambda provider: provider.submit(REQUEST, "cfg"))
    except UnknownError:
        assert posts(emulator) == 1
    else:
        assert ticket.request_id == emulator.ledger()[0]["request_id"]


def test_a_server_that_is_not_there_got_nothing():
    """Knows that a refused connection bought nothing."""
    with pytest.raises(NeverSentError):
        on("http://127.0.0.1:9", lambda provider: provider.submit(REQUEST, "cfg"))


def test_a_retry_after_is_passed_on(emulator):
    """Says how long fal wants to be left alone."""
    emulator.set_faults({"at": "submit", "fault": "too_many_429", "retry_after": 7})
    with pytest.raises(RateLimitedError) as caught:
        on(emulator.base_url, lambda provider: provider.submit(REQUEST, "cfg"))
    assert caught.value.retry_after_s == 7


@pytest.mark.parametrize(
    ("fault", "error_type", "may_have_cost"),
    [
        ("moderation_422", "content_policy_violation", True),
        ("no_media_422", "no_media_generated", True),
        ("error_500", "internal_server_error", False),
        ("downstream_400", "downstream_service_error", True),
        ("generation_timeout_504", "generation_timeout", False),
        ("runner_disconnected_503", "runner_disconnected", False),
    ],
)
def test_a_failure_keeps_fals_word_for_it(emulator, fault, error_type, may_have_cost):
    """Reads the type of an error from its body, never from its text."""
    emulator.set_faults({"at": "generate", "fault": fault})

    async def work(provider):
        await provider.result(await completed(provider), failed=True)

    with pytest.raises(GenerationError) as caught:
        on(emulator.base_url, work)
    assert caught.value.error_type == error_type
    assert caught.value.may_have_cost is may_have_cost


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("result_504", PollError),
        ("error_500", PollError),
        ("in_progress_400", PollError),
        ("not_found_404", LostResultError),
        ("expired_410", LostResultError),
        ("locked_403", LockedAccountError),
        ("too_many_429", PollError),
    ],
)
def test_a_result_that_does_not_come_is_told_from_one_that_failed(emulator, fault, error):
    """Asks again where fal has an answer, and only there."""
    emulator.set_faults({"at": "result", "fault": fault})

    async def work(provider):
        await provider.result(await completed(provider), failed=False)

    with pytest.raises(error):
        on(emulator.base_url, work)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("locked_403", LockedAccountError),
        ("not_found_404", LostResultError),
        ("error_500", PollError),
        ("html_200", PollError),
    ],
)
def test_a_status_that_does_not_come_loses_nothing(emulator, fault, error):
    """Says what is known of a request when its status is not."""

    async def work(provider):
        ticket = await provider.submit(REQUEST, "cfg")
        emulator.set_faults({"at": "status", "fault": fault})
        await provider.status(ticket)

    with pytest.raises(error):
        on(emulator.base_url, work)


def test_cancelling_too_late_comes_to_nothing(emulator):
    """Cancels what waits, and leaves what is completed as it is."""

    async def work(provider):
        for ticket in (await provider.submit(REQUEST, "cfg"), await completed(provider)):
            await provider.cancel(ticket)

    on(emulator.base_url, work)
    counted = httpx.get(f"{emulator.base_url}/_emulator/counters").json()
    assert counted["cancels"] == 2
    assert emulator.ledger()[-1]["charged_usd"] > 0


def test_the_history_is_read_page_by_page(emulator):
    """Yields every request that was sent, with its arguments, whatever the size of a page."""
    emulator.set_faults({"at": "history", "fault": "small_pages", "size": 1})

    async def work(provider):
        tickets = [await completed(provider) for _ in range(3)]
        start = datetime.now(UTC) - timedelta(hours=1)
        return tickets, [past async for past in provider.history(ENDPOINT, start)]

    tickets, history = on(emulator.base_url, work)
    assert {past.request_id for past in history} == {ticket.request_id for ticket in tickets}
    assert all(past.arguments == ARGUMENTS for past in history)


def test_the_key_is_checked_before_anything_is_sent(emulator):
    """Accepts a key that the server accepts, and finds a server that is not there."""
    on(emulator.base_url, lambda provider: provider.check(ENDPOINT))
    with pytest.raises(UnavailableError):
        on("http://127.0.0.1:9", lambda provider: provider.check(ENDPOINT))
    assert emulator.ledger() == []


def test_an_endpoint_whose_price_was_just_told_is_not_asked_about_again(emulator, monkeypatch):
    """Asks once for the price and the check, and again a minute later."""

    async def work(provider):
        monkeypatch.setattr(fal, "_told_at", {})
        await provider.prices([ENDPOINT])
        emulator.set_faults({"at": "pricing", "fault": "unauthorized_401"})
        await provider.check(ENDPOINT)
        monkeypatch.setattr(fal, "STILL_S", 0.0)
        with pytest.raises(CredentialsError):
            await provider.check(ENDPOINT)

    on(emulator.base_url, work)


class Stranger(BaseHTTPRequestHandler):
    """A server of somebody else's, which answers a submission with an id and addresses of its own."""

    answer: ClassVar[dict] = {}
    seen: ClassVar[list] = []

    def log_message(self, *args) -> None:
        pass

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._say(self.answer)

    def do_GET(self) -> None:
        self._say({"status": "IN_QUEUE", "queue_position": 3, "logs": []})

    def _say(self, body: dict) -> None:
        self.seen.append((self.command, self.headers["Host"], self.headers["Authorization"]))
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def stranger() -> Iterator[ThreadingHTTPServer]:
    Stranger.seen = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_an_id_without_addresses_is_enough(stranger):
    """Makes fal's own addresses of a request id that came alone, and keeps fal's Host."""
    Stranger.answer = {"request_id": "r-1"}
    base_url = f"http://127.0.0.1:{stranger.server_port}"

    async def work(provider):
        ticket = await provider.submit(REQUEST, "cfg")
        return ticket, await provider.status(ticket)

    ticket, status = on(base_url, work)
    assert ticket.status_url == "https://queue.fal.run/fal-ai/kling-video/requests/r-1/status"
    assert status.queue_position == 3
    assert Stranger.seen == [("POST", "queue.fal.run", "Key k"), ("GET", "queue.fal.run", "Key k")]


def test_a_request_is_asked_after_at_its_own_server(stranger, emulator):
    """Takes no address of another host, whoever wrote it down: the id is enough."""
    elsewhere = f"http://127.0.0.1:{stranger.server_port}/status"

    async def work(provider):
        ticket = await provider.submit(REQUEST, "cfg")
        return await provider.status(Ticket(ENDPOINT, ticket.request_id, elsewhere, elsewhere, elsewhere))

    assert on(emulator.base_url, work).stage in ("IN_QUEUE", "IN_PROGRESS", "COMPLETED")
    assert Stranger.seen == []
