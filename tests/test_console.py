"""What a command says reaches any terminal, file or nobody at all, and never ends the command."""

from __future__ import annotations

import csv
import os
import subprocess
import sys

import pytest
import warm
from conftest import FOREIGN, SMALL, Command

# Terminals that can't show all letters.
POOR = [
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "cp1252"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
]


def bash(folder, script: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of bash in a folder, in which `python` is this one."""
    clean = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    given = {**clean, "FAL_HOME_DIR": str(folder / "no-fal-login"), **env}
    python = sys.executable if "LC_ALL" in env or "<&-" in script else warm.executable()
    script = f'python() {{ {python} "$@"; }}\n{script}'
    return subprocess.run(["bash", "-c", script], cwd=folder, env=given, capture_output=True, timeout=300)


@pytest.fixture
def prompts(command: Command) -> Command:
    """Give the command a set of prompts, one of them with letters and symbols of many kinds."""
    folder = command.folder / "mine" / "prompts"
    folder.mkdir(parents=True)
    text = "猫 · a “fox” – 🦊 é [bold]x[/bold]"
    (folder / "odd.yaml").write_text(
        f"# @package _global_\nprompts: {{odd: {{text: '{text}'}}}}\n", encoding="utf-8"
    )
    return command


@pytest.mark.parametrize("env", POOR, ids=lambda env: " ".join(env.values()))
def test_a_terminal_shows_what_it_can(prompts, env):
    """Buys, measures and tracks under any encoding, and shows other characters for those that are missing."""
    done = bash(
        prompts.folder,
        f"python -m kling_sweeps prompts=odd prompt=odd --config-dir mine metrics=fast {' '.join(SMALL)}",
        **env,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"tracked" in done.stdout
    ledger = bash(prompts.folder, "python -m kling_sweeps.ledger --emulated --csv spent.csv", **env)
    assert (ledger.returncode, ledger.stderr) == (0, b"")
    assert len(list(csv.DictReader((prompts.folder / "spent.csv").read_text().splitlines()))) == 1


SAYING = [
    ("python -m kling_sweeps prompt=猫猫猫", 2),
    ("python -m kling_sweeps cfg_scale=–", 2),
    ("python -m kling_sweeps +猫=1", 2),
    ("python -m kling_sweeps.measure 猫.mp4", 1),
    ("python -m kling_sweeps.measure --猫", 2),
    ("python -m kling_sweeps.metrics", 0),
    ("python -m kling_sweeps.ledger --store 猫", 2),
    ("python -m kling_sweeps.emulator --port 猫", 2),
    ("python -m kling_sweeps.emulator --host 猫 --port 0", 2),
]


@pytest.mark.parametrize(("script", "code"), SAYING)
@pytest.mark.parametrize("env", POOR[::2], ids=lambda env: " ".join(env.values()))
def test_every_command_says_what_it_can(command, script, code, env):
    """Ends as it would anywhere else, without a traceback."""
    done = bash(command.folder, script, **env)
    assert b"Traceback" not in done.stderr + done.stdout
    assert done.returncode == code, done.stderr
    assert done.stdout.isascii() and done.stderr.isascii()


@pytest.mark.parametrize("where", [">/dev/full", "2>/dev/full", ">&-", "<&- >&- 2>&-"])
def test_what_nobody_can_write_down_costs_nothing(command, where):
    """Collects and tracks every video, and ends with the runs' exit code, in silence."""
    sweep = f"python -m kling_sweeps -m sample=0,1 metrics=fast {' '.join(SMALL)} {where}"
    done = bash(command.folder, sweep)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(list((command.folder / "store").rglob("values.json"))) == 2
    assert bash(command.folder, f"python -m kling_sweeps cfg_scale=7 {where}").returncode == 2
    again = bash(command.folder, "python -m kling_sweeps -m sample=0,1 metrics=fast")
    assert again.stdout.count(b"  tracked") == 2


STEERING = "\x1b[31m\x1b]0;title\x07"


@pytest.mark.parametrize(
    "given",
    [
        ["kling_sweeps", f"prompt={STEERING}x"],
        ["kling_sweeps", f"+{STEERING}=1"],
        ["kling_sweeps", f"cfg_scale={STEERING}"],
        ["kling_sweeps", f"prompt='{STEERING}'", "dry_run=true"],
        ["kling_sweeps", f"store.dir='{STEERING}'", "dry_run=true"],
        ["kling_sweeps", f"model={STEERING}"],
        ["kling_sweeps.ledger", f"--{STEERING}"],
        ["kling_sweeps.ledger", "--store", STEERING],
        ["kling_sweeps.measure", f"--{STEERING}"],
        ["kling_sweeps.measure", f"{STEERING}.mp4"],
        ["kling_sweeps.measure", "x.mp4", "--metrics", STEERING],
        ["kling_sweeps.emulator", f"--{STEERING}"],
        ["kling_sweeps.emulator", "--size", STEERING],
    ],
    ids=lambda given: repr(" ".join(given)),
)
def test_nothing_that_was_given_steers_the_terminal(command, given):
    """Shows escape sequences as text, on stdout and in errors."""
    done = subprocess.run(
        [warm.executable(), "-m", *given], cwd=command.folder, capture_output=True, timeout=60
    )
    assert b"\x1b" not in done.stdout + done.stderr
    assert b"\x07" not in done.stdout + done.stderr
    assert done.stdout + done.stderr
