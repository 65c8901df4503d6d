"""A request for one video: what is sent to fal, its price, and the key under which the store has it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class GenerationRequest:
    """An endpoint, its checked arguments, and the number of the repeat, `sample`.

    `price_usd` is None where the price is unknown. Requests with equal arguments have equal keys, however the
    values were written in the configuration.
    """

    endpoint: str
    arguments: Mapping[str, Any]
    sample: int
    price_usd: float | None

    @cached_property
    def key(self) -> str:
        """Return the SHA-256 of endpoint, arguments and sample, as 64 hexadecimal digits."""
        content = {
            "endpoint": self.endpoint,
            "arguments": dict(self.arguments),
            "sample": self.sample,
        }
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """Return what `request.json` holds."""
        return {
            "endpoint": self.endpoint,
            "arguments": dict(self.arguments),
            "sample": self.sample,
            "price_usd": self.price_usd,
        }
