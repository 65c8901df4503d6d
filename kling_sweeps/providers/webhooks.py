"""fal's webhooks: they wake whoever waits for a request, who then asks fal; what fal has not signed wakes nobody.

fal signs `<request id>\\n<user id>\\n<time>\\n<SHA-256 of the body>` with Ed25519, and publishes its keys
(https://fal.ai/docs/model-apis/webhooks).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from weakref import WeakValueDictionary

import uvicorn
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from kling_sweeps.errors import ConfigError, RunError
from kling_sweeps.experiment.settings import WebhookSettings
from kling_sweeps.providers import answers

log = logging.getLogger(__name__)
SIGNED = ("request-id", "user-id", "timestamp")
# Seconds by which a webhook's time may be off; that its body may take; for which keys are kept; between two looks at them.
TOLERANCE_S, BODY_S, KEYS_S, REFETCH_S = 300, 10.0, 86_400.0, 300.0
# The largest body in bytes, and how many connections are answered at once.
LARGEST, MOST_CONNECTIONS = 2**20, 500
# Requests in a row that ended without a webhook, after which they are asked after as if there were none.
MISSED = 3


class _Refused(Exception):
    """A webhook that wakes nobody, with the status code that it is answered."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


@contextmanager
def listening(settings: WebhookSettings) -> Iterator[socket.socket]:
    """Yield the socket on which webhooks come in; raise ConfigError where it can't be had."""
    host, port = settings.host, settings.port
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise ConfigError(
            f"provider.webhook: can't listen on {host}:{port} ({error.strerror or error}); choose another "
            "provider.webhook.port, to which what answers at provider.webhook.url then has to lead"
        ) from None
    with closing(listener):
        yield listener


class Webhooks:
    """Hears of requests that are over, by a server in the event loop of whoever waits for them.

    `fetch` returns the body of fal's keys, or raises RunError, and `now` is fal's time.
    """

    def __init__(
        self,
        settings: WebhookSettings,
        listener: socket.socket,
        fetch: Callable[[], Awaitable[bytes]],
        now: Callable[[], datetime],
    ) -> None:
        self.url = settings.url
        self._listener, self._now = listener, now
        self._keys = _Keys(fetch)
        self._bells: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()
        self._missed = 0
        self._is_warned = False
        self._server: uvicorn.Server | None = None
        self._serving: asyncio.Task[None] | None = None

    def bell(self, request_id: str) -> asyncio.Event | None:
        """Return what a webhook about a request sets from now on, None while none comes of those that should."""
        if self._serving is None:
            self._serving = asyncio.create_task(self._serve())
        if self._missed >= MISSED:
            return None
        return self._bells.setdefault(request_id, asyncio.Event())

    def missed(self) -> None:
        """Note that a request was over long before its webhook came."""
        self._missed += 1
        if self._missed == MISSED:
            log.warning(
                "No webhook of fal's comes in at %s: the runs are asked after as without webhooks, until one does",
                self.url,
            )

    async def close(self) -> None:
        """End the server."""
        if self._server and self._serving:
            self._server.should_exit = True
            await asyncio.gather(self._serving, return_exceptions=True)

    async def _serve(self) -> None:
        config = uvicorn.Config(
            Starlette(routes=[Route("/{path:path}", self._answer, methods=["POST"])]),
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        await self._server.serve([self._listener])

    async def _answer(self, request: Request) -> Response:
        try:
            async with asyncio.timeout(BODY_S):
                body = await _body(request)
            woken = await self._verified(request.headers, body)
        except _Refused as refused:
            self._warn(refused)
            return PlainTextResponse(str(refused), refused.code)
        except (TimeoutError, ClientDisconnect):
            return PlainTextResponse("the body did not come", 408)
        self._missed = 0
        for bell in filter(None, map(self._bells.get, woken)):
            bell.set()
        return Response()

    async def _verified(self, headers: Headers, body: bytes) -> Sequence[str]:
        """Return the ids by which a webhook may name its request; raise _Refused where it is not fal's, or not new."""
        said = [headers.get(f"x-fal-webhook-{name}", "") for name in SIGNED]
        try:
            signature, at = bytes.fromhex(headers.get("x-fal-webhook-signature", "")), int(said[-1])
        except ValueError:
            raise _Refused(400, "it has no signature, or one that can't be read") from None
        if abs(round(self._now().timestamp()) - at) > TOLERANCE_S:
            raise _Refused(401, f"its time is more than {TOLERANCE_S} s from now")
        message = "\n".join([*said, hashlib.sha256(body).hexdigest()]).encode("latin-1")
        if not await self._keys.have_signed(signature, message):
            raise _Refused(401, "its signature is none of fal's")
        known = answers.fields(answers.read(body))
        if not known:
            raise _Refused(400, "its body is no JSON object")
        return [said[0], *(answers.text(known.get(name)) for name in ("request_id", "gateway_request_id"))]

    def _warn(self, refused: _Refused) -> None:
        if not self._is_warned:
            log.warning(
                "A webhook was refused: %s. Runs are asked after as well, so that nothing is lost; others "
                "that are refused are not told",
                refused,
            )
        self._is_warned = True


async def _body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST:
            raise _Refused(413, f"its body has more than {LARGEST:,} bytes")
    return body


class _Keys:
    """fal's public keys, fetched when they are needed, and again where none of them has signed something."""

    def __init__(self, fetch: Callable[[], Awaitable[bytes]]) -> None:
        self._fetch = fetch
        self._known: Sequence[Ed25519PublicKey] = ()
        self._asked_at = self._told_at = float("-inf")
        self._asking = asyncio.Lock()

    async def have_signed(self, signature: bytes, message: bytes) -> bool:
        """Tell whether one of the keys has signed a message; raise _Refused (503) where there are none."""
        if time.monotonic() - self._told_at < KEYS_S and self._is_by_any(signature, message):
            return True
        async with self._asking:
            if time.monotonic() - self._asked_at > REFETCH_S:
                self._asked_at = time.monotonic()
                await self._read()
        return self._is_by_any(signature, message)

    async def _read(self) -> None:
        try:
            told = answers.public_keys(answers.read(await self._fetch()))
        except RunError:
            told = []
        if told:
            self._known = [Ed25519PublicKey.from_public_bytes(key) for key in told]
            self._told_at = time.monotonic()
        if time.monotonic() - self._told_at > KEYS_S:
            self._known = ()

    def _is_by_any(self, signature: bytes, message: bytes) -> bool:
        if not self._known:
            raise _Refused(503, "fal's keys can't be read")
        return any(_is_by(key, signature, message) for key in self._known)


def _is_by(key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True
