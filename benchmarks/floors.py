"""Every figure of speed beside its floor, measured in one run.

    python benchmarks/floors.py                              all of them, five rounds
    python benchmarks/floors.py --only start run --rounds 3

In a round a figure and its floor are measured one after the other; the table has the medians of the rounds, and
between them that of the ratios. `CPU` is the processors' time of both, where it can be told.

    measure     the sets of metrics on four clips; the floor is decoding them (`measure.py`)
    cores       12 clips of 1080p by a worker process a core; the floor is one process's time divided by the cores
    run         a run of 500 of tiny clips on 64 slots; the floor is MLflow's own calls for it (`many_runs.py`)
    again       the same command once more, a run beyond a command of one run; the floor is reading its files
    start       to the first submission; the floor is a script with fal-client. `--help`, and a refusal of a
                key; the floor is the import of Hydra
    sweep       64 runs of 5 s on 32 slots, from the first submission to the last tracked run; the floor is
                their time at fal. The memory of all its processes; the floor is a process with a client
                of MLflow, and one with PyAV and OpenCV a core
    report      the report of 300 runs; the floor is encoding its strips by all cores
    effects     31 metrics of 300 runs on 5 levels; the floor is Welch's test of each metric and level by SciPy
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import av  # noqa: E402
import first_submission  # noqa: E402
import many_runs  # noqa: E402
import measure  # noqa: E402
import remeasure  # noqa: E402
import sweep_time  # noqa: E402

from kling_sweeps.emulator import EmulatorProcess, EmulatorSettings  # noqa: E402

CORES = os.cpu_count() or 1
RUNS, CLIPS = 500, 12
# Height in pixels and Mbit/s of the clips, and what sets of metrics may take of decoding.
ENCODED = ((1080, 3.5), (1080, 10.0), (1080, 31.0), (720, 5.0))
SETS = {"default": 1.6, "full": 2.0}
TRACKS = """from mlflow.tracking import MlflowClient
MlflowClient("sqlite:///one.db").create_experiment("one")"""
DECODES = "import av, cv2"


@dataclass(frozen=True)
class Beside:
    """One measurement beside its floor's, both in one unit, and what CPU time both took in seconds."""

    name: str
    aim: str
    unit: str
    floor: float
    takes: float
    floor_cpu_s: float | None = None
    cpu_s: float | None = None


def of_measuring(folder: Path) -> Iterator[Beside]:
    for height, rate in ENCODED:
        clip = str(rendered(folder, height, rate))
        floor = measure.in_a_process("decode", clip)
        for name, most in SETS.items():
            taken = measure.in_a_process(name, clip)
            times = [each[what] for what in ("seconds", "cpu_seconds") for each in (floor, taken)]
            yield Beside(f"metrics={name}, {height}p, {rate:g} Mbit/s", f"≤ {most}", "s", *times)


@cache
def rendered(folder: Path, height: int, rate: float) -> Path:
    own = folder / f"{height}-{rate}"
    own.mkdir()
    return measure.clip(own, height, rate)


def of_cores(folder: Path) -> Iterator[Beside]:
    different = stored(folder)
    videos = [different[number % len(different)] for number in range(CLIPS)]
    with tempfile.TemporaryDirectory() as name:
        alone, all_of_them = (
            remeasure.seconds(videos, count, Path(name, str(count))) for count in (1, CORES)
        )
    yield Beside(f"{CLIPS} clips on {CORES} cores", f"≤ {1 / 0.9:.2f}", "s", alone / CORES, all_of_them)


@cache
def stored(folder: Path) -> list[Path]:
    own = folder / "stored"
    own.mkdir()
    return remeasure.clips(own)


def of_runs(folder: Path) -> Iterator[Beside]:
    found = many_runs.measured(RUNS, many_runs.tiny_clip(folder))
    cpu_s = (found.mlflow_cpu_ms / 1e3, (found.main_ms + found.workers_ms) / 1e3)
    yield Beside("a run, in wall", "≤ 2.0", "ms", found.mlflow_ms, found.wall_ms, *cpu_s)
    yield Beside("the same command again, a run", "≤ 3 ms", "ms", found.read_ms, found.again_ms)


def of_the_start(folder: Path) -> Iterator[Beside]:
    with EmulatorProcess(EmulatorSettings(64, width=64, height=64, fps=2, latency_s=0)) as emulator:
        bare, ours = (first_submission.first_s(way, emulator.base_url) for way in ("bare", "kling_sweeps"))
    yield Beside("first submission", "≤ 1.0 s", "s", bare, ours)
    for name, given in (("--help", "--help"), ("a refusal", "nonsense=1")):
        floor, ours = (
            ended(command, folder) for command in (["-c", "import hydra.main"], ["-m", "kling_sweeps", given])
        )
        yield Beside(name, "≤ 0.6 s", "s", floor[0], ours[0], floor[1], ours[1])


