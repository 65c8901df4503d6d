"""What a person sees of a report: in Chromium, from disk and inside MLflow's own viewer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import report_data
from axe_playwright_python.sync_playwright import Axe
from browsers import TIMEOUT_S, chromium
from playwright.sync_api import Browser, Page, expect
from test_browser import NO_ASSISTANT
from test_browser import server as server

from kling_sweeps.analysis import runs_df
from kling_sweeps.reports.page import render
from kling_sweeps.reports.publish import make_report

pytestmark = [pytest.mark.slow, pytest.mark.browser]

FRAME_S = 1 / 24
# The videos that play: their times.
TIMES = (
    """() => [...document.querySelectorAll('video')].filter(v => v.readyState >= 2).map(v => v.currentTime)"""
)
SPREAD = f"() => {{ const times = ({TIMES})(); return Math.max(...times) - Math.min(...times); }}"
# The middle of the white bar in a canvas, as a share of its width: report_data.clip moves it with the time.
BAR = """canvas => {
    const pixels = canvas.getContext('2d').getImageData(0, canvas.height / 2, canvas.width, 1).data;
    const white = [...Array(canvas.width).keys()].filter(x => pixels[4 * x] > 200);
    return white.reduce((sum, x) => sum + x, 0) / white.length / canvas.width;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start a headless Chromium."""
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Make three clips of four seconds."""
    folder = tmp_path_factory.mktemp("clips")
    return [report_data.clip(folder / str(n), frames=96, size=(160, 90), shade=40 * n) for n in range(3)]


@pytest.fixture
def opened(browser, tmp_path, made) -> Iterator[Callable[..., Page]]:
    """Give what opens a report from disk; a page must have said nothing on its console and asked nobody for anything."""
    said, contexts = [], []

    def open_report(
        *, fragment="", width=1400, height=1000, scheme="light", still=True, page=None, **given
    ) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            reduced_motion="reduce" if still else "no-preference",
        )
        contexts.append(context)
        opened = context.new_page()
        opened.set_default_timeout(TIMEOUT_S * 1000)
        opened.on("console", lambda message: said.append(message.text))
        opened.on("pageerror", lambda error: said.append(str(error)))
        opened.on("request", lambda request: said.append(request.url) if is_far(request.url) else None)
        file = tmp_path / "report.html"
        file.write_text(page or render(report_data.contents(made, **given)), encoding="utf-8")
        opened.goto(f"file://{file}{fragment}")
        opened.evaluate("window.report.ready")
        return opened

    yield open_report
    for context in contexts:
        context.close()
    assert said == []


def is_far(url: str) -> bool:
    return not url.startswith(("file:", "blob:", "data:"))


def test_the_videos_play_in_step(opened):
    """Plays by itself: 40 clips within a frame of each other after five seconds, and again after a scrub."""
    page = opened(still=False, prompts=report_data.PROMPTS, height=1400)
    assert page.evaluate("window.report.playing")
    page.wait_for_timeout(5000)
    before = page.evaluate("window.report.clock")
    assert page.evaluate(SPREAD) <= FRAME_S
    page.evaluate("window.report.clock = 2")
    page.wait_for_timeout(1500)
    assert page.evaluate(SPREAD) <= FRAME_S
    assert page.evaluate("window.report.clock") != before
    page.wait_for_function("window.report.clock < 1")  # it begins anew at the end


def test_every_clip_shows_the_picture_of_the_time(opened):
    """Draws in each cell the frame of the clock, whichever clip of a strip it is."""
    page = opened(prompts=report_data.PROMPTS, height=3000)
    page.evaluate("window.report.clock = 2")
    page.wait_for_function("document.querySelectorAll('canvas.drawn').length === 40")
    page.wait_for_timeout(500)
    bars = [canvas.evaluate(BAR) for canvas in page.locator("#matrix canvas").all()]
    assert len(bars) == 40 and max(bars) - min(bars) < 0.02
    assert 0.4 < bars[0] < 0.6


