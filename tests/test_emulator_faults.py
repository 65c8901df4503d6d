"""The emulator's faults: each does what its documentation says, to the client and to the ledger."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from servers import until

import kling_sweeps.emulator
from kling_sweeps.emulator import EmulatorProcess, EmulatorSettings
from kling_sweeps.emulator.fault_kinds import KINDS

pytestmark = pytest.mark.slow  # each starts servers

PATH = "/fal-ai/kling-video/v2.1/master/text-to-video"
HISTORY = "/v1/models/requests/by-endpoint"


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with EmulatorProcess(EmulatorSettings(width=128, height=72, fps=8, latency_s=0)) as emulator:
        yield emulator.base_url


@pytest.fixture
def client(base_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=base_url, headers={"authorization": "Key x"}, timeout=10) as client:
        yield client
        client.delete("/_emulator/faults").raise_for_status()


def set_faults(client: httpx.Client, *rules: dict[str, Any]) -> None:
    client.put("/_emulator/faults", json=list(rules)).raise_for_status()


def post(client: httpx.Client, prompt: str = "hills") -> httpx.Response:
    return client.post(PATH, json={"prompt": prompt})


def finished(client: httpx.Client, prompt: str = "hills") -> dict[str, Any]:
    submitted = post(client, prompt).json()
    with client.stream("GET", submitted["status_url"] + "/stream") as events:
        last = [line for line in events.iter_lines() if line][-1]
    return {**submitted, **json.loads(last.removeprefix("data: "))}


def accepted(client: httpx.Client) -> list[dict[str, Any]]:
    return client.get("/_emulator/ledger").json()


def video_url(client: httpx.Client) -> str:
    return client.get(finished(client)["response_url"]).json()["video"]["url"]


@pytest.mark.parametrize("name", ["drop", "reset"])
@pytest.mark.parametrize("is_accepted", [True, False])
def test_a_lost_submission(client: httpx.Client, name: str, is_accepted: bool) -> None:
    """The connection breaks; whether the submission was accepted is the rule's choice."""
    before = len(accepted(client))
    set_faults(client, {"at": "submit", "fault": name, "accepted": is_accepted})
    lost = httpx.RemoteProtocolError if name == "drop" else httpx.ReadError
    with pytest.raises(lost):
        post(client)
    new = accepted(client)[before:]
    assert [entry["answered"] for entry in new] == ([False] if is_accepted else [])


def test_a_submission_that_hangs(client: httpx.Client) -> None:
    """It is accepted, and the client's read time-out ends the wait."""
    before = len(accepted(client))
    set_faults(client, {"at": "submit", "fault": "hang", "seconds": 5})
    with pytest.raises(httpx.ReadTimeout):
        client.post(PATH, json={"prompt": "hills"}, timeout=httpx.Timeout(60, read=0.2))
    until(lambda: [entry["answered"] for entry in accepted(client)[before:]] == [False])


def test_a_submission_that_hangs_up_in_the_end(client: httpx.Client) -> None:
    """A client that waits longer is hung up on."""
    set_faults(client, {"at": "submit", "fault": "hang", "seconds": 0.1})
    with pytest.raises(httpx.RemoteProtocolError):
        post(client)


def test_an_answer_that_is_cut(client: httpx.Client) -> None:
    """Half of the accepting answer arrives."""
    before = len(accepted(client))
    set_faults(client, {"at": "submit", "fault": "cut"})
    with pytest.raises(httpx.RemoteProtocolError):
        post(client)
    assert [entry["answered"] for entry in accepted(client)[before:]] == [False]


ANSWERED = {
    "nginx_502": 502,
    "nginx_504": 504,
    "error_500": 500,
    "unavailable_503": 503,
    "timeout_408": 408,
    "too_many_429": 429,
    "unauthorized_401": 401,
    "locked_403": 403,
    "html_200": 200,
}


