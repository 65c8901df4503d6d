"""A process that is forked ready-made is to whoever starts it what a new one is."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import warm
from servers import until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="nothing is forked here"),
]

SAYS = """
import os, sys
print(sys.argv, sys.stdin.read(), os.getcwd(), os.environ["WORD"], os.read(int(sys.argv[1]), 9), sep="|")
print("no", file=sys.stderr)
sys.exit(7)
"""
WAITS = "import os, time; print(os.readlink('/proc/self'), os.getpid(), flush=True); time.sleep(600)"


def test_it_has_the_words_files_folder_and_environment_of_its_starter(tmp_path):
    """Reads and writes what was given, further files too, and ends with its own exit code."""
    read, write = os.pipe()
    os.write(write, b"a file")
    done = subprocess.run(
        [warm.executable(), "-c", SAYS, str(read)],
        input="typed",
        cwd=tmp_path,
        env={**os.environ, "WORD": "given"},
        pass_fds=[read],
        capture_output=True,
        text=True,
    )
    os.close(read)
    os.close(write)
    assert done.stdout == f"{['-c', str(read)]}|typed|{tmp_path}|given|b'a file'\n"
    assert (done.stderr, done.returncode) == ("no\n", 7)


@pytest.mark.parametrize(
    ("code", "ended"),
    [
        ("", 0),
        ("raise ValueError", 1),
        ("import sys; sys.exit('no')", 1),
        ("import signal; signal.raise_signal(9)", -9),
    ],
)
def test_it_ends_as_it_would_elsewhere(code, ended):
    """Hands on exit codes and signals."""
    assert subprocess.run([warm.executable(), "-c", code], stderr=subprocess.DEVNULL).returncode == ended


@pytest.mark.parametrize("is_worker", [True, False])
def test_it_is_gone_with_what_was_started(is_worker):
    """Is killed with what was started, and known by the id of that where it is a pool's worker."""
    code = f"{WAITS}  # {'spawn_main' * is_worker}"
    with subprocess.Popen([warm.executable(), "-c", code], stdout=subprocess.PIPE, text=True) as started:
        own, known_as = started.stdout.readline().split()
        started.kill()
    assert started.pid != int(own) and int(known_as) == (started.pid if is_worker else int(own))
    until(lambda: not Path("/proc", own).exists(), 20)
