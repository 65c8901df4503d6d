"""How a generation ends: with a video, or with one of fal's errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .endpoints import Problem
from .faults import Fault
from .submission import Outcome

# Failures that the model reports: status code, type, message.
_OF_THE_MODEL = {
    "moderation_422": (
        422,
        "content_policy_violation",
        "The content could not be processed because it was flagged by a content checker.",
    ),
    "no_media_422": (422, "no_media_generated", "The model did not generate any media."),
    "error_500": (500, "internal_server_error", "An unexpected error occurred."),
    "downstream_400": (
        400,
        "downstream_service_error",
        "The downstream service refused the request.",
    ),
    "generation_timeout_504": (504, "generation_timeout", "The generation took too long."),
}
# Failures that the queue reports.
_OF_THE_REQUEST = {
    "request_timeout_504": (
        504,
        "request_timeout",
        "The request timed out before it was processed",
    ),
    "startup_timeout_504": (504, "startup_timeout", "The runner did not start in time"),
    "runner_disconnected_503": (503, "runner_disconnected", "The runner disconnected"),
    "runner_connection_error_503": (
        503,
        "runner_connection_error",
        "The runner could not be reached",
    ),
    "runner_scheduling_failure_503": (
        503,
        "runner_scheduling_failure",
        "No runner could be scheduled",
    ),
    "runner_incomplete_response_502": (
        502,
        "runner_incomplete_response",
        "The runner's response was incomplete",
    ),
    "runner_server_error_500": (500, "runner_server_error", "The runner failed"),
    "client_cancelled_499": (499, "client_cancelled", "The request was cancelled by the client"),
}


def of_fault(fault: Fault, price_usd: float, seconds: int) -> Outcome:
    """Return the failure that a fault at `generate` stands for, of a video of a price and so many seconds."""
    if fault.name in _OF_THE_REQUEST:
        return of_request(fault.name)
    code, kind, message = _OF_THE_MODEL[fault.name]
    detail = [{"loc": ["body", "prompt"], "msg": message, "type": kind}]
    is_charged = fault.options.get("charged")
    return _of_model(code, detail, price_usd, seconds) if is_charged else _of_model(code, detail)


def of_request(name: str) -> Outcome:
    """Return a failure that the queue reports, by its name in this module's table."""
    code, kind, message = _OF_THE_REQUEST[name]
    return Outcome(code, {"detail": message, "error_type": kind}, error=message, error_type=kind)


def of_problems(problems: list[Problem]) -> Outcome:
    """Return the failure of arguments that the model refuses; it isn't charged."""
    return _of_model(422, problems)


def of_failure(error: Exception) -> Outcome:
    """Return the failure of an emulator that couldn't do its work."""
    detail = [
        {
            "loc": ["body"],
            "msg": f"the emulator failed: {error}",
            "type": "internal_server_error",
        }
    ]
    return _of_model(500, detail)


def of_video(name: str, file_size: int, price_usd: float, seconds: int) -> Outcome:
    """Return the success of a request whose video is the file `name`."""
    return Outcome(200, video=name, file_size=file_size, charged_usd=price_usd, billable_units=seconds)


def of_answer(text: str, usage: Mapping[str, Any] | None, usd: float) -> Outcome:
    """Return the success of a request whose answer is a text, with what it took and was charged."""
    return Outcome(200, {"output": text, "usage": usage}, charged_usd=usd, billable_units=1)


def body(outcome: Outcome, base_url: str) -> Any:
    """Return an outcome's body as JSON values, the video's address included."""
    if outcome.video is None:
        return outcome.body
    video: Mapping[str, Any] = {
        "url": f"{base_url}/files/{outcome.video}",
        "content_type": "video/mp4",
        "file_name": outcome.video,
        "file_size": outcome.file_size,
    }
    return {"video": video}


def _of_model(code: int, detail: list[Problem], charged_usd: float = 0.0, seconds: int = 0) -> Outcome:
    first = detail[0]
    return Outcome(
        code,
        {"detail": detail},
        error=first["msg"],
        error_type=first["type"],
        charged_usd=charged_usd,
        billable_units=seconds,
    )