def test_a_step_is_a_frame(opened):
    """Goes a frame on and back by keys, and says the time."""
    page = opened()
    page.keyboard.press(".")
    page.keyboard.press(".")
    page.keyboard.press(",")
    assert page.evaluate("window.report.clock") == pytest.approx(FRAME_S, abs=1e-3)
    assert page.locator("#time").inner_text() == "0.04 / 4.00 s"
    assert not page.evaluate("window.report.playing")
    page.keyboard.press(" ")
    assert page.evaluate("window.report.playing")


def test_a_click_enlarges_and_keys_go_on(opened):
    """Shows a video large with its prompt and every number, goes to the next by a key, and closes."""
    page = opened()
    page.locator(".rep .open").nth(2).click()
    assert page.locator("#theatre-title").inner_text() == "potter · cfg 0.5 · #0"
    assert page.locator("#stage .picture").bounding_box()["width"] > 600
    assert page.locator("#beside blockquote").inner_text() == "A potter, seen from afar."
    assert page.locator("#beside th", has_text="motion").count() == 1
    page.keyboard.press("ArrowRight")
    assert page.locator("#theatre-title").inner_text() == "potter · cfg 0.7 · #0"
    page.keyboard.press("Escape")
    assert not page.locator("#theatre").is_visible()
    assert (
        page.evaluate("document.activeElement.getAttribute('aria-label')") == "Enlarge potter · cfg 0.7 · #0"
    )


def test_two_pinned_videos_are_compared_and_wiped(opened):
    """Pins by the mouse and by a key, shows both side by side, and wipes between them by a slider."""
    page = opened()
    page.locator(".rep").nth(0).hover()
    page.locator(".rep .pin").nth(0).click()
    page.locator(".rep .open").nth(4).focus()
    page.keyboard.press("p")
    assert page.locator("#pinned").inner_text().startswith("2 pinned")
    page.keyboard.press("c")
    boxes = [picture.bounding_box() for picture in page.locator("#stage .picture").all()]
    assert len(boxes) == 2 and all(box["y"] + box["height"] < 950 for box in boxes)
    page.keyboard.press("w")
    edge = page.locator(".edge")
    edge.focus()
    edge.press("Home")
    assert page.locator(".wiped").evaluate("frame => frame.style.getPropertyValue('--edge')") == "0%"
    box = edge.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.75, box["y"] + box["height"] / 2)
    moved = page.locator(".wiped").evaluate("frame => parseFloat(frame.style.getPropertyValue('--edge'))")
    assert moved == pytest.approx(75, abs=3)
    assert "mode=wipe" in page.evaluate("location.hash")


def test_rows_columns_and_order_are_chosen(opened):
    """Swaps the axes, and sorts columns by a metric, best first by its own direction."""
    page = opened()
    heads = page.locator(".matrix thead th")
    assert [head.split()[-1] for head in heads.all_inner_texts()] == ["0.1", "0.3", "0.5", "0.7", "0.9"]
    page.select_option("#colour", "sharpness")
    page.select_option("#order", "columns")
    assert [head.split()[-1] for head in heads.all_inner_texts()] == ["0.9", "0.7", "0.5", "0.3", "0.1"]
    page.locator("#swap").click()
    assert page.locator(".matrix thead th").count() == 2
    page.select_option("#rows", "")
    assert page.locator("caption").count() == 5  # a table for each setting that is no axis
    assert page.locator(".rep").count() == 10


