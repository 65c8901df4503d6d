"""Have a model that sees grade the videos of a sweep that are in the store; nothing is generated.

    python -m kling_sweeps.judge cfg judge=fidelity dry_run=true
    python -m kling_sweeps.judge cfg judge=fidelity
    python -m kling_sweeps.judge cfg judge=fidelity judge.repeats=3 budget.max_usd=2

What it will cost at the most comes first, by the bound of a call (judge.max_usd). An answer is bought once, as a video is, and found
again; what it has cost is in the ledger. Each run gets a metric judge/QUESTION in MLflow, the mean grade of its repeats, and
judge/QUESTION/n, of how many. The exit code is 0, 1 where an answer is missing or has no grade, or 2 where the command was refused before
anything was submitted.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from kling_sweeps.errors import (
    ConfigError,
    RefusedError,
    say_interrupted,
    say_refused,
    submitted,
)
from kling_sweeps.terminal.streams import Parser, settle


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    settle()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # which raises KeyboardInterrupt
    parser = Parser(
        "python -m kling_sweeps.judge",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sweep", help="the name of a sweep, such as cfg, or of its experiment in MLflow")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="judge=NAME, and other keys of the config"
    )
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="your own folder of configs")
    options = parser.parse_args(arguments)
    submitted.clear()
    try:
        return 0 if _judge(options.sweep, options.overrides, options.config_dir) else 1
    except LookupError as error:
        return say_refused(error.args[0])
    except RefusedError as error:
        return say_refused(error)
    except KeyboardInterrupt:
        return say_interrupted()


def _judge(sweep: str, overrides: Sequence[str], config_dir: Path | None) -> bool:
    """Judge the videos of a sweep; return whether all of them have all their grades."""
    from hydra_plugins.hydra_fal_launcher._planned import read_command

    settings, _, _ = read_command(overrides, config_dir)
    if settings.judge is None:
        raise ConfigError("nobody is to judge: add judge=NAME, as judge=fidelity")
    from kling_sweeps.sweep.judging import judge_sweep

    return judge_sweep(settings, sweep)


if __name__ == "__main__":
    sys.exit(main())
