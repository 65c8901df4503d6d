"""What a stranger's server may answer: nothing of it costs a paid video, leaks the key or is waited for without end."""

from __future__ import annotations

import asyncio
import dataclasses
import gzip
import json
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from uuid import uuid4

import httpx
import pytest
from fal_client.auth import AuthCredentials
from hypothesis import given
from hypothesis import strategies as st
from stranger import Answer, Stranger, serving
from test_generation import REQUEST, SETTINGS

from kling_sweeps import errors, providers
from kling_sweeps.errors import (
    GenerationError,
    KlingSweepsError,
    LockedAccountError,
    NeverSentError,
    PollError,
    RejectedError,
    UnavailableError,
    UnknownError,
    UnreadableResultError,
)
from kling_sweeps.experiment.request import Product
from kling_sweeps.experiment.settings import Policy
from kling_sweeps.generation import lifecycle
from kling_sweeps.generation.budget import Budget
from kling_sweeps.generation.context import GenerationContext
from kling_sweeps.measurement.workers import Workers
from kling_sweeps.provider import CANCELLED, Status
from kling_sweeps.providers import answers, http
from kling_sweeps.providers.fal import FalProvider
from kling_sweeps.store import journal
from kling_sweeps.store.folder import Store
from kling_sweeps.store.state_machine import Stage, Ticket

pytestmark = pytest.mark.slow

ENDPOINT = REQUEST.endpoint
SECRET = "3f8e-key-id:9a7b6c5d4e3f2a1b0c9d"
URL = "https://v3.fal.media/files/a/b.mp4"
ADDRESS = "/fal-ai/kling-video/requests/"


