"""The saved views, colours and notes that MLflow shows a sweep by."""

from __future__ import annotations

import colorsys
import json
import zlib
from base64 import b64decode
from itertools import product

import pytest
from conftest import ARGUMENTS
from mlflow.tracking import MlflowClient

from kling_sweeps.tracking import run_data
from kling_sweeps.tracking.colors import run_colors
from kling_sweeps.tracking.note import beside, note, report_link, summary
from kling_sweeps.tracking.overview import USUAL, Overview, RunFacts
from kling_sweeps.tracking.presentation import RECORD
from kling_sweeps.tracking.tracker import Tracker
from kling_sweeps.tracking.views import ALL, BY_FRAME, BY_SETTING, LOADED, MONEY, PREFIX, TAG_LENGTH, views

METRICS = dict.fromkeys((*USUAL, "cuts", "cost_usd", "queue_s", "frame/motion", "frame/brightness"), 0.5)
HOSTILE = [
    '"',
    "'",
    "a`b``c",
    "</script><img src=x>",
    "${x}",
    "🦊" * 500,
    "",
    "\\",
    "a\nb",
    "[x](http://e.x)",
]


def runs(
    prompts=("potter", "skater"), samples=1, metrics=METRICS, status="FINISHED", **swept
) -> list[RunFacts]:
    """Return a run for every combination."""
    found = []
    for prompt, sample, *values in product(prompts, range(samples), *swept.values()):
        given = dict(zip(swept, map(str, values), strict=True))
        params = {**ARGUMENTS, "prompt_text": prompt, "endpoint": "a/b", **given}
        params |= {"prompt": prompt, "sample": str(sample)}
        numbers = {k: v for k, v in params.items() if k in given or k in ("cfg_scale", "duration")}
        settings = {f"setting/{k}": n for k, v in numbers.items() if (n := run_data.number(v)) is not None}
        run_id = f"{len(found):032x}"
        tags = {"request_key": run_id, "mlflow.runName": f"{prompt} · #{sample}", "provider": "fal"}
        found.append(RunFacts(run_id, status, params, {**metrics, **settings}, tags))
    return found


def states(overview: Overview) -> dict[str, dict]:
    """Return the state of each view as MLflow's page reads it."""
    found = {}
    for key, tag in views(overview).items():
        envelope = json.loads(tag)
        assert isinstance(envelope["name"], str) and isinstance(envelope["createdAt"], int)
        packed = envelope["state"].removeprefix("deflate;")
        found[key.removeprefix(PREFIX)] = json.loads(zlib.decompress(b64decode(packed)))
    return found


def drawn(state: dict) -> list[dict]:
    return [chart for chart in state["compareRunCharts"] if not chart["deleted"]]


def grouped(state: dict) -> list[str]:
    return [key["groupByData"] for key in (state["groupBy"] or {"groupByKeys": []})["groupByKeys"]]


def sections(state: dict) -> list[str]:
    return [section["name"] for section in state["compareRunSections"]]


CFG = {"cfg_scale": (0.1, 0.5, 0.9)}


