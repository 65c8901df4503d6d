"""`python -m kling_sweeps`: one run, or with `+sweep=NAME` a sweep."""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
import uuid
from typing import Any


def main() -> int:
    """Run the command; return its exit code: 0 all finished, 1 some run failed, 2 refused."""
    from kling_sweeps import console

    console.settle()
    import hydra
    import yaml
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from kling_sweeps import CONF
    from kling_sweeps.address import holds_password
    from kling_sweeps.config import COMMAND_ID, PASSWORD_IN_CONFIG
    from kling_sweeps.errors import RefusedError, RunError, say, say_refused
    from kling_sweeps.job import job

    for argument in filter(holds_password, sys.argv[1:]):  # Hydra would write it down before any config is read
        return say_refused(PASSWORD_IN_CONFIG.format(argument.partition("=")[0].strip("'\"")))
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.default_int_handler)  # which raises KeyboardInterrupt
    sys.unraisablehook = _interrupt_again
    sys.argv[1:] = sorted(sys.argv[1:], key=_is_override)  # Hydra wants them together, after its flags
    os.environ[COMMAND_ID] = uuid.uuid4().hex
    trace = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors over instead of exiting with 1
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
    except RunError as error:
        say(error)  # where it happened may be another machine
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except (RefusedError, HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        if trace:
            raise
        return say_refused(_message(error))
    return 0


def _interrupt_again(unraisable: Any) -> None:
    """Repeat a KeyboardInterrupt that struck in a finalizer, where Python swallows it."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, 0.05)
    else:
        sys.__unraisablehook__(unraisable)


def _is_override(argument: str) -> bool:
    return "=" in argument and not argument.startswith("-") or argument.startswith(("+", "~"))


def _message(error: Exception) -> str:
    """Return an error with its causes, which is where Hydra says what was wrong."""
    from kling_sweeps.config import KEYS
    from kling_sweeps.config_reader import close

    first, causes = error, [str(error)]
    while error := error.__cause__:
        if str(error) not in causes[-1]:
            causes.append(str(error))
    if key := re.match(r"Could not override '(\S+)'", causes[0]):
        advice = "; write +sweep=NAME" if key[1] == "sweep" else close(key[1], KEYS)
        return f"{key[1]} is not a key of the configuration{advice}"
    if value := re.match(r"Ambiguous value for argument '(\w+)=(.*)'$", causes[0].splitlines()[0]):
        return f"{value[1]}={value[2]} has a comma outside of quotes{_quoting(*value.groups())}"
    if (text := getattr(first, "override", None)) and "=" in text and not text.startswith("hydra"):
        causes[0] += _quoting(*text.split("=", 1))
    return "\n".join(causes)


def _quoting(key: str, value: str) -> str:
    text = value.strip("'\"").replace("'", "\\'")
    return f"\n  For one text write    {key}=\"'{text}'\"\n  To sweep over several values, add -m"


if __name__ == "__main__":
    code = main()
    gc.freeze()  # on its way out Python would look for garbage in all of MLflow, for most of a second
    sys.exit(code)
