"""What a search is asked to do, and so which search it is, however it was written."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import sha256
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.hydra_fal_launcher._composer import Composer, written
from kling_sweeps.errors import ConfigError
from kling_sweeps.experiment.config import read_all, read_job
from kling_sweeps.experiment.settings import Cell, Settings

from . import _sampling as sampling

DIRECTIONS = ("minimize", "maximize")


@dataclass(frozen=True)
class Jobs:
    """Composes the jobs of a search: the values of a trial, and what is the same for all, by its key."""

    config: DictConfig
    composer: Composer
    fixed: Mapping[str, str]

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        return [f"{name}={value}" for name, value in values.items()] + list(self.fixed.values())

    def compose(self, values: Mapping[str, Any]) -> DictConfig:
        return self.composer.compose(self.config, self.overrides(values))

    def read(self, values: Mapping[str, Any]) -> tuple[Settings, Cell]:
        return read_job(self.compose(values))


@dataclass(frozen=True)
class Asked:
    """A search: its jobs, what is searched, and the runs at the edges of that."""

    jobs: Jobs
    space: sampling.Space
    settings: Settings
    edges: Sequence[Cell]

    @property
    def options(self) -> DictConfig:
        """Return conf/hydra/sweeper/optuna.yaml, as it was changed."""
        options: DictConfig = self.jobs.config.hydra.sweeper
        return options

    @property
    def objective(self) -> str:
        """Return the metric that is searched by, which read_asked has seen to be given."""
        return self.settings.objective or ""

    @property
    def n_trials(self) -> int:
        """Return how many trials there shall be in all, no more than there are different ones."""
        if self.options.custom_search_space:
            return int(self.options.n_trials)
        return int(min(self.options.n_trials, math.prod(map(sampling.size, self.space.values()))))

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Return what tells a search from others: its name is a digest of it."""
        own = ("storage", "study_name", "custom_search_space")
        return {
            "objective": self.settings.objective,
            "direction": self.options.direction,
            "space": sampling.described(self.space),
            "sampler": OmegaConf.to_container(self.options.sampler, resolve=True),
            **{key: str(self.options[key]) for key in own if self.options[key]},
            "requests": [cell.request.key for cell in self.edges],
        }

    @property
    def name(self) -> str:
        digest = sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()
        return f"{self.settings.objective}-{digest[:16]}"

    @cached_property
    def dearest_usd(self) -> float | None:
        """Return the highest price of a trial in USD, None where one is unknown."""
        values = {name: sampling.edges(found)[0] for name, found in self.space.items()}
        price = None
        for name, found in self.space.items():
            prices: dict[Any, float] = {}
            for value in sampling.edges(found):
                usd = self.jobs.read(values | {name: value})[1].request.price_usd
                if usd is None:
                    return None
                prices[value] = usd
            values[name] = max(prices, key=prices.__getitem__)
            price = prices[values[name]]
        return price


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
    jobs = Jobs(config, composer, {k: written(o) for k, o in overrides.items() if not o.is_sweep_override()})
    firsts = {name: sampling.edges(found)[0] for name, found in swept.items()}
    declared = jobs.compose(firsts).model.get("arguments") or {}
    space = {n: sampling.stepped(found, declared.get(n.lstrip("+")) or {}) for n, found in swept.items()}
    settings, edges = read_all(partial(jobs.read, values) for values in _edges(space))
    if settings.objective is None:
        raise ConfigError("a search needs what to search by: objective=METRIC")
    return Asked(jobs, space, settings, edges)


def _check(options: DictConfig) -> None:
    problems = [
        f"hydra.sweeper.{key}={options[key]} is not a whole number of 1 or more"
        for key in ("n_trials", "n_jobs")
        if not isinstance(options[key], int) or options[key] < 1
    ]
    if options.direction not in DIRECTIONS:
        problems.append(
            f"hydra.sweeper.direction={options.direction} is unknown; valid are {', '.join(DIRECTIONS)}"
        )
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
