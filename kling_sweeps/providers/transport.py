"""What lies under fal-client: one server in place of fal's hosts, and one POST for each submission."""

from __future__ import annotations

import re
from typing import Any

import httpx
from fal_client.auth import FAL_QUEUE_RUN_HOST, FAL_RUN_HOST

from kling_sweeps.errors import (
    CredentialsError,
    LockedAccountError,
    NeverSentError,
    RateLimitedError,
    RejectedError,
    UnknownError,
)
from kling_sweeps.providers import answers
from kling_sweeps.untrusted import clean

# fal-client falls back to the second pair where the first can't be connected to; the third is the user's word.
FAL_HOSTS = {"fal.run", "queue.fal.run", "falrun.com", "queue.falrun.com", FAL_RUN_HOST, FAL_QUEUE_RUN_HOST}
FAL_HOSTS |= {"api.fal.ai", "rest.fal.ai"}

# Tells the server in place of fal's hosts, whose Host header is fal's, where its files are to be found.
BASE_URL_HEADER = "x-kling-sweeps-base-url"

# Without a connection there was no request; a proxy's error is one of connecting.
NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)
# These may come from something on the way after the request went through.
AMBIGUOUS_4XX = {408, 409, 425}
# What a refusal says that ends when somebody pays; any other will be repeated for ever.
LOCK = re.compile(
    r"\b(locked|balance|exhausted|top.?up|billing|payment|credits?|overdue|suspended|funds)\b", re.I
)


class Route(httpx.AsyncBaseTransport):
    """Sends what is for fal's hosts to one server, the Host header kept; the key goes nowhere else."""

    def __init__(self, base_url: str | None, inner: httpx.AsyncBaseTransport) -> None:
        self.base = httpx.URL(base_url) if base_url else None
        self.inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.base and _is_fals(request.url):
            request.url = request.url.copy_with(
                scheme=self.base.scheme, host=self.base.host, port=self.base.port
            )
            request.headers[BASE_URL_HEADER] = str(self.base)
        elif not self.may_have_key(request.url):
            request.headers.pop("Authorization", None)
        return await self.inner.handle_async_request(request)

    def may_have_key(self, url: httpx.URL) -> bool:
        """Tell whether an address is one of fal's own, or of the server in its place."""
        return _is_fals(url) or (self.base is not None and _origin(url) == _origin(self.base))

    def is_own(self, address: object) -> bool:
        """Tell whether a server's answer may name this as the address of a request."""
        try:
            return isinstance(address, str) and self.may_have_key(httpx.URL(address))
        except (httpx.InvalidURL, ValueError):
            return False

    async def aclose(self) -> None:
        await self.inner.aclose()


class SubmitOnce(httpx.AsyncBaseTransport):
    """Turns each outcome of a submission but acceptance into an exception that fal-client lets pass.

    fal-client sends a submission again after most failures, and each of them may be paid for.
    Every POST of the client is a submission.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self.inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method != "POST":
            return await self.inner.handle_async_request(request)
        try:
            response = await self.inner.handle_async_request(request)
            await response.aread()
        except NEVER_SENT as error:
            raise NeverSentError(f"no connection to {request.url.host}: {reason(error)}") from None
        except httpx.HTTPError as error:
            raise UnknownError(f"the answer to the submission was lost: {reason(error)}") from None
        return _accepted(request, response)

    async def aclose(self) -> None:
        await self.inner.aclose()


def _accepted(request: httpx.Request, response: httpx.Response) -> httpx.Response:
    """Return the answer of an accepted submission, with all that fal-client reads of it and nothing else."""
    if not response.is_success:
        raise _refusal(response)
    body = answers.read(response.content)
    request_id = answers.request_id(body, response.headers)
    if not request_id:
        raise UnknownError(
            f"the submission was answered {response.status_code} without a request id: {detail(response)}"
        )
    names = ("status_url", "response_url", "cancel_url")
    addresses = {name: answers.text(answers.fields(body).get(name)) for name in names}
    return httpx.Response(200, json={"request_id": request_id, **addresses}, request=request)


def _refusal(response: httpx.Response) -> Exception:
    """Return what an unsuccessful answer to a submission means; in doubt it was bought."""
    status, said = response.status_code, detail(response)
    if status == 401:
        return CredentialsError(f"fal does not accept the key (401): {said}")
    if status in (402, 403) and LOCK.search(said):
        return LockedAccountError(f"fal refuses the account ({status}): {said}", may_have_cost=False)
    if status == 403:
        return RejectedError(f"fal refuses what the key asks for (403): {said}", error_type="forbidden")
    if status == 429:
        return RateLimitedError(f"fal asks to slow down (429): {said}", retry_after_s=_retry_after(response))
    if 400 <= status < 500 and status not in AMBIGUOUS_4XX:
        return RejectedError(f"fal rejected the submission ({status}): {said}")
    return UnknownError(f"the submission was answered {status}: {said}")


def not_uploaded(error: Exception) -> Exception:
    """Return what a failed upload means, which is never that something was bought."""
    response = getattr(error, "response", None)
    refusal = _refusal(response) if isinstance(response, httpx.Response) else error
    if isinstance(refusal, UnknownError) or refusal is error:
        return NeverSentError(f"a picture could not be uploaded: {reason(refusal)}")
    return refusal


def detail(response: httpx.Response) -> str:
    """Return what an error answer says, on one line of at most 300 characters."""
    return answers.said(answers.read(response.content), shown(response)) or response.reason_phrase


def shown(response: httpx.Response) -> str:
    """Return the beginning of an answer's body as text, whatever it is."""
    return clean(response.content[:10_000].decode(errors="replace"))


def reason(error: Exception) -> str:
    """Return an error of HTTP by its type and its words, some of which may be a server's."""
    return clean(f"{type(error).__name__} {error}")


def _retry_after(response: httpx.Response) -> float | None:
    return answers.seconds(response.headers.get("Retry-After"))


def _is_fals(url: httpx.URL) -> bool:
    """Tell whether an address is https on one of fal's hosts and its default port, for nobody by name."""
    return url.scheme == "https" and url.netloc.decode() in FAL_HOSTS and not url.userinfo


def _origin(url: httpx.URL) -> tuple[Any, ...]:
    host = "loopback" if url.host in ("localhost", "127.0.0.1", "::1") else url.host
    return url.scheme, host, url.port, url.userinfo
