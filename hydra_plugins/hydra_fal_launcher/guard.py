"""What Hydra would silently get wrong in a sweep, refused; and a failed run, told in the exit code."""

from __future__ import annotations

import atexit
from collections.abc import Iterator
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, QuotedString
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from kling_sweeps import terminal
from kling_sweeps.address import holds_password
from kling_sweeps.config import FACTOR, ID, PASSWORD_IN_CONFIG, read_all, read_job
from kling_sweeps.errors import ConfigError, RefusedError, say_refused
from kling_sweeps.run import Runs

from ._composer import Composer


class Guard(Callback):
    """Refuses a sweep (exit code 2) that Hydra would run otherwise than it reads.

    Hydra turns an exception of a callback into a warning, hence SystemExit.
    """

    def __init__(self) -> None:
        self.failed = 0

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        self._refuse_passwords(config)

    def _refuse_passwords(self, config: DictConfig) -> None:
        """Refuse what Hydra would write down before anything else reads it."""
        whole = OmegaConf.to_container(config, resolve=False)
        for key in _keys_with_password(whole):
            raise SystemExit(say_refused(PASSWORD_IN_CONFIG.format(key)))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self._refuse_passwords(config)
        try:
            if problems := list(_problems(config)):
                raise ConfigError(*problems)
            _check_plan(config)
        except (RefusedError, HydraException) as error:
            raise SystemExit(say_refused(error)) from None

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        self.failed += job_return.status is JobStatus.FAILED

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if self.failed:
            raise SystemExit(1)


def _keys_with_password(value: Any, key: str = "") -> Iterator[str]:
    """Yield the keys whose values hold an address with a password."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _keys_with_password(inner, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        for inner in value:
            yield from _keys_with_password(inner, key)
    elif isinstance(value, str) and holds_password(value):
        yield key


def _problems(config: DictConfig) -> Iterator[str]:
    given = _overrides(config)
    texts = _text_keys(config, "\n".join(given))
    for override in OverridesParser.create().parse_overrides(given):
        if not isinstance(override.value(), ChoiceSweep):
            continue
        if override.key_or_group == "sweep":
            yield (
                f"{override.input_line} would run each sweep once, with the values of none. "
                "Run them one after another: python -m kling_sweeps +sweep=NAME"
            )
        elif override.key_or_group in texts and not _is_quoted(override):
            yield _split_text(override)


def _overrides(config: DictConfig) -> list[str]:
    """Return the overrides of a sweep as they were written: its file's, then the command line's."""
    sweeper = OmegaConf.to_container(config.hydra.sweeper, resolve=False)
    task = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    return [*(f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()), *task]


def _check_plan(config: DictConfig) -> None:
    """Read and plan all the jobs of a sweep that is known beforehand; raise RefusedError.

    Our launcher does that itself, where it gets all of them at once.
    """
    is_ours = config.hydra.launcher._target_.startswith(__package__)
    is_known = config.hydra.sweeper._target_.endswith("BasicSweeper")
    if not is_known or is_ours and config.hydra.sweeper.max_batch_size is None:
        return
    loader = Composer(GlobalHydra.instance().config_loader(), lambda config: None)
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(_overrides(config))
    (jobs,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    settings, cells = read_all(lambda job=job: read_job(loader.load_sweep_config(config, job)) for job in jobs)
    problems = []
    if settings.budget.partial:
        problems.append(
            "budget.partial=true chooses among all the runs of a sweep, which hydra/launcher=fal alone "
            "gets at once, without hydra.sweeper.max_batch_size"
        )
    if settings.policy.fail_fast and not is_ours:
        problems.append("fail_fast=true stops all the runs of a sweep, which hydra/launcher=fal alone can")
    cluster = config.hydra.runtime.choices.get("cluster", "local")
    if settings.provider.name == "auto" and cluster != "local":
        problems.append(
            f"cluster={cluster} has many machines, and with provider=auto each would decide alone whether it "
            "is for money: choose provider=fal or provider=emulator"
        )
    if problems:
        raise ConfigError(*problems)
    runs = Runs(settings, cells)
    if settings.dry_run:
        terminal.show_refusal(runs)
    else:
        runs.check()
        atexit.register(terminal.show_sweep, runs)  # Hydra calls nobody at the end where a run failed


def _text_keys(config: DictConfig, overrides: str) -> set[str]:
    """Return the keys whose values are texts: prompts, and whatever else a model or template takes."""
    arguments = OmegaConf.to_container(config.model, resolve=False).get("arguments") or {}
    strings = {name for name, argument in arguments.items() if argument.get("type") == "string"}
    prompts = str(OmegaConf.to_container(config.prompts, resolve=False))
    return strings | {"prompt"} | set(FACTOR.findall(prompts + overrides))


def _is_quoted(override: Override) -> bool:
    """Tell whether each element is a quoted text, or the id of a prompt."""
    return all(
        isinstance(element, QuotedString)
        or override.key_or_group == "prompt"
        and ID.fullmatch(str(element))
        for element in override.value().list
    )


def _split_text(override: Override) -> str:
    key, text = override.input_line.split("=", 1)
    each = ",".join(f"'{str(element).strip()}'" for element in override.value().list)
    return (
        f"{override.input_line} has a comma outside of quotes, where Hydra splits it into several "
        f"values.\n  For one text write    {key}=\"'{text.strip()}'\"\n"
        f'  for several texts     {key}="{each}"'
    )
