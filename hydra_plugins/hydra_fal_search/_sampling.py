"""What is private to Optuna and its Hydra plugin: what is searched, as distributions, and the next proposals."""

from __future__ import annotations

import functools
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any

import optuna
from hydra.core.override_parser.types import Override
from hydra.utils import get_method, instantiate
from hydra_plugins.hydra_optuna_sweeper._impl import (
    create_optuna_distribution_from_override,
)
from omegaconf import DictConfig
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    DiscreteUniformDistribution,
    IntLogUniformDistribution,
    IntUniformDistribution,
    UniformDistribution,
    distribution_to_json,
    json_to_distribution,
)
from optuna.trial import TrialState, create_trial

from kling_sweeps.errors import ConfigError
from kling_sweeps.sweep.search import Proposal, Trial

Space = Mapping[str, BaseDistribution]
# What Optuna says of itself at every start.
optuna.logging.set_verbosity(logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
# How often a sampler may propose what is there already before chance chooses, and chance before it ends.
PATIENCE, LAST_PATIENCE = 50, 2000
STEPS = 100
KEY = "request_key"


def distribution(override: Override) -> BaseDistribution:
    """Return what is searched by an override; raise ConfigError for a sweep that can't be."""
    try:
        found: BaseDistribution = create_optuna_distribution_from_override(override)
        return found
    except (NotImplementedError, AssertionError, ValueError) as error:
        raise ConfigError(f"{override.input_line} can't be searched: {error}") from None


def stepped(found: BaseDistribution, argument: Mapping[str, Any]) -> BaseDistribution:
    """Return an interval in steps of a power of ten, at most a hundredth of what a model's argument may be."""
    if not isinstance(found, UniformDistribution) or found.low == found.high:
        return found
    width = argument.get("max", math.inf) - argument.get("min", -math.inf)
    for whole in (width, found.high - found.low):
        step = (
            Decimal(10) ** math.floor(Decimal(str(whole / STEPS)).log10()) if math.isfinite(whole) else None
        )
        if step and (ends := _multiples(found, step)):
            return DiscreteUniformDistribution(*ends, float(step))
    return found


def _multiples(found: UniformDistribution, step: Decimal) -> tuple[float, float] | None:
    """Return the first and the last multiple of a step in an interval, None where there are not two."""
    low = math.ceil(Decimal(str(found.low)) / step) * step
    high = math.floor(Decimal(str(found.high)) / step) * step
    return (float(low), float(high)) if low < high else None


def _ends(found: BaseDistribution) -> tuple[Any, Any]:
    """Return the ends of an interval; every distribution but that of choices has them."""
    return found.low, found.high  # type: ignore[attr-defined]  # not of their common base


def edges(found: BaseDistribution) -> list[Any]:
    """Return all choices, or the ends of an interval."""
    return list(found.choices) if isinstance(found, CategoricalDistribution) else list(_ends(found))


def size(found: BaseDistribution) -> float:
    """Return how many values there are."""
    match found:
        case CategoricalDistribution():
            return len(set(found.choices))
        case DiscreteUniformDistribution():
            return round((found.high - found.low) / found.q) + 1
        case IntUniformDistribution():
            return (found.high - found.low) // found.step + 1
        case IntLogUniformDistribution():
            return found.high - found.low + 1
    return 1 if found.single() else math.inf


def described(space: Space) -> dict[str, str]:
    return {name: distribution_to_json(found) for name, found in space.items()}


@dataclass(frozen=True)
class Asker:
    """Asks a sampler for proposals, given the trials so far; `config` is the master's, with Hydra's part."""

    config: DictConfig
    space: Space
    fixed: Mapping[str, str]

    @property
    def direction(self) -> str:
        return str(self.config.hydra.sweeper.direction)

    def propose(self, trials: Sequence[Trial]) -> Iterator[Proposal]:
        """Yield proposals for as long as the sampler, or else chance, has any; some may be there already."""
        study = optuna.create_study(sampler=self._sampler(len(trials)), direction=self.direction)
        study.add_trials(filter(None, map(_frozen, trials)))
        study.add_trials(self._foreign())
        for number in range(PATIENCE + LAST_PATIENCE):
            if number == PATIENCE and not self._is_grid:
                study.sampler = optuna.samplers.RandomSampler(seed=self._seed(len(trials) + number))
            yield self._ask(study)

    def _ask(self, study: optuna.Study) -> Proposal:
        trial = study.ask()
        for name, found in self.space.items():
            trial._suggest(name, found)
        if self.config.hydra.sweeper.custom_search_space:
            for name, value in self.fixed.items():
                trial.set_user_attr(name, value)
            get_method(self.config.hydra.sweeper.custom_search_space)(self.config, trial)
        values = {name: _tidy(value, trial.distributions[name]) for name, value in trial.params.items()}
        return Proposal(values, described(trial.distributions), dict(trial.system_attrs))

    @property
    def _is_grid(self) -> bool:
        return "GridSampler" in self.config.hydra.sweeper.sampler._target_

    def _seed(self, more: int) -> int | None:
        """Return a seed of its own for each number of trials: a search that goes on must not begin anew."""
        seed = self.config.hydra.sweeper.sampler.get("seed")
        return None if seed is None else seed + more

    def _sampler(self, done: int) -> optuna.samplers.BaseSampler:
        given = self.config.hydra.sweeper.sampler
        sampler = instantiate(given, **({} if given.get("seed") is None else {"seed": self._seed(done)}))
        if isinstance(sampler, functools.partial):  # of a grid, which is to be told what is searched
            sampler = sampler({name: _grid(name, found) for name, found in self.space.items()})
        made: optuna.samplers.BaseSampler = sampler
        return made

    @cached_property
    def own_study(self) -> optuna.Study | None:
        """Return the study in the user's own storage; raise ConfigError where Optuna can't use it."""
        options = self.config.hydra.sweeper
        if not options.storage:
            return None
        storage = options.storage if isinstance(options.storage, str) else instantiate(options.storage)
        try:
            return optuna.create_study(
                storage=storage, study_name=options.study_name, direction=self.direction, load_if_exists=True
            )
        except Exception as error:  # of whichever database it is
            raise ConfigError(
                f"hydra.sweeper.storage: Optuna can't use it: {type(error).__name__}: {error}"
            ) from None

    def _foreign(self) -> list[optuna.trial.FrozenTrial]:
        """Return what the user's own study has of others."""
        found = self.own_study.trials if self.own_study else []
        return [t for t in found if t.state == TrialState.COMPLETE and KEY not in t.user_attrs]

    def export(self, trials: Sequence[Trial]) -> None:
        """Copy what is over to the user's own storage."""
        if self.own_study is None:
            return
        there = {t.user_attrs.get(KEY) for t in self.own_study.trials}
        new = [trial for trial in trials if trial.cell.request.key not in there]
        self.own_study.add_trials(filter(None, map(_frozen, new)))


def _frozen(trial: Trial) -> optuna.trial.FrozenTrial | None:
    """Return a trial that is over as Optuna has it, None for another."""
    if trial.state == "open":
        return None
    frozen: optuna.trial.FrozenTrial = create_trial(
        state=TrialState.COMPLETE if trial.state == "complete" else TrialState.FAIL,
        value=trial.value,
        params=dict(trial.proposal.values),
        distributions={k: json_to_distribution(v) for k, v in trial.proposal.distributions.items()},
        user_attrs={KEY: trial.cell.request.key},
        system_attrs=dict(trial.proposal.notes),
    )
    return frozen


def _tidy(value: Any, found: BaseDistribution) -> Any:
    """Return a value without what nobody asked for: float noise, or more than three digits of one without a step."""
    if not isinstance(value, float):
        return value
    if isinstance(found, DiscreteUniformDistribution):
        return round(value, 10)
    low, high = _ends(found)
    return min(max(float(f"{value:.3g}"), low), high)


def _grid(name: str, found: BaseDistribution) -> list[Any]:
    if isinstance(found, CategoricalDistribution):
        return list(found.choices)
    number = size(found)
    if math.isinf(number):
        raise ConfigError(f"hydra/sweeper/sampler=grid: {name} has no step")
    step = getattr(found, "q", getattr(found, "step", 1))
    low, _ = _ends(found)
    return [_tidy(low + n * step, found) for n in range(int(number))]
