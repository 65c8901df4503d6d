"""Take the pictures of the documentation: run the cfg sweep on the emulator, and look at it as its user does.

    pip install -c constraints.txt -e ".[test]" && python docs/pictures.py

Needs Chromium. Writes `report.png`, `mlflow_charts.png`, `mlflow_run.png`, `terminal.png`, `vote.png` and `search.png` beside itself.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from playwright.sync_api import Page, sync_playwright
from rich.console import Console
from rich.text import Text

HERE = Path(__file__).parent
COLUMNS, ROWS = 140, 50  # wide enough for an address
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
NO_ASSISTANT = """
    localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');
    localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');
"""
# How many charts have drawn a line a prompt.
LINES = """() => [...document.querySelectorAll('.js-plotly-plot')].filter(
    plot => plot.data.filter(trace => trace.mode === 'lines+markers').length === 2).length"""
TIMEOUT_MS = 90_000


def sweep(folder: Path) -> str:
    """Run the sweep in a terminal of its own and return all that it wrote."""
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    command = [sys.executable, "-m", "kling_sweeps", "+sweep=cfg", "provider=emulator"]
    env = {
        name: value for name, value in os.environ.items() if name not in ("FAL_KEY", "MLFLOW_TRACKING_URI")
    }
    with subprocess.Popen(
        command, cwd=folder, stdout=other, stderr=other, env={**env, "TERM": "xterm-256color"}
    ) as process:
        os.close(other)
        written = b""
        while True:
            try:
                piece = os.read(main, 65536)
            except OSError:  # how a terminal says that nobody writes to it any more
                break
            if not piece:
                break
            written += piece
    if process.returncode:
        raise SystemExit(written.decode())
    return written.decode()


def terminal(page: Page, folder: Path, written: str) -> None:
    """Draw what the terminal shows at the end."""
    # What the live table wrote over is no longer there.
    written = written.replace(str(folder), "/home/you/videos")
    lines: list[str] = []
    for line in written.replace("\r\n", "\n").split("\n"):
        up = len(re.findall(r"\x1b\[1A", line))
        if up:
            del lines[-up:]
        lines.append(re.sub(r"\r|\x1b\[(?:\d*[AK]|2K|\?25[lh])", "", line))
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(Text.from_ansi("\n".join(lines)))
    page.set_content(console.export_svg(title="python -m kling_sweeps +sweep=cfg provider=emulator"))
    page.locator("svg").screenshot(path=HERE / "terminal.png")


@contextmanager
def mlflow(folder: Path) -> Iterator[str]:
    """Run `mlflow ui` in the sweep's folder."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "ui", "--port", str(port), "--workers", "1"]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            for _ in range(240):
                try:
                    urlopen(f"{address}/health").close()
                    break
                except OSError:
                    time.sleep(0.5)
            yield address
        finally:
            server.terminate()


def report(page: Page, folder: Path) -> None:
    """Look at the report, paused in the middle."""
    page.goto(f"file://{next(folder.rglob('report.html'))}")
    page.evaluate("window.report.ready")
    page.evaluate("() => { window.report.pause(); window.report.clock = 2.5; }")
    page.wait_for_function("() => [...document.querySelectorAll('video')].every(v => !v.seeking)")
    page.screenshot(path=HERE / "report.png")


def charts(page: Page, address: str, written: str) -> None:
    """Look at the charts where the command said they are."""
    link = re.search(r"/#/\S+compareRunsMode=CHART\S*", re.sub(r"\x1b\[[0-9;]*m", "", written))
    assert link, written
    page.goto(address + link[0])
    page.wait_for_function(f"() => ({LINES})() >= 2")
    page.screenshot(path=HERE / "mlflow_charts.png")


def run(page: Page, address: str, folder: Path) -> None:
    """Look at the page of a run, its video playing."""
    from kling_sweeps.analysis import runs_df

    runs = runs_df("cfg", f"sqlite:///{folder / 'mlflow.db'}").sort_values(["prompt", "cfg_scale"])
    found = runs.iloc[-1]
    experiment = Path(found["artifact_uri"]).parts[-3]
    place = f"experiments/{experiment}/runs/{found['run_id']}/artifacts/video.mp4"
    page.goto(f"{address}/#/{place}?workflowType=machine_learning")
    page.wait_for_function("() => document.querySelector('video')?.readyState >= 2")
    page.evaluate("() => { const video = document.querySelector('video'); video.currentTime = 2.5; }")
    page.wait_for_function(
        "() => { const video = document.querySelector('video'); return !video.seeking && video.readyState >= 4; }"
    )
    page.screenshot(path=HERE / "mlflow_run.png")


def vote(page: Page, folder: Path) -> None:
    """Look at the page on which people vote, paused in the middle of the third pair."""
    command = [sys.executable, "-m", "kling_sweeps.vote", "cfg", "--no-browser", "--rater", "you"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        address = next(found[0] for line in process.stdout if (found := re.search(r"http://\S+", line)))
        page.set_viewport_size({"width": 1400, "height": 720})
        page.goto(address)
        for key in ("ArrowLeft", "ArrowRight"):
            page.wait_for_selector("[data-answer=left]:enabled")
            page.keyboard.press(key)
            page.wait_for_selector("[data-answer=left]:disabled")
        page.wait_for_selector("[data-answer=left]:enabled")
        page.locator("#time", has_text=re.compile("^2.[5-9]")).wait_for()
        page.keyboard.press("k")
        page.locator("#play", has_text="▶").wait_for()
        page.screenshot(path=HERE / "vote.png")
        process.send_signal(signal.SIGINT)
        process.communicate()


def search(folder: Path) -> None:
    """Run the search, and keep its picture."""
    command = [sys.executable, "-m", "kling_sweeps", "+sweep=optimize", "provider=emulator"]
    subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, check=True)
    shutil.copyfile(next(folder.rglob("search.png")), HERE / "search.png")


def main() -> None:
    """Run the sweep and take all pictures."""
    browser_path = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        folder = Path(temporary)
        written = sweep(folder)
        browser = playwright.chromium.launch(executable_path=browser_path, args=FLAGS)
        context = browser.new_context(viewport={"width": 1400, "height": 900})
        context.set_default_timeout(TIMEOUT_MS)
        context.add_init_script(NO_ASSISTANT)
        page = context.new_page()
        terminal(page, folder, written)
        report(page, folder)
        vote(context.new_page(), folder)
        with mlflow(folder) as address:
            charts(page, address, written)
            run(page, address, folder)
        browser.close()
        search(folder)


if __name__ == "__main__":
    main()
