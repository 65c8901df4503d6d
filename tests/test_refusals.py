"""What can't work is refused with exit code 2 and one clear error, and nothing is submitted."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading

import pytest
import warm
from conftest import Command, Emulator

from kling_sweeps import errors
from kling_sweeps.emulator.process import EmulatorProcess
from kling_sweeps.experiment.emulator_settings import EmulatorSettings


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["cfg_scale=1.5"], "cfg_scale=1.5 is not a number from 0 to 1"),
        (["prompt=''"], "at least 1 character"),
        (["prompt=pottr"], "did you mean potter?"),
        (["cfg_scal=1"], "did you mean cfg_scale?"),
        (["model=kling"], "there is no model=kling; did you mean kling_v"),
        (["+sweep=cfgs"], "there is no sweep=cfgs; did you mean cfg?"),
        (["judge=fidelity", "judge.temprature=1"], "did you mean judge.temperature?"),
        (["judge.repeats=2"], "judge.repeats is not a key of the configuration without judge=NAME"),
        (["provider.poll.shre=1"], "did you mean provider.poll.share?"),
        (["provider.webhook.prt=1"], "did you mean provider.webhook.port?"),
        (["bugdet.max_usd=1"], "did you mean budget?"),
        (["-m", "prompt=A cat sits, a dog runs"], "prompt=\"'A cat sits, a dog runs'\""),
        (["-m", "negative_prompt=blur, noise"], "outside of quotes"),
        (["-m", "+sweep=cfg,grid"], "one after another"),
        (["-m", "duration=5,7", "cfg_scale=0.5,2"], "cfg_scale=2 is not a number"),
        (["prompt=A cat, asleep"], "prompt=\"'A cat, asleep'\""),
        (["+sweep=cfg", "budget.max_usd=13.99"], "budget.max_usd=14"),
        (["store.dir=/dev/null/store"], "store.dir"),
        (["tracking.uri=sqlite:////nowhere/at/all/mlflow.db"], "tracking.uri"),
        (["tracking.uri=http://127.0.0.1:9"], "no MLflow server answers"),
        (["provider=fal"], "set FAL_KEY"),
        (["provider=emulator", "provider.base_url=http://127.0.0.1:9"], "nothing answers"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_it_is_refused(command, emulator, overrides, said):
    """Exits with 2, says what to do, and submits nothing."""
    here = [f"provider.base_url={emulator.base_url}"]
    if any(o.startswith(("provider", "tracking.uri=http")) for o in overrides):
        here = []
    done = command(*overrides, *here)
    assert done.returncode == 2, done.stdout + done.stderr
    assert said in done.stderr
    assert "Nothing was submitted." in done.stderr
    assert "Traceback" not in done.stderr
    assert emulator.ledger() == []


def test_tracking_that_is_none_of_mlflows_is_refused(command, emulator):
    """Submits nothing where a server is no MLflow's, and a file no database."""
    (command.folder / "text.db").write_text("no database, but long enough to be taken for one\n" * 100)
    for uri, said in (
        (emulator.base_url, "wants credentials"),
        ("sqlite:///text.db", "text.db can't be used"),
    ):
        done = command(f"provider.base_url={emulator.base_url}", f"tracking.uri={uri}")
        assert done.returncode == 2, done.stdout
        assert said in done.stderr
        assert "Nothing was submitted." in done.stderr
    assert emulator.ledger() == []


def test_a_file_with_a_typo_is_refused(command):
    """Names the file and the line of YAML that can't be read."""
    folder = command.folder / "mine" / "sweep"
    folder.mkdir(parents=True)
    (folder / "typo.yaml").write_text("# @package _global_\nhydra:\n  mode: [MULTIRUN\n")
    done = command("+sweep=typo", "--config-dir", str(command.folder / "mine"))
    assert done.returncode == 2
    assert "typo.yaml" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_key_is_refused(command):
    """Asks fal about the key before anything is submitted, and never shows it."""
    settings = EmulatorSettings(width=320, height=180, latency_s=0, key="the-right-one")
    with EmulatorProcess(settings) as process:
        done = command(
            "+sweep=cfg", "provider=fal", f"provider.base_url={process.base_url}", FAL_KEY="wrong-one"
        )
        assert done.returncode == 2, done.stderr
        assert "does not accept the key" in done.stderr
        assert "wrong-one" not in done.stdout + done.stderr
        assert Emulator(process.base_url).ledger() == []


def test_a_key_that_is_none_is_refused(command):
    """Does not send a key with a line break in it, nor show it."""
    done = command("provider=fal", FAL_KEY="abc\ndef")
    assert done.returncode == 2
    assert "FAL_KEY has white space" in done.stderr
    assert "abc" not in done.stdout + done.stderr