@pytest.fixture(autouse=True)
def known_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work with a key that is known."""
    monkeypatch.setenv("FAL_KEY", SECRET)


@pytest.fixture
def server() -> Iterator[Stranger]:
    with serving() as stranger:
        yield stranger


def on(server: Stranger, work):
    """Run `work(provider)` against a server in place of fal."""
    return at(server.base_url, work)


def at(base_url: str | None, work):
    async def run():
        provider = FalProvider(AuthCredentials("Key", SECRET), base_url, max_bytes=10**7)
        try:
            return await work(provider)
        finally:
            await provider.close()

    return asyncio.run(run())


def submitted(server: Stranger, answer: Answer) -> Ticket:
    server.submit = answer
    return on(server, lambda provider: provider.submit(REQUEST, "cfg"))


def status(server: Stranger, body) -> Status:
    server.status = Answer(body)
    return on(server, lambda provider: provider.status(Ticket(ENDPOINT, "r-1")))


def result(server: Stranger, body, code: int = 200, failed: bool = False):
    server.result = Answer(body, code)
    return on(server, lambda provider: provider.result(Ticket(ENDPOINT, "r-1"), failed))


def generate(server: Stranger, store: Store, policy: Policy = Policy(), **settings):
    """Take one request as far as it comes; return its state, or raise its error."""
    errors.submitted.clear()  # as `main` does

    async def work(provider: FalProvider):
        await provider.check(ENDPOINT)
        context = GenerationContext(
            provider,
            store,
            Budget(store.root, "test", 100),
            workers,
            "cfg",
            uuid4().hex,
            dataclasses.replace(SETTINGS, **settings),
            policy,
            {REQUEST.key: store.entry(REQUEST).state()},
        )
        return await lifecycle.generate(context, REQUEST, lambda stage, text: None)

    with Workers(1) as workers:
        return on(server, work)


def events(store: Store) -> list[str]:
    return [event["event"] for event in store.entry(REQUEST).journal.events()]


NESTED = b"[" * 100_000 + b"]" * 100_000
IDS = {
    "plain": ({"request_id": "r-1"}, "r-1", "r-1"),
    "a number": ({"request_id": 12}, "12", "12"),
    "300 characters": ({"request_id": "r" * 300}, "r" * 300, "r" * 300),
    "4,096 characters": ({"request_id": "r" * 4096}, "r" * 4096, "r" * 4096),
    "a parent folder": ({"request_id": ".."}, "..", "%2E%2E"),
    "slashes": ({"request_id": "a/../b"}, "a/../b", "a%2F..%2Fb"),
    "line breaks": ({"request_id": "a\r\nb"}, "a\r\nb", "a%0D%0Ab"),
    "a query": ({"request_id": "a?b#c"}, "a?b#c", "a%3Fb%23c"),
    "Chinese": ({"request_id": "猫"}, "猫", "%E7%8C%AB"),
    "an escape sequence": ({"request_id": "a\x1b[2J"}, "a\x1b[2J", "a%1B%5B2J"),
    "in an address alone": (
        {"request_id": None, "status_url": f"https://queue.fal.run{ADDRESS}r%2F2/status"},
        "r/2",
        "r%2F2",
    ),
    "beside nonsense": (
        b'{"request_id": "r-1", "x": NaN, "y": 1e999, "z": %s, "logs": %s}' % (b"9" * 5000, NESTED),
        "r-1",
        "r-1",
    ),
    "beside half an emoji": (b'{"request_id": "r-1", "status": "\\ud83d"}', "r-1", "r-1"),
    "beside a byte that is no UTF-8": (b'{"request_id": "r-1", "x": "\xe9"}', "r-1", "r-1"),
    "after a byte order mark": (b'\xef\xbb\xbf{"request_id": "r-1"}', "r-1", "r-1"),
    "in UTF-16": ('{"request_id": "r-1"}'.encode("utf-16"), "r-1", "r-1"),
}


@pytest.mark.parametrize("name", IDS)
def test_an_id_that_is_text_is_usable(server, name):
    """Finds a request again by whatever text fal gives it for an id."""
    body, expected, segment = IDS[name]
    ticket = submitted(server, Answer(body))
    assert ticket.request_id == expected
    server.status = Answer({"status": "IN_QUEUE"})
    on(server, lambda provider: provider.status(ticket))
    assert urlpath(server.asked("status")[0].path) == f"{ADDRESS}{segment}/status"
    json.dumps(vars(ticket)).encode("ascii")


def urlpath(path: str) -> str:
    return path.partition("?")[0]


@pytest.mark.parametrize(
    "body", [{}, [], None, 3, "r-1", {"request_id": None}, {"request_id": ["r-1"]}, {"request_id": True}, {"request_id": " "},
             {"request_id": {"id": "r-1"}}, b'{"request_id": "\\ud83d"}', b"", b"<html>", b"\xff\xfe\x00", NESTED, {"request_id": "r" * 10**5}],
    ids=lambda body: repr(body)[:30],
)  # fmt: skip
def test_an_answer_without_an_id_may_have_been_bought(server, body):
    """Takes a submission for one of unknown fate, unless a header has its id."""
    with pytest.raises(UnknownError, match="without a request id"):
        submitted(server, Answer(body))
    assert submitted(server, Answer(body, headers={"x-fal-request-id": "r-9"})).request_id == "r-9"


FOREIGN = [
    7, None, [], {}, "", "file:///etc/passwd", "javascript:1", "//elsewhere.invalid/x", "https://elsewhere.invalid/x",
    "http://queue.fal.run/x", "https://queue.fal.run:444/x", "https://queue.fal.run@elsewhere.invalid/x",
    "https://me:you@queue.fal.run/x", "https://queue.fal.run.elsewhere.invalid/x", "https://[::1", "http://a:b:c", "x" * 70_000,
    "https://queue.fal.run\n.elsewhere.invalid/", "http://127.0.0.1:1/x",
]  # fmt: skip


@pytest.mark.parametrize("address", FOREIGN, ids=lambda address: repr(address)[:45])
def test_an_address_of_nobody_is_made_of_the_id(server, address):
    """Asks fal, or the server in its place, by the id, whatever address an answer or a journal names."""
    names = ("status_url", "response_url", "cancel_url")
    ticket = submitted(server, Answer({"request_id": "r-1", **dict.fromkeys(names, address)}))
    assert ticket.status_url == f"https://queue.fal.run{ADDRESS}r-1/status"
    server.status = Answer({"status": "IN_QUEUE"})
    written = dataclasses.replace(ticket, **dict.fromkeys(names, address))
    on(server, lambda provider: provider.status(written))
    assert urlpath(server.asked("status")[-1].path) == f"{ADDRESS}r-1/status"


def test_an_address_of_the_servers_own_is_used(server):
    """Keeps what a server names for itself, its query too."""
    own = f"{server.base_url}/mine/requests/r-1"
    ticket = submitted(
        server, Answer({"request_id": "r-1", "status_url": f"{own}/status?v=2", "response_url": own})
    )
    server.status = Answer({"status": "IN_QUEUE"})
    assert on(server, lambda provider: provider.status(ticket)).stage == "IN_QUEUE"
    assert server.asked("status")[0].path == "/mine/requests/r-1/status?v=2&logs=1"


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_redirect_does_not_take_the_key_along(server, elsewhere):
    """Follows one to the same server with the key and to any other without."""
    with serving() as other:
        target = f"{other.base_url if elsewhere else ''}{ADDRESS}r-1/moved/status"
        server.status = lambda seen: (
            Answer({"status": "IN_QUEUE"}) if "moved" in seen.path else Answer(b"", 307, {"Location": target})
        )
        other.status = Answer({"status": "IN_QUEUE"})
        assert on(server, lambda provider: provider.status(Ticket(ENDPOINT, "r-1"))).stage == "IN_QUEUE"
        assert [seen.headers.get("Authorization") for seen in other.seen] == [None] * elsewhere
        assert len(server.seen) == 2 - elsewhere
        assert {seen.headers.get("Authorization") for seen in server.seen} == {f"Key {SECRET}"}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"status": "IN_QUEUE"}, Status("IN_QUEUE")),
        ({"status": "in_queue", "queue_position": "3"}, Status("IN_QUEUE", 3)),
        ({"status": "IN_QUEUE", "queue_position": "first"}, Status("IN_QUEUE")),
        ({"status": "IN_QUEUE", "queue_position": [1]}, Status("IN_QUEUE")),
        ({"status": "IN_QUEUE", "queue_position": -1, "logs": None}, Status("IN_QUEUE")),
        ({"status": "IN_QUEUE", "queue_position": 10**50}, Status("IN_QUEUE")),
        ({"status": "IN_PROGRESS"}, Status("IN_PROGRESS")),
        ({"status": "IN_PROGRESS", "logs": "one\ntwo\n"}, Status("IN_PROGRESS", log="two")),
        ({"status": "IN_PROGRESS", "logs": ["one", "two"]}, Status("IN_PROGRESS", log="two")),
        ({"status": "IN_PROGRESS", "logs": [{"message": None}]}, Status("IN_PROGRESS")),
        (
            {"status": "IN_PROGRESS", "logs": [{"message": "a\x1b[2Jb"}]},
            Status("IN_PROGRESS", log="a\ufffd[2Jb"),
        ),
        ({"status": "IN_PROGRESS", "logs": [[1]]}, Status("IN_PROGRESS")),
        ({"status": "IN_PROGRESS", "logs": {"message": "x"}}, Status("IN_PROGRESS", log="x")),
        ({"status": "COMPLETED"}, Status("COMPLETED")),
        ({"status": "COMPLETED", "metrics": None, "logs": None, "error": None}, Status("COMPLETED")),
        (
            {"status": "COMPLETED", "metrics": {"inference_time": "12.5"}},
            Status("COMPLETED", inference_s=12.5),
        ),
        ({"status": "COMPLETED", "metrics": {"inference_time": "fast"}}, Status("COMPLETED")),
        ({"status": "COMPLETED", "metrics": {"inference_time": "nan"}}, Status("COMPLETED")),
        ({"status": "COMPLETED", "metrics": ["inference_time"]}, Status("COMPLETED")),
        (b'{"status": "COMPLETED", "metrics": {"inference_time": NaN}}', Status("COMPLETED")),
        (
            b'{"status": "COMPLETED", "metrics": {"inference_time": -1e999}, "x": %s}' % NESTED,
            Status("COMPLETED"),
        ),
        ({"status": "COMPLETED", "error": {"message": "no"}}, Status("COMPLETED", failed=True)),
        ({"status": "COMPLETED", "error_type": "internal_error"}, Status("COMPLETED", failed=True)),
    ],
    ids=str,
)
def test_a_status_is_read_as_far_as_it_can_be(server, body, expected):
    """Counts what is of another type as absent."""
    assert status(server, body) == expected


@pytest.mark.parametrize("body", [None, [], "COMPLETED", {}, {"status": None}, {"status": 3}, {"status": "RETRYING", "error": "x"},
                                  {"error": "try later"}, b"<html>", b""], ids=repr)  # fmt: skip
def test_a_status_that_says_nothing_is_asked_for_again(server, body):
    """Ends no request that may be alive."""
    with pytest.raises(PollError):
        status(server, body)


@pytest.mark.parametrize(
    ("body", "said", "kind"),
    [
        ({"status": "FAILED", "error": "GPU on fire"}, "GPU on fire", "generation_failed"),
        ({"status": "failed", "error": {"message": "GPU on fire"}}, "GPU on fire", "generation_failed"),
        ({"status": "Error", "error": ["GPU", "fire"], "error_type": "gpu_fire"}, "GPU; fire", "gpu_fire"),
        (
            {"status": "ERROR", "detail": [{"msg": "GPU", "type": "x"}], "error_type": 7},
            "GPU",
            "generation_failed",
        ),
        ({"status": "FAILED", "error": None}, "fal says FAILED", "generation_failed"),
        ({"status": "CANCELLED", "error": "by you"}, "by you", CANCELLED),
        ({"status": "canceled"}, "fal says CANCELED", CANCELLED),
    ],
    ids=str,
)
def test_a_status_of_failure_ends_it_at_once(server, tmp_path, body, said, kind):
    """Fails the run with fal's words, in the journal too, and asks no more."""
    with pytest.raises(GenerationError, match=said) as caught:
        status(server, body)
    assert caught.value.error_type == kind
    state = generate(server, Store(tmp_path))
    assert state.stage is Stage.FAILED
    assert said in str(state.error)
    assert state.error.error_type == kind


