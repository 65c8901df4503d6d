"""What a run costs beside its video, over what MLflow's own calls for it cost, and the same command again.

    python benchmarks/many_runs.py                       five rounds of 500 runs
    python benchmarks/many_runs.py --runs 2000 --rounds 1

The emulator renders nothing, it answers each of 64 requests at a time at once with the same tiny clip. A round
is one command in a new folder, and the same command a second time; the table has the medians of the rounds.

`wall` is the command's wall time over its runs, `main` and `workers` the CPU time of its main process and of all
others, `emulator` that of the emulator, each a run. `MLflow` is the wall time that MLflow's own calls take for
the same runs when they alone are made: one run created, one batch logged, five artifacts, the run ended and a tag
set, with the metrics, params, tags and files that the command has logged. `ratio` is `wall` over that. `memory` is the
peak of the main process. `again` is the wall time of the same command a second time, and what it comes to a
run beyond that of a command of one run; `read` is what it takes to read the records of a run, and nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import astuple, dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import clips  # noqa: E402

from kling_sweeps.emulator import EmulatorProcess, EmulatorSettings  # noqa: E402

SLOTS = 64
COLUMNS = (
    "runs",
    "wall",
    "main",
    "workers",
    "emulator",
    "MLflow",
    "of it CPU",
    "ratio",
    "memory",
    "again",
    "again, a run",
    "read",
)
UNITS = ("ms", "ms", "ms", "ms", "ms", "ms", "", "MB", "s", "ms", "ms")
BARE = """
import time
from pathlib import Path
from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient
client = MlflowClient("sqlite:///mlflow.db")
experiment = client.get_experiment_by_name("kling_sweeps/many (emulator)").experiment_id
logged, page = [], None
while page is None or page.token:
    page = client.search_runs([experiment], max_results=1000, page_token=page and page.token)
    for run in page:
        points = [one for name in run.data.metrics for one in client.get_metric_history(run.info.run_id, name)]
        points = [Metric(one.key, one.value, one.timestamp, one.step) for one in points]
        files = [str(path) for path in Path(run.info.artifact_uri).iterdir()]
        logged.append((run, points, files, dict(run.data.tags)))
bare = MlflowClient("sqlite:///bare.db")
experiment = bare.create_experiment("bare")
began, busy = time.monotonic(), time.process_time()
for run, points, files, tags in logged:
    content = tags.pop("content")
    run_id = bare.create_run(experiment, run.info.start_time, tags, run.info.run_name).info.run_id
    params = [Param(*one) for one in run.data.params.items()]
    bare.log_batch(run_id, points, params)
    for file in files:
        bare.log_artifact(run_id, file)
    bare.set_terminated(run_id)
    bare.set_tag(run_id, "content", content)
print(len(logged), time.monotonic() - began, time.process_time() - busy)
"""


@dataclass(frozen=True)
class Command:
    """What one command took: seconds of wall time and of CPU, and the peak memory of its main process in MB."""

    wall_s: float
    main_s: float
    workers_s: float
    memory_mb: float


def run(runs: int, folder: Path, base_url: str) -> Command:
    """Run a sweep to its end."""
    sweep = [f"sample=range({runs})", "experiment=many", "budget.max_usd=1e6"]
    server = ["provider=emulator", f"provider.base_url={base_url}", f"hydra.launcher.max_in_flight={SLOTS}"]
    command = [sys.executable, "-m", "kling_sweeps", "-m", *sweep, *server]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    began, peak, used = time.monotonic(), 0, {}
    with open(folder / "log.txt", "ab") as log:
        process = psutil.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        while process.poll() is None:
            with contextlib.suppress(psutil.Error):
                peak = max(peak, process.memory_info().rss)
                for one in (process, *process.children(recursive=True)):
                    used[one.pid] = cpu_s(one)
            time.sleep(0.05)
    wall_s = time.monotonic() - began
    assert process.returncode == 0, (folder / "log.txt").read_text()[-2000:]
    main_s = used.pop(process.pid)
    return Command(wall_s, main_s, sum(used.values()), peak / 1e6)


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def bare_mlflow_s(runs: int, folder: Path) -> tuple[float, float]:
    """Return what seconds of wall and of CPU time MLflow's own calls for a command's runs take, and nothing else."""
    done = subprocess.run(
        [sys.executable, "-c", BARE], cwd=folder, stdout=subprocess.PIPE, text=True, check=True
    )
    number, wall_s, cpu_s = done.stdout.split()
    assert int(number) == runs, f"{number} runs were tracked"
    return float(wall_s), float(cpu_s)


def read_s(folder: Path) -> float:
    """Return how many seconds it takes to read the records of all runs, and nothing else."""
    began = time.monotonic()
    for path in folder.glob("store/*/??/*/"):
        for file in (*path.glob("*.json*"), *path.glob("measurements/*/values.json")):
            file.read_bytes()
    return time.monotonic() - began


@dataclass(frozen=True)
class Round:
    """One round's columns."""

    wall_ms: float
    main_ms: float
    workers_ms: float
    emulator_ms: float
    mlflow_ms: float
    mlflow_cpu_ms: float
    ratio: float
    memory_mb: float
    again_s: float
    again_ms: float
    read_ms: float


def measured(runs: int, clip: Path) -> Round:
    """Make all the runs of a round."""
    settings = EmulatorSettings(SLOTS, latency_s=0, video=clip)
    with EmulatorProcess(settings) as emulator, tempfile.TemporaryDirectory() as name:
        folder, server = Path(name), psutil.Process(emulator.pid)
        before = cpu_s(server)
        first = run(runs, folder, emulator.base_url)
        emulator_s = cpu_s(server) - before
        bare = bare_mlflow_s(runs, folder)
        read = read_s(folder)
        again = run(runs, folder, emulator.base_url)
        one = run(1, folder, emulator.base_url)
    seconds = (first.wall_s, first.main_s, first.workers_s, emulator_s, *bare)
    return Round(
        *(part_s / runs * 1e3 for part_s in seconds),
        first.wall_s / bare[0],
        first.memory_mb,
        again.wall_s,
        (again.wall_s - one.wall_s) / runs * 1e3,
        read / runs * 1e3,
    )


def tiny_clip(folder: Path) -> Path:
    """Write a clip of 5 seconds that costs next to nothing to download and to measure."""
    return clips.write(folder / "clip.mp4", clips.pan(2, frames=10, size=(64, 64)), fps=2)


def main() -> None:
    """Print a row for each number of runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, nargs="+", default=[500])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"| {' | '.join(COLUMNS)} |")
    print(f"|{' ---: |' * len(COLUMNS)}")
    with tempfile.TemporaryDirectory() as name:
        clip = tiny_clip(Path(name))
        for runs in options.runs:
            rounds = [astuple(measured(runs, clip)) for _ in range(options.rounds)]
            medians = map(statistics.median, zip(*rounds, strict=True))
            cells = [f"{value:.3g} {unit}".rstrip() for value, unit in zip(medians, UNITS, strict=True)]
            print(f"| {runs:,} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
