"""One video to generate: what is sent, what it costs, and the key it is kept under."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class GenerationRequest:
    """An endpoint with checked arguments, and the number of the repeat.

    `price_usd` is None where nobody knows the price. Equal requests have equal keys, whatever
    spelling their configuration had.
    """

    endpoint: str
    arguments: Mapping[str, Any]
    sample: int
    price_usd: float | None

    @cached_property
    def key(self) -> str:
        """Return the SHA-256, as 64 hexadecimal digits, of all that makes the video what it is."""
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
