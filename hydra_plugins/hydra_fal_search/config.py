"""The config of the sweeper, in place of that of Hydra's plugin for Optuna, whose keys and samplers it has."""

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import MISSING


@dataclass
class SearchSweeperConf:
    defaults: list[Any] = field(default_factory=lambda: [{"sampler": "tpe"}])
    _target_: str = "hydra_plugins.hydra_fal_search.search_sweeper.SearchSweeper"
    _recursive_: bool = False

    # one of hydra/sweeper/sampler
    sampler: Any = MISSING

    # how many trials there shall be in all, those of earlier commands included
    n_trials: int = 20

    # how many are proposed and run at once, from what is known by then
    n_jobs: int = 2

    # the share of a batch of which more may not fail, or the search ends
    max_failure_rate: float = 1.0

    # a function (config, trial) that lets the trial suggest more
    custom_search_space: str | None = None

    # key -> what is searched, as interval(0, 1), or values
    params: dict[str, Any] = field(default_factory=dict)


class OptunaConfig(SearchPathPlugin):
    """Registers the config once all plugins have registered theirs, of which the last of a name counts."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if find_spec("hydra_plugins.hydra_optuna_sweeper"):
            ConfigStore.instance().store(
                group="hydra/sweeper", name="optuna", node=SearchSweeperConf, provider="kling_sweeps"
            )
