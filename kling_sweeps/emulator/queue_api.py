"""fal's queue and its synchronous endpoint, as HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from . import outcomes
from .clock import timestamp
from .connection import FAL_HOSTS, CutAnswer, address, transport_of
from .endpoints import JUDGES
from .fault_kinds import ANSWERS, SHAPES
from .faults import Fault
from .state import Emulator
from .submission import COMPLETED, IN_QUEUE, Submission


@dataclass(frozen=True)
class Target:
    """What an address of the form `<app>/requests/<id>[/<action>]` names."""

    app: str
    request_id: str
    action: str

    @classmethod
    def of(cls, path: str) -> Target | None:
        """Read a path, in its long or short form, with or without `/response` and a last slash."""
        parts = [part for part in path.split("/") if part]
        if "requests" not in parts[2:-1]:
            return None
        at = parts.index("requests", 2)
        action = "/".join(parts[at + 2 :])
        return cls("/".join(parts[:2]), parts[at + 1], "" if action == "response" else action)


async def submit(emulator: Emulator, request: Request) -> Response:
    """Accept a submission, unless a fault says otherwise."""
    emulator.counters["submits"] += 1
    arguments = await _arguments(request)
    if isinstance(arguments, Response):
        return arguments
    fault = emulator.faults.pick("submit", str(arguments.get("prompt", "")))
    if fault is not None and not fault.options["accepted"]:
        return _fault_answer(fault)
    submission = _accept(emulator, request, arguments)
    answer = _Told(emulator, submission, _submitted(emulator, request, submission), submission.headers())
    if fault is None:
        return answer
    return CutAnswer(answer, fault.options["share"]) if fault.name == "cut" else _fault_answer(fault)


async def run(emulator: Emulator, request: Request) -> Response:
    """Accept a submission and answer with its result, if a slot is free."""
    emulator.counters["runs"] += 1
    arguments = await _arguments(request)
    if isinstance(arguments, Response):
        return arguments
    if emulator.queue.is_full:
        kind = "concurrent_requests_limit"
        return JSONResponse({"detail": "Too many concurrent requests", "error_type": kind}, 429)
    submission = _accept(emulator, request, arguments)
    outcome = await emulator.queue.ended(submission)
    body = outcomes.body(outcome, address(request))
    return _Told(emulator, submission, body, submission.headers(), outcome.status_code)


async def webhook_keys(emulator: Emulator, request: Request) -> Response:
    """Publish the key that webhooks are signed with; nobody has to be authorized."""
    return JSONResponse(emulator.queue.webhooks.keys())


async def about_request(emulator: Emulator, request: Request, target: Target) -> Response:
    """Answer what is asked about a request: its status, its result, or to cancel it."""
    action = ACTIONS.get((request.method, target.action))
    if action is None:
        return JSONResponse({"detail": f"{request.method} {request.url.path} is nothing fal knows"}, 404)
    at, answer = action
    emulator.counters[COUNTED[at]] += 1
    submission = emulator.queue.find(target.request_id)
    if submission is None or submission.app != target.app:
        body = {"status": "NOT_FOUND"} if at == "cancel" else {"detail": "Request not found"}
        return JSONResponse(body, 404)
    fault = emulator.fault(at, submission)
    if fault is None:
        return await answer(emulator, request, submission)
    if fault.name in SHAPES:
        return await _result(emulator, request, submission, fault)
    return _fault_answer(fault)


async def _status(emulator: Emulator, request: Request, submission: Submission) -> Response:
    code = 200 if submission.status == COMPLETED else 202
    return JSONResponse(_status_body(emulator, request, submission), code, submission.headers())


async def _stream(emulator: Emulator, request: Request, submission: Submission) -> Response:
    async def events() -> AsyncIterator[str]:
        told: dict[str, Any] = {}
        while told.get("status") != COMPLETED:
            body = _status_body(emulator, request, submission)
            if body == told:
                await emulator.queue.change()
            else:
                told = body
                yield f"data: {json.dumps(body)}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream", headers=submission.headers())


async def _result(
    emulator: Emulator, request: Request, submission: Submission, shape: Fault | None = None
) -> Response:
    outcome = submission.outcome
    if outcome is None:
        return JSONResponse({"detail": "Request is still in progress"}, 400, submission.headers())
    body = outcomes.body(outcome, address(request))
    if shape is not None and outcome.video is not None:
        body = SHAPES[shape.name](body, shape.options)
    return JSONResponse(body, outcome.status_code, submission.headers())


async def _cancel(emulator: Emulator, request: Request, submission: Submission) -> Response:
    if emulator.queue.cancel(submission):
        return JSONResponse({"status": "CANCELLATION_REQUESTED"}, 202, submission.headers())
    return JSONResponse({"status": "ALREADY_COMPLETED"}, 400, submission.headers())


Action = Callable[[Emulator, Request, Submission], Awaitable[Response]]
ACTIONS: dict[tuple[str, str], tuple[str, Action]] = {
    ("GET", "status"): ("status", _status),
    ("GET", "status/stream"): ("status", _stream),
    ("GET", ""): ("result", _result),
    ("PUT", "cancel"): ("cancel", _cancel),
}
COUNTED = {"status": "status_polls", "result": "results", "cancel": "cancels"}


class _Told(JSONResponse):
    """The answer that tells a client its request id; noted as answered when it could be sent."""

    def __init__(
        self,
        emulator: Emulator,
        submission: Submission,
        body: Any,
        headers: Mapping[str, str],
        code: int = 200,
    ) -> None:
        super().__init__(body, code, headers)
        self._emulator, self._submission = emulator, submission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().__call__(scope, receive, send)
        if not transport_of(scope).is_closing():
            self._emulator.queue.mark_answered(self._submission)


def _accept(emulator: Emulator, request: Request, arguments: dict[str, Any]) -> Submission:
    timeout = request.headers.get("x-fal-request-timeout")
    is_low = request.headers.get("x-fal-queue-priority") == "low"
    endpoint = "/".join(part for part in request.url.path.split("/") if part)
    emulator.counters["accepted"] += 1
    timeout_s = None if timeout is None else _seconds(timeout)
    tags, webhook = request.headers.get("x-fal-tags", ""), request.query_params.get("fal_webhook")
    return emulator.queue.accept(
        endpoint, arguments, is_low, timeout_s, tags, webhook, base_url=address(request)
    )


def _seconds(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


async def _arguments(request: Request) -> dict[str, Any] | Response:
    try:
        arguments = json.loads(await request.body())
    except ValueError:
        return JSONResponse({"detail": "The body is not JSON"}, 422)
    if not isinstance(arguments, dict):
        return JSONResponse({"detail": "The body is not a JSON object"}, 422)
    return arguments


def _submitted(emulator: Emulator, request: Request, submission: Submission) -> dict[str, Any]:
    position = emulator.queue.position(submission)
    return {"status": IN_QUEUE, **_addresses(request, submission), "queue_position": position}


def _status_body(emulator: Emulator, request: Request, submission: Submission) -> dict[str, Any]:
    outcome = submission.outcome
    body: dict[str, Any] = {"status": submission.status, **_addresses(request, submission)}
    body["queue_position"] = emulator.queue.position(submission)
    body["logs"] = _logs(submission) if request.query_params.get("logs") in ("1", "true", "True") else []
    if outcome is not None:
        body["metrics"] = {"inference_time": submission.inference_s}
    if outcome is not None and outcome.error is not None:
        body |= {"error": outcome.error, "error_type": outcome.error_type}
    return body


def _addresses(request: Request, submission: Submission) -> dict[str, str]:
    host = request.headers.get("host", "")
    origin = f"https://{host}" if host in FAL_HOSTS else address(request)
    base = f"{origin}/{submission.app}/requests/{submission.request_id}"
    addresses = {
        "response_url": base,
        "status_url": f"{base}/status",
        "cancel_url": f"{base}/cancel",
    }
    return {"request_id": submission.request_id, **addresses}


def _logs(submission: Submission) -> list[dict[str, str]]:
    begun = "looking at the videos" if submission.endpoint in JUDGES else "painting the frames"
    moments = [(submission.started_at, begun), (submission.ended_at, "done")]
    return [_log(moment, message) for moment, message in moments if moment is not None]


def _log(moment: float, message: str) -> dict[str, str]:
    return {"timestamp": timestamp(moment), "message": message, "level": "INFO", "source": "USER"}


def _fault_answer(fault: Fault) -> Response:
    return ANSWERS[fault.name](fault.options)
