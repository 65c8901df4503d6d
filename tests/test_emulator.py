"""The emulator's protocol, over HTTP and with the real fal client."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import av
import httpx
import pytest
from fal_client.client import (
    AsyncBackupDomainTransport,
    AsyncRequestHandle,
    Completed,
    Queued,
)

from kling_sweeps import CONF
from kling_sweeps.emulator import EmulatorProcess, EmulatorSettings, server
from kling_sweeps.emulator.endpoints import Endpoints
from kling_sweeps.experiment import yaml_files
from kling_sweeps.experiment.model import read_model

pytestmark = pytest.mark.slow  # each starts servers

ENDPOINT = "fal-ai/kling-video/v2.1/master/text-to-video"
SMALL = {"width": 128, "height": 72, "fps": 8, "latency_s": 0.0}
ARGUMENTS = {"prompt": "a potter", "cfg_scale": 0.5, "duration": "5", "aspect_ratio": "16:9"}
QUEUE = {"host": "queue.fal.run"}


@pytest.fixture(scope="module")
def emulator() -> Iterator[EmulatorProcess]:
    with EmulatorProcess(EmulatorSettings(**SMALL)) as running:
        yield running


@pytest.fixture(scope="module")
def slow_emulator() -> Iterator[EmulatorProcess]:
    with EmulatorProcess(EmulatorSettings(**{**SMALL, "latency_s": 0.5})) as running:
        yield running


@pytest.fixture
def client(emulator: EmulatorProcess) -> Iterator[httpx.Client]:
    yield from _client(emulator)


@pytest.fixture
def slow(slow_emulator: EmulatorProcess) -> Iterator[httpx.Client]:
    yield from _client(slow_emulator)


def _client(emulator: EmulatorProcess) -> Iterator[httpx.Client]:
    headers = {"authorization": "Key anything"}
    with httpx.Client(base_url=emulator.base_url, headers=headers, timeout=10) as client:
        yield client
        client.delete("/_emulator/faults").raise_for_status()


def submit(client: httpx.Client, **arguments: Any) -> dict[str, Any]:
    answer = client.post(f"/{ENDPOINT}", json={**ARGUMENTS, **arguments})
    assert answer.status_code == 200
    return answer.json()


def finish(client: httpx.Client, submitted: dict[str, Any]) -> dict[str, Any]:
    with client.stream("GET", submitted["status_url"] + "/stream") as events:
        bodies = [json.loads(line.removeprefix("data: ")) for line in events.iter_lines() if line]
    assert bodies[-1]["status"] == "COMPLETED"
    return bodies[-1]


def ledger_entry(client: httpx.Client, request_id: str) -> dict[str, Any]:
    return next(
        entry for entry in client.get("/_emulator/ledger").json() if entry["request_id"] == request_id
    )


def test_a_submission_becomes_a_video(client: httpx.Client) -> None:
    """What is submitted is rendered, as long and as wide as asked, and downloaded."""
    submitted = submit(client, aspect_ratio="9:16", duration="10")
    finish(client, submitted)
    video = client.get(submitted["response_url"]).json()["video"]
    content = httpx.get(video["url"]).content
    assert len(content) == video["file_size"]
    with av.open(video["url"]) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (72, 128)
        assert container.streams.video[0].frames == 80


@pytest.mark.parametrize("form", ["", "/", "/response", "/response/"])
@pytest.mark.parametrize("path", ["fal-ai/kling-video", ENDPOINT])
def test_results_are_found_in_every_form_of_address(client: httpx.Client, path: str, form: str) -> None:
    """The short and the long address answer, with or without /response and a last slash."""
    submitted = submit(client)
    finish(client, submitted)
    answer = client.get(f"/{path}/requests/{submitted['request_id']}{form}")
    assert answer.status_code == 200
    assert answer.headers["x-fal-request-id"] == submitted["request_id"]
    assert answer.headers["x-fal-billable-units"] == "5"


@pytest.mark.parametrize("host", ["queue.fal.run", "queue.falrun.com"])
def test_addresses_keep_the_host_of_fal(client: httpx.Client, host: str) -> None:
    """A request sent to a host of fal's is answered with addresses there, by https."""
    answer = client.post(f"/{ENDPOINT}", json=ARGUMENTS, headers={"host": host}).json()
    assert answer["status_url"] == f"https://{host}/fal-ai/kling-video/requests/{answer['request_id']}/status"


