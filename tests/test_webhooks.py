"""fal's webhooks: each wakes its run at once, and whatever becomes of one, its run is paid once and has its result."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import socket
from collections.abc import Iterator
from datetime import UTC, datetime

import httpx
import lab
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from lab import Lab, cell
from servers import free_port

from kling_sweeps.errors import PollError
from kling_sweeps.experiment.settings import PollSettings, WebhookSettings
from kling_sweeps.experiment.webhook import problem
from kling_sweeps.providers import webhooks
from kling_sweeps.store.state_machine import Stage

# A fault of the emulator's call, and how its first is answered; None where there is none.
FAULTS = {
    "": 200,
    "never": None,
    "late": 200,
    "twice": 200,
    "wrong_signature": 401,
    "unsigned": 400,
    "old_timestamp": 401,
    "wrong_id": 200,
    "garbage": 400,
    "oversized": 413,
}
WORKING = {"at": "generate", "fault": "slow", "seconds": 1.0}
SELDOM = PollSettings(share=0.1, min_s=0.02, max_s=0.2, far_s=3)
ALMOST_NEVER = PollSettings(share=0.1, min_s=0.02, max_s=0.2, far_s=300)


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab.opened(tmp_path_factory.mktemp("lab")) as opened:
        yield opened


@pytest.fixture
def webhook() -> WebhookSettings:
    port = free_port()
    return WebhookSettings(f"http://127.0.0.1:{port}/fal?a=b", "127.0.0.1", port)


def is_listened(webhook: WebhookSettings) -> bool:
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection((webhook.host, webhook.port)):
        return True
    return False


def test_a_webhook_wakes_its_run(laboratory, webhook):
    """Asks twice, though the next look would be in five minutes; listens no longer than it works."""
    laboratory.emulator.set_faults(WORKING)
    httpx.delete(f"{laboratory.emulator.base_url}/_emulator/counters")
    run = cell("woken")
    outcome = laboratory.run("woken", run, webhook=webhook, poll=ALMOST_NEVER)
    assert outcome.exit_code == 0
    assert httpx.get(f"{laboratory.emulator.base_url}/_emulator/counters").json()["status_polls"] == 2
    assert [(entry["webhook"], entry["called"]) for entry in laboratory.bought(run)] == [(webhook.url, [200])]
    assert not is_listened(webhook)
    assert laboratory.run("woken", run).exit_code == 0  # without webhooks it is the same run
    assert laboratory.charged(run) == 1


def test_whatever_becomes_of_a_webhook_its_run_is_paid_once_and_has_its_result(laboratory, webhook, caplog):
    """Refuses what fal has not signed, and says so once; looks at a run all the same, seldom."""
    runs = {fault: cell(f"webhook {fault}.") for fault in FAULTS}
    rules = [
        {
            "at": "webhook",
            "fault": fault,
            "match": run.prompt_text,
            **({"seconds": 1.0} if fault == "late" else {}),
        }
        for fault, run in runs.items()
        if fault
    ]
    laboratory.emulator.set_faults(WORKING, *rules)
    outcome = laboratory.run("faulty", *runs.values(), webhook=webhook, poll=SELDOM)
    assert outcome.exit_code == 0
    called = {}
    for fault, run in runs.items():
        (entry,) = laboratory.bought(run)
        assert entry["charged_usd"] > 0
        assert laboratory.state(run).stage is Stage.FINISHED
        assert laboratory.entry(run).read_json("result.json")["video"]["url"].endswith(".mp4")
        called[fault] = next(iter(entry["called"]), None)
    assert called == FAULTS
    assert sum("A webhook was refused" in message for message in caplog.messages) == 1


def test_webhooks_that_never_come_are_told_once_and_no_longer_waited_for(laboratory, webhook, caplog):
    """Asks after the runs as without webhooks, once three in a row were over without one."""
    laboratory.emulator.set_faults({"at": "webhook", "fault": "never"}, WORKING)
    runs = [cell(f"nothing comes in {number}") for number in range(6)]
    outcome = laboratory.run("silent", *runs, in_flight=1, webhook=webhook, poll=SELDOM)
    assert outcome.exit_code == 0
    late = []
    for run in runs:
        (entry,) = laboratory.bought(run)
        noticed = next(e["at"] for e in laboratory.entry(run).journal.events() if e["event"] == "completed")
        late.append(datetime.fromisoformat(noticed).timestamp() - entry["ended_at"])
    assert min(late[:3]) > 1
    assert max(late[3:]) < 1
    assert sum("No webhook of fal's comes in at" in message for message in caplog.messages) == 1


@pytest.mark.parametrize("order", [(True, False), (False, True)], ids=["with first", "without first"])
def test_a_command_that_ended_early_is_gone_on_with(laboratory, webhook, order):
    """Collects what the other command left with fal, whichever of the two was to be called."""
    laboratory.emulator.set_faults({**WORKING, "seconds": 2.0})
    run = cell(f"gone on with {order}")
    given = [{"webhook": webhook, "poll": SELDOM} if is_called else {} for is_called in order]
    first = laboratory.run("begun", run, timeout_s=0, **given[0])
    assert first.results[run.name].error.error_type == "no_answer"
    assert laboratory.run("begun", run, **given[1]).exit_code == 0
    assert laboratory.charged(run) == 1


def test_a_port_that_is_taken_is_refused_before_anything_is_bought(laboratory, webhook):
    """Names the keys, and submits nothing."""
    run = cell("no port")
    with socket.create_server((webhook.host, webhook.port)):
        outcome = laboratory.run("taken", run, webhook=webhook)
    assert outcome.exit_code == 2
    assert f"provider.webhook: can't listen on 127.0.0.1:{webhook.port}" in str(outcome.error)
    assert laboratory.bought(run) == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://example.com/fal", ""),
        ("https://93.184.215.14:8443/?a=b", ""),
        ("http://example.com/fal", "is not https"),
        ("https://localhost/fal", "out of fal's reach"),
        ("https://10.0.0.7/fal", "out of fal's reach"),
        ("https://[::1]/fal", "out of fal's reach"),
        ("https://workstation/fal", "out of fal's reach"),
        ("https://nas.local", "out of fal's reach"),
        ("https://me:secret@example.com", "has a login"),
        ("https://example.com/#fal", "fragment"),
        ("example.com/fal", "is not an address"),
        ("https://example.com:99999", "is not an address"),
        ("https://exämple.com/", "is not an address"),
        ("", "is not an address"),
    ],
)
def test_an_address_that_fal_can_not_call_is_refused(url, said):
    """Takes what a tunnel or a reverse proxy on the internet has for an address; an emulator calls any host."""
    found = problem(url, is_fals=True)
    assert said in found
    assert bool(found) == bool(said)
    assert not problem("http://localhost:8901", is_fals=False)


class Fal:
    """Whoever publishes keys and signs with one of them."""

    def __init__(self) -> None:
        self.key = Ed25519PrivateKey.generate()
        self.fetched = 0
        self.is_down = False

    async def fetch(self) -> bytes:
        self.fetched += 1
        if self.is_down:
            raise PollError("nothing answers")
        jwk = {"kty": "OKP", "x": base64url(self.key.public_key().public_bytes_raw())}
        return json.dumps({"keys": [{"kty": "RSA", "n": "AQAB"}, jwk]}).encode()

    def headers(self, body: bytes, at: int) -> dict[str, str]:
        message = f"an-id\na-user\n{at}\n{hashlib.sha256(body).hexdigest()}"
        said = {"Request-Id": "an-id", "User-Id": "a-user", "Timestamp": str(at)}
        signed = {**said, "Signature": self.key.sign(message.encode()).hex()}
        return {f"X-Fal-Webhook-{name}": value for name, value in signed.items()}


def base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def test_keys_are_kept_and_fetched_again_at_most_rarely(webhook, monkeypatch):
    """Knows a new key only when it may look again; without keys it lets fal call again, and wakes nobody."""
    fal, now, body = Fal(), datetime.now(UTC), b'{"request_id": "an-id", "status": "OK"}'
    at = int(now.timestamp())
    rung = []

    async def work() -> None:
        with webhooks.listening(webhook) as listener:
            heard = webhooks.Webhooks(webhook, listener, fal.fetch, lambda: now)
            bell = heard.bell("an-id")
            async with httpx.AsyncClient(trust_env=False) as http:

                async def answered(by: Fal = fal, sent: bytes = body, at: int = at) -> int:
                    code = (
                        await http.post(webhook.url, content=sent, headers=by.headers(body, at))
                    ).status_code
                    rung.append((code, bell.is_set(), fal.fetched))
                    bell.clear()
                    return code

                fal.is_down = True
                await answered()
                fal.is_down = False
                await answered()  # it is too soon to look again
                monkeypatch.setattr(webhooks, "REFETCH_S", 0.0)
                await answered()
                monkeypatch.setattr(webhooks, "REFETCH_S", 300.0)
                await answered(sent=body + b" ")
                await answered(at=at - 290)
                await answered(at=at - 310)
                await answered(at=at + 310)
                fal.key = Ed25519PrivateKey.generate()
                await answered()
                monkeypatch.setattr(webhooks, "REFETCH_S", 0.0)
                await answered()
            await heard.close()

    asyncio.run(work())
    assert rung == [
        (503, False, 1),
        (503, False, 1),
        (200, True, 2),
        (401, False, 2),
        (200, True, 2),
        (401, False, 2),
        (401, False, 2),
        (401, False, 2),
        (200, True, 3),
    ]
