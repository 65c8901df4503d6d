"""What Hydra says when it refuses a command, in words that say what to write instead."""

from __future__ import annotations

import re
from dataclasses import fields

from kling_sweeps.experiment.emulator_settings import EmulatorSettings
from kling_sweeps.experiment.keys import KEYS
from kling_sweeps.experiment.prompt_file import READERS
from kling_sweeps.experiment.reader import LITERAL, close
from kling_sweeps.experiment.rubric import Rubric
from kling_sweeps.experiment.settings import (
    BudgetSettings,
    OptimizeSettings,
    PollSettings,
    ProviderSettings,
    RepeatSettings,
    WebhookSettings,
)
from kling_sweeps.experiment.yaml_files import PROMPTS

# What needs an extra of this package.
EXTRAS = {
    "hydra/sweeper/optuna": "optuna",
    "hydra/launcher/ray": "ray",
    "hydra/launcher/submitit_slurm": "slurm",
}
# What has the keys of a group.
GROUPS = {
    "budget": BudgetSettings,
    "judge": Rubric,
    "optimize": OptimizeSettings,
    "provider": ProviderSettings,
    "provider.emulator": EmulatorSettings,
    "provider.poll": PollSettings,
    "provider.webhook": WebhookSettings,
    "repeats": RepeatSettings,
}


def message(error: Exception) -> str:
    """Return an error with its causes, which is where Hydra says what was wrong."""
    first, causes = error, [str(error) or type(error).__name__]
    cause = error.__cause__
    while cause:
        if str(cause) not in causes[-1]:
            causes.append(str(cause))
        cause = cause.__cause__
    if isinstance(first, FileNotFoundError) and first.filename is None:
        return "the folder that this command was given in is gone; change to one that is there"
    missing = re.search(r"Could not find '(\S+)'", causes[0])
    if missing and missing[1] in EXTRAS:
        extra = EXTRAS[missing[1]]
        return f'{missing[1]} is not installed: pip install -c constraints.txt -e ".[{extra}]"'
    if missing and missing[1].startswith(PROMPTS):
        causes.append(f"  (a file of prompts ends in {', '.join(READERS)})")
    elif missing and (options := getattr(first, "options", None)):
        group, _, name = missing[1].rpartition("/")
        return f"there is no {group}={name}{close(name, options)}"
    if key := re.match(r"Could not override '(\S+)'", causes[0]):
        return f"{key[1]} is not a key of the configuration{_adding(key[1])}"
    if value := re.match(r"Ambiguous value for argument '(\w+)=(.*)'$", causes[0].splitlines()[0]):
        return f"{value[1]}={value[2]} has a comma outside of quotes{_quoting(*value.groups())}"
    if (text := getattr(first, "override", None)) and "=" in text and not text.startswith("hydra"):
        causes[0] += _quoting(*text.split("=", 1))
    if causes[0].startswith("Error merging override") and "${" in causes[0]:
        causes.append(f"  ({LITERAL})")
    return "\n".join(filter(None, causes))


def _adding(key: str) -> str:
    if key == "sweep":
        return "; write +sweep=NAME"
    if key == "hydra.sweeper.direction":
        return "; the goal says which way is better: 'goal={motion: max}'"
    if key in KEYS:
        return " that can be replaced; write a + before it, which adds to it"
    group = key.rpartition(".")[0]
    if group not in GROUPS:
        return close(key.partition(".")[0], KEYS)
    known = [f"{group}.{one.name}" for one in fields(GROUPS[group])]
    return f" without {group}=NAME" if key in known else close(key, known)


def _quoting(key: str, value: str) -> str:
    text = value.strip("'\"").replace("'", "\\'")
    return f"\n  For one text write    {key}=\"'{text}'\"\n  To sweep over several values, add -m"
