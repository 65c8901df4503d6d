"""The private parts of Hydra and OmegaConf that are used, and what stands in for those that are gone or changed."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from functools import cache
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigSource
from hydra.types import RunMode
from omegaconf import DictConfig

FileSource: type[ConfigSource] = ConfigSource  # type: ignore[type-abstract]  # never registered
try:
    from hydra._internal.core_plugins.file_config_source import FileConfigSource

    FileSource = FileConfigSource
except (ImportError, AttributeError):
    pass
# What a use of one of these raises where Hydra or OmegaConf has it no longer, or not in this shape.
GONE = (ImportError, AttributeError, TypeError)


def yaml_loader() -> Any:
    """Return the class that OmegaConf loads YAML with, or one of PyYAML's, for which `1e3` is a text; a date is one for both."""
    try:
        from omegaconf._utils import get_yaml_loader

        return get_yaml_loader()
    except GONE:
        return _Loader


def yaml_dumper() -> Any:
    """Return a class that writes YAML as OmegaConf does, by libyaml where that is there; raise one of GONE."""
    from omegaconf._utils import get_omega_conf_dumper

    base = getattr(yaml, "CDumper", yaml.Dumper)
    return type("_Dumper", (base,), {"yaml_representers": get_omega_conf_dumper().yaml_representers})


class _Loader(yaml.SafeLoader):
    """PyYAML's loader without dates."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in known if tag != "tag:yaml.org,2002:timestamp"]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def register(source: type[ConfigSource]) -> None:
    """Let Hydra read its files by a source of ours; else it reads them itself, with messages of its own."""
    try:
        from hydra._internal.sources_registry import SourcesRegistry

        Plugins.instance()  # which registers Hydra's own
        if FileSource is not ConfigSource:
            SourcesRegistry.instance().types["file"] = source
    except GONE:
        pass


def share_sources() -> None:
    """Let Hydra copy its list of the sources of configs, which is all that it changes in a copy.

    It copies them for each composition, and for each group that `--help` lists, with every config that they hold. `--help`
    takes less than half the CPU without (1.2 of 2.6 s, five times each, on a busy machine).
    """
    try:
        from hydra._internal.config_repository import ConfigRepository
    except GONE:
        return

    def shared(repository: ConfigRepository, memo: dict[int, Any]) -> ConfigRepository:
        copied = copy.copy(repository)
        copied.sources = list(repository.sources)
        return copied

    ConfigRepository.__deepcopy__ = shared  # type: ignore[attr-defined]


@cache
def compose_once() -> None:
    """Let Hydra go on with the config that it composes to find out whether a command is a sweep, where it is one.

    It composes the same once more, which is a tenth of the CPU that a sweep takes until its first submission.
    """
    try:
        from hydra._internal.config_loader_impl import ConfigLoaderImpl

        load, check = ConfigLoaderImpl.load_configuration, ConfigLoaderImpl.validate_sweep_overrides_legal
    except GONE:
        return
    kept: dict[tuple[Any, ...], DictConfig] = {}

    def loaded(
        loader: Any, config_name: Any, overrides: list[str], run_mode: RunMode, **more: Any
    ) -> DictConfig:
        asked, is_checked = (config_name, *overrides), more.get("validate_sweep_overrides", True)
        found = kept.pop(asked, None)
        if found is not None and is_checked and run_mode is RunMode.MULTIRUN:
            check(OverridesParser.create().parse_overrides(overrides), run_mode, more.get("from_shell", True))
            return found
        config = load(loader, config_name, overrides, run_mode, **more)
        if not is_checked:
            kept[asked] = config
        return config

    ConfigLoaderImpl.load_configuration = loaded  # type: ignore[assignment, method-assign]


def file_path(source: Any, config_path: str) -> str:
    """Return the path of a config's file; raise one of GONE."""
    return os.path.realpath(os.path.join(source.path, str(source._normalize_file_name(config_path))))


def header(source: Any, head: str) -> dict[str, str | None]:
    """Return what the comment at the head of a config's file says to Hydra; raise ValueError or one of GONE."""
    found: dict[str, str | None] = source._get_header_dict(head)
    return found


def apply_values(overrides: Sequence[Override], config: DictConfig) -> None:
    """Change single values of a composed config; raise what Hydra raises, or whatever it is where that is gone."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    ConfigLoaderImpl._apply_overrides_to_config(list(overrides), config)


def override_dirname(overrides: Sequence[Override], options: Any) -> str:
    """Return `hydra.job.override_dirname`; raise whatever it is where Hydra has it no longer."""
    from hydra._internal.config_loader_impl import get_overrides_dirname

    return get_overrides_dirname(list(overrides), **options)


def is_group(loader: Any, name: str) -> bool:
    """Tell whether a config group has this name; raise whatever it is where the loader can't tell."""
    return bool(loader.repository.group_exists(name))


def jobs(overrides: Sequence[Override]) -> list[list[str]] | None:
    """Return the overrides of each job of a sweep as Hydra's sweeper splits them, None where only it can."""
    try:
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

        (found,) = BasicSweeper.split_arguments(list(overrides), max_batch_size=None)
    except (*GONE, ValueError):
        return None
    return found
