"""Runs are written to MLflow once, completed where they were begun, and never broken by long texts."""

from __future__ import annotations

import dataclasses
import re

import pytest
from conftest import ARGUMENTS
from mlflow.tracking import MlflowClient
from servers import free_port, tracking_server

from kling_sweeps.analysis import runs_df
from kling_sweeps.errors import RunError, UnavailableError
from kling_sweeps.metrics import measure
from kling_sweeps.store.result import RunResult
from kling_sweeps.store.state_machine import Cost, Stage
from kling_sweeps.tracking import run_data, tracked
from kling_sweeps.tracking.tracker import Tracker


@pytest.fixture
def tracker(tmp_path) -> Tracker:
    return Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", "cfg", "fal")


@pytest.fixture
def client(tracker) -> MlflowClient:
    return tracker.client


def runs(tracker: Tracker) -> list:
    return tracker.client.search_runs([tracker.experiment_id])


def test_a_run_is_written_once(tracker, result):
    """Finds a run that stands there by its request key, in this process and in the next."""
    tracker.track(result)
    tracker.track(result)
    Tracker(tracker.uri, tracker.sweep, tracker.provider).track(result)
    (run,) = runs(tracker)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["inference_s"] == 2.0
    assert run.data.metrics["luma_mean"] == pytest.approx(128 / 255, abs=0.05)


def test_what_was_emulated_has_an_experiment_of_its_own(tracker, result):
    """Never logs an emulated run beside a bought one."""
    tracker.track(result)
    emulated = dataclasses.replace(tracker, provider="emulator")
    emulated.track(result)
    names = {e.name for e in tracker.client.search_experiments()}
    assert names >= {"kling_sweeps/cfg", "kling_sweeps/cfg (emulator)"}
    assert len(runs(tracker)) == 1


def test_a_failed_run_says_why_and_is_made_good(tracker, result):
    """Marks a failure with its reason and takes the mark away when the run succeeds."""
    error = RunError("the model said no", error_type="content_policy_violation", may_have_cost=True)
    (attempt,) = result.state.attempts
    perhaps = dataclasses.replace(attempt, cost=Cost.PERHAPS)
    state = dataclasses.replace(result.state, stage=Stage.FAILED, attempts=(perhaps,))
    tracker.track(dataclasses.replace(result, state=state, error=error, measurement=None))
    (run,) = runs(tracker)
    assert run.info.status == "FAILED"
    assert run.data.tags["error"] == "the model said no"
    assert run.data.tags["error_type"] == "content_policy_violation"
    assert run.data.tags["may_have_cost_usd"] == "1.4"
    assert run.data.metrics["cost_usd"] == 0
    Tracker(tracker.uri, tracker.sweep, tracker.provider).track(result)
    (run,) = runs(tracker)
    assert run.info.status == "FINISHED"
    assert not {"error", "error_type", "may_have_cost_usd"} & set(run.data.tags)


def test_a_run_that_was_begun_is_replaced(tracker, result):
    """Writes a run anew whose writer died in the middle."""
    begun = tracker.client.create_run(tracker.experiment_id, tags={"request_key": result.cell.request.key})
    tracker.track(result)
    (run,) = runs(tracker)
    assert run.info.run_id != begun.info.run_id
    assert run.info.status == "FINISHED"
    assert run.data.params["prompt"] == "fox"


@pytest.fixture
def measured_anew(result) -> RunResult:
    """The same run with another measurement."""
    other = result.entry.measurements("e" * 16)
    measure(result.entry.video, {"sharpness": {"short_side": 32}, "luma": {}}).save(other)
    return dataclasses.replace(result, measurement=other)


def test_what_was_read_is_a_tag(tracker, result):
    """Tells what text was read in the video, where any was."""
    tracker.track(result)
    assert "text_read" not in runs(tracker)[0].data.tags
    measured, other = measure(result.entry.video, {"luma": {}}), result.entry.measurements("d" * 16)
    dataclasses.replace(measured, facts={**measured.facts, "text_read": "OPEN / 茶馆"}).save(other)
    Tracker(tracker.uri, tracker.sweep, tracker.provider).track(
        dataclasses.replace(result, measurement=other)
    )
    assert runs(tracker)[0].data.tags["text_read"] == "OPEN / 茶馆"


