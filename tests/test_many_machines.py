"""The same sweep by other launchers, on a cluster, and tracked by a server: the same runs and numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import Command, Emulator, Sweep
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from omegaconf import OmegaConf
from servers import free_port, postgresql, ray_cluster, tracking_server

from kling_sweeps import CONF

pytestmark = pytest.mark.cluster

SWEEP = ["+sweep=cfg", "prompt=potter"]
RUNS = 5


def runs(uri: str, experiment: str) -> dict[str, Run]:
    """Return an experiment's runs that are videos by request key; none may be there twice."""
    client = MlflowClient(uri)
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    found = [run for run in found if "kind" not in run.data.tags]
    assert len({run.data.tags["request_key"] for run in found}) == len(found)
    return {run.data.tags["request_key"]: run for run in found}


def at(emulator: Emulator) -> list[str]:
    return ["provider=emulator", f"provider.base_url={emulator.base_url}"]


@dataclass(frozen=True)
class Ray:
    """A cluster: what a command that uses it is given, and the port of the MLflow that its machines know."""

    given: list[str]
    port: int


@pytest.fixture(scope="module")
def local(sweep: Sweep) -> dict[str, Run]:
    """Give the runs of the sweep as this machine alone made them."""
    return runs(sweep.command.tracking_uri, "kling_sweeps/cfg (emulator)")


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ray]:
    """Run a Ray head and a worker, whose MLflow is a server that need not run yet."""
    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")  # on every machine
        with ray_cluster() as address:
            yield Ray(["cluster=ray", f"hydra.launcher.ray.init.address='{address}'"], port)


def test_ray_and_a_server_give_the_same_numbers(tmp_path: Path, sweep: Sweep, local, emulator, ray: Ray):
    """Runs a sweep on a Ray head and a worker, tracks it on PostgreSQL, and measures what is measured here."""
    store = sweep.command.folder / "store"
    with postgresql(tmp_path) as database, tracking_server(tmp_path, ray.port, database) as uri:
        # Other metrics, so that the videos are measured there.
        shared = [*SWEEP, "cfg_scale=0.1,0.9", f"store.dir={store}", "tracking=server"]
        shared += ["~metrics.sharpness", *at(emulator)]
        done = Command(tmp_path)(*shared, *ray.given, MLFLOW_TRACKING_URI=uri)
        assert done.returncode == 0, done.stdout + done.stderr
        there = runs(uri, "kling_sweeps/cfg (emulator)")
        again = Command(tmp_path)(*shared, MLFLOW_TRACKING_URI=uri)
    assert len(there) == 2
    assert emulator.ledger() == []  # the videos are here
    for key, run in there.items():
        ours, theirs = local[key].data, run.data
        assert run.info.status == "FINISHED"
        assert theirs.params == ours.params
        assert ours.metrics.keys() - theirs.metrics.keys() == {"sharpness"}
        assert {**theirs.metrics, "measure_s": 0}.items() <= {**ours.metrics, "measure_s": 0}.items()
    assert again.returncode == 0, again.stdout + again.stderr
    assert "2 in the store" in again.stdout


def test_ray_generates_on_a_shared_store(tmp_path: Path, emulator, ray: Ray):
    """Buys every video once, on whichever node, and tracks it."""
    command = Command(tmp_path)
    here = [f"store.dir={tmp_path / 'shared'}", f"tracking.uri={command.tracking_uri}"]
    done = command("-m", "cfg_scale=0.1,0.9", *ray.given, *here, *at(emulator))
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(emulator.ledger()) == 2
    found = runs(command.tracking_uri, "kling_sweeps/single (emulator)")
    assert {run.data.tags["request_id"] for run in found.values()} == {
        e["request_id"] for e in emulator.ledger()
    }


def test_joblib_gives_the_same_runs(command, emulator):
    """Generates and measures in joblib's processes, each video once."""
    done = command(*SWEEP, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", *at(emulator))
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(emulator.ledger()) == RUNS
    assert len(runs(command.tracking_uri, "kling_sweeps/cfg (emulator)")) == RUNS


def test_optuna_searches_by_the_objective(command, emulator):
    """Hands the metric that was asked for to a sweeper, which takes batches of runs, and goes on after a failed one."""
    emulator.set_faults({"at": "generate", "fault": "moderation_422", "nth": 2})
    done = command(
        *("-m", "hydra/sweeper=optuna", "cfg_scale=interval(0, 1)", "goal={colorfulness: max}"),
        *("hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=3"),
        *("hydra.sweeper.sampler.seed=1", "hydra.sweeper.max_failure_rate=0.5", *at(emulator)),
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found = runs(command.tracking_uri, "kling_sweeps/single (emulator)")
    assert len(found) == len(emulator.ledger()) == 6
    (results,) = command.folder.glob("outputs/**/optimization_results.yaml")
    best = OmegaConf.load(results).best_value
    values = [run.data.metrics.get("colorfulness", math.nan) for run in found.values()]
    assert best == pytest.approx(max(value for value in values if value == value))


@pytest.mark.parametrize("cluster", ["ray", "slurm"])
def test_a_cluster_composes(cluster: str):
    """Composes a sweep for a cluster, and asks for the shared store where none is named."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        given = ["+sweep=cfg", f"cluster={cluster}"]
        config = loader.load_configuration("config", given, RunMode.MULTIRUN)
        assert cluster in config.hydra.launcher._target_.lower()
        assert OmegaConf.is_missing(config.store, "dir")


def test_a_cluster_wants_a_shared_store(command):
    """Refuses to begin before anything is submitted."""
    done = command(*SWEEP, "cluster=slurm", "provider=emulator")
    assert done.returncode == 2
    assert "store.dir" in done.stderr
