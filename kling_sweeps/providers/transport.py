"""What lies under fal-client: one server in place of fal's hosts, and one POST for each submission."""

from __future__ import annotations

import os

import httpx

from kling_sweeps.errors import (
    CredentialsError,
    LockedAccountError,
    NeverSentError,
    RateLimitedError,
    RejectedError,
    UnknownError,
)

# fal-client falls back to the second pair where the first can't be connected to.
FAL_HOSTS = {"fal.run", "queue.fal.run", "falrun.com", "queue.falrun.com", "api.fal.ai"}
FAL_HOSTS |= {os.environ[name] for name in ("FAL_RUN_HOST", "FAL_QUEUE_RUN_HOST") if name in os.environ}

# Without a connection there was no request.
NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)
# These may come from something on the way after the request went through.
AMBIGUOUS_4XX = {408, 409, 425}


class Route(httpx.AsyncBaseTransport):
    """Sends what is for fal's hosts to one server, the Host header kept; the key goes nowhere else."""

    def __init__(self, base_url: str | None, inner: httpx.AsyncBaseTransport) -> None:
        self.base = httpx.URL(base_url) if base_url else None
        self.inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.host in FAL_HOSTS:
            if self.base:
                request.url = request.url.copy_with(
                    scheme=self.base.scheme, host=self.base.host, port=self.base.port
                )
        elif not self.base or _origin(request.url) != _origin(self.base):
            request.headers.pop("Authorization", None)
        return await self.inner.handle_async_request(request)

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
            raise NeverSentError(f"no connection to {request.url.host}: {_reason(error)}") from None
        except httpx.HTTPError as error:
            raise UnknownError(f"the answer to the submission was lost: {_reason(error)}") from None
        return _accepted(request, response)

    async def aclose(self) -> None:
        await self.inner.aclose()


def _accepted(request: httpx.Request, response: httpx.Response) -> httpx.Response:
    """Return the answer of an accepted submission, completed to all that fal-client reads of it."""
    if not response.is_success:
        raise _refusal(response)
    body = _json(response)
    request_id = body.get("request_id") or response.headers.get("x-fal-request-id")
    if not request_id:
        raise UnknownError(
            f"the submission was answered {response.status_code} without a request id"
        )
    owner, app = request.url.path.strip("/").split("/")[:2]
    url = f"https://queue.fal.run/{owner}/{app}/requests/{request_id}"
    urls = {"status_url": f"{url}/status", "response_url": url, "cancel_url": f"{url}/cancel"}
    answer = {**urls, **{k: v for k, v in body.items() if v}, "request_id": str(request_id)}
    return httpx.Response(200, json=answer, request=request)


def _refusal(response: httpx.Response) -> Exception:
    """Return what an unsuccessful answer to a submission means; in doubt it was bought."""
    status, said = response.status_code, detail(response)
    if status == 401:
        return CredentialsError(f"fal does not accept the key (401): {said}")
    if status == 403:
        return LockedAccountError(f"fal refuses the account (403): {said}", may_have_cost=False)
    if status == 429:
        return RateLimitedError(f"fal asks to slow down (429): {said}", retry_after_s=_retry_after(response))
    if 400 <= status < 500 and status not in AMBIGUOUS_4XX:
        return RejectedError(f"fal rejected the submission ({status}): {said}")
    return UnknownError(f"the submission was answered {status}: {said}")


def detail(response: httpx.Response) -> str:
    """Return what an error answer says, on one line of at most 300 characters."""
    said = _json(response).get("detail") or response.text
    if isinstance(said, list):
        said = "; ".join(str(part.get("msg", part) if isinstance(part, dict) else part) for part in said)
    return " ".join(str(said).split())[:300] or response.reason_phrase


def _json(response: httpx.Response) -> dict:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _retry_after(response: httpx.Response) -> float | None:
    try:
        return max(0.0, float(response.headers["Retry-After"]))
    except (KeyError, ValueError):
        return None


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    host = "loopback" if url.host in ("localhost", "127.0.0.1", "::1") else url.host
    return url.scheme, host, url.port


def _reason(error: Exception) -> str:
    return f"{type(error).__name__} {error}".strip()