def test_a_new_measurement_replaces_the_run(tracker, result, measured_anew):
    """Shows what was measured anew, and keeps the tags and votes that people gave the run, which alone change nothing."""
    tracker.track(result)
    run_id = runs(tracker)[0].info.run_id
    tracker.client.set_tag(run_id, "favourite", "yes")
    tracker.add(run_id, {"votes/win_share": 0.75, "votes/n": 4}, {"votes_question": "Which one?"})
    Tracker(tracker.uri, tracker.sweep, tracker.provider).track(result)
    assert [run.info.run_id for run in runs(tracker)] == [run_id]
    Tracker(tracker.uri, tracker.sweep, tracker.provider).track(measured_anew)
    (run,) = runs(tracker)
    assert "e" * 16 in run.data.tags["content"]
    assert run.data.tags["favourite"] == "yes"
    assert run.data.tags["votes_question"] == "Which one?"
    assert (run.data.metrics["votes/win_share"], run.data.metrics["votes/n"]) == (0.75, 4)
    assert "motion" not in run.data.metrics


THEIRS = {
    "favourite": "yes",
    "mlflow.runName": "the one",
    "mlflow.note.content": "Lovely.",
    "mlflow.runColor": "#f00",
}


def theirs(run) -> dict[str, str]:
    return {key: run.data.tags.get(key) for key in THEIRS}


class Broken:
    """MLflow's client, whose server is gone from its n-th call on, before the call is made or after it."""

    def __init__(self, client: MlflowClient, calls: int, is_after: bool) -> None:
        self.client, self.left, self.is_after = client, calls, is_after

    def __getattr__(self, name: str):
        def call(*args, **kwargs):
            self.left -= 1
            if self.left < 0 or (self.left == 0 and not self.is_after):
                raise ConnectionError("the server is gone")
            result = getattr(self.client, name)(*args, **kwargs)
            if self.left == 0:
                raise ConnectionError("the answer was lost")
            return result

        return call


@pytest.mark.slow
@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
def test_a_server_that_goes_away_at_any_call_loses_nothing_of_a_persons(
    tracker, result, measured_anew, is_after
):
    """Has a run with a person's tags, name and words at every moment, and one alone once it is tracked again."""
    client = tracker.client
    tracker.track(result)
    for calls in range(1, 100):
        (run,) = runs(tracker)
        for key, value in THEIRS.items():
            client.set_tag(run.info.run_id, key, value)
        replaced = (measured_anew, result)[calls % 2 == 0]
        away = Tracker(tracker.uri, tracker.sweep, tracker.provider)
        away.open()
        away.client = Broken(client, calls, is_after)
        try:
            away.track(replaced)
        except ConnectionError:
            pass
        else:
            break
        assert THEIRS in [theirs(run) for run in runs(tracker)]
        Tracker(tracker.uri, tracker.sweep, tracker.provider).track(replaced)
        (run,) = runs(tracker)
        assert theirs(run) == THEIRS
        assert run.info.status == "FINISHED"
    assert calls > 8


def test_a_command_that_is_killed_between_writing_and_deleting_is_mended(tracker, result, measured_anew):
    """Leaves one run of two whole ones, with what a person gave either."""
    tracker.track(result)
    (old,) = runs(tracker)
    tracker.client.set_tag(old.info.run_id, "mlflow.note.content", "Mine.")
    away = Tracker(tracker.uri, tracker.sweep, tracker.provider)
    away.client.delete_run, kept = None, away.client.delete_run
    with pytest.raises(TypeError):
        away.track(measured_anew)
    away.client.delete_run = kept
    new = next(run for run in runs(tracker) if run.info.run_id != old.info.run_id)
    tracker.client.set_tag(old.info.run_id, "favourite", "yes")
    tracker.client.set_tag(new.info.run_id, "rating", "5")
    assert len(runs_df("cfg", tracker.uri)) == 1
    Tracker(tracker.uri, tracker.sweep, tracker.provider).track(measured_anew)
    (run,) = runs(tracker)
    assert run.info.run_id == new.info.run_id
    assert (run.data.tags["favourite"], run.data.tags["rating"]) == ("yes", "5")
    assert run.data.tags["mlflow.note.content"] == "Mine."


