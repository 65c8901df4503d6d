"""The emulator's own addresses, under `/_emulator`."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .faults import RuleError
from .state import Emulator

KINDS = (
    "submits",
    "accepted",
    "runs",
    "status_polls",
    "results",
    "cancels",
    "history",
    "pricing",
    "bills",
    "file_downloads",
    "uploads",
)


async def about(emulator: Emulator, request: Request) -> Response:
    """Say what this is."""
    return JSONResponse(
        {"name": "kling_sweeps.emulator", "version": _version(), "slots": emulator.settings.slots}
    )


async def ledger(emulator: Emulator, request: Request) -> Response:
    """List every submission that was accepted, the oldest first."""
    return JSONResponse([submission.ledger_entry() for submission in emulator.queue.all()])


async def faults(emulator: Emulator, request: Request) -> Response:
    """List the fault rules in force."""
    return JSONResponse(emulator.faults.describe())


async def set_faults(emulator: Emulator, request: Request) -> Response:
    """Replace the fault rules, or refuse them all."""
    try:
        emulator.faults.set(json.loads(await request.body()))
    except RuleError as error:
        return JSONResponse({"detail": str(error)}, 422)
    except ValueError as error:
        return JSONResponse({"detail": f"faults are a JSON list of rules: {error}"}, 422)
    return JSONResponse(emulator.faults.describe())


async def clear_faults(emulator: Emulator, request: Request) -> Response:
    """Remove all fault rules."""
    emulator.faults.set([])
    return JSONResponse([])


async def counters(emulator: Emulator, request: Request) -> Response:
    """Tell how many requests of each kind came in."""
    return JSONResponse({kind: emulator.counters[kind] for kind in KINDS})


async def reset_counters(emulator: Emulator, request: Request) -> Response:
    """Count from zero again."""
    emulator.counters.clear()
    return await counters(emulator, request)


ROUTES: list[tuple[str, str, Callable[[Emulator, Request], Awaitable[Response]]]] = [
    ("/_emulator", "GET", about),
    ("/_emulator/ledger", "GET", ledger),
    ("/_emulator/faults", "GET", faults),
    ("/_emulator/faults", "PUT", set_faults),
    ("/_emulator/faults", "DELETE", clear_faults),
    ("/_emulator/counters", "GET", counters),
    ("/_emulator/counters", "PUT", reset_counters),
    ("/_emulator/counters", "DELETE", reset_counters),
]


def _version() -> str:
    try:
        return version("kling-sweeps")
    except PackageNotFoundError:
        return "unknown"
