"""Overrides as people write them, in the way that Hydra takes them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from kling_sweeps.experiment.keys import KEYS
from kling_sweeps.experiment.prompt import quoted

ADDED = re.compile(r"((?:arguments|where_taken)\.\w+|[A-Za-z_]\w*)=")
# What is not added: keys that are there, groups, and what Hydra says itself how to write.
THERE = {*KEYS, "cluster", "sweep", "hydra"}


def spelled(overrides: Iterable[str]) -> list[str]:
    """Return overrides with choices of prompts as texts, and with `++` before arguments and factors that have no plus.

    Hydra adds no key without one. A key that nobody knows is refused when the config is read.
    """
    found = [(override, ADDED.match(override)) for override in quoted(overrides)]
    return [f"++{override}" if key and key[1] not in THERE else override for override, key in found]