@pytest.mark.parametrize(
    "body",
    [
        {"video": {"url": URL}},
        {"video": URL},
        {"videos": [{"url": URL}]},
        {"videos": [URL]},
        {"video": [{"url": URL}]},
        {"response": {"video": {"url": URL}}},
        {"data": {"videos": [{"url": URL}]}},
        {"output": {"video": URL}},
        {"data": {"output": {"video": URL}}},
        {"data": [{"video": URL}]},
        [{"video": URL}],
        {"video": None, "videos": [URL]},
        {"video": {"url": URL, "content_type": "image/png"}, "error": None, "detail": None},
        {"video": {"url": URL}, "error": "a warning"},
        b'{"video": {"url": "%s"}, "seed": %s, "debug": %s, "s": "\\udc00"}'
        % (URL.encode(), b"7" * 5000, NESTED),
    ],
    ids=lambda body: str(body)[:60],
)
def test_a_video_is_found_where_it_may_be(server, body):
    """Finds the address, and hands over what can be written and read again."""
    found = result(server, body)
    assert answers.video_url(found) == URL
    assert json.loads(json.dumps(found, indent=2, allow_nan=False).encode("ascii")) == found


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"detail": "out of memory"}, "out of memory"),
        ({"detail": [{"msg": "flagged", "type": "content_policy_violation"}]}, "flagged"),
        ({"error": "out of memory"}, "out of memory"),
        ({"error": {"message": "out of memory"}}, "out of memory"),
        ({"status": "ERROR", "error": None, "message": "out of memory"}, "out of memory"),
        ({"status": "FAILED"}, "FAILED"),
    ],
    ids=str,
)
def test_an_error_under_a_200_is_that_error(server, body, said):
    """Fails the run with fal's words."""
    with pytest.raises(GenerationError, match=said):
        result(server, body)


