"""The report of a sweep, one HTML file, made from what the store and MLflow have; nothing is submitted.

    python -m kling_sweeps.report cfg
    python -m kling_sweeps.report cfg --out cfg.html
    python -m kling_sweeps.report "cfg (emulator)"

It may be made at any time, while the sweep runs too: what has landed plays, the rest is shown as on its way.
MLflow is the one that MLFLOW_TRACKING_URI names, or else sqlite:///mlflow.db. The exit code is 0 when the report
was made, and 2 when it could not be.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kling_sweeps.errors import KlingSweepsError, explained, say, say_interrupted
from kling_sweeps.experiment.tracking_uri import default_uri
from kling_sweeps.terminal.console import working
from kling_sweeps.terminal.streams import Parser, settle


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the report, say where it is, and return the exit code."""
    settle()
    parser = Parser(
        "python -m kling_sweeps.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sweep", help="the name of a sweep, such as cfg, or of its experiment in MLflow")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="where to write it (outputs/SWEEP/report.html)"
    )
    parser.add_store()
    options = parser.parse_args(arguments)
    try:
        from kling_sweeps.reports.publish import make_report, name_in_note
        from kling_sweeps.tracking.note import REPORT

        uri = default_uri()
        path = options.out or Path("outputs", options.sweep.removeprefix("kling_sweeps/"), REPORT)
        with working("Making the report"):
            contents = make_report(options.sweep, options.store, uri, path)
            name_in_note(contents, uri)
    except (LookupError, KlingSweepsError) as error:
        say(error.args[0] if isinstance(error, LookupError) else error)
        return 2
    except OSError as error:
        say(f"the report can't be written: {explained(error)}")
        return 2
    except KeyboardInterrupt:
        return say_interrupted()
    print(f"{path}: {len(contents.of('finished'))} of {len(contents.videos)} videos")
    return 0


if __name__ == "__main__":
    sys.exit(main())
