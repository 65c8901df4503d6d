"""What is asked of Optuna: what is searched, as its distributions, and the next proposals."""

from __future__ import annotations

import functools
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import optuna
from hydra.core.override_parser.types import (
    IntervalSweep,
    Override,
    RangeSweep,
    Transformer,
)
from hydra.errors import HydraException
from hydra.utils import get_method, instantiate
from omegaconf import DictConfig
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    DiscreteUniformDistribution,
    IntLogUniformDistribution,
    IntUniformDistribution,
    LogUniformDistribution,
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
DIRECTIONS = {"max": "maximize", "min": "minimize"}
STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


def distribution(override: Override) -> BaseDistribution:
    """Return what is searched by an override; raise ConfigError for a sweep that can't be."""
    given = override.value()
    try:
        if isinstance(given, IntervalSweep):
            return _interval(given.start, given.end, "log" in given.tags)
        if isinstance(given, RangeSweep) and not given.shuffle and given.step > 0:
            return _range(given.start, given.stop, given.step)
        choices: list[Any] = list(override.sweep_iterator(transformer=Transformer.encode))
        return CategoricalDistribution(choices)
    except (NotImplementedError, TypeError, ValueError, HydraException) as error:
        raise ConfigError(f"{override.input_line} can't be searched: {error}") from None


def _interval(low: Any, high: Any, is_log: bool) -> BaseDistribution:
    if isinstance(low, int) and isinstance(high, int):
        return IntLogUniformDistribution(low, high) if is_log else IntUniformDistribution(low, high)
    return LogUniformDistribution(low, high) if is_log else UniformDistribution(low, high)


def _range(start: Any, stop: Any, step: Any) -> BaseDistribution:
    """Return the values of a range, which is without its end."""
    last = start + step * (math.ceil((stop - start) / step) - 1)
    if all(isinstance(number, int) for number in (start, stop, step)):
        return IntUniformDistribution(start, last, step)
    return DiscreteUniformDistribution(start, round(last, 10), step)


def stepped(found: BaseDistribution, argument: Mapping[str, Any]) -> BaseDistribution:
    """Return an interval in steps of a power of ten, at most a hundredth of what a model's argument may be."""
    if not isinstance(found, UniformDistribution) or found.low == found.high:
        return found
    width = argument.get("maximum", math.inf) - argument.get("minimum", -math.inf)
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
    """Asks a sampler for proposals, given the trials so far; `config` is the master's, with Hydra's part.

    `goal` says of each metric that is searched by which way is better, max or min.
    """

    config: DictConfig
    space: Space
    fixed: Mapping[str, str]
    goal: Mapping[str, str]

    @property
    def directions(self) -> list[str]:
        return [DIRECTIONS[way] for way in self.goal.values()]

    def check(self) -> None:
        """Raise ConfigError where the sampler can't search this."""
        try:
            self._ask(self.study(()))
        except (ValueError, TypeError, RuntimeError, NotImplementedError, HydraException) as error:
            name = self.config.hydra.sweeper.sampler._target_.rpartition(".")[2]
            raise ConfigError(f"hydra/sweeper/sampler: {name} can't search this: {error}") from None

    def study(self, trials: Sequence[Trial]) -> optuna.Study:
        """Return a study that has all the trials that are over."""
        study = optuna.create_study(sampler=self._sampler(len(trials)), directions=self.directions)
        study.add_trials(filter(None, map(_frozen, trials)))
        return study

    def propose(self, trials: Sequence[Trial]) -> Iterator[Proposal]:
        """Yield proposals for as long as the sampler, or else chance, has any; some may be there already."""
        study = self.study(trials)
        for number in range(PATIENCE + LAST_PATIENCE):
            if number == PATIENCE and not self._is_grid:
                study.sampler = optuna.samplers.RandomSampler(seed=self._seed(len(trials) + number))
            yield self._ask(study)

    def _ask(self, study: optuna.Study) -> Proposal:
        trial = study.ask(dict(self.space))
        if self.config.hydra.sweeper.custom_search_space:
            for name, value in self.fixed.items():
                trial.set_user_attr(name, value)
            get_method(self.config.hydra.sweeper.custom_search_space)(self.config, trial)
        values = {name: _tidy(value, trial.distributions[name]) for name, value in trial.params.items()}
        return Proposal(values, described(trial.distributions), dict(trial.system_attrs))

    @property
    def _is_grid(self) -> bool:
        return "GridSampler" in self.config.hydra.sweeper.sampler._target_

    def _seed(self, more: int) -> int:
        """Return a seed of its own for each number of trials: a search that goes on must not begin anew."""
        return (self.config.hydra.sweeper.sampler.get("seed") or 0) + more

    def _sampler(self, done: int) -> optuna.samplers.BaseSampler:
        given = self.config.hydra.sweeper.sampler
        sampler = instantiate(given, **({"seed": self._seed(done)} if "seed" in given else {}))
        if isinstance(sampler, functools.partial):  # of a grid, which is to be told what is searched
            sampler = sampler({name: _grid(name, found) for name, found in self.space.items()})
        made: optuna.samplers.BaseSampler = sampler
        return made


def _frozen(trial: Trial) -> optuna.trial.FrozenTrial | None:
    """Return a trial that is over as Optuna has it, None for another."""
    if trial.state == "open":
        return None
    frozen: optuna.trial.FrozenTrial = create_trial(
        state=STATES[trial.state],
        values=trial.values or None,
        params=dict(trial.proposal.values),
        distributions={k: json_to_distribution(v) for k, v in trial.proposal.distributions.items()},
        user_attrs={"why": trial.why} if trial.why else {},
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
