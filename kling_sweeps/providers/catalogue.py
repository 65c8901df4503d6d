"""fal's list of models: their schemas, and prices, asked for by a command."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from kling_sweeps.errors import UnavailableError
from kling_sweeps.providers import answers
from kling_sweeps.providers.fal import API, NO_CREDENTIALS, find_credentials
from kling_sweeps.providers.http import ENCODINGS, ServerClock, Way, Whole, client
from kling_sweeps.providers.transport import Route, detail, reason

PAGE, MOST_PAGES = 50, 20


def models(base_url: str | None = None, **params: Any) -> Any:
    """Return a page of `/v1/models`, None where fal has none of what is asked for; raise UnavailableError. It is free."""
    return _asked(API, base_url, {"limit": PAGE, **params})


def search(words: str, base_url: str | None = None) -> tuple[list[Any], bool]:
    """Return the pages of what fal finds, and whether there are more of them; raise UnavailableError."""
    pages: list[Any] = []
    cursor: dict[str, str] = {}
    for _ in range(MOST_PAGES):
        pages.append(models(base_url, q=words, **cursor))
        page = answers.fields(pages[-1])
        if not page.get("has_more") or not page.get("next_cursor"):
            return pages, False
        cursor = {"cursor": str(page["next_cursor"])}
    return pages, True


def price(endpoint: str, base_url: str | None = None) -> Any:
    """Return what `/v1/models/pricing` says of an endpoint, None where nothing; raise UnavailableError, as without a key."""
    return _asked(f"{API}/pricing", base_url, {"endpoint_id": endpoint})


def _asked(url: str, base_url: str | None, params: dict[str, Any]) -> Any:
    auth = NO_CREDENTIALS if base_url else find_credentials()
    headers = auth.as_headers() if auth else {}

    async def ask() -> httpx.Response:
        route = Route(base_url, Whole(Way(base_url), ServerClock()))
        async with client(route, headers | ENCODINGS) as http:
            return await http.get(url, params=params, follow_redirects=True)

    try:
        response = asyncio.run(ask())
    except httpx.HTTPError as error:
        where = base_url or "fal's API"
        raise UnavailableError(f"nothing answers at {where} ({reason(error)})") from None
    if response.status_code == httpx.codes.NOT_FOUND:
        return None
    if not response.is_success:
        raise UnavailableError(f"fal answered {response.status_code}: {detail(response)}")
    return answers.read(response.content)