@pytest.mark.parametrize("authorization", [None, "", "Key", "Bearer x"])
def test_nobody_without_a_key_is_answered(emulator: EmulatorProcess, authorization: str | None) -> None:
    """Submitting without a key is a 401."""
    headers = {} if authorization is None else {"authorization": authorization}
    assert httpx.post(f"{emulator.base_url}/{ENDPOINT}", json=ARGUMENTS, headers=headers).status_code == 401


def test_only_the_given_key_is_accepted() -> None:
    """With a key in its settings the emulator refuses all others."""
    with EmulatorProcess(EmulatorSettings(**SMALL, key="right")) as emulator:
        url = f"{emulator.base_url}/v1/models/pricing?endpoint_id={ENDPOINT}"
        codes = [
            httpx.get(url, headers={"authorization": f"Key {key}"}).status_code for key in ("wrong", "right")
        ]
    assert codes == [401, 200]


def test_two_run_and_the_others_wait_in_order(slow: httpx.Client) -> None:
    """With two slots, the third and the fourth of four requests are at positions 0 and 1."""
    submitted = [submit(slow) for _ in range(4)]
    bodies = [slow.get(each["status_url"], params={"logs": "1"}) for each in submitted]
    assert [body.json()["status"] for body in bodies] == ["IN_PROGRESS"] * 2 + ["IN_QUEUE"] * 2
    assert [body.json()["queue_position"] for body in bodies] == [0, 0, 0, 1]
    assert {body.status_code for body in bodies} == {202}
    assert all(isinstance(body.json()["logs"], list) for body in bodies)
    for each in submitted:
        finish(slow, each)


def test_a_result_that_is_not_ready_says_so(slow: httpx.Client) -> None:
    """Asking too early is an error, and not the end."""
    submitted = submit(slow)
    early = slow.get(submitted["response_url"])
    assert (early.status_code, early.json()) == (400, {"detail": "Request is still in progress"})
    finish(slow, submitted)


def test_what_waits_can_be_cancelled_and_what_runs_completes(slow: httpx.Client) -> None:
    """Cancelling answers 202 while a request lives, 400 when it has ended, 404 when it never was."""
    running, _, waiting = submit(slow), submit(slow), submit(slow)
    assert slow.put(waiting["cancel_url"]).json() == {"status": "CANCELLATION_REQUESTED"}
    assert slow.put(running["cancel_url"]).status_code == 202
    assert finish(slow, waiting)["error_type"] == "client_cancelled"
    finish(slow, running)
    assert slow.put(running["cancel_url"]).json() == {"status": "ALREADY_COMPLETED"}
    assert slow.put("/fal-ai/kling-video/requests/none/cancel").status_code == 404
    charged = [ledger_entry(slow, each["request_id"])["charged_usd"] for each in (running, waiting)]
    assert charged == [1.4, 0]


def test_what_has_not_started_in_time_times_out(slow: httpx.Client) -> None:
    """The start time-out of a request header ends a request that still waits."""
    before = [submit(slow), submit(slow)]
    late = slow.post(f"/{ENDPOINT}", json=ARGUMENTS, headers={"x-fal-request-timeout": "0.1"}).json()
    assert finish(slow, late)["error_type"] == "request_timeout"
    assert slow.get(late["response_url"]).status_code == 504
    for each in before:
        finish(slow, each)


BAD = [
    ({"prompt": 5}, "string_type"),
    ({"prompt": "x" * 2501}, "string_too_long"),
    ({"prompt": 7}, "string_type"),
    ({"negative_prompt": "x" * 2501}, "string_too_long"),
    ({"cfg_scale": 1.5}, "less_than_equal"),
    ({"cfg_scale": -1}, "greater_than_equal"),
    ({"cfg_scale": "high"}, "float_parsing"),
    ({"duration": "7"}, "literal_error"),
    ({"duration": 10}, "literal_error"),
    ({"aspect_ratio": "4:3"}, "literal_error"),
]


def test_an_endpoint_is_what_its_file_in_conf_says(client: httpx.Client) -> None:
    """Charges by the price and refuses by the arguments of each model file, as of a file that is added."""
    files = [yaml_files.content(path) for path in sorted(CONF.glob("model/*.yaml"))]
    listed = client.get("/v1/models/pricing").json()["prices"]
    assert {each["endpoint_id"] for each in listed} == {file["endpoint"] for file in files}
    endpoints = Endpoints()
    for declared in map(read_model, files):
        sent, problems = declared.read_arguments({"prompt": "A fox"})
        assert problems == [] and endpoints.read(declared.endpoint, sent) == (sent, [])
        assert endpoints.charge(declared.endpoint, sent)[0] == declared.price_usd(sent) > 0
        assert len(endpoints.read(declared.endpoint, {"prompt": 5, "duration": "70"})[1]) == 2


