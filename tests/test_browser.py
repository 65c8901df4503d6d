"""What a person sees: `mlflow server` on the finished sweep, in a real browser."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from browsers import TIMEOUT_S, chromium
from conftest import Sweep
from mlflow.tracking import MlflowClient
from playwright.sync_api import ConsoleMessage, Error, Page
from servers import free_port

from kling_sweeps.analysis import runs_df
from kling_sweeps.errors import RunError
from kling_sweeps.tracking.tracker import Tracker

# The assistant that MLflow opens on a first visit covers a third of the page.
NO_ASSISTANT = """
    if (origin !== 'null') {
        localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');
        localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');
    }
"""
# What MLflow's own page complains about: a server without users, and charts that take their places.
THEIRS = re.compile("mlflow/users/current|ResizeObserver loop")
# The charts that are in view: their kind, and for each line that has points where these are.
CHARTS = """() => [...document.querySelectorAll('.js-plotly-plot')].map(plot => ({
    kind: plot.data[0].type,
    lines: plot.data.filter(trace => trace.mode === 'lines+markers').map(line => [...line.x]),
}))"""
PLAYS = "video => video.readyState >= 2 && video.videoWidth > 0 && video.currentTime > 0.2"


@contextmanager
def started(command: list[str], folder: Path, **env: str) -> Iterator[subprocess.Popen]:
    """Run a command in a process group of its own, and end all of the group."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **env},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def server(sweep: Sweep, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start MLflow's own server on the sweep's database."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", sweep.command.tracking_uri]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with started(command, folder, **quiet) as process:
        deadline = time.monotonic() + TIMEOUT_S
        while not answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """Open an empty page in a headless Chromium."""
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 1100})
        page.set_default_timeout(TIMEOUT_S * 1000)
        page.add_init_script(NO_ASSISTANT)
        yield page


@pytest.fixture(scope="module")
def experiment_id(sweep: Sweep) -> str:
    return Path(runs_df("cfg", sweep.command.tracking_uri)["artifact_uri"][0]).parts[-3]


def test_the_printed_address_opens_the_charts(sweep, server, page):
    """Draws each metric against the swept setting, a line a prompt, where the sweep said it is."""
    (path,) = re.findall(r"http://127\.0\.0\.1:5000(/#/\S+compareRunsMode=CHART\S*)", sweep.completed.stdout)
    page.goto(server + path)
    # Each chart is drawn when its own data has arrived.
    page.wait_for_function(f"() => ({CHARTS})().filter(chart => chart.lines.length === 2).length === 2")
    for chart in page.evaluate(CHARTS):
        assert chart["lines"] in ([], [[0.1, 0.3, 0.5, 0.7, 0.9]] * 2)
    for prompt in ("potter", "skater"):
        assert page.get_by_text(f"{prompt} (motion)").count() > 0


# The charts that are in view: their kind, their horizontal axis and how many points they have.
DRAWN = """() => [...document.querySelectorAll('.js-plotly-plot')].map(({data, layout}) => [
    data[0].type, layout.xaxis.title?.text,
    data.filter(trace => trace.type === 'bar' || (trace.mode || '').startsWith('lines+') || trace.mode === 'markers'
        || (trace.mode === 'lines' && trace.x.length > 20)).reduce((sum, trace) => sum + trace.x.length, 0),
])"""


@pytest.fixture
def complaints(page) -> Iterator[list[str]]:
    """Collect what a page says on its console as an error, without what is MLflow's own."""
    found: list[str] = []

    def note(text: str) -> None:
        if not THEIRS.search(text):
            found.append(text)

    def said(message: ConsoleMessage) -> None:
        if message.type == "error":
            note(f"{message.text} {message.location}")

    def raised(error: Error) -> None:
        note(str(error))

    page.on("console", said)
    page.on("pageerror", raised)
    yield found
    page.remove_listener("console", said)
    page.remove_listener("pageerror", raised)


@pytest.fixture(scope="module")
def links(sweep, experiment_id) -> dict[str, str]:
    """Return the links of the experiment's note by their words."""
    note = MlflowClient(sweep.command.tracking_uri).get_experiment(experiment_id).tags["mlflow.note.content"]
    return dict(re.findall(r"\[([^]]+)\]\((#[^)]+)\)", note))


def test_the_note_has_a_link_to_everything(links):
    """Names the charts and the report in its first line, then every view."""
    assert [*links] == ["Charts", "Report", "By setting", "Frame by frame", "All", "Money and time"]
    assert links["Charts"] == links["By setting"]


@pytest.mark.parametrize(
    ("view", "kind", "against", "charts", "each"),
    [
        ("Charts", "scatter", "setting/cfg_scale", 2, 10),
        ("Frame by frame", "scatter", "Step", 3, 0),
        ("All", "scatter", "setting/cfg_scale", 2, 10),
        ("Money and time", "bar", None, 4, 5),
    ],
)
def test_a_link_of_the_note_opens_its_view(
    server, page, complaints, links, view, kind, against, charts, each
):
    """Draws what the view is for: lines of prompts, series of frames, runs as points, bars of money and time."""
    page.goto("about:blank")
    page.goto(f"{server}/{links[view]}")
    wanted = f"chart => chart[0] === '{kind}' && (chart[1] ?? null) === {json.dumps(against)} && chart[2] >= {each or 500}"
    page.wait_for_function(f"() => ({DRAWN})().filter({wanted}).length >= {charts}")
    if view == "All":
        page.locator(".parcoords .dimension").nth(3).wait_for()
    assert complaints == []


