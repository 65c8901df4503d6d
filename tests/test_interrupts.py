"""A sweep that is interrupted from outside: by Ctrl-C, by SIGTERM, or by a tracking server that goes away."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import FOREIGN, Command, Emulator
from mlflow.tracking import MlflowClient
from servers import free_port, tracking_server, until

from kling_sweeps import __main__
from kling_sweeps.emulator.process import EmulatorProcess
from kling_sweeps.experiment.emulator_settings import EmulatorSettings

pytestmark = pytest.mark.slow

SWEEP = ["-m", "cfg_scale=0.1,0.2,0.3,0.4,0.5,0.6", "metrics=default"]
RUNS = 6


SMALL = EmulatorSettings(slots=2, width=128, height=72, fps=4, latency_s=0)


@pytest.fixture
def slow_emulator() -> Iterator[Emulator]:
    """Start an emulator that works on two videos at once, for a second and a half each."""
    with EmulatorProcess(dataclasses.replace(SMALL, latency_s=1.5)) as process:
        yield Emulator(process.base_url)


@contextmanager
def emulating(folder: Path, **given) -> Iterator[Emulator]:
    """Start an emulator that remembers what it was sent, and goes on with it when it is started again."""
    with EmulatorProcess(dataclasses.replace(SMALL, state_dir=folder / "fal", **given)) as process:
        yield Emulator(process.base_url)


@dataclass(frozen=True)
class Interrupted:
    """What a command said before it was interrupted, how it ended, and what fal had accepted then."""

    code: int
    said: str
    errors: str
    accepted: int


def overrides(emulator: Emulator, *more: str) -> list[str]:
    return [*SWEEP, "provider=emulator", f"provider.base_url={emulator.base_url}", *more]


@contextmanager
def started(command: Command, *given: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    """Start the command; it is over when the block is."""
    clean = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    process = subprocess.Popen(
        [sys.executable, "-m", "kling_sweeps", *given],
        cwd=command.folder,
        env={**clean, "FAL_HOME_DIR": str(command.folder / "no-fal-login"), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Ctrl-C reaches everybody in the foreground, the workers included.
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def interrupted(
    command: Command, emulator: Emulator, how: signal.Signals, when: Callable[[], bool], *more: str
) -> Interrupted:
    """Run the sweep until something holds, interrupt it, and wait for its end."""
    with started(command, *overrides(emulator, *more)) as process:
        until(when)
        if how is signal.SIGINT:
            os.killpg(process.pid, how)
        else:
            process.send_signal(how)
        said, errors = process.communicate(timeout=200)
    return Interrupted(process.returncode, said, errors, len(emulator.ledger()))


def all_submitted(emulator: Emulator) -> Callable[[], bool]:
    return lambda: len(emulator.ledger()) == RUNS


def one_completed(command: Command) -> Callable[[], bool]:
    return lambda: any(command.folder.glob("store/*/??/*/measurements/*/values.json"))


def left(said: str) -> int:
    """Return how many requests a command said are left with fal."""
    found = re.search(r"(\d+) left with fal(, .*)\. The same command collects them\.", said)
    assert found, said
    assert sum(map(float, re.findall(r"\d+\.\d\d", found[2]))) == pytest.approx(1.4 * int(found[1]))
    return int(found[1])


def check_collected(command: Command, emulator: Emulator, bought: int = RUNS) -> None:
    """Give the same command again: it ends well, buys no video twice, and tracks each run once."""
    again = command(*overrides(emulator))
    assert again.returncode == 0, again.stdout + again.stderr
    assert sum(entry["charged_usd"] > 0 for entry in emulator.ledger()) == RUNS
    assert len(emulator.ledger()) == bought
    client = MlflowClient(command.tracking_uri)
    experiment = client.get_experiment_by_name("kling_sweeps/single (emulator)")
    runs = client.search_runs([experiment.experiment_id])
    assert len({run.data.tags["request_key"] for run in runs}) == len(runs) == RUNS
    assert {run.info.status for run in runs} == {"FINISHED"}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_what_is_in_flight_to_be_collected(command, slow_emulator, how):
    """Stops at once, says what is left and what it costs, and the same command collects it."""
    first = interrupted(command, slow_emulator, how, all_submitted(slow_emulator))
    assert first.code == 130
    assert "Traceback" not in first.said + first.errors
    assert first.errors.strip() == "Interrupted."
    assert left(first.said) == first.said.count("to collect: ")
    assert first.accepted == RUNS
    check_collected(command, slow_emulator)


def test_nothing_is_submitted_after_an_interrupt(command, slow_emulator):
    """Leaves what was not submitted yet to the next command."""
    one_at_a_time = "hydra.launcher.max_in_flight=1"
    first = interrupted(command, slow_emulator, signal.SIGINT, one_completed(command), one_at_a_time)
    assert first.code == 130
    assert first.accepted < RUNS
    check_collected(command, slow_emulator)


def test_an_interrupt_while_runs_are_tracked_stops_all_the_same(command):
    """Says what is left, wherever the interrupt strikes."""
    tracked = lambda: any(command.folder.glob("mlruns/**/filmstrip.png"))  # noqa: E731
    with emulating(command.folder) as stalled:
        # The fifth and the sixth to be begun.
        stalled.set_faults(*({"at": "generate", "fault": "slow", "seconds": 600, "nth": 5} for _ in range(2)))
        first = interrupted(command, stalled, signal.SIGINT, tracked)
    assert first.code == 130
    assert first.errors.strip() == "Interrupted."
    assert left(first.said) == 2
    with emulating(command.folder) as going_on:
        check_collected(command, going_on)


def test_what_is_here_is_seen_after_an_interrupt(command, slow_emulator):
    """Names the command that makes a report of what has landed of a sweep with a name, which plays it."""
    first = interrupted(command, slow_emulator, signal.SIGINT, one_completed(command), "experiment=cut")
    assert first.code == 130
    (named,) = re.findall(r"See what is here: python -m kling_sweeps\.report (\S+)", first.said)
    module = ["-m", "kling_sweeps.report", named, "--out", "cut.html"]
    subprocess.run([sys.executable, *module], cwd=command.folder, check=True, timeout=200)
    assert 'id="strip-0"' in (command.folder / "cut.html").read_text(encoding="utf-8")


def test_an_interrupt_can_cancel_what_waits(command):
    """Cancels under `on_interrupt=cancel` what is still in fal's queue, and the same command buys it then."""
    with emulating(command.folder, latency_s=600) as stalled:
        first = interrupted(command, stalled, signal.SIGINT, all_submitted(stalled), "on_interrupt=cancel")
        cancelled = [entry for entry in stalled.ledger() if entry["error_type"] == "client_cancelled"]
    assert first.code == 130
    assert len(cancelled) == RUNS - 2
    assert first.said.count(": cancelled") == len(cancelled)
    assert left(first.said) == 2
    with emulating(command.folder) as going_on:
        check_collected(command, going_on, bought=RUNS + len(cancelled))