@pytest.mark.parametrize(("name", "code"), ANSWERED.items())
@pytest.mark.parametrize("is_accepted", [True, False])
def test_a_submission_that_is_answered_wrongly(
    client: httpx.Client, name: str, code: int, is_accepted: bool
) -> None:
    """The answer has the fault's status code, and the ledger what the rule says."""
    before = len(accepted(client))
    set_faults(client, {"at": "submit", "fault": name, "accepted": is_accepted})
    answer = post(client)
    assert answer.status_code == code
    assert ("nginx" in answer.text) == name.startswith("nginx")
    assert len(accepted(client)) - before == is_accepted


def test_too_many_requests_may_say_when_to_come_back(client: httpx.Client) -> None:
    """Retry-After is there when the rule names it."""
    set_faults(client, {"at": "submit", "fault": "too_many_429", "retry_after": 2, "times": 1})
    assert post(client).headers["retry-after"] == "2"
    set_faults(client, {"at": "submit", "fault": "too_many_429"})
    assert "retry-after" not in post(client).headers


@pytest.mark.parametrize("name", sorted(set(KINDS["generate"]) - {"slow"}))
def test_a_generation_that_fails(client: httpx.Client, name: str) -> None:
    """The status tells of the error, the result has it, and nothing is charged."""
    set_faults(client, {"at": "generate", "fault": name})
    ended = finished(client)
    answer = client.get(ended["response_url"])
    assert answer.status_code == int(name.rsplit("_", 1)[1])
    assert answer.headers["x-fal-error-type"] == ended["error_type"]
    assert accepted(client)[-1]["charged_usd"] == 0


def test_moderation_may_be_charged(client: httpx.Client) -> None:
    """A 422 costs what the video would have, if the rule says so."""
    set_faults(client, {"at": "generate", "fault": "moderation_422", "charged": True})
    ended = finished(client)
    assert ended["error_type"] == "content_policy_violation"
    assert accepted(client)[-1]["charged_usd"] == 1.4


ABOUT_REQUESTS = [(at, name) for at in ("status", "result", "cancel") for name in KINDS[at]]


@pytest.mark.parametrize(
    ("at", "name"), [pair for pair in ABOUT_REQUESTS if pair[1] not in ("hang", "drop", "reset")]
)
def test_an_answer_about_a_request_that_is_wrong(client: httpx.Client, at: str, name: str) -> None:
    """The fault's status code comes once; then everything is as it was."""
    submitted = finished(client)
    set_faults(client, {"at": at, "fault": name, "times": 1, "match": submitted["request_id"]})
    method = "PUT" if at == "cancel" else "GET"
    url = {"status": "status_url", "result": "response_url", "cancel": "cancel_url"}[at]
    assert client.request(method, submitted[url]).status_code == int(name.rsplit("_", 1)[1])
    assert client.request(method, submitted[url]).status_code == (400 if at == "cancel" else 200)


@pytest.mark.parametrize("at", ["status", "result", "history"])
def test_a_connection_that_is_reset(client: httpx.Client, at: str) -> None:
    """What was asked goes unanswered, and can be asked again."""
    submitted = finished(client)
    url = {
        "status": submitted["status_url"],
        "result": submitted["response_url"],
        "history": f"{HISTORY}?endpoint_id=x",
    }[at]
    set_faults(client, {"at": at, "fault": "reset", "times": 1})
    with pytest.raises(httpx.ReadError):
        client.get(url)
    assert client.get(url).status_code == 200


