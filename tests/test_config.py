"""Configs are composed by Hydra, read into requests, and refused with everything that is wrong."""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from hydra_plugins.hydra_fal_launcher._planned import read_command
from kling_sweeps import CONF
from kling_sweeps.errors import ConfigError
from kling_sweeps.experiment.config import SWEPT, JobReader, read_all, read_job
from kling_sweeps.experiment.settings import Cell, Settings

FILES = sorted(CONF.rglob("*.yaml"))
GROUPS = {"model", "prompts", "metrics", "provider", "tracking", "sweep"}


def job(*overrides: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", list(overrides), return_hydra_config=True)
    return cfg, cfg.hydra


def read(*overrides: str) -> tuple[Settings, Cell]:
    return read_job(*job(*overrides))


def problems(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(*overrides)
    return list(caught.value.problems)


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "single"),
        (["+sweep=cfg"], "cfg"),
        (["experiment=2026"], "2026"),
        (["+sweep=cfg", "experiment=cfg_v3"], "cfg_v3"),
    ],
)
def test_runs_are_kept_under_a_name(overrides, name):
    """Keeps them under the name that is given, else the sweep's, in MLflow and among what Hydra leaves behind."""
    cfg, hydra = job(*overrides)
    assert read_job(cfg, hydra)[0].sweep == name
    assert {hydra.run.dir.split("/")[1], hydra.sweep.dir.split("/")[1]} == {name}


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(CONF)))
def test_every_file_opens_with_its_command(file: Path):
    """Says in its first words how it is used."""
    comment = [line for line in file.read_text().splitlines() if not line.startswith("# @")]
    head = comment[:3]
    assert all(line.startswith("#") for line in head[:1])
    assert any("python -m kling_sweeps" in line for line in head)


@pytest.mark.parametrize(
    "file",
    [f for f in FILES if f.parent.name in GROUPS and f.stem != "base"],
    ids=lambda path: f"{path.parent.name}={path.stem}",
)
def test_every_file_composes_and_is_read(file: Path, monkeypatch):
    """Makes a valid run of every choice of every group."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    group = file.parent.name
    overrides = [f"+sweep={file.stem}"] if group == "sweep" else [f"{group}={file.stem}"]
    if file.stem == "scene":
        overrides.append("prompt=scene")
    _, cell = read(*overrides)
    assert cell.request.price_usd > 0


@pytest.mark.parametrize(
    ("given", "swept", "quick"),
    [
        ([], ["sample=range(3)"], 2),
        ([], ["cfg_scale=0.3,0.7", "prompt=potter,fox,train"], 5),
        (["prompt='A ${subject} at ${time}'", "++time=noon"], ["++subject='cat','dog'"], 1),
        (["prompt='A ${subject}, take ${sample}'", "++subject=cat"], ["sample=range(1,3)"], 1),
        (["prompt='${long} s'", "++arguments.duration='${long}'"], ["++long='5','10'"], 0),
        (["prompt='${long} s'", "duration='${long}'"], ["++long='5','10'"], 0),
        ([], ["budget.max_usd=7,7.0"], 0),
        (["hydra.sweep.subdir='${hydra:job.override_dirname}'"], ["sample=0,1"], 0),
        (["prompt='in ${hydra:runtime.version}'"], ["sample=0,1"], 0),
        ([], ["prompt='in ${hydra:runtime.version}','a dog'"], 1),
        (["+prompts.mine='take ${sample}'", "prompt=mine"], ["sample=range(2)"], 0),
        (["+prompts.mine='at noon'", "prompt=mine"], ["cfg_scale=0.3,0.7"], 1),
        ([], ["model=kling_v2_master,kling_v2.1_master", "sample=0,1"], 2),
    ],
)
def test_jobs_of_a_sweep_are_read_as_each_alone(given, swept, quick, monkeypatch):
    """Reads anew only what a job's values can have changed, and gives what is read of the job alone."""
    known: list[JobReader | None] = []
    after = JobReader.after
    monkeypatch.setattr(JobReader, "after", lambda *args: known.append(after(*args)) or known[-1])
    _, cells, _ = read_command([*given, *swept], None)
    assert len([reader for reader in known if reader]) == quick
    jobs = product(*(_values(one) for one in swept))
    alone = [read(*given, *job, f"+hydra.job.env_set.{SWEPT}='{_keys(swept)}'")[1] for job in jobs]
    assert cells == alone
    assert [cell.request.key for cell in cells] == [cell.request.key for cell in alone]


