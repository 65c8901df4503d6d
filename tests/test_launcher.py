"""The launcher is one of Hydra's: its own suite for launchers, and the same configs as Hydra composes."""

from __future__ import annotations

import asyncio
import multiprocessing
import shutil
from pathlib import Path

import clips
import pytest
import yaml
from hydra import initialize_config_dir, version
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import run_job
from hydra.errors import HydraException
from hydra.test_utils.launcher_common_tests import (
    BatchedSweeperTestSuite,
    IntegrationTestSuite,
    LauncherTestSuite,
)
from hydra.types import HydraContext, RunMode
from joblib import Parallel, delayed
from omegaconf import OmegaConf, open_dict

from hydra_plugins.hydra_fal_launcher._composer import Composer
from hydra_plugins.hydra_fal_launcher._notes import Notes
from kling_sweeps import CONF
from kling_sweeps.experiment import hydra_private
from kling_sweeps.measurement.workers import Workers

# What Hydra's suite says of its own old defaults.
old_defaults = pytest.mark.filterwarnings("ignore:Future Hydra versions:UserWarning")


@pytest.fixture(autouse=True)
def _no_version_base(monkeypatch):
    """Let Hydra's suite meet the defaults that it was written for, whatever ran before it."""
    monkeypatch.setattr(version.VersionBase.instance(), "version_base", version._UNSPECIFIED_)


@old_defaults
@pytest.mark.parametrize(("launcher_name", "overrides"), [("fal", [])])
@pytest.mark.slow
class TestHydrasOwnSuite(LauncherTestSuite):
    """Runs any task as any launcher does."""


@old_defaults
@pytest.mark.parametrize(
    ("launcher_name", "overrides"), [("fal", ["hydra/sweeper=basic", "hydra.sweeper.max_batch_size=2"])]
)
@pytest.mark.slow
class TestHydrasOwnSuiteInBatches(BatchedSweeperTestSuite):
    """Takes one batch of jobs after another."""


@pytest.mark.slow
@pytest.mark.parametrize(("task_launcher_cfg", "extra_flags"), [({}, ["-m", "hydra/launcher=fal"])])
class TestHydrasOwnIntegrationSuite(IntegrationTestSuite):
    """Runs scripts, as a user starts them."""


JOBS = [
    [],
    ["prompt=potter", "cfg_scale=0.3"],
    ["prompt=potter", "cfg_scale=0.7", "sample=2"],
    ["prompt='a, b=c'", "negative_prompt=''"],
    ["prompts=scene", "prompt=scene", "camera='slow pan'", "subject='a dog'", "light=dusk"],
    ["prompts=scene", "prompt=scene", "camera='crane'", "subject='a dog'", "light=dusk"],
    ["model=kling_v2_master", "duration=10"],
    ["model=kling_v2_master", "model.price.usd=2"],
    ["+prompts.mine='an owl'", "prompt=mine"],
    ["metrics={luma: {}}"],
    ["~fail_fast"],
    ["hydra.job.name=other", "cfg_scale=0.1"],
    ["provider=emulator", "provider.emulator.width=320", "store.dir=${oc.env:HOME}/store"],
]


@pytest.fixture
def loader():
    """Give Hydra's own loader, on the project's configs."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


@pytest.fixture
def master(loader):
    return loader.load_configuration("config", ["hydra.verbose=false"], RunMode.MULTIRUN)


@pytest.mark.slow
def test_a_job_is_composed_as_hydra_composes_it(loader, master):
    """Gives the same config for whatever is overridden, to the last key of Hydra's own."""
    composer = Composer(loader)
    for job in [*JOBS, *reversed(JOBS)]:
        ours = composer.load_sweep_config(master, list(job))
        theirs = loader.load_sweep_config(master, list(job))
        assert OmegaConf.to_container(ours) == OmegaConf.to_container(theirs)
        assert OmegaConf.is_struct(ours) == OmegaConf.is_struct(theirs)
        assert OmegaConf.get_cache(ours) == OmegaConf.get_cache(theirs)