def test_an_endpoint_without_a_file_is_free(client: httpx.Client) -> None:
    """Takes it for one of Kling's, whose price nobody knows."""
    endpoints = Endpoints()
    assert endpoints.charge("a/b", {"prompt": "A fox"})[0] == 0
    assert endpoints.read("a/b", {})[1][0]["type"] == "missing"
    assert endpoints.read("a/b", {"prompt": "A fox"})[0]["duration"] == "5"


def test_every_type_of_argument_is_checked(tmp_path: Path) -> None:
    """Refuses what a file of another folder does not allow, as fal does, and passes on what no file declares."""
    (tmp_path / "added.yaml").write_text("""
        name: added
        endpoint: added/model
        arguments:
          text: {role: prompt, type: string}
          seed: {anyOf: [{type: integer, minimum: 0}, {type: "null"}]}
          generate_audio: {type: boolean, default: false, fal_default: true}
          loras: {type: array, items: {type: object, required: [path]}}
        required: [text]
    """)
    endpoints = Endpoints([tmp_path])
    wrong = {"seed": "a", "generate_audio": "perhaps", "loras": [{"scale": 1}]}
    told = [(one["type"], one["loc"]) for one in endpoints.read("added/model", wrong)[1]]
    assert told == [
        ("missing", ["body", "text"]),
        ("int_parsing", ["body", "seed"]),
        ("bool_parsing", ["body", "generate_audio"]),
        ("missing", ["body", "loras", 0, "path"]),
    ]
    right = {"text": "A fox", "seed": 1, "more": 2}
    assert endpoints.read("added/model", right) == ({**right, "generate_audio": True}, [])
    assert endpoints.scene("added/model", right).arguments["prompt"] == "A fox"


def test_models_are_read_by_one_thread_at_a_time() -> None:
    """Reads them once in a fresh process, though several ask at once: the imports of two would wait for each other."""
    code = (
        "import threading; from kling_sweeps.emulator.endpoints import Endpoints; found = []; one = Endpoints()\n"
        "threads = [threading.Thread(target=lambda: found.append(id(one.models))) for _ in range(8)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]; assert len(found) == 8 and len({*found}) == 1"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("ratio", "size"),
    [
        (16 / 9, (1280, 720)),
        (9 / 16, (720, 1280)),
        (1, (720, 720)),
        (21 / 9, (1680, 720)),
        (3 / 4, (720, 960)),
    ],
)
def test_every_shape_has_a_size(ratio: float, size: tuple[int, int]) -> None:
    """Keeps the shorter side, and an even number of pixels."""
    assert EmulatorSettings().frame_size(ratio) == size


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1.0, float("-inf")]])
def test_what_is_no_number_of_json_is_refused(value: Any) -> None:
    """Refuses NaN and infinity, which Python's JSON has and fal's has not."""
    endpoint = "fal-ai/kling-video/v2.1/master/text-to-video"
    _, problems = Endpoints().read(endpoint, {"prompt": "a", "cfg_scale": value})
    assert "finite_number" in {problem["type"] for problem in problems}


@pytest.mark.parametrize(("arguments", "kind"), BAD)
def test_bad_arguments_fail_on_the_result(client: httpx.Client, arguments: dict[str, Any], kind: str) -> None:
    """fal accepts them, completes the request, and answers 422 only when the result is asked for."""
    submitted = submit(client, **arguments)
    assert finish(client, submitted)["error_type"] == kind
    answer = client.get(submitted["response_url"])
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", next(iter(arguments))]
    assert answer.json()["detail"][0]["type"] == answer.headers["x-fal-error-type"] == kind
    assert ledger_entry(client, submitted["request_id"])["charged_usd"] == 0


def test_the_synchronous_endpoint_answers_with_the_result(client: httpx.Client) -> None:
    """A POST to fal.run waits for the video."""
    answer = client.post(f"/{ENDPOINT}", json=ARGUMENTS, headers={"host": "fal.run"})
    assert answer.json()["video"]["content_type"] == "video/mp4"


def test_the_synchronous_endpoint_is_limited(slow: httpx.Client) -> None:
    """It does not queue: with every slot taken it answers 429."""
    running = [submit(slow), submit(slow)]
    answer = slow.post(f"/{ENDPOINT}", json=ARGUMENTS, headers={"host": "fal.run"})
    assert (answer.status_code, answer.json()["error_type"]) == (429, "concurrent_requests_limit")
    for each in running:
        finish(slow, each)


