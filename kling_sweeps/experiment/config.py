"""From Hydra's DictConfig to frozen dataclasses: here it ends, and with it what Hydra would let pass."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import fields
from functools import cached_property, partial
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from kling_sweeps import CONF, metrics
from kling_sweeps.errors import ConfigError
from kling_sweeps.experiment import webhook
from kling_sweeps.experiment.emulator_settings import EmulatorSettings, JudgeSettings
from kling_sweeps.experiment.expectations import Expectations, read_expectations
from kling_sweeps.experiment.json_schema import Schema
from kling_sweeps.experiment.keys import ARGUMENTS, KEYS
from kling_sweeps.experiment.model import Model, read_model
from kling_sweeps.experiment.naming import JUDGED, NAMELESS, REPORTS, part
from kling_sweeps.experiment.picture import NO_PICTURE, Picture, beyond, find_picture, is_address
from kling_sweeps.experiment.prompt import (
    ALL,
    CHOICE,
    WAYS_TO_CHOOSE,
    Prompt,
    choices,
    chosen,
    factors,
    filled,
)
from kling_sweeps.experiment.prompt_file import READERS, is_prompt_file, read_prompt_file
from kling_sweeps.experiment.reader import (
    Reader,
    close,
    leaves,
    meant,
    nearest,
    reason,
    said,
    unresolved,
)
from kling_sweeps.experiment.request import GenerationRequest
from kling_sweeps.experiment.rubric import Rubric, read_rubric
from kling_sweeps.experiment.settings import (
    BudgetSettings,
    Cell,
    OptimizeSettings,
    Policy,
    PollSettings,
    ProviderSettings,
    RepeatSettings,
    Settings,
    WebhookSettings,
)
from kling_sweeps.experiment.tracking_uri import PASSWORD_IN_CONFIG, holds_password
from kling_sweeps.untrusted import secrets

if TYPE_CHECKING:
    from hydra.conf import HydraConf

# What a run is made of, besides ARGUMENTS and what is added: each is resolved anew for every job.
RUN_KEYS = frozenset({"prompt", "prompts", "sample", "arguments", "where_taken"})
# Keys of overrides that a run's name says, as they are resolved.
SAID = r"(model|prompts)\b"
SAID_RESOLVED = re.compile(rf"\+*{SAID}.*\$\{{", re.DOTALL)
HYDRAS = ("hydra",)
OF_NUMBER = re.compile(r"\$\{[^}]*\bjob\.(id|num)\b")
WAYS = ("max", "min")
# More than two can't be traded off by looking at them.
MOST_OBJECTIVES = 2
LAST_PORT = 65_535
CHOICES = {"unknown": ("wait", "resubmit"), "retry": ("none", "failed"), "on_interrupt": ("leave", "cancel")}
EMULATOR_COUNTS = ("slots", "width", "height", "fps")
# What every job of a command has in `hydra.job.env_set`: the command's id, and the keys that it sweeps over.
COMMAND_ID = "KLING_SWEEPS_COMMAND"
SWEPT = "KLING_SWEEPS_SWEPT"
HOLDS_CREDENTIAL = (
    "{} holds a credential, such as FAL_KEY, which would be sent, kept in the store and logged: take it out"
)
PROVIDERS = ("auto", "fal", "emulator")
ID = re.compile(r"[\w.-]+")
EXPERIMENT = re.compile(r"\w[\w.-]*")
SAMPLE = re.compile(r"\$\{\s*sample\s*\}")
# How what conf/config.yaml has for an argument, and for the experiment, begins.
MODELS_DEFAULT, SWEEPS_NAME = "${oc.select:model.", "${oc.select:hydra."
LONGEST_NAME = 60
TAKEN = {NAMELESS: "runs that were given no name", REPORTS: "reports of all sweeps"}
# More problems than these are counted.
MOST_PROBLEMS = 50


def read_all(jobs: Iterable[Callable[[], tuple[Settings, Cell]]]) -> tuple[Settings, list[Cell]]:
    """Read every job by what reads it; raise ConfigError with the problems of all."""
    problems: dict[str, None] = {}
    shared: dict[str, Settings] = {}
    cells = []
    for read in jobs:
        try:
            settings, cell = read()
        except ConfigError as error:
            problems.update(dict.fromkeys(error.problems))
        else:
            shared.setdefault(repr(settings), settings)
            cells.append(cell)
    if len(shared) > 1:
        keys = "experiment, provider, store, tracking, metrics, budget, objective, goal, expect, repeats, optimize, judge and dry_run"
        problems[f"{keys} are the same for all runs of a sweep; sweep something else"] = None
    for name in set.intersection(*({*cell.absent} for cell in cells)) - {*ARGUMENTS} if cells else ():
        problems[f"where_taken.{name}: none of the models takes {name}"] = None
    if not cells and not problems:
        problems["the sweep has no runs: one of its keys is swept over nothing"] = None
    if problems:
        more = len(problems) - MOST_PROBLEMS
        raise ConfigError(*[*problems][:MOST_PROBLEMS], *[f"and {more} problems more"] * (more > 0))
    return next(iter(shared.values())), cells


def read_job(cfg: DictConfig, hydra: DictConfig | HydraConf | None = None) -> tuple[Settings, Cell]:
    """Read one job's config, Hydra's own part in it or beside it; raise ConfigError with all its problems."""
    return JobReader(cfg, cfg.hydra if hydra is None else hydra).read()


def read_settings(cfg: DictConfig) -> Settings:
    """Read what all jobs of a command share; raise ConfigError with all its problems."""
    reader = JobReader(cfg, cfg.hydra)
    settings, _ = reader.shared
    if reader.problems:
        raise ConfigError(*reader.problems)
    return settings


def read_prompts(cfg: DictConfig) -> Mapping[str, Prompt]:
    """Read the prompts of a config's set by id; raise ConfigError."""
    reader = JobReader(cfg, cfg.hydra)
    found = reader.prompt_set
    if reader.problems:
        raise ConfigError(*reader.problems)
    return found


