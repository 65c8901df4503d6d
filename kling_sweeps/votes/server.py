"""The server of the voting page: on this machine alone, and for nobody who does not know its address.

GET  /<token>/             the page
GET  /<token>/video/<id>   a video that was shown
POST /<token>/state        {"rater"}                     what is to be voted on next
POST /<token>/vote         {"rater", "pair", "answer"}   the same, once the vote is on disk
POST /<token>/undo         {"rater", "vote"}             the same, without the last vote
"""

from __future__ import annotations

import contextlib
import hmac
import json
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from kling_sweeps.errors import ConfigError, StoreError, explained, say
from kling_sweeps.store.votes import Answer
from kling_sweeps.votes.page import SERVED, render
from kling_sweeps.votes.poll import rater_name
from kling_sweeps.votes.session import Session

HOSTS = ("127.0.0.1", "localhost")
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": f"{SERVED}; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# In bytes, of a request's body.
LARGEST = 10_000
Work = Callable[[Session, Mapping[str, Any]], Mapping[str, Any]]


def serve(
    session: Session, rater: str | None, listener: socket.socket, on_ready: Callable[[str], None]
) -> None:
    """Serve on a listening socket until interrupted; `on_ready` is called with the page's address."""
    token = secrets.token_urlsafe(24)
    address = f"http://127.0.0.1:{listener.getsockname()[1]}/{token}/"
    app = application(session, rater, token, lambda: on_ready(address))
    config = uvicorn.Config(
        app,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run([listener])


def application(
    session: Session, rater: str | None, token: str, on_ready: Callable[[], None] = lambda: None
) -> Starlette:
    """Return the ASGI application of a session; `rater` is who votes, None where the page asks for a name."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        on_ready()
        yield

    page = render(session.poll.study.question, {"rater": rater})

    async def shown(request: Request) -> Response:
        return HTMLResponse(page)

    async def video(request: Request) -> Response:
        try:
            path = await run_in_threadpool(session.video, request.path_params["id"])
        except LookupError:
            return _refused(404, "there is no such video")
        except OSError as error:
            return _failed(explained(error))
        return FileResponse(path, media_type="video/mp4")

    def route(path: str, answer: Callable[[Request], Awaitable[Response]], method: str = "GET") -> Route:
        return Route(f"/{{token}}/{path}", _guarded(token, answer), methods=[method])

    works = [route(name, _working(session, rater, work), "POST") for name, work in WORKS.items()]
    return Starlette(routes=[route("", shown), route("video/{id}", video), *works], lifespan=lifespan)


def _state(session: Session, given: Mapping[str, Any]) -> Mapping[str, Any]:
    return session.state(given["rater"])


def _vote(session: Session, given: Mapping[str, Any]) -> Mapping[str, Any]:
    return session.vote(given["rater"], _text(given, "pair"), Answer(_text(given, "answer")))


def _undo(session: Session, given: Mapping[str, Any]) -> Mapping[str, Any]:
    return session.undo(given["rater"], _text(given, "vote"))


WORKS: Mapping[str, Work] = {"state": _state, "vote": _vote, "undo": _undo}


def _working(session: Session, rater: str | None, work: Work) -> Callable[[Request], Awaitable[Response]]:
    """Return what answers a request by some work, done in a thread: it waits for the disk."""

    async def answer(request: Request) -> Response:
        try:
            given = _given(await _body(request))
            named = {**given, "rater": rater or rater_name(_text(given, "rater"))}
            return JSONResponse(await run_in_threadpool(work, session, named))
        except (ConfigError, LookupError, ValueError) as error:
            return _refused(400, str(error.args[0]))
        except StoreError as error:
            return _failed(error)
        except OSError as error:
            return _failed(explained(error))

    return answer


def _guarded(
    token: str, answer: Callable[[Request], Awaitable[Response]]
) -> Callable[[Request], Awaitable[Response]]:
    """Return what answers those alone who know the token, and whose page is this server's."""

    async def guarded(request: Request) -> Response:
        response = _refusal(request, token) or await answer(request)
        response.headers.update(HEADERS)
        return response

    return guarded


def _refusal(request: Request, token: str) -> Response | None:
    """Refuse other names of this machine, which another site may have given it, and what another site's page asks."""
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    if host.partition(":")[0] not in HOSTS:
        return _refused(421, "this server answers to 127.0.0.1 alone")
    if not hmac.compare_digest(request.path_params["token"].encode(), token.encode()):
        return _refused(404, "there is nothing here; use the whole address that was printed")
    if origin != f"http://{host}" and (request.method == "POST" or origin is not None):
        return _refused(403, "another site's page may not vote")
    return None


def _refused(status: int, why: str) -> Response:
    return PlainTextResponse(why, status)


def _failed(why: object) -> Response:
    """Say in the terminal what went wrong: a path or a key is nothing for the eyes of a rater."""
    say(why)
    return _refused(500, "something on the disk is wrong; the command says what, where it was started")


async def _body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST:
            raise ValueError(f"a request has at most {LARGEST} bytes")
    return body


def _given(body: bytes) -> Mapping[str, Any]:
    try:
        given = json.loads(body)
    except RecursionError:
        given = None
    if not isinstance(given, dict):
        raise ValueError("a request is a JSON object")
    return given


def _text(given: Mapping[str, Any], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str):
        raise ValueError(f"`{name}` must be a text")
    return value
