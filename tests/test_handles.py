"""As many runs in flight as this process may open files for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kling_sweeps.sweep.handles import BESIDES, WINDOWS, room_for

CHILD = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (256, {hard}))
from kling_sweeps.sweep.handles import room_for
print(room_for({runs}), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit to raise")
@pytest.mark.parametrize(
    ("runs", "hard", "room", "soft"),
    [(64, 4096, 64, 576), (1000, 4096, 1000, 1512), (5000, 4096, 3584, 4096), (64, 256, 1, 256)],
)
def test_the_limit_is_raised_as_far_as_it_is_needed(runs, hard, room, soft):
    """Has fewer runs in flight where the system does not allow more files, and one at the least."""
    child = [sys.executable, "-c", CHILD.format(hard=hard, runs=runs)]
    told = subprocess.run(child, capture_output=True, text=True, check=True).stdout
    assert told.split() == [str(room), str(soft)]


def test_where_nothing_tells_the_limit_it_is_taken_for_the_one_of_windows(monkeypatch):
    """Reads it without the module that Unix alone has."""
    monkeypatch.setitem(sys.modules, "resource", None)
    assert [room_for(64), room_for(100_000)] == [64, WINDOWS - BESIDES]