def test_a_failure_that_the_status_told_needs_no_type(server):
    """Believes the status where the result says no more than its words."""
    with pytest.raises(GenerationError, match="boom"):
        result(server, {"detail": "boom"}, 500, failed=True)
    with pytest.raises(GenerationError):
        result(server, {}, failed=True)
    for code in (429, 503, 504):
        with pytest.raises(PollError):
            result(server, {"detail": "later"}, code, failed=True)
    with pytest.raises(PollError):
        result(server, {"detail": "boom"}, 500)


@pytest.mark.parametrize("body", [None, b"<html>", b"", {"detail": "Request is still in progress"}, {"status": "IN_PROGRESS"}],
                         ids=repr)  # fmt: skip
def test_a_result_that_is_none_yet_is_asked_for_again(server, body):
    """Takes no page of a proxy for what was delivered."""
    with pytest.raises(PollError):
        result(server, body)


@pytest.mark.parametrize("body", [{}, [], 3, {"clip": {"address": URL}}, {"images": [{"url": URL}]}, {"video": {"url": None}}, {"video": 7},
                                  {"videos": [URL, URL]}, {"video": {"url": "file:///x"}}, {"video": {"url": "https://[x"}}], ids=repr)  # fmt: skip
def test_what_was_delivered_and_cannot_be_read_is_kept_and_never_bought_again(server, tmp_path, body):
    """Says what was seen, keeps it, promises nothing, and pays for it once, whatever is asked."""
    server.result, store = Answer(body), Store(tmp_path)
    for policy in (Policy(), Policy(retry="failed", unknown="resubmit")):
        with pytest.raises(UnreadableResultError, match=r"result\.json") as caught:
            generate(server, store, policy)
    assert str(body)[:12].replace("'", '"') in str(caught.value)
    assert "same command" not in str(caught.value)
    state, entry = store.entry(REQUEST).state(), store.entry(REQUEST)
    assert json.loads((entry.folder / "result.json").read_bytes()) == body
    assert not state.is_open and not state.is_failed
    assert state.spent_usd == REQUEST.price_usd
    assert len(server.asked("submit")) == 1
    assert len(server.asked("result")) == 2


