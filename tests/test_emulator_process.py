"""The emulator as a process: how it starts, and that it never outlives its owner."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from kling_sweeps.emulator import EmulatorProcess, EmulatorSettings, process
from kling_sweeps.errors import UnavailableError

pytestmark = pytest.mark.slow  # each starts servers

EMULATOR = [sys.executable, "-m", "kling_sweeps.emulator"]
OWNER = """
import sys, time
from kling_sweeps.emulator import EmulatorProcess

with EmulatorProcess() as emulator:
    print(emulator.base_url, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def started_by_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start each emulator as a user's command does."""
    monkeypatch.setattr(process, "sys", sys)


def wait_until_gone(base_url: str) -> None:
    """Return when nobody answers any more; fail after ten seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            httpx.get(f"{base_url}/_emulator", timeout=1)
        except httpx.TransportError:
            return
    pytest.fail("the emulator outlived its owner")


def test_it_lives_as_long_as_the_context() -> None:
    """It answers inside the context, and is gone after it."""
    with EmulatorProcess() as emulator:
        assert httpx.get(f"{emulator.base_url}/_emulator").json()["name"] == "kling_sweeps.emulator"
    wait_until_gone(emulator.base_url)


def test_it_dies_with_its_owner() -> None:
    """Even an owner that is killed takes it along."""
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as owner:
        base_url = owner.stdout.readline().strip()
        assert httpx.get(f"{base_url}/_emulator").status_code == 200
        os.kill(owner.pid, signal.SIGKILL)
    wait_until_gone(base_url)


def test_a_failure_to_start_says_why(tmp_path: Path) -> None:
    """What the child said is in the error."""
    (tmp_path / "file").touch()
    with pytest.raises(UnavailableError, match="file"):
        EmulatorProcess(EmulatorSettings(state_dir=tmp_path / "file" / "state")).start()


def test_a_port_in_use_is_one_line() -> None:
    """The exit code is 2 and the message names the port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = subprocess.run([*EMULATOR, "--port", port], capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert port in ended.stderr


@pytest.mark.parametrize("flags", [["--size", "big"], ["--slots", "0"], ["--size", "101x64"], ["--fps", "0"]])
def test_bad_settings_are_refused(flags: list[str]) -> None:
    """A setting that makes no sense is refused before anything is served."""
    ended = subprocess.run([*EMULATOR, "--port", "0", *flags], capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1


def test_help_is_a_screenful() -> None:
    """It explains the flags in at most 40 lines."""
    ended = subprocess.run([*EMULATOR, "--help"], capture_output=True, text=True, check=True)
    assert "--history-lag" in ended.stdout
    assert ended.stdout.count("\n") <= 40


def test_starting_imports_nothing_heavy() -> None:
    """A harness can import the process without OpenCV, PyAV or a server."""
    code = "import sys, kling_sweeps.emulator; print(*{'cv2', 'av', 'numpy', 'uvicorn', 'starlette'} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == ""
