"""Fetching a file over HTTP: streamed to disk, resumed where it broke off, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import httpx
import stamina

from kling_sweeps.errors import DownloadError

ATTEMPTS = 5
MAX_REDIRECTS = 5
# The type of the error that a file has which is gone for good.
EXPIRED = "file_expired"
# The type of the error of a file that is there and has nothing in it.
EMPTY = "file_empty"
TRUSTED = (".fal.media", ".fal.ai", ".fal.run")


class _Interrupted(Exception):
    """A download stopped early; the next attempt goes on from there."""


async def download(client: httpx.AsyncClient, url: str, path: Path, max_bytes: int) -> None:
    """Fetch `url` into `path`, going on after what `path` already holds.

    Raises DownloadError where the file is gone, too large, of a wrong type, redirected to a host
    that neither serves the file nor is fal's, or still incomplete after five attempts.
    """
    if httpx.URL(url).scheme not in ("http", "https"):
        raise DownloadError(f"the video's address is not one of HTTP: {url[:80]}")
    retried = (_Interrupted, httpx.TransportError)
    try:
        async for attempt in stamina.retry_context(on=retried, attempts=ATTEMPTS, timeout=None, wait_max=5):
            with attempt:
                await _attempt(client, url, path, max_bytes)
    except retried as error:
        raise DownloadError(
            f"the video broke off {ATTEMPTS} times: {type(error).__name__} {error}"
        ) from None


async def _attempt(client: httpx.AsyncClient, url: str, path: Path, max_bytes: int) -> None:
    have = path.stat().st_size if path.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    response = await _open(client, url, headers)
    try:
        if response.status_code == 416:
            path.unlink()
            raise _Interrupted("the part that was here is no part of the file")
        _check(response, max_bytes)
        resumed = response.status_code == 206 and _starts_at(response, have)
        total = _length(response, have if resumed else 0)
        if total is not None and total > max_bytes:
            raise DownloadError(f"the video has {total:,} bytes; provider.max_video_mb allows fewer")
        await _stream(response, path, have if resumed else 0, max_bytes)
    finally:
        await response.aclose()
    size = path.stat().st_size
    if size == 0:
        raise DownloadError("the video is empty: 0 bytes", error_type=EMPTY)
    if total is not None and size != total:
        raise _Interrupted(f"{size:,} of {total:,} bytes came")


async def _open(client: httpx.AsyncClient, url: str, headers: dict[str, str]) -> httpx.Response:
    """Return the streaming response, after redirects that stay with the file's host or fal's."""
    host = httpx.URL(url).host
    for _ in range(MAX_REDIRECTS):
        response = await client.send(client.build_request("GET", url, headers=headers), stream=True)
        if not response.has_redirect_location:
            return response
        await response.aclose()
        target = response.next_request.url
        if target.host != host and not target.host.endswith(TRUSTED):
            raise DownloadError(f"the video's address leads to {target.host}, which is not fal's")
        url = str(target)
    raise DownloadError(f"the video's address was redirected {MAX_REDIRECTS} times")


def _check(response: httpx.Response, max_bytes: int) -> None:
    status, kind = response.status_code, response.headers.get("Content-Type", "")
    if status in (403, 404, 410):
        raise DownloadError(f"the video is gone from fal ({status})", error_type=EXPIRED)
    if status >= 400:
        raise _Interrupted(f"answered {status}")
    if kind.startswith(("text/", "application/json")):
        raise DownloadError(f"the video's address answers with {kind}, not with a video")


async def _stream(response: httpx.Response, path: Path, have: int, max_bytes: int) -> None:
    with open(path, "r+b" if have else "wb") as file:
        file.seek(have)
        file.truncate()
        async for chunk in response.aiter_raw():
            file.write(chunk)
            if file.tell() > max_bytes:
                raise DownloadError("the video does not end; provider.max_video_mb is reached")


def _starts_at(response: httpx.Response, have: int) -> bool:
    return response.headers.get("Content-Range", "").startswith(f"bytes {have}-")


def _length(response: httpx.Response, have: int) -> int | None:
    length = response.headers.get("Content-Length", "")
    return have + int(length) if length.isdigit() else None
