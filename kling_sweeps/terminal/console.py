"""The console over the standard streams, on which tables and the live table are drawn."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from rich.console import Console
from rich.segment import Segment
from rich.text import Text

from kling_sweeps.untrusted import printable

# What takes the longest of a command that only reads.
READING = "Reading the runs from MLflow"
# Nobody's terminal, but a file or a pipe: as wide as a table reads well.
UNWATCHED_WIDTH = 160


class _Console(Console):
    """A console to which all text is text: no markup, and no escape sequence that is not its own."""

    def render(self, *args: Any, **kwargs: Any) -> Iterable[Segment]:
        for segment in super().render(*args, **kwargs):
            text = segment.text
            if segment.control or text == "\n" or text.isprintable():
                yield segment
            else:
                yield Segment(printable(text), segment.style)


console = _Console(highlight=False, markup=False, emoji=False)
if not console.is_terminal and "COLUMNS" not in os.environ:
    console.width = UNWATCHED_WIDTH


def working(what: str) -> AbstractContextManager[object]:
    """Show on a terminal, as long as a block runs, what it is that takes its time; nothing in a file or a pipe."""
    return console.status(what) if console.is_terminal else nullcontext()


def show_line(*parts: str | tuple[str, str]) -> None:
    """Print a line, which breaks where the terminal does: parts of it, each a text or a text and its style.

    Prints nothing where there is nothing to say.
    """
    if text := Text.assemble(*parts):
        console.print(text, soft_wrap=True)