def test_the_address_keeps_the_view(opened):
    """Opens as it was left: axes, colour, order, size, pins, what is enlarged, and the time."""
    page = opened()
    page.select_option("#colour", "sharpness")
    page.select_option("#order", "both")
    page.locator(".rep").nth(3).hover()
    page.locator(".rep .pin").nth(3).click()
    page.locator(".rep .open").nth(1).click()
    page.keyboard.press(".")
    kept = page.evaluate("location.hash")
    again = opened(fragment=kept)
    assert again.locator("#colour").input_value() == "sharpness"
    assert again.locator("#order").input_value() == "both"
    assert again.locator(".is-pinned").count() == 1
    assert again.locator("#theatre-title").inner_text() == page.locator("#theatre-title").inner_text()
    assert again.evaluate("window.report.clock") == pytest.approx(FRAME_S, abs=1e-3)
    assert again.evaluate("location.hash") == kept


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
def test_nothing_is_in_the_way_of_anybody(opened, scheme, width):
    """Has nothing that axe finds serious, enlarged and compared too, and is no wider than the screen."""
    given = {
        "scheme": scheme,
        "width": width,
        "status": lambda n: ["failed", "coming", "finished"][min(n, 2)],
        "broken": lambda n: "cuts = 3 (max 0)" * (n == 5),
    }
    page = opened(**given)
    assert page.locator(".rep .broken").all_inner_texts() == ["✕ not as expected cuts = 3 (max 0)"]
    for fragment in ("", "#open=5", "#pins=5-6&open=5-6", "#pins=5-6&open=5-6&mode=wipe"):
        if fragment:
            page.goto("about:blank")
            page = opened(fragment=fragment, **given)
            assert "✕ not as expected cuts = 3 (max 0)" in page.locator("#beside").inner_text()
        found = Axe().run(page).response["violations"]
        serious = [one for one in found if one["impact"] in ("serious", "critical")]
        assert [(one["id"], one["nodes"][0]["html"][:200]) for one in serious] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_curve_is_shown_where_one_looks(opened, sweep, tmp_path):
    """Shows the metric's curve with a mark at the time over a real video that is hovered over."""
    file = tmp_path / "made.html"
    make_report("cfg", sweep.command.folder / "store", sweep.command.tracking_uri, file)
    page = opened(page=file.read_text(encoding="utf-8"))
    page.evaluate("window.report.clock = 2.5")
    page.locator(".rep .open").nth(5).hover()
    assert len(page.locator(".rep .curve path").get_attribute("d")) > 100
    page.wait_for_function("Math.abs(document.querySelector('.rep .mark').getAttribute('x1') - 50) < 2")
    expect(page.locator("figure.chart")).to_have_count(2)  # a chart for each goal of the sweep
    assert page.locator("figure.chart").first.locator("circle.dot").count() == 10


def test_a_hostile_prompt_is_text(opened):
    """Shows markup in a prompt as it was written, in the matrix and enlarged."""
    text = "</script><script>window.bad = 1</script><img src=x onerror='window.bad = 2'> {prompt}"
    page = opened(text=text)
    page.locator(".rep .open").first.click()
    assert page.locator("#beside blockquote").inner_text() == text.format(prompt="potter")
    assert page.evaluate("window.bad") is None
    assert page.locator("img[src='x']").count() == 0