def ended(arguments: list[str], folder: Path) -> tuple[float, float]:
    """Run Python to its end; return its seconds of wall and of CPU time."""
    command, environment = [sys.executable, *arguments], {**os.environ, "PYTHONPATH": str(ROOT)}
    return timed(partial(subprocess.run, command, cwd=folder, env=environment, capture_output=True))


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Return what seconds of wall and of CPU time a call takes, with all processes that it has waited for."""
    began, busy = time.perf_counter(), measure.cpu_seconds()
    call()
    return time.perf_counter() - began, measure.cpu_seconds() - busy


def of_a_sweep(folder: Path) -> Iterator[Beside]:
    with tempfile.TemporaryDirectory() as name:
        trial = sweep_time.Trial("kling_sweeps", 64, 32, 5.0, Path(name))
        found = trial.run()
        floor_mb = memory_mb([TRACKS, *[DECODES] * CORES], Path(name))
    yield Beside("64 runs of 5 s on 32 slots", "≤ 1.25", "s", trial.ideal_s, found.between_s)
    yield Beside("memory of its processes", "≤ 500 MB", "MB", floor_mb, found.memory_mb)


def memory_mb(programs: list[str], folder: Path) -> float:
    """Return the memory of processes that have done what they are for, and wait."""
    with ExitStack() as stack:
        processes = []
        for program in programs:
            command = [sys.executable, "-c", f"{program}\nprint(flush=True)\ninput()"]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            processes.append(stack.enter_context(subprocess.Popen(command, cwd=folder, **pipes)))
            assert processes[-1].stdout.readline()
        found = sum(sweep_time.memory(process.pid) for process in processes) / 1e6
        for process in processes:
            process.communicate(b"\n")
    return found


def of_the_report(folder: Path) -> Iterator[Beside]:
    import report
    import report_data

    from kling_sweeps.reports.clips import groups, joined
    from kling_sweeps.reports.page import render

    with tempfile.TemporaryDirectory() as name:
        own = Path(name)
        made = report.copies([report.made(own / str(seed), seed) for seed in range(8)], 300, own / "runs")
        settings, prompts = [n / 10 for n in range(10)], [f"prompt {n}" for n in range(30)]
        contents = report_data.contents(made, settings=settings, prompts=prompts)
        strips = groups(made)
        pictures = [*joined([made[number] for number in strips[0]])]
        floor = timed(
            partial(all_encoded, [own / f"{number}.mp4" for number, _ in enumerate(strips)], pictures)
        )
        takes = timed(partial(render, contents))
    yield Beside("report of 300 runs", "≤ 1.2", "s", floor[0], takes[0], floor[1], takes[1])


def all_encoded(files: list[Path], pictures: list[av.VideoFrame]) -> None:
    """Encode the same pictures into every file, by all cores."""
    from kling_sweeps.video.preview import encode

    with ThreadPoolExecutor(CORES) as threads:
        list(threads.map(lambda file: encode(file, iter(pictures)), files))


def of_effects(folder: Path) -> Iterator[Beside]:
    import soundness
    from scipy import stats

    from kling_sweeps.analysis import effects

    runs, _ = soundness.simulated(31, 12, 5, levels=5)
    metrics = runs.attrs["metrics"]

    def welch() -> None:
        levels = [level[metrics].to_numpy() for _, level in runs.groupby("level")]
        for level, number in product(levels[1:], range(len(metrics))):
            stats.ttest_ind(level[:, number], levels[0][:, number], equal_var=False)

    floor, takes = timed(welch), timed(partial(effects, runs, "level"))
    yield Beside("effects of 31 metrics", "≤ 0.3 s", "s", floor[0], takes[0], floor[1], takes[1])


PARTS: dict[str, Callable[[Path], Iterator[Beside]]] = {
    "start": of_the_start,
    "effects": of_effects,
    "sweep": of_a_sweep,
    "report": of_the_report,
    "cores": of_cores,
    "measure": of_measuring,
    "run": of_runs,
}


def row(found: list[Beside]) -> str:
    """Return the medians of the rounds of one figure as a row."""
    one = found[0]
    floor, takes = (statistics.median(getattr(each, what) for each in found) for what in ("floor", "takes"))
    ratio = statistics.median(each.takes / each.floor for each in found)
    cpu = ["", ""]
    if one.cpu_s is not None:
        cpu = [
            f"{statistics.median(each.cpu_s for each in found):.3g} s",
            f"{statistics.median(each.cpu_s / each.floor_cpu_s for each in found):.2f}",
        ]
    columns = (one.name, f"{floor:.3g} {one.unit}", f"{takes:.3g} {one.unit}", f"{ratio:.2f}", *cpu, one.aim)
    return f"| {' | '.join(columns)} |"


def main() -> None:
    """Print a row for each figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=[*PARTS])
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    print("| figure | floor | takes | of the floor | CPU | of the floor's CPU | aim |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as name:
        for part in given.only:
            rounds = [list(PARTS[part](Path(name))) for _ in range(given.rounds)]
            for found in zip(*rounds, strict=True):
                print(row(list(found)), flush=True)


if __name__ == "__main__":
    main()