def test_each_metric_is_a_line_a_prompt_against_the_swept_number():
    """Draws the goals against the setting, grouped by prompt, and hides every other metric's chart."""
    state = states(Overview(runs(**CFG)))[BY_SETTING]
    lines = drawn(state)
    assert [chart["metricKey"] for chart in lines] == list(USUAL)
    assert {(chart["type"], chart["selectedXAxisMetricKey"]) for chart in lines} == {
        ("LINE", "setting/cfg_scale")
    }
    assert grouped(state) == ["prompt"]
    hidden = {chart["metricKey"] for chart in state["compareRunCharts"] if chart["deleted"]}
    assert hidden == {*METRICS, "setting/cfg_scale", "setting/duration"} - set(USUAL)
    places = {section["uuid"] for section in state["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} <= places


def test_the_goals_of_a_sweep_are_what_is_drawn():
    """Draws the metrics that a sweep names, in its order, those that were measured."""
    state = states(Overview(runs(**CFG), ["cuts", "no_such", "motion"]))[BY_SETTING]
    assert [chart["metricKey"] for chart in drawn(state)] == ["cuts", "motion"]


def test_metrics_of_ones_own_are_drawn_where_there_are_no_others():
    """Draws what was measured where none of the usual metrics was."""
    state = states(Overview(runs(metrics={"mine": 1.0, "cost_usd": 1.4}, **CFG)))[BY_SETTING]
    assert [chart["metricKey"] for chart in drawn(state)] == ["mine"]


@pytest.mark.parametrize(
    ("given", "titles", "groups", "kinds"),
    [
        ({"prompts": ("a",), **CFG}, ["Against cfg_scale"], ["prompt"], {"LINE"}),
        ({"aspect_ratio": ("16:9", "9:16")}, ["By aspect_ratio"], ["aspect_ratio", "prompt"], {"BAR"}),
        (
            {**CFG, "duration": (5, 10), "light": ("soft", "hard")},
            ["Against cfg_scale", "Against duration", "By light"],
            ["light", "prompt"],
            {"LINE", "BAR"},
        ),
        ({"prompts": ("scene",), "camera": ("still", "slow dolly in")}, ["By camera"], ["camera"], {"BAR"}),
        ({}, ["By prompt"], ["prompt"], {"BAR"}),
        ({"prompts": ("a",), "samples": 3}, ["By run"], [], {"BAR"}),
        ({"year": ("1990", "soon")}, ["By year"], ["year", "prompt"], {"BAR"}),
        ({"prompts": range(9), "model": "abcde"}, ["By model"], ["model"], {"BAR"}),
    ],
)
def test_any_sweep_is_drawn_by_what_it_varies(given, titles, groups, kinds):
    """Has lines against numbers, bars of what is none, and no more groups than can be told from each other."""
    state = states(Overview(runs(**given)))[BY_SETTING]
    assert sections(state) == titles
    assert grouped(state) == groups
    assert {chart["type"] for chart in drawn(state)} == kinds


def test_the_other_views_draw_frames_runs_and_money():
    """Draws the series by setting, each run by itself, and price and times on average."""
    found = states(Overview(runs(**CFG)))
    assert [chart["metricKey"] for chart in drawn(found[BY_FRAME])] == ["frame/brightness", "frame/motion"]
    assert {chart["xAxisKey"] for chart in drawn(found[BY_FRAME])} == {"step"}
    assert grouped(found[BY_FRAME]) == ["cfg_scale"]
    parallel, *scatter = drawn(found[ALL])
    assert parallel["selectedParams"] == ["prompt", "cfg_scale"]
    assert parallel["selectedMetrics"] == list(USUAL)[::-1]
    assert [chart["yaxis"]["key"] for chart in scatter] == list(USUAL)
    assert found[ALL]["groupBy"] is None
    assert [chart["metricKey"] for chart in drawn(found[MONEY])] == ["cost_usd", "queue_s"]


def test_what_is_shown_of_many_runs_is_not_taken_for_all():
    """Orders runs so that the 100 that MLflow loads are a fair part, and says in the view's name what they are."""
    few, repeats, many = (Overview(runs(samples=n, **CFG)) for n in (16, 20, 1))
    many = Overview(runs(prompts=range(40), **CFG))
    names = [json.loads(views(each)[PREFIX + BY_SETTING])["name"] for each in (few, repeats, many)]
    assert len(few.runs) < LOADED < len(many.runs)
    assert names == [
        "By setting",
        "By setting (the first 100, by repeat, of 120 runs)",
        "By setting (100 at random of 120 runs)",
    ]
    orders = [states(each)[BY_SETTING]["orderByKey"] for each in (few, repeats, many)]
    assert orders == ["params.`cfg_scale`", "params.`sample`", "tags.`request_key`"]


def test_views_fit_into_a_tag():
    """Stays within what MLflow takes, however many metrics there are and however they are called."""
    names = {f"{n:x}{hash(str(n)):x}": 1.0 for n in range(3000)}
    for tag in views(Overview(runs(prompts=HOSTILE, metrics=names, **CFG))).values():
        assert len(tag) <= TAG_LENGTH


def luminance(color: str) -> float:
    parts = [int(color[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("prompts", [1, 2, 8])
def test_colours_have_a_hue_a_prompt_and_a_lightness_a_setting(prompts):
    """Shows what belongs together, seen well on white and on dark, the same in whatever order runs come."""
    found = runs(prompts=[f"p{n}" for n in range(prompts)], samples=2, cfg_scale=(0.1, 0.3, 0.5, 0.7, 0.9))
    colors = dict(zip((run.run_id for run in found), run_colors(Overview(found)), strict=True))
    again = dict(zip((run.run_id for run in found[::-1]), run_colors(Overview(found[::-1])), strict=True))
    assert colors == again
    hues: dict[str, set[float]] = {}
    for run in found:
        color = colors[run.run_id]
        hues.setdefault(run.prompt, set()).add(
            round(colorsys.rgb_to_hsv(*(int(color[n : n + 2], 16) / 255 for n in (1, 3, 5)))[0] * 360)
        )
        assert 1.05 / (luminance(color) + 0.05) >= 2.45
        assert (luminance(color) + 0.05) / (luminance("#11171c") + 0.05) >= 2.45
    for row in (
        runs_of := [[run for run in found if run.prompt == prompt and run.sample == "0"] for prompt in hues]
    ):
        shades = [luminance(colors[run.run_id]) for run in row]
        assert shades == sorted(shades, reverse=True) and len(set(shades)) == len(shades)
    assert len(runs_of) == prompts
    assert len({colors[row[0].run_id] for row in runs_of}) == prompts


def test_the_note_opens_with_links_and_says_what_there_is():
    """Has the charts, the report, what was swept, how many videos, their price and the first finding in its first line."""
    overview = Overview([*runs(samples=2, **CFG), *runs(samples=1, status="FAILED", cfg_scale=(0.1,))[:1]])
    page = report_link("8", "r" * 32)
    first, *rest = note(overview, "7", page, ["Motion falls.", "Sharpness rises."]).splitlines()
    assert first.startswith(
        f"[Charts](#/experiments/7/runs?compareRunsMode=CHART&workflowType=machine_learning&viewStateShareKey={BY_SETTING}) · "
        f"[Report](#/experiments/8/runs/{'r' * 32}/artifacts/report.html) · "
    )
    assert first.endswith(
        "3 `cfg_scale` × 2 `prompt` × 2 repeats: 12 videos, 1 failed, 6.50 USD · Motion falls."
    )
    assert "- Sharpness rises." in rest
    assert "[Report]" not in note(overview, "7")
    assert summary(Overview(runs(prompts=("a",), metrics={}))) == "1 video"


def test_a_run_names_its_neighbours():
    """Links a run to those of its prompt and repeat with other settings, and plays it beside the nearest."""
    found = runs(samples=2, cfg_scale=(0.1, 0.3, 0.5, 0.7, 0.9))
    lines = beside(Overview(found), "7")
    for run in found:
        row = [other for other in found if (other.prompt, other.sample) == (run.prompt, run.sample)]
        assert all((f"/runs/{other.run_id}?" in lines[run.run_id]) is (other is not run) for other in row)
        assert lines[run.run_id].count("%22") == 2 * (3 + 1)
        assert f"%22{run.run_id}%22" in lines[run.run_id]
    assert beside(Overview(runs(prompts=("a",))), "7") == {"0" * 32: ""}


@pytest.mark.parametrize("text", [*HOSTILE, "a\n\nBeside it: b\n\n", "x" * 7990])
def test_neighbours_are_the_first_line_of_a_description(text):
    """Puts the line in place of the one before it, changes nothing else, and stays within MLflow's limit."""
    line = f"{run_data.BESIDE}[a](#/b)"
    once = run_data.beside(f"```\n{text}\n```", line)
    assert run_data.beside(once, line) == once and len(once) <= 8000
    assert run_data.beside(once, "") == f"```\n{text}\n```"


@pytest.fixture
def tracker(tmp_path, result) -> Tracker:
    """A tracker that has tracked one run."""
    tracker = Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", "cfg", "fal", [result.cell])
    tracker.track(result)
    return tracker


def again(tracker: Tracker) -> Tracker:
    return Tracker(tracker.uri, tracker.sweep, tracker.provider)


def tags(tracker: Tracker) -> dict[str, str]:
    return dict(tracker.client.get_experiment(tracker.experiment_id).tags)


class Silent:
    """MLflow's client, which must not be asked."""

    def __getattr__(self, name: str):
        raise AssertionError(name)


def test_an_experiment_is_presented_once(tracker):
    """Writes views, note and colours, and asks MLflow nothing where no run has changed since."""
    assert "viewStateShareKey" not in tracker.address()
    tracker.present()
    written = tags(tracker)
    assert {key for key in written if key.startswith(PREFIX)} == {
        PREFIX + view for view in (BY_SETTING, BY_FRAME, ALL, MONEY)
    }
    assert "1 video, 1.40 USD" in written["mlflow.note.content"]
    assert f"viewStateShareKey={BY_SETTING}" in tracker.address()
    (run,) = tracker.client.search_runs([tracker.experiment_id])
    assert run.data.tags["mlflow.runColor"] == run.data.tags["colored"]
    other = again(tracker)
    other.client = Silent()
    other.present()
    assert f"viewStateShareKey={BY_SETTING}" in other.address()
    assert tags(tracker) == written


def present(tracker: Tracker, goals: list[str], found: list[str]) -> None:
    """Bring an experiment up to date with what is asked about and what was found."""
    tracker.goals, tracker.found = goals, found
    tracker.present()


def test_what_is_found_later_is_written_too(tracker):
    """Writes views and note anew for other goals and other findings."""
    tracker.present()
    other = again(tracker)
    present(other, ["cuts"], ["Nothing moves."])
    assert "Nothing moves." in tags(tracker)["mlflow.note.content"]
    state = json.loads(tags(tracker)[PREFIX + BY_SETTING])["state"].removeprefix("deflate;")
    assert [c["metricKey"] for c in drawn(json.loads(zlib.decompress(b64decode(state))))] == ["cuts"]


def change_all(client: MlflowClient, experiment_id: str, run_id: str) -> dict[str, str]:
    """Do what a person can: rename a view, remove one, edit the note and a run's colour."""
    renamed = json.dumps({"name": "Mine", "createdAt": 1, "updatedAt": 2, "state": "{}"})
    client.set_experiment_tag(experiment_id, PREFIX + BY_SETTING, renamed)
    client.delete_experiment_tag(experiment_id, PREFIX + ALL)
    client.set_experiment_tag(experiment_id, "mlflow.note.content", "My words.")
    client.set_tag(run_id, "mlflow.runColor", "#123456")
    return {PREFIX + BY_SETTING: renamed, "mlflow.note.content": "My words."}


def test_what_a_person_changed_is_theirs(tracker):
    """Leaves a changed or removed view, note and colour alone, and keeps the others up to date."""
    tracker.present()
    (run,) = tracker.client.search_runs([tracker.experiment_id])
    theirs = change_all(tracker.client, tracker.experiment_id, run.info.run_id)
    before = tags(tracker)
    for found in (["One."], ["Two."]):
        present(again(tracker), ["cuts"], found)
    after = tags(tracker)
    assert {key: after[key] for key in theirs} == theirs
    assert PREFIX + ALL not in after
    assert after[PREFIX + MONEY] != before[PREFIX + MONEY]
    (run,) = tracker.client.search_runs([tracker.experiment_id])
    assert run.data.tags["mlflow.runColor"] == "#123456"


def test_an_interrupted_presentation_is_completed(tracker):
    """Takes nothing for a person's of what a command wrote that was killed at any call."""
    client = tracker.client
    for calls in range(1, 30):
        other = again(tracker)
        other.open()
        other.client = Killed(client, calls)
        try:
            present(other, ["cuts"] * (calls % 2), [f"Found {calls}."])
        except KeyboardInterrupt:
            pass
        else:
            break
        other = again(tracker)
        present(other, ["motion"], [f"Then {calls}."])
        assert f"Then {calls}." in tags(tracker)["mlflow.note.content"]
        assert {key for key in tags(tracker) if key.startswith(PREFIX)} == {*views(Overview([]))}
        assert json.loads(tags(tracker)[RECORD])["made_from"]
    assert calls > 6


class Killed:
    """MLflow's client in a command that is killed at its n-th call."""

    def __init__(self, client: MlflowClient, calls: int) -> None:
        self.client, self.left = client, calls

    def __getattr__(self, name: str):
        def call(*args, **kwargs):
            self.left -= 1
            if self.left <= 0:
                raise KeyboardInterrupt
            return getattr(self.client, name)(*args, **kwargs)

        return call