def test_a_port_in_use_is_refused():
    """Says in one line that the emulator's port is taken."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "kling_sweeps.emulator", "--port", str(port)],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 2
    assert str(port) in done.stderr
    assert "Traceback" not in done.stderr


def test_help_is_a_screenful(command: Command):
    """Explains the command in as much as a screen shows."""
    done = command("--help")
    assert done.returncode == 0
    assert "+sweep=cfg" in done.stdout
    assert len(done.stdout.splitlines()) <= 40


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["cfg_scale=0.1,2"], "cfg_scale=2 is not a number"),
        (["cfg_scale=0.1,0.2,0.3", "budget.max_usd=2"], "budget.max_usd=4.2"),
    ],
)
def test_another_launcher_is_refused_as_early(command, emulator, overrides, said):
    """Plans the whole sweep before the first job of a launcher that knows nothing of money."""
    here = ["provider=emulator", f"provider.base_url={emulator.base_url}"]
    done = command("-m", "hydra/launcher=basic", *overrides, *here)
    assert done.returncode == 2
    assert said in done.stderr
    assert emulator.ledger() == []


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["-m", "prompt='${animal} runs'", "+animal=a fox, a red one"], "outside of quotes"),
        (["-m", "cfg_scale=0.5,0.6", "hydra.launcher.max_in_flight=0"], "max_in_flight=0"),
        (["prompt='???'"], "no text"),
        (["negative_prompt=false"], "quote it"),
        (["provider.base_url=http://127.0.0.1:99999"], "provider.base_url"),
        (["provider.base_url=http://me:secret@127.0.0.1"], "provider.base_url"),
    ],
)
def test_what_would_be_misread_is_refused(command, overrides, said):
    """Says what was meant to be written, and shows no password."""
    done = command(*overrides)
    assert done.returncode == 2, done.stdout
    assert said in done.stderr
    assert "secret" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away_loses_nothing(command, emulator):
    """Collects every video though nobody reads what is printed."""
    here = ["provider=emulator", f"provider.base_url={emulator.base_url}"]
    run = f"{warm.executable()} -m kling_sweeps -m sample=0,1,2 {' '.join(here)} | head -1"
    subprocess.run(["bash", "-c", run], cwd=command.folder, timeout=120, capture_output=True)
    assert len(emulator.ledger()) == 3
    assert len(list((command.folder / "store").rglob("video.mp4"))) == 3


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["hydra/launcher=basic", "fail_fast=true"], "fail_fast"),
        (["hydra/launcher=basic", "budget.partial=true"], "budget.partial"),
        (["hydra.sweeper.max_batch_size=1", "budget.partial=true"], "budget.partial"),
        (["cluster=ray", "store.dir=shared"], "provider=auto"),
        (
            ["hydra/launcher=basic", "provider=fal", "provider.webhook.url=https://example.com"],
            "provider.webhook.url",
        ),
    ],
)
def test_what_one_machine_alone_can_do_is_refused_elsewhere(command, overrides, said):
    """Says so before anything is submitted."""
    done = command("-m", "sample=0,1", *overrides)
    assert done.returncode == 2, done.stdout
    assert said in done.stderr
    assert not (command.folder / "store").exists()


def test_the_first_failure_ends_every_batch(command, emulator):
    """Submits nothing more under `fail_fast=true`, whatever a sweeper has left."""
    emulator.set_faults({"at": "generate", "fault": "moderation_422"})
    given = ["fail_fast=true", "hydra.sweeper.max_batch_size=1", "provider=emulator"]
    done = command("-m", "sample=0,1", *given, f"provider.base_url={emulator.base_url}")
    assert done.returncode == 1, done.stdout
    assert len(emulator.ledger()) == 1


def test_a_plan_over_budget_is_refused_in_batches_too(command, emulator):
    """Sums up all batches before the first."""
    given = ["budget.max_usd=2", "hydra.sweeper.max_batch_size=1", "provider=emulator"]
    done = command("-m", "sample=0,1", *given, f"provider.base_url={emulator.base_url}")
    assert done.returncode == 2, done.stdout
    assert "budget.max_usd" in done.stderr
    assert emulator.ledger() == []


def test_what_was_submitted_is_never_denied(capsys, monkeypatch):
    """Exits with 1, and without "Nothing was submitted.", where an error comes after a submission."""
    monkeypatch.setattr(errors, "submitted", threading.Event())
    assert errors.say_refused("no") == 2
    errors.submitted.set()
    assert errors.say_refused("too late") == 1
    assert capsys.readouterr().err == "no\nNothing was submitted.\ntoo late\n"
