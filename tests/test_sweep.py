"""The main job from end to end: the command, the store, MLflow and the ledger agree."""

from __future__ import annotations

import json
import re
import shutil
from urllib.parse import unquote

import av
import pytest
from conftest import SECRET, SMALL, Command, Emulator, Sweep
from mlflow.tracking import MlflowClient

from kling_sweeps.emulator.process import EmulatorProcess
from kling_sweeps.experiment.emulator_settings import EmulatorSettings

pytestmark = pytest.mark.slow

PARAMS = {
    "prompt",
    "prompt_text",
    "negative_prompt",
    "cfg_scale",
    "aspect_ratio",
    "duration",
    "sample",
    "model",
    "endpoint",
}
TAGS = {"request_key", "request_id", "provider", "sweep"}
METRICS = {
    "cost_usd",
    "queue_s",
    "inference_s",
    "download_s",
    "measure_s",
    "width",
    "height",
    "fps",
    "frames",
    "duration_s",
    "bitrate_mbps",
    "aspect_error",
    "duration_error_s",
    "luma_mean",
    "luma_contrast",
    "saturation_mean",
    "colorfulness",
    "sharpness",
    "motion",
    "static_flicker",
}


@pytest.fixture(scope="module")
def client(sweep: Sweep) -> MlflowClient:
    return MlflowClient(sweep.command.tracking_uri)


@pytest.fixture(scope="module")
def runs(client):
    experiment = client.get_experiment_by_name("kling_sweeps/cfg (emulator)")
    return client.search_runs([experiment.experiment_id])


def test_runs_are_found_by_prompt_and_metric(client, runs):
    """Finds a prompt's runs that move, by what a person types into MLflow's search."""
    found = client.search_runs(
        [runs[0].info.experiment_id], 'params.prompt = "skater" and metrics.motion > 0.01'
    )
    moving = [
        run for run in runs if run.data.params["prompt"] == "skater" and run.data.metrics["motion"] > 0.01
    ]
    assert found and {run.info.run_id for run in found} == {run.info.run_id for run in moving}
    assert not client.search_runs(
        [runs[0].info.experiment_id], 'params.prompt = "potter" and metrics.motion > 9'
    )


def test_the_sweep_finishes(sweep):
    """Exits with 0 after ten runs, and says what they cost and where they are."""
    assert sweep.completed.returncode == 0, sweep.completed.stderr
    assert "10 runs: 10 to generate. 14.00 USD" in sweep.completed.stdout
    assert "this would have cost 14.00 USD; the emulator charged nothing" in sweep.completed.stdout
    assert "compareRunsMode=CHART" in sweep.completed.stdout
    assert sweep.completed.stderr == ""


def test_every_accepted_request_is_one_run(sweep, runs):
    """Tracks each submission that was accepted, once, under its request id."""
    accepted = [entry["request_id"] for entry in sweep.ledger]
    assert len(accepted) == 10
    assert sorted(run.data.tags["request_id"] for run in runs) == sorted(accepted)


def test_what_was_sent_is_what_was_meant(sweep, runs):
    """Sends all five arguments as they are logged."""
    sent = {entry["request_id"]: entry["arguments"] for entry in sweep.ledger}
    for run in runs:
        arguments, params = sent[run.data.tags["request_id"]], run.data.params
        assert set(arguments) == {"prompt", "negative_prompt", "cfg_scale", "aspect_ratio", "duration"}
        assert arguments["prompt"] == params["prompt_text"]
        assert arguments["cfg_scale"] == float(params["cfg_scale"])
        assert arguments["duration"] == params["duration"] == "5"
    assert {run.data.params["cfg_scale"] for run in runs} == {"0.1", "0.3", "0.5", "0.7", "0.9"}
    assert {run.data.params["prompt"] for run in runs} == {"potter", "skater"}


def test_a_run_has_the_names_of_the_contract(runs):
    """Logs every param, tag and metric by the name that is documented."""
    for run in runs:
        assert run.info.status == "FINISHED"
        assert set(run.data.params) >= PARAMS
        assert set(run.data.tags) >= TAGS
        assert set(run.data.metrics) >= METRICS
        assert run.data.tags["sweep"] == "cfg"
        assert re.fullmatch(r"\w+ · cfg 0\.\d · #0", run.info.run_name)
        assert run.data.params["prompt_text"] in run.data.tags["mlflow.note.content"].replace("> ", "")


def test_a_run_has_its_artifacts(client, runs):
    """Keeps the video, the film strip, the frames and both JSON files with the run."""
    for run in runs[:2]:
        names = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
        assert names >= {"frames.parquet", "filmstrip.png", "request.json", "result.json", "video.mp4"}
        path = client.download_artifacts(run.info.run_id, "video.mp4")
        with av.open(path) as container:
            assert container.streams.video[0].codec_context.name == "h264"


