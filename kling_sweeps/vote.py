"""Have people say which of two videos is better: a page on this machine, or one to send by mail.

    python -m kling_sweeps.vote cfg
    python -m kling_sweeps.vote cfg --question "Which one follows the prompt better?" --rater Ann
    python -m kling_sweeps.vote cfg --page vote.html
    python -m kling_sweeps.vote cfg --read votes-Ann.json votes-Bob.json

Two videos of the same prompt that differ in one setting, side by side and in step; nobody sees which is which. Votes are
in the store as soon as they are given, and in MLflow, as `votes/win_share` and `votes/n` of each run, when the command
ends. The exit code is 0, 1 where MLflow did not take them, or 2 where there is nothing to vote on or a file is wrong.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import socket
import sys
import threading
import webbrowser
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kling_sweeps.errors import ConfigError, KlingSweepsError, explained, say, say_interrupted
from kling_sweeps.experiment.tracking_uri import default_uri
from kling_sweeps.terminal.console import READING, working
from kling_sweeps.terminal.streams import Parser, settle
from kling_sweeps.untrusted import clean

if TYPE_CHECKING:
    from kling_sweeps.store.votes import Study
    from kling_sweeps.votes.poll import Poll

QUESTION = "Which one looks better?"


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the page, write it to a file, or read what came back; return the exit code."""
    settle()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # which raises KeyboardInterrupt
    options = _parser().parse_args(arguments)
    try:
        if options.read:
            return _read(options)
        return _send(options) if options.page else _serve(options)
    except (LookupError, KlingSweepsError) as error:
        say(error.args[0] if isinstance(error, LookupError) else error)
        return 2
    except OSError as error:
        say(explained(error))
        return 2
    except KeyboardInterrupt:
        return say_interrupted()


def _parser() -> Parser:
    parser = Parser(
        "python -m kling_sweeps.vote",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sweep", help="the name of a sweep, such as cfg, or of its experiment in MLflow")
    parser.add_argument("--factor", help="the setting in which two videos differ; needed where several vary")
    parser.add_argument("--question", metavar="TEXT", help=f"what is asked ({QUESTION})")
    parser.add_argument("--rater", metavar="NAME", help="who votes; without it, the page asks")
    parser.add_argument("--no-browser", action="store_true", help="print the address, and open no browser")
    parser.add_argument("--port", type=int, default=0, metavar="N", help="port to listen on (a free one)")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--page", type=Path, metavar="FILE", help="write a page to send by mail to FILE")
    way.add_argument(
        "--read", type=Path, nargs="+", metavar="FILE", help="take the votes that came back, each once"
    )
    parser.add_store()
    return parser


def _poll(options: argparse.Namespace) -> Poll:
    from kling_sweeps.votes.poll import read_poll

    question = QUESTION if options.question is None else options.question
    with working(READING):
        return read_poll(options.sweep, options.factor, question, options.store, default_uri())


def _serve(options: argparse.Namespace) -> int:
    from kling_sweeps.votes.poll import rater_name
    from kling_sweeps.votes.server import serve
    from kling_sweeps.votes.session import Session

    rater = None if options.rater is None else rater_name(options.rater)
    poll = _poll(options)

    def announce(address: str) -> None:
        print(f"{_said(poll)}\nVote at {address}\nCtrl-C ends it; every vote is kept at once.", flush=True)
        if not options.no_browser:
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    session = Session(poll)
    try:
        with _listening(options.port) as listener:
            serve(session, rater, listener, announce)
    except KeyboardInterrupt:
        pass  # which is how a session ends
    finally:
        session.close()
    return _track({poll.study: poll.provider}, options)


def _said(poll: Poll) -> str:
    pairs = len(poll.pairs(""))
    return f"{poll.study.question}\n{pairs} pairs of {len(poll.videos)} videos that differ in {poll.study.factor}"


def _listening(port: int) -> socket.socket:
    if not 0 <= port < 2**16:
        raise ConfigError(f"--port {port}: a port is a number from 0 to 65535; 0 picks a free one")
    try:
        return socket.create_server(("127.0.0.1", port), backlog=128)
    except OSError as error:
        raise ConfigError(f"--port {port}: {error.strerror}; leave it out, and a free one is taken") from None


def _send(options: argparse.Namespace) -> int:
    from kling_sweeps.votes.mail import make_page

    poll = _poll(options)
    shown = make_page(poll, options.page)
    left_out = len(poll.videos) - shown
    print(
        f"{options.page}: {shown} videos"
        + (f"; {left_out}, the last repeats, did not fit" if left_out else "")
    )
    words = (
        [options.sweep] if options.store == Path("store") else [options.sweep, "--store", str(options.store)]
    )
    print(f"Send it; read what comes back with: python -m kling_sweeps.vote {shlex.join(words)} --read FILE")
    return 0


def _read(options: argparse.Namespace) -> int:
    from kling_sweeps.tracking.tracker import sweep_name
    from kling_sweeps.votes.mail import read_files, take

    if options.factor or options.question:
        raise ConfigError("--read: the setting and the question are those of the page; leave them out")
    found = read_files(options.read, sweep_name(options.sweep), options.store)
    for file, received in zip(options.read, found, strict=True):
        new = take(received)
        voted = sum(event["event"] == "voted" for event in received.events)
        print(f"{file}: {new} of {voted} votes are new, by {received.rater}")
    return _track({received.study: received.provider for received in found}, options)


def _track(studies: dict[Study, str], options: argparse.Namespace) -> int:
    """Write to MLflow what people preferred, and say who voted how often."""
    from kling_sweeps.store.votes import votes_of
    from kling_sweeps.votes.results import track_votes

    for study, provider in studies.items():
        votes = [v for v in votes_of(options.store / provider, study.sweep) if v.study == study]
        raters = Counter(vote.rater for vote in votes)
        said = ", ".join(
            f"{number} votes by {rater}" if number > 1 else f"1 vote by {rater}"
            for rater, number in raters.most_common()
        )
        print(f"{study.question} {said or 'Nobody has voted yet.'}")
        try:
            for sentence in track_votes(study, provider, options.store, default_uri()):
                print(f"- {sentence}")
        except Exception as error:  # whatever MLflow, its database or its server raise
            say(f"The votes are in the store; MLflow did not take them: {clean(error)}")
            say(f"Again: python -m kling_sweeps.vote {options.sweep}, and Ctrl-C")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
