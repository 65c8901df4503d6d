"""Checks that all machines of a cluster use one store, since each would buy every video otherwise."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

from kling_sweeps.errors import UnavailableError
from kling_sweeps.experiment.settings import Settings


def problems(settings: Settings, cluster: str) -> Iterator[str]:
    """Yield the settings that are not the same on every machine, each with what to do."""
    if settings.provider.name == "auto":
        yield (
            f"cluster={cluster} has many machines, and with provider=auto each would decide alone whether it "
            "is for money: choose provider=fal or provider=emulator"
        )
    if not settings.store_dir.is_absolute():
        yield (
            f"cluster={cluster} has many machines, and store.dir={settings.store_dir} is another folder on each: "
            "give one that all of them share, by its whole path"
        )


def announce(settings: Settings) -> None:
    """Write a file into the store that `check` looks for on the other machines."""
    try:
        _mark(settings).parent.mkdir(parents=True, exist_ok=True)
        _mark(settings).touch()
    except OSError as error:
        raise UnavailableError(f"store.dir: {error.filename} can't be written ({error.strerror})") from None


def check(settings: Settings) -> None:
    """Raise UnavailableError where the store is not that of the command which sent this job."""
    if not _mark(settings).exists():
        raise UnavailableError(
            f"store.dir={settings.store_dir} on {socket.gethostname()} is not the folder of that name where the "
            "command was given; a store is shared by all machines, at the same path"
        )


def _mark(settings: Settings) -> Path:
    return settings.store_dir / "commands" / settings.command
