"""What thousands of runs cost beside their videos: time a run, memory, and the same command again.

    python benchmarks/many_runs.py                  200 and 2,000 runs

Tiny clips without latency, so that nothing is waited for. `a run` is the command's wall time over its
runs, `MLflow` the share of it that MLflow's own calls take when they alone are made for as many runs (one
run created, one batch logged, five artifacts, ended), `memory` the peak of the command's main process,
`again` the wall time of the same command given a second time, and what it comes to a run beyond that of
one run.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from kling_sweeps.emulator import EmulatorProcess, EmulatorSettings  # noqa: E402

BARE_RUNS = 100


def timed(runs: int, folder: Path, base_url: str) -> tuple[float, float]:
    """Run a sweep; return its seconds and the peak memory of its main process in MB."""
    command = [
        *(
            sys.executable,
            "-m",
            "kling_sweeps",
            "-m",
            f"sample=range({runs})",
            "experiment=many",
            "budget.max_usd=1e6",
        ),
        *("provider=emulator", f"provider.base_url={base_url}"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    began, peak = time.time(), 0
    with open(folder / "log.txt", "ab") as log:
        process = psutil.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        while process.poll() is None:
            with contextlib.suppress(psutil.Error):
                peak = max(peak, process.memory_info().rss)
            time.sleep(0.1)
    assert process.returncode == 0, (folder / "log.txt").read_text()[-2000:]
    return time.time() - began, peak / 1e6


def bare_mlflow_s(folder: Path) -> float:
    """Return how many seconds MLflow takes for a run when nothing else is done."""
    measured = next(folder.glob("store/*/??/*/measurements/*"))
    files = [*measured.glob("f*"), measured.parents[1] / "request.json", measured.parents[1] / "result.json"]
    script = f"""
import time
from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient
client = MlflowClient("sqlite:///bare.db")
experiment = client.create_experiment("bare")
began = time.time()
for number in range({BARE_RUNS}):
    run = client.create_run(experiment).info.run_id
    metrics = [Metric(f"m{{n}}", 0.5, 0, 0) for n in range(20)] + [Metric("s", 0.5, 0, n) for n in range(30)]
    client.log_batch(run, metrics, [Param(f"p{{n}}", "v") for n in range(9)])
    for file in {[str(file) for file in files] + [str(measured.parents[1] / "video.mp4")]!r}:
        client.log_artifact(run, file)
    client.set_terminated(run)
print((time.time() - began) / {BARE_RUNS})
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def main() -> None:
    """Print a row for each number of runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, nargs="+", default=[200, 2000])
    print("| runs | a run | MLflow | memory | again |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for runs in parser.parse_args().runs:
        settings = EmulatorSettings(64, width=64, height=64, fps=2, latency_s=0)
        with EmulatorProcess(settings) as emulator, tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            first_s, memory_mb = timed(runs, folder, emulator.base_url)
            again_s, _ = timed(runs, folder, emulator.base_url)
            one_s, _ = timed(1, folder, emulator.base_url)
            share = bare_mlflow_s(folder) * runs / first_s
        more_ms = (again_s - one_s) / runs * 1e3
        print(
            f"| {runs:,} | {first_s / runs * 1e3:.0f} ms | {share:.0%} | {memory_mb:.0f} MB "
            f"| {again_s:.1f} s, {more_ms:.1f} ms a run |",
            flush=True,
        )


if __name__ == "__main__":
    main()