@pytest.mark.parametrize("width", [1400, 800, 390])
def test_a_long_prompt_makes_no_page_wider(opened, width):
    """Keeps the columns' width and cuts the line, however much a prompt says and few columns there are."""
    page = opened(text="A {prompt} " * 200, settings=(0.2, 0.8), samples=2, width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = [one.bounding_box() for one in page.locator("#matrix .picture").all()[:4]]
    cells = [one.bounding_box() for one in page.locator("#matrix .rep").all()[:4]]
    assert all(box["width"] > 0.85 * cell["width"] for box, cell in zip(boxes, cells, strict=True))
    assert boxes[-1]["x"] + boxes[-1]["width"] <= width


def test_a_video_that_is_here_is_seen_before_it_is_measured(opened, made):
    """Plays what the store has of an unfinished sweep, and says what is still to be done for it."""
    contents = report_data.contents(made, status=lambda number: "coming" if number < 2 else "finished")
    videos = [replace(video, clip=made[0]) if n == 0 else video for n, video in enumerate(contents.videos)]
    page = opened(page=render(replace(contents, videos=videos)))
    first, second = page.locator("#matrix .rep").all()[:2]
    expect(first.locator("canvas.drawn")).to_be_visible()
    expect(first).to_contain_text("on its way")
    expect(second.locator("canvas")).to_have_count(0)
    expect(second).to_contain_text("on its way")


def test_the_space_bar_plays_and_pauses_on_a_video(opened):
    """Leaves a video as it is that has the focus, which the enter key enlarges."""
    page = opened()
    page.locator("#matrix .open").first.focus()
    for is_playing in (True, False):
        page.keyboard.press(" ")
        assert page.evaluate("window.report.playing") is is_playing
        expect(page.locator("#theatre")).to_be_hidden()
    page.keyboard.press("Enter")
    expect(page.locator("#theatre")).to_be_visible()


def test_three_videos_stand_side_by_side(opened):
    """Offers no edge to wipe over more than two, by key or by an address either."""
    page = opened(fragment="#pins=0-1-2&open=0-1-2&mode=wipe")
    expect(page.locator("#stage figure")).to_have_count(3)
    expect(page.locator("#modes button")).to_have_count(0)
    page.keyboard.press("w")
    expect(page.locator("#stage figure")).to_have_count(3)


def test_filmstrips_stand_in_for_clips(opened, made):
    """Shows the picture of the time from a filmstrip where a clip did not fit, and prints filmstrips."""
    page = opened(page=render(report_data.contents(made), limit=0))
    assert "0 of 10 videos play" in page.locator(".top .note").inner_text()
    page.evaluate("window.report.clock = 4")
    page.wait_for_function("document.querySelector('.film img').style.getPropertyValue('--picture') === '5'")
    page.emulate_media(media="print")
    picture = page.locator(".picture").first.bounding_box()
    assert picture["width"] / picture["height"] == pytest.approx(1.5 * 16 / 9, rel=0.05)


def test_a_thousand_runs_open_in_time(opened, tmp_path_factory):
    """Opens a report of 1,000 runs with those videos open that are looked at, and others as one goes there."""
    tiny = [report_data.clip(tmp_path_factory.mktemp("tiny"), frames=12, size=(64, 36))]
    page = opened(page=render(report_data.contents(tiny, prompts=report_data.PROMPTS, samples=25)))
    assert page.locator(".rep").count() == 1000
    loaded = "document.querySelectorAll('video[src]').length"
    assert 0 < page.evaluate(loaded) < 84
    page.locator(".rep").last.scroll_into_view_if_needed()
    page.wait_for_function("[...document.querySelectorAll('.rep')].at(-1).querySelector('.drawn')")


def test_mlflows_viewer_plays_the_report(sweep, server, browser, tmp_path):
    """Plays in MLflow's page of a run's artifacts, and enlarges the original from the server, which alone is asked."""
    make_report("cfg", sweep.command.folder / "store", sweep.command.tracking_uri, tmp_path / "report.html")
    reports = runs_df_of_reports(sweep.command.tracking_uri)
    page = browser.new_page(viewport={"width": 1400, "height": 1100})
    page.set_default_timeout(TIMEOUT_S * 1000)
    page.add_init_script(NO_ASSISTANT)
    asked, said = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on(
        "console", lambda message: said.append(message.text) if "report" in str(message.location) else None
    )
    page.goto(f"{server}/#/experiments/{reports.experiment_id}/runs/{reports.run_id}/artifacts/report.html")
    frame = page.frame_locator("iframe")
    frame.locator("canvas.drawn").first.wait_for()
    assert frame.locator(".rep").count() == 10
    frame.locator(".rep .open").first.click()
    frame.locator("canvas.whole.drawn").wait_for()
    assert frame.locator("canvas.whole").evaluate("canvas => canvas.width") == 320
    far = [url for url in asked if not url.startswith((server, "blob:", "data:"))]
    assert far == [] and said == []
    assert len([url for url in asked if re.search(r"path=video\.mp4", url)]) >= 1
    assert len(runs_df("cfg", sweep.command.tracking_uri)) == 10
    page.close()


def runs_df_of_reports(uri: str):
    """Return the one report run of a tracking store."""
    from kling_sweeps.tracking.tracker import mlflow_client

    client = mlflow_client(uri)
    ids = [one.experiment_id for one in client.search_experiments()]
    (found,) = client.search_runs(ids, "tags.kind = 'report'")
    assert Path(found.info.artifact_uri, "report.html").is_file()
    return found.info
