"""Fetching a file over HTTP: streamed to disk, resumed where it broke off, never made of two versions."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import httpx

from kling_sweeps.errors import DownloadError
from kling_sweeps.providers.content_coding import CODINGS, decode
from kling_sweeps.untrusted import clean

MAX_REDIRECTS = 5
# The type of the error that a file has which is not there: not yet, or for good.
EXPIRED = "file_expired"
# The type of the error of a file that is there and has nothing in it.
EMPTY = "file_empty"
TRUSTED = (".fal.media", ".fal.ai", ".fal.run")
# Of 4xx, those that say nothing of the file.
NOT_NOW = (408, 425, 429)
ANSWER_S = 60.0
# A download of which less comes in so many seconds is broken off.
LEAST_BYTES, LEAST_S = 30_000, 30.0
# So much of what is here is fetched again, to see that the rest belongs to it.
OVERLAP = 64


async def download(client: httpx.AsyncClient, url: str, path: Path, max_bytes: int) -> None:
    """Fetch `url` into `path` in one try, going on after what an earlier try has left there.

    Raises DownloadError: final where the file is too large or leads to a host that neither serves it nor
    is fal's, of the type EXPIRED or EMPTY where nothing is there (yet), and else where it broke off.
    """
    part = _Part(path)
    try:
        async with asyncio.timeout(ANSWER_S):
            response = await _open(client, url, part.headers())
        try:
            await _take(response, part, max_bytes)
        finally:
            await response.aclose()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DownloadError(f"the video broke off: {type(error).__name__} {clean(error)}".strip()) from None
    except TimeoutError:
        raise DownloadError(
            f"the video broke off: fewer than {LEAST_BYTES:,} bytes came in {LEAST_S:g} s"
        ) from None
    if not path.stat().st_size:
        raise DownloadError("the video is empty: 0 bytes", error_type=EMPTY)


class _Part:
    """What is here of a file, and in `<path>.version` which version of it the server said that is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.note = path.with_name(f"{path.name}.version")
        self.first = max(0, path.stat().st_size - OVERLAP) if path.exists() else 0
        self.version = self.note.read_text(encoding="utf-8") if self.first and self.note.exists() else ""

    def headers(self) -> dict[str, str]:
        """Return what asks for the rest, or for all where little or nothing is here."""
        asked = {"Accept-Encoding": "identity"}
        if self.first:
            asked["Range"] = f"bytes={self.first}-"
            if self.version and not self.version.startswith("W/"):
                asked["If-Range"] = self.version
        return asked

    def begin(self, version: str) -> None:
        """Begin the file anew."""
        self.path.write_bytes(b"")
        self.note.write_text(version, encoding="utf-8")
        self.first = 0

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


async def _open(client: httpx.AsyncClient, url: str, headers: dict[str, str]) -> httpx.Response:
    """Return the streaming response, after redirects that stay with the file's host or fal's."""
    host = httpx.URL(url).host
    for _ in range(MAX_REDIRECTS):
        if httpx.URL(url).scheme not in ("http", "https"):
            raise DownloadError(f"the video's address is not one of HTTP: {clean(url, 80)}", is_final=True)
        response = await client.send(client.build_request("GET", url, headers=headers), stream=True)
        following = response.next_request
        if following is None:
            return response
        await response.aclose()
        target = following.url
        if target.host != host and not target.host.endswith(TRUSTED):
            raise DownloadError(
                f"the video's address leads to {clean(target.host)}, which is not fal's", is_final=True
            )
        url = str(target)
    raise DownloadError(f"the video's address was redirected {MAX_REDIRECTS} times", is_final=True)


async def _take(response: httpx.Response, part: _Part, max_bytes: int) -> None:
    """Write an answer's body to where it belongs in the file."""
    _check(response, part)
    given = response.headers.get("Content-Encoding", "").lower()
    # An unknown word is no coding of HTTP's: whether its bytes are a video is seen when they are decoded.
    codings = [coding for name in given.split(",") if (coding := name.strip()) in CODINGS]
    is_rest = response.status_code == 206
    if is_rest and (codings or not _is_asked_for(response, part)):
        part.discard()
        raise DownloadError("the video broke off: what came is not the range that was asked for")
    if not is_rest:
        part.begin(_version(response))
    total = _total(response, part.first)
    if total is not None and total > max_bytes:
        raise DownloadError(
            f"the video has {total:,} bytes; provider.max_video_mb allows fewer", is_final=True
        )
    try:
        await _stream(response, part, max_bytes)
    except BaseException:
        if codings:
            part.discard()
        raise
    size = part.path.stat().st_size
    if total is not None and size != total:
        if size > total:
            part.discard()
        raise DownloadError(f"the video broke off: {size:,} of {total:,} bytes came")
    part.note.unlink(missing_ok=True)
    if codings:
        await asyncio.to_thread(decode, part.path, codings, max_bytes)


def _check(response: httpx.Response, part: _Part) -> None:
    status = response.status_code
    if status == 416:
        part.discard()
        raise DownloadError("the video broke off: what was here is no part of the file")
    if 400 <= status < 500 and status not in NOT_NOW:
        raise DownloadError(f"there is no video at its address ({status})", error_type=EXPIRED)
    if status >= 300:
        raise DownloadError(f"the video broke off: its address answered {status}")


async def _stream(response: httpx.Response, part: _Part, max_bytes: int) -> None:
    """Append a body to the file; raise TimeoutError where it comes too slowly."""
    now = asyncio.get_running_loop().time
    with open(part.path, "r+b") as file:
        file.seek(part.first)
        here, came = file.read(), 0
        file.seek(part.first)
        async with asyncio.timeout(LEAST_S) as limit:
            async for chunk in response.aiter_raw():
                expected, here = here[: len(chunk)], here[len(chunk) :]
                if not chunk.startswith(expected):
                    part.discard()
                    raise DownloadError("the video broke off: it has changed since it was begun")
                file.write(chunk)
                if file.tell() > max_bytes:
                    why = "the video does not end; provider.max_video_mb is reached"
                    raise DownloadError(why, is_final=True)
                came += len(chunk)
                if came >= LEAST_BYTES:
                    limit.reschedule(now() + LEAST_S)
                    came = 0


def _is_asked_for(response: httpx.Response, part: _Part) -> bool:
    """Tell whether a 206 is one range, the one that was asked for, of the version that is here."""
    given = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    versions = {_version(response).removeprefix("W/"), part.version.removeprefix("W/")} - {""}
    return given is not None and int(given[1]) == part.first and len(versions) < 2


def _version(response: httpx.Response) -> str:
    return response.headers.get("ETag") or response.headers.get("Last-Modified") or ""


def _total(response: httpx.Response, first: int) -> int | None:
    """Return how many bytes the file has on its way, None where the server does not say."""
    of = response.headers.get("Content-Range", "").rpartition("/")[2]
    length = response.headers.get("Content-Length", "")
    if response.status_code == 206 and of.isdecimal():
        return int(of)
    return first + int(length) if length.isdecimal() else None
