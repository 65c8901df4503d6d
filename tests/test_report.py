"""What is in a report: everything that was asked for, as text, within its size, however a sweep has gone."""

from __future__ import annotations

import json
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
import report_data
from conftest import ARGUMENTS

from kling_sweeps.analysis import runs_df
from kling_sweeps.experiment.request import GenerationRequest
from kling_sweeps.report import main
from kling_sweeps.reports.clips import CLIP, SINGLE, clip_of, groups, strip_of
from kling_sweeps.reports.contents import Contents, Video, _factors, assemble, read_contents
from kling_sweeps.reports.page import AROUND, _facts, render
from kling_sweeps.store.folder import Store
from kling_sweeps.store.state_machine import Ticket
from kling_sweeps.tracking.tracker import mlflow_client

HOSTILE = "</script><script>alert(1)</script> {{ 7*7 }} <img src=x onerror=alert(2)> & \u202e \x07 'quoted' \"double\" ]]> --> 日本"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Make three clips, one of them upright and longer."""
    folder = tmp_path_factory.mktemp("clips")
    return [
        report_data.clip(folder / "a"),
        report_data.clip(folder / "b", shade=50),
        report_data.clip(folder / "c", frames=48, size=(180, 320)),
    ]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Make a clip that takes next to nothing."""
    return [report_data.clip(tmp_path_factory.mktemp("tiny"), frames=4, size=(64, 36))]


def data(page: str) -> dict:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
    return json.loads(found)


def count(page: str, kind: str) -> int:
    return len(re.findall(rf'<script type="text/plain" id="{kind}-\d+">', page))


def test_a_report_has_every_run_with_what_was_asked(made):
    """Says what was swept, at what price, and holds a clip, a filmstrip and the numbers of every run."""
    page = render(report_data.contents(made), config="prompt: potter")
    assert "2 prompts × cfg_scale 0.1, 0.3, 0.5, 0.7, 0.9" in page
    assert "14.00 USD" in page and ">emulated</span>" in page and "prompt: potter" in page
    found = data(page)
    assert [factor["key"] for factor in found["factors"]] == ["prompt", "cfg_scale"]
    assert len(found["runs"]) == count(page, "film") == count(page, "strip") == 10
    assert all(run["clip"] and run["values"][0] is not None for run in found["runs"])


@pytest.mark.parametrize("prompts", [("skater", "potter"), ("potter", "skater")])
def test_rows_stand_as_swept(made, prompts):
    """Has the prompts in the order in which they were submitted first, whatever order MLflow has the runs in."""
    whole = report_data.contents(made, prompts=prompts)
    again = assemble("cfg", "emulator", whole.videos[::-1], report_data.METRICS)
    assert again.factors[0].levels == prompts
    assert [video.name for video in again.videos] == [video.name for video in whole.videos]


def test_a_goal_comes_first_and_says_which_way_is_better(made):
    """Shows the goals first, better as the sweep says and not as the metric does; its own as it declares them."""
    whole = report_data.contents(made)
    goal = {"own": "min", "sharpness": "min", "cost_usd": "max", "gone": "max"}
    declared = {"own": ["dB", "higher"], "other": ["1", "lower"]}
    metrics = [*report_data.METRICS, "other", "own"]
    again = assemble("cfg", "emulator", whole.videos, metrics, goal, declared)
    found = {one["name"]: one for one in data(render(again))["quantities"]}
    assert list(found)[:3] == again.goals == ["own", "sharpness", "cost_usd"]
    assert [found[name]["direction"] for name in again.goals] == ["lower", "lower", "higher"]
    assert (found["own"]["unit"], found["other"]["unit"], found["other"]["direction"]) == ("dB", "", "lower")
    assert {name for name, one in found.items() if one["isGoal"]} == {*again.goals}
    assert whole.quantities[0].name == "motion" and whole.goals == ["motion", "sharpness"]


def test_a_report_asks_nobody_for_anything(made):
    """Has no address in it that a browser would fetch, and forbids any but a server's videos."""
    page = render(report_data.contents(made))
    shell = re.sub(r'<script type="text/plain".*?</script>', "", page, flags=re.DOTALL)
    assert re.findall(r'(?:src|href|action|poster)="(?!data:)[^"]*"|@import|url\(', shell) == []
    assert "default-src 'none'" in page


