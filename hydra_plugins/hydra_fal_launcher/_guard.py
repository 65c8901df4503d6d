"""What Hydra would silently get wrong, refused before it writes anything; and a failed run, told in the exit code."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import ceil, prod
from pathlib import Path
from typing import Any, cast

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    Override,
    Quote,
    QuotedString,
    RangeSweep,
)
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from kling_sweeps.errors import ConfigError, say_refused
from kling_sweeps.experiment import hydra_private
from kling_sweeps.experiment.config import (
    COMMAND_ID,
    HOLDS_CREDENTIAL,
    ID,
    SWEPT,
    JobReader,
    read_all,
    read_job,
    read_prompts,
    read_settings,
)
from kling_sweeps.experiment.json_schema import takes_text
from kling_sweeps.experiment.overrides import spelled
from kling_sweeps.experiment.prompt import factors
from kling_sweeps.experiment.reader import leaves, said, unresolved
from kling_sweeps.experiment.refusals import message
from kling_sweeps.experiment.roles import IMAGE
from kling_sweeps.experiment.settings import Cell, OptimizeSettings, Settings
from kling_sweeps.experiment.tracking_uri import PASSWORD_IN_CONFIG, holds_password
from kling_sweeps.sweep import cluster
from kling_sweeps.sweep.earlier import settled
from kling_sweeps.sweep.job import at_end
from kling_sweeps.untrusted import secrets

from . import _outputs, _prompts
from ._composer import Composer, written

# More can't be looked over by anybody, and composing them takes minutes.
MOST_RUNS = 20_000
REPEATS_SWEEPER = "hydra_plugins.hydra_fal_repeats.repeats_sweeper.RepeatsSweeper"
FAIL_FAST = "fail_fast=true stops all the runs of a sweep, which hydra/launcher=fal alone can"
SEARCH = "hydra_plugins.hydra_fal_search.search_sweeper.SearchSweeper"


class Guard(Callback):
    """Refuses a command (exit code 2) that Hydra would run otherwise than it reads, or whose dumps would tell a secret.

    Hydra turns an exception of a callback into a warning, hence SystemExit.
    """

    def __init__(self) -> None:
        self.failed = 0

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with _refusing():
            _refuse_credentials(config)
            with open_dict(config):
                config.hydra.job.env_set[COMMAND_ID] = uuid.uuid4().hex
            if params := config.hydra.sweeper.get("params"):
                raise ConfigError(f"hydra.mode=RUN would leave out what is swept over: {', '.join(params)}")
            _refuse_folder(config)
            settings, _ = read_job(config)
            if settings.repeats:
                raise ConfigError("repeats.looks is for a sweep: add -m and values for repeats.factor")
            _refuse_optimize(config, settings)
            _outputs.make(config.hydra)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with _refusing():
            _refuse_credentials(config)
            overrides = _prompts.chosen(config, OverridesParser.create().parse_overrides(take_params(config)))
            if problems := list(command_problems(config, overrides)):
                raise ConfigError(*problems)
            tell_jobs(config, overrides)
            _choose_sweeper(config)
            _check_plan(config, overrides)
            _outputs.make(config.hydra)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        self.failed += job_return.status is JobStatus.FAILED

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if self.failed:
            raise SystemExit(1)


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise SystemExit(say_refused(message(error))) from None


def _refuse_credentials(config: DictConfig) -> None:
    """Refuse what Hydra would write down before any job is read."""
    for path, value in leaves(OmegaConf.to_container(config, resolve=False)):
        key = ".".join(name for name in path if isinstance(name, str))
        if any(secret in text for text in (key, str(value)) for secret in secrets()):
            raise ConfigError(HOLDS_CREDENTIAL.format(key))
        if holds_password(str(value)):
            raise ConfigError(PASSWORD_IN_CONFIG.format(key))


def _refuse_folder(config: DictConfig) -> None:
    # Where Hydra's own interpolations look: the config itself, which will be the next job's, where `set_config` has a copy.
    HydraConfig.instance().cfg = cast(Any, config)
    if problems := list(_outputs.problems(config.hydra)):
        raise ConfigError(*problems)


def _refuse_optimize(config: DictConfig, settings: Settings) -> None:
    """Refuse what only a search would heed."""
    is_search = config.hydra.mode == RunMode.MULTIRUN and config.hydra.sweeper._target_ == SEARCH
    if settings.optimize != OptimizeSettings() and not is_search:
        raise ConfigError(
            "optimize says what a trial of a search is, and this is none: add -m hydra/sweeper=optuna, or run "
            "+sweep=optimize"
        )


def take_params(config: DictConfig) -> list[str]:
    """Return the overrides of a sweep as they were written: its file's, then the command line's.

    The sweeper is given them all as if from the command line: it would resolve the file's before any job.
    """
    params = unresolved(config.hydra.sweeper).get("params") or {}
    if not isinstance(params, dict):
        raise ConfigError(f"hydra.sweeper.params is {params}, not a mapping of keys to values")
    given = [f"{key}={_values(key, value)}" for key, value in params.items()]
    overrides = spelled([*given, *unresolved(config.hydra.overrides)["task"]])
    with open_dict(config):
        config.hydra.overrides.task, config.hydra.sweeper.params = overrides, {}
    return overrides


def _values(key: str, value: Any) -> str:
    """Return a value of a sweep's params as Hydra's grammar has it; a list holds the values to sweep over."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value:
        return ",".join(map(_element, value))
    if isinstance(value, list | dict):
        raise ConfigError(
            f"hydra.sweeper.params.{key} is {value}; give the values to sweep over as a list, "
            "or in one text, as \"'A cat, asleep','A dog'\""
        )
    return said(value)


