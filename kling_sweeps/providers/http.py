"""How servers are reached: directly or by the user's proxy, with a bound on every answer's time and size."""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
import time
import zlib
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cache
from importlib.util import find_spec
from ipaddress import ip_address

import httpx

from kling_sweeps.providers import fal_client_private

# Seconds: for a connection to be made, and, once a request is sent, for its answer to be here whole.
ANSWER_TIMEOUT_S = 60.0
# Seconds for an upload and its answer.
UPLOAD_TIMEOUT_S = 600.0
# The largest answer, decoded, in bytes; downloads have a limit of their own.
ANSWER_BYTES = 16 * 2**20
TOO_LARGE = b"(an answer of more than 16 MB, which was not read)"
# What answers are asked to be encoded in, and how often one may be encoded.
ENCODINGS = {"Accept-Encoding": "gzip, deflate"}
LAYERS = 2
# zlib's names for: a header of gzip's or zlib's, and none.
WINDOW_BITS = {"gzip": (47,), "x-gzip": (47,), "deflate": (47, -15)}
OF_TRANSFER = ("content-encoding", "content-length", "transfer-encoding")
LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=100)
# Questions, and files, that are on their way at once. More wait here: in httpcore's pool each looks at all that wait
# and all connections, which with 400 runs in flight took two fifths of the event loop, and gives up after a minute.
AT_ONCE = 32
# httpcore looks for this package several times a request, in all folders of sys.path: a sixth of the event loop's time.
if find_spec("sniffio") is None:
    sys.modules.setdefault("sniffio", None)  # type: ignore[arg-type]
PROXY_VARIABLES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy")


class Way(httpx.AsyncBaseTransport):
    """Reaches this machine and one server's host directly, all others by the proxy that the environment names.

    What fal-client does where one of fal's hosts can't be connected to holds for those others too.
    """

    def __init__(self, base_url: str | None) -> None:
        self.direct_host = httpx.URL(base_url).host if base_url else None
        self.direct = httpx.AsyncHTTPTransport(trusted(), limits=LIMITS)
        self.outside: httpx.AsyncBaseTransport | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.host == self.direct_host or is_this_machine(request.url.host):
            return await self.direct.handle_async_request(request)
        if self.outside is None:
            self.outside = _by_environment()
        return await self.outside.handle_async_request(request)

    async def aclose(self) -> None:
        await self.direct.aclose()
        if self.outside:
            await self.outside.aclose()


@cache
def trusted() -> ssl.SSLContext:
    """Return what knows the certificates that are trusted, or those of SSL_CERT_FILE; to read them takes 40 ms."""
    return httpx.create_ssl_context()


def is_this_machine(host: str) -> bool:
    """Tell whether a host is reached without leaving this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _by_environment() -> httpx.AsyncBaseTransport:
    """Return what honours the environment's proxies; raise ProxyError where they can't be used."""
    named = ", ".join(name for name in PROXY_VARIABLES if os.environ.get(name))
    try:
        return fal_client_private.outside()
    except ImportError:
        raise httpx.ProxyError(
            f"{named}: a SOCKS proxy needs one more package: pip install 'httpx[socks]'"
        ) from None
    except (ValueError, httpx.InvalidURL):
        raise httpx.ProxyError(f"{named}: not the address of a proxy, such as http://proxy:3128") from None


class ServerClock:
    """The time at the server, by the last answer that told it; until then this machine's."""

    def __init__(self) -> None:
        self._heard: tuple[datetime, float] | None = None

    def hear(self, date: str) -> None:
        """Take over a `Date` header; one that makes no sense is passed over."""
        with suppress(ValueError, TypeError, IndexError, OverflowError):
            told = parsedate_to_datetime(date)
            told = told.replace(tzinfo=UTC) if told.tzinfo is None else told.astimezone(UTC)
            if 2020 <= told.year < 2100:
                self._heard = told, time.monotonic()

    def now(self) -> datetime:
        if self._heard is None:
            return datetime.now(UTC)
        told, at = self._heard
        return told + timedelta(seconds=time.monotonic() - at)


class Whole(httpx.AsyncBaseTransport):
    """Hands an answer over once it is here whole, decoded; raises ReadTimeout where that takes too long.

    A text stands in place of one that is too large, so that its status and headers still count.
    """

    def __init__(
        self, inner: httpx.AsyncBaseTransport, clock: ServerClock, timeout_s: float | None = None
    ) -> None:
        self.inner = inner
        self.clock = clock
        self.timeout_s = timeout_s or ANSWER_TIMEOUT_S
        self.at_once = asyncio.Semaphore(AT_ONCE)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        async with self.at_once:
            return await self._answered(request)

    async def _answered(self, request: httpx.Request) -> httpx.Response:
        try:
            # Waiting for a connection has limits of its own, after which nothing was sent.
            async with asyncio.timeout(None) as deadline:

                async def trace(event: str, info: object) -> None:
                    if event.endswith("send_request_headers.started"):
                        deadline.reschedule(asyncio.get_running_loop().time() + self.timeout_s)

                request.extensions = {**request.extensions, "trace": trace}
                response = await self.inner.handle_async_request(request)
                content = await _content(response)
        except TimeoutError:
            raise httpx.ReadTimeout(f"no whole answer within {self.timeout_s:g} s", request=request) from None
        self.clock.hear(response.headers.get("Date", ""))
        headers = [(name, value) for name, value in response.headers.multi_items() if name not in OF_TRANSFER]
        return httpx.Response(response.status_code, headers=headers, content=content, request=request)

    async def aclose(self) -> None:
        await self.inner.aclose()


async def _content(response: httpx.Response) -> bytes:
    raw = bytearray()
    try:
        async for chunk in response.aiter_raw():
            raw += chunk
            if len(raw) > ANSWER_BYTES:
                return TOO_LARGE
    finally:
        await response.aclose()
    encodings = response.headers.get("Content-Encoding", "").lower().split(",")
    return _decoded(bytes(raw), encodings)


def _decoded(content: bytes, encodings: list[str]) -> bytes:
    """Undo encodings, the last first; what is not encoded as it says is taken as it is."""
    for encoding in encodings[: -LAYERS - 1 : -1]:
        for bits in WINDOW_BITS.get(encoding.strip(), ()):
            with suppress(zlib.error):
                content = zlib.decompressobj(bits).decompress(content, ANSWER_BYTES + 1)
                break
        if len(content) > ANSWER_BYTES:
            return TOO_LARGE
    return content


def client(
    transport: httpx.AsyncBaseTransport,
    headers: dict[str, str] | None = None,
    read_timeout_s: float | None = ANSWER_TIMEOUT_S,
) -> httpx.AsyncClient:
    """Return a client; `read_timeout_s` is for how long a server may be silent."""
    timeout = httpx.Timeout(ANSWER_TIMEOUT_S, read=read_timeout_s)
    return httpx.AsyncClient(transport=transport, headers=headers, timeout=timeout, max_redirects=5)
