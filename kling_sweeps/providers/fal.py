"""fal, through fal-client: credentials, submissions and addresses; the rest by fal's protocol and its API."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from fal_client import AsyncRequestHandle
from fal_client.auth import (
    AuthCredentials,
    MissingCredentialsError,
    fetch_auth_credentials,
)

from kling_sweeps.errors import (
    CredentialsError,
    LockedAccountError,
    LostResultError,
    PollError,
    UnavailableError,
)
from kling_sweeps.experiment.price import Price
from kling_sweeps.experiment.request import GenerationRequest, Product
from kling_sweeps.provider import PastRequest, Status
from kling_sweeps.providers import answers, fal_client_private
from kling_sweeps.providers.download import download
from kling_sweeps.providers.http import AT_ONCE, ENCODINGS, UPLOAD_TIMEOUT_S, ServerClock, Way, Whole, client
from kling_sweeps.providers.transport import Route, SubmitOnce, detail, not_uploaded, reason, shown
from kling_sweeps.store.state_machine import Ticket
from kling_sweeps.untrusted import hide

if TYPE_CHECKING:
    from kling_sweeps.experiment.settings import WebhookSettings
    from kling_sweeps.providers.webhooks import Webhooks

API = "https://api.fal.ai/v1/models"
# The public keys that webhooks are signed with.
KEYS = "https://rest.fal.ai/.well-known/jwks.json"
# An experiment wants the endpoint it names, never one that fal takes for its equal.
SUBMIT_HEADERS = {"x-app-fal-disable-fallback": "true"}
# What an emulator is shown, which takes any key.
NO_CREDENTIALS = AuthCredentials("Key", "none")
# Labels of a submission in fal's bills, of at most 256 characters each.
TAGS, TAG_LENGTH = "X-Fal-Tags", 200
PAGE = 100
# A history that goes on for longer does not end.
MAX_PAGES = 200
# The longest line of a status stream, in bytes, and how many streams are read at once, each on a connection of its own.
LINE_BYTES, STREAMS = 2**20, 100
# When a server last told the price of an endpoint, which shows that it is there and takes the key, and for how many seconds that holds.
_told_at: dict[tuple[str | None, str], float] = {}
STILL_S = 60.0


def find_credentials() -> AuthCredentials | None:
    """Return what fal-client authorizes with, None where there is nothing; raise CredentialsError."""
    try:
        found = fetch_auth_credentials()
    except MissingCredentialsError:
        return None
    except (httpx.HTTPError, httpx.InvalidURL, ImportError, ValueError) as error:
        raise CredentialsError(f"the fal login could not be renewed ({reason(error)}); set FAL_KEY") from None
    hide(found.token)
    if not found.token.isascii() or not found.token.isprintable() or " " in found.token:
        raise CredentialsError(
            "FAL_KEY has white space or characters that no key has; copy it again from fal"
        )
    return found


class FalProvider:
    """fal's queue, or a server at `base_url` that speaks its protocol."""

    def __init__(
        self,
        auth: AuthCredentials,
        base_url: str | None,
        *,
        max_bytes: int,
        is_ephemeral: bool = False,
        webhook: tuple[WebhookSettings, socket.socket] | None = None,
    ) -> None:
        self.is_ephemeral = is_ephemeral
        self.base_url = base_url
        self.max_bytes = max_bytes
        self._clock = ServerClock()
        self._route = Route(base_url, Whole(Way(base_url), self._clock))
        headers = auth.as_headers()
        self._http = client(SubmitOnce(self._route), headers | ENCODINGS)
        # Each stream holds a connection, so that they have their own; one may be silent for long.
        streamed = headers | {"Accept-Encoding": "identity"}
        self._streams = client(Route(base_url, Way(base_url)), streamed, read_timeout_s=None)
        self._streaming = asyncio.Semaphore(STREAMS)
        self._files = client(Way(base_url))
        self._downloading = asyncio.Semaphore(AT_ONCE)
        whole = Whole(Way(base_url), self._clock, UPLOAD_TIMEOUT_S)
        self._uploads = client(Route(base_url, whole), ENCODINGS)
        # fal-client has a key of its own for the storage, which is none.
        self._uploads.auth = partial(_authorize, auth.header_value)
        self._webhooks: Webhooks | None = None
        if webhook:
            from kling_sweeps.providers.webhooks import Webhooks

            self._webhooks = Webhooks(*webhook, self._keys, self.now)

    def now(self) -> datetime:
        return self._clock.now()

    async def check(self, endpoint: str) -> None:
        """Ask fal's API about an endpoint, unless it has just told its price; raise CredentialsError or UnavailableError."""
        if time.monotonic() - _told_at.get((self.base_url, endpoint), -inf) < STILL_S:
            return
        where, remedy = API, "the network, and the proxy if there is one"
        if self.base_url:
            where, remedy = self.base_url, "provider.base_url"
        try:
            response = await self._http.get(f"{API}/pricing", params={"endpoint_id": endpoint})
        except httpx.HTTPError as error:
            raise UnavailableError(f"nothing answers at {where} ({reason(error)}); check {remedy}") from None
        if response.status_code == 401:
            raise CredentialsError(f"fal does not accept the key (401): {detail(response)}")

    async def question(self, path: str, **params: Any) -> tuple[int, Any]:
        """Ask fal's API anything that costs nothing; return the status code and what it says. Raises PollError."""
        response = await self._ask("GET", f"{API.removesuffix('/models')}/{path}", "answer", **params)
        return response.status_code, answers.read(response.content)

    async def prices(self, endpoints: Sequence[str]) -> Mapping[str, Price]:
        found: dict[str, Price] = {}
        for endpoint in endpoints:  # one that fal does not know makes it refuse all
            response = await self._ask("GET", f"{API}/pricing", "price", endpoint_id=endpoint)
            if response.status_code != 404:
                found |= answers.prices(_asked(response))
                _told_at[self.base_url, endpoint] = time.monotonic()
        return found

    async def bills(self, request_ids: Sequence[str], start: datetime, end: datetime) -> Mapping[str, float]:
        times = {name: at.astimezone(UTC).isoformat() for name, at in (("start", start), ("end", end))}
        params: dict[str, Any] = {"request_id": ",".join(request_ids), "limit": PAGE, **times}
        found: dict[str, float] = {}
        for _ in range(MAX_PAGES):
            response = await self._ask("GET", f"{API}/billing-events", "bill", **params)
            events, cursor = answers.bills(_asked(response))
            for request_id, usd in events:
                found[request_id] = round(found.get(request_id, 0.0) + usd, 6)
            if cursor is None:
                break
            params["cursor"] = cursor
        return found

    async def submit(self, request: GenerationRequest, sweep: str) -> Ticket:
        accepted = await fal_client_private.submit(
            self._http,
            request.endpoint,
            request.arguments,
            SUBMIT_HEADERS | {TAGS: _tags(request, sweep)},
            self._webhooks.url if self._webhooks else None,
        )
        urls = (accepted[name] for name in fal_client_private.ADDRESSES)
        return self._addressed(Ticket(request.endpoint, accepted["request_id"], *urls))

    async def status(self, ticket: Ticket) -> Status:
        response = await self._ask("GET", self._addressed(ticket).status_url, "status", logs=1)
        if not response.is_success:
            raise _poll_error(response)
        return answers.status(answers.read(response.content))

    def bell(self, ticket: Ticket) -> asyncio.Event | None:
        return self._webhooks.bell(ticket.request_id) if self._webhooks else None

    def missed(self) -> None:
        if self._webhooks:
            self._webhooks.missed()

    async def watch(self, ticket: Ticket) -> AsyncIterator[Status]:
        if self._streaming.locked():
            raise PollError("fal has been asked for as many status streams as are read at once")
        async with self._streaming:
            async for status in self._told(ticket):
                yield status

    async def _told(self, ticket: Ticket) -> AsyncIterator[Status]:
        path, _, query = self._addressed(ticket).status_url.partition("?")
        url = httpx.URL(f"{path}/stream?{query}").copy_set_param("logs", 1)
        try:
            async with self._streams.stream("GET", url) as told:
                kind = told.headers.get("Content-Type", "")
                if not told.is_success or not kind.startswith("text/event-stream"):
                    raise PollError(f"fal has no status stream: {told.status_code}")
                # Not httpx-sse, which keeps a line of any length in memory. Each event of fal's is one line of data.
                async for line in _lines(told):
                    if line.startswith(b"data:"):
                        yield answers.status(answers.read(line.removeprefix(b"data:")))
        except httpx.HTTPError as error:
            raise PollError(f"fal's status stream broke off: {reason(error)}") from None

    async def result(self, ticket: Ticket, failed: bool, product: Product = Product.VIDEO) -> dict[str, Any]:
        response = await self._ask("GET", self._addressed(ticket).response_url, "result")
        body = answers.read(response.content)
        if response.is_success:
            delivered: dict[str, Any] = answers.delivered(body, shown(response), failed, product)
            return delivered
        failure = answers.failure(response.status_code, body, response.headers, detail(response), failed)
        raise failure or _poll_error(response)

    async def cancel(self, ticket: Ticket) -> None:
        response = await self._ask("PUT", self._addressed(ticket).cancel_url, "answer")
        if not response.is_success and response.status_code not in (400, 404):
            raise _poll_error(response)

    async def history(self, endpoint: str, start: datetime) -> AsyncIterator[PastRequest]:
        params = {
            "endpoint_id": endpoint,
            "start": start.astimezone(UTC).isoformat(),
            "limit": PAGE,
            "expand": "payloads",
        }
        for _ in range(MAX_PAGES):
            response = await self._ask("GET", f"{API}/requests/by-endpoint", "history", **params)
            if not response.is_success:
                raise _poll_error(response)
            items, cursor = answers.page(answers.read(response.content))
            for item in items:
                yield item
            if cursor is None:
                return
            params["cursor"] = cursor
        raise PollError(f"fal's history does not end after {MAX_PAGES} pages")

    async def upload(self, content: bytes, kind: str, file_name: str) -> str:
        try:
            return answers.address(await fal_client_private.upload(self._uploads, content, kind, file_name))
        except Exception as error:
            raise not_uploaded(error) from None

    async def download(self, url: str, path: Path) -> None:
        async with self._downloading:
            await download(self._files, url, path, self.max_bytes)

    async def close(self) -> None:
        if self._webhooks:
            await self._webhooks.close()
        await self._http.aclose()
        await self._streams.aclose()
        await self._files.aclose()
        await self._uploads.aclose()

    async def _keys(self) -> bytes:
        response = await self._ask("GET", KEYS, "keys")
        if not response.is_success:
            raise _poll_error(response)
        return response.content

    async def _ask(self, method: str, url: str, what: str, **params: Any) -> httpx.Response:
        """Return the answer to a question that costs nothing; raise PollError where there is none."""
        asked = httpx.URL(url).copy_merge_params(params)
        try:
            return await self._http.request(method, asked, follow_redirects=method == "GET")
        except httpx.HTTPError as error:
            raise PollError(f"fal gives no {what}: {reason(error)}") from None

    def _addressed(self, ticket: Ticket) -> Ticket:
        """Return a ticket with addresses of fal's own or the server's, made of its id where others were given."""
        made = AsyncRequestHandle.from_request_id(
            self._http, ticket.endpoint, answers.in_path(ticket.request_id)
        )
        foreign = [
            name for name in fal_client_private.ADDRESSES if not self._route.is_own(getattr(ticket, name))
        ]
        return replace(ticket, **{name: getattr(made, name) for name in foreign})


def _authorize(header: str, request: httpx.Request) -> httpx.Request:
    request.headers["Authorization"] = header
    return request


async def _lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """Yield the lines of a stream; raise PollError where one does not end."""
    rest = b""
    async for chunk in response.aiter_raw():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
        if len(rest) > LINE_BYTES:
            raise PollError("fal's status stream has a line without end")


def _asked(response: httpx.Response) -> Any:
    """Return what a successful answer says; raise PollError or LockedAccountError of any other."""
    if not response.is_success:
        raise _poll_error(response)
    return answers.read(response.content)


def _tags(request: GenerationRequest, sweep: str) -> str:
    """Return what a submission is found by in fal's bills; fal drops pairs with other characters in silence."""
    return f"sweep={re.sub(r'[^A-Za-z0-9._-]', '_', sweep)[:TAG_LENGTH]},key={request.key}"


def _poll_error(response: httpx.Response) -> Exception:
    status, said = response.status_code, detail(response)
    if status in (401, 403):
        return LockedAccountError(f"fal refuses the account ({status}): {said}")
    if status in (404, 410):
        return LostResultError(f"fal does not know the request ({status}): {said}")
    return PollError(f"fal answered {status}: {said}")