def test_an_interrupt_before_anything_was_submitted_buys_nothing(command, slow_emulator):
    """Ends without a word of requests where there are none."""
    planned = lambda: (command.folder / "outputs").exists()  # noqa: E731
    first = interrupted(command, slow_emulator, signal.SIGTERM, planned)
    assert first.code == 130
    assert "Traceback" not in first.said + first.errors
    if not first.accepted:
        assert "left with fal" not in first.said


def test_a_tracking_server_that_goes_away_costs_nothing(command, slow_emulator):
    """Generates on while MLflow is away, says so, and the same command tracks every run when it is back."""
    port = free_port()
    with tracking_server(command.folder, port) as uri:
        given = overrides(slow_emulator, f"tracking.uri={uri}")
        process = started(command, *given)
        child = process.__enter__()
        until(all_submitted(slow_emulator))
    said, errors = child.communicate(timeout=240)
    process.__exit__(None, None, None)
    assert child.returncode == 1, said + errors
    assert "Traceback" not in said + errors
    assert "the same command tracks it, for nothing" in said
    assert len(list(command.folder.glob("store/*/??/*/measurements/*/values.json"))) == RUNS
    with tracking_server(command.folder, port) as uri:
        again = command(*given)
        assert again.returncode == 0, again.stdout + again.stderr
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name("kling_sweeps/single (emulator)")
        runs = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert len({run.data.tags["request_key"] for run in runs}) == len(runs) == RUNS
    assert len(slow_emulator.ledger()) == RUNS


class _Left:
    """Is interrupted while it is cleaned up."""

    def __del__(self):
        signal.raise_signal(signal.SIGINT)
        for _ in range(100):
            pass


def test_an_interrupt_in_a_finalizer_is_repeated(monkeypatch):
    """Ends what the main thread waits for, where Python itself would swallow the interrupt and go on waiting."""
    monkeypatch.setattr(sys, "unraisablehook", __main__._interrupt_again)
    with pytest.raises(KeyboardInterrupt):
        _Left()
        threading.Event().wait(30)


def test_an_interrupt_while_a_text_is_run_is_a_code(tmp_path):
    """Ends with 130, where Python would end by a signal of its own after it struck in what makes a dataclass."""
    code = """
import sys
from kling_sweeps.errors import say_interrupted
try:
    exec("raise KeyboardInterrupt")
except KeyboardInterrupt:
    sys.exit(say_interrupted())
"""
    (tmp_path / "struck.py").write_text(code)
    done = subprocess.run([sys.executable, "-m", "struck"], cwd=tmp_path, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, b"Interrupted.\n")


def test_a_command_leaves_without_looking_for_garbage(tmp_path):
    """Ends at once, where Python would go through all that MLflow has imported to free it one by one."""
    code = """
import atexit, gc, runpy, sys
atexit.register(lambda: print(gc.get_freeze_count() > 1_000))
sys.argv = ["kling_sweeps", "nonsense=1"]
runpy.run_module("kling_sweeps", run_name="__main__", alter_sys=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert done.stdout.splitlines()[-1] == "True", done.stdout + done.stderr