def test_what_was_measured_is_what_was_asked_for(runs):
    """Measures the requested ratio and duration on the delivered file."""
    for run in runs:
        assert run.data.metrics["frames"] == 120
        assert run.data.metrics["fps"] == pytest.approx(24)
        assert run.data.metrics["aspect_error"] < 0.01
        assert abs(run.data.metrics["duration_error_s"]) < 0.05
        assert run.data.metrics["cost_usd"] == 1.40


def test_cfg_scale_has_its_documented_effect(runs):
    """Finds in the numbers what the emulator put into the pictures."""
    by_prompt = {}
    for run in runs:
        by_prompt.setdefault(run.data.params["prompt"], []).append(run)
    for own in by_prompt.values():
        own.sort(key=lambda run: float(run.data.params["cfg_scale"]))
        assert own[-1].data.metrics["colorfulness"] > own[0].data.metrics["colorfulness"]


def test_the_key_is_nowhere(sweep):
    """Leaves the key in no file, log, param or artifact, in no form."""
    forms = [SECRET, SECRET.partition(":")[2], SECRET.encode().hex()]
    files = [path for path in sweep.command.folder.rglob("*") if path.is_file()]
    assert len(files) > 100
    for path in files:
        content = unquote(path.read_bytes().decode("latin-1"))
        assert not [form for form in forms if form in content], path
    assert SECRET not in sweep.completed.stdout + sweep.completed.stderr


def test_a_second_run_buys_nothing_and_tracks_nothing_twice(sweep, client, runs):
    """Finds everything where it is, without any server to ask."""
    again = sweep.command("+sweep=cfg", "provider=emulator", "provider.base_url=http://127.0.0.1:9")
    assert again.returncode == 0, again.stderr
    assert "10 in the store. 0.00 USD" in again.stdout
    after = client.search_runs([runs[0].info.experiment_id])
    assert {run.info.run_id for run in after} == {run.info.run_id for run in runs}
    assert {run.info.end_time for run in after} == {run.info.end_time for run in runs}


def test_what_was_emulated_is_not_found_in_place_of_what_is_bought(sweep):
    """Plans to buy on fal what only the emulator has made."""
    plan = sweep.command("+sweep=cfg", "provider=fal", "dry_run=true", FAL_KEY="some-key")
    assert plan.returncode == 0, plan.stderr
    assert "10 runs: 10 to generate" in plan.stdout


def test_a_dry_run_submits_nothing(command, emulator):
    """Prints every cell and the total, and leaves neither store nor database."""
    dry = command(
        "+sweep=grid", "dry_run=true", "provider=emulator", f"provider.base_url={emulator.base_url}"
    )
    assert dry.returncode == 0, dry.stderr
    assert dry.stdout.count("to generate") == 9
    assert "16.80 USD" in dry.stdout
    assert emulator.ledger() == []
    assert not (command.folder / "store").exists()
    assert not (command.folder / "mlflow.db").exists()


def test_one_video_needs_no_sweep(command):
    """Runs a single video on an emulator of its own, and says so."""
    one = command("prompt='A cat, asleep'", "cfg_scale=0.7", *SMALL)
    assert one.returncode == 0, one.stderr
    assert "no fal credentials" in one.stdout
    client = MlflowClient(command.tracking_uri)
    experiment = client.get_experiment_by_name("kling_sweeps/single (emulator)")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params["prompt_text"] == "A cat, asleep"
    assert run.data.tags["provider"] == "emulator"


NASTY = [
    "commas, and = signs, and: colons",
    'it\'s "quoted" \\ and {braced} [and] (so on)',
    "two\nlines\tand a tab",
    "🦊 trots, très vite, по снегу, 雪",
    "  blanks around  ",
    "100% of $5 #hash; a | b & c ~ d ! ? * @",
    "é" * 1250 + "🦊" * 1250,
]


def quoted(text: str) -> str:
    return "'" + text.replace("'", "\\'") + "'"


def test_any_prompt_arrives_byte_for_byte(command, emulator):
    """Sends what was written, swept or not, whatever it is made of."""
    swept = ",".join(quoted(text) for text in NASTY)
    small = ["provider=emulator", f"provider.base_url={emulator.base_url}"]
    done = command("-m", f"prompt={swept}", *small)
    assert done.returncode == 0, done.stderr
    assert {entry["arguments"]["prompt"] for entry in emulator.ledger()} == set(NASTY)
    client = MlflowClient(command.tracking_uri)
    experiment = client.get_experiment_by_name("kling_sweeps/single (emulator)")
    logged = {run.data.params["prompt_text"] for run in client.search_runs([experiment.experiment_id])}
    assert logged == set(NASTY)
    one = command(f"prompt={quoted(NASTY[1])}", "sample=1", *small)
    assert one.returncode == 0, one.stderr
    assert emulator.ledger()[-1]["arguments"]["prompt"] == NASTY[1]


