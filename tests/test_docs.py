"""The documentation: its links lead somewhere, its commands compose, and it has every key of the config."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from kling_sweeps import CONF
from kling_sweeps.experiment import yaml_files
from kling_sweeps.experiment.overrides import spelled

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = [ROOT / "README.md", *PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
COMMAND = re.compile(r"^(?:.*(?:&&|:) )?python -m kling_sweeps +(.*)$", re.MULTILINE)
# A YAML block that says in its first comment which file it is.
FILE = re.compile(r"^# (mine/\S+?\.yaml)", re.MULTILINE)
ROW = re.compile(r"^\| `([^`]+)` \|", re.MULTILINE)
# Chosen as a whole; what is in them belongs to the chosen file.
GROUPS = {"model", "prompts", "metrics", "judge.questions"}
CHOICES = {"provider", "tracking", "cluster", "judge", "hydra/launcher", "hydra/sweeper"}


def blocks(document: Path, *languages: str) -> Iterator[str]:
    for language, text in BLOCK.findall(document.read_text(encoding="utf-8")):
        if language in languages:
            yield text


def prose(document: Path) -> str:
    return BLOCK.sub("", document.read_text(encoding="utf-8"))


def anchors(document: Path) -> set[str]:
    """Return the anchors of a page's headings as GitHub makes them."""
    found: set[str] = set()
    for heading in HEADING.findall(prose(document)):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        anchor = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        repeats = (f"{anchor}-{n}" for n in range(1, 100))
        found.add(anchor if anchor not in found else next(one for one in repeats if one not in found))
    return found


def commands() -> Iterator[list[str]]:
    """Yield the arguments of every `python -m kling_sweeps` in the code blocks."""
    for document in DOCUMENTS:
        for text in blocks(document, "", "yaml"):
            for line in COMMAND.findall(text.replace("\\\n", " ")):
                yield shlex.split(line, comments=True)


COMMANDS = [list(command) for command in dict.fromkeys(map(tuple, commands()))]


@pytest.fixture(scope="module")
def conf(tmp_path_factory) -> str:
    """Writes the files of the pages' own folder `mine`, and returns its path."""
    folder = tmp_path_factory.mktemp("own")
    for document in DOCUMENTS:
        for text in blocks(document, "yaml"):
            if named := FILE.search(text):
                file = folder / named[1]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8")
    return str(folder / "mine")


@cache
def composed(*overrides: str) -> DictConfig:
    yaml_files.install()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=True)


def leaves(config: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in config:
        node, name = config._get_node(key), f"{prefix}{key}"
        if isinstance(node, DictConfig) and not node._is_none() and name not in GROUPS:
            yield from leaves(node, f"{name}.")
        else:
            yield name


def is_choice(override: Override) -> bool:
    """Tell whether an override chooses a file of a group."""
    key = override.key_or_group
    return "/" in key or (CONF / key).is_dir()


def has(config: DictConfig, override: Override) -> bool:
    """Tell whether a key is one of the config, or an argument of the model."""
    parent, _, key = override.key_or_group.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    is_added = override.is_add() or override.is_force_add()
    return key in {*(node or {}), *(config.model.arguments if is_added else {})}


def written(override: Override) -> Iterator[str]:
    """Yield a choice as it is written, one of each value that is swept over."""
    if not override.is_sweep_override():
        yield override.input_line
        return
    for value in override.sweep_string_iterator():
        yield f"{override.key_or_group}={value}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path):
    """Links only to files that there are, and to headings that they have."""
    dead = []
    for link in LINK.findall(prose(document)):
        address, _, anchor = link.partition("#")
        if "://" in address:
            continue
        file = (document.parent / unquote(address)).resolve() if address else document
        if not file.exists() or (anchor and anchor not in anchors(file)):
            dead.append(link)
    assert not dead


def test_the_readme_is_short_and_leads_to_every_page():
    """Has at most 150 lines and a link to each page of docs/."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert {f"docs/{page.name}" for page in PAGES} <= set(LINK.findall(text))


def test_the_first_command_costs_nothing():
    """Starts with a sweep that says provider=emulator, whatever key is in the environment."""
    assert "provider=emulator" in COMMANDS[0]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_commands_compose(arguments: list[str], conf: str):
    """Gives only overrides that Hydra takes, of groups and keys that there are."""
    words = [word for word in arguments if "=" in word or word.startswith(("+", "~"))]
    overrides = OverridesParser.create().parse_overrides(spelled(words))
    own = [f"hydra.searchpath=[file://{conf}]"] if "--config-dir" in arguments else []
    chosen = [[*written(one)] for one in overrides if is_choice(one)]
    config, *_ = [composed(*own, *choices) for choices in itertools.product(*chosen)]
    unknown = [one.input_line for one in overrides if not is_choice(one) and not has(config, one)]
    assert not unknown


def test_every_key_has_its_row():
    """Has a row for each key of the config and of Hydra's part that is ours, and none for another."""
    rows = set(ROW.findall((ROOT / "docs/keys.md").read_text(encoding="utf-8")))
    config = composed("judge=fidelity").copy()
    hydra = {
        f"hydra.{part}.{key}"
        for part in ("launcher", "sweeper")
        for key in config.hydra[part]
        if key != "_target_"
    }
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    names = set(leaves(config)) - {"provider.name", "judge.name"}  # set by the choice of the file
    assert rows == names | hydra | CHOICES
