"""The page that raters see, with the report's player: served on this machine, or whole in one file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kling_sweeps.reports.player import SCRIPTS, STYLE, inlined, template

FOLDER = Path(__file__).parent / "page"
# What the page may load: its own scripts, style and videos, and where it is served the answers of its server.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; media-src blob:; "
    "connect-src {}; base-uri 'none'; form-action 'none'"
)
SERVED, ALONE = POLICY.format("'self'"), POLICY.format("'none'")


def render(question: str, data: Mapping[str, Any], clips: Mapping[str, bytes] | None = None) -> str:
    """Return the page that asks a question; one that has its clips, by their ids, needs no server."""
    desk = "online.js" if clips is None else "offline.js"
    return template(FOLDER / "vote.html").render(
        question=question,
        data=data,
        clips=list((clips or {}).items()),
        policy=SERVED if clips is None else ALONE,
        style=inlined([*STYLE, FOLDER / "style.css"]),
        script=inlined([*SCRIPTS, FOLDER / "data.js", FOLDER / desk, FOLDER / "vote.js"]),
    )
