"""fal's storage: what is uploaded by either of fal-client's ways, and served again to whoever has its address."""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime, timedelta

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from .connection import address
from .fault_kinds import ANSWERS
from .state import Emulator
from .uploads import PATH, file_of, uploaded

# What the second way is authorized by: it is handed out to whoever has a key.
TOKEN = "emulated"


async def initiate(emulator: Emulator, request: Request) -> Response:
    """Answer where a file may be put, and where it will be found: the same address here."""
    emulator.counters["uploads"] += 1
    if (fault := emulator.faults.pick("upload")) is not None:
        return ANSWERS[fault.name](fault.options)
    try:
        told = await request.json()
        place = _place(str(told["file_name"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        return JSONResponse({"detail": "a JSON object with file_name and content_type is needed"}, 422)
    url = f"{address(request)}{PATH}/{place}"
    return JSONResponse({"upload_url": url, "file_url": url})


async def token(emulator: Emulator, request: Request) -> Response:
    """Answer what authorizes an upload to the CDN."""
    until = datetime.now(UTC) + timedelta(hours=1)
    told = {
        "token": TOKEN,
        "token_type": "Bearer",
        "base_url": address(request),
        "expires_at": until.isoformat(),
    }
    return JSONResponse(told)


async def upload(emulator: Emulator, request: Request) -> Response:
    """Take a file that is uploaded to the CDN by a token."""
    emulator.counters["uploads"] += 1
    if request.headers.get("authorization") != f"Bearer {TOKEN}":
        return JSONResponse({"detail": "Authentication failed: the request has no token."}, 401)
    place = _place(request.headers.get("x-fal-file-name", "upload.bin"))
    _write(emulator, place, await request.body())
    return JSONResponse({"access_url": f"{address(request)}{PATH}/{place}"})


async def put(emulator: Emulator, request: Request) -> Response:
    """Take a file at the address that was answered for it."""
    is_taken = _write(emulator, request.path_params["place"], await request.body())
    return Response() if is_taken else JSONResponse({"detail": "Not Found"}, 404)


async def file(emulator: Emulator, request: Request) -> Response:
    """Answer with a file that was uploaded; nobody has to be authorized."""
    path = uploaded(emulator.queue.folder, request.url.path)
    return FileResponse(path) if path else JSONResponse({"detail": "File not found"}, 404)


def _place(name: str) -> str:
    plain = re.sub(r"[^\w.-]", "_", name)[:200] or "upload.bin"
    return f"{uuid.uuid4().hex}/{plain}"


def _write(emulator: Emulator, place: str, content: bytes) -> bool:
    path = file_of(emulator.queue.folder, place)
    if path is None:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return True


PATHS = {"/storage/upload/initiate": initiate, "/storage/auth/token": token}
