"""The emulator's HTTP server: which address means what, who may ask, and how it runs."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from kling_sweeps.experiment.emulator_settings import EmulatorSettings

from . import control, files, models_api, platform_api, queue_api, storage, uploads
from .connection import BreakableProtocol
from .faults import Faults
from .queue import RequestQueue
from .state import Emulator
from .submission_log import SubmissionLog
from .webhooks import Webhooks

Endpoint = Callable[[Emulator, Request], Awaitable[Response]]
RUN_HOSTS = ("fal.run", "falrun.com")
API_HOST = "api.fal.ai"
HEADERS = [("server", "kling-sweeps-emulator"), ("x-kling-sweeps-emulator", "1")]
NOT_FOUND = {"detail": "Not Found"}


def serve(
    settings: EmulatorSettings,
    listener: socket.socket,
    on_ready: Callable[[str], None],
    parent: BinaryIO | None,
) -> None:
    """Serve on a listening socket until told to stop; with `parent`, a pipe, until that ends too.

    `on_ready` is called with the server's address when it answers.
    """
    base_url = _address(listener)
    with _folder(settings) as folder:
        emulator = _emulator(settings, folder)
        server = uvicorn.Server(_config(application(emulator, lambda: on_ready(base_url))))
        if parent is not None:
            threading.Thread(target=_stop_with, args=(parent, server), daemon=True).start()
        server.run([listener])


def application(emulator: Emulator, on_ready: Callable[[], None]) -> Starlette:
    """Return the ASGI application of an emulator."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        emulator.queue.start()
        on_ready()
        yield
        await emulator.queue.stop()

    routes = [_route(emulator, path, method, endpoint) for path, method, endpoint in control.ROUTES]
    routes += [
        _route(emulator, "/.well-known/jwks.json", "GET", queue_api.webhook_keys),
        _route(emulator, "/files/upload", "POST", storage.upload),
        _route(emulator, "/files/{name:path}", "GET", files.file),
        _route(emulator, f"{uploads.PATH}/{{place:path}}", "PUT", storage.put),
        _route(emulator, f"{uploads.PATH}/{{place:path}}", "GET", storage.file),
    ]
    routes += [_route(emulator, "/{path:path}", method, _fal) for method in ("GET", "POST", "PUT")]
    return Starlette(routes=routes, lifespan=lifespan)


async def _fal(emulator: Emulator, request: Request) -> Response:
    """Answer what is asked of fal itself, by host where that says something, otherwise by path."""
    host, path = request.headers.get("host", "").split(":")[0], request.url.path.rstrip("/")
    is_open = path == models_api.MODELS_PATH  # which fal answers without a key
    if not is_open and (refusal := _refusal(emulator.settings, request)) is not None:
        return refusal
    if host == API_HOST or path in PLATFORM:
        endpoint = PLATFORM.get(path) if request.method == "GET" else None
        return JSONResponse(NOT_FOUND, 404) if endpoint is None else await endpoint(emulator, request)
    if request.method == "POST" and path in storage.PATHS:
        return await storage.PATHS[path](emulator, request)
    target = queue_api.Target.of(path)
    if target is not None:
        return await queue_api.about_request(emulator, request, target)
    if request.method != "POST" or path.count("/") < 2:
        return JSONResponse(NOT_FOUND, 404)
    return await (queue_api.run if host in RUN_HOSTS else queue_api.submit)(emulator, request)


PLATFORM: dict[str, Endpoint] = {
    platform_api.HISTORY_PATH: platform_api.history,
    platform_api.PRICING_PATH: platform_api.pricing,
    models_api.MODELS_PATH: models_api.models,
    platform_api.BILLS_PATH: platform_api.billing_events,
    platform_api.ACCOUNT_PATH: platform_api.account,
}


def _refusal(settings: EmulatorSettings, request: Request) -> Response | None:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    is_known = bool(key.strip()) if settings.key is None else key.strip() == settings.key
    if scheme.lower() == "key" and is_known:
        return None
    problem = "a key that is not known" if key else "no key"
    return JSONResponse({"detail": f"Authentication failed: the request has {problem}."}, 401)


def _route(emulator: Emulator, path: str, method: str, endpoint: Endpoint) -> Route:
    async def answer(request: Request) -> Response:
        return await endpoint(emulator, request)

    return Route(path, answer, methods=[method])


def _emulator(settings: EmulatorSettings, folder: Path) -> Emulator:
    faults = Faults()
    queue = RequestQueue(settings, folder, SubmissionLog(settings.state_dir), faults, Webhooks(faults))
    return Emulator(settings, queue, faults)


@contextlib.contextmanager
def _folder(settings: EmulatorSettings) -> Iterator[Path]:
    """Make the folder of the videos; without a state folder it goes with the emulator."""
    if settings.state_dir is None:
        with tempfile.TemporaryDirectory(prefix="kling_sweeps_emulator_") as temporary:
            yield Path(temporary)
        return
    folder = settings.state_dir / "files"
    folder.mkdir(parents=True, exist_ok=True)
    yield folder


def _config(app: Starlette) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=BreakableProtocol,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        headers=HEADERS,
        timeout_graceful_shutdown=1,
    )


def _address(listener: socket.socket) -> str:
    """Return an address of a listening socket that can be asked, of this machine's where it listens on all."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _stop_with(parent: BinaryIO, server: uvicorn.Server) -> None:
    """Stop the server when the pipe's other end is closed, as it is when its owner dies."""
    while parent.read(1):
        pass
    server.should_exit = True
