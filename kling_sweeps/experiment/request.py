"""A request for one video, or one judgement of videos: what is sent to fal, its price, and its key in the store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

from kling_sweeps.experiment.picture import Attachment, replaced, texts


class Product(StrEnum):
    """What a request buys: a video, which is a file of fal's, or an answer, a text in the result itself."""

    VIDEO = "video"
    ANSWER = "answer"


@dataclass(frozen=True)
class Form:
    """How a request stands to its model's file: the arguments that the file has, and those at its default.

    `fal_defaults` are those at fal's own default, as far as the file says what that is.
    """

    names: Sequence[str] = ()
    defaults: Sequence[str] = ()
    fal_defaults: Sequence[str] = ()


@dataclass(frozen=True)
class GenerationRequest:
    """An endpoint, its checked arguments, and the number of the repeat, `sample`.

    `price_usd` is None where the price is unknown, and what an answer costs at most. Requests with equal arguments have
    equal keys, however the values were written in the configuration. Where an argument is one of the files in `pictures`,
    it has the digest of it in the place of the address that is sent. `form` and `product` are no part of the key.
    """

    endpoint: str
    arguments: Mapping[str, Any]
    sample: int
    price_usd: float | None
    pictures: Sequence[Attachment] = ()
    form: Form = field(default_factory=Form)
    product: Product = Product.VIDEO

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

    @property
    def shown(self) -> dict[str, Any]:
        """Return the arguments as a person reads them: pictures by the names of their files."""
        return self.with_pictures({picture.mark: picture.said for picture in self.pictures})

    def with_pictures(self, named: Mapping[str, str]) -> dict[str, Any]:
        """Return the arguments with others in the place of the digests of pictures."""
        return {
            name: replaced(value, lambda text: named.get(text, text))
            for name, value in self.arguments.items()
        }

    def pictures_by_argument(self) -> Iterator[tuple[str, Attachment]]:
        """Yield the arguments that are pictures, each with its picture, or several times with one of them."""
        for name, value in self.arguments.items():
            marks = {*texts(value)}
            yield from ((name, picture) for picture in self.pictures if picture.mark in marks)

    def as_dict(self) -> dict[str, Any]:
        """Return what `request.json` holds."""
        return {
            "endpoint": self.endpoint,
            "arguments": dict(self.arguments),
            "sample": self.sample,
            "price_usd": self.price_usd,
            "defaults": [name for name in self.form.defaults if name in self.arguments],
        }
