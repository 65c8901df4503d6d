"""How long a report takes to make and to open, how large it is, and how far its videos are from being in step.

    python benchmarks/report.py
    python benchmarks/report.py 10 100

Each report is of a sweep that never ran, with eight different clips of 5 seconds, which are there already: a moving
picture with grain, of about 130 KB. `make` is the page alone, `again` when its strips are in the store, `open` from the navigation to the resolution of
`window.report.ready`, which is when what is seen plays, and `read` to the end of the file, in Chromium with software
decoding; `spread` is the largest difference between the times of the
videos that play, `apart` the same of a page that does nothing but play as many single videos; both once a quarter
of a second for five seconds: the median and the most, and then after the clock was set.
"""

from __future__ import annotations

import base64
import os
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import clips  # noqa: E402
import report_data  # noqa: E402
from playwright.sync_api import Page, sync_playwright  # noqa: E402

from kling_sweeps.reports.clips import Clip, clip_of  # noqa: E402
from kling_sweeps.reports.page import render  # noqa: E402

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
RUNS = (10, 100, 300, 1000)
SPREAD = """() => {
    const times = [...document.querySelectorAll('video')].filter(v => v.readyState >= 2 && !v.paused).map(v => v.currentTime);
    return times.length ? Math.max(...times) - Math.min(...times) : 0;
}"""
BARE = """<!doctype html><body>VIDEOS<script>
const videos = [...document.querySelectorAll('video')];
videos.forEach(video => { video.muted = true; video.loop = true; });
const ready = Promise.all(videos.map(v => v.readyState >= 3 || new Promise(done => v.addEventListener('canplay', done, {once: true}))));
ready.then(() => videos.forEach(video => video.play()));
</script>"""


def made(folder: Path, seed: int) -> Clip:
    """Make a clip of 120 frames in which a picture with grain goes by."""
    random = np.random.default_rng(seed)
    coarse = random.integers(40, 210, (12, 60)).astype(np.float32)
    picture = np.kron(coarse, np.ones((16, 16), np.float32))[:180]
    chroma = np.full((90, 160), 110 + 10 * seed, np.uint8)

    def frame(index: int) -> clips.Planes:
        seen = picture[:, 4 * index : 4 * index + 320] + random.normal(0, 5, (180, 320))
        return np.clip(seen, 16, 235).astype(np.uint8), chroma, chroma

    folder.mkdir()
    return clip_of(clips.write(folder / "video.mp4", map(frame, range(120))), folder)


def copies(some: list[Clip], number: int, folder: Path) -> list[Clip]:
    """Return as many clips as there are runs, each in a folder of its own, as in a store."""
    found = []
    for index in range(number):
        clip, own = some[index % len(some)], folder / str(index)
        own.mkdir(parents=True)
        os.link(clip.path, own / clip.path.name)
        found.append(replace(clip, path=own / clip.path.name))
    return found


def spreads(page: Page) -> list[float]:
    found = []
    for _ in range(20):
        page.wait_for_timeout(250)
        found.append(page.evaluate(SPREAD))
    return found


def told(found: list[float]) -> str:
    return f"{statistics.median(found):.3f} / {max(found):.3f}"


def main() -> None:
    wanted = [int(argument) for argument in sys.argv[1:]] or RUNS
    executable = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        eight = [made(folder / str(seed), seed) for seed in range(8)]
        print(f"a clip: {statistics.mean(one.path.stat().st_size for one in eight) / 1000:.0f} KB")
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        print(
            "| runs | make | again | MiB | playing | open | read | spread, median / most | after a scrub | apart, median / most |"
        )
        print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
        for runs in wanted:
            settings = [number / 10 for number in range(10)]
            prompts = [f"prompt {number}" for number in range(runs // 10)]
            contents = report_data.contents(
                copies(eight, runs, folder / f"of {runs}"), settings=settings, prompts=prompts
            )
            begun = time.perf_counter()
            text = render(contents)
            make_s = time.perf_counter() - begun
            begun = time.perf_counter()
            render(contents)
            again_s = time.perf_counter() - begun
            file = folder / "report.html"
            file.write_text(text, encoding="utf-8")
            page = browser.new_page(viewport={"width": 1400, "height": 1000})
            page.set_default_timeout(120_000)
            begun = time.perf_counter()
            page.goto(f"file://{file}", wait_until="commit")
            page.wait_for_function("window.report")
            page.evaluate("window.report.ready")
            open_s = time.perf_counter() - begun
            page.wait_for_load_state()
            read_s = time.perf_counter() - begun
            playing = page.evaluate("document.querySelectorAll('canvas').length")
            spread = told(spreads(page))
            page.evaluate("window.report.clock = 2")
            page.wait_for_timeout(1500)
            scrubbed = page.evaluate(SPREAD)
            shown = page.locator("canvas.drawn").count()
            page.close()
            apart = told(
                _apart(browser.new_page(viewport={"width": 1400, "height": 1000}), eight, shown, file)
            )
            print(
                f"| {runs:,} | {make_s:.1f} s | {again_s:.1f} s | {len(text) / 2**20:.1f} | {playing:,} | {open_s:.1f} s | {read_s:.1f} s | {spread} | "
                f"{scrubbed:.3f} | {apart} ({shown}) |",
                flush=True,
            )
        browser.close()


def _apart(page: Page, some: list[Clip], number: int, file: Path) -> list[float]:
    """Return how far videos are apart on a page that does nothing but play so many."""
    texts = [base64.b64encode(clip.path.read_bytes()).decode() for clip in some]
    videos = [
        f'<video width="128" src="data:video/mp4;base64,{texts[n % len(texts)]}"></video>'
        for n in range(number)
    ]
    file.write_text(BARE.replace("VIDEOS", "".join(videos)), encoding="utf-8")
    page.goto(f"file://{file}")
    page.evaluate("ready.then(() => true)")
    found = spreads(page)
    page.close()
    return found


if __name__ == "__main__":
    main()
