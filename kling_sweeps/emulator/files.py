"""The videos' files, whole or in ranges, or as faults would have them."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.types import Receive, Scope, Send

from .connection import close, transport_of
from .fault_kinds import ANSWERS
from .faults import Fault
from .state import Emulator
from .submission import Submission

CHUNK = 64 * 1024
VIDEO = "video/mp4"


async def file(emulator: Emulator, request: Request) -> Response:
    """Answer with a video; nobody has to be authorized."""
    emulator.counters["file_downloads"] += 1
    name = request.path_params["name"]
    path = emulator.queue.folder / name
    if "/" in name or not name.endswith(".mp4") or not path.exists():
        return JSONResponse({"detail": "File not found"}, 404)
    submission = emulator.queue.find(name.removesuffix("_output.mp4"))
    fault = emulator.fault("file", submission)
    if fault is None or (fault.name == "late" and _age_s(submission) >= fault.options["seconds"]):
        return FileResponse(path, media_type=VIDEO)
    if fault.name in BROKEN:
        return await BROKEN[fault.name](path, fault)
    return ANSWERS[fault.name](fault.options)


def _age_s(submission: Submission | None) -> float:
    """Return for how long a request has been over; an unknown one has been for ever."""
    return time.time() - ((submission and submission.ended_at) or 0.0)


class _Truncated(Response):
    """Promise a whole file and hang up after a share of it; ranges are honoured if `resumable`."""

    def __init__(self, path: Path, share: float, resumable: bool) -> None:
        super().__init__(media_type=VIDEO)
        self._content = path.read_bytes()
        self._share, self._resumable = share, resumable

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        first = _first(Request(scope), len(self._content)) if self._resumable else 0
        rest = self._content[first:]
        headers = {"content-type": VIDEO, "content-length": str(len(rest))}
        if self._resumable:
            headers["accept-ranges"] = "bytes"
        if first:
            headers["content-range"] = f"bytes {first}-{len(self._content) - 1}/{len(self._content)}"
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 206 if first else 200, "headers": raw})
        part = rest[: int(len(rest) * self._share)]
        await send({"type": "http.response.body", "body": part, "more_body": True})
        close(transport_of(scope))


def _first(request: Request, length: int) -> int:
    """Return the first byte that is asked for, of a file of some length."""
    given = request.headers.get("range", "bytes=0-").removeprefix("bytes=").split("-")[0]
    return min(int(given), length - 1) if given.isdecimal() else 0


class _Drip(Response):
    """Send one byte after the other, so many a second; ranges are honoured."""

    def __init__(self, path: Path, bytes_per_s: float) -> None:
        super().__init__(media_type=VIDEO)
        self._content = path.read_bytes()
        self._pause_s = 1 / bytes_per_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        total = len(self._content)
        first = _first(Request(scope), total)
        headers = {"content-length": str(total - first)}
        if first:
            headers["content-range"] = f"bytes {first}-{total - 1}/{total}"
        drops = StreamingResponse(self._drops(first), 206 if first else 200, headers, VIDEO)
        await drops(scope, receive, send)

    async def _drops(self, first: int) -> AsyncIterator[bytes]:
        for place in range(first, len(self._content)):
            yield self._content[place : place + 1]
            await asyncio.sleep(self._pause_s)


async def _truncated(path: Path, fault: Fault) -> Response:
    return _Truncated(path, fault.options["share"], resumable=fault.name == "truncated")


async def _no_range(path: Path, fault: Fault) -> Response:
    return Response(path.read_bytes(), media_type=VIDEO)


async def _zero_bytes(path: Path, fault: Fault) -> Response:
    return Response(b"", media_type=VIDEO)


async def _not_a_video(path: Path, fault: Fault) -> Response:
    return HTMLResponse("<!doctype html><title>Not a video</title><p>This is a page.</p>" * 40)


async def _wrong_type(path: Path, fault: Fault) -> Response:
    return FileResponse(path, media_type=fault.options["content_type"])


async def _absurd_length(path: Path, fault: Fault) -> Response:
    length = {"content-length": str(int(fault.options["length"]))}
    return StreamingResponse(_zeros(fault.options["length"]), media_type=VIDEO, headers=length)


async def _endless(path: Path, fault: Fault) -> Response:
    return StreamingResponse(_zeros(fault.options["bytes"]), media_type=VIDEO)


async def _cut_off(path: Path, fault: Fault) -> Response:
    content = path.read_bytes()
    return Response(content[: int(len(content) * fault.options["share"])], media_type=VIDEO)


async def _gzip(path: Path, fault: Fault) -> Response:
    encoding = {"content-encoding": "gzip"}
    return Response(gzip.compress(path.read_bytes()), media_type=VIDEO, headers=encoding)


async def _drip(path: Path, fault: Fault) -> Response:
    return _Drip(path, fault.options["bytes_per_s"])


async def _redirect(path: Path, fault: Fault) -> Response:
    return RedirectResponse(fault.options["location"], 302)


async def _slow(path: Path, fault: Fault) -> Response:
    """Spread the file evenly over the fault's seconds."""
    content = path.read_bytes()
    pause = fault.options["seconds"] / (len(content) / CHUNK)

    async def chunks() -> AsyncIterator[bytes]:
        for first in range(0, len(content), CHUNK):
            await asyncio.sleep(pause)
            yield content[first : first + CHUNK]

    return StreamingResponse(chunks(), media_type=VIDEO, headers={"content-length": str(len(content))})


async def _zeros(count: float) -> AsyncIterator[bytes]:
    chunk = bytes(CHUNK)
    for _ in range(int(count) // CHUNK):
        yield chunk
        await asyncio.sleep(0)


BROKEN: dict[str, Callable[[Path, Fault], Awaitable[Response]]] = {
    "truncated": _truncated,
    "truncated_no_range": _truncated,
    "no_range": _no_range,
    "zero_bytes": _zero_bytes,
    "not_a_video": _not_a_video,
    "wrong_type": _wrong_type,
    "absurd_length": _absurd_length,
    "endless": _endless,
    "cut_off": _cut_off,
    "gzip": _gzip,
    "drip": _drip,
    "redirect": _redirect,
    "slow": _slow,
}
