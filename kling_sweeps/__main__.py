"""`python -m kling_sweeps`: one run, or with `+sweep=NAME` a sweep."""

from __future__ import annotations

import _thread
import gc
import os
import signal
import sys
import threading
from typing import Any, cast


def main() -> int:
    """Run the command; return its exit code: 0 all finished, 1 some run failed or was not judged, 2 refused, 3 a gate did not hold."""
    # Python looks for garbage each 700 new objects, which is a tenth of the time to `--help` and a sixteenth of a run's.
    gc.set_threshold(10_000)
    from kling_sweeps.terminal import streams

    streams.settle()
    import hydra

    from kling_sweeps import CONF
    from kling_sweeps.errors import RunError, say, say_interrupted, say_refused, submitted
    from kling_sweeps.experiment import yaml_files
    from kling_sweeps.experiment.overrides import spelled
    from kling_sweeps.experiment.prompt import sweeps
    from kling_sweeps.experiment.tracking_uri import PASSWORD_IN_CONFIG, holds_password
    from kling_sweeps.sweep.job import at_end, broken, job, unjudged

    # Hydra would write it down before any config is read.
    for argument in filter(holds_password, sys.argv[1:]):
        return say_refused(PASSWORD_IN_CONFIG.format(argument.partition("=")[0].strip("'\"")))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # which raises KeyboardInterrupt
    sys.unraisablehook = _interrupt_again
    given = sorted(sys.argv[1:], key=_is_override)  # Hydra wants them together, after its flags
    is_sweep = sweeps(given) and not any(argument.startswith("hydra.mode=") for argument in given)
    sys.argv[1:] = [*spelled(given), *["hydra.mode=MULTIRUN"] * is_sweep]
    submitted.clear()
    broken.clear()
    unjudged.clear()
    trace = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors over instead of exiting with 1
    with at_end:
        try:
            os.getcwd()
            yaml_files.install()
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
        except RunError as error:
            say(error)  # where it happened may be another machine
            return 1
        except KeyboardInterrupt:
            return say_interrupted()
        except Exception as error:
            if trace:
                raise
            from kling_sweeps.experiment.refusals import message  # which has all that can be said of a config

            return say_refused(message(error))
    return 1 if unjudged.is_set() else 3 if broken.is_set() else 0


def _interrupt_again(unraisable: Any) -> None:
    """Repeat a KeyboardInterrupt that struck in a finalizer, where Python swallows it."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        again = threading.Timer(0.05, _interrupt)
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(unraisable)


def _interrupt() -> None:
    if hasattr(signal, "pthread_kill"):  # which wakes the main thread, whatever it waits for
        signal.pthread_kill(cast(int, threading.main_thread().ident), signal.SIGINT)
    else:
        _thread.interrupt_main()


def _is_override(argument: str) -> bool:
    return ("=" in argument and not argument.startswith("-")) or argument.startswith(("+", "~"))


if __name__ == "__main__":
    try:
        sys.exit(main())
    finally:
        gc.freeze()  # on its way out Python would look for garbage in all of MLflow, for a second or more
