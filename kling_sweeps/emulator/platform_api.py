"""fal's platform API: the history of requests, and prices."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from . import outcomes
from .clock import read_timestamp, timestamp
from .connection import address
from .fault_kinds import ANSWERS
from .faults import Fault
from .state import Emulator
from .submission import Submission

HISTORY_PATH = "/v1/models/requests/by-endpoint"
PRICING_PATH = "/v1/models/pricing"
DAY_S = 86400
LARGEST_PAGE = 100
STATUSES = {"success": range(200, 300), "user_error": range(400, 500), "error": range(500, 600)}


@dataclass(frozen=True)
class Query:
    """What of the history is asked for; times are seconds since 1970."""

    endpoint_id: str
    start: float
    end: float
    status: str | None
    request_id: str | None
    limit: int
    before: int
    with_payloads: bool

    @classmethod
    def of(cls, given: Mapping[str, str]) -> Query:
        """Read the parameters of an address. Raises ValueError or KeyError."""
        now = time.time()
        status = given.get("status")
        if status is not None and status not in STATUSES:
            raise ValueError(f"status is {status}; valid: {', '.join(STATUSES)}")
        limit = int(given.get("limit", 50))
        if not 1 <= limit <= LARGEST_PAGE:
            raise ValueError(f"limit is {limit}; it must lie between 1 and {LARGEST_PAGE}")
        start = read_timestamp(given["start"]) if "start" in given else now - DAY_S
        end = read_timestamp(given["end"]) if "end" in given else now
        before, expand = int(given.get("cursor", 2**62)), given.get("expand", "")
        return cls(
            given["endpoint_id"],
            start,
            end,
            status,
            given.get("request_id"),
            limit,
            before,
            "payloads" in expand,
        )

    def wants(self, submission: Submission) -> bool:
        """Return whether a submission is among those asked for."""
        code = submission.outcome.status_code if submission.outcome else 0
        return (
            submission.endpoint == self.endpoint_id
            and self.start <= submission.submitted_at <= self.end
            and submission.ordinal < self.before
            and (self.request_id is None or submission.request_id == self.request_id)
            and (self.status is None or code in STATUSES[self.status])
        )


async def history(emulator: Emulator, request: Request) -> Response:
    """Answer a page of the requests of an endpoint that have ended, the newest first."""
    emulator.counters["history"] += 1
    fault = emulator.faults.pick("history")
    if fault is not None and fault.name in ANSWERS:
        return ANSWERS[fault.name](fault.options)
    try:
        query = Query.of(request.query_params)
    except (KeyError, ValueError) as error:
        return _refused(400, "validation_error", f"invalid query: {error}")
    found = [known for known in _visible(emulator, fault) if query.wants(known)][::-1]
    limit = int(fault.options["size"]) if fault and fault.name == "small_pages" else query.limit
    page = found[: max(1, limit)]
    has_more = len(found) > len(page)
    return JSONResponse(
        {
            "items": [_item(request, known, query.with_payloads) for known in page],
            "next_cursor": str(page[-1].ordinal) if has_more else None,
            "has_more": has_more,
        }
    )


async def pricing(emulator: Emulator, request: Request) -> Response:
    """Answer the prices of one or more endpoints; 404 when one is not known."""
    emulator.counters["pricing"] += 1
    wanted = [name for given in request.query_params.getlist("endpoint_id") for name in given.split(",")]
    models = emulator.queue.endpoints.models
    listed = {name: model.price for name, model in models.items() if model.price}
    if unknown := [name for name in wanted if name not in listed]:
        return _refused(404, "not_found", f"no price is known for {', '.join(unknown)}; it charges 0 here")
    prices = [
        {
            "endpoint_id": name,
            "unit_price": listed[name].usd,
            "unit": listed[name].per,
            "currency": "USD",
        }
        for name in wanted or listed
    ]
    return JSONResponse({"prices": prices, "next_cursor": None, "has_more": False})


def _visible(emulator: Emulator, fault: Fault | None) -> list[Submission]:
    """Return what the history shows at this moment."""
    name = None if fault is None else fault.name
    lag = emulator.settings.history_lag_s + (fault.options["seconds"] if fault and name == "lag" else 0)
    if name == "missing":
        return []
    known = emulator.queue.all()
    if name == "unfinished_too":
        return known
    latest = time.time() - lag
    return [submission for submission in known if submission.ended_at and submission.ended_at <= latest]


def _item(request: Request, submission: Submission, with_payloads: bool) -> dict[str, Any]:
    outcome = submission.outcome
    output = None if outcome is None else outcomes.body(outcome, address(request))
    return {
        "request_id": submission.request_id,
        "endpoint_id": submission.endpoint,
        "sent_at": timestamp(submission.submitted_at),
        "started_at": _moment(submission.started_at),
        "ended_at": _moment(submission.ended_at),
        "status_code": None if outcome is None else outcome.status_code,
        "duration": submission.inference_s if outcome else None,
        "json_input": submission.arguments if with_payloads else None,
        "json_output": output if with_payloads else None,
    }


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else timestamp(seconds)


def _refused(code: int, kind: str, message: str) -> Response:
    return JSONResponse({"error": {"type": kind, "message": message}}, code)
