"""A model file that has changed never buys a video again unnoticed."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from test_config import read

from kling_sweeps.experiment.model import read_model
from kling_sweeps.experiment.request import GenerationRequest
from kling_sweeps.experiment.settings import Cell, Settings
from kling_sweeps.store.earlier import Earlier
from kling_sweeps.store.folder import Store
from kling_sweeps.store.state_machine import Stage
from kling_sweeps.sweep import summary
from kling_sweeps.sweep.earlier import settled
from kling_sweeps.sweep.repeats import Repeats
from kling_sweeps.sweep.scheduler import Runs
from kling_sweeps.terminal.console import console

ENDPOINT = "a/b"
BEFORE = {
    "prompt": {"role": "prompt", "type": "string"},
    "steps": {"type": "integer", "default": 4},
    "style": {"type": "string", "default": "plain"},
}


def cell(arguments: dict, sample: int = 0, **given) -> Cell:
    """Returns a run of a model file with these arguments."""
    model = read_model({"name": "m", "endpoint": ENDPOINT, "arguments": arguments, "required": ["prompt"]})
    sent, problems = model.read_arguments({"prompt": "a fox", **given})
    assert not problems
    return Cell(
        GenerationRequest(ENDPOINT, sent, sample, 1.0, form=model.form(sent)), "m", "a fox", {}, "a fox"
    )


def bought(root: Path, one: Cell) -> str:
    """Stores a run as submitted, which may have been paid for, and returns its key."""
    entry = Store(root).entry(one.request)
    entry.create(one.request)
    entry.journal.append("submitting", sweep="s", command="c", price_usd=1.0)
    return entry.key


def changed(arguments: dict | None = None, **given) -> Cell:
    return cell({**BEFORE, **(arguments or {})}, **given)


AUDIO = {"audio": {"type": "boolean", "default": True, "fal_default": True}}
BY_HAND = {"audio": {"type": "boolean", "default": False}}
SILENT = {"audio": {"type": "boolean", "default": False, "fal_default": True}}
FEWER = {name: one for name, one in BEFORE.items() if name != "style"}


@pytest.mark.parametrize(
    ("now", "changes"),
    [
        (changed(AUDIO), ["audio is new, at true"]),
        (changed(SILENT), ["audio is new, at false"]),
        (changed({"steps": {"type": "integer", "default": 8}}), ["steps was 4 by default and is 8"]),
        (cell(FEWER), ["style is gone"]),
        (cell({**FEWER, **SILENT}), ["audio is new, at false", "style is gone"]),
        (changed(steps=8), None),
        (changed(AUDIO, audio=False), None),
        (changed(prompt="a cat"), None),
        (changed(sample=1), None),
    ],
)
def test_a_run_is_known_in_an_earlier_form_of_its_file(tmp_path, now, changes):
    """Tells what a file has changed from what is another setting, another prompt or another repeat."""
    bought(tmp_path, changed())
    found = Earlier(tmp_path).find(now.request, now.prompt_text)
    assert (found and [*found[1].values()]) == changes


def test_what_was_set_is_no_default_that_has_changed(tmp_path):
    """Takes a run whose argument was set for another one, whatever the file's default is by now."""
    bought(tmp_path, changed(steps=2))
    assert Earlier(tmp_path).find(changed().request, "a fox") is None


def test_what_was_not_paid_for_is_not_found(tmp_path):
    """Looks for videos that fal has been paid for, or may have been."""
    Store(tmp_path).entry(changed().request).create(changed().request)
    assert Earlier(tmp_path).find(changed(AUDIO).request, "a fox") is None


@pytest.fixture
def settings(tmp_path, monkeypatch) -> Settings:
    """Gives the settings of a command on a store of its own, whose output is captured as text."""
    monkeypatch.setattr(console, "_file", io.StringIO())
    monkeypatch.setattr(console, "width", 200)
    return read("provider=emulator", f"store.dir={tmp_path}")[0]