@pytest.mark.parametrize(
    "given",
    [
        ["experiment='s${sample}'"],
        ["experiment='s${negative_prompt}'", "negative_prompt='n${sample}'"],
        ["prompt='a dog, take ${sample}'", "store.dir='s${prompt}'"],
        ["store.dir='s${hydra:job.num}'"],
        ["experiment='s${${negative_prompt}}'", "negative_prompt=sample"],
    ],
)
def test_what_a_value_makes_of_the_settings_is_seen(given):
    """Reads all anew where settings that all jobs share may be made of what is swept over, by whatever way."""
    with pytest.raises(ConfigError, match="the same for all runs of a sweep"):
        read_command([*given, "sample=range(2)"], None)


def _values(swept: str) -> list[str]:
    parsed = OverridesParser.create().parse_override(swept)
    if not parsed.is_sweep_override():
        return [swept]
    return [f"{parsed.get_key_element()}={value}" for value in parsed.sweep_string_iterator()]


def _keys(swept: list[str]) -> str:
    return " ".join(one.lstrip("+").partition("=")[0] for one in swept if len(_values(one)) > 1)


def test_a_credential_in_a_later_job_is_refused(monkeypatch):
    """Looks for credentials in every job's own values, however little of it is read."""
    monkeypatch.setenv("FAL_KEY", "k3y-of-mine")
    with pytest.raises(ConfigError, match="negative_prompt holds a credential"):
        read_command(["negative_prompt='blur','noise','${oc.env:FAL_KEY}'"], None)


def test_a_tracking_server_wants_its_address(monkeypatch):
    """Insists on the variable where `tracking=server` was chosen."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (problem,) = problems("tracking=server")
    assert "MLFLOW_TRACKING_URI" in problem


def test_the_default_run_sends_all_five_arguments():
    """Sends what fal would take for a default, too."""
    _, cell = read()
    assert cell.request.endpoint == "fal-ai/kling-video/v2.1/master/text-to-video"
    assert set(cell.request.arguments) == {
        "prompt",
        "negative_prompt",
        "cfg_scale",
        "aspect_ratio",
        "duration",
    }
    assert cell.request.arguments["negative_prompt"] == "blur, distort, and low quality"
    assert cell.request.arguments["cfg_scale"] == 0.5
    assert cell.request.arguments["duration"] == "5"
    assert cell.request.price_usd == 1.40
    assert cell.name == "potter · #0"


def test_the_default_set_has_eight_prompts():
    """Names a potter and seven others, no two alike."""
    cfg, _ = job()
    texts = set(OmegaConf.to_container(cfg.prompts).values())
    assert "potter" in cfg.prompts
    assert len(texts) >= 8


def test_ten_seconds_cost_twice_as_much():
    """Takes the price from the model's file."""
    assert read("duration=10")[1].request.price_usd == 2.80


def test_a_text_is_a_prompt():
    """Takes a quoted text where no id is meant."""
    _, cell = read("prompt='A cat, asleep'")
    assert cell.prompt == cell.prompt_text == "A cat, asleep"


def test_a_template_takes_its_factors():
    """Fills a template and names its factors, the overridden ones in the run's name."""
    _, cell = read("prompts=scene", "prompt=scene", "camera='slow dolly in'")
    assert cell.prompt_text.endswith(", slow dolly in, soft overcast light")
    assert cell.factors["camera"] == "slow dolly in"
    assert set(cell.factors) == {"subject", "camera", "light"}
    assert cell.name == "scene · slow dolly in · #0"
    assert cell.params["camera"] == "slow dolly in"


def test_a_text_may_be_a_template_too():
    """Fills factors into a text that is given on the command line."""
    _, cell = read("prompt='${animal}, running'", "+animal=fox")
    assert cell.prompt_text == "fox, running"
    assert cell.factors == {"animal": "fox"}


def test_a_model_may_take_more(tmp_path):
    """Sends an argument that only the model's file knows, by default or as it is set."""
    model = CONF / "model" / "kling_v2.1_master.yaml"
    text = model.read_text().replace(
        "required:", "  generate_audio: {type: boolean, default: true}\nrequired:", 1
    )
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "loud.yaml").write_text(text)
    more = f"hydra.searchpath=[file://{tmp_path}]"
    assert read(more, "model=loud")[1].request.arguments["generate_audio"] is True
    loud = read(more, "model=loud", "+generate_audio=false")[1]
    assert loud.request.arguments["generate_audio"] is False


