"""How many runs can be with fal at once, what they ask of it meanwhile, and what they take of this machine.

    python benchmarks/in_flight.py                          100, 1,000 and 10,000 runs, with and without webhooks
    python benchmarks/in_flight.py --runs 1000 --ways asking --handles 1024

All runs of a trial are with the emulator before the first is over, and it then completes `--rate` a second on
`--slots` slots: many times faster than fal, which would work for hours on so many. Every video is one and the same
tiny file. The scheduler of a command runs in a process of its own, without Hydra and MLflow; the way `command` is
the whole of `python -m kling_sweeps`, of which what only its own process can tell is left out.

`in flight` is the most that were accepted and not over at once. `a run` counts requests by kind: submissions,
status (streams among them), results, files, bills. `asked` is all of them a second, on average and in the busiest second.
`lag` is how late the event loop comes to a timer, median, 99th percentile and most, and `floor` how late that of a
process is, at the same time, which does nothing else: the machine's. `late` is the time
from a run's completion to its being noticed, median, 95th percentile and most. `handles` are open files at the most,
sockets among them; `files` is the most entries that any folder of the store has.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import sweep_time  # noqa: E402
from bare import ENDPOINT  # noqa: E402
from many_runs import tiny_clip  # noqa: E402
from servers import free_port  # noqa: E402

from kling_sweeps.emulator import EmulatorProcess, EmulatorSettings  # noqa: E402

KINDS = ("submits", "status_polls", "results", "file_downloads", "bills")
COLUMNS = ("way", "runs", "in flight", "wall", "CPU", "a run", "asked", "lag", "floor", "late")
COLUMNS += ("memory", "handles", "threads", "files", "failed")
LAG_EVERY_S = 0.02


@dataclass
class Inside:
    """What a process can tell of itself alone, looked at while its runs go on."""

    lags: list[float] = field(default_factory=list)
    handles: int = 0
    sockets: int = 0
    threads: int = 0
    memory: int = 0
    is_watched: bool = False

    def update(self, cell: Any, stage: str, text: str) -> None:
        """Be a scheduler's observer: the first call is the event loop's."""
        if not self.is_watched:
            self.is_watched = True
            self.task = asyncio.get_running_loop().create_task(self.late())

    async def late(self) -> None:
        while True:
            begin = time.perf_counter()
            await asyncio.sleep(LAG_EVERY_S)
            self.lags.append(time.perf_counter() - begin - LAG_EVERY_S)

    @property
    def lag(self) -> list[float]:
        """Return how late the loop came: median, 99th percentile and most."""
        lags = sorted(self.lags)
        return [statistics.median(lags), lags[int(0.99 * len(lags))], lags[-1]]

    def look(self) -> None:
        names = []
        for number in os.listdir("/proc/self/fd"):
            try:
                names.append(os.readlink(f"/proc/self/fd/{number}"))
            except OSError:
                continue
        self.handles = max(self.handles, len(names))
        self.sockets = max(self.sockets, sum(name.startswith("socket:") for name in names))
        self.threads = max(self.threads, threading.active_count())
        self.memory = max(self.memory, psutil.Process().memory_info().rss)


@contextmanager
def repeatedly(work: Any, every_s: float) -> Iterator[None]:
    """Do something in a thread again and again while the block lasts."""
    is_over = threading.Event()

    def run() -> None:
        while not is_over.wait(every_s):
            work()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def schedule(folder: Path, base_url: str, runs: int, webhook: dict[str, Any]) -> None:
    """Have a scheduler complete so many runs; print what it took as JSON."""
    from kling_sweeps import CONF
    from kling_sweeps.experiment.request import GenerationRequest
    from kling_sweeps.experiment.settings import Cell
    from kling_sweeps.sweep.scheduler import Runs

    settings = read(CONF, folder, base_url, webhook)
    cells = []
    for number in range(runs):
        request = GenerationRequest(ENDPOINT, {"prompt": f"street {number}"}, 0, 1.4)
        cells.append(Cell(request, "kling", "street", {}, f"street {number}"))
    inside, errors = Inside(), []
    with repeatedly(inside.look, 0.5):
        for result in Runs.read(settings, cells).complete(cells, inside, runs):
            errors += [repr(result.error)] * bool(result.error)
    told = {
        "lag": inside.lag,
        **{name: getattr(inside, name) for name in ("handles", "sockets", "threads", "memory")},
        "errors": errors,
    }
    print(json.dumps(told))


def read(conf: Path, folder: Path, base_url: str, webhook: dict[str, Any]) -> Any:
    """Return the settings of a command, as the config has them."""
    from hydra import compose, initialize_config_dir

    from kling_sweeps.experiment.config import read_settings

    given = {"provider.base_url": base_url, "store.dir": folder / "store", "budget.max_usd": 1e9, **webhook}
    overrides = ["provider=emulator", "metrics=fast", *(f"{key}={value}" for key, value in given.items())]
    with initialize_config_dir(str(conf), version_base="1.3"):
        return read_settings(compose("config", overrides, return_hydra_config=True))


@dataclass(frozen=True)
class Trial(sweep_time.Trial):
    """So many runs, one way, in a folder of their own, by processes that may have `handles` files open."""

    handles: int | None

    def row(self) -> str:
        """Run it; return its row of the table."""
        settings = EmulatorSettings(self.slots, latency_s=self.seconds, video=tiny_clip(self.folder))
        with EmulatorProcess(settings) as emulator, tempfile.TemporaryFile() as log:
            base_url = emulator.base_url
            busiest, idle = Busiest(base_url), Inside()
            threading.Thread(target=lambda: asyncio.run(idle.late()), daemon=True).start()
            began, before = time.time(), children_s()
            process = subprocess.Popen(
                self.command(base_url),
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=log,
                preexec_fn=self.limit,
            )
            with repeatedly(busiest.look, 1.0), process:
                said = process.communicate()[0].decode()
            wall, cpu = time.time() - began, children_s() - before
            log.seek(0)
            assert said and process.returncode in (0, 1), said[-2000:] + log.read().decode()[-4000:]
            counted = httpx.get(f"{base_url}/_emulator/counters").json()
            ledger = httpx.get(f"{base_url}/_emulator/ledger", timeout=60).json()
        told = json.loads(said.splitlines()[-1]) if self.way != "command" else {}
        if told.get("errors"):
            print(f"{len(told['errors'])} failed, the first by {told['errors'][0]}", file=sys.stderr)
        late = self.late(ledger)
        files = max(
            (len(names) + len(folders) for _, folders, names in os.walk(self.folder / "store")), default=0
        )
        columns = (
            self.way,
            f"{self.runs:,}",
            f"{in_flight(ledger):,}",
            f"{wall:.0f} s",
            f"{cpu:.0f} s",
            " ".join(f"{counted[kind] / self.runs:.1f}" for kind in KINDS),
            f"{sum(counted.values()) / wall:.0f}/s, {busiest.most:.0f}/s",
            milliseconds(told.get("lag", ())),
            milliseconds(idle.lag),
            ", ".join(f"{s:.2f} s" for s in late),
            f"{told.get('memory', 0) / 1e6:.0f} MB",
            f"{told.get('handles')}, {told.get('sockets')}",
            told.get("threads"),
            f"{files:,}",
            len(told.get("errors", ())),
        )
        return f"| {' | '.join(map(str, columns))} |"

    def command(self, base_url: str) -> list[str]:
        webhook: dict[str, Any] = {}
        if self.way == "webhooks":
            port = free_port()
            webhook = {"provider.webhook.url": f"http://127.0.0.1:{port}/fal", "provider.webhook.port": port}
        if self.way == "command":
            given = [
                f"sample=range({self.runs})",
                f"hydra.launcher.max_in_flight={self.runs}",
                "metrics=fast",
            ]
            given += ["budget.max_usd=1e9", "provider=emulator", f"provider.base_url={base_url}"]
            return [sys.executable, "-m", "kling_sweeps", "-m", *given]
        return [
            sys.executable,
            __file__,
            "--schedule",
            str(self.folder),
            base_url,
            str(self.runs),
            json.dumps(webhook),
        ]

    def limit(self) -> None:
        """Give a process no more open files than a shell with `ulimit -S -n` does."""
        if self.handles:
            resource.setrlimit(
                resource.RLIMIT_NOFILE, (self.handles, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
            )

    def late(self, ledger: list[dict[str, Any]]) -> list[float]:
        """Return how late completions were noticed: median, 95th percentile and most."""
        ended = {entry["request_id"]: entry["ended_at"] for entry in ledger}
        late = sorted(at - ended[request_id] for request_id, at in self.noticed().items())
        return [statistics.median(late), late[int(0.95 * len(late))], late[-1]] if late else []


@dataclass
class Busiest:
    """The second in which an emulator was asked most."""

    base_url: str
    most: float = 0.0
    last: tuple[float, int] | None = None

    def look(self) -> None:
        try:
            asked = sum(httpx.get(f"{self.base_url}/_emulator/counters", timeout=30).json().values())
        except httpx.HTTPError:
            return
        now = time.monotonic()
        if self.last:
            self.most = max(self.most, (asked - self.last[1]) / (now - self.last[0]))
        self.last = now, asked


def in_flight(ledger: list[dict[str, Any]]) -> int:
    """Return the most requests that were accepted and not over at once."""
    changes = sorted(
        [(entry["submitted_at"], 1) for entry in ledger]
        + [(entry["ended_at"] or 1e12, -1) for entry in ledger]
    )
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def milliseconds(times: Iterable[float]) -> str:
    return ", ".join(f"{s * 1e3:.0f} ms" for s in times)


def children_s() -> float:
    """Return the CPU seconds of all processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Print a row for each way and number of runs."""
    if sys.argv[1:2] == ["--schedule"]:
        schedule(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), json.loads(sys.argv[5]))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--ways", nargs="+", default=["asking", "webhooks"])
    parser.add_argument("--slots", type=int, default=40)
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--handles", type=int)
    given = parser.parse_args()
    print(
        f"| {' | '.join(COLUMNS)} |", f"| {' | '.join(['---', *['---:'] * (len(COLUMNS) - 1)])} |", sep="\n"
    )
    for runs in given.runs:
        for way in given.ways:
            with tempfile.TemporaryDirectory() as folder:
                trial = Trial(way, runs, given.slots, given.slots / given.rate, Path(folder), given.handles)
                print(trial.row(), flush=True)


if __name__ == "__main__":
    main()
