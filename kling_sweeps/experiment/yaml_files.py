"""How Hydra's YAML files are read here: keys are text, any Unicode encoding, and an error names its file."""

from __future__ import annotations

import codecs
from typing import Any

import yaml
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kling_sweeps.errors import ConfigError
from kling_sweeps.experiment import hydra_private

MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # which begins as UTF-16's does
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
TEXT = "tag:yaml.org,2002:str"
MERGE = "tag:yaml.org,2002:merge"


def install() -> None:
    """Let Hydra read its files by `FileConfigSource`."""
    hydra_private.register(FileConfigSource)


def load(path: str) -> tuple[str, DictConfig]:
    """Return the first characters of a YAML file and what it holds; raise ConfigError with its name."""
    try:
        with open(path, encoding=_encoding(path)) as file:
            head = file.read(512)
            file.seek(0)
            content = yaml.load(file, Loader=_Loader)
        if content is not None and not isinstance(content, dict):
            raise ConfigError(f"{path} holds no mapping of keys to values")
        return head, OmegaConf.create(content or {})
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8") from None
    except RecursionError:
        raise ConfigError(f"{path} is nested too deep") from None
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"{path} can't be read: {error}") from None


def _encoding(path: str) -> str:
    with open(path, "rb") as file:
        start = file.read(4)
    return next((name for mark, name in MARKS.items() if start.startswith(mark)), "utf-8-sig")


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

    def load_config(self, config_path: str) -> ConfigResult:
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