def history(client: httpx.Client, **query: Any) -> dict[str, Any]:
    query = {"endpoint_id": ENDPOINT, **query}
    return client.get("/v1/models/requests/by-endpoint", params=query).raise_for_status().json()


def test_the_history_pages_through_what_ended(client: httpx.Client) -> None:
    """Pages, followed by their cursors, list each request once, the newest first."""
    expected = [submit(client)["request_id"] for _ in range(5)]
    for request_id in expected:
        finish(client, {"status_url": f"/fal-ai/kling-video/requests/{request_id}/status"})
    found, page = [], history(client, limit=2)
    while True:
        found += [item["request_id"] for item in page["items"]]
        if not page["has_more"]:
            break
        page = history(client, limit=2, cursor=page["next_cursor"])
    assert found[:5] == expected[::-1]
    assert len(found) == len(set(found))


def test_the_history_has_payloads_when_asked(client: httpx.Client) -> None:
    """`expand=payloads` adds what was sent and what came back."""
    submitted = submit(client, prompt='quotes " and 🎬')
    finish(client, submitted)
    (item,) = history(client, request_id=submitted["request_id"], expand="payloads")["items"]
    assert item["json_input"]["prompt"] == 'quotes " and 🎬'
    assert item["json_output"] == client.get(submitted["response_url"]).json()
    (bare,) = history(client, request_id=submitted["request_id"])["items"]
    assert bare["json_input"] is None


def test_the_history_can_be_limited(client: httpx.Client) -> None:
    """Time and status select; a bad query is refused."""
    submitted = submit(client, cfg_scale=2)
    finish(client, submitted)
    wanted = {"request_id": submitted["request_id"]}
    assert history(client, **wanted, status="user_error")["items"]
    assert not history(client, **wanted, status="success")["items"]
    assert not history(client, **wanted, end="2020-01-01T00:00:00Z")["items"]
    bad = client.get("/v1/models/requests/by-endpoint", params={"endpoint_id": ENDPOINT, "limit": 101})
    assert bad.status_code == 400


def test_prices_are_known_or_not_found(client: httpx.Client) -> None:
    """A listed endpoint has a price a second; another is a 404 and charges nothing."""
    known = client.get("/v1/models/pricing", params={"endpoint_id": ENDPOINT}).json()["prices"]
    assert (known[0]["unit_price"], known[0]["unit"]) == (0.28, "second")
    assert client.get("/v1/models/pricing", params={"endpoint_id": "a/b"}).status_code == 404
    submitted = client.post("/a/b/c", json=ARGUMENTS).json()
    finish(client, submitted)
    assert ledger_entry(client, submitted["request_id"])["charged_usd"] == 0


def test_files_come_in_ranges(client: httpx.Client) -> None:
    """A part, a part that isn't there, and the headers alone."""
    submitted = submit(client)
    finish(client, submitted)
    url = client.get(submitted["response_url"]).json()["video"]["url"]
    whole = httpx.get(url).content
    part = httpx.get(url, headers={"range": "bytes=100-"})
    assert (part.status_code, part.content) == (206, whole[100:])
    assert httpx.get(url, headers={"range": f"bytes={len(whole)}-"}).status_code == 416
    head = httpx.head(url)
    assert (head.headers["content-length"], head.content) == (str(len(whole)), b"")
    assert httpx.get(url + "x").status_code == 404


def test_every_answer_says_that_it_is_emulated(client: httpx.Client) -> None:
    """A client can tell an emulator from fal, also by an error."""
    for path in ("/_emulator", "/nothing", "/files/none.mp4"):
        assert client.get(path).headers["x-kling-sweeps-emulator"] == "1"
    assert client.get("/_emulator").json()["slots"] == 2


def test_counters_count_and_start_again(client: httpx.Client) -> None:
    """Requests are counted by kind until the counters are reset."""
    client.delete("/_emulator/counters")
    submitted = submit(client)
    client.get(submitted["status_url"])
    counted = client.get("/_emulator/counters").json()
    assert (
        counted["submits"],
        counted["accepted"],
        counted["status_polls"],
        counted["results"],
    ) == (1, 1, 1, 0)
    assert not any(client.put("/_emulator/counters").json().values())
    finish(client, submitted)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"host": "10.1.2.3:7"}, "http://10.1.2.3:7"),
        ({"host": "queue.fal.run"}, None),
        ({"host": "queue.fal.run", "x-kling-sweeps-base-url": "http://tunnel.test:9000/"}, "http://tunnel.test:9000"),
    ],
)  # fmt: skip
def test_a_files_address_leads_back(
    client: httpx.Client, emulator: EmulatorProcess, headers, expected
) -> None:
    """A video is to be found where its client reached the emulator, whatever that listens on."""
    submitted = submit(client)
    finish(client, submitted)
    path = httpx.URL(submitted["response_url"]).path
    url = client.get(path, headers=headers).json()["video"]["url"]
    assert url.rpartition("/files/")[0] == (expected or emulator.base_url)