@pytest.mark.parametrize(
    "jobs",
    [
        [["cfg_scale=0.3", "sample=0"], ["cfg_scale=0.3", "sample=1"], ["cfg_scale=0.4", "sample=0"]],
        [["++subject=a", "++light=b"], ["++subject=c", "++light=b"], ["++subject=c", "++light=d"]],
        [["+subject=a"], ["+subject=b"], ["+subject={x: 1}"], ["+subject={y: 1}"]],
        [["+arguments={a: 1}"], ["+arguments={b: 1}"], ["arguments=null"], ["+arguments.a.b=1"]],
        [["model=kling_v2_master", "sample=1"], ["sample=1"], ["model=kling_v2_master", "sample=2"]],
        [["~sample"], ["sample=1"], ["~sample"], ["experiment=x", "~sample"]],
        [["prompt='${sample}'"], ["prompt='a, b'"], ["expect.cuts.max=1"], ["+expect.cuts.max=1"]],
    ],
)
def test_a_config_that_is_lent_becomes_each_job(loader, master, jobs):
    """Has what Hydra composes, in the same order; what is said to have changed is all that has."""
    composer, last = Composer(loader), {}
    composer.compose(master, ["sample=0"])
    for number, job in enumerate([*jobs, *jobs]):
        try:
            theirs = OmegaConf.to_container(loader.load_sweep_config(master, list(job)))
            theirs["hydra"]["job"] |= {"id": str(number), "num": number}
        except HydraException as error:
            with pytest.raises(type(error)):
                composer.lend(master, list(job))
            continue
        given = composer.lend(master, list(job))
        composer.tell(given, number)
        assert given.task == theirs["hydra"]["overrides"]["task"]
        lent, changed = given.config, given.changed
        ours = OmegaConf.to_container(lent)
        assert (ours, [*ours]) == (theirs, [*theirs]), number
        if changed:
            before = last[id(lent)]
            assert {key for key in ours if ours[key] != before.get(key)} <= {*changed, "hydra"}
        last[id(lent)] = ours
    assert changed or "~sample" in job or job[-1].startswith("+expect")


@pytest.mark.parametrize(
    "wrong", ["nonsense=1", "prompts=nowhere", "+prompt=x", "~nonsense", "cfg_scale=1,2"]
)
def test_what_cannot_be_composed_is_refused_as_hydra_refuses_it(loader, master, wrong):
    """Raises the error that Hydra raises."""
    with pytest.raises(HydraException) as theirs:
        loader.load_sweep_config(master, [wrong])
    with pytest.raises(HydraException) as ours:
        Composer(loader).load_sweep_config(master, [wrong])
    assert type(ours.value) is type(theirs.value)
    assert str(ours.value) == str(theirs.value)


def test_hydra_reads_its_files_once(loader, master, monkeypatch):
    """Composes what jobs share a single time, and the first job to compare with."""
    composer, composed = Composer(loader), []
    original = loader.load_sweep_config
    monkeypatch.setattr(loader, "load_sweep_config", lambda *args: composed.append(args) or original(*args))
    for cfg_scale in range(10):
        composer.load_sweep_config(master, [f"cfg_scale={cfg_scale / 10}", "prompt=potter"])
    assert len(composed) == 2


def _raise(*_):
    raise TypeError("changed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("apply_values", _raise),
        ("apply_values", lambda values, config: None),
        ("override_dirname", _raise),
        ("override_dirname", lambda task, options: "other"),
        ("is_group", _raise),
        ("is_group", lambda loader, name: False),
    ],
)
def test_jobs_are_left_to_hydra_after_a_surprise(loader, master, monkeypatch, name, changed):
    """Gives what Hydra gives where a private part of it is gone, raises, or does something else than it did."""
    monkeypatch.setattr(hydra_private, name, changed)
    composer = Composer(loader)
    for job in (["model=kling_v2_master", "cfg_scale=0.3"], ["cfg_scale=0.4", "sample=1"]):
        ours, theirs = composer.compose(master, list(job)), loader.load_sweep_config(master, list(job))
        assert OmegaConf.to_container(ours) == OmegaConf.to_container(theirs)


# What YAML would take for something else, or has to escape.
ODD = [
    ["prompt='no'", "negative_prompt='1e3'"],
    ["prompt='\U0001f9a9 é \\u2028 #: - ? | > % @'", "sample=2"],
    ["prompt='two\nlines \t and more'", f"negative_prompt='{'a long one, ' * 40}'"],
    ["~fail_fast", "+arguments={seed: 1, flag: true, none: null, part: 0.1}"],
    ["hydra.sweep.subdir='${hydra.job.override_dirname}'", "prompt=potter"],
    ["hydra.sweep.subdir='${hydra:job.num}/${hydra:job.override_dirname}'", "prompt=potter"],
]


