"""The faults there are: at which place, under which name, with which options and defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.responses import HTMLResponse, JSONResponse, Response

from .connection import NoAnswer

Answer = Callable[[Mapping[str, Any]], Response]
NGINX = "<html><head><title>{0}</title></head><body><h1>{0}</h1><hr>nginx</body></html>"
LOCKED = "User is locked. Reason: Exhausted balance. Top up your balance at fal.ai/dashboard/billing."
PAGE = "<!doctype html><title>Welcome</title><p>Sign in to this network to go on.</p>"
FOR_EVER = 10**9


def _json(code: int, detail: str, error_type: str | None = None) -> Answer:
    body = {"detail": detail} if error_type is None else {"detail": detail, "error_type": error_type}
    headers = {} if error_type is None else {"x-fal-error-type": error_type}
    return lambda options: JSONResponse(body, code, headers)


def _nginx(code: int, phrase: str) -> Answer:
    return lambda options: HTMLResponse(NGINX.format(f"{code} {phrase}"), code)


def _too_many(options: Mapping[str, Any]) -> Response:
    wait = options["retry_after"]
    headers = {"retry-after": f"{wait:g}"} if wait else {}
    return JSONResponse({"detail": "Too many requests"}, 429, headers)


def _page(options: Mapping[str, Any]) -> Response:
    return HTMLResponse(PAGE)


# What a client sees, under the name of the fault.
ANSWERS: dict[str, Answer] = {
    "drop": lambda options: NoAnswer(),
    "reset": lambda options: NoAnswer(with_reset=True),
    "hang": lambda options: NoAnswer(seconds=options["seconds"]),
    "nginx_502": _nginx(502, "Bad Gateway"),
    "nginx_504": _nginx(504, "Gateway Time-out"),
    "html_200": _page,
    "error_500": _json(500, "Internal server error", "internal_error"),
    "unavailable_503": _json(503, "Service unavailable", "runner_scheduling_failure"),
    "result_504": _json(504, "Gateway timeout"),
    "timeout_408": _json(408, "Request timeout"),
    "too_many_429": _too_many,
    "unauthorized_401": _json(401, "Authentication is required to access this application."),
    "locked_403": _json(403, LOCKED),
    "not_found_404": _json(404, "Request not found"),
    "expired_410": _json(410, "The result of this request has expired"),
    "in_progress_400": _json(400, "Request is still in progress"),
    "error_200": _json(200, "The generation failed"),
    "failed_200": lambda options: JSONResponse({"status": "FAILED", "error": options["error"]}),
    "forbidden_403": _json(403, "Access denied"),
    "late": lambda options: JSONResponse({"detail": "File not found"}, int(options["code"])),
}

_LOST = {"drop": {}, "reset": {}, "hang": {"seconds": 30.0}}
_REFUSED = {"unauthorized_401": {}, "locked_403": {}, "too_many_429": {"retry_after": 0.0}}
_BROKEN: dict[str, dict[str, float]] = {
    "error_500": {},
    "unavailable_503": {},
    "nginx_502": {},
    "nginx_504": {},
    "html_200": {},
}
# Other shapes that a result has been seen in, and one that nobody knows.
SHAPES: dict[str, Callable[[Any, Mapping[str, Any]], Any]] = {
    "wrapped_200": lambda body, options: {options["key"]: body},
    "in_videos_200": lambda body, options: {"videos": [body["video"]]},
    "bare_address_200": lambda body, options: {"video": body["video"]["url"]},
    "other_shape_200": lambda body, options: {"clip": body["video"]},
}

# The submissions that are accepted all the same, unless a rule says otherwise.
_ACCEPTED = {"drop", "hang", "html_200", "cut"}
_SUBMIT = {**_LOST, **_REFUSED, **_BROKEN, "timeout_408": {}, "cut": {"share": 0.5}}

KINDS: dict[str, dict[str, dict[str, Any]]] = {
    "submit": {name: {"accepted": name in _ACCEPTED, **options} for name, options in _SUBMIT.items()},
    "generate": {
        "moderation_422": {"charged": False},
        "no_media_422": {"charged": False},
        "error_500": {},
        "downstream_400": {},
        "generation_timeout_504": {},
        "request_timeout_504": {},
        "startup_timeout_504": {},
        "runner_disconnected_503": {},
        "runner_connection_error_503": {},
        "runner_scheduling_failure_503": {},
        "runner_incomplete_response_502": {},
        "runner_server_error_500": {},
        "slow": {"seconds": 5.0},
    },
    "judge": {
        "no_grade": {},
        "prose_around": {},
        "out_of_scale": {},
        "two_grades": {},
        "empty": {},
        "cut_short": {},
        "html": {},
        "no_usage": {},
        "dear": {"usd": 1.0},
    },
    "status": {
        **_LOST,
        **_REFUSED,
        **_BROKEN,
        "not_found_404": {},
        "failed_200": {"error": "The generation failed"},
    },
    "result": {
        **_LOST,
        **_REFUSED,
        **_BROKEN,
        "result_504": {},
        "not_found_404": {},
        "expired_410": {},
        "in_progress_400": {},
        "error_200": {},
        "wrapped_200": {"key": "data"},
        "in_videos_200": {},
        "bare_address_200": {},
        "other_shape_200": {},
    },
    "webhook": {
        "never": {},
        "late": {"seconds": 5.0},
        "twice": {},
        "wrong_signature": {},
        "unsigned": {},
        "old_timestamp": {"seconds": 600.0},
        "wrong_id": {},
        "garbage": {},
        "oversized": {"bytes": 2.0**21},
    },
    "cancel": {**_LOST, **_REFUSED, **_BROKEN, "not_found_404": {}},
    "history": {
        **_LOST,
        **_REFUSED,
        **_BROKEN,
        "lag": {"seconds": 60.0},
        "small_pages": {"size": 1},
        "missing": {},
        "unfinished_too": {},
    },
    "pricing": {
        **_LOST,
        **_REFUSED,
        **_BROKEN,
        "raised": {"factor": 1.5},
        "other_unit": {"unit": "megapixels"},
    },
    "bills": {
        **_LOST,
        **_REFUSED,
        **_BROKEN,
        "forbidden_403": {},
        "lag": {"seconds": 60.0},
        "small_pages": {"size": 1},
        "discount": {"percent": 10.0},
    },
    "account": {**_LOST, **_REFUSED, **_BROKEN, "forbidden_403": {}, "balance": {"usd": 1.0}},
    "upload": {**_LOST, **_REFUSED, **_BROKEN},
    "file": {
        **_LOST,
        **_BROKEN,
        "truncated": {"share": 0.5},
        "no_range": {},
        "truncated_no_range": {"share": 0.5},
        "zero_bytes": {},
        "not_a_video": {},
        "wrong_type": {"content_type": "application/octet-stream"},
        "absurd_length": {"length": 10**15},
        "endless": {"bytes": FOR_EVER},
        "cut_off": {"share": 0.5},
        "gzip": {},
        "drip": {"bytes_per_s": 10.0},
        "late": {"seconds": 5.0, "code": 404},
        "not_found_404": {},
        "forbidden_403": {},
        "expired_410": {},
        "redirect": {"location": "http://elsewhere.invalid/video.mp4"},
        "slow": {"seconds": 5.0},
    },
}
