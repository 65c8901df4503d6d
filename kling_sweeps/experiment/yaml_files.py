"""How Hydra's files are read here: keys of YAML are text, any Unicode encoding, and an error names its file.

A prompt set may be a file of prompts: what is composed then is its path, as it was given, in the place of a mapping of ids.
"""

from __future__ import annotations

import pickle
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kling_sweeps.errors import ConfigError
from kling_sweeps.experiment import hydra_private
from kling_sweeps.experiment.encoding import encoding
from kling_sweeps.experiment.prompt_file import is_prompt_file

PROMPTS = "prompts/"
TEXT = "tag:yaml.org,2002:str"
MERGE = "tag:yaml.org,2002:merge"


def install() -> None:
    """Let Hydra read its files by `FileConfigSource`, and keep what it has read and composed of them."""
    hydra_private.register(FileConfigSource)
    hydra_private.share_sources()
    hydra_private.compose_once()


def load(path: str) -> tuple[str, DictConfig]:
    """Return the first characters of a YAML file and what it holds; raise ConfigError with its name."""
    try:
        with open(path, encoding=_encoding(path)) as file:
            text = file.read()
        return text[:512], pickle.loads(_parsed(text, path))
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8") from None
    except RecursionError:
        raise ConfigError(f"{path} is nested too deep") from None
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"{path} can't be read: {error}") from None


@cache
def _parsed(text: str, path: str) -> bytes:
    """Return what a file holds, pickled: Hydra reads each three times a command, and 1.3 ms are unpickled where 46 are parsed."""
    loader = _Loader(text)
    loader.name = path  # which errors show
    try:
        content = loader.get_single_data()
    finally:
        loader.dispose()
    if content is not None and not isinstance(content, dict):
        raise ConfigError(f"{path} holds no mapping of keys to values")
    return pickle.dumps(OmegaConf.create(content or {}), pickle.HIGHEST_PROTOCOL)


def content(path: Path) -> dict[str, Any]:
    """Return what a YAML file holds, resolved; raise ConfigError with its name."""
    try:
        found: Any = OmegaConf.to_container(load(str(path))[1], resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: {error}") from None
    return dict(found)


def _encoding(path: str) -> str:
    with open(path, "rb") as file:
        return encoding(file.read(4))


class _Loader(hydra_private.yaml_loader()):  # type: ignore[misc]  # a class that a function makes
    """OmegaConf's loader, for which `1`, `007`, `no` and `~` are texts where they are keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        node.value = [(self._text(key), value) for key, value in node.value]
        return super().construct_mapping(node, deep)

    @staticmethod
    def _text(key: yaml.Node) -> yaml.Node:
        if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
            return key
        return yaml.ScalarNode(TEXT, key.value, key.start_mark, key.end_mark, key.style)


class FileConfigSource(hydra_private.FileSource):  # type: ignore[misc, valid-type]  # one of two
    """A folder of YAML files. It has the name of Hydra's own, whose registry in a worker process refuses another."""

    def is_config(self, config_path: str) -> bool:
        return _prompt_file(config_path) is not None or bool(super().is_config(config_path))

    def load_config(self, config_path: str) -> ConfigResult:
        if file := _prompt_file(config_path):
            return ConfigResult(
                self.provider, self.path, DictConfig({"prompts": file}), {"package": "_global_"}
            )
        try:
            path = hydra_private.file_path(self, config_path)
            head, config = load(path)
            try:
                header = hydra_private.header(self, head)
            except ValueError as error:
                raise ConfigError(f"{path}: {error}") from None
            return ConfigResult(self.provider, f"{self.scheme()}://{self.path}", config, header)
        except hydra_private.GONE:
            theirs: ConfigResult = super().load_config(config_path)
            return theirs


def _prompt_file(config_path: str) -> str | None:
    """Return the path of a file of prompts that stands in the place of a config, None where it is none."""
    path = config_path.removeprefix(PROMPTS)
    return path if path != config_path and is_prompt_file(path) else None