def plan(settings: Settings, *cells: Cell) -> str:
    """Returns what the plan of runs says."""
    summary.show_plan(Runs.read(settings, cells).plan, settings, "emulator")
    return console.file.getvalue()


def test_a_new_argument_at_fals_default_buys_nothing(settings):
    """Takes the stored request, and tells the new argument as a param and in the plan."""
    key = bought(settings.store_dir / "emulator", changed())
    taken = settled(settings, changed(AUDIO))[1]
    assert taken.request.key == key and "audio" not in taken.request.arguments
    assert taken.params["audio"] is True
    said = plan(settings, taken)
    assert (
        "1 run is taken from the store as it is: audio is new in the file of m and at fal's default" in said
    )


def test_a_default_that_may_not_be_fals_is_asked_about(settings):
    """Takes nothing for what an argument that was added by hand says, whose default fal may not have."""
    bought(settings.store_dir / "emulator", changed())
    assert settled(settings, changed(BY_HAND))[1].changes == ["audio is new, at false"]


def test_any_other_change_says_what_it_costs(settings):
    """Leaves the request as it is, and says how many runs differ in what, and what buying them again costs."""
    for sample in (0, 1):
        bought(settings.store_dir / "emulator", changed(sample=sample))
    cells = [settled(settings, changed(SILENT, sample=sample))[1] for sample in (0, 1)]
    assert [one.request.key for one in cells] == [changed(SILENT, sample=n).request.key for n in (0, 1)]
    said = plan(settings, *cells)
    assert "2 runs are in the store under an earlier form of the file of m: audio is new, at false. " in said
    assert "To buy them again costs 2.00 USD" in said


def test_what_is_stored_under_its_own_key_is_itself(settings):
    """Says nothing of an earlier form of what the store has in its present one."""
    for one in (changed(), changed(AUDIO)):
        bought(settings.store_dir / "emulator", one)
    assert settled(settings, changed(AUDIO))[1] == changed(AUDIO)


def test_what_was_emulated_is_not_taken_for_what_was_bought(settings):
    """Looks in the store of the provider that is asked."""
    bought(settings.store_dir / "fal", changed())
    assert settled(settings, changed(AUDIO))[1] == changed(AUDIO)


def test_each_repeat_of_a_look_is_what_the_store_has_of_it(settings):
    """Takes the repeats that were bought under the earlier form of the file, and buys the others under the present one."""
    for sample in (0, 1):
        bought(settings.store_dir / "emulator", changed(sample=sample))
    repeats = Repeats(settings, [changed(AUDIO)])
    found = [repeats.repeat(repeats.firsts[0], sample) for sample in range(3)]
    read = [settled(settings, changed(AUDIO, sample=sample))[1] for sample in range(3)]
    assert [one.request.key for one in found] == [one.request.key for one in read]
    assert ["audio" in one.request.arguments for one in found] == [False, False, True]


def test_a_damaged_run_is_not_bought_again_under_a_new_file(settings):
    """Takes it for the run that it is, whose files can't be trusted, so that nothing is done for it."""
    bought(settings.store_dir / "emulator", changed())
    entry = Store(settings.store_dir / "emulator").entry(changed().request)
    entry.journal.path.write_text("no journal\n" * 3)
    assert entry.state().stage is Stage.DAMAGED
    taken = settled(settings, changed(AUDIO))[1]
    assert taken.request.key == changed().request.key
    saved = json.loads((entry.folder / "request.json").read_bytes())
    for odd in (None, 7):
        (entry.folder / "request.json").write_text(json.dumps({**saved, "defaults": odd}))
        assert Earlier(entry.store.root).find(changed(AUDIO).request, "a fox") is None


def test_a_run_that_was_begun_in_vain_is_known_in_its_earlier_form(settings):
    """Says what the file has changed also where an earlier command made the new request's folder and bought nothing."""
    bought(settings.store_dir / "emulator", changed())
    now = changed(SILENT)
    Store(settings.store_dir / "emulator").entry(now.request).create(now.request)
    assert settled(settings, now)[1].changes == ["audio is new, at false"]