def test_an_emulator_for_a_network_is_asked_on_this_machine() -> None:
    """Names an address that can be asked where it listens on all."""
    with socket.create_server(("0.0.0.0", 0)) as listener:
        assert server._address(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"


class ToEmulator(httpx.AsyncBaseTransport):
    """Send what is for fal to an emulator, with fal's Host."""

    def __init__(self, base_url: str) -> None:
        self._base, self._inner = httpx.URL(base_url), httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.url = request.url.copy_with(scheme="http", host=self._base.host, port=self._base.port)
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()


async def _fal_events(base_url: str) -> AsyncIterator[Any]:
    transport = AsyncBackupDomainTransport(transport=ToEmulator(base_url))
    async with httpx.AsyncClient(transport=transport, headers={"authorization": "Key x"}) as http:
        for _ in range(3):
            body = (await http.post(f"https://queue.fal.run/{ENDPOINT}", json=ARGUMENTS)).json()
        handle = AsyncRequestHandle.from_request_id(http, ENDPOINT, body["request_id"])
        async for event in handle.iter_events(with_logs=True, interval=0.02):
            yield event
        yield await handle.get()


def test_the_real_fal_client_follows_a_request(slow_emulator: EmulatorProcess) -> None:
    """fal's own handle reads every status and the result."""

    async def collect() -> list[Any]:
        return [event async for event in _fal_events(slow_emulator.base_url)]

    *events, result = asyncio.run(collect())
    assert isinstance(events[0], Queued)
    assert isinstance(events[-1], Completed)
    assert events[-1].metrics["inference_time"] > 0
    assert result["video"]["url"].startswith(slow_emulator.base_url)


def test_a_restarted_emulator_knows_its_requests(tmp_path: Path) -> None:
    """With a state folder it finishes what waited, and still has what was done."""
    settings = EmulatorSettings(**{**SMALL, "latency_s": 1.0}, slots=1, state_dir=tmp_path)
    with EmulatorProcess(settings) as first, httpx.Client(base_url=first.base_url) as client:
        client.headers["authorization"] = "Key x"
        done, waiting = submit(client), submit(client)
        finish(client, done)
    with (tmp_path / "submissions.jsonl").open("a") as file:
        file.write('{"event": "acce')
    with EmulatorProcess(settings) as second, httpx.Client(base_url=second.base_url) as client:
        client.headers["authorization"] = "Key x"
        path = "/fal-ai/kling-video/requests/"
        finish(client, {"status_url": f"{path}{waiting['request_id']}/status"})
        urls = [client.get(path + each["request_id"]).json()["video"]["url"] for each in (done, waiting)]
        assert all(httpx.get(url).status_code == 200 for url in urls)
        ledger = client.get("/_emulator/ledger").json()
    assert [(entry["request_id"], entry["charged_usd"], entry["answered"]) for entry in ledger] == [
        (done["request_id"], 1.4, True),
        (waiting["request_id"], 1.4, True),
    ]


def test_history_lags_as_set() -> None:
    """An ended request appears in the history only after the lag."""
    with (
        EmulatorProcess(EmulatorSettings(**SMALL, history_lag_s=3600)) as emulator,
        httpx.Client(base_url=emulator.base_url, headers={"authorization": "Key x"}) as client,
    ):
        finish(client, submit(client))
        assert history(client)["items"] == []


def test_an_emulator_answers_soon(emulator: EmulatorProcess) -> None:
    """Polling is not held up by a rendering: no answer takes half as long as that, on however slow a machine."""
    headers = {"authorization": "Key x"}
    with httpx.Client(base_url=emulator.base_url, headers=headers, timeout=60) as client:
        finish(client, submit(client))  # the first one loads what all others need
        submitted = submit(client, duration="10")
        times_s, status = [time.perf_counter()], ""
        while status != "COMPLETED":
            status = client.get(submitted["status_url"]).json()["status"]
            times_s.append(time.perf_counter())
    answers_s = [after - before for before, after in itertools.pairwise(times_s)]
    assert max(answers_s) < (times_s[-1] - times_s[0]) / 2
