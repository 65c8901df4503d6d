"""How fast stored videos are measured again, on one core and on all of them.

    python benchmarks/remeasure.py                  100 clips of 5 s at 1080p

The clips are the emulator's, rendered before; nothing but measuring is timed, with the default metrics,
in as many worker processes as there are cores, each with one decoding thread.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import httpx  # noqa: E402
from bare import ENDPOINT  # noqa: E402

from kling_sweeps import metrics  # noqa: E402
from kling_sweeps.emulator import EmulatorProcess, EmulatorSettings  # noqa: E402
from kling_sweeps.measurement.workers import Workers  # noqa: E402
from kling_sweeps.metric import Requested  # noqa: E402

DIFFERENT = 4


def clips(folder: Path) -> list[Path]:
    """Render some clips."""
    settings = EmulatorSettings(DIFFERENT, width=1920, height=1080, latency_s=0)
    with EmulatorProcess(settings) as emulator:
        found = []
        for number in range(DIFFERENT):
            arguments = {"prompt": f"a street {number}"}
            headers = {"Host": "fal.run", "Authorization": "Key k"}
            told = httpx.post(f"{emulator.base_url}/{ENDPOINT}", json=arguments, headers=headers, timeout=120)
            path = folder / f"{number}.mp4"
            path.write_bytes(httpx.get(told.json()["video"]["url"]).content)
            found.append(path)
    return found


def seconds(videos: list[Path], workers_count: int, folder: Path) -> float:
    """Measure videos in so many processes, which are warm; return how long it took."""

    async def measure(some: list[Path], into: Path) -> None:
        spec = metrics.specification("default")
        each = (workers.measure(into / str(n), video, spec, Requested()) for n, video in enumerate(some))
        await asyncio.gather(*each)

    with Workers(workers_count) as workers:
        asyncio.run(measure(videos[:workers_count], folder / "warm"))
        began = time.perf_counter()
        asyncio.run(measure(videos, folder / "done"))
        return time.perf_counter() - began


def main() -> None:
    """Print the seconds, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=100)
    number = parser.parse_args().clips
    print("| workers | clips | wall | a clip | of one worker |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as name:
        different = clips(Path(name))
        videos = [different[n % DIFFERENT] for n in range(number)]
        cores = os.cpu_count() or 1
        taken = {count: seconds(videos, count, Path(name, f"by-{count}")) for count in (1, cores)}
    for count, wall_s in taken.items():
        print(f"| {count} | {number} | {wall_s:.1f} s | {wall_s / number:.2f} s | {wall_s / taken[1]:.2f} |")


if __name__ == "__main__":
    main()
