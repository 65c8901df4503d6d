"""The providers by name, and which of them a configuration means."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from kling_sweeps.errors import (
    CredentialsError,
    LockedAccountError,
    LostResultError,
    PollError,
    UnavailableError,
)
from kling_sweeps.experiment.price import Price
from kling_sweeps.experiment.settings import ProviderSettings, WebhookSettings
from kling_sweeps.provider import Provider

T = TypeVar("T")
# Seconds that prices are waited for: without them, those of the files hold.
PRICES_TIMEOUT_S = 10.0
_told: dict[tuple[str | None, str], Price] = {}
EMULATOR_HEADER = "x-kling-sweeps-emulator"


def resolve(settings: ProviderSettings) -> str:
    """Return `fal` or `emulator`; raise CredentialsError where fal is asked for without a key.

    An emulator is recognised at `base_url` too, so that its videos are never taken for fal's; raises
    UnavailableError where nothing answers there.
    """
    from kling_sweeps.providers.fal import find_credentials

    if settings.name == "emulator":
        return "emulator"
    if find_credentials() is None:
        if settings.name == "auto":
            return "emulator"
        raise CredentialsError(
            "provider=fal needs a key: set FAL_KEY (from fal.ai/dashboard/keys), "
            "or try the sweep for nothing with provider=emulator"
        )
    return "emulator" if settings.base_url and _is_emulator(settings.base_url) else "fal"


@contextmanager
def opened(settings: ProviderSettings, name: str) -> Iterator[Provider]:
    """Yield the provider that `resolve` named; an emulator is started where no address is given.

    Raises ConfigError where webhooks are asked for and there is no listening for them.
    """
    with ExitStack() as stack:
        base_url, is_ephemeral = settings.base_url, not (settings.base_url or name == "fal")
        webhook = None
        if settings.webhook:
            from kling_sweeps.providers.webhooks import listening

            webhook = settings.webhook, stack.enter_context(listening(settings.webhook))
        if is_ephemeral:
            from kling_sweeps.emulator.process import EmulatorProcess

            base_url = stack.enter_context(EmulatorProcess(settings.emulator)).base_url
        yield _fal(settings.name, base_url, settings.max_video_mb, is_ephemeral, webhook)


def told_prices(settings: ProviderSettings, name: str, endpoints: Iterable[str]) -> Mapping[str, Price]:
    """Return what fal says today that endpoints cost, each asked once a process; nothing where it does not answer."""
    wanted = sorted({*endpoints})
    new = [endpoint for endpoint in wanted if (settings.base_url, endpoint) not in _told]
    if new and (settings.base_url or name == "fal"):
        try:
            found = asyncio.run(
                asked(settings.name, settings.base_url, lambda fal: fal.prices(new), PRICES_TIMEOUT_S)
            )
        except (PollError, LockedAccountError, LostResultError):
            found = {}
        _told.update({(settings.base_url, endpoint): price for endpoint, price in found.items()})
    known = {endpoint: _told.get((settings.base_url, endpoint)) for endpoint in wanted}
    return {endpoint: price for endpoint, price in known.items() if price}


async def asked(
    name: str, base_url: str | None, ask: Callable[[Provider], Awaitable[T]], timeout_s: float | None = None
) -> T:
    """Return what fal, or the server in its place, answers to a question; raise PollError after `timeout_s` seconds."""
    provider = _fal(name, base_url)
    try:
        async with asyncio.timeout(timeout_s):
            return await ask(provider)
    except TimeoutError:
        raise PollError(f"no answer within {timeout_s:g} s") from None
    finally:
        await provider.close()


def _fal(
    name: str,
    base_url: str | None,
    max_video_mb: float = 0.0,
    is_ephemeral: bool = False,
    webhook: tuple[WebhookSettings, socket.socket] | None = None,
) -> Provider:
    from kling_sweeps.providers.fal import NO_CREDENTIALS, FalProvider, find_credentials

    found = None if name == "emulator" else find_credentials()
    if found is None and not base_url:
        raise CredentialsError("fal needs a key: set FAL_KEY (from fal.ai/dashboard/keys)")
    return FalProvider(
        found or NO_CREDENTIALS,
        base_url,
        max_bytes=int(max_video_mb * 1e6),
        is_ephemeral=is_ephemeral,
        webhook=webhook,
    )


def _is_emulator(base_url: str) -> bool:
    """Ask a server, by no proxy, whether it is an emulator; raise UnavailableError where it does not answer."""
    import httpx

    from kling_sweeps.providers.http import ServerClock, Way, Whole, client

    async def ask() -> bool:
        async with client(Whole(Way(base_url), ServerClock())) as http:
            return EMULATOR_HEADER in (await http.get(f"{base_url}/_emulator")).headers

    try:
        return asyncio.run(ask())
    except httpx.HTTPError as error:
        raise UnavailableError(
            f"nothing at {base_url} says whether it is an emulator ({type(error).__name__}), whose videos "
            "would be taken for bought ones; check provider.base_url"
        ) from None
