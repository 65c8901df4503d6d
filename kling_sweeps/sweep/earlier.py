"""Jobs as they are read, with a look at what the store has of them under an earlier form of their model's file."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from kling_sweeps import providers
from kling_sweeps.experiment import config
from kling_sweeps.experiment.settings import Cell, Settings
from kling_sweeps.store.earlier import Earlier, is_paid
from kling_sweeps.store.folder import Store

# The folders of a store that may have a video of a request.
ROOTS = ("fal", "emulator")


def read_job(cfg: Any, hydra: Any = None) -> tuple[Settings, Cell]:
    """Read one job's config; raise ConfigError with all its problems."""
    return settled(*config.read_job(cfg, hydra))


def settled(settings: Settings, cell: Cell) -> tuple[Settings, Cell]:
    """Return a job as it is, or as the store has it under an earlier form of its model's file.

    Where the file has got nothing but arguments at fal's own defaults, the request is the stored one, so that nothing is
    bought again; else the cell says what the file has changed.
    """
    found = {}
    for name in ROOTS:
        root = settings.store_dir / name
        own = Store(root).entry(cell.request)
        # A video was paid for, which is seen without reading the journal.
        if not own.video.exists() and not (own.folder.exists() and is_paid(own.state())):
            earlier = _earlier(root, settings.command)
            if change := earlier.find(cell.request, cell.prompt_text):
                found[name] = earlier, change
    # Who generates is asked for only where it matters: it may take a look at a server.
    if not found or (name := providers.resolve(settings.provider)) not in found:
        return settings, cell
    earlier, (stored, changes) = found[name]
    is_new = {argument: argument not in stored.arguments for argument in changes}
    if not all(is_new.values()) or not {*changes} <= {*cell.request.form.fal_defaults}:
        return settings, replace(cell, changes=list(changes.values()))
    added = {argument: cell.request.arguments[argument] for argument in changes}
    request = replace(cell.request, arguments=stored.arguments)
    return settings, replace(cell, request=request, added=added)


@lru_cache(maxsize=4)
def _earlier(root: Path, command: str) -> Earlier:
    """Return the requests of a store as a command finds them."""
    return Earlier(root)
