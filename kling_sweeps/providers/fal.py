"""fal, through fal-client: submit, status, result and cancel by its handles, history by fal's own API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from fal_client import AsyncClient, AsyncRequestHandle, Completed, InProgress, Queued
from fal_client.auth import AuthCredentials, MissingCredentialsError, fetch_auth_credentials
from fal_client.client import AsyncBackupDomainTransport, FalClientHTTPError

from kling_sweeps.download import download
from kling_sweeps.errors import (
    CredentialsError,
    GenerationError,
    LockedAccountError,
    LostResultError,
    PollError,
    UnavailableError,
)
from kling_sweeps.journal import Ticket
from kling_sweeps.provider import CANCELLED, PastRequest, Status
from kling_sweeps.providers.transport import Route, SubmitOnce, detail
from kling_sweeps.request import GenerationRequest

API = "https://api.fal.ai/v1/models"
# An experiment wants the endpoint it names, never one that fal takes for its equal.
SUBMIT_HEADERS = {"x-app-fal-disable-fallback": "true"}
# What an emulator is shown, which takes any key.
NO_CREDENTIALS = AuthCredentials("Key", "none")
ANSWER_TIMEOUT_S = 60.0
PAGE = 100
LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20)


def find_credentials() -> AuthCredentials | None:
    """Return what fal-client authorizes with, None where there is nothing; raise CredentialsError."""
    try:
        found = fetch_auth_credentials()
    except MissingCredentialsError:
        return None
    except httpx.HTTPError as error:
        raise CredentialsError(
            f"the fal login could not be renewed ({type(error).__name__}); set FAL_KEY"
        ) from None
    if not found.token.isascii() or not found.token.isprintable() or " " in found.token:
        raise CredentialsError(
            "FAL_KEY has white space or characters that no key has; copy it again from fal"
        )
    return found


class _Client(AsyncClient):
    """fal-client on an HTTP client of ours."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        super().__init__()
        self._http = http

    @property
    async def _client(self) -> httpx.AsyncClient:
        return self._http


class FalProvider:
    """fal's queue, or a server at `base_url` that speaks its protocol."""

    def __init__(
        self, auth: AuthCredentials, base_url: str | None, *, max_bytes: int, forgets: bool = False
    ) -> None:
        self.forgets = forgets
        self.base_url = base_url
        self.max_bytes = max_bytes
        self._http = _http(auth, base_url, ANSWER_TIMEOUT_S)
        # Each stream holds a connection, so that they have their own; one may be silent for long.
        self._streams = _http(auth, base_url, None)
        self._files = httpx.AsyncClient(timeout=ANSWER_TIMEOUT_S, limits=LIMITS)
        self._fal = _Client(self._http)

    async def check(self, endpoint: str) -> None:
        """Ask fal's API about an endpoint; raise CredentialsError or UnavailableError."""
        where = self.base_url or API
        try:
            response = await self._http.get(f"{API}/pricing", params={"endpoint_id": endpoint})
        except httpx.HTTPError as error:
            raise UnavailableError(
                f"nothing answers at {where} ({type(error).__name__}); "
                "check provider.base_url and the network"
            ) from None
        if response.status_code == 401:
            raise CredentialsError(f"fal does not accept the key (401): {detail(response)}")

    async def submit(self, request: GenerationRequest) -> Ticket:
        handle = await self._fal.submit(
            request.endpoint, dict(request.arguments), headers=SUBMIT_HEADERS
        )
        urls = (handle.status_url, handle.response_url, handle.cancel_url)
        return Ticket(request.endpoint, handle.request_id, *urls)

    async def status(self, ticket: Ticket) -> Status:
        try:
            handle = await self._handle(ticket)
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return _status(await handle.status(with_logs=True))
        except FalClientHTTPError as error:
            raise _poll_error(error.response) from None
        except (TimeoutError, httpx.HTTPError, LookupError, TypeError, ValueError) as error:
            raise PollError(f"fal gives no status: {type(error).__name__} {error}") from None

    async def watch(self, ticket: Ticket) -> AsyncIterator[Status]:
        handle = await self._handle(ticket)
        try:
            async with self._streams.stream("GET", f"{handle.status_url}/stream", params={"logs": 1}) as told:
                kind = told.headers.get("Content-Type", "")
                if not told.is_success or not kind.startswith("text/event-stream"):
                    raise PollError(f"fal has no status stream: {told.status_code} {kind}")
                async for line in told.aiter_lines():
                    if line.startswith("data:"):
                        yield _status(handle._parse_status(json.loads(line.removeprefix("data:"))))
        except (httpx.HTTPError, LookupError, TypeError, ValueError) as error:
            raise PollError(f"fal's status stream broke off: {type(error).__name__} {error}") from None

    async def result(self, ticket: Ticket, failed: bool) -> dict[str, Any]:
        handle = await self._handle(ticket)
        try:
            response = await self._http.get(handle.response_url)
        except httpx.HTTPError as error:
            raise PollError(f"fal gives no result: {type(error).__name__} {error}") from None
        if not response.is_success:
            raise _result_error(response, failed)
        return _body(response)

    async def cancel(self, ticket: Ticket) -> None:
        try:
            await (await self._handle(ticket)).cancel()
        except FalClientHTTPError as error:
            if error.status_code not in (400, 404):
                raise _poll_error(error.response) from None
        except httpx.HTTPError as error:
            raise PollError(f"fal does not answer: {type(error).__name__}") from None

    async def history(self, endpoint: str, start: datetime) -> AsyncIterator[PastRequest]:
        params = {
            "endpoint_id": endpoint,
            "start": start.astimezone(UTC).isoformat(),
            "limit": PAGE,
            "expand": "payloads",
        }
        while True:
            page = await self._history_page(params)
            for item in page.get("items") or ():
                yield _past(item)
            if not page.get("has_more") or not page.get("next_cursor"):
                return
            params["cursor"] = page["next_cursor"]

    async def _history_page(self, params: dict[str, Any]) -> dict[str, Any]:
        try:
            response = await self._http.get(f"{API}/requests/by-endpoint", params=params)
            if response.is_success:
                return response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise PollError(f"fal's history does not answer: {type(error).__name__}") from None
        raise _poll_error(response)

    async def download(self, url: str, path: Path) -> None:
        await download(self._files, url, path, self.max_bytes)

    async def close(self) -> None:
        await self._http.aclose()
        await self._streams.aclose()
        await self._files.aclose()

    async def _handle(self, ticket: Ticket) -> AsyncRequestHandle:
        if not ticket.status_url:
            return await self._fal.get_handle(ticket.endpoint, ticket.request_id)
        return AsyncRequestHandle(
            request_id=ticket.request_id,
            response_url=ticket.response_url,
            status_url=ticket.status_url,
            cancel_url=ticket.cancel_url,
            client=self._http,
        )


