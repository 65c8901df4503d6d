"""What the runs of an experiment vary, and what was measured of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from kling_sweeps.experiment.naming import is_of_video
from kling_sweeps.experiment.settings import Cell
from kling_sweeps.tracking.run_data import SERIES, SETTING, number, settings

# Params that are no settings: names and texts of the prompt, a model's address beside its name, and the repeat.
NO_SETTINGS = {"prompt", "prompt_text", "endpoint", "sample"}
# What is shown where a sweep names no goal.
USUAL = ("motion", "sharpness", "colorfulness", "luma_mean", "noise_sigma", "static_flicker")


@dataclass(frozen=True)
class RunFacts:
    """One run as MLflow has it, its latest metrics alone."""

    run_id: str
    status: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]

    @property
    def prompt(self) -> str:
        return self.params.get("prompt", "")

    @property
    def sample(self) -> str:
        return self.params.get("sample", "0")


def planned_run(cell: Cell) -> RunFacts:
    """Return a run that is not in MLflow yet, its request's key for an id."""
    params = {key: str(value) for key, value in cell.params.items()}
    return RunFacts(cell.request.key, "", params, settings(cell), {})


@dataclass(frozen=True)
class Overview:
    """The videos' runs of an experiment, and the metrics that its sweep names as its goals."""

    runs: Sequence[RunFacts]
    named: Sequence[str] = ()

    @cached_property
    def swept(self) -> dict[str, list[str]]:
        """Return the settings that have several values, each with its values in order; numbers come first.

        Where there are several models, what each of them has one value of is a part of the model.
        """
        keys = dict.fromkeys(key for run in self.runs for key in run.params if key not in NO_SETTINGS)
        params = [run.params for run in self.runs]
        found = {key: self._values(key) for key in keys if not is_of_model(key, params)}
        several = {key: values for key, values in found.items() if len(values) > 1}
        return dict(sorted(several.items(), key=lambda one: one[0] not in self._numeric(several)))

    @cached_property
    def numeric(self) -> list[str]:
        """Return the swept settings that charts can be drawn against."""
        return self._numeric(self.swept)

    @property
    def categorical(self) -> list[str]:
        return [key for key in self.swept if key not in self.numeric]

    @cached_property
    def prompts(self) -> list[str]:
        return self._values("prompt")

    @cached_property
    def samples(self) -> list[str]:
        return self._values("sample")

    @cached_property
    def metrics(self) -> list[str]:
        return sorted({name for run in self.runs for name in run.metrics})

    @property
    def series(self) -> list[str]:
        return [name for name in self.metrics if name.startswith(SERIES)]

    @property
    def goals(self) -> list[str]:
        """Return the metrics to show first: those the sweep names, or else usual ones, or else any."""
        measured = [name for name in self.metrics if not name.startswith((SERIES, SETTING))]
        others = [name for name in measured if is_of_video(name)]
        chosen = [name for name in self.named if name in measured]
        return chosen or [name for name in USUAL if name in measured] or others[: len(USUAL)]

    def setting(self, run: RunFacts) -> tuple[int, ...]:
        """Return where a run's settings stand among the values of each."""
        return tuple(
            values.index(run.params[key]) if key in run.params else -1 for key, values in self.swept.items()
        )

    def _values(self, key: str) -> list[str]:
        values = {run.params[key] for run in self.runs if key in run.params}
        numbers = {value: number(value) for value in values}
        if None in numbers.values():
            return sorted(values)
        return sorted(values, key=lambda value: numbers[value] or 0)

    def _numeric(self, values: Mapping[str, Sequence[str]]) -> list[str]:
        logged = {name.removeprefix(SETTING) for name in self.metrics if name.startswith(SETTING)}
        return [key for key in values if key in logged and all(number(v) is not None for v in values[key])]


def is_of_model(key: str, params: Iterable[Mapping[str, str]]) -> bool:
    """Tell whether a setting of several models has one value for each, so that it is a part of the model."""
    by_model: dict[str | None, set[str | None]] = {}
    for one in params:
        by_model.setdefault(one.get("model"), set()).add(one.get(key))
    return key != "model" and len(by_model) > 1 and all(len(values) == 1 for values in by_model.values())
