"""The streams that everything a person sees is written to, which take any text."""

from __future__ import annotations

import argparse
import codecs
import io
import logging
import os
import sys
import unicodedata
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from kling_sweeps.untrusted import mask, printable

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# What stands, in as many columns, for a character that a terminal can't show; for any other it is a question mark.
FALLBACKS = dict(zip("·–—−…×’“”→─━│", '----~x\'"">--|', strict=True))


def settle(drops_stdout: bool = True) -> None:
    """Make stdout and stderr take any text, whatever their encoding, and drop what can't be written.

    A command whose output is what it was run for hears of that on stdout, as an OSError.
    """
    logging.raiseExceptions = False  # which would print a traceback for a line that a log file can't take
    _open_closed()
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and not _is_windows_console(stream):
            file = _Unheard if drops_stdout or name == "stderr" else io.FileIO
            setattr(sys, name, _opened(file(number, "wb", closefd=False), stream))
        elif isinstance(stream, io.TextIOWrapper):  # or somebody else's, who collects what is said
            stream.reconfigure(errors=_shown_otherwise.__name__)


def _open_closed() -> None:
    """Open what is closed of the standard streams: the next file would take its place, and what is said."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)


def _is_windows_console(stream: io.TextIOWrapper | None) -> bool:
    """Tell whether a stream writes characters to Windows' console, which reads bytes by a code page of its own."""
    buffer: Any = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    return raw is not None and not isinstance(raw, io.FileIO)


def _opened(file: io.FileIO, stream: io.TextIOWrapper | None) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(file),
        encoding=stream.encoding if stream else "utf-8",
        errors=_shown_otherwise.__name__,
        line_buffering=stream is None or stream.line_buffering,
        write_through=stream is not None and stream.write_through,
    )


class _Unheard(io.FileIO):
    """A file that drops what can't be written, on a full disk or to nobody: what is paid for is still collected."""

    def write(self, content: ReadableBuffer) -> int:
        with suppress(OSError):
            return super().write(content)
        return memoryview(content).nbytes


def _shown_otherwise(error: UnicodeError) -> tuple[str, int]:
    """Return what is written for characters that an encoding doesn't have."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(FALLBACKS.get(c, "?" * _columns(c)) for c in missing), error.end


def _columns(character: str) -> int:
    """Return how many columns of a terminal a character takes."""
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


codecs.register_error(_shown_otherwise.__name__, _shown_otherwise)


class Handler(logging.Handler):
    """Prints messages on stderr as it is at the time: above the live table, while there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(ValueError):  # the process ends, and its streams are closed
            print(self.format(record), file=sys.stderr)


class Formatter(logging.Formatter):
    """Formats a message of a log, and its traceback, as text that shows no credential and steers no terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(mask(super().format(record)))


class Parser(argparse.ArgumentParser):
    """A parser of a command line whose errors show what was given as text."""

    def add_store(self) -> None:
        """Add --store, the folder of a store, which has to be there where it is given."""
        told = "the folder of store.dir (store)"
        self.add_argument("--store", type=_folder, default=Path("store"), metavar="DIR", help=told)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the command line in a line, and where the options are told; exit with 2."""
        self.exit(2, f"{printable(mask(message))} ({self.prog} --help lists the options)\n")


def _folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"there is no store at {text}")
    return Path(text)