def test_a_model_may_take_less():
    """Sends nothing that the model does not take, and refuses to be told to."""
    without = "~model.arguments.cfg_scale"
    assert "cfg_scale" not in read(without)[1].request.arguments
    assert "takes no cfg_scale" in problems(without, "cfg_scale=0.7")[0]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("cfg_scale=1.5", "cfg_scale=1.5 is not a number from 0 to 1"),
        ("cfg_scale=high", "cfg_scale=high is not a number from 0 to 1"),
        ("duration=7", "allowed are 5, 10"),
        ("aspect_ratio=4:3", "allowed are 16:9, 9:16, 1:1"),
        ("aspect_ratio=969", "'\"16:9\"'"),
        ("prompt=''", "at least 1 character"),
        (f"prompt='{'x' * 2501} '", "2,502 characters"),
        ("negative_prompt=null", "no value"),
        ("prompt=poter", "did you mean potter?"),
        ("prompt='a ${subject}'", "subject"),
        ("+nonsense=1", "nonsense is unknown"),
        ("+cfg_scal=1", "did you mean cfg_scale?"),
        ("experiment=../up", "experiment=../up is no name"),
        ("experiment=null", "experiment=null is no name"),
        ("experiment=reports", "experiment=reports is taken: it has the reports of all sweeps"),
        ("experiment=single", "experiment=single is taken"),
        ("sample=-1", "whole number of 0 or more"),
        ("sample=1.5", "whole number of 0 or more"),
        ("budget.max_usd=lots", "budget.max_usd=lots is not a number"),
        ("+budget.max=1", "budget.max is unknown; did you mean max_usd?"),
        ("+provider.poll.max=1", "did you mean max_s?"),
        ("provider.name=aws", "valid are auto, fal, emulator"),
        ("provider.base_url=somewhere", "provider.base_url is not the address"),
        ("provider.emulator.slots=0", "provider.emulator"),
        ("provider.webhook.url=http://example.com", "provider.webhook.url=http://example.com is not https"),
        ("provider.webhook.port=70000", "1 to 65535"),
        ("dry_run=maybe", "dry_run=maybe is neither true nor false"),
        ("+metrics.sharpnes={}", "metrics.sharpnes"),
        ("+prompts.bad={txt: a}", "prompts.bad is neither a text nor"),
        ("model.arguments.cfg_scale.type=real", "model.arguments.cfg_scale.type"),
        ("+model.prize=3", "model.prize is unknown"),
        ("tracking.uri=postgresql://me:secret@db/x", "holds a password"),
    ],
)
def test_a_wrong_value_is_refused(override, said):
    """Says what is wrong, where, and what is allowed, and nothing else."""
    found = problems(override)
    assert len(found) == 1
    assert said in found[0]
    assert "secret" not in found[0]


def test_all_problems_of_a_run_are_reported():
    """Collects the problems of every part of a config."""
    found = problems("cfg_scale=2", "duration=3", "budget.max_usd=-1", "+x=1")
    assert len(found) == 4


def test_all_problems_of_all_runs_are_reported_once():
    """Collects what is wrong with each job of a sweep, each problem once."""
    jobs = [job("cfg_scale=2"), job("cfg_scale=3"), job("cfg_scale=2", "duration=3")]
    with pytest.raises(ConfigError) as caught:
        read_all(partial(read_job, *each) for each in jobs)
    assert len(caught.value.problems) == 3


def test_settings_of_the_command_are_not_swept():
    """Refuses a sweep whose runs would be kept in different places."""
    with pytest.raises(ConfigError, match="the same for all runs"):
        read_all(partial(read_job, *job(f"store.dir={name}")) for name in "ab")


def test_a_goal_says_what_a_sweep_is_about():
    """Reads which way is better by metric, measured by this command or not, and changes no request."""
    settings, cell = read("goal={motion: max, cuts: min}", "metrics=fast")
    assert settings.goal == {"motion": "max", "cuts": "min"}
    assert cell.request.key == read()[1].request.key
    assert read()[0].goal == {}
    assert read("+sweep=cfg", "++goal.cuts=min")[0].goal == {
        "sharpness": "max",
        "motion": "max",
        "cuts": "min",
    }