def test_what_could_not_be_read_is_collected_once_it_can(server, tmp_path, emulator):
    """Asks for the result again, for nothing."""
    store = Store(tmp_path)
    server.result = Answer({"clip": 1})
    with pytest.raises(UnreadableResultError):
        generate(server, store)
    server.result = Answer({"video": {"url": f"{emulator.base_url}/files/none.mp4"}})
    with pytest.raises(KlingSweepsError):
        generate(server, store)
    assert store.entry(REQUEST).state().stage is Stage.FETCHED
    assert store.entry(REQUEST).state().is_open
    assert len(server.asked("submit")) == 1


@pytest.mark.parametrize("code", [200, 404, 422, 500])
@pytest.mark.parametrize("echo", [f"Authorization: Key {SECRET}", SECRET.partition(":")[2]])
def test_a_key_that_is_echoed_goes_nowhere(server, tmp_path, code, echo):
    """Masks the key in whatever an answer says, JSON or not, header or body."""
    store = Store(tmp_path)
    text = Answer(f"<p>{echo}</p>".encode(), code)
    details = Answer(
        {"detail": [{"msg": echo, "type": echo}], "clip": {echo: [echo]}}, code, {"x-fal-error-type": "e"}
    )
    for answer in (text, details):
        for kind in ("submit", "status", "result", "history"):
            server.submit = Answer({"request_id": "r-1"})
            server.status = Answer({"status": "COMPLETED"})
            server.history = Answer({"items": []})
            setattr(server, kind, answer)
            try:
                error = generate(server, store, Policy(retry="failed"), timeout_s=0.2, history_wait_s=0).error
            except KlingSweepsError as raised:
                error = raised
            assert SECRET.partition(":")[2] not in f"{error}{vars(error)}"
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or SECRET.partition(":")[2].encode() not in path.read_bytes()


@pytest.mark.parametrize("kind", ["submit", "status", "result", "history"])
@pytest.mark.parametrize("code", [200, 500])
def test_an_answer_that_drips_is_not_waited_for(server, monkeypatch, kind, code):
    """Gives an answer as a whole so long, and takes a submission without one for unknown."""
    monkeypatch.setattr(http, "ANSWER_TIMEOUT_S", 0.5)
    setattr(server, kind, Answer(b'{"request_id": "r-1", "status": "IN_QUEUE"}' * 100, code, pause_s=0.05))
    begin = time.monotonic()
    with pytest.raises(UnknownError if kind == "submit" else PollError, match="no whole answer within"):
        on(server, ASKING[kind])
    assert time.monotonic() - begin < 10


async def _history(provider: FalProvider):
    return [past async for past in provider.history(ENDPOINT, datetime.now(UTC))]


