"""Without what only Linux has, or what Windows lacks, everything runs all the same."""

from __future__ import annotations

import errno
import io
import os
import sys
from pathlib import Path

import clips
import numpy as np
import psutil
import pytest
from conftest import SMALL, Command

from kling_sweeps.errors import explained
from kling_sweeps.measurement.workers import cores
from kling_sweeps.store.journal import sync_folder
from kling_sweeps.terminal import streams
from kling_sweeps.tracking.tracker import Tracker
from kling_sweeps.video import container
from kling_sweeps.video.decode import frames

# Python runs it at each start, in worker processes and in the emulator's too.
TAKEN_AWAY = """
import os, pathlib, signal, sys

for name in ("sched_getaffinity", "O_DIRECTORY", "fork", "killpg", "getuid", "geteuid", "getpgid", "setsid", "mkfifo"):
    delattr(os, name)
for name in ("pthread_sigmask", "pthread_kill", "SIGALRM", "setitimer", "ITIMER_REAL"):
    delattr(signal, name)
sys.modules["pwd"] = sys.modules["grp"] = sys.modules["resource"] = None
def link_nothing(*paths, **options):
    raise OSError("a required privilege is not held by the client")
os.symlink = os.link = link_nothing
opened = os.open
def open_no_folder(path, *arguments, **options):
    if isinstance(path, (str, os.PathLike)) and os.path.isdir(path):
        raise PermissionError(13, "Permission denied", str(path))
    return opened(path, *arguments, **options)
os.open = open_no_folder
pathlib.Path(os.environ["STARTED"], str(os.getpid())).touch()
"""


@pytest.mark.slow
def test_a_sweep_runs_without_what_windows_lacks(tmp_path):
    """Generates on the emulator, measures and tracks, in processes that can't use any of it."""
    started = tmp_path / "started"
    started.mkdir()
    (tmp_path / "sitecustomize.py").write_text(TAKEN_AWAY, encoding="utf-8")
    paths = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    sweep = ["-m", "prompt='a fox','a bird'", "provider=emulator", *SMALL]
    done = Command(tmp_path, sys.executable)(
        *sweep, PYTHONPATH=paths, STARTED=str(started), LOGNAME="somebody"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert len(list(tmp_path.rglob("video.mp4"))) >= 2
    assert len(list(started.iterdir())) >= 3  # the command, the emulator, a worker


def test_all_cores_are_used_where_nobody_tells_which_are_ours(monkeypatch):
    """Counts the machine's where only Linux would tell, and one where nobody knows."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1


def test_a_folder_that_can_not_be_opened_is_left_to_the_system(monkeypatch, tmp_path):
    """Opens no folder where there is no way to."""
    monkeypatch.delattr(os, "O_DIRECTORY")
    monkeypatch.setattr(os, "open", None)
    sync_folder(tmp_path)


def test_an_owner_without_a_name_is_a_number(monkeypatch, tmp_path):
    """Says whose a file is by number where the system has no table of users."""
    monkeypatch.setitem(sys.modules, "pwd", None)
    said = explained(PermissionError(errno.EACCES, "Permission denied", str(tmp_path)))
    assert f"is user {tmp_path.stat().st_uid}'s" in said


def test_a_video_is_read_where_ffmpeg_knows_no_descriptor_of_ours(monkeypatch, tmp_path):
    """Reads the same pictures through Python's own file."""
    path = clips.write(tmp_path / "clip.mp4", clips.still())
    usual = [frame.luma.copy() for frame in frames(path)]
    asked, opens = [], container.av.open

    def no_descriptor(file: object, *mode: object, **options: object) -> object:
        asked.append(file)
        if file == "fd:":
            raise OSError(errno.EBADF, "Bad file descriptor")
        return opens(file, *mode, **options)

    monkeypatch.setattr(container.av, "open", no_descriptor)
    np.testing.assert_array_equal([frame.luma for frame in frames(path)], usual)
    assert asked[0] == "fd:" and len(asked) > 1


@pytest.mark.slow
def test_a_new_database_is_renamed_when_nobody_has_it_open(monkeypatch, tmp_path):
    """Closes every connection first: Windows renames no open file."""
    monkeypatch.setenv("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "QueuePool")
    open_then = []
    rename = os.replace

    def replace(part: Path, path: Path) -> None:
        open_then.extend(file.path for file in psutil.Process().open_files() if file.path == str(part))
        rename(part, path)

    monkeypatch.setattr(os, "replace", replace)
    Tracker(f"sqlite:///{tmp_path / 'renamed.db'}", "cfg", "emulator").open()
    assert (tmp_path / "renamed.db").exists()
    assert open_then == []
    assert os.environ["MLFLOW_SQLALCHEMYSTORE_POOLCLASS"] == "QueuePool"


class Characters(io.RawIOBase):
    """What stands under a text on Windows' console: it takes UTF-8 and shows characters."""

    def writable(self) -> bool:
        return True


def test_windows_console_is_written_to_as_characters(monkeypatch):
    """Keeps Python's own stream there: bytes would be read by the console's code page."""
    console = io.TextIOWrapper(io.BufferedWriter(Characters()), encoding="utf-8")
    for name in ("stdout", "__stdout__"):
        monkeypatch.setattr(sys, name, console)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    streams.settle()
    assert sys.stdout is console
    assert console.errors == streams._shown_otherwise.__name__
    console.detach()


@pytest.mark.parametrize("folder", ["conf", "kling_sweeps", "hydra_plugins", "tests", "docs", "notebooks"])
def test_every_file_has_a_name_that_windows_takes(folder):
    """Has no file that can't be checked out there, and none that differs from another by case alone."""
    root = Path(__file__).parents[1]
    names = [
        str(path.relative_to(root)) for path in (root / folder).rglob("*") if "__pycache__" not in path.parts
    ]
    assert not [name for name in names if set(name) & set('<>:"|?*\\') or name.endswith((" ", "."))]
    assert len({name.lower() for name in names}) == len(names)
