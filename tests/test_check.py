"""A command is checked before it is run: what will fail is said, with what to do, and nothing is bought or written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import Emulator

from kling_sweeps import CONF, check, providers
from kling_sweeps.emulator.process import EmulatorProcess
from kling_sweeps.experiment import yaml_files
from kling_sweeps.experiment.emulator_settings import EmulatorSettings

KEY = "0f1e2d3c-check:5b4a39281706f5e4d3c2b1a0"
MASTER = "fal-ai/kling-video/v2.1/master/text-to-video"
Checked = Callable[..., tuple[int, dict[str, dict]]]
pytestmark = pytest.mark.slow


@pytest.fixture
def checked(tmp_path, monkeypatch, capsys) -> Checked:
    """Give the command in an empty folder, with a key: its exit code, and its findings by name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FAL_KEY", KEY)
    monkeypatch.setenv("FAL_HOME_DIR", str(tmp_path / "no-fal-login"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(providers, "_told", {})

    def run(*arguments: str) -> tuple[int, dict[str, dict]]:
        code = check.main([*arguments, "--json"])
        out = capsys.readouterr().out
        assert KEY not in out and KEY.partition(":")[2] not in out
        told = json.loads(out)
        assert told["will_work"] == (code == 0)
        return code, {one["name"]: one for one in told["checks"]}

    return run


def at(emulator: Emulator) -> str:
    return f"provider.base_url={emulator.base_url}"


def test_a_command_that_will_work(checked, emulator, tmp_path, capsys):
    """Finds everything well, in JSON as in a table, and leaves nothing behind."""
    code, found = checked("+sweep=cfg", at(emulator))
    assert code == 0
    assert {one["status"] for one in found.values()} == {"ok"}, found
    assert found["balance"]["said"] == "1000.00 USD left; this command costs 14.00 USD as fal says today"
    assert found["command"]["said"] == "10 runs: 10 to generate; 14.00 USD (budget.max_usd=20)"
    assert MASTER in found["kling_v2.1_master"]["said"]
    assert "8 frames" in found["video"]["said"]
    assert emulator.ledger() == [] and list(tmp_path.iterdir()) == []
    assert check.main(["prompt=all", at(emulator)]) == 0
    assert "this command costs 11.20 USD" in " ".join(capsys.readouterr().out.split())


def test_what_is_not_measured(checked, emulator):
    """Notes what there will be no value of."""
    code, found = checked("metrics=text", at(emulator))
    assert (code, found["metrics"]["status"]) == (0, "note")
    assert found["metrics"]["said"].startswith("text_legible has no value")


def test_a_key_that_fal_does_not_know(checked):
    """Says that the key is not accepted, and asks no further."""
    with EmulatorProcess(EmulatorSettings(key="another", latency_s=0)) as process:
        code, found = checked(at(Emulator(process.base_url)))
    assert (code, found["key"]["status"]) == (1, "fail")
    assert "copy it again" in found["key"]["remedy"]
    assert "balance" not in found and found["video"]["status"] == "ok"


@pytest.mark.parametrize(
    ("faults", "code", "name", "status", "said"),
    [
        ([("account", "balance")], 1, "balance", "fail", "1.00 USD left; this command costs 14.00 USD"),
        ([("account", "forbidden_403")], 0, "balance", "note", "this key may not ask"),
        ([("bills", "forbidden_403")], 0, "bills", "note", "this key may not ask"),
        ([("history", "error_500")], 0, "history", "note", "fal answers 500"),
        (
            [("pricing", "raised")],
            1,  # 21.00 USD are more than budget.max_usd
            "kling_v2.1_master price",
            "note",
            "0.42 USD a second as fal says today",
        ),
        ([("pricing", "other_unit")], 0, "kling_v2.1_master price", "ok", "the file has 0.28 USD a second"),
    ],
)
def test_what_fal_says_of_the_account(checked, emulator, faults, code, name, status, said):
    """Fails where a command would, and notes what a command does without."""
    emulator.set_faults(*({"at": place, "fault": fault} for place, fault in faults))
    ended, found = checked("+sweep=cfg", at(emulator))
    assert (ended, found[name]["status"]) == (code, status), found
    assert said in found[name]["said"]


def test_what_fal_has_changed(checked, tmp_path):
    """Says of an endpoint what is other at fal than in its file, and of one that fal has taken off that it is."""
    mine, theirs = tmp_path / "mine/model", tmp_path / "theirs"
    model = yaml_files.content(CONF / "model/kling_v2.1_master.yaml")
    loud = {**model["arguments"], "generate_audio": {"type": "boolean", "default": True}}
    for folder, content in (
        (theirs, {**model, "arguments": loud, "price": {"usd": 0.56, "per": "second"}}),
        (mine, {**model, "name": "gone", "endpoint": "fal-ai/gone"}),
    ):
        folder.mkdir(parents=True)
        (folder / "gone.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    with EmulatorProcess(EmulatorSettings(models=(theirs,), latency_s=0)) as process:
        base_url = at(Emulator(process.base_url))
        code, found = checked(base_url)
        assert (code, found["kling_v2.1_master"]["status"]) == (0, "note")
        assert "generate_audio is new" in found["kling_v2.1_master"]["said"]
        assert MASTER in found["kling_v2.1_master"]["remedy"]
        assert found["kling_v2.1_master price"]["status"] == "note"
        code, found = checked("--config-dir", "mine", "-m", "model=gone,kling_v2.1_master", base_url)
    assert (code, found["gone"]["status"]) == (1, "fail")


@pytest.mark.parametrize(
    ("arguments", "name", "said"),
    [
        (["provider.base_url=http://127.0.0.1:9"], "key", "nothing at http://127.0.0.1:9"),
        (["cfg_scale=2", "provider=emulator"], "command", "cfg_scale=2"),
        (
            ["+sweep=cfg", "budget.max_usd=1", "provider=emulator"],
            "command",
            "for nothing (budget.max_usd=1): this costs",
        ),
        (["+sweep=nosuch", "provider=emulator"], "command", "there is no sweep=nosuch"),
        (["store.dir=/dev/null/x", "provider=emulator"], "store", "/dev/null"),
        (["tracking.uri=http://127.0.0.1:9", "provider=emulator"], "MLflow", "127.0.0.1:9"),
    ],
)
def test_what_will_fail_on_this_machine(checked, arguments, name, said):
    """Says what a command would be refused for, and checks the rest all the same."""
    code, found = checked(*arguments)
    assert (code, found[name]["status"]) == (1, "fail"), found
    assert said in found[name]["said"]
    assert found["video"]["status"] == "ok"


def test_without_a_key(checked, monkeypatch):
    """Notes that everything would be emulated, and fails where fal is asked for."""
    monkeypatch.delenv("FAL_KEY")
    code, found = checked("+sweep=optimize")
    assert (code, found["key"]["status"]) == (0, "note")
    assert "export FAL_KEY" in found["key"]["remedy"]
    assert checked("provider=fal")[1]["key"]["status"] == "fail"


def test_a_disk_that_is_full(checked, monkeypatch):
    """Fails where the videos would find no room."""
    usage = check.shutil.disk_usage(Path())
    monkeypatch.setattr(check.shutil, "disk_usage", lambda path: usage._replace(free=10**8))
    code, found = checked("+sweep=cfg", "provider=emulator")
    assert (code, found["store"]["remedy"]) == (1, "make room")
