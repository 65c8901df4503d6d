"""Breaking a connection on purpose: real closes and resets of the socket under uvicorn."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

FAL_HOSTS = ("queue.fal.run", "queue.falrun.com", "fal.run", "falrun.com", "api.fal.ai", "rest.fal.ai")
# What a client that keeps fal's Host says it reached the server by.
BASE_URL_HEADER = "x-kling-sweeps-base-url"
EXTENSION = "kling_sweeps.connection"
LINGER_NOT_AT_ALL = struct.pack("ii", 1, 0)


class BreakableProtocol(H11Protocol):
    """uvicorn's HTTP protocol, its transport handed to the application as an extension."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._application = self.app
        self.app = self._with_transport

    # uvicorn's own method takes no other transport either.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        # asyncio leaves this out for a listener that it didn't make: 40 ms an answer.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().connection_made(transport)

    async def _with_transport(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("extensions", {})[EXTENSION] = self.transport
        await self._application(scope, receive, send)


def address(request: Request) -> str:
    """Return the address at which a client reaches the server: its own word, its Host, or the socket's.

    A Host of fal's is none of these, and behind a tunnel or a container's port the socket's leads nowhere.
    """
    if base_url := request.headers.get(BASE_URL_HEADER):
        return base_url.rstrip("/")
    host = request.headers.get("host", "")
    if not host or host in FAL_HOSTS:
        ip, port = request.scope["server"]
        host = f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
    return f"{request.url.scheme}://{host}"


def transport_of(scope: Scope) -> asyncio.Transport:
    """Return the transport of the connection that a request came in on."""
    transport: asyncio.Transport = scope["extensions"][EXTENSION]
    return transport


def close(transport: asyncio.Transport) -> None:
    """Hang up: what was written is still delivered, and then the connection ends."""
    transport.close()


def reset(transport: asyncio.Transport) -> None:
    """Reset the connection (a TCP RST), as a crashed proxy does."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT_AT_ALL)
    transport.abort()


class NoAnswer(Response):
    """Break the connection after `seconds`, without a byte of answer."""

    def __init__(self, *, seconds: float = 0.0, with_reset: bool = False) -> None:
        super().__init__(status_code=500)
        self._seconds = seconds
        self._break = reset if with_reset else close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._seconds:
            await _disconnected(receive, self._seconds)
        self._break(transport_of(scope))
        await _disconnected(receive, 5)
        await super().__call__(scope, receive, send)  # goes nowhere; uvicorn wants an answer


class CutAnswer(Response):
    """Answer as `whole` would, and hang up after `share` of its body."""

    def __init__(self, whole: Response, share: float) -> None:
        super().__init__(status_code=whole.status_code)
        self.raw_headers = whole.raw_headers
        self._part = whole.body[: int(len(whole.body) * share)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self._part, "more_body": True})
        close(transport_of(scope))


async def _disconnected(receive: Receive, seconds: float) -> None:
    """Return when the connection is gone, or after `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            while (await receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        return