def test_the_notes_report_link_opens_the_report(server, page, complaints, links):
    """Shows the report in MLflow's viewer, a cell for every run, the first of them drawn."""
    page.goto("about:blank")
    page.goto(f"{server}/{links['Report']}")
    frame = page.frame_locator("iframe")
    frame.locator("canvas.drawn").first.wait_for()
    assert frame.locator("h1").inner_text() == "cfg emulated"
    assert frame.locator(".rep").count() == 10
    assert complaints == []


def test_the_menu_opens_a_view(server, page, experiment_id):
    """Has every view in the menu of the page of runs, the charts one click behind it."""
    page.goto(f"{server}/#/experiments/{experiment_id}/runs?workflowType=machine_learning")
    page.get_by_test_id("saved-views-trigger").click()
    items = page.get_by_role("menu").get_by_role("menuitem")
    items.filter(has_text="By setting").wait_for()
    shown = page.get_by_role("menu").inner_text()
    assert re.findall("By setting|Frame by frame|All|Money and time", shown) == [
        *("By setting", "Frame by frame", "All", "Money and time")
    ]
    page.get_by_test_id("saved-views-item-kling-sweeps-by-setting").get_by_text("By setting").click()
    page.wait_for_url("**viewStateShareKey=kling-sweeps-by-setting*")
    page.locator("label").filter(has=page.locator("input[value=CHART]")).click()
    page.wait_for_function(f"() => ({CHARTS})().some(chart => chart.lines.length === 2)")


def test_a_run_plays_beside_its_neighbours(sweep, server, page, experiment_id):
    """Plays three videos next to each other on MLflow's page that compares runs, opened from a run's page."""
    run = runs_df("cfg", sweep.command.tracking_uri).iloc[0]
    page.goto(f"{server}/#/experiments/{experiment_id}/runs/{run['run_id']}")
    link = page.get_by_role("link", name="play 3 side by side")
    link.wait_for()
    page.set_viewport_size({"width": 2000, "height": 1100})
    page.goto(f"{server}/{link.get_attribute('href')}")
    page.get_by_text("video.mp4", exact=True).first.click()
    page.wait_for_function("() => document.querySelectorAll('video').length === 3")
    page.evaluate(
        "() => Promise.all([...document.querySelectorAll('video')].map(v => { v.muted = true; return v.play() }))"
    )
    page.wait_for_function(f"() => [...document.querySelectorAll('video')].every({PLAYS})")
    page.set_viewport_size({"width": 1400, "height": 1100})


def test_a_runs_page_plays_its_video(sweep, server, page):
    """Plays the mp4 among the artifacts of a run, found by clicking there from the run's page."""
    run = runs_df("cfg", sweep.command.tracking_uri).iloc[0]
    page.goto(f"{server}/#/experiments/{Path(run['artifact_uri']).parts[-3]}/runs/{run['run_id']}")
    page.get_by_role("heading", name=run["run_name"]).wait_for()
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("video.mp4", exact=True).click()
    video = page.locator("video")
    # A browser only plays by itself what is muted.
    video.evaluate("video => { video.muted = true; return video.play() }")
    page.wait_for_function(f"() => ({PLAYS})(document.querySelector('video'))")
    assert video.evaluate("video => [video.videoWidth, video.videoHeight]") == [run["width"], run["height"]]
    assert video.evaluate("video => video.duration") == pytest.approx(run["duration_s"], abs=0.1)


def test_a_prompt_and_an_error_are_shown_as_text(sweep, server, page, result):
    """Shows what others wrote on a run's page as they wrote it, and fetches nothing that it names."""
    spy = "http://127.0.0.1:9/seen.png"
    text = f"a `fox` ```\n<img src={spy}> ![seen]({spy})\n</code></pre><img src={spy}>\n```\n**not bold**"
    arguments = {**result.cell.request.arguments, "prompt": text, "negative_prompt": text}
    request = dataclasses.replace(result.cell.request, arguments=arguments)
    cell = dataclasses.replace(result.cell, request=request, name=f"<img src={spy}> · #0")
    tracker = Tracker(sweep.command.tracking_uri, "hostile", "fal")
    tracker.track(dataclasses.replace(result, cell=cell, error=RunError(text), measurement=None))
    (run,) = runs_df("hostile", tracker.uri).to_dict("records")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{server}/#/experiments/{tracker.experiment_id}/runs/{run['run_id']}")
    description = page.locator("pre", has_text="**not bold**")
    description.first.wait_for()
    assert description.count() == 3
    assert page.locator("img[src*='seen.png'], a[href*='seen.png']").count() == 0
    assert [url for url in asked if url.startswith(spy)] == []
