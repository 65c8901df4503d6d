"""What a search is asked to do, and so which search it is, however it was written."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from hashlib import sha256
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hydra_plugins.hydra_fal_launcher._composer import Composer, written
from kling_sweeps.errors import ConfigError
from kling_sweeps.experiment.config import MOST_OBJECTIVES, measured, read_all, read_settings
from kling_sweeps.experiment.reader import close
from kling_sweeps.experiment.settings import Cell, Settings
from kling_sweeps.sweep.earlier import read_job
from kling_sweeps.sweep.search import Cells

from . import _sampling as sampling
from ._sampling import Asker

# Which way is better, by a metric's own direction.
WAYS = {"higher": "max", "lower": "min"}


@dataclass(frozen=True)
class Jobs:
    """Composes the jobs of a search: the values of a trial, and what is the same for all, by its key.

    A trial has each of `prompts`, as overrides, and its repeats.
    """

    config: DictConfig
    composer: Composer
    fixed: Mapping[str, str]
    prompts: Sequence[str] = ()

    def overrides(self, values: Mapping[str, Any], *more: str) -> list[str]:
        replaced = {override.partition("=")[0] for override in more}
        fixed = [override for key, override in self.fixed.items() if key not in replaced]
        return [*(f"{name}={value}" for name, value in values.items()), *fixed, *more]

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        return self.composer.compose(self.config, list(overrides))

    def read(self, overrides: Sequence[str]) -> tuple[Settings, Cell]:
        return read_job(self.compose(overrides))

    def rows(self, values: Mapping[str, Any], samples: Sequence[int]) -> list[list[list[str]]]:
        """Return the overrides of all the runs of a setting: a row a prompt, in it a list a repeat."""
        prompts = [[prompt] for prompt in self.prompts] or [[]]
        return [
            [self.overrides(values, *prompt, f"sample={sample}") for sample in samples] for prompt in prompts
        ]

    def cells(self, values: Mapping[str, Any], samples: Sequence[int]) -> Cells:
        """Return the cells of all the runs of a setting, a row a prompt; raise ConfigError for one that is wrong."""
        return [[self.read(run)[1] for run in row] for row in self.rows(values, samples)]


@dataclass(frozen=True)
class Asked:
    """A search: its jobs, what is searched, and the runs at the edges of that."""

    jobs: Jobs
    space: sampling.Space
    settings: Settings
    goal: Mapping[str, str]
    edges: Sequence[Cell]

    @property
    def options(self) -> DictConfig:
        """Return conf/hydra/sweeper/optuna.yaml, as it was changed."""
        options: DictConfig = self.jobs.config.hydra.sweeper
        return options

    @property
    def samples(self) -> range:
        """Return the numbers of the repeats of a trial."""
        first = self.edges[0].request.sample
        return range(first, first + self.settings.optimize.samples)

    @property
    def further(self) -> range:
        """Return the numbers of the repeats by which the best is compared in the end, which no trial has."""
        return range(self.samples.stop, self.samples.stop + self.settings.optimize.confirm)

    @cached_property
    def default(self) -> Cells | None:
        """Return the runs of the setting that nothing is searched for, None where there is no such setting."""
        try:
            return self.jobs.cells({}, self.samples)
        except (ConfigError, HydraException, OmegaConfBaseException):
            return None

    @property
    def n_trials(self) -> int:
        """Return how many trials there shall be in all, no more than there are different ones."""
        if self.options.custom_search_space:
            return int(self.options.n_trials)
        return int(min(self.options.n_trials, math.prod(map(sampling.size, self.space.values()))))

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Return what tells a search from others: its name is a digest of it."""
        return {
            "goal": dict(self.goal),
            "samples": self.settings.optimize.samples,
            "space": sampling.described(self.space),
            "sampler": OmegaConf.to_container(self.options.sampler, resolve=True),
            "more": self.options.custom_search_space,
            "requests": [cell.request.key for cell in self.edges],
        }

    @property
    def name(self) -> str:
        digest = sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()
        return f"{'-'.join(self.goal)}-{digest[:16]}"

    @cached_property
    def dearest_usd(self) -> float | None:
        """Return the highest price of a run in USD, None where one is unknown."""
        values = {name: sampling.edges(found)[0] for name, found in self.space.items()}
        price = None
        for name, found in self.space.items():
            prices: dict[Any, float] = {}
            for value in sampling.edges(found):
                usd = self.read(values | {name: value})[1].request.price_usd
                if usd is None:
                    return None
                prices[value] = usd
            values[name] = max(prices, key=prices.__getitem__)
            price = prices[values[name]]
        return price

    @property
    def trial_usd(self) -> float | None:
        """Return the highest price of a trial in USD, None where one is unknown."""
        runs = len(self.samples) * (len(self.jobs.prompts) or 1)
        return None if self.dearest_usd is None else runs * self.dearest_usd

    @property
    def confirming_usd(self) -> float:
        """Return the highest price in USD of comparing the best in the end, 0 where that is unknown."""
        best = self.dearest_usd or 0.0
        other = (self.default[0][0].request.price_usd or 0.0) if self.default else 0.0
        return len(self.further) * (len(self.jobs.prompts) or 1) * (best + max(best, other))

    def read(self, values: Mapping[str, Any]) -> tuple[Settings, Cell]:
        """Read the first run of a setting."""
        return self.jobs.read(self.jobs.rows(values, self.samples[:1])[0][0])


