"""How long a sweep takes beyond what fal makes it wait, and how much it asks for that.

    python benchmarks/sweep_time.py                      64 runs of 5 s on 8 slots, three ways
    python benchmarks/sweep_time.py --slots 1 8 32 --ways kling_sweeps

Every way makes the same videos on the same emulator, whose every generation takes `--seconds`:

    kling_sweeps    python -m kling_sweeps -m sample=range(64)
    joblib          the same with hydra/launcher=joblib hydra.launcher.n_jobs=8
    subscribe       Hydra's basic launcher, whose job calls fal_client.subscribe and saves the video,
                    and neither measures nor tracks it

`wall` is of the whole command, from its start to its end; `ideal` is runs / slots x seconds. `in between`
is from the first submission that the emulator accepted to the last run that was tracked (of subscribe: to
the command's end). `asked` counts requests for the status of a run, its stream included. `late` is the
time from a run's completion at the emulator to its being noticed, median and 95th percentile. `memory` is
the peak of all processes of the command together, what they share counted once, the emulator's not among them. `first` is the time from
the command's start to its first submission.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import httpx
import psutil

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from kling_sweeps.emulator import EmulatorProcess, EmulatorSettings  # noqa: E402
from kling_sweeps.store.journal import Journal  # noqa: E402

SUBSCRIBE = """
import sys, time
from functools import cached_property
from pathlib import Path
sys.path.insert(0, {benchmarks!r})
import fal_client, httpx, hydra
from bare import ENDPOINT, Client

@hydra.main(version_base="1.3", config_path=None)
def job(cfg):
    result = Client().subscribe(ENDPOINT, {{"prompt": f"a street {{cfg.sample}}"}})
    done = time.time()
    Path(f"{{cfg.sample}}.mp4").write_bytes(httpx.get(result["video"]["url"]).content)
    with open("done.txt", "a") as file:
        print(result["video"]["url"], done, file=file)

job()
"""


@dataclass(frozen=True)
class Figures:
    """What one command took, as the columns of the table have it; `late_s` has an entry a run, in order."""

    wall_s: float
    between_s: float
    asked: float
    late_s: list[float]
    memory_mb: float
    first_s: float


@dataclass(frozen=True)
class Trial:
    """One way to make the videos, in a folder and on an emulator of its own."""

    way: str
    runs: int
    slots: int
    seconds: float
    folder: Path

    @property
    def ideal_s(self) -> float:
        return -(-self.runs // self.slots) * self.seconds

    def run(self) -> Figures:
        """Run the command to its end."""
        settings = EmulatorSettings(self.slots, width=128, height=72, fps=4, latency_s=self.seconds)
        with EmulatorProcess(settings) as emulator:
            began = time.time()
            peak_mb = self.to_its_end(emulator.base_url)
            ended = time.time()
            told = httpx.get(f"{emulator.base_url}/_emulator/ledger").json()
            asked = httpx.get(f"{emulator.base_url}/_emulator/counters").json()["status_polls"]
        assert len(told) == self.runs, f"{self.way} bought {len(told)} of {self.runs}"
        first = min(entry["submitted_at"] for entry in told)
        noticed = self.noticed()
        late = sorted(noticed[entry["request_id"]] - entry["ended_at"] for entry in told)
        between_s = (self.last_tracked() or ended) - first
        return Figures(ended - began, between_s, asked / self.runs, late, peak_mb, first - began)

    def row(self) -> str:
        """Run the command to its end; return its row of the table."""
        found = self.run()
        columns = (
            self.way,
            self.slots,
            f"{self.ideal_s:.0f} s",
            f"{found.wall_s:.1f} s ({found.wall_s / self.ideal_s:.2f})",
            f"{found.between_s:.1f} s ({found.between_s / self.ideal_s:.3f})",
            f"{found.asked:.1f}",
            f"{statistics.median(found.late_s):.2f} s, {found.late_s[int(0.95 * len(found.late_s))]:.2f} s",
            f"{found.memory_mb:.0f} MB",
            f"{found.first_s:.1f} s",
        )
        return f"| {' | '.join(map(str, columns))} |"

    def to_its_end(self, base_url: str) -> float:
        """Run the command to its end; return its peak memory in MB."""
        environment = {**os.environ, "FAL_KEY": "k", "EMULATOR": base_url, "PYTHONPATH": str(ROOT)}
        with open(self.folder / "log.txt", "wb") as log:
            process = subprocess.Popen(
                self.command(base_url), cwd=self.folder, env=environment, stdout=log, stderr=log
            )
        peak = 0
        while process.poll() is None:
            peak = max(peak, memory(process.pid))
            time.sleep(0.25)
        assert process.returncode == 0, (self.folder / "log.txt").read_text()[-2000:]
        return peak / 1e6

    def command(self, base_url: str) -> list[str]:
        samples = f"sample=range({self.runs})"
        if self.way == "subscribe":
            script = self.folder / "script.py"
            script.write_text(SUBSCRIBE.format(benchmarks=str(ROOT / "benchmarks")))
            return [sys.executable, str(script), "-m", f"+{samples}"]
        launcher = ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={self.slots}"] * (self.way == "joblib")
        command = [sys.executable, "-m", "kling_sweeps", "-m", samples, "budget.max_usd=1000", *launcher]
        return [*command, "provider=emulator", f"provider.base_url={base_url}"]

    def journals(self) -> Iterable[list[dict]]:
        return [Journal(path).events() for path in self.folder.glob("store/*/??/*/journal.jsonl")]

    def noticed(self) -> dict[str, float]:
        """Return when each request's completion was known here, in seconds since 1970."""
        if self.way == "subscribe":
            lines = (self.folder / "done.txt").read_text().splitlines()
            return {
                line.split("/")[-1].partition(".")[0].removesuffix("_output"): float(line.split()[1])
                for line in lines
            }
        seen = {}
        for events in self.journals():
            by_name = {event["event"]: event for event in events}
            if "completed" in by_name:
                at = datetime.fromisoformat(by_name["completed"]["at"])
                seen[by_name["submitted"]["request_id"]] = at.timestamp()
        return seen

    def last_tracked(self) -> float | None:
        """Return when the last run was written to MLflow, None where none was."""
        if self.way == "subscribe":
            return None
        import sqlite3

        with sqlite3.connect(self.folder / "mlflow.db") as database:
            return database.execute("SELECT max(end_time) FROM runs").fetchone()[0] / 1000


def memory(pid: int) -> int:
    """Return the bytes of a process and all its descendants, a page that several of them share counting once."""
    total = 0
    try:
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            info = one.memory_full_info()
            total += getattr(info, "pss", info.rss)  # which Linux alone tells
    except psutil.Error:
        pass
    return total


def main() -> None:
    """Try each way on each number of slots, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=64)
    parser.add_argument("--slots", type=int, nargs="+", default=[8])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--ways", nargs="+", default=["kling_sweeps", "joblib", "subscribe"])
    given = parser.parse_args()
    print("| way | slots | ideal | wall | in between | asked | late | memory | first |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for slots in given.slots:
        for way in given.ways:
            with tempfile.TemporaryDirectory() as folder:
                print(Trial(way, given.runs, slots, given.seconds, Path(folder)).row(), flush=True)


if __name__ == "__main__":
    main()
