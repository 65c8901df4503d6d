"""fal's platform API: the history of requests, prices, bills and the balance."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
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

Answer = Callable[[Emulator, Request], Awaitable[Response]]
Answered = Callable[[Emulator, Request, Fault | None], Awaitable[Response]]
HISTORY_PATH = "/v1/models/requests/by-endpoint"
PRICING_PATH = "/v1/models/pricing"
BILLS_PATH = "/v1/models/billing-events"
ACCOUNT_PATH = "/v1/account/billing"
DAY_S = 86400
MOST_IDS, MOST_DAYS = 50, 90
BALANCE_USD = 1000.0
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


def _met(at: str) -> Callable[[Answered], Answer]:
    """Count what is asked at a place, and give a fault's own answer in place of one, or the fault to what answers."""

    def decorate(answer: Answered) -> Answer:
        async def met(emulator: Emulator, request: Request) -> Response:
            emulator.counters[at] += 1
            fault = emulator.faults.pick(at)
            if fault is not None and fault.name in ANSWERS:
                return ANSWERS[fault.name](fault.options)
            return await answer(emulator, request, fault)

        return met

    return decorate


@_met("history")
async def history(emulator: Emulator, request: Request, fault: Fault | None) -> Response:
    """Answer a page of the requests of an endpoint that have ended, the newest first."""
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


@_met("pricing")
async def pricing(emulator: Emulator, request: Request, fault: Fault | None) -> Response:
    """Answer the prices of one or more endpoints; 404 when one is not known."""
    options = fault.options if fault else {}
    wanted = [name for given in request.query_params.getlist("endpoint_id") for name in given.split(",")]
    models = emulator.queue.endpoints.models
    listed = {name: model.price for name, model in models.items() if model.price}
    if unknown := [name for name in wanted if name not in listed]:
        return _refused(404, "not_found", f"no price is known for {', '.join(unknown)}; it charges 0 here")
    prices = [
        {
            "endpoint_id": name,
            "unit_price": round(listed[name].usd * options.get("factor", 1.0), 6),
            "unit": options.get("unit", listed[name].per),
            "currency": "USD",
        }
        for name in wanted or listed
    ]
    return JSONResponse({"prices": prices, "next_cursor": None, "has_more": False})


@_met("bills")
async def billing_events(emulator: Emulator, request: Request, fault: Fault | None) -> Response:
    """Answer what requests were charged, the newest first, of the last day unless another time is asked for."""
    options = fault.options if fault else {}
    given = request.query_params
    wanted = [name for listed in given.getlist("request_id") for name in listed.split(",")]
    now = time.time()
    try:
        start = read_timestamp(given["start"]) if "start" in given else now - DAY_S
        end = read_timestamp(given["end"]) if "end" in given else now
        limit = int(options.get("size", given.get("limit", 50)))
        before = int(given.get("cursor", 2**62))
    except ValueError as error:
        return _refused(400, "validation_error", f"invalid query: {error}")
    if len(wanted) > MOST_IDS or end - start > MOST_DAYS * DAY_S or limit < 1:
        return _refused(
            400, "validation_error", f"at most {MOST_IDS} request ids and {MOST_DAYS} days at once"
        )
    latest = now - options.get("seconds", 0.0)
    found = [
        known
        for known in emulator.queue.all()[::-1]
        if known.outcome
        and known.outcome.charged_usd
        and (known.ended_at or now) <= latest
        and (not wanted or known.request_id in wanted)
        and start <= known.submitted_at < end
        and known.ordinal < before
    ]
    page = found[:limit]
    has_more = len(found) > len(page)
    return JSONResponse(
        {
            "billing_events": [_bill(known, options.get("percent", 0.0)) for known in page],
            "next_cursor": str(page[-1].ordinal) if has_more else None,
            "has_more": has_more,
        }
    )


def _bill(submission: Submission, percent: float) -> dict[str, Any]:
    outcome = submission.outcome
    assert outcome  # as only what is over is charged
    usd = outcome.charged_usd
    discount = round(usd * percent / 100, 6)
    units = outcome.billable_units
    return {
        "request_id": submission.request_id,
        "endpoint_id": submission.endpoint,
        "timestamp": timestamp(submission.submitted_at),
        "output_units": units,
        "unit_price": round(usd / units, 6) if units else None,
        "percent_discount": percent or None,
        "cost_subtotal": usd,
        "cost_discount": discount,
        "cost_total": round(usd - discount, 6),
        "cost_estimate_nano_usd": round((usd - discount) * 1e9),
    }


@_met("account")
async def account(emulator: Emulator, request: Request, fault: Fault | None) -> Response:
    """Answer whose account it is, and with `expand=credits` how much is left of what an emulator pretends to have."""
    told: dict[str, Any] = {"username": "emulated"}
    if "credits" in ",".join(request.query_params.getlist("expand")):
        spent = sum(known.outcome.charged_usd for known in emulator.queue.all() if known.outcome)
        balance = fault.options["usd"] if fault else max(0.0, BALANCE_USD - spent)
        told["credits"] = {"current_balance": round(balance, 4), "currency": "USD"}
    return JSONResponse(told)


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