def _http(auth: AuthCredentials, base_url: str | None, timeout_s: float | None) -> httpx.AsyncClient:
    inner = httpx.AsyncHTTPTransport(limits=LIMITS) if base_url else AsyncBackupDomainTransport()
    timeout = httpx.Timeout(timeout_s, connect=ANSWER_TIMEOUT_S, pool=ANSWER_TIMEOUT_S)
    return httpx.AsyncClient(
        transport=SubmitOnce(Route(base_url, inner)), headers=auth.as_headers(), timeout=timeout
    )


def _status(said: Queued | InProgress | Completed) -> Status:
    if isinstance(said, Queued):
        return Status("IN_QUEUE", queue_position=said.position)
    logs = said.logs or []
    log = str(logs[-1].get("message", "")) if logs else ""
    if isinstance(said, InProgress):
        return Status("IN_PROGRESS", log=log)
    inference_s = (said.metrics or {}).get("inference_time")
    failed = bool(said.error or said.error_type)
    return Status("COMPLETED", inference_s=inference_s, failed=failed, log=log)


def _poll_error(response: httpx.Response) -> Exception:
    status, said = response.status_code, detail(response)
    if status in (401, 403):
        return LockedAccountError(f"fal refuses the account ({status}): {said}")
    if status in (404, 410):
        return LostResultError(f"fal does not know the request ({status}): {said}")
    return PollError(f"fal answered {status}: {said}")


def _result_error(response: httpx.Response, failed: bool) -> Exception:
    """Return a GenerationError where the request certainly failed, else an error that asks again.

    Certain is what the status said (`failed`), what the model says itself (a list of typed details),
    and a 422. Anything else may be the queue's own trouble with a video that is there and paid for.
    """
    status, body = response.status_code, _body(response)
    error_type = body.get("error_type") or response.headers.get("X-Fal-Error-Type")
    said = body.get("detail")
    by_model = isinstance(said, list) and bool(said) and isinstance(said[0], dict)
    if by_model:
        error_type = said[0].get("type") or error_type
    if by_model or status == 422 or failed and error_type:
        charged = status < 500 and error_type != CANCELLED
        return GenerationError(
            f"{detail(response)} ({status})",
            error_type=str(error_type or "unprocessable"),
            may_have_cost=charged,
        )
    return _poll_error(response)


def _body(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _past(item: dict[str, Any]) -> PastRequest:
    sent = item.get("sent_at")
    try:
        sent_at = datetime.fromisoformat(str(sent).replace("Z", "+00:00"))
    except ValueError:
        sent_at = None
    if sent_at is not None and sent_at.tzinfo is None:
        sent_at = sent_at.replace(tzinfo=UTC)
    return PastRequest(str(item.get("request_id")), sent_at, item.get("json_input"), item.get("json_output"))