def test_words_that_nobody_changed_are_written_anew(tracker, result):
    """Takes the reason of a failure out of the description of a run that is made good, and its new name."""
    error = RunError("the model said no; retry=failed pays again", error_type="content_policy_violation")
    tracker.track(dataclasses.replace(result, error=error, measurement=None))
    (run,) = runs(tracker)
    assert "the model said no; retry=failed pays again" in run.data.tags["mlflow.note.content"]
    renamed = dataclasses.replace(result, cell=dataclasses.replace(result.cell, name="fox · #0"))
    Tracker(tracker.uri, tracker.sweep, tracker.provider).track(renamed)
    (run,) = runs(tracker)
    assert "said no" not in run.data.tags["mlflow.note.content"]
    assert run.info.run_name == "fox · #0"


def test_a_description_that_was_emptied_stays_empty(tracker, result, measured_anew):
    """Takes a description that a person took away for theirs."""
    tracker.track(result)
    tracker.client.set_tag(runs(tracker)[0].info.run_id, "mlflow.note.content", "")
    Tracker(tracker.uri, tracker.sweep, tracker.provider).track(measured_anew)
    assert runs(tracker)[0].data.tags["mlflow.note.content"] == ""


@pytest.mark.parametrize(
    "text",
    [
        "<img src=http://127.0.0.1:9/seen.png> ![seen](http://127.0.0.1:9/seen.png)",
        "a `b` ``c`` ```\n</code></pre><img src=x>\n```\n~~~",
        "`",
        "`" * 3000,
        "**bold**\n# head\n> quote",
    ],
)
def test_a_description_shows_text_as_text(result, text):
    """Fences a prompt and an error by more backticks than they have in a row, whole, within MLflow's limit."""
    arguments = {**ARGUMENTS, "prompt": text, "negative_prompt": text}
    request = dataclasses.replace(result.cell.request, arguments=arguments)
    cell = dataclasses.replace(result.cell, request=request, name=text)
    said = run_data.description(dataclasses.replace(result, cell=cell, error=RunError(text)))
    assert len(said) <= 8000
    fenced = re.findall(r"^(`{3,})\n(.*?)\n\1$", said, re.DOTALL | re.MULTILINE)
    assert len(fenced) == 3
    for fence, shown in fenced:
        assert fence not in shown
        assert shown == text or "`" * 10 in text


def test_long_texts_break_no_run(tracker, result):
    """Logs 2,500 characters of any kind, and shortens what MLflow does not take."""
    text = "🦊 é\n" * 625
    request = dataclasses.replace(
        result.cell.request, arguments={**ARGUMENTS, "prompt": text, "negative_prompt": text}
    )
    cell = dataclasses.replace(result.cell, request=request, prompt=text)
    error = RunError("x" * 20_000)
    tracker.track(dataclasses.replace(result, cell=cell, error=error, measurement=None))
    (run,) = runs(tracker)
    assert run.data.params["prompt_text"] == text
    assert run.data.params["negative_prompt"] == text
    assert run.info.status == "FAILED"


def test_the_address_opens_the_charts(tracker, result):
    """Names the page with the charts, and how to start what shows it."""
    tracker.track(result)
    assert f"--backend-store-uri {tracker.uri}" in tracker.address()
    assert f"#/experiments/{tracker.experiment_id}/runs?compareRunsMode=CHART" in tracker.address()
    server = dataclasses.replace(tracker, uri="http://me:secret@127.0.0.1:5000/")
    server.__dict__.update(experiment_id="7", made_from="")
    assert "secret" not in server.address()


@pytest.mark.parametrize(
    "uri",
    ["sqlite:////no/such/folder/mlflow.db", "http://127.0.0.1:9", "postgresql://me:secret@127.0.0.1:9/x"],
)
def test_a_store_that_is_not_there_is_refused(uri):
    """Says so before anything is spent, without the password."""
    with pytest.raises(UnavailableError, match=r"tracking\.uri") as caught:
        Tracker(uri, "cfg", "fal").check()
    assert "secret" not in str(caught.value)


