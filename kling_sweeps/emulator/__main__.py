"""`python -m kling_sweeps.emulator`: fal's queue on this machine."""

from __future__ import annotations

import argparse
import contextlib
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from kling_sweeps.errors import say
from kling_sweeps.experiment.emulator_settings import EmulatorSettings, JudgeSettings
from kling_sweeps.terminal import streams

REFUSED = 2
EPILOG = """\
Point fal at the address that is printed, for instance with
  python -m kling_sweeps +sweep=cfg provider=emulator provider.base_url=http://127.0.0.1:8900
GET /_emulator/ledger lists what was accepted and charged; PUT /_emulator/faults makes it misbehave:
  python -c "import kling_sweeps.emulator as e; print(e.__doc__)" explains both.
"""

# The default, what stands for the value in the help, and the help.
FLAGS = {
    "--host": ("127.0.0.1", "HOST", "address to listen on (%(default)s)"),
    "--port": (8900, "N", "port to listen on (%(default)s); 0 picks a free one"),
    "--slots": (2, "N", "requests that run at once (%(default)s, as at fal)"),
    "--latency": (0.2, "S", "least seconds that a generation takes (%(default)s)"),
    "--size": ("1280x720", "WxH", "pixels of a 16:9 video (%(default)s); 9:16 swaps them"),
    "--fps": (24, "N", "frames a second (%(default)s)"),
    "--judge-noise": (1.0, "N", "how far off judges are (%(default)s); 0 is not at all"),
    "--position-bias": (
        0.6,
        "SHARE",
        "of pairs, which of two equals the first wins (%(default)s); 0.5 is no bias",
    ),
    "--length-bias": (0.6, "SHARE", "the same, which the longer by a factor of two wins (%(default)s)"),
    "--key": (None, "KEY", "the only key that is accepted; without it any is"),
    "--state": (None, "DIR", "remember requests, ledger and videos here over a restart"),
    "--video": (None, "FILE", "what every request gets, in place of what is rendered"),
    "--history-lag": (0.0, "S", "seconds until an ended request is in the history"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted. Returns the exit code: 2 when it can't be started."""
    streams.settle()
    options = _parser().parse_args(arguments)
    try:
        settings = _settings(options)
        listener = _listen(options.host, options.port)
        _prepare(settings)
    except (ValueError, OSError) as error:
        say(f"kling_sweeps.emulator: {error}")
        return REFUSED
    from .server import serve

    parent = sys.stdin.buffer if options.parent_pipe else None
    with contextlib.suppress(KeyboardInterrupt), listener:
        serve(settings, listener, _announce, parent)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = streams.Parser(
        prog="python -m kling_sweeps.emulator",
        description="Speak fal's queue protocol on this machine, with synthetic videos.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for flag, (default, metavar, explanation) in FLAGS.items():
        kind = str if default is None else type(default)
        parser.add_argument(flag, type=kind, default=default, metavar=metavar, help=explanation)
    explanation = "a folder of model files, or an OpenAPI document; may be given again"
    parser.add_argument("--models", type=Path, metavar="PATH", action="append", default=[], help=explanation)
    explanation = "stop when standard input ends, as it does when a parent dies"
    parser.add_argument("--parent-pipe", action="store_true", help=explanation)
    return parser


def _settings(options: argparse.Namespace) -> EmulatorSettings:
    width, height = _size(options.size)
    return EmulatorSettings(
        slots=options.slots,
        latency_s=options.latency,
        width=width,
        height=height,
        fps=options.fps,
        judge=JudgeSettings(options.judge_noise, options.position_bias, options.length_bias),
        state_dir=None if options.state is None else Path(options.state),
        video=None if options.video is None else Path(options.video),
        history_lag_s=options.history_lag,
        models=tuple(options.models),
        key=options.key,
    )


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise ValueError(f"--size is {text!r}; it must be like 1280x720")
    return int(width), int(height)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError, TypeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"can't listen on {host}:{port}: {reason}. Choose another --port, or 0.") from None


def _prepare(settings: EmulatorSettings) -> None:
    """Make the folder of the state; raise ValueError or OSError for models that can't be read."""
    if settings.state_dir is not None:
        settings.state_dir.mkdir(parents=True, exist_ok=True)
    if settings.video is not None and not settings.video.is_file():
        raise ValueError(f"--video: there is no file {settings.video}")
    for path in settings.models:
        if not path.is_dir():
            from kling_sweeps.experiment import openapi

            try:
                openapi.parsed(path.read_text(encoding="utf-8-sig"))
            except ValueError as error:
                raise ValueError(f"--models: {path} {error}") from None


def _announce(base_url: str) -> None:
    print(f"emulating fal at {base_url} (videos are synthetic, nothing is bought)", flush=True)


if __name__ == "__main__":
    sys.exit(main())