@pytest.mark.parametrize(
    ("goal", "problem"),
    [
        ("{sharpnes: max}", "goal.sharpnes is no metric; did you mean sharpness?"),
        ("{motion: more}", "goal.motion=more is neither max nor min"),
        ("{motion: null}", "goal.motion=null is neither max nor min"),
        ("[motion]", "goal=['motion'] is not a mapping of metrics to max or min, as {motion: max}"),
    ],
)
def test_a_goal_that_nobody_can_reach_is_refused(goal, problem):
    """Names the metric that is meant, and the two ways there are."""
    assert problems(f"goal={goal}") == [problem]


ODD = """
name: odd
endpoint: odd/endpoint
arguments:
  text: {role: prompt, type: string}
  model: {enum: [small, large], default: small}
  light: {enum: [day, night], default: day}
  seed: {role: seed, anyOf: [{type: integer}, {type: "null"}]}
  duration: {role: seconds, enum: ["4s", "8s"], default: "8s"}
"""


@pytest.fixture
def own(tmp_path) -> str:
    """Returns the override that finds a model whose arguments are called as other keys are."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/odd.yaml").write_text(ODD)
    still = ODD.replace("text: {role: prompt", "image_url: {role: image").replace("name: odd", "name: still")
    (tmp_path / "model/still.yaml").write_text(still)
    return f"hydra.searchpath=[file://{tmp_path}]"


def test_an_argument_of_any_name_can_be_given(own):
    """Takes arguments.NAME for any, and NAME alone where that is no key and no factor of a template."""
    given = ("+arguments.model=large", "+arguments.light=night", "+seed=${sample}", "sample=3", "duration=4s")
    cell = read(own, "model=odd", "prompts=scene", "prompt=scene", *given)[1]
    assert cell.prompt_text.endswith("soft overcast light")
    arguments = {name: value for name, value in cell.request.arguments.items() if name != "text"}
    assert arguments == {"model": "large", "light": "night", "seed": 3, "duration": "4s"}
    assert cell.requested.duration_s == 4
    assert cell.params["model"] == "odd" and cell.params["arguments.model"] == "large"
    assert cell.params["cfg_scale"] == "null"
    assert cell.repeated(5).request.arguments["seed"] == 5


def test_an_argument_is_refused_where_a_model_would_ignore_it(own):
    """Names what the model does not take; where_taken sets it for the models of a sweep that do."""
    assert "arguments.lihgt: odd takes no lihgt; did you mean light?" in problems(
        own, "model=odd", "+arguments.lihgt=day"
    )
    assert "odd takes no cfg_scale" in problems(own, "model=odd", "cfg_scale=0.3")[0]
    jobs = [
        partial(read, own, f"model={model}", "where_taken={light: night}", "hydra.run.dir=a/b")
        for model in ("odd", "kling_v2_master")
    ]
    _, (odd, kling) = read_all(jobs)
    assert odd.request.arguments["light"] == "night"
    assert "light" not in kling.request.arguments and kling.params["light"] == "null"
    swept = f"++hydra.job.env_set.{SWEPT}='model'"
    assert problems(own, "model=odd", "duration=5", swept) == [
        "odd: duration=5 is not allowed; allowed are 4s, 8s"
    ]
    with pytest.raises(ConfigError, match=r"where_taken\.light: none of the models takes light"):
        read_all(jobs[1:])


def test_a_model_may_take_no_prompt(own):
    """Sends none, calls the run so, and refuses one that is given; what is required can't be left out."""
    cell = read(own, "model=still", "+image_url=https://a/b.png")[1]
    assert cell.name == "no prompt · https://a/b.png · still · #0"
    assert cell.prompt_text == cell.prompt == ""
    assert problems(own, "model=still", "prompt=fox") == [
        "prompt: still takes no prompt; none of its arguments has the role prompt"
    ]
    assert "text" not in read(own, "model=odd", "prompt=null")[1].request.arguments
    assert problems("prompt=null") == ["prompt=null is neither an id of the prompt set nor a text; quote it"]


def test_how_the_emulator_judges_is_set():
    """Hands on its noise and biases, and refuses what is none."""
    settings, _ = read("provider.emulator.judge.position_bias=0.71", "provider.emulator.judge.noise=0")
    assert vars(settings.provider.emulator.judge) == {"noise": 0, "position_bias": 0.71, "length_bias": 0.6}
    (problem,) = problems("provider.emulator.judge.length_bias=1")
    assert problem.startswith("provider.emulator: judge.length_bias is 1.0")
