"""The providers by name, and which of them a configuration means."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from kling_sweeps.errors import CredentialsError, UnavailableError
from kling_sweeps.experiment.settings import ProviderSettings
from kling_sweeps.provider import Provider

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
    """Yield the provider that `resolve` named; an emulator is started where no address is given."""
    if settings.base_url or name == "fal":
        yield _fal(settings, settings.base_url)
        return
    from kling_sweeps.emulator.process import EmulatorProcess

    with EmulatorProcess(settings.emulator) as emulator:
        yield _fal(settings, emulator.base_url, is_ephemeral=True)


def _fal(settings: ProviderSettings, base_url: str | None, is_ephemeral: bool = False) -> Provider:
    from kling_sweeps.providers.fal import NO_CREDENTIALS, FalProvider, find_credentials

    found = None if settings.name == "emulator" else find_credentials()
    max_bytes = int(settings.max_video_mb * 1e6)
    return FalProvider(found or NO_CREDENTIALS, base_url, max_bytes=max_bytes, is_ephemeral=is_ephemeral)


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