def test_a_failed_run_is_a_record_and_the_others_finish(command, emulator):
    """Tracks a moderated prompt as FAILED with its reason, and exits with 1."""
    emulator.set_faults({"at": "generate", "fault": "moderation_422", "match": "fox"})
    done = command("-m", "prompt=potter,fox", "provider=emulator", f"provider.base_url={emulator.base_url}")
    assert done.returncode == 1
    assert "content_policy_violation" in done.stdout
    client = MlflowClient(command.tracking_uri)
    experiment = client.get_experiment_by_name("kling_sweeps/single (emulator)")
    found = {run.data.params["prompt"]: run for run in client.search_runs([experiment.experiment_id])}
    assert found["potter"].info.status == "FINISHED"
    assert found["fox"].info.status == "FAILED"
    assert found["fox"].data.tags["error_type"] == "content_policy_violation"
    assert found["fox"].data.tags["error"]
    again = command("-m", "prompt=potter,fox", "provider=emulator", f"provider.base_url={emulator.base_url}")
    assert again.returncode == 1
    assert len(emulator.ledger()) == 2


def test_any_launcher_gives_the_same_numbers_and_names(sweep, runs, tmp_path):
    """Measures the same, and calls it the same, with Hydra's own launcher on a store that has the videos alone."""
    measurements = shutil.ignore_patterns("measurements")
    shutil.copytree(sweep.command.folder / "store", tmp_path / "store", ignore=measurements)
    nobody = "provider.base_url=http://127.0.0.1:9"
    done = Command(tmp_path)(
        "+sweep=cfg", "prompt=potter", "hydra/launcher=basic", "provider=emulator", nobody
    )
    assert done.returncode == 0, done.stdout + done.stderr
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("kling_sweeps/cfg (emulator)")
    there = {run.data.tags["request_key"]: run for run in client.search_runs([experiment.experiment_id])}
    here = {run.data.tags["request_key"]: run for run in runs if run.data.params["prompt"] == "potter"}
    assert there.keys() == here.keys()
    for key, run in here.items():
        other = there[key]
        assert {**other.data.metrics, "measure_s": 0} == {**run.data.metrics, "measure_s": 0}
        assert other.data.metrics["measure_s"] != run.data.metrics["measure_s"]
        assert other.info.run_name == run.info.run_name


RAISING = """
from kling_sweeps.metric import FrameMetric, Value

class Raising(FrameMetric):
    version = 1
    values = (Value("raising", "", unit="1", range=(0, 1), direction="neither", source=""),)

    def per_frame(self, frame):
        raise ArithmeticError("no such number")
"""


@pytest.mark.parametrize("launcher", ["fal", "basic"])
def test_a_metric_that_raises_is_told_in_the_exit_code(command, launcher):
    """Exits with 1, new or measured again, each time; every run is complete and tracked."""
    folder = command.folder / "mine" / "metrics"
    folder.mkdir(parents=True)
    (command.folder / "raising.py").write_text(RAISING)
    (folder / "own.yaml").write_text('defaults: [fast]\nraising: {target: "raising:Raising"}\n')
    given = ["-m", "sample=0,1", f"hydra/launcher={launcher}", "--config-dir", "mine", *SMALL]
    assert command(*given, "metrics=fast").returncode == 0
    for again in (given, given, ["sample=0", *given[3:]], ["sample=2", *given[3:]]):
        done = command(*again, "metrics=own")
        assert done.returncode == 1, done.stderr
        assert "raising: ArithmeticError: no such number" in done.stdout
    client = MlflowClient(command.tracking_uri)
    experiment = client.get_experiment_by_name("kling_sweeps/single (emulator)")
    runs = client.search_runs([experiment.experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * 3
    assert all("luma_mean" in run.data.metrics for run in runs)


def test_any_launcher_says_what_the_whole_sweep_cost(command):
    """Ends with the sum of all jobs, where they can be compared and what they say, where one has failed too."""
    with EmulatorProcess(EmulatorSettings(width=128, height=72, fps=2, latency_s=0)) as process:
        Emulator(process.base_url).set_faults({"at": "generate", "fault": "moderation_422", "match": "fox"})
        here = [f"provider.base_url={process.base_url}", "provider=emulator", "hydra/launcher=basic"]
        done = command("-m", "prompt=potter,fox", "sample=0,1", "metrics=fast", *here)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    (end,) = [number for number, line in enumerate(lines) if line.startswith("The whole sweep, ")]
    whole, where, *said = lines[end:]
    assert whole.startswith(
        "The whole sweep, 4 runs: 2 in the store, 2 failed. On fal this would have cost 2.80 USD"
    )
    assert where.startswith("Compare the runs: ")
    assert "What the runs say" in said and said[-1].startswith("See the videos in step: ")


def test_the_store_can_be_read_by_a_person(sweep):
    """Keeps a generation as plain files under its key."""
    folders = [p.parent for p in (sweep.command.folder / "store" / "emulator").rglob("video.mp4")]
    assert len(folders) == 10
    for folder in folders:
        request = json.loads((folder / "request.json").read_text())
        assert request["arguments"]["duration"] == "5"
        assert (folder / "journal.jsonl").read_text().count('"submitting"') == 1
        assert json.loads((folder / "result.json").read_text())["video"]["url"]
