"""An emulator as a child process, which lives as long as its parent."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from kling_sweeps.experiment.emulator_settings import EmulatorSettings

from ..errors import UnavailableError

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 10
PACKAGE_ROOT = Path(__file__).parents[2]


class EmulatorProcess:
    """Run an emulator on a free port of this machine while the context lasts.

    The child watches a pipe that only this process holds, so it ends even when this process is
    killed. Raises UnavailableError, with what the child said, when it can't be started.
    """

    _said: IO[bytes]

    def __init__(self, settings: EmulatorSettings | None = None) -> None:
        self._settings = settings or EmulatorSettings()
        self._child: subprocess.Popen[bytes] | None = None
        self._base_url = ""

    @property
    def base_url(self) -> str:
        """Its address, `http://127.0.0.1:<port>`."""
        return self._base_url

    @property
    def pid(self) -> int:
        """The child's process id."""
        if self._child is None:
            raise RuntimeError("the emulator is not running")
        return self._child.pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the child and wait until it answers."""
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - stop() closes it
        self._child = self._spawn(self._said)
        address = re.search(rb"http://\S+", self._first_line(self._child))
        if address is None:
            self._child.wait()
            last_words = self._last_words()
            self.stop()
            raise UnavailableError(f"the emulator did not start: {last_words}")
        self._base_url = address.group().decode()

    def stop(self) -> None:
        """End the child; it is killed when it takes longer than ten seconds."""
        child = self._child
        if child is None:
            return
        self._child = None
        assert child.stdin and child.stdout  # pipes, both
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
        try:
            child.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.stdout.close()
        self._said.close()

    def _spawn(self, said: IO[bytes]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "kling_sweeps.emulator", "--port=0", "--parent-pipe"]
        paths = [str(PACKAGE_ROOT), os.environ.get("PYTHONPATH", "")]
        return subprocess.Popen(
            [*command, *self._settings.flags()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            # Ctrl-C is for the harness, which has to collect before the emulator ends: POSIX's way, and Windows'.
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )

    def _first_line(self, child: subprocess.Popen[bytes]) -> bytes:
        assert child.stdout  # a pipe
        watchdog = threading.Timer(START_TIMEOUT_S, child.kill)
        watchdog.start()
        try:
            return child.stdout.readline()
        finally:
            watchdog.cancel()

    def _last_words(self) -> str:
        self._said.seek(0)
        said = self._said.read().decode(errors="replace").strip()
        return said or "it said nothing"