ASKING = {
    "submit": lambda provider: provider.submit(REQUEST, "cfg"),
    "status": lambda provider: provider.status(Ticket(ENDPOINT, "r-1")),
    "result": lambda provider: provider.result(Ticket(ENDPOINT, "r-1"), False),
    "history": _history,
}
ZEROS = bytes(200 * 2**20)
BOMB = gzip.compress(ZEROS, 1)
BOMBS = {
    "gzip": (BOMB, "gzip"),
    "deflate": (zlib.compress(ZEROS, 1), "deflate"),
    "gzip twice": (gzip.compress(BOMB), "gzip, gzip"),
    "nine times": (gzip.compress(BOMB), ", ".join(["gzip"] * 9)),
    "no encoding": (bytes(17 * 2**20), "identity"),
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("code", [200, 500])
def test_an_answer_that_is_too_large_is_not_read(server, name, code):
    """Decodes no more than 16 MB, of errors too, and still reads the headers."""
    body, encoding = BOMBS[name]
    for kind, ask in ASKING.items():
        setattr(server, kind, Answer(body, code, {"Content-Encoding": encoding}))
        with pytest.raises(UnknownError if kind == "submit" else PollError):
            on(server, ask)
    encoded = {"Content-Encoding": encoding, "x-fal-request-id": "r-9"}
    assert submitted(server, Answer(body, 200, encoded)).request_id == "r-9"


@pytest.mark.parametrize(
    ("encode", "encoding"),
    [
        (gzip.compress, "gzip"),
        (gzip.compress, "x-gzip"),
        (zlib.compress, "deflate"),
        (lambda body: zlib.compress(body)[2:-4], "deflate"),
        (lambda body: gzip.compress(gzip.compress(body)), "gzip, gzip"),
        (lambda body: body, "gzip"),
        (lambda body: body, "identity"),
    ],
)
def test_an_answer_is_decoded_as_it_is_encoded(server, encode, encoding):
    """Reads JSON in every encoding that it asks for, and where it is not encoded as it says."""
    body = encode(json.dumps({"request_id": "r-1"}).encode())
    assert submitted(server, Answer(body, headers={"Content-Encoding": encoding})).request_id == "r-1"


def test_a_stream_without_line_breaks_ends(server):
    """Leaves a status stream that has a line without end, and one that tells nonsense."""

    async def watched(provider):
        return [status async for status in provider.watch(Ticket(ENDPOINT, "r-1"))]

    kind = {"Content-Type": "text/event-stream"}
    for body in (b"data: " + bytes(2**21), b"data: " + NESTED + b"\n", b"data: {}\n"):
        server.stream = Answer(body, headers=kind)
        with pytest.raises(PollError):
            on(server, watched)
    server.stream = Answer(
        b': hi\n\ndata: {"status": "IN_PROGRESS", "logs": null}\r\n\ndata:{"status":"COMPLETED"}\n\n',
        headers=kind,
    )
    assert on(server, watched) == [Status("IN_PROGRESS"), Status("COMPLETED")]


@pytest.mark.parametrize(
    "said", ["This key may not use fal-ai/kling-video", "Blocked by policy", "<html>Forbidden</html>"]
)
def test_a_refusal_that_is_no_lock_is_final(server, said):
    """Ends at once what no payment unlocks, with its words, and pauses for what one does."""
    with pytest.raises(RejectedError, match=said):
        submitted(server, Answer({"detail": said}, 403))
    for lock in (
        "User is locked. Reason: Exhausted balance.",
        "Insufficient funds: top up",
        "Please add CREDITS",
    ):
        for code in (402, 403):
            with pytest.raises(LockedAccountError, match=lock):
                submitted(server, Answer({"detail": lock}, code))
    server.status = Answer({"detail": said}, 403)
    with pytest.raises(LockedAccountError, match=said):  # what runs is alive all the same
        on(server, ASKING["status"])


AHEAD = [
    timedelta(minutes=-90),
    timedelta(minutes=10),
    timedelta(hours=3),
    timedelta(days=1),
    timedelta(days=40),
]


@pytest.mark.parametrize("ahead", AHEAD, ids=str)
@pytest.mark.parametrize("jumps", [False, True])
def test_a_clock_that_is_wrong_buys_nothing_again(server, tmp_path, ahead, jumps):
    """Finds a submission whose answer was lost by fal's time, right or set right meanwhile or not."""
    with skewed(ahead):
        lost(server, dated=True)
        with pytest.raises(UnknownError):
            generate(server, Store(tmp_path), history_wait_s=0)
    with skewed(timedelta(0) if jumps else ahead):
        found_again(server, tmp_path)


@pytest.mark.parametrize("ahead", AHEAD[:-1], ids=str)
@pytest.mark.parametrize("jumps", [False, True])
def test_a_server_that_tells_no_time_is_searched_for_a_day(server, tmp_path, ahead, jumps):
    """Finds it within a day of this machine's time where there is no other."""
    with skewed(ahead):
        lost(server, dated=False)
        with pytest.raises(UnknownError):
            generate(server, Store(tmp_path), history_wait_s=0)
    with skewed(timedelta(0) if jumps else ahead):
        found_again(server, tmp_path)


@contextmanager
def skewed(ahead: timedelta) -> Iterator[None]:
    """Set this machine's clock ahead, as far as anything of ours looks at it."""

    class Skewed(datetime):
        @classmethod
        def now(cls, zone=None):
            return datetime.now(zone) + ahead

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http, "datetime", Skewed)
        patch.setattr(journal, "_now", lambda: Skewed.now(UTC).isoformat(timespec="milliseconds"))
        yield


