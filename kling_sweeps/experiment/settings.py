"""What a command is asked to do, as frozen dataclasses: its settings, and a cell for every run."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from kling_sweeps.experiment.emulator_settings import EmulatorSettings
from kling_sweeps.experiment.price import Price, Quote, quote
from kling_sweeps.experiment.request import GenerationRequest
from kling_sweeps.experiment.rubric import Rubric
from kling_sweeps.requested import Requested

if TYPE_CHECKING:
    from kling_sweeps.experiment.expectations import Expectations

# The param of an argument that a run's request has not.
NULL = "null"


@dataclass(frozen=True)
class PollSettings:
    """How long to wait between two looks at a request: a share of what it takes, within limits in seconds.

    `far_s` is the upper limit where the end is far off, or is told by a webhook.
    """

    share: float
    min_s: float
    max_s: float
    far_s: float

    def interval(self, wait_s: float, most_s: float = 0.0) -> float:
        """Return how many seconds to pause in a wait, a tenth more or less, so that runs don't ask in step.

        `most_s` stands for `max_s` where it is larger, up to `far_s`.
        """
        most_s = max(self.max_s, min(most_s, self.far_s))
        return _spread(min(most_s, max(self.min_s, self.share * wait_s)))

    def seldom(self) -> float:
        """Return how many seconds to pause where the end is told."""
        return _spread(self.far_s)


def _spread(seconds: float) -> float:
    return seconds * random.uniform(0.9, 1.1)


@dataclass(frozen=True)
class WebhookSettings:
    """How fal tells that a request is over: `url` is where it reaches this machine, `host` and `port` where that leads to."""

    url: str
    host: str
    port: int


@dataclass(frozen=True)
class ProviderSettings:
    """Who generates: `name` is auto, fal or emulator; `base_url` stands in for all of fal's hosts.

    Without `webhook` fal is asked alone.

    All in seconds: `timeout_s` is how long each step to a video is waited for, `pause_s` the time between
    two looks at a locked account, `history_wait_s` how long a lost submission is looked for, `late_s` how
    long after its completion a video that fal does not have is late, and not gone.
    """

    name: str
    base_url: str | None
    timeout_s: float
    pause_s: float
    history_wait_s: float
    late_s: float
    poll: PollSettings
    max_video_mb: float
    emulator: EmulatorSettings
    webhook: WebhookSettings | None = None


@dataclass(frozen=True)
class BudgetSettings:
    """What a command may cost in USD; `partial` runs as much of a plan as fits."""

    max_usd: float
    partial: bool
    allow_unknown_price: bool


@dataclass(frozen=True)
class RepeatSettings:
    """How many repeats the levels of a factor have at each look; `reference` is what they are compared with."""

    factor: str
    looks: Sequence[int]
    reference: Any = None


@dataclass(frozen=True)
class OptimizeSettings:
    """What a trial of a search is: `samples` repeats of each of `prompts`, ids or texts, or of the one of the job.

    The best setting and another one are compared by `confirm` further repeats each, 0 or 2 and more.
    """

    samples: int = 1
    prompts: Sequence[str] = ()
    confirm: int = 0


@dataclass(frozen=True)
class Policy:
    """What to do when something went wrong.

    `unknown` is wait or resubmit, `retry` none or failed, `on_interrupt` leave or cancel.
    """

    unknown: str = "wait"
    retry: str = "none"
    on_interrupt: str = "leave"
    fail_fast: bool = False


@dataclass(frozen=True)
class Settings:
    """What all the runs of one command share; `command` is its id, the same in all its processes.

    `objective` has the metrics, two at most, that a job returns to a sweeper, `goal` says of metrics which way is
    better (max or min), `expect` has the gates, `repeats` is None where each run is repeated alike, a frame of
    more than `max_pixels` is not decoded, and `judge` is None where nobody judges the videos.
    """

    sweep: str
    command: str
    provider: ProviderSettings
    store_dir: Path
    tracking_uri: str
    metrics: Mapping[str, Mapping[str, Any]]
    budget: BudgetSettings
    policy: Policy
    objective: Sequence[str]
    goal: Mapping[str, str]
    expect: Expectations
    repeats: RepeatSettings | None
    optimize: OptimizeSettings
    dry_run: bool
    max_pixels: int
    judge: Rubric | None = None


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: a request, and the words its configuration has for it.

    `prompt` is the id of a prompt set, or the text itself, "" of a model that takes none; `factors` are the values
    that a template took, and `name` is what a person calls the run. `prompt_argument` is what the endpoint calls its
    prompt, `by_sample` has the arguments that are the number of the repeat, `requested` is what the video is asked to
    be, `absent` has arguments that other models take and this request has not, and `remarks` are what a reader of the
    plan has to know. Where the store has the run under an earlier form of its model's file, `changes` say what is
    other there; or `added` has what is new in the file, at fal's default, and the request is the stored one.
    `price` is its file's, for `paid_s` seconds.
    """

    request: GenerationRequest
    model: str
    prompt: str
    factors: Mapping[str, str]
    name: str
    prompt_argument: str | None = "prompt"
    by_sample: Sequence[str] = ()
    requested: Requested = field(default_factory=Requested)
    absent: Sequence[str] = ()
    remarks: Sequence[str] = ()
    changes: Sequence[str] = ()
    added: Mapping[str, Any] = field(default_factory=dict)
    price: Price | None = None
    paid_s: float | None = None

    def quoted(self, told: Price | None) -> tuple[Self, Quote]:
        """Return the same run at the price that holds where fal says this of a unit, and whose word that is."""
        arguments, filed = self.request.arguments, self.request.price_usd
        plain = replace(self.price, tiers=()).of(arguments, self.paid_s) if self.price else filed
        found = quote(filed, plain, told.of(arguments, self.paid_s) if told else None)
        return replace(self, request=replace(self.request, price_usd=found.usd)), found

    def repeated(self, sample: int) -> Self:
        """Return the same run as another repeat."""
        name = f"{self.name.rpartition('#')[0]}#{sample}"
        arguments = {**self.request.arguments, **dict.fromkeys(self.by_sample, sample)}
        return replace(self, request=replace(self.request, arguments=arguments, sample=sample), name=name)

    @property
    def prompt_text(self) -> str:
        return str(self.request.arguments.get(self.prompt_argument or "", ""))

    @property
    def params(self) -> dict[str, Any]:
        """Return what MLflow logs as params, all but the texts being short.

        An argument that is called as another param is `arguments.NAME`.
        """
        before = {"prompt": self.prompt, "prompt_text": self.prompt_text}
        after = {"sample": self.request.sample, "model": self.model, "endpoint": self.request.endpoint}
        taken = {*before, *self.factors, *after}
        shown = {**self.request.shown, **self.added}
        arguments = {k: v for k, v in shown.items() if k != self.prompt_argument}
        return {
            **before,
            **dict.fromkeys(self.absent, NULL),
            **{f"arguments.{name}" if name in taken else name: value for name, value in arguments.items()},
            **self.factors,
            **after,
        }