class JobReader(Reader):
    """Reads the config of one job, with Hydra's own part beside it."""

    def __init__(self, cfg: DictConfig, hydra: DictConfig | HydraConf) -> None:
        super().__init__(cfg)
        self.hydra = hydra
        self.task: Sequence[str] | None = None  # the job's overrides, where Hydra's part has those of another
        self.of_the_run: dict[frozenset[str], bool] = {}

    def read(self) -> tuple[Settings, Cell]:
        """Return what the job is; raise ConfigError with all problems."""
        settings, problems = self.shared
        self.problems = dict(problems)
        cell = self.cell()
        if self.problems or cell is None:
            raise ConfigError(*self.problems)
        return settings, cell

    def after(self, changed: Collection[str], task: Sequence[str]) -> JobReader | None:
        """Return a reader of the job that the config has become by a change of these keys at its top.

        `task` are the job's overrides. It keeps what was read of the rest, and of Hydra's part. None where more than the
        run is made of those keys, or the run of Hydra's part, and where a value holds a credential.
        """
        part = unresolved(OmegaConf.masked_copy(self.cfg, list(changed)))
        if not self.is_of_the_run(frozenset(changed)) or self.credentials(part):
            return None
        if _names(part, HYDRAS) or any(map(SAID_RESOLVED.match, task)):
            return None
        other = copy(self)
        other.task = task
        other.raw = {**self.raw, **part}
        other.known = {
            key: value
            for key, value in self.known.items()
            if key.partition(".")[0] not in {*changed, *RUN_KEYS}
        }
        for name in ("varied", "template_factors"):
            vars(other).pop(name, None)
        return other

    def is_of_the_run(self, changed: frozenset[str]) -> bool:
        """Tell whether the run alone is made of these keys, and nothing that all jobs share or that is read once."""
        if changed not in self.of_the_run:
            made_of = changed | {"overrides", "override_dirname"}
            while more := {key for key in RUN_KEYS - made_of if _names(self.raw.get(key), made_of)}:
                made_of |= more
            rest = {key: value for key, value in self.raw.items() if key not in changed | RUN_KEYS}
            hydras = unresolved(cast(DictConfig, self.hydra))
            hydras.pop("overrides")
            hydras["job"].pop("override_dirname")
            is_shared = changed & {*KEYS} - (RUN_KEYS - {"prompts"}) - {*ARGUMENTS}
            runs = {key: self.raw.get(key) for key in RUN_KEYS - changed}
            self.of_the_run[changed] = not (
                is_shared
                or _names(runs, HYDRAS)
                or _names([rest, hydras], made_of)
                or OF_NUMBER.search(str(rest))
            )
        return self.of_the_run[changed]

    @cached_property
    def shared(self) -> tuple[Settings, Mapping[str, None]]:
        """Return what all jobs share, as long as it is not made of what they differ in, and what is wrong with it."""
        self.report(*self.credentials(self.raw))
        settings, _, _ = self.settings(), self.prompt_set, self.model
        return settings, dict(self.problems)

    def credentials(self, raw: Mapping[str, Any]) -> list[str]:
        """Return what to say of every key of a part whose value, or what it is resolved to, holds a credential."""
        known, found = secrets(), []
        for path, value in leaves(raw) if known else ():
            texts = [*map(str, path), str(value)]
            if "${" in texts[-1] and path != ("tracking", "uri"):
                with suppress(OmegaConfBaseException):  # which is reported where the value is needed
                    texts.append(str(self.at(*path)))
            if any(secret in text for text in texts for secret in known):
                found.append(HOLDS_CREDENTIAL.format(".".join(texts[: len(path)])))
        return found

    def settings(self) -> Settings:
        for key, valid in (("store", ["dir"]), ("tracking", ["uri"]), ("measuring", ["max_pixels"])):
            self.group(key, valid)
        spec = self.value("metrics", {}) or {}
        return Settings(
            sweep=self.sweep(),
            command=self.hydra.job.env_set.get(COMMAND_ID) or self.folder(),
            provider=self.provider(),
            store_dir=self.store_dir(),
            tracking_uri=self.tracking_uri(),
            metrics=spec,
            budget=self.budget(),
            policy=Policy(
                **{key: self.choice(key, valid) for key, valid in CHOICES.items()},
                fail_fast=self.flag("fail_fast"),
            ),
            objective=self.objective(spec),
            goal=self.goal(spec),
            expect=self.expect(spec),
            repeats=self.repeats(spec),
            optimize=self.optimize(),
            dry_run=self.flag("dry_run"),
            max_pixels=int(self.number("measuring.max_pixels", 1, whole=True)),
            judge=self.judge,
        )

    def sweep(self) -> str:
        """Return what the runs are kept under together: a name that is given, else the sweep's, or NAMELESS."""
        if str(self.raw.get("experiment")).startswith(SWEEPS_NAME):
            return str(self.hydra.runtime.choices.get("sweep") or NAMELESS)
        value = self.value("experiment")
        name = said(value)
        if name in (NAMELESS, REPORTS):
            self.report(f"experiment={name} is taken: it has the {TAKEN[name]}; choose another name")
        if value is None or not EXPERIMENT.fullmatch(name) or len(name) > LONGEST_NAME:
            self.report(
                f"experiment={name} is no name: up to {LONGEST_NAME} letters, digits, . _ and -, as experiment=winter"
            )
        return name

    @cached_property
    def judge(self) -> Rubric | None:
        """Return who judges the videos, None where nobody does."""
        given = self.value("judge")
        try:
            return None if given is None else read_rubric(given)
        except ConfigError as error:
            self.report(*error.problems)
            return None

    def store_dir(self) -> Path:
        folder = self.value("store.dir")
        if not folder:
            self.report(
                "store.dir is not set; give a folder that all machines of the cluster share, at the same path"
            )
        return Path(str(folder)).expanduser()

    def objective(self, spec: metrics.Spec) -> tuple[str, ...]:
        """Return the metrics that a sweeper searches by; all the metrics are checked on the way."""
        given = self.value("objective")
        names = given if isinstance(given, list) else [] if given is None else [given]
        try:
            known = measured(spec)
            for name in names:
                if name not in known:
                    why = metrics.remarks(spec, [])
                    self.report(f"objective={said(name)} is not measured{close(name, known)}", *why)
        except ConfigError as error:
            self.report(*error.problems)
        if len(names) > MOST_OBJECTIVES or len({*map(said, names)}) < len(names):
            self.report(f"objective={said(given)} is neither a metric nor a list of two")
        return tuple(map(str, names))

    def optimize(self) -> OptimizeSettings:
        """Return what a trial of a search is."""
        self.group("optimize", (f.name for f in fields(OptimizeSettings)))
        confirm = int(self.number("optimize.confirm", whole=True))
        if confirm == 1:
            self.report(
                "optimize.confirm=1 is neither 0 nor 2 or more: one repeat does not tell its own noise"
            )
        return OptimizeSettings(
            int(self.number("optimize.samples", 1, whole=True)), self.searched_prompts(), confirm
        )

    def searched_prompts(self) -> tuple[str, ...]:
        """Return the prompts of a trial: those that are listed, or so many of the prompt set's first."""
        group = self.raw.get("optimize")
        # Unresolved: a template's factors differ by job.
        given = group.get("prompts") if isinstance(group, dict) else None
        if given is None:
            return ()
        if isinstance(given, str) and CHOICE.fullmatch(given):
            try:
                return tuple(chosen(given, [*self.prompt_set]))
            except ConfigError as error:
                self.report(f"optimize.prompts={error}")
                return ()
        if isinstance(given, int) and not isinstance(given, bool):
            known = tuple(self.prompt_set)
            if not 1 <= given <= len(known):
                self.report(
                    f"optimize.prompts={given} is not from 1 to {len(known)}, which the prompt set has"
                )
            return known[:given]
        names = given if isinstance(given, list) else [given]
        meanings = [name if isinstance(name, str) else meant(name, self.prompt_set) for name in names]
        prompts = tuple(dict.fromkeys(name for name in meanings if name is not None))
        if not prompts or len(prompts) < len(names):
            self.report(
                f"optimize.prompts={said(given)} is neither a number, a list of ids and texts, each once, nor all, pick(3) or glob(night_*)"
            )
        return prompts

    def goal(self, spec: metrics.Spec) -> dict[str, str]:
        """Return which way is better by metric; any metric that somebody knows will do, measured now or later."""
        goal = self.value("goal") or {}
        if not isinstance(goal, dict):
            self.report(f"goal={said(goal)} is not a mapping of metrics to max or min, as {{motion: max}}")
            return {}
        known = {*metrics.declared()}
        with suppress(ConfigError):  # which is reported with the objective
            known |= {*measured(spec)}
        for name, way in goal.items():
            if name not in known and not str(name).startswith(JUDGED):
                self.report(f"goal.{name} is no metric{close(name, known)}")
            if way not in WAYS:
                self.report(f"goal.{name}={said(way)} is neither max nor min")
        return {str(name): str(way) for name, way in goal.items()}

    def expect(self, spec: metrics.Spec) -> Expectations:
        """Return the gates, which are of metrics that are measured, or of what a judge gives."""
        known: Iterable[str] = metrics.declared()
        why: Sequence[str] = ()
        with suppress(ConfigError):  # which is reported with the objective
            known, why = measured(spec), metrics.remarks(spec, [])
        known = [*known, *(self.judge.metrics if self.judge else ())]
        found, problems = read_expectations(self.value("expect"), known)
        self.report(*problems, *(why if problems else ()))
        return found

    def repeats(self, spec: metrics.Spec) -> RepeatSettings | None:
        """Return by which plan repeats are added, None where there is none."""
        self.group("repeats", (f.name for f in fields(RepeatSettings)))
        factor, looks, reference = (self.value(f"repeats.{f.name}") for f in fields(RepeatSettings))
        if factor is None and looks is None:
            if reference is not None:
                self.report("repeats.reference is of a plan: give repeats.factor and repeats.looks too")
            return None
        if not isinstance(factor, str):
            self.report(f"repeats.factor={said(factor)} is no setting that is swept over, such as cfg_scale")
        is_list = isinstance(looks, list) and all(type(one) is int for one in looks)
        if not is_list or len(looks) < 2 or looks != sorted({*looks}) or looks[0] < 2:
            self.report(
                f"repeats.looks={said(looks)} is no list of two or more whole numbers, each larger than the one "
                "before it, from 2 on, as [2,4,6]"
            )
        if self.value("budget.partial") is True:
            self.report("budget.partial=true leaves repeats out, and repeats.looks adds them: choose one")
        self.check_looked_at(spec)
        return RepeatSettings(str(factor), tuple(looks) if is_list else (), reference)

    def check_looked_at(self, spec: metrics.Spec) -> None:
        """Report why the goal can't decide which levels are repeated."""
        goal = self.value("goal") or {}
        if not goal:
            self.report(
                "repeats.looks adds repeats by what the metrics of the goal show, and there is no goal: give one, as "
                "'goal={motion: max}'"
            )
        with suppress(ConfigError):  # which is reported with the objective
            known = measured(spec)
            for name in goal if isinstance(goal, dict) else ():
                if name not in known:
                    why = metrics.remarks(spec, [])
                    self.report(
                        f"goal.{name} decides about repeats, and is not measured{close(name, known)}", *why
                    )

    def folder(self) -> str:
        """Return the name of the folder that Hydra gives a command, which all its jobs share."""
        is_sweep = self.hydra.mode == RunMode.MULTIRUN
        return "-".join(Path(self.hydra.sweep.dir if is_sweep else self.hydra.run.dir).parts[-2:])

    def budget(self) -> BudgetSettings:
        self.group("budget", (f.name for f in fields(BudgetSettings)))
        return BudgetSettings(
            max_usd=self.number("budget.max_usd"),
            partial=self.flag("budget.partial"),
            allow_unknown_price=self.flag("budget.allow_unknown_price"),
        )

    def provider(self) -> ProviderSettings:
        self.group("provider", (f.name for f in fields(ProviderSettings)))
        self.group("provider.poll", (f.name for f in fields(PollSettings)))
        name = self.value("provider.name")
        if name not in PROVIDERS:
            self.report(f"provider={name} is unknown; valid are {', '.join(PROVIDERS)}")
        return ProviderSettings(
            name=str(name),
            base_url=self.base_url(),
            **{
                key: self.number(f"provider.{key}")
                for key in ("timeout_s", "pause_s", "history_wait_s", "late_s")
            },
            poll=PollSettings(
                **{f.name: self.number(f"provider.poll.{f.name}") for f in fields(PollSettings)}
            ),
            max_video_mb=self.number("provider.max_video_mb"),
            emulator=self.emulator(),
            webhook=self.webhook(),
        )

    def webhook(self) -> WebhookSettings | None:
        """Read where fal calls; None where it shall not."""
        self.group("provider.webhook", (f.name for f in fields(WebhookSettings)))
        url, host = self.value("provider.webhook.url"), said(self.value("provider.webhook.host"))
        port = int(self.number("provider.webhook.port", 1, whole=True))
        if port > LAST_PORT:
            self.report(f"provider.webhook.port={port} is not a port: 1 to {LAST_PORT}")
        if url is None:
            return None
        is_here = self.value("provider.name") == "emulator" or self.value("provider.base_url") is not None
        if why := webhook.problem(str(url), not is_here):
            self.report(f"provider.webhook.url={url} {why}")
        return WebhookSettings(str(url), host, port)

    def emulator(self) -> EmulatorSettings:
        """Read what the emulator is started with; its own class knows what is allowed."""
        self.group("provider.emulator", [*EMULATOR_COUNTS, "latency_s", "judge"])
        self.group("provider.emulator.judge", (f.name for f in fields(JudgeSettings)))
        given: dict[str, Any] = {
            key: self.number(f"provider.emulator.{key}", whole=True) for key in EMULATOR_COUNTS
        }
        given["latency_s"] = self.number("provider.emulator.latency_s")
        judge = {f.name: self.number(f"provider.emulator.judge.{f.name}") for f in fields(JudgeSettings)}
        given["models"] = tuple(dict.fromkeys(self.model_folders()))
        try:
            return EmulatorSettings(judge=JudgeSettings(**judge), **given)
        except ValueError as error:
            self.report(f"provider.emulator: {error}")
            return EmulatorSettings()

    def model_folders(self) -> Iterator[Path]:
        """Yield the folders of model files besides the package's own."""
        for source in getattr(self.hydra.runtime, "config_sources", None) or ():
            folder = Path(source.path) / "model"
            if source.schema == "file" and folder != CONF / "model" and folder.is_dir():
                yield folder

    def base_url(self) -> str | None:
        url = self.value("provider.base_url")
        if url is None:
            return None
        try:
            parts = urlsplit(str(url))
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            good = False
        if not good or parts.path.strip("/") or parts.username or parts.query:
            self.report("provider.base_url is not the address of a server alone, like http://127.0.0.1:8900")
        return str(url).rstrip("/")

    def tracking_uri(self) -> str:
        uri = str(self.value("tracking.uri") or "")
        if not uri:
            self.report("tracking.uri is not set; set MLFLOW_TRACKING_URI to the server's address")
        if holds_password(str(self.raw.get("tracking", {}).get("uri"))):
            self.report(PASSWORD_IN_CONFIG.format("tracking.uri"))
        return uri

    def cell(self) -> Cell | None:
        model = self.model
        has_prompt = model is None or self.has_prompt(model)
        prompt = self.prompt() if has_prompt else None
        if model is None:
            return None
        self.unknown_keys(model)
        pictures: dict[str, Picture] = {}
        factors, arguments = self.made(model, prompt, pictures) if prompt or not has_prompt else ({}, {})
        sample = int(self.number("sample", whole=True))
        if self.problems:
            return None
        price_usd = model.price_usd(arguments)
        request = GenerationRequest(
            model.endpoint, arguments, sample, price_usd, [*pictures.values()], model.form(arguments)
        )
        name = said(self.raw["prompt"]) if has_prompt else ""
        name = name if name in self.prompt_set else str(arguments.get(model.prompt or "", ""))
        places = self.places(model)
        return Cell(
            request,
            model.name,
            name,
            factors,
            self.name(request, name, factors, model),
            model.prompt,
            [
                one
                for one, path in places.items()
                if one in arguments and SAMPLE.fullmatch(str(self.unresolved(*path)))
            ],
            model.requested(arguments),
            [one for one in places if one not in (arguments if one in ARGUMENTS else model.arguments)],
            model.remarks(arguments),
            price=model.price,
            paid_s=model.paid_s(arguments),
        )

    def has_prompt(self, model: Model) -> bool:
        """Tell whether a prompt is sent; report one that was given and would not be."""
        is_left_out = self.raw.get("prompt") is None and model.prompt not in model.required
        if model.prompt and not is_left_out:
            return True
        if not model.prompt and "prompt" in self.varied[0]:
            self.report(f"prompt: {model.name} takes no prompt; none of its arguments has the role prompt")
        return False

    def places(self, model: Model) -> dict[str, tuple[str, ...]]:
        """Return where the values of arguments stand in the config.

        What `where_taken` has is for the models that take it. Any argument can be given as `arguments.NAME`, and as
        NAME alone where that is no other key and no factor of a template.
        """
        by_name = {*ARGUMENTS, *self.by_name(model)}
        found: dict[str, tuple[str, ...]] = {name: (name,) for name in self.raw if name in by_name}
        for name in self.names("where_taken"):
            if not self.is_given(name):
                found[name] = ("where_taken", name)
        return found | {name: ("arguments", name) for name in self.names("arguments")}

    def names(self, key: str) -> Iterable[str]:
        """Return the arguments that a mapping of the config gives values for."""
        group = self.raw.get(key) or {}
        if not isinstance(group, dict):
            self.report(f"{key}={said(group)} is not a mapping of arguments to values")
            return ()
        return tuple(group)

    def by_name(self, model: Model) -> set[str]:
        """Return the arguments of a model whose names are keys of the config."""
        return {*model.arguments} - ({*KEYS, *self.template_factors} - {*ARGUMENTS}) - {model.prompt}

    @cached_property
    def template_factors(self) -> set[str]:
        """Return the factors of all templates, of the set and of the command line."""
        return {*self.set_factors, *factors(str(self.raw.get("prompt")))}

    def resolved(self, *path: str) -> Any:
        """Return the value at a path; report where it can't be resolved."""
        key = ".".join(path)
        try:
            if key not in self.known:
                self.known[key] = self.at(*path)
            return self.known[key]
        except OmegaConfBaseException as error:
            self.report(f"{'.'.join(path)}: {reason(error)}")
            return None

    def unresolved(self, *path: str) -> Any:
        node: Any = self.raw
        for name in path:
            node = node[name]
        return node

    @cached_property
    def model(self) -> Model | None:
        try:
            return read_model(self.value("model", {}))
        except ValueError as error:
            self.report(str(error))
            return None

    def prompt(self) -> Prompt | None:
        """Return the prompt that is meant, None where there is none."""
        given, known = self.raw.get("prompt"), self.prompt_set
        name = given if isinstance(given, str) else meant(given, known)
        if name is None:
            self.report(f"prompt={said(given)} is neither an id of the prompt set nor a text; quote it")
        elif name in known:
            self.raw["prompt"] = name
            return known[name]
        elif CHOICE.fullmatch(name):
            self.report(
                f"prompt={name} chooses the prompts of a sweep; give it alone, on the command line or in a sweep"
            )
        elif known and ID.fullmatch(name):
            self.report(self.not_in_set(name, known))
        elif known or not self.problems:
            return Prompt(name, "prompt", path=("prompt",))
        return None

    def not_in_set(self, name: str, known: Mapping[str, Prompt]) -> str:
        """Return what to say of an id that the set has not, which nobody may have given."""
        file = self.raw["prompts"]
        where = file if isinstance(file, str) else "the prompt set"
        has = f"has {choices([*known])}"
        if "prompt" not in self.varied[0]:
            return f"{where} {has}"
        meant = nearest(name, [*known, *WAYS_TO_CHOOSE])
        told = f"did you mean {meant}?" if meant else f"it {has}"
        return f"prompt={name} is not in {where}; {told} (A text of one word goes into a set of your own.)"

    def made(
        self, model: Model, prompt: Prompt | None, pictures: dict[str, Picture]
    ) -> tuple[dict[str, str], dict[str, Any]]:
        """Return the factors that a prompt's text takes, and the arguments with it; report what is wrong.

        What the command gives comes before what the prompt set brings along, and that before the default. Local files
        among the arguments are added to `pictures`.
        """
        brought = prompt.values if prompt else {}
        taken = self.factors(prompt) if prompt else {}
        text = None if taken is None or prompt is None else self.filled(prompt, taken)
        places = {name: path for name, path in self.places(model).items() if name in model.arguments}
        theirs = {
            name
            for name in brought
            if name in {*ARGUMENTS, *self.by_name(model)}
            and not (name in places and self.is_set(places[name]))
        }
        given = {name: self.resolved(*path) for name, path in places.items() if name not in theirs}
        given |= {name: brought[name] for name in theirs}
        if model.prompt and prompt:
            given[model.prompt] = text
        for name, value in given.items():
            where = f"{prompt.where}: {name}" if prompt and name in theirs else name
            given[name] = model.with_pictures(name, value, partial(self.picture, where, pictures))
        arguments, problems = model.read_arguments(given)
        if prompt and prompt.path is None:  # the text is the set's, too
            theirs |= {str(model.prompt)}
        for problem in problems:
            name = re.split(r"[=\[.]", problem, maxsplit=1)[0]
            if self.is_model_swept:
                problem = f"{model.name}: {problem}"
            if text is not None or name != model.prompt:  # which is reported already
                self.report(f"{prompt.where}: {problem}" if prompt and name in theirs else problem)
        return taken or {}, arguments

    def picture(self, where: str, pictures: dict[str, Picture], given: str, schema: Schema) -> str:
        """Return what an argument has for a picture: an address as it is, or what stands for a local file."""
        # A value is seen once for each alternative of its schema: what was read or refused before stays.
        if is_address(given) or given in pictures or (given == NO_PICTURE and self.problems):
            return given
        try:
            picture = find_picture(Path(self.hydra.runtime.cwd, given).expanduser())
        except ValueError as error:
            self.report(f"{where}={error}")
            return NO_PICTURE
        if why := beyond(picture, schema.get("x-fal", {})):
            self.report(f"{where}={picture.path}: {why}")
        return pictures.setdefault(picture.mark, picture).mark

    def is_set(self, path: tuple[str, ...]) -> bool:
        """Tell whether the command gives a value at a place of an argument."""
        return len(path) > 1 or self.is_given(*path)

    def setting(self, key: str, prompt: Prompt) -> Any:
        """Return what an argument or a factor is: given by the command, else by the prompt set, else the default."""
        return prompt.values[key] if key in prompt.values and not self.is_given(key) else self.value(key)

    def is_given(self, key: str) -> bool:
        """Tell whether the command gives an argument or a factor a value."""
        return key in self.raw and not str(self.raw[key]).startswith(MODELS_DEFAULT)

    def factors(self, prompt: Prompt) -> dict[str, str] | None:
        """Return the values that a template takes, by name; None where one of them is missing."""
        names = factors(prompt.text)
        missing = [name for name in names if name not in {*self.raw, *prompt.values}]
        for name in missing:
            self.report(
                f"{prompt.where} has ${{{name}}}, and there is no {name}: give one, as +{name}=\"'a text'\", or "
                f"write \\${{{name}}} where these characters are meant"
            )
        return None if missing else {name: str(self.setting(name, prompt)) for name in names}

    def filled(self, prompt: Prompt, factors: Mapping[str, str]) -> str | None:
        return filled(prompt.text, factors) if prompt.path is None else self.text(*prompt.path)

    def text(self, *path: Any) -> str | None:
        """Return the text at a path; report where there is none."""
        key, text = ".".join(map(said, path)), None
        try:
            text = self.at(*path)
        except MissingMandatoryValue:
            pass
        except OmegaConfBaseException as error:
            self.report(f"{key}: {reason(error)}")
            return None
        if text is None:
            self.report(f"{key} has no text")
        return text

    @cached_property
    def prompt_set(self) -> Mapping[str, Prompt]:
        """Return the prompts of the set by id."""
        prompts = self.raw.get("prompts") or {}
        if isinstance(prompts, str) and is_prompt_file(prompts):
            try:
                return read_prompt_file(Path(self.hydra.runtime.cwd, prompts).expanduser())
            except ConfigError as error:
                self.report(*error.problems)
                return {}
        if not isinstance(prompts, dict):
            self.report(
                f"prompts={said(prompts)} is neither a mapping of ids to texts nor a file of prompts "
                f"({', '.join(READERS)})"
            )
            return {}
        return {said(name): self.entry(name, entry) for name, entry in prompts.items()}

    def entry(self, name: Any, entry: Any) -> Prompt:
        """Return a prompt that a YAML file has under an id."""
        is_mapping = isinstance(entry, dict)
        text = entry.get("text") if is_mapping else entry
        if (is_mapping and set(entry) != {"text"}) or text is None:
            self.report(f"prompts.{said(name)} is neither a text nor a mapping with `text` alone")
        elif not isinstance(text, str):
            self.report(f"prompts.{said(name)} is {text!r}, not a text; YAML wants it in quotes")
        elif name == ALL:
            self.report(f"prompts.{ALL} is no id: prompt={ALL} is the whole set")
        path = ("prompts", name, "text")[: 2 + is_mapping]
        return Prompt(str(text), ".".join(map(said, path)), path=path)

    @cached_property
    def set_factors(self) -> set[str]:
        """Return the factors of all the templates of the set."""
        return {name for prompt in self.prompt_set.values() for name in factors(prompt.text)}

    def unknown_keys(self, model: Model) -> None:
        """Report keys, of the config and of a set's file, that neither this project, the model nor a template knows."""
        prompt = str(self.raw.get("prompt"))
        own = self.prompt_set[prompt].values if prompt in self.prompt_set else ()
        taken = {*self.by_name(model), *self.template_factors}
        for key in self.raw:
            if key == "sweep":
                self.report("a file of conf/sweep/ must begin with `# @package _global_`")
            elif key not in {*KEYS, *taken}:
                self.report(f"{key} is unknown{self.elsewhere(key, model) or close(key, {*KEYS, *taken})}")
            elif key not in model.arguments and key in ARGUMENTS and self.value(key) is not None:
                elsewhere = self.elsewhere(key, model) or f": {model.name} takes no {key}"
                self.report(f"{key}={self.value(key)}{elsewhere}")
        for key in self.names("arguments"):
            if key not in model.arguments:
                self.report(f"arguments.{key}: {model.name} takes no {key}{close(key, model.arguments)}")
        for key in own:
            if key not in taken:
                self.report(
                    f"{self.raw['prompts']}: {key} is neither an argument of {model.name} nor a factor of a text"
                    f"{close(key, taken)} (a name that begins with _ is a note)"
                )

    @property
    def is_model_swept(self) -> bool:
        return "model" in (self.hydra.job.env_set.get(SWEPT) or "").split()

    def elsewhere(self, key: str, model: Model) -> str:
        """Return how an argument is set for other models of a sweep, where there are any."""
        is_swept = self.is_model_swept
        return f": {model.name} takes no {key}; where_taken.{key} sets it for models that do" * is_swept

    @cached_property
    def varied(self) -> tuple[dict[str, str], set[str]]:
        """Return what the command gives, as it is written, and the keys that a run's name says."""
        task = self.hydra.overrides.task if self.task is None else self.task
        given = dict(override.lstrip("+~").partition("=")[::2] for override in task)
        swept = self.hydra.job.env_set.get(SWEPT)
        return given, set(given) - {"prompts"} if swept is None else set(swept.split())

    def name(self, request: GenerationRequest, prompt: str, factors: Mapping[str, str], model: Model) -> str:
        """Return what a person calls the run: its prompt, what the command varies, and its repeat."""
        given, keys = self.varied
        varied = {re.sub(r"^(arguments|where_taken)\.", "", key) for key in keys}
        arguments = {key: value for key, value in request.shown.items() if key != model.prompt}
        values = {key: value for key, value in {**factors, **arguments}.items() if key in varied}
        values |= {key: given[key] for key in sorted(keys & set(given)) if re.match(SAID, key)}
        return " · ".join([part("prompt", prompt), *starmap(part, values.items()), f"#{request.sample}"])


def _names(node: Any, keys: Iterable[str]) -> bool:
    """Tell whether an interpolation in a part of a config may name one of these keys."""
    named = "|".join(map(re.escape, keys))
    return bool(re.search(rf"\$\{{[^}}]*(\$\{{|(?<![\w-])({named})(?![\w-]))", str(node)))


def measured(spec: metrics.Spec) -> dict[str, str]:
    """Return the metrics that are measured, and which way each is better by itself: higher, lower or neither."""
    return {value.name: value.direction for metric in metrics.build(spec) for value in metric.values}