@pytest.mark.slow
def test_a_job_is_written_down_as_hydra_writes_it(loader, master, tmp_path):
    """Writes the same files to the same places, whatever is in them, once Hydra has written those of another job."""
    notes, composer = Notes(), Composer(loader)
    first = _at(composer, master, tmp_path, [])
    assert not notes.write(_at(composer, master, tmp_path, []))
    _run(loader, first)
    notes.compare(first)
    for job in [*JOBS, *ODD]:
        theirs = _run(loader, _at(composer, master, tmp_path, job))
        HydraConfig.instance().cfg = first  # as whoever read the last job has left it
        assert notes.write(_at(composer, master, tmp_path, job))
        assert HydraConfig.instance().cfg is first
        assert _written(tmp_path) == theirs
        assert len(theirs) == 3


def _run(loader, config):
    """Let Hydra run a job that does nothing; return what it has written, and nothing from before."""
    context, folder = HydraContext(loader, Callbacks()), Path(config.hydra.sweep.dir)
    shutil.rmtree(folder)
    run_job(lambda _: None, config, "hydra.sweep.dir", "hydra.sweep.subdir", context, configure_logging=False)
    return _written(folder)


def _at(composer, master, folder, job, number=7):
    """Compose a job whose files are to be in a folder."""
    config = composer.compose(master, list(job))
    with open_dict(config):
        config.hydra.job.id = config.hydra.job.num = number
        config.hydra.sweep.dir = str(folder)
    return config


def _written(folder):
    """Return what OmegaConf reads in each file of a folder."""
    return {
        file.relative_to(folder): yaml.load(file.read_text(encoding="utf-8"), hydra_private.yaml_loader())
        for file in folder.rglob("*")
        if file.is_file()
    }


@pytest.mark.slow
@pytest.mark.parametrize("surprise", ["no files", "another callback", "another file", "a dumper", "numbers"])
def test_jobs_are_written_by_hydra_after_a_surprise(loader, master, tmp_path, monkeypatch, surprise):
    """Writes nothing of any job where the first one's files are others than Hydra's, or somebody else is called back."""
    notes, composer = Notes(), Composer(loader)
    config = _at(composer, master, tmp_path, ["prompt='1e3'"])
    if surprise == "a dumper":
        monkeypatch.setattr(hydra_private, "yaml_dumper", _raise)
    if surprise == "numbers":
        monkeypatch.setattr(hydra_private, "yaml_dumper", lambda: yaml.CDumper)
    with open_dict(config):
        if surprise == "no files":
            config.hydra.output_subdir = None
        if surprise == "another callback":
            config.hydra.callbacks.another = {}
    _run(loader, config)
    if surprise == "another file":
        Path(config.hydra.runtime.output_dir, "job.log").touch()
    before = _written(tmp_path)
    notes.compare(config)
    monkeypatch.undo()
    notes.compare(config)  # once is enough
    assert not notes.write(_at(composer, master, tmp_path, [], number=8))
    assert _written(tmp_path) == before


@pytest.mark.cluster
def test_a_process_of_joblib_measures_too(tmp_path):
    """Starts workers where the process has a start method that a spawned one would look for in vain."""
    video = clips.write(tmp_path / "grey.mp4", clips.grey())
    assert Parallel(n_jobs=2)(delayed(verified)(video) for _ in range(2)) == ["loky", "loky"]


def verified(video):
    """Verify a video in a worker process; return the start method that was found."""
    method = multiprocessing.get_start_method()
    with Workers(1) as workers:
        asyncio.run(workers.verify(video))
    return method


def test_what_was_read_is_known_once(loader, master):
    """Keeps what was read of a job for whoever asks for it first."""
    composer = Composer(loader)
    composer.keep(["cfg_scale=0.3"], "read")
    assert composer.load_sweep_config(master, ["cfg_scale=0.3"]) is master
    assert composer.known(["cfg_scale=0.3"]) == "read"
    assert composer.known(["cfg_scale=0.3"]) is None
    assert composer.load_sweep_config(master, ["cfg_scale=0.3"]).cfg_scale == 0.3