def lost(server: Stranger, dated: bool) -> None:
    """Accept submissions without an id, and list none of them yet."""

    def dates() -> dict[str, str]:
        return {"Date": format_datetime(datetime.now(UTC), usegmt=True)} if dated else {}

    sent: list[str] = []

    def accept(seen):
        sent.append(datetime.now(UTC).isoformat())
        return Answer(b"", headers=dates())

    def listed(seen):
        since = datetime.fromisoformat(seen.query["start"])
        items = [{"request_id": f"r-{n}", "sent_at": at, "json_input": json.loads(server.asked("submit")[n].body)}
                 for n, at in enumerate(sent) if datetime.fromisoformat(at) >= since]  # fmt: skip
        return Answer({"items": items if server.is_listed else []}, headers=dates())

    server.is_listed = False
    server.submit, server.history, server.pricing = accept, listed, lambda seen: Answer({}, headers=dates())


def found_again(server: Stranger, folder) -> None:
    server.is_listed = True
    server.status = Answer({"status": "FAILED", "error": "found"})
    state = generate(server, Store(folder), Policy(unknown="resubmit"), history_wait_s=0)
    assert "found" in str(state.error)
    assert len(server.asked("submit")) == 1


@pytest.mark.parametrize(
    "body",
    [{}, None, {"items": None}, {"items": {}}, {"detail": "later"}, b"<html>", [], {"items": "r-1"}],
    ids=repr,
)
def test_a_history_that_is_none_does_not_say_that_nothing_was_bought(server, tmp_path, body):
    """Pays nothing again on the word of an answer that lists nothing because it is no list."""
    server.submit, server.history = Answer(b""), Answer(body)
    with pytest.raises(UnknownError, match="can't be read"):
        generate(server, Store(tmp_path), Policy(unknown="resubmit"), history_wait_s=0.1)
    assert len(server.asked("submit")) == 1


def test_a_history_with_nonsense_in_it_is_read_all_the_same(server):
    """Reads the items that are some, whatever stands beside them, and no more pages than make sense."""
    good = {"request_id": "r-1", "sent_at": "2026-01-01T00:00:00Z", "json_input": json.dumps({"prompt": "x"})}
    odd = [
        None,
        3,
        "x",
        {},
        {"request_id": None},
        {"request_id": ["r"]},
        {"request_id": "r-2", "sent_at": 7, "json_input": [1]},
    ]
    server.history = Answer({"items": [*odd, good]})
    two, one = on(server, ASKING["history"])
    assert (two.request_id, two.sent_at, two.arguments) == ("r-2", None, None)
    assert (one.request_id, one.sent_at, one.arguments) == (
        "r-1",
        datetime(2026, 1, 1, tzinfo=UTC),
        {"prompt": "x"},
    )
    server.history = Answer({"items": [], "has_more": True, "next_cursor": 7})
    with pytest.raises(PollError, match="does not end"):
        on(server, ASKING["history"])


PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, "NO_PROXY", *(name.lower() for name in (*PROXIES, "NO_PROXY"))):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", PROXIES)
def test_this_machine_and_base_url_are_asked_directly(server, no_proxies, monkeypatch, tmp_path, name):
    """Sends nothing for them to a proxy: no question, no submission, no download."""
    with serving() as proxy:
        monkeypatch.setenv(name, proxy.base_url)
        monkeypatch.setenv(name.lower(), proxy.base_url)
        server.file = Answer(b"\0" * 100)
        for ask in ("submit", "history"):
            on(server, ASKING[ask])
        for host in ("127.0.0.1", "localhost"):
            url = str(httpx.URL(server.base_url).copy_with(host=host, path="/files/a.mp4"))
            at(None, lambda provider, url=url, host=host: provider.download(url, tmp_path / host))
        assert not providers._is_emulator(server.base_url)
        assert proxy.seen == []


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "ALL_PROXY"])
def test_fal_is_asked_by_the_proxy(no_proxies, monkeypatch, name):
    """Honours the environment for fal's hosts; a proxy that refuses got nothing bought."""
    with serving() as proxy:
        proxy.result = Answer({}, 403)
        monkeypatch.setenv(name, proxy.base_url)
        with pytest.raises(NeverSentError):
            at(None, ASKING["submit"])
        assert {(seen.method, seen.path) for seen in proxy.seen} == {("CONNECT", "queue.fal.run:443")}
        assert SECRET not in str([seen.headers for seen in proxy.seen])


