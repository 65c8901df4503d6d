"""What a rater sees and does: in Chromium, on the page of the command and on one that came by mail."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import voting
from axe_playwright_python.sync_playwright import Axe
from browsers import TIMEOUT_S, chromium
from playwright.sync_api import Browser, Page, Response
from servers import until

from kling_sweeps import vote
from kling_sweeps.analysis import runs_df
from kling_sweeps.store.votes import Vote, votes_of

pytestmark = [pytest.mark.slow, pytest.mark.browser]

READY = "[data-answer=left]:enabled"
# A prompt, and a question, that would do more than be read.
HOSTILE = "A {prompt} </script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'> &amp; {{{{ 7 * 7 }}}}"
QUESTION = "Which is <b>better</b> </script><script>window.hacked = 1</script>?"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start a headless Chromium."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def opened(browser):
    """Give what opens a page as somebody of their own does; nothing was said on a console, and no script of a prompt ran."""
    said, contexts = [], []

    def open_page(address: str, context=None, **given) -> Page:
        if context is None:
            context = browser.new_context(
                viewport={"width": 1400, "height": 900}, accept_downloads=True, **given
            )
            contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(TIMEOUT_S * 1000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        assert not [page for page in context.pages if page.evaluate("window.hacked")]
        context.close()
    assert said == []


def begin(page: Page, rater: str) -> None:
    """Give a name, and wait for the first pair."""
    page.locator("#rater").fill(rater)
    page.keyboard.press("Enter")
    page.wait_for_selector(READY)


def press(page: Page, key: str, done: int) -> None:
    """Press a key, and wait until so many votes are counted and the next pair can be voted on."""
    page.keyboard.press(key)
    page.locator("#count", has_text=re.compile(f"^{done} of ")).wait_for()
    page.locator(f"{READY}, #over:visible").first.wait_for()


def answers(sweep: voting.Voting) -> list[Vote]:
    return votes_of(sweep.root, "cfg")


def test_a_session_by_keyboard_is_blind_and_is_kept(opened, tmp_path):
    """Votes on every pair by keys alone, and nothing that the browser was told or shows says how a video was made."""
    sweep = voting.prepared(tmp_path, (0.1875, 0.3125, 0.8125), text=HOSTILE)
    told: list[str] = []
    answered: list[Response] = []

    def read() -> None:
        """Read what was answered since, and what the page shows; a browser forgets that with the page."""
        while answered:
            told.append(answered.pop().body().decode("latin1"))
        told.append(page.content())

    with voting.served(tmp_path, "--question", QUESTION) as (address, process):
        page = opened("about:blank")
        page.on("request", lambda asked: told.append(f"{asked.url} {asked.headers} {asked.post_data}"))
        page.on("response", lambda answer: told.append(str(answer.headers)))
        page.on("response", lambda answer: answered.append(answer))
        page.goto(address)
        begin(page, "Zoë")
        assert page.title() == page.locator("h1").inner_text() == QUESTION
        assert page.locator("#prompt").inner_text().endswith("window.hacked = 1'> &amp; {{ 7 * 7 }}")
        assert page.locator("#count").inner_text() == "0 of 6"
        assert Axe().run(page).violations_count == 0
        times = "[...document.querySelectorAll('video')].map(video => video.currentTime)"
        page.keyboard.press(" ")
        page.locator("#play", has_text="▶").wait_for()
        page.keyboard.press(".")
        until(lambda: len(now := page.evaluate(times)) == 2 and max(now) - min(now) < 0.01)
        page.keyboard.press("r")
        page.locator("#play", has_text="❚❚").wait_for()
        read()
        for number, key in enumerate(("ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"), 1):
            press(page, key, number)
            read()
        press(page, "u", 3)
        press(page, "ArrowRight", 4)
        read()
        page.reload()
        page.wait_for_selector(READY)
        press(page, "ArrowLeft", 5)
        press(page, "ArrowLeft", 6)
        assert "All pairs are voted on" in page.locator("main").inner_text()
        read()
        assert any("ftyp" in one[:20] for one in told)
        assert not [(word, one) for word in sweep.told() for one in told if word in one]
    assert process.returncode == 0
    counted = Counter(str(one.answer) for one in answers(sweep))
    assert counted == {"left": 3, "right": 2, "tie": 1}
    assert {one.study.question for one in answers(sweep)} == {QUESTION}
    runs = runs_df("cfg", sweep.uri)
    assert runs["votes/n"].sum() == 12 and runs["votes/win_share"].between(0, 1).sum() == 6


def test_raters_and_windows_at_once(opened, tmp_path):
    """Counts what two raters say apart, and what one says in two windows, or by a double-click, once."""
    sweep = voting.prepared(tmp_path, (0.1875, 0.8125))
    with voting.served(tmp_path) as (address, _):
        ann, bob = opened(address), opened(address)
        begin(ann, "Ann")
        begin(bob, "Bob")
        again = opened(address, context=ann.context)
        begin(again, "Ann")
        press(bob, "ArrowUp", 1)
        ann.locator("[data-answer=left]").dblclick()
        ann.locator("#count", has_text="1 of ").wait_for()
        ann.wait_for_selector(READY)
        press(again, "ArrowRight", 1)
        assert "voted on already" in again.locator("#said").inner_text()
        assert sorted((one.rater, str(one.answer)) for one in answers(sweep)) == [
            ("Ann", "left"),
            ("Bob", "tie"),
        ]
        again.wait_for_selector(READY)
        press(again, "ArrowRight", 2)
        ann.locator("#other").click()
        begin(ann, "Cleo")
        assert ann.locator("#count").inner_text() == "0 of 2"
    with voting.served(tmp_path, "--rater", "Bob") as (address, _):
        bob = opened(address)
        bob.wait_for_selector(READY)
        assert bob.locator("#count").inner_text() == "1 of 2" and not bob.locator("#other").is_visible()


def test_a_page_by_mail(opened, tmp_path, monkeypatch, capsys):
    """Plays and votes from disk, asks nobody for anything, keeps votes over a reload, and gives a file that counts once."""
    sweep = voting.prepared(tmp_path / "sweep", (0.1875, 0.8125), text=HOSTILE)
    monkeypatch.chdir(sweep.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sweep.uri)
    mailed = tmp_path / "elsewhere" / "vote.html"
    assert vote.main(["cfg", "--page", str(mailed), "--question", QUESTION]) == 0
    asked: list[str] = []
    page = opened("about:blank", reduced_motion="reduce")
    page.on("request", lambda request: asked.append(request.url))
    page.goto(mailed.as_uri())
    begin(page, "Zoë")
    assert page.locator("h1").inner_text() == QUESTION
    assert page.evaluate("[...document.querySelectorAll('#pair canvas.drawn')].length") == 2
    press(page, "ArrowLeft", 1)
    page.on("dialog", lambda dialog: dialog.accept())  # there are votes that are in no file yet
    page.reload()
    page.wait_for_selector(READY)
    press(page, "u", 0)
    press(page, "ArrowRight", 1)
    press(page, "ArrowDown", 2)
    assert "send the file back" in page.locator("main").inner_text()
    with page.expect_download() as download:
        page.locator("#save").click()
    file = Path(tmp_path, download.value.suggested_filename)
    assert file.name == "votes-Zoë.json"
    download.value.save_as(file)
    assert not [word for word in sweep.told() if word in page.content() + file.read_text()]
    assert {url.partition(":")[0] for url in asked} <= {"file", "blob", "data"}
    capsys.readouterr()
    for new in (3, 0):
        assert vote.main(["cfg", "--read", str(file)]) == 0
        assert f"{new} of 3 votes are new, by Zoë" in capsys.readouterr().out
    assert Counter(str(one.answer) for one in answers(sweep)) == {"right": 1, "bad": 1}
    assert runs_df("cfg", sweep.uri)["votes/n"].sum() == 4
    events = [one["event"] for one in json.loads(file.read_text())["events"]]
    assert events == ["voted", "undone", "voted", "voted"]
