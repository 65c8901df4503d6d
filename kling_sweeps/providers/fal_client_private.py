"""The parts of fal-client that it does not document, and what stands in for those that are gone or changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
from fal_client import AsyncClient
from fal_client.auth import FAL_QUEUE_RUN_HOST

INITIATE = "https://rest.fal.ai/storage/upload/initiate?storage_type=gcs"
ADDRESSES = ("status_url", "response_url", "cancel_url")


class _Client(AsyncClient):
    """fal-client on an HTTP client of ours; on one of its own it has no key, and can buy nothing."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        super().__init__(key="none")
        self._http = http
        self.is_on_ours = False

    @property
    async def _client(self) -> httpx.AsyncClient:
        self.is_on_ours = True
        return self._http


async def submit(
    http: httpx.AsyncClient,
    endpoint: str,
    arguments: Mapping[str, Any],
    headers: Mapping[str, str],
    webhook_url: str | None = None,
) -> dict[str, Any]:
    """Submit a request, whose end fal tells at `webhook_url`; return its `request_id` and addresses. Raises what the client's transport raises.

    A fal-client that does not take an HTTP client any more is left aside, and the submission posted without it.
    """
    client = _Client(http)
    try:
        handle = await client.submit(
            endpoint, dict(arguments), headers=dict(headers), webhook_url=webhook_url
        )
        if client.is_on_ours:
            return {name: getattr(handle, name) for name in ("request_id", *ADDRESSES)}
    except Exception:
        if client.is_on_ours:
            raise
    url = f"https://{FAL_QUEUE_RUN_HOST}/{endpoint}"
    params = {"fal_webhook": webhook_url} if webhook_url else None
    response = await http.post(url, params=params, json=dict(arguments), headers=dict(headers))
    accepted: dict[str, Any] = response.json()
    return accepted


async def upload(http: httpx.AsyncClient, content: bytes, kind: str, file_name: str) -> str:
    """Upload a file of a media type to fal's storage; return its address. Raises whatever went wrong.

    Of fal-client's two ways it is the one that uses no HTTP client but ours.
    """
    client = _Client(http)
    try:
        address = await client.upload(content, kind, file_name, repository="fal", fallback_repository=[])
        if client.is_on_ours:
            return address
    except Exception:
        if client.is_on_ours:
            raise
    begun = await http.post(INITIATE, json={"file_name": file_name, "content_type": kind})
    told = begun.raise_for_status().json()
    put = await http.put(told["upload_url"], content=content, headers={"Content-Type": kind})
    put.raise_for_status()
    return str(told["file_url"])


class _ByEnvironment(httpx.AsyncBaseTransport):
    """Reaches every host by the proxy that the environment names for it."""

    def __init__(self) -> None:
        self._client = httpx.AsyncClient(follow_redirects=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._client.send(request, stream=True)

    async def aclose(self) -> None:
        await self._client.aclose()


def outside() -> httpx.AsyncBaseTransport:
    """Return what reaches fal's hosts, and their backups where fal-client has those, by the environment's proxies."""
    try:
        from fal_client.client import AsyncBackupDomainTransport as ByEnvironment
    except ImportError:
        return _ByEnvironment()
    return ByEnvironment()