def test_a_file_elsewhere_is_fetched_by_the_proxy(no_proxies, monkeypatch, tmp_path):
    """Honours the environment for files that are not on this machine, unless NO_PROXY names their host."""
    with serving() as proxy:
        proxy.result = Answer(b"\0" * 100)
        monkeypatch.setenv("HTTP_PROXY", proxy.base_url)
        monkeypatch.setenv("http_proxy", proxy.base_url)
        url = "http://files.invalid/a.mp4"
        at(None, lambda provider: provider.download(url, tmp_path / "a.mp4"))
        assert (tmp_path / "a.mp4").stat().st_size == 100
        monkeypatch.setenv("NO_PROXY", "files.invalid")
        with pytest.raises(KlingSweepsError):
            at(None, lambda provider: provider.download(url, tmp_path / "b.mp4"))
        assert [seen.path for seen in proxy.seen] == [url]


def test_what_does_not_answer_is_no_fal(server):
    """Refuses to take a server for fal that can't be asked what it is, and asks no longer than for any answer."""
    with pytest.raises(UnavailableError, match=r"provider\.base_url"):
        providers._is_emulator("http://127.0.0.1:9")
    assert not providers._is_emulator(server.base_url)


@pytest.mark.parametrize(
    "address", ["socks5://127.0.0.1:1", "socks5h://me:my-password@127.0.0.1:1", "gopher://x", "http://a:b"]
)
def test_a_proxy_that_cannot_be_used_is_named(server, no_proxies, monkeypatch, address):
    """Refuses by the variable's name, with what is missing, and never for what needs no proxy."""
    monkeypatch.setenv("ALL_PROXY", address)
    with pytest.raises(UnavailableError, match=r"ALL_PROXY") as caught:
        at(None, lambda provider: provider.check(ENDPOINT))
    assert ("httpx[socks]" in str(caught.value)) == address.startswith("socks")
    assert "my-password" not in str(caught.value)
    on(server, lambda provider: provider.check(ENDPOINT))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["IN_QUEUE", "COMPLETED", "FAILED", URL]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["status", "queue_position", "logs", "message", "metrics", "inference_time", "error", "error_type", "detail", "msg", "type",
         "video", "videos", "url", "data", "output", "response", "items", "request_id", "sent_at", "json_input", "has_more", "next_cursor",
         "status_url"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(JSON)
def test_any_json_is_read_or_is_an_error_of_ours(body):
    """Raises nothing but what callers expect, and hands over only what can be written down."""
    known = answers.read(json.dumps(body).encode())
    readers = (
        lambda: answers.status(known),
        lambda: answers.delivered(known, str(known), False),
        lambda: answers.failure(500, known, {}, str(known), True),
        lambda: answers.page(known),
        lambda: answers.request_id(known, {}),
    )
    for reader in readers:
        try:
            found = reader()
        except KlingSweepsError as error:
            found = str(error)
        json.dumps(
            found, default=lambda value: str(vars(value)), allow_nan=False, ensure_ascii=False
        ).encode()


@given(st.binary(max_size=60))
def test_any_bytes_are_read(content):
    """Reads a body of any bytes without an error."""
    answers.read(content)
    http._decoded(content, ["gzip", "deflate"])


def test_an_empty_answer_beside_a_failure_is_that_failure():
    """Takes a text, empty or not, for an answer, unless it is empty and something says that the model failed."""
    for body, failed in (({"output": "a text", "error": "x"}, True), ({"output": ""}, False)):
        assert answers.delivered(body, "", failed, Product.ANSWER) is body
    broken = (
        {"output": "", "error": "no"},
        {"output": " ", "detail": "no"},
        {"output": "", "status": "FAILED"},
    )
    for body, failed in (*((one, False) for one in broken), ({"output": ""}, True)):
        with pytest.raises(GenerationError):
            answers.delivered(body, "no", failed, Product.ANSWER)
    with pytest.raises(UnreadableResultError):
        answers.delivered({"output": None, "usage": {}}, "", False, Product.ANSWER)
