from dataclasses import dataclass

from hydra.core.config_store import ConfigStore


@dataclass
class FalLauncherConf:
    _target_: str = "hydra_plugins.hydra_fal_launcher.fal_launcher.FalLauncher"

    # how many requests are with fal at once; what exceeds fal's own limit waits in its queue
    max_in_flight: int = 64


ConfigStore.instance().store(
    group="hydra/launcher", name="fal", node=FalLauncherConf, provider="kling_sweeps"
)
