"""The player that every page with videos has: one clock that they follow, its bar, its style.

`bar.html` is to be included by a page; `STYLE` comes before its own style, and `SCRIPTS` before its own scripts.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

FOLDER = Path(__file__).parent
STYLE = (FOLDER / "style.css",)
SCRIPTS = tuple(FOLDER / name for name in ("tools.js", "clock.js", "bar.js"))
JSON = {"ensure_ascii": False, "separators": (",", ":"), "allow_nan": False}


def template(path: Path) -> Template:
    """Return the template of a page, in which all text is escaped and `base64` is a filter of bytes."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([path.parent, FOLDER]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = JSON
    environment.filters["base64"] = as_base64
    return environment.get_template(path.name)


def inlined(files: Sequence[Path]) -> Markup:
    """Return scripts, or style sheets, one after another, to stand in a page as they are."""
    from markupsafe import Markup

    return Markup("\n".join(file.read_text(encoding="utf-8") for file in files))


def as_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
