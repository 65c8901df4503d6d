"""Webhooks: a signed POST to the address that a submission has named, once its request has ended."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
import uuid
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from . import outcomes
from .faults import Fault, Faults
from .submission import Submission

if TYPE_CHECKING:
    import httpx

USER = "emulated-user"
# How often fal calls until it is answered with a success, and for how many seconds it waits for that; seconds until the
# second call, each further one waiting twice as long.
ATTEMPTS, TIMEOUT_S, RETRY_S = 10, 15.0, 1.0


class Webhooks:
    """Calls whoever wants to be told that a request has ended, signed with a key of its own."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._key = Ed25519PrivateKey.generate()
        self._tasks: set[asyncio.Task[None]] = set()

    @cached_property
    def _client(self) -> httpx.AsyncClient:
        import httpx

        return httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False)

    def keys(self) -> dict[str, Any]:
        """Return the public key as a JSON Web Key Set."""
        raw = base64.urlsafe_b64encode(self._key.public_key().public_bytes_raw()).rstrip(b"=").decode()
        return {"keys": [{"kty": "OKP", "crv": "Ed25519", "use": "sig", "x": raw}]}

    def call(self, submission: Submission) -> None:
        """Call about a request that has ended, where somebody wants that."""
        if submission.webhook:
            task = asyncio.create_task(self._call(submission))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give up what was not delivered yet."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if "_client" in vars(self):
            await self._client.aclose()

    async def _call(self, submission: Submission) -> None:
        fault = self._faults.pick("webhook", submission.prompt, submission.request_id) or Fault("", {})
        if fault.name == "never":
            return
        await asyncio.sleep(fault.options["seconds"] if fault.name == "late" else 0)
        for _ in range(2 if fault.name == "twice" else 1):
            await self._deliver(submission, fault)

    async def _deliver(self, submission: Submission, fault: Fault) -> None:
        import httpx

        for attempt in range(ATTEMPTS):
            body, headers = self._message(submission, fault)
            try:
                answer = await self._client.post(submission.webhook or "", content=body, headers=headers)
            except (httpx.HTTPError, httpx.InvalidURL):
                submission.called.append(0)
            else:
                submission.called.append(answer.status_code)
                if answer.is_success:
                    return
            await asyncio.sleep(RETRY_S * 2**attempt)

    def _message(self, submission: Submission, fault: Fault) -> tuple[bytes, Mapping[str, str]]:
        request_id = str(uuid.uuid4()) if fault.name == "wrong_id" else submission.request_id
        body = json.dumps(_told(submission, request_id)).encode()
        if fault.name == "garbage":
            body = b"<!doctype html><title>Sign in</title>"
        if fault.name == "oversized":
            body += b" " * int(fault.options["bytes"])
        at = round(time.time() - (fault.options["seconds"] if fault.name == "old_timestamp" else 0))
        message = "\n".join((request_id, USER, str(at), hashlib.sha256(body).hexdigest()))
        key = Ed25519PrivateKey.generate() if fault.name == "wrong_signature" else self._key
        signed = {
            "X-Fal-Webhook-Request-Id": request_id,
            "X-Fal-Webhook-User-Id": USER,
            "X-Fal-Webhook-Timestamp": str(at),
            "X-Fal-Webhook-Signature": key.sign(message.encode()).hex(),
        }
        return body, {"Content-Type": "application/json", **(signed if fault.name != "unsigned" else {})}


def _told(submission: Submission, request_id: str) -> dict[str, Any]:
    outcome = submission.outcome
    assert outcome  # it has ended
    payload = outcomes.body(outcome, submission.base_url)
    told = {"request_id": request_id, "gateway_request_id": request_id, "payload": payload}
    return {**told, "status": "ERROR" if outcome.error else "OK", "error": outcome.error}