def _element(value: Any) -> str:
    if isinstance(value, list | dict):
        raise ConfigError(
            f"hydra.sweeper.params has {value} among the values of a list; each is a text or a number"
        )
    return QuotedString(value, Quote.single).with_quotes() if isinstance(value, str) else said(value)


def tell_jobs(config: DictConfig, overrides: Sequence[Override]) -> None:
    """Let every job, on whatever machine, know the command's id and the keys that it sweeps over."""
    last = {override.key_or_group: override for override in overrides}
    told = {
        COMMAND_ID: uuid.uuid4().hex,
        SWEPT: " ".join(key for key, override in last.items() if override.is_sweep_override()),
    }
    with open_dict(config):
        config.hydra.job.env_set.update(told)
        config.hydra.overrides.hydra.extend(
            [f"++hydra.job.env_set.{key}='{value}'" for key, value in told.items()]
        )


def command_problems(config: DictConfig, overrides: Sequence[Override]) -> Iterator[str]:
    if (number := prod(map(_number_of_values, overrides))) > MOST_RUNS:
        yield f"the sweep has {number:,} runs; at most {MOST_RUNS:,} are taken at once"
    texts = _text_keys(config, "\n".join(map(written, overrides)))
    for override in overrides:
        if not isinstance(override.value(), ChoiceSweep):
            continue
        if override.key_or_group == "sweep":
            yield (
                f"{override.input_line} would run each sweep once, with the values of none. "
                "Run them one after another: python -m kling_sweeps +sweep=NAME"
            )
        elif override.key_or_group in texts and not _is_quoted(override):
            yield _split_text(override)


def _number_of_values(override: Override) -> int:
    value = override.value()
    if isinstance(value, RangeSweep) and value.start is not None and value.stop is not None:
        return max(0, ceil((value.stop - value.start) / value.step))
    return len(value.list) if isinstance(value, ChoiceSweep) else 1


def _choose_sweeper(config: DictConfig) -> None:
    """Let the sweeper that adds repeats by looks do what Hydra's own would, where there is a plan of looks."""
    if not any(value is not None for value in (unresolved(config).get("repeats") or {}).values()):
        return
    if not _is_known(config):
        raise ConfigError(
            "repeats.looks is for all combinations of what is swept over, and a sweeper that searches has others: "
            "leave one of them out"
        )
    if config.hydra.sweeper.get("max_batch_size") is not None:
        raise ConfigError(
            "hydra.sweeper.max_batch_size: with repeats.looks, the runs of a look are begun together"
        )
    if config.fail_fast is True and not _is_ours(config):
        raise ConfigError(FAIL_FAST)
    with open_dict(config):
        config.hydra.sweeper = {"_target_": REPEATS_SWEEPER}


def _is_ours(config: DictConfig) -> bool:
    return str(config.hydra.launcher._target_).startswith(__package__)


def _is_known(config: DictConfig) -> bool:
    """Tell whether all the jobs of a sweep are known beforehand."""
    return str(config.hydra.sweeper._target_).endswith("BasicSweeper")


def _check_plan(config: DictConfig, overrides: Sequence[Override]) -> None:
    """Read and plan all the jobs of a sweep, where they are known beforehand; raise RefusedError."""
    is_alone = _is_ours(config) and config.hydra.sweeper.get("max_batch_size") is None
    machines = config.hydra.runtime.choices.get("cluster", "local")
    settings, cells = read_jobs(config, overrides) if _is_known(config) else (read_settings(config), [])
    problems = list(_unshared(config, settings)) if cells else []
    if machines != "local":
        problems += cluster.problems(settings, machines)
    if problems:
        raise ConfigError(*problems)
    _refuse_optimize(config, settings)
    if settings.judge and not cells:
        raise ConfigError(
            "which videos there will be is not known beforehand, and so not what judging them costs: leave judge out, and "
            "judge them afterwards, with python -m kling_sweeps.judge"
        )
    if cells and not is_alone:  # our launcher does so itself, where it has them all at once
        _check_runs(settings, cells, Path(config.hydra.sweep.dir))
    if machines != "local":
        cluster.announce(settings)