def read_asked(config: DictConfig, composer: Composer, arguments: Sequence[str]) -> Asked:
    """Read what is asked for; raise ConfigError with what is wrong, at the edges of what is searched too.

    `arguments` are a sweep file's params as well, which the guard has put before those of the command line.
    """
    _check(config.hydra.sweeper)
    parser = OverridesParser.create(config_loader=composer.loader)
    overrides = {o.key_or_group: o for o in parser.parse_overrides(list(arguments))}
    swept = {
        o.get_key_element(): sampling.distribution(o) for o in overrides.values() if o.is_sweep_override()
    }
    if not swept:
        raise ConfigError(
            "nothing is searched: give a key an interval, like 'cfg_scale=interval(0, 1)', or values"
        )
    fixed = {k: written(o) for k, o in overrides.items() if not o.is_sweep_override()}
    jobs = Jobs(config, composer, fixed)
    firsts = {name: sampling.edges(found)[0] for name, found in swept.items()}
    first = jobs.compose(jobs.overrides(firsts))
    declared = first.model.get("arguments") or {}
    space = {
        n: sampling.stepped(found, declared.get(n.lstrip("+").rpartition(".")[2]) or {})
        for n, found in swept.items()
    }
    settings = read_settings(first)
    if problems := list(_problems(space, settings)):
        raise ConfigError(*problems)
    goal = _goal(settings)
    fixed["objective"] = f"objective=[{','.join(goal)}]"  # which each job returns, whatever its launcher
    prompts = [f"prompt={_quoted(prompt)}" for prompt in settings.optimize.prompts]
    jobs = replace(jobs, prompts=prompts)
    edges = [
        jobs.overrides(values, *prompt)
        for values in _edges(space)
        for prompt in [[p] for p in prompts] or [[]]
    ]
    settings, cells = read_all(partial(jobs.read, overrides) for overrides in edges)
    asked = Asked(jobs, space, settings, goal, cells)
    Asker(config, space, fixed, goal).check()
    return asked


def _problems(space: sampling.Space, settings: Settings) -> Iterator[str]:
    """Yield why these keys can't be searched."""
    if "sample" in space:
        yield "sample can't be searched: it is the number of a repeat, of which optimize.samples has more"
    if "prompt" in space and settings.optimize.prompts:
        yield "prompt is searched, and each trial has optimize.prompts: leave out one of them"


def _goal(settings: Settings) -> dict[str, str]:
    """Return the metrics that are searched by, and which way is better; raise ConfigError where that isn't clear."""
    known = measured(settings.metrics)
    names = settings.objective or tuple(settings.goal)
    ways = {name: settings.goal.get(name) or WAYS.get(known.get(name, "")) for name in names}
    problems = [f"goal.{name} is not measured{close(name, known)}" for name in names if name not in known]
    problems += [
        f"{name} is neither better when higher nor when lower by itself: say 'goal={{{name}: max}}' or min"
        for name, way in ways.items()
        if name in known and way is None
    ]
    if not names:
        problems.append("a search needs what to search by, one metric or two: 'goal={motion: max}'")
    if len(names) > MOST_OBJECTIVES:
        problems.append(
            f"a search is by one metric or two, and goal has {len(names)} ({', '.join(names)}): choose with "
            f"'objective=[{', '.join(names[:MOST_OBJECTIVES])}]'"
        )
    if problems:
        raise ConfigError(*problems)
    return {name: str(way) for name, way in ways.items()}


def _quoted(text: str) -> str:
    return QuotedString(text, Quote.single).with_quotes()


def _check(options: DictConfig) -> None:
    problems = [
        f"hydra.sweeper.{key}={options[key]} is not a whole number of 1 or more"
        for key in ("n_trials", "n_jobs")
        if not isinstance(options[key], int) or options[key] < 1
    ]
    rate = options.max_failure_rate
    if not isinstance(rate, (int, float)) or not 0 <= rate <= 1:
        problems.append(f"hydra.sweeper.max_failure_rate={rate} is not a number from 0 to 1")
    if problems:
        raise ConfigError(*problems)


def _edges(space: sampling.Space) -> Iterator[dict[str, Any]]:
    """Yield values that have each choice and each end of an interval once, with the firsts of all others."""
    firsts = {name: sampling.edges(found)[0] for name, found in space.items()}
    yield firsts
    for name, found in space.items():
        yield from (firsts | {name: value} for value in sampling.edges(found)[1:])
