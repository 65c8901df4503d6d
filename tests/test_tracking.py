"""Runs are written to MLflow once, completed where they were begun, and never broken by long texts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import clips
import pytest
from mlflow.tracking import MlflowClient
from servers import free_port, tracking_server

from kling_sweeps import record, standing
from kling_sweeps.errors import RunError, UnavailableError
from kling_sweeps.journal import Stage, State, Ticket
from kling_sweeps.metrics import measure
from kling_sweeps.request import GenerationRequest
from kling_sweeps.run import Landed
from kling_sweeps.settings import Cell
from kling_sweeps.store import Store
from kling_sweeps.tracking import Tracker

ARGUMENTS = {"prompt": "a fox", "negative_prompt": "", "cfg_scale": 0.5, "aspect_ratio": "16:9", "duration": "5"}


@pytest.fixture
def tracker(tmp_path) -> Tracker:
    return Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", "cfg", "fal")


@pytest.fixture
def client(tracker) -> MlflowClient:
    return tracker.client


@pytest.fixture
def landed(tmp_path, monkeypatch) -> Landed:
    """A finished run of a small grey video."""
    monkeypatch.chdir(tmp_path)
    request = GenerationRequest("a/b", ARGUMENTS, 0, 1.4)
    entry = Store(tmp_path / "store").entry(request)
    entry.create(request)
    entry.write_json("result.json", {"video": {"url": "https://v3.fal.media/x.mp4"}})
    clips.write(entry.video, clips.grey(128))
    folder = entry.measurements("f" * 16)
    measure(entry.video, aspect_ratio="16:9", duration=5).save(folder)
    cell = Cell(request, "kling", "fox", {}, "fox · cfg 0.5 · 16:9 · 5 s · #0")
    state = State(Stage.FINISHED, Ticket("a/b", "r-1"), queue_s=1.0, inference_s=2.0, download_s=0.5, spent_usd=1.4, committed_usd=1.4)
    return Landed(cell, entry, state, folder)


def runs(tracker: Tracker) -> list:
    return tracker.client.search_runs([tracker.experiment_id])


def test_a_run_is_written_once(tracker, landed):
    """Finds a run that stands there by its request key, in this process and in the next."""
    tracker.track(landed)
    tracker.track(landed)
    Tracker(tracker.uri, tracker.sweep, tracker.provider).track(landed)
    (run,) = runs(tracker)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["inference_s"] == 2.0
    assert run.data.metrics["luma_mean"] == pytest.approx(128 / 255, abs=0.05)


def test_what_was_emulated_has_an_experiment_of_its_own(tracker, landed):
    """Never logs an emulated run beside a bought one."""
    tracker.track(landed)
    emulated = dataclasses.replace(tracker, provider="emulator")
    emulated.track(landed)
    names = {e.name for e in tracker.client.search_experiments()}
    assert names >= {"kling_sweeps/cfg", "kling_sweeps/cfg (emulator)"}
    assert len(runs(tracker)) == 1


def test_a_failed_run_says_why_and_is_made_good(tracker, landed):
    """Marks a failure with its reason and takes the mark away when the run succeeds."""
    error = RunError("the model said no", error_type="content_policy_violation", may_have_cost=True)
    state = dataclasses.replace(landed.state, stage=Stage.FAILED, spent_usd=0.0)
    tracker.track(dataclasses.replace(landed, state=state, error=error, measurement=None))
    (run,) = runs(tracker)
    assert run.info.status == "FAILED"
    assert run.data.tags["error"] == "the model said no"
    assert run.data.tags["error_type"] == "content_policy_violation"
    assert run.data.tags["may_have_cost_usd"] == "1.4"
    assert run.data.metrics["cost_usd"] == 0
    Tracker(tracker.uri, tracker.sweep, tracker.provider).track(landed)
    (run,) = runs(tracker)
    assert run.info.status == "FINISHED"
    assert not {"error", "error_type", "may_have_cost_usd"} & set(run.data.tags)


def test_a_run_that_was_begun_is_replaced(tracker, landed):
    """Writes a run anew whose writer died in the middle."""
    begun = tracker.client.create_run(
        tracker.experiment_id, tags={"request_key": landed.cell.request.key}
    )
    tracker.track(landed)
    (run,) = runs(tracker)
    assert run.info.run_id != begun.info.run_id
    assert run.info.status == "FINISHED"
    assert run.data.params["prompt"] == "fox"


def test_a_new_measurement_replaces_the_run(tracker, landed):
    """Shows what was measured anew, and keeps the tags that a person gave the run."""
    tracker.track(landed)
    tracker.client.set_tag(runs(tracker)[0].info.run_id, "favourite", "yes")
    other = landed.entry.measurements("e" * 16)
    measure(landed.entry.video, {"sharpness": {"short_side": 32}, "luma": {}}).save(other)
    Tracker(tracker.uri, tracker.sweep, tracker.provider).track(
        dataclasses.replace(landed, measurement=other)
    )
    (run,) = runs(tracker)
    assert "e" * 16 in run.data.tags["content"]
    assert run.data.tags["favourite"] == "yes"
    assert "motion" not in run.data.metrics


def test_long_texts_break_no_run(tracker, landed):
    """Logs 2,500 characters of any kind, and shortens what MLflow does not take."""
    text = "🦊 é\n" * 625
    request = dataclasses.replace(
        landed.cell.request, arguments={**ARGUMENTS, "prompt": text, "negative_prompt": text}
    )
    cell = dataclasses.replace(landed.cell, request=request, prompt=text)
    error = RunError("x" * 20_000)
    tracker.track(dataclasses.replace(landed, cell=cell, error=error, measurement=None))
    (run,) = runs(tracker)
    assert run.data.params["prompt_text"] == text
    assert run.data.params["negative_prompt"] == text
    assert run.info.status == "FAILED"


def test_the_address_opens_the_charts(tracker, landed):
    """Names the page with the charts, and how to start what shows it."""
    tracker.track(landed)
    assert f"--backend-store-uri {tracker.uri}" in tracker.address()
    assert f"#/experiments/{tracker.experiment_id}/runs?compareRunsMode=CHART" in tracker.address()
    server = dataclasses.replace(tracker, uri="http://me:secret@127.0.0.1:5000/")
    server.__dict__["experiment_id"] = "7"
    assert "secret" not in server.address()


@pytest.mark.parametrize(
    "uri", ["sqlite:////no/such/folder/mlflow.db", "http://127.0.0.1:9", "postgresql://me:secret@127.0.0.1:9/x"]
)
def test_a_store_that_is_not_there_is_refused(uri):
    """Says so before anything is spent, without the password."""
    with pytest.raises(UnavailableError, match="tracking.uri") as caught:
        Tracker(uri, "cfg", "fal").check()
    assert "secret" not in str(caught.value)


def test_the_video_is_named_after_its_run(tracker, landed):
    """Gives the file a name that a person can read."""
    tracker.track(landed)
    (run,) = runs(tracker)
    (video,) = tracker.client.list_artifacts(run.info.run_id, "video")
    assert Path(video.path).name == "fox_cfg-0.5_16x9_5-s_sample-0.mp4"


def test_what_stands_is_seen_without_mlflow(tracker, landed):
    """Reads from the database what was written, and nothing of a run that is there twice or not whole."""
    uri, name = tracker.uri, "kling_sweeps/cfg"
    assert standing.read(uri, name) == standing.Standing(None, {})
    tracker.track(landed)
    stands = standing.read(uri, name)
    assert stands.experiment_id == tracker.experiment_id
    assert stands.contents == {landed.cell.request.key: record.content(landed)}
    assert Tracker(uri, "cfg", "fal").has(landed)
    assert standing.read(uri, "kling_sweeps/other").contents == {}
    begun = tracker.client.create_run(tracker.experiment_id, tags={"request_key": landed.cell.request.key})
    assert standing.read(uri, name).contents == {}
    tracker.client.delete_run(begun.info.run_id)
    assert standing.read(uri, name) == stands


def test_a_database_of_another_kind_is_left_to_mlflow(tmp_path):
    """Says that it does not know, where the tables are not those it knows."""
    path = tmp_path / "other.db"
    path.write_bytes(b"no database at all, but long enough to be taken for one" * 100)
    assert standing.read(f"sqlite:///{path}", "any") is None
    assert standing.read("http://127.0.0.1:9", "any") is None
    assert standing.read("postgresql://somewhere/else", "any") is None


def test_a_run_that_is_called_otherwise_is_replaced(tracker, landed):
    """Keeps no run under the params of another configuration of the same request."""
    tracker.track(landed)
    named = dataclasses.replace(landed, cell=dataclasses.replace(landed.cell, factors={"animal": "fox"}))
    assert not tracker.has(named)
    tracker.track(named)
    (run,) = runs(tracker)
    assert run.data.params["animal"] == "fox"


def test_an_experiment_that_was_deleted_on_a_server_is_restored(tmp_path, landed):
    """Sees the runs of an experiment in use alone, as a server tells of deleted ones too."""
    with tracking_server(tmp_path, free_port()) as uri:
        tracker = Tracker(uri, "cfg", "fal")
        tracker.track(landed)
        assert standing.read(uri, "kling_sweeps/cfg").contents
        tracker.client.delete_experiment(tracker.experiment_id)
        assert standing.read(uri, "kling_sweeps/cfg") == standing.Standing(None, {})
        again = Tracker(uri, "cfg", "fal")
        assert not again.has(landed)
        again.track(landed)
        assert again.client.get_experiment(again.experiment_id).lifecycle_stage == "active"


@pytest.mark.parametrize(
    ("name", "begins", "ends"),
    [
        ("fox · cfg 0.5 · 16:9 · 5 s · #0", "fox_cfg-0.5_16x9_5-s_sample-0", "sample-0"),
        (f"{'猫が走る' * 99} · #12", "猫が走る", "_sample-12"),
        (f"{'แมววิ่งเล่น' * 99} · #1", "แมววิ่งเล่น", "_sample-1"),
        ("🦊" * 300, "-", "-"),
        ("..", "run-", ""),
        ("", "run-", ""),
        ("con", "run-con", ""),
        ("NUL.x", "run-NUL.x", ""),
        (".hidden. · #0.", "hidden", "sample-0"),
        ("half \ud83d an emoji/\0\n", "half---an-emoji", ""),
    ],
)
def test_file_names_fit_any_file_system(tmp_path, name, begins, ends):
    """Makes of any run's name one that can be written, is not hidden, and keeps its beginning and end."""
    made = record.file_name(name)
    assert made.startswith(begins) and made.endswith(ends)
    assert len(made.encode()) <= 120 and not made.endswith(".")
    (tmp_path / f"{made}.mp4").touch()
    assert [path.name for path in tmp_path.iterdir()] == [f"{made}.mp4"]