def _check_runs(settings: Settings, cells: Sequence[Cell], outputs: Path) -> None:
    # What plans runs takes longer to import than a wrong key to be found.
    from kling_sweeps.sweep import gates, summary
    from kling_sweeps.sweep.scheduler import Runs

    runs = Runs.read(settings, cells)
    if settings.judge:
        from kling_sweeps.sweep import judging

        runs = judging.planned(runs)
    if settings.dry_run:
        summary.show_refusal(runs)
        gates.show_expected(settings.expect)
        return
    runs.check()
    gates.check(settings.expect)
    at_end.callback(summary.show_sweep, runs, outputs)  # Hydra calls nobody at the end where a run failed


def _unshared(config: DictConfig, settings: Settings) -> Iterator[str]:
    """Yield what only our launcher can do, with all the runs of a sweep at once."""
    is_ours, batch = _is_ours(config), config.hydra.sweeper.max_batch_size
    if settings.budget.partial and not (is_ours and batch is None):
        yield (
            "budget.partial=true chooses among all the runs of a sweep, which hydra/launcher=fal alone "
            "gets at once, without hydra.sweeper.max_batch_size"
        )
    if settings.policy.fail_fast and not is_ours:
        yield FAIL_FAST
    if settings.provider.webhook and not is_ours:
        yield "provider.webhook.url leads to one process, and hydra/launcher=fal alone has all runs in one"
    if batch is not None and not (isinstance(batch, int) and batch > 0):
        yield f"hydra.sweeper.max_batch_size={batch} is not a whole number of 1 or more"


def read_jobs(config: DictConfig, overrides: Sequence[Override]) -> tuple[Settings, list[Cell]]:
    """Read every job of a sweep; what is read here is known to our launcher."""
    hydra = GlobalHydra.instance().hydra
    assert hydra  # it runs
    composer = Composer(hydra.config_loader)
    for override in overrides:
        override.config_loader = composer.loader
    jobs = hydra_private.jobs(overrides)
    if jobs is None:
        return read_settings(config), []  # our launcher reads them when it has them

    def read(number: int) -> tuple[Settings, Cell]:
        lent = composer.lend(config, jobs[number])
        lent.reader = lent.reader and lent.reader.after(lent.changed, lent.task)
        if lent.reader is None:
            composer.tell(lent, number)
            _refuse_folder(lent.config)
            lent.reader = JobReader(lent.config, lent.config.hydra)
        found = settled(*lent.reader.read())
        composer.keep(jobs[number], found)
        return found

    found = read_all(partial(read, number) for number in range(len(jobs)))
    if _is_ours(config):
        hydra.config_loader = composer.loader
    return found


def _text_keys(config: DictConfig, overrides: str) -> set[str]:
    """Return the keys whose values are texts: prompts, and whatever a model or template takes, but no files."""
    arguments = unresolved(config.model).get("arguments") or {}
    texts = {
        name for name, argument in arguments.items() if takes_text(argument) and argument.get("role") != IMAGE
    }
    strings = texts | {f"{group}.{name}" for name in texts for group in ("arguments", "where_taken")}
    return strings | {
        "prompt",
        *(name for prompt in read_prompts(config).values() for name in factors(prompt.text)),
        *factors(overrides),
    }


def _is_quoted(override: Override) -> bool:
    """Tell whether each element is a quoted text, or the id of a prompt."""
    return all(
        isinstance(element, QuotedString)
        or (override.key_or_group == "prompt" and ID.fullmatch(str(element)))
        for element in _choices(override)
    )


def _choices(override: Override) -> list[Any]:
    value = override.value()
    return list(value.list) if isinstance(value, ChoiceSweep) else []


def _split_text(override: Override) -> str:
    key, text = written(override).split("=", 1)
    texts = (element.text if isinstance(element, QuotedString) else element for element in _choices(override))
    each = ",".join(f"'{str(text).strip()}'" for text in texts)
    return (
        f"{override.input_line} has a comma outside of quotes, where Hydra splits it into several "
        f"values.\n  For one text write    {key}=\"'{text.strip()}'\"\n"
        f'  for several texts     {key}="{each}"'
    )
