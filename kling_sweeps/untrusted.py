"""Text that somebody else wrote, a server or a file, as it may be shown, logged and kept."""

from __future__ import annotations

import os
from collections.abc import Mapping

# What holds a credential, for fal-client and for MLflow's client.
SECRET_VARIABLES = (
    "FAL_KEY",
    "FAL_KEY_SECRET",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
)
# Shorter ones are no secrets, and would be found in ordinary words.
SHORTEST_SECRET = 5
# A line's end, and the two joiners: Persian, Hindi and emoji of several parts are written with them.
KEPT = "\n\u200c\u200d"

_further: set[str] = set()


def hide(secret: str) -> None:
    """Mask a credential from now on that no environment variable holds, such as that of a fal login."""
    _further.add(secret)


def secrets(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return every known credential, the longest first; of `id:secret` the second part too."""
    whole = {environ.get(name, "").strip() for name in SECRET_VARIABLES} | _further
    parts = {secret.partition(":")[2] for secret in whole}
    return sorted((s for s in whole | parts if len(s) >= SHORTEST_SECRET), key=len, reverse=True)


def clean(text: object, limit: int = 300) -> str:
    """Return text from outside on one line of at most `limit` characters.

    Credentials are masked, white space is folded, and what can't be printed (escape sequences, NUL, half
    of a surrogate pair, marks that reverse the direction of writing) is replaced by U+FFFD.
    """
    said = mask(str(text)[: 100 * limit])
    return printable(" ".join(said.split())[:limit])


def printable(text: str) -> str:
    """Return a text with its lines and what joins letters and emoji, and what else can't be printed replaced by U+FFFD."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in KEPT else "\ufffd" for c in text)


def mask(text: str) -> str:
    """Return a text with every known credential replaced by `***`."""
    for secret in secrets():
        text = text.replace(secret, "***")
    return text
