"""What measuring a video costs, beside decoding it and beside other ways to measure it.

    python benchmarks/measure.py                 a clip of 5 s at 1080p, 10 Mbit/s
    python benchmarks/measure.py --each          and each metric alone
    python benchmarks/measure.py --video FILE    a video of your own

Every way runs in a process of its own, in turns, `--rounds` times; `wall` is the median, without imports,
`of decoding` its ratio to decoding alone in the same rounds, `CPU` that of the processors' time, which other work on the machine
changes less, and `memory` the peak of the process, imports included. The clip is one of the emulator's, with film grain, encoded by libx264 as its preset `medium`
does. Every way may use all cores.

    decode             PyAV, the luma plane viewed in place: the floor
    decode, OpenCV     cv2.VideoCapture.read
    fast, default, full, text    kling_sweeps.metrics.measure with that set; text needs the extra `ocr`
    four numbers, OpenCV   mean, deviation, variance of the Laplacian and difference of neighbours, at full size
    VBench flickering  the list of all frames and the loop over it of VBench's temporal flickering
    PySceneDetect      its content detector
    siti-tools         its SI and TI
    FFmpeg filters     signalstats, siti, scdet and freezedetect
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

SETS = ("fast", "default", "full", "text")
FILTERS = "signalstats,siti,scdet,freezedetect"
GRAIN = "noise=alls=5:allf=t,format=yuv420p,setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709"


def decode(path: str) -> Callable[[], None]:
    import av
    import numpy as np

    def run() -> None:
        with av.open(path) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for picture in container.decode(stream):
                np.frombuffer(picture.planes[0], np.uint8)

    return run


def opencv(path: str) -> Callable[[], None]:
    import cv2

    def run() -> None:
        capture = cv2.VideoCapture(path)
        while capture.read()[0]:
            pass

    return run


def four_numbers(path: str) -> Callable[[], None]:
    import cv2
    import numpy as np

    def run() -> None:
        capture, rows, before = cv2.VideoCapture(path), [], None
        while (answer := capture.read())[0]:
            grey = cv2.cvtColor(answer[1], cv2.COLOR_BGR2GRAY)
            change = 0.0 if before is None else np.abs(grey.astype(np.float32) - before).mean()
            rows.append((grey.mean(), grey.std(), cv2.Laplacian(grey, cv2.CV_64F).var(), change))
            before = grey.astype(np.float32)
        np.mean(rows, axis=0)

    return run


def vbench(path: str) -> Callable[[], None]:
    import cv2
    import numpy as np

    def run() -> None:
        capture, pictures = cv2.VideoCapture(path), []
        while (answer := capture.read())[0]:
            pictures.append(answer[1])
        steps = [
            np.mean(cv2.absdiff(np.array(a, np.float32), np.array(b, np.float32)))
            for a, b in itertools.pairwise(pictures)
        ]
        (255.0 - np.mean(steps)) / 255.0

    return run


def scenes(path: str) -> Callable[[], None]:
    from scenedetect import ContentDetector, detect

    return lambda: detect(path, ContentDetector())


def siti(path: str) -> Callable[[], None]:
    from siti_tools.siti import SiTiCalculator

    return lambda: SiTiCalculator(legacy=True, color_range="full").calculate(path)


def ffmpeg(path: str) -> Callable[[], None]:
    from imageio_ffmpeg import get_ffmpeg_exe

    command = [get_ffmpeg_exe(), "-v", "error", "-i", path, "-vf", FILTERS, "-an", "-f", "null", "-"]
    return lambda: subprocess.run(command, check=True)


def measured(path: str, spec: str | dict) -> Callable[[], None]:
    import av  # noqa: F401
    import cv2  # noqa: F401
    import pandas  # noqa: F401

    from kling_sweeps import metrics
    from kling_sweeps.measurement import observe  # noqa: F401

    metrics.build(spec)  # imports what reads the set, and the metrics
    return lambda: metrics.measure(path, spec)


WAYS: dict[str, Callable[[str], Callable[[], None]]] = {
    "decode": decode,
    "decode, OpenCV": opencv,
    **{name: lambda path, name=name: measured(path, name) for name in SETS},
    "four numbers, OpenCV": four_numbers,
    "VBench flickering": vbench,
    "PySceneDetect": scenes,
    "siti-tools": siti,
    "FFmpeg filters": ffmpeg,
}


def run(way: str, path: str) -> dict[str, float]:
    """Take one way in this process, and give its seconds, those of the processors, and the peak of its memory in MB."""
    call = WAYS[way](path) if way in WAYS else measured(path, {way: {}})
    began, busy = time.perf_counter(), cpu_seconds()
    call()
    seconds, busy = time.perf_counter() - began, cpu_seconds() - busy
    own, children = (
        resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return {"seconds": seconds, "cpu_seconds": busy, "megabytes": max(own, children) / 1024}


def cpu_seconds() -> float:
    """Give the processor's time of this process and of those that it ran."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def in_a_process(way: str, path: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--way", way, "--video", path]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def clip(folder: Path, height: int = 1080, rate: float = 10.0) -> Path:
    """Have the emulator render a scene filmed by hand, and encode it with grain at so many Mbit/s."""
    import httpx
    from bare import ENDPOINT
    from imageio_ffmpeg import get_ffmpeg_exe

    from kling_sweeps.emulator import EmulatorProcess, EmulatorSettings

    with EmulatorProcess(EmulatorSettings(1, width=height * 16 // 9, height=height, latency_s=0)) as emulator:
        arguments = {"prompt": "A skater crosses a sunlit square, handheld tracking shot"}
        headers = {"Host": "fal.run", "Authorization": "Key k"}
        told = httpx.post(
            f"{emulator.base_url}/{ENDPOINT}", json=arguments, headers=headers, timeout=120
        ).json()
        (folder / "rendered.mp4").write_bytes(httpx.get(told["video"]["url"]).content)
    command = [get_ffmpeg_exe(), "-v", "error", "-i", str(folder / "rendered.mp4"), "-vf", GRAIN, "-an"]
    command += [
        "-c:v",
        "libx264",
        "-b:v",
        f"{rate}M",
        "-maxrate",
        f"{1.2 * rate}M",
        "-bufsize",
        f"{2 * rate}M",
    ]
    command.append(str(folder / "clip.mp4"))
    subprocess.run(command, check=True)
    return folder / "clip.mp4"


def main() -> None:
    """Print a row for each way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--video", help="a video in place of the rendered one")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--each", action="store_true", help="each metric alone, too")
    parser.add_argument("--way", help="run this way alone, once, in this process")
    options = parser.parse_args()
    if options.way:
        print(json.dumps(run(options.way, options.video)))
        return
    ways = list(WAYS)
    if options.each:
        from kling_sweeps.metrics import METRICS

        ways += METRICS
    with tempfile.TemporaryDirectory() as folder:
        video = options.video or str(clip(Path(folder)))
        taken = [{way: in_a_process(way, video) for way in ways} for _ in range(options.rounds)]
    print("| way | wall | of decoding | CPU | memory |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for way in ways:
        seconds, memory = (
            statistics.median(each[way][what] for each in taken) for what in ("seconds", "megabytes")
        )
        wall, cpu = (
            statistics.median(each[way][what] / each["decode"][what] for each in taken)
            for what in ("seconds", "cpu_seconds")
        )
        print(f"| {way} | {seconds:.2f} s | {wall:.2f} | {cpu:.2f} | {memory:.0f} MB |")


if __name__ == "__main__":
    main()