@pytest.mark.parametrize("place", ["prompt", "text", "config"])
def test_what_others_wrote_is_text(made, place):
    """Keeps markup in a prompt, its id or the configuration from being any in the page."""
    hostile = HOSTILE if place != "text" else "{prompt} " + HOSTILE.replace("{", "{{").replace("}", "}}")
    given = (
        {"prompts": (hostile, "fox")} if place == "prompt" else {"text": hostile} if place == "text" else {}
    )
    page = render(report_data.contents(made, **given), config=HOSTILE if place == "config" else "")
    assert "<script>alert" not in page and "<img src=x" not in page
    assert page.count("</script>") == page.count("<script")
    if place != "config":
        assert any(
            "</script><script>alert(1)" in text for text in [*data(page)["texts"], *data(page)["prompts"]]
        )


@pytest.mark.parametrize("runs", [1, 10, 300, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_report_has_as_many_runs_as_there_are(tiny, runs):
    """Takes one run and a thousand, each clip playing, in few videos where they are many."""
    whole = report_data.contents(tiny, settings=[n / runs for n in range(runs)], prompts=["fox"])
    page = render(whole)
    assert len(data(page)["runs"]) == runs
    assert all(run["clip"] for run in data(page)["runs"])
    assert count(page, "strip") == runs if runs <= SINGLE else runs / 12 <= count(page, "strip") <= runs / 10


def test_a_failed_run_has_its_reason(made):
    """Shows a run that failed, or is on its way, with what is known of it, and counts them."""
    page = render(report_data.contents(made, status=lambda n: ["failed", "coming", "finished"][min(n, 2)]))
    assert "1 failed" in page and "1 on their way" in page
    runs = data(page)["runs"]
    assert [run["status"] for run in runs[:2]] == ["failed", "coming"]
    assert runs[0]["why"] == "content_policy_violation: fal would not" and runs[0]["clip"] is None


@pytest.mark.parametrize("status", ["failed", "coming"])
def test_a_report_without_a_video_is_one(made, status):
    """Is made of runs that all failed, or that are all on their way."""
    page = render(report_data.contents(made, status=lambda n: status))
    assert count(page, "film") == count(page, "strip") == 0
    assert {run["status"] for run in data(page)["runs"]} == {status}


def test_clips_beyond_the_limit_are_filmstrips(tiny):
    """Leaves clips out, the last repeats first, where the page would become too large, and says so."""
    whole = report_data.contents(tiny, samples=20)
    strips = re.findall(r'id="strip-\d+">(.*?)<', render(whole))
    limit = len(render(whole, limit=0).encode()) + AROUND * 200 + sum(map(len, strips)) // 2
    page = render(whole, limit=limit)
    assert len(page.encode()) <= limit
    playing = [run["sample"] for run in data(page)["runs"] if run["clip"]]
    assert 0 < len(playing) < 200 and max(playing) < 19
    assert f"{len(playing)} of 200 videos play" in page and count(page, "film") == 200


def test_clips_of_one_shape_and_length_share_a_video(made, tmp_path):
    """Puts side by side what has the same height and times, and keeps every frame of it."""
    every = [made[number % 3] for number in range(30)]
    shared = groups(every)
    assert sorted(number for group in shared for number in group) == list(range(30))
    assert all(len({(every[n].height, every[n].times) for n in group}) == 1 for group in shared)
    strip = strip_of(every, shared[0])
    path = tmp_path / "video.mp4"
    path.write_bytes(strip.content)
    joined = clip_of(path, tmp_path)
    assert joined.times == made[0].times
    assert strip.lefts == tuple(320 * n for n in range(len(strip.clips)))


def test_strips_stay_when_a_sweep_grows(tmp_path):
    """Joins clips anew only where there are others, beside the first, which has one strip at most."""
    made = [report_data.clip(tmp_path / str(n), frames=4, size=(64, 36), shade=n) for n in range(2 * SINGLE)]
    render(report_data.contents(made[:-1], settings=list(range(2 * SINGLE - 1)), prompts=["fox"]))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/strip-*.mp4")}
    assert [path.parent.name for path in before] and len(before) == 2
    whole = report_data.contents(made, settings=list(range(2 * SINGLE)), prompts=["fox"])
    page = render(whole)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/strip-*.mp4")}
    assert len(after) == 2 and len(before.items() & after.items()) == 1
    assert render(whole) == page and after == {path: path.stat().st_mtime_ns for path in after}


def test_a_clip_is_made_once(made, monkeypatch):
    """Takes a clip from beside its video, unless the video is newer."""
    folder = made[0].path.parent
    before = (folder / CLIP).stat().st_mtime_ns
    assert clip_of(folder / "video.mp4", folder) == made[0]
    assert (folder / CLIP).stat().st_mtime_ns == before


def test_a_sweep_that_is_not_there_is_named(tmp_path, monkeypatch, capsys):
    """Ends with 2 and says which sweeps there are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(["nothing"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("there is no") and said.count("\n") == 1
    assert list(Path().iterdir()) == []


def reports(uri: str) -> list:
    client = mlflow_client(uri)
    ids = [one.experiment_id for one in client.search_experiments()]
    return list(client.search_runs(ids, "tags.kind = 'report'"))


@pytest.mark.slow
def test_a_sweep_leaves_one_report_that_the_command_updates(sweep, monkeypatch, tmp_path):
    """Is made at a sweep's end beside Hydra's files and in MLflow, with the config, in a run that is no video's."""
    folder, uri = sweep.command.folder, sweep.command.tracking_uri
    (made,) = folder.glob("outputs/cfg/*/report.html")
    assert str(made) in sweep.completed.stdout
    assert "cfg_scale: 0.5" in made.read_text(encoding="utf-8") or "cfg_scale: ${" in made.read_text(
        encoding="utf-8"
    )
    (before,) = reports(uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert main(["cfg", "--store", str(folder / "store"), "--out", str(tmp_path / "cfg.html")]) == 0
    (after,) = reports(uri)
    assert after.info.run_id == before.info.run_id
    assert Path(after.info.artifact_uri, "report.html").read_bytes() == (tmp_path / "cfg.html").read_bytes()
    assert len(runs_df("cfg", uri)) == 10


@pytest.mark.slow
def test_a_report_shows_what_is_on_its_way(sweep, tmp_path):
    """Shows a run that fal has and MLflow has not, in the words of the others, with its stage."""
    store = tmp_path / "store"
    shutil.copytree(sweep.command.folder / "store", store)
    request = GenerationRequest("a/b", {**ARGUMENTS, "prompt": "A new one, <b>bold</b>"}, 0, 1.4)
    entry = Store(store / "emulator").entry(request)
    entry.create(request)
    entry.journal.append("submitting", sweep="cfg", command="c", price_usd=1.4, provider_at=None)
    entry.submitted(Ticket("a/b", "r-1"), "test")
    found = read_contents("cfg", store, sweep.command.tracking_uri)
    (coming,) = found.of("coming")
    assert coming.why.startswith("with fal, submitted") and len(found.videos) == 11
    assert "<b>bold" not in render(found)


def test_what_belongs_to_a_model_is_no_factor():
    """Compares models, and what several models vary, but not what each of them has one value of."""
    settings = [
        {"model": "a", "cfg_scale": "0.5", "seed": "1"},
        {"model": "a", "cfg_scale": "0.5", "seed": "2"},
        {"model": "b", "duration": "8s", "seed": "1"},
    ]
    videos = [Video("fox", "finished", "", {"prompt": "fox", **one}, 0, {}) for one in settings]
    assert [one.key for one in _factors(videos)] == ["model", "seed"]
    contents = Contents("models", "fal", datetime.now(UTC), videos, _factors(videos), (), (), ())
    facts = _facts(contents)
    assert facts["fixed"] == {"prompt": "fox"}
    assert facts["of_models"] == {"a": {"cfg_scale": "0.5"}, "b": {"duration": "8s"}}
