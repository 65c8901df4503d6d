"""What a video costs, as a model's file says it: a price a unit, and other prices where arguments say so."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

VIDEO = "video"
# By how much two prices may differ and be the same.
SAME = 0.005
SECONDS = re.compile(r"(?:(\d+(?:\.\d+)?) )?seconds?")


@dataclass(frozen=True)
class Tier:
    """Another price in US dollars a unit, where each argument of `when` has one of the values listed."""

    usd: float
    when: Mapping[str, Sequence[Any]]

    def holds(self, arguments: Mapping[str, Any]) -> bool:
        return all(arguments.get(name) in values for name, values in self.when.items())


@dataclass(frozen=True)
class Price:
    """The price of a unit in US dollars; `per` is `video`, `second` or so many seconds, as `5 seconds`.

    The first of `tiers` that holds has another price in place of `usd`. `as_of` is the date of the price list.
    """

    usd: float
    per: str
    as_of: str = ""
    tiers: Sequence[Tier] = ()

    def of(self, arguments: Mapping[str, Any], seconds: float | None) -> float | None:
        """Return the price in USD of a video, exact to a hundredth of a cent; None where its seconds are not known.

        A unit that is begun is paid for.
        """
        usd = next((tier.usd for tier in self.tiers if tier.holds(arguments)), self.usd)
        unit_s = self.unit_s
        if unit_s is None:
            return usd
        return None if seconds is None else round(usd * math.ceil(round(seconds / unit_s, 6)), 4)

    @property
    def unit_s(self) -> float | None:
        """Return the seconds of a unit, None where it is a video."""
        return unit_seconds(self.per)


@dataclass(frozen=True)
class Quote:
    """What a video costs in USD, None where nobody knows, and whose word that is: fal's own of today, or a file's.

    `is_disputed` tells that the two differ, so that the higher price is taken.
    """

    usd: float | None
    is_fals: bool = False
    is_disputed: bool = False


def quote(filed: float | None, plain: float | None, asked: float | None) -> Quote:
    """Return the price in USD of a video by its model's file, there without tiers, and by fal, which tells of no tiers.

    A tier of the file is taken to have risen or fallen as the file's price without tiers has.
    """
    if asked is None or filed is None or not plain:
        return Quote(filed if asked is None else asked, is_fals=asked is not None)
    today = round(filed * asked / plain, 4)
    if math.isclose(today, filed, rel_tol=SAME, abs_tol=0.0001):
        return Quote(filed, is_fals=True)
    return Quote(max(today, filed), is_fals=today > filed, is_disputed=True)


def amount(usd: float) -> str:
    """Return an amount in USD with two digits after the point, or as many more as it has, six at most."""
    whole, _, rest = f"{usd:.6f}".partition(".")
    return f"{whole}.{rest.rstrip('0'):0<2}"


def told_price(usd: Any, unit: Any, currency: Any) -> Price | None:
    """Return a price as fal's API tells it, None where its unit or currency is another than a file's can be."""
    words = str(unit).strip().lower().removeprefix("1 ")
    words = VIDEO if words in ("video", "videos", "generation") else words
    try:
        unit_seconds(words)
        is_price = currency == "USD" and not isinstance(usd, bool) and 0 <= usd < math.inf
    except (TypeError, ValueError):
        return None
    return Price(float(usd), words) if is_price else None


def unit_seconds(unit: str) -> float | None:
    """Return the seconds of a unit, None of a video; raise ValueError for any other unit."""
    if unit == VIDEO:
        return None
    found = SECONDS.fullmatch(unit)
    if not found or float(found[1] or 1) <= 0:
        raise ValueError(f"{unit!r} is no unit; valid are video, second, and so many seconds, as '5 seconds'")
    return float(found[1] or 1)


def read_price(node: Any) -> Price:
    """Read what a model's file has as its price; raise ValueError with the key that is wrong."""
    where = "model.price"
    _check_keys(where, node, [one.name for one in fields(Price)])
    tiers = node.get("tiers") or []
    if not isinstance(tiers, list):
        raise ValueError(f"{where}.tiers is {tiers!r}; a list is needed")
    try:
        unit_seconds(per := str(node.get("per")))
    except ValueError as error:
        raise ValueError(f"{where}.per: {error}") from None
    read = [_tier(f"{where}.tiers[{number}]", tier) for number, tier in enumerate(tiers)]
    return Price(_usd(where, node), per, str(node.get("as_of") or ""), tuple(read))


def _tier(where: str, node: Any) -> Tier:
    _check_keys(where, node, [one.name for one in fields(Tier)])
    when = node.get("when")
    if not isinstance(when, Mapping) or not when:
        raise ValueError(
            f"{where}.when is {when!r}; arguments with their values are needed, as {{audio: false}}"
        )
    listed = {name: values if isinstance(values, list) else [values] for name, values in when.items()}
    return Tier(_usd(where, node), listed)


def _usd(where: str, node: Mapping[str, Any]) -> float:
    usd = node.get("usd")
    if isinstance(usd, bool) or not isinstance(usd, int | float) or not 0 <= usd < math.inf:
        raise ValueError(f"{where}.usd is {usd!r}; a number of 0 or more is needed")
    return float(usd)


def _check_keys(where: str, node: Any, valid: Sequence[str]) -> None:
    if not isinstance(node, Mapping):
        raise ValueError(f"{where} is {node!r}; a mapping of {', '.join(valid)} is needed")
    for key in node:
        if key not in valid:
            raise ValueError(f"{where}.{key} is unknown; valid are {', '.join(valid)}")
