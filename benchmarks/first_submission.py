"""How long it takes from the command to the first submission, beside a script that does nothing else.

    python benchmarks/first_submission.py

    bare            a script that imports fal_client and submits
    kling_sweeps    python -m kling_sweeps +sweep=cfg

Each is started five times in turn, always in a new folder, and ended once the emulator has accepted a
submission; the table shows medians, and how often kling_sweeps takes as long as the bare script.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from kling_sweeps.emulator import EmulatorProcess, EmulatorSettings  # noqa: E402

ROUNDS = 5
BARE = f"""
import sys
sys.path.insert(0, {str(ROOT / "benchmarks")!r})
from bare import ENDPOINT, Client
Client().submit(ENDPOINT, {{"prompt": "a street"}})
"""


def first_s(way: str, base_url: str) -> float:
    """Start a command, and return after how many seconds a submission of it was accepted."""
    with tempfile.TemporaryDirectory() as folder:
        sweep = ["-m", "kling_sweeps", "+sweep=cfg", "provider=emulator", f"provider.base_url={base_url}"]
        command = [sys.executable, *(["-c", BARE] if way == "bare" else sweep)]
        environment = {**os.environ, "FAL_KEY": "k", "EMULATOR": base_url, "PYTHONPATH": str(ROOT)}
        before = len(ledger(base_url))
        began = time.time()
        with subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            while len(told := ledger(base_url)) == before:
                time.sleep(0.02)
            process.terminate()
        return told[before]["submitted_at"] - began


def ledger(base_url: str) -> list[dict]:
    return httpx.get(f"{base_url}/_emulator/ledger").json()


def main() -> None:
    """Print the medians side by side."""
    seconds: dict[str, list[float]] = {"bare": [], "kling_sweeps": []}
    with EmulatorProcess(EmulatorSettings(64, width=64, height=64, fps=2, latency_s=0)) as emulator:
        for _ in range(ROUNDS):
            for way, found in seconds.items():
                found.append(first_s(way, emulator.base_url))
    medians = {way: statistics.median(found) for way, found in seconds.items()}
    print("| way | first submission after | of bare |")
    print("| --- | ---: | ---: |")
    for way, median in medians.items():
        print(f"| {way} | {median:.2f} s | {median / medians['bare']:.1f} |")


if __name__ == "__main__":
    main()