def test_a_file_that_is_truncated_can_be_resumed(client: httpx.Client) -> None:
    """The connection breaks half-way; the rest comes with a range."""
    url = video_url(client)
    whole = client.get(url).content
    set_faults(client, {"at": "file", "fault": "truncated", "times": 1})
    received = _until_broken(client, url)
    assert received == whole[: len(whole) // 2]
    rest = client.get(url, headers={"range": f"bytes={len(received)}-"})
    assert (rest.status_code, received + rest.content) == (206, whole)


def test_a_truncated_file_goes_on_breaking_from_where_it_was(client: httpx.Client) -> None:
    """Ranges are honoured by the fault as well."""
    url = video_url(client)
    whole = client.get(url).content
    set_faults(client, {"at": "file", "fault": "truncated"})
    assert _until_broken(client, url, {"range": "bytes=100-"}) == whole[100 : 100 + (len(whole) - 100) // 2]


def test_a_file_without_ranges_starts_over(client: httpx.Client) -> None:
    """The whole file answers a range."""
    url = video_url(client)
    whole = client.get(url).content
    set_faults(
        client,
        {"at": "file", "fault": "truncated_no_range", "times": 1},
        {"at": "file", "fault": "no_range"},
    )
    assert _until_broken(client, url) == whole[: len(whole) // 2]
    again = client.get(url, headers={"range": "bytes=10-"})
    assert (again.status_code, again.content) == (200, whole)


def test_a_file_that_is_late(client: httpx.Client) -> None:
    """An error comes until the request has been over for long enough."""
    url = video_url(client)
    late = {"at": "file", "fault": "late", "seconds": 600, "code": 403}
    set_faults(client, late)
    assert client.get(url).status_code == 403
    set_faults(client, {**late, "seconds": 0.01})
    until(lambda: client.get(url).status_code == 200)


def test_a_file_that_is_cut_off_as_if_it_were_whole(client: httpx.Client) -> None:
    """The length that is told is that of what comes."""
    url = video_url(client)
    whole = client.get(url).content
    set_faults(client, {"at": "file", "fault": "cut_off"})
    answer = client.get(url)
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.content == whole[: len(whole) // 2]


def test_a_file_that_is_encoded(client: httpx.Client) -> None:
    """The whole file comes as gzip, though neither was asked for."""
    url = video_url(client)
    whole = client.get(url).content
    set_faults(client, {"at": "file", "fault": "gzip"})
    answer = client.get(url, headers={"accept-encoding": "identity", "range": "bytes=10-"})
    assert (answer.status_code, answer.headers["content-encoding"]) == (200, "gzip")
    assert answer.content == whole


def test_a_file_that_drips(client: httpx.Client) -> None:
    """It comes at the pace that the rule says, from where it was asked for."""
    url = video_url(client)
    whole = client.get(url).content
    set_faults(client, {"at": "file", "fault": "drip", "bytes_per_s": 50})
    begin, received = time.monotonic(), b""
    with client.stream("GET", url, headers={"range": "bytes=100-"}) as answer:
        assert (answer.status_code, int(answer.headers["content-length"])) == (206, len(whole) - 100)
        for chunk in answer.iter_raw():
            received += chunk
            if len(received) > 5:
                break
    assert time.monotonic() - begin >= 0.1
    assert whole[100:].startswith(received)


def _until_broken(client: httpx.Client, url: str, headers: dict[str, str] | None = None) -> bytes:
    received = b""
    with (
        pytest.raises(httpx.RemoteProtocolError),
        client.stream("GET", url, headers=headers) as answer,
    ):
        for chunk in answer.iter_raw():
            received += chunk
    return received


def _is_page(answer: httpx.Response) -> bool:
    return answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")


FILES: dict[str, Callable[[httpx.Response], bool]] = {
    "zero_bytes": lambda answer: answer.status_code == 200 and answer.content == b"",
    "not_a_video": _is_page,
    "html_200": _is_page,
    "wrong_type": lambda answer: answer.headers["content-type"] == "application/octet-stream",
    "not_found_404": lambda answer: answer.status_code == 404,
    "forbidden_403": lambda answer: answer.status_code == 403,
    "expired_410": lambda answer: answer.status_code == 410,
    "redirect": lambda answer: answer.status_code == 302 and ".invalid/" in answer.headers["location"],
    "error_500": lambda answer: answer.status_code == 500,
}


@pytest.mark.parametrize(("name", "is_so"), FILES.items())
def test_a_file_that_is_wrong(
    client: httpx.Client, name: str, is_so: Callable[[httpx.Response], bool]
) -> None:
    """The file's address answers as the fault says."""
    url = video_url(client)
    set_faults(client, {"at": "file", "fault": name})
    assert is_so(client.get(url))


@pytest.mark.parametrize(("name", "length"), [("absurd_length", str(10**15)), ("endless", None)])
def test_a_file_without_an_end(client: httpx.Client, name: str, length: str | None) -> None:
    """More arrives than any video has, and the length is absurd or untold."""
    url = video_url(client)
    set_faults(client, {"at": "file", "fault": name})
    received = 0
    with client.stream("GET", url) as answer:
        assert answer.headers.get("content-length") == length
        for chunk in answer.iter_raw():
            received += len(chunk)
            if received > 5_000_000:
                break
    assert received > 5_000_000


def items(client: httpx.Client) -> list[dict[str, Any]]:
    return client.get(HISTORY, params={"endpoint_id": PATH[1:]}).json()["items"]


@pytest.mark.parametrize(("name", "count"), [("lag", 0), ("small_pages", 1), ("missing", 0)])
def test_a_history_that_shows_less(client: httpx.Client, name: str, count: int) -> None:
    """What ended is not there, or not all of it."""
    finished(client)
    finished(client)
    set_faults(client, {"at": "history", "fault": name, **({"seconds": 3600} if name == "lag" else {})})
    assert len(items(client)) == count


def test_a_history_that_shows_what_runs(client: httpx.Client) -> None:
    """Unfinished requests are listed when the fault asks for it."""
    set_faults(
        client,
        {"at": "history", "fault": "unfinished_too"},
        {"at": "generate", "fault": "slow", "seconds": 0.5},
    )
    submitted = post(client).json()
    (item,) = [item for item in items(client) if item["request_id"] == submitted["request_id"]]
    assert item["ended_at"] is None


def test_rules_choose_by_prompt_number_and_times(client: httpx.Client) -> None:
    """`match`, `nth` and `times` say which events meet the fault."""
    set_faults(
        client,
        {"at": "submit", "fault": "timeout_408", "match": "potter", "times": 1},
        {"at": "submit", "fault": "error_500", "nth": 2},
    )
    prompts = ("hills", "a potter", "a potter", "hills", "hills")
    assert [post(client, prompt).status_code for prompt in prompts] == [200, 408, 500, 200, 200]
    applied = [rule["applied"] for rule in client.get("/_emulator/faults").json()]
    assert applied == [1, 1]


def test_chance_is_the_same_with_the_same_seed(client: httpx.Client) -> None:
    """A probability with a seed draws the same events again."""
    rule = {"at": "submit", "fault": "error_500", "probability": 0.5, "seed": 3}
    runs = []
    for _ in range(2):
        set_faults(client, rule)
        runs.append([post(client).status_code for _ in range(12)])
    assert runs[0] == runs[1]
    assert set(runs[0]) == {200, 500}


BAD_RULES = [
    ({}, "a JSON list"),
    ([3], "a rule is an object"),
    ([{"at": "moon", "fault": "drop"}], "submit, generate, judge, status"),
    ([{"at": "cancel", "fault": "cut"}], "drop, reset, hang"),
    ([{"at": "submit", "fault": "drop", "tims": 1}], "times"),
    ([{"at": "submit", "fault": "drop", "times": 0}], "1 or more"),
    ([{"at": "submit", "fault": "drop", "probability": 2}], "from 0 to 1"),
    ([{"at": "submit", "fault": "hang", "seconds": "long"}], "30.0"),
    ([{"at": "submit", "fault": "drop", "accepted": 1}], "True"),
]


@pytest.mark.parametrize(("rules", "hint"), BAD_RULES)
def test_bad_rules_are_refused(client: httpx.Client, rules: Any, hint: str) -> None:
    """A rule that can't be followed is a 422 that names what is valid, and changes nothing."""
    set_faults(client, {"at": "submit", "fault": "error_500"})
    answer = client.put("/_emulator/faults", json=rules)
    assert answer.status_code == 422
    assert hint in answer.json()["detail"]
    assert len(client.get("/_emulator/faults").json()) == 1


def test_every_fault_and_option_is_documented() -> None:
    """The package's docstring names each of them."""
    names = {word for kinds in KINDS.values() for name, options in kinds.items() for word in (name, *options)}
    assert {name for name in names if name not in kling_sweeps.emulator.__doc__} == set()
