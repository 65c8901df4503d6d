"""How many questions it takes to hear that one run is over, by its place in fal's queue; in virtual time, in a second.

    python benchmarks/questions.py

`stream` has fal's status stream once the run has begun, `asking` has none, `webhook` is called at the end. A row has
questions (streams among them), and how late the end was noticed. The queue is the one of tests/test_watch.py: as many
runs as there are slots begin together.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from interleaving import Clock  # noqa: E402
from test_watch import Fal, watched  # noqa: E402

from kling_sweeps import CONF  # noqa: E402
from kling_sweeps.experiment.settings import PollSettings  # noqa: E402

SLOTS_AND_AHEAD = ((2, 0), (2, 63), (40, 500), (40, 5000), (40, 9999))
RUN_S = 120.0


def main() -> None:
    """Print a row for each place in a queue."""
    poll = PollSettings(**OmegaConf.load(CONF / "provider" / "base.yaml").poll)
    print("| slots | runs before it | over after | stream | asking | webhook |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for slots, ahead in SLOTS_AND_AHEAD:
        told = []
        for way in ("stream", "asking", "webhook"):
            fal = Fal(Clock(), RUN_S, ahead, slots, stream="whole" if way == "stream" else "none")
            if way == "webhook":
                fal.rings, fal.calls_s = asyncio.Event(), fal.ends_s
            with pytest.MonkeyPatch.context() as patch:
                late_s = watched(fal, poll, patch)
            told.append(f"{len(fal.asked) + fal.streams}, {late_s:.0f} s")
        print(f"| {slots} | {ahead:,} | {fal.ends_s / 60:,.0f} min | {' | '.join(told)} |")


if __name__ == "__main__":
    main()
