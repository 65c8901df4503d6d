"""How many videos are bought for each that is wanted, when something goes wrong.

    python benchmarks/paid_once.py

Compares three ways to make the same videos on the emulator of fal's queue, which counts what it charges:

    subscribe       a loop over `fal_client.subscribe`, each video saved before the next is begun
    submit, get     `fal_client.submit` for all of them, then `handle.get()` for one after another
    kling_sweeps    `python -m kling_sweeps -m prompt=...`

The first two have the retry that a user writes: on an exception the video is made again, up to three
times, and what is on disk already is left out. Their fal-client is the real one and as it comes, but for
where its requests go and for a time-out of half a second instead of two minutes. kling_sweeps is as it comes,
and its command is given again up to three times while it exits with an error.

Each fault strikes the first attempt at every video, and no other; from "answer dropped" to "HTML" it
strikes after the request was accepted. A process is killed (-9) as soon as one video is on disk and
another is in the making, and started again. A video is bought when the emulator's ledger has charged it,
and lost when it was bought and is not on disk at the end. Nothing is random but where exactly the killed
process was.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bare import ENDPOINT, Client  # noqa: E402

from kling_sweeps.emulator import EmulatorProcess, EmulatorSettings  # noqa: E402

VIDEOS = 4
TRIES = 3
TIMEOUT_S = 0.5
EMULATOR = EmulatorSettings(slots=6, width=128, height=72, fps=4, latency_s=0.2)


@dataclass(frozen=True)
class Fault:
    """What goes wrong, as the table calls it and as a rule of the emulator."""

    name: str
    rule: dict | None = None
    kills: bool = False


FAULTS = (
    Fault("nothing"),
    Fault("answer dropped", {"at": "submit", "fault": "drop"}),
    Fault("no answer for 1 s", {"at": "submit", "fault": "hang", "seconds": 1}),
    Fault("connection reset", {"at": "submit", "fault": "reset", "accepted": True}),
    Fault("502 of a proxy", {"at": "submit", "fault": "nginx_502", "accepted": True}),
    Fault("408", {"at": "submit", "fault": "timeout_408", "accepted": True}),
    Fault("HTML with a 200", {"at": "submit", "fault": "html_200"}),
    Fault("429", {"at": "submit", "fault": "too_many_429"}),
    Fault("504 for a result that is there", {"at": "result", "fault": "result_504"}),
    Fault("file cut off", {"at": "file", "fault": "truncated"}),
    Fault("process killed", kills=True),
)


def subscribe(client: Client, wanted: dict[str, Path]) -> None:
    """Make one video after the other."""

    def get(prompt: str, path: Path) -> None:
        save(client.subscribe(ENDPOINT, {"prompt": prompt}), path)

    for prompt, path in wanted.items():
        retried(get, prompt, path)


def submit_and_get(client: Client, wanted: dict[str, Path]) -> None:
    """Submit all videos, then wait for each."""
    handles = {}

    def submit(prompt: str) -> None:
        handles[prompt] = client.submit(ENDPOINT, {"prompt": prompt})

    def get(prompt: str, path: Path) -> None:
        handle = handles.pop(prompt, None) or client.submit(ENDPOINT, {"prompt": prompt})
        save(handle.get(), path)

    for prompt in wanted:
        retried(submit, prompt)
    for prompt, path in wanted.items():
        retried(get, prompt, path)


def retried(make: Callable[..., None], *arguments: Any) -> None:
    """Do it, and on an exception do it again, up to three times in all."""
    for attempt in range(TRIES):
        try:
            make(*arguments)
            return
        except Exception as error:
            print(f"try {attempt + 1}: {type(error).__name__} {error}", file=sys.stderr)


def save(result: dict, path: Path) -> None:
    content = httpx.get(result["video"]["url"]).raise_for_status().content
    path.write_bytes(content)


LOOPS = {"subscribe": subscribe, "submit, get": submit_and_get}
WAYS = (*LOOPS, "kling_sweeps")


@dataclass(frozen=True)
class Trial:
    """One way under one fault, in a folder of its own, whose prompts nobody else has."""

    way: str
    fault: Fault
    base_url: str
    folder: Path

    @property
    def prompts(self) -> list[str]:
        named = f"{self.way} {self.fault.name}".replace(",", "")
        return [f"a street; {named}; no. {number}" for number in range(VIDEOS)]

    @property
    def rules(self) -> list[dict]:
        """Return the fault, once for each video."""
        return [
            {**self.fault.rule, "match": prompt, "times": 1} for prompt in self.prompts if self.fault.rule
        ]

    def run(self) -> tuple[int, int]:
        """Make the videos; return how many were bought and how many of these are not on disk."""
        self.folder.mkdir()
        if self.fault.kills:
            self.killed()
        for _ in range(TRIES):
            if self.started().wait() == 0:
                break
        bought = sum(entry["charged_usd"] > 0 for entry in self.settled())
        return bought, bought - len(self.on_disk())

    def started(self) -> subprocess.Popen[bytes]:
        loop = [sys.executable, __file__, self.way, str(self.folder), *self.prompts]
        command = self.sweep() if self.way == "kling_sweeps" else loop
        environment = {**os.environ, "FAL_KEY": "a-key", "EMULATOR": self.base_url, "PYTHONPATH": str(ROOT)}
        with open(self.folder / "log.txt", "ab") as log:
            return subprocess.Popen(command, env=environment, cwd=self.folder, stdout=log, stderr=log)

    def sweep(self) -> list[str]:
        """Return the command of kling_sweeps for the prompts."""
        prompts = ",".join(f"'{prompt}'" for prompt in self.prompts)
        return [
            *(sys.executable, "-m", "kling_sweeps", "-m", f"prompt={prompts}"),
            *("provider=fal", f"provider.base_url={self.base_url}"),
            f"tracking.uri=sqlite:///{self.folder.parent / 'mlflow.db'}",
        ]

    def killed(self) -> None:
        """Start, and kill when one video is on disk and another is in the making."""
        process = self.started()
        while process.poll() is None and not (self.on_disk() and len(self.accepted()) > 1):
            time.sleep(0.005)
        process.kill()
        process.wait()

    def accepted(self) -> list[dict]:
        ledger = httpx.get(f"{self.base_url}/_emulator/ledger").json()
        return [entry for entry in ledger if entry["arguments"]["prompt"] in self.prompts]

    def settled(self) -> list[dict]:
        """Return what was accepted, once nothing of it is in the making any more."""
        while any(entry["status"] != "COMPLETED" for entry in self.accepted()):
            time.sleep(0.1)
        return self.accepted()

    def on_disk(self) -> list[Path]:
        return list(self.folder.rglob("video*.mp4"))


def child(way: str, folder: str, *prompts: str) -> None:
    """Make the videos that are not there yet, in one of the loops."""
    paths = {prompt: Path(folder, f"video-{number}.mp4") for number, prompt in enumerate(prompts)}
    wanted = {prompt: path for prompt, path in paths.items() if not path.exists()}
    LOOPS[way](Client(default_timeout=TIMEOUT_S), wanted)


def main() -> None:
    """Try every way under every fault, and print the table."""
    print(f"| what goes wrong | wanted | {' | '.join(WAYS)} |")
    print(f"| --- | ---: |{' ---: |' * len(WAYS)}")
    with EmulatorProcess(EMULATOR) as emulator, tempfile.TemporaryDirectory() as folder:
        table = []
        for number, fault in enumerate(FAULTS):
            places = {way: Path(folder, f"{number}-{place}") for place, way in enumerate(WAYS)}
            trials = [Trial(way, fault, emulator.base_url, place) for way, place in places.items()]
            table.append(tried(trials, emulator.base_url))
            print(row(fault.name, table[-1:]), flush=True)
        print(row("in all", table))


def tried(trials: Sequence[Trial], base_url: str) -> list[tuple[int, int]]:
    """Run trials side by side, which don't hear of one another; return what each bought and lost."""
    rules = [rule for trial in trials for rule in trial.rules]
    httpx.put(f"{base_url}/_emulator/faults", json=rules).raise_for_status()
    with ThreadPoolExecutor(len(trials)) as threads:
        return list(threads.map(Trial.run, trials))


def row(name: str, table: Sequence[Sequence[tuple[int, int]]]) -> str:
    """Return a line of the table: what some faults cost in sum."""
    wanted = VIDEOS * len(table)
    sums = [tuple(map(sum, zip(*results, strict=True))) for results in zip(*table, strict=True)]
    cells = [f"{bought} ({bought / wanted:.2f} each), {lost} lost" for bought, lost in sums]
    return f"| {name} | {wanted} | {' | '.join(cells)} |"


if __name__ == "__main__":
    child(*sys.argv[1:]) if sys.argv[1:] else main()
