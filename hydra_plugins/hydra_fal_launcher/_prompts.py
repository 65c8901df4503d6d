"""The prompts of a sweep: those that `prompt=all` and the like choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from omegaconf import DictConfig, open_dict

from kling_sweeps.errors import ConfigError
from kling_sweeps.experiment import prompt
from kling_sweeps.experiment.config import read_prompts
from kling_sweeps.experiment.reader import unresolved
from kling_sweeps.terminal.console import show_line

from ._composer import written


def chosen(config: DictConfig, overrides: Sequence[Override]) -> list[Override]:
    """Return the overrides of a sweep with the ids of a choice in its place, and note them in the config.

    Raises ConfigError where the set can't be read or has none of them.
    """
    given = [override for override in overrides if override.key_or_group == "prompt"]
    choice = given[-1].value() if given else unresolved(config).get("prompt")
    if not isinstance(choice, str) or not prompt.CHOICE.fullmatch(choice):
        return [*overrides]
    others = [override for override in overrides if override not in given]
    if any(override.key_or_group == "prompts" and override.is_sweep_override() for override in others):
        raise ConfigError(
            f"prompt={choice} chooses among the prompts of one set; sweep over the sets one by one"
        )
    hydra = GlobalHydra.instance().hydra
    assert hydra  # it runs
    fixed = [written(override) for override in others if not override.is_sweep_override()]
    job = hydra.config_loader.load_sweep_config(config, fixed)
    known = read_prompts(job)
    try:
        found = prompt.chosen(choice, [*known])
    except ConfigError as error:
        raise ConfigError(f"prompt={error}") from None
    if isinstance(file := unresolved(job)["prompts"], str):
        _say(file, len(found), known)
    texts = [QuotedString(name, Quote.single).with_quotes() for name in found]
    place = overrides.index(given[0]) if given else len(overrides)
    others.insert(place, OverridesParser.create().parse_override(f"prompt={','.join(texts)}"))
    with open_dict(config):
        config.hydra.overrides.task = [*map(written, others)]
    return others


def _say(file: str, number: int, known: Mapping[str, prompt.Prompt]) -> None:
    """Print how many prompts of a file there are, which may be fewer than its lines."""
    of_all = f"{number} of the {len(known)}" if number < len(known) else f"all {number}"
    again = sum(one.times - 1 for one in known.values())
    more = (
        f"; {again} line{'s' * (again > 1)} more say{'s' * (again == 1)} the same as an earlier one"
        * bool(again)
    )
    show_line(f"Prompts: {of_all} of {file}{more}")