def test_the_video_has_the_same_path_in_every_run(tracker, result):
    """Logs the file where MLflow's page that compares runs finds it in each of them."""
    tracker.track(result)
    (run,) = runs(tracker)
    assert "video.mp4" in {file.path for file in tracker.client.list_artifacts(run.info.run_id)}


def test_numeric_settings_are_metrics_too(tracker, result):
    """Logs what charts are drawn against, texts that look like numbers left out, and no other metric of that kind."""
    arguments = {**ARGUMENTS, "negative_prompt": "7", "seed": 7, "audio": True, "mode": "nan"}
    request = dataclasses.replace(result.cell.request, arguments=arguments)
    factors = {"year": "1990", "light": "soft"}
    tracker.track(
        dataclasses.replace(result, cell=dataclasses.replace(result.cell, request=request, factors=factors))
    )
    (run,) = runs(tracker)
    found = {name: value for name, value in run.data.metrics.items() if name.startswith("setting/")}
    assert found == {
        "setting/cfg_scale": 0.5,
        "setting/duration": 5,
        "setting/seed": 7,
        "setting/year": 1990,
    }
    assert not [name for name in runs_df("cfg", tracker.uri) if name.startswith("setting/")]


def test_a_run_of_an_older_layout_is_written_anew(tracker, result, monkeypatch):
    """Gives a finished run of another version what this one writes, and keeps what is a person's."""
    monkeypatch.setattr(run_data, "LAYOUT", 1)
    tracker.track(result)
    tracker.client.set_tag(runs(tracker)[0].info.run_id, "favourite", "yes")
    monkeypatch.undo()
    again = Tracker(tracker.uri, tracker.sweep, tracker.provider)
    assert not again.has(result)
    again.track(result)
    (run,) = runs(tracker)
    assert run.data.tags["favourite"] == "yes"
    assert Tracker(tracker.uri, tracker.sweep, tracker.provider).has(result)


def test_what_stands_is_seen_without_mlflow(tracker, result):
    """Reads from the database what was written, and nothing of a run that is there twice or not whole."""
    uri, name = tracker.uri, "kling_sweeps/cfg"
    assert tracked.read(uri, name) == tracked.TrackedRuns(None, {})
    tracker.track(result)
    stands = tracked.read(uri, name)
    assert stands.experiment_id == tracker.experiment_id
    assert stands.contents == {result.cell.request.key: run_data.content(result)}
    assert Tracker(uri, "cfg", "fal").has(result)
    assert tracked.read(uri, "kling_sweeps/other").contents == {}
    begun = tracker.client.create_run(tracker.experiment_id, tags={"request_key": result.cell.request.key})
    assert tracked.read(uri, name).contents == {}
    tracker.client.delete_run(begun.info.run_id)
    assert tracked.read(uri, name) == stands


def test_a_run_that_is_called_otherwise_is_replaced(tracker, result):
    """Keeps no run under the params of another configuration of the same request."""
    tracker.track(result)
    named = dataclasses.replace(result, cell=dataclasses.replace(result.cell, factors={"animal": "fox"}))
    assert not tracker.has(named)
    tracker.track(named)
    (run,) = runs(tracker)
    assert run.data.params["animal"] == "fox"


@pytest.mark.slow
def test_an_experiment_that_was_deleted_on_a_server_is_restored(tmp_path, result):
    """Sees the runs of an experiment in use alone, as a server tells of deleted ones too."""
    with tracking_server(tmp_path, free_port()) as uri:
        tracker = Tracker(uri, "cfg", "fal")
        tracker.track(result)
        assert tracked.read(uri, "kling_sweeps/cfg").contents
        tracker.client.delete_experiment(tracker.experiment_id)
        assert tracked.read(uri, "kling_sweeps/cfg") == tracked.TrackedRuns(None, {})
        again = Tracker(uri, "cfg", "fal")
        assert not again.has(result)
        again.track(result)
        assert again.client.get_experiment(again.experiment_id).lifecycle_stage == "active"


@pytest.mark.slow
def test_mlflow_says_nothing_in_between(tmp_path, result, capfd):
    """Prints no line of MLflow's own for a run that a server takes."""
    with tracking_server(tmp_path, free_port()) as uri:
        Tracker(uri, "cfg", "fal").track(result)
    said = "".join(capfd.readouterr())
    assert "View" not in said and "http" not in said
