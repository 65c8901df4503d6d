"""Whatever happens to the files of a store: nothing is bought twice, and one run's files cost no other run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import lab
import pytest
from lab import Lab, cell

from kling_sweeps.errors import UnavailableError
from kling_sweeps.journal import Stage
from kling_sweeps.measurement import FILMSTRIP, FRAMES, VALUES
from kling_sweeps.store import Store


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab.opened(tmp_path_factory.mktemp("lab")) as opened:
        yield opened


@pytest.fixture(autouse=True)
def no_faults(laboratory: Lab) -> None:
    laboratory.emulator.set_faults()


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "in it").touch()


DAMAGES: dict[str, Callable[[Path], None]] = {
    "emptied": lambda path: path.write_bytes(b""),
    "halved": halve,
    "zeroed": zero,
    "removed": remove,
    "a folder": make_folder,
}


def damaged(laboratory: Lab, name: str, damage: str) -> tuple[lab.Outcome, lab.Outcome, list]:
    """Finish two runs, damage a file of the first, run again and once more; return both and the cells."""
    cells = [cell(f"{name} {damage} {letter}") for letter in "ab"]
    assert laboratory.run("damage", *cells).exit_code == 0
    (path,) = laboratory.entry(cells[0]).folder.glob(name)
    DAMAGES[damage](path)
    again = laboratory.run("damage", *cells)
    return again, laboratory.run("other damage", *cells), cells


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "name", ["request.json", "video.mp4", *(f"measurements/*/{name}" for name in (VALUES, FRAMES, FILMSTRIP))]
)
def test_what_can_be_made_good_for_nothing_is(laboratory, name, damage):
    """Writes, downloads or measures anew what is torn, so that a new experiment has all of it."""
    if (name, damage) in (("request.json", "a folder"), ("video.mp4", "a folder")):
        return named(laboratory, name, damage)
    again, other, cells = damaged(laboratory, name, damage)
    assert (again.exit_code, other.exit_code) == (0, 0), again.said + other.said
    assert laboratory.charged(*cells) == 2
    assert {run.info.status for run in laboratory.tracked("other damage").values()} == {"FINISHED"}
    folder = laboratory.entry(cells[0]).folder
    assert json.loads((folder / "request.json").read_text()) == cells[0].request.as_dict()
    assert not list(folder.rglob("*.tmp")) and not list(folder.rglob("*.part"))


def named(laboratory: Lab, name: str, damage: str) -> None:
    again, _, cells = damaged(laboratory, name, damage)
    assert laboratory.charged(*cells) == 2
    assert again.landed[cells[1].name].error is None
    if error := again.landed[cells[0].name].error:
        assert name in str(error)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_journal_that_is_lost_is_named_and_nothing_is_bought(laboratory, damage):
    """Fails the run whose journal can't be trusted, and no other, or goes on from what is left of it."""
    again, other, (bad, good) = damaged(laboratory, "journal.jsonl", damage)
    assert laboratory.charged(bad, good) == 2
    assert again.landed[good.name].error is None
    if damage == "halved":
        assert (again.exit_code, other.exit_code) == (0, 0)
        return
    error = again.landed[bad.name].error
    assert error.error_type == "store_failed"
    assert "journal.jsonl" in str(error) and "move" in str(error)
    assert laboratory.tracked("damage")[bad.name].info.status == "FINISHED"


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_result_that_is_torn_is_fetched_again(laboratory, damage):
    """Asks fal for the result once more where the video is gone as well."""
    one = cell(f"result {damage}")
    assert laboratory.run("result", one).exit_code == 0
    entry = laboratory.entry(one)
    entry.video.unlink()
    DAMAGES[damage](entry.folder / "result.json")
    outcome = laboratory.run("result", one)
    assert laboratory.charged(one) == 1
    if damage == "a folder":
        assert "result.json" in str(outcome.landed[one.name].error)
    else:
        assert outcome.exit_code == 0


def test_a_journal_that_is_lost_while_fal_has_the_request_is_named(laboratory):
    """Buys nothing where the journal is empty and a claim shows that fal has had the request."""
    one = cell("lost in flight")
    laboratory.emulator.set_faults({"at": "file", "fault": "error_500"})
    laboratory.run("lost", one)
    entry = laboratory.entry(one)
    (entry.folder / "result.json").unlink()
    entry.journal.path.write_bytes(b"")
    laboratory.emulator.set_faults()
    outcome = laboratory.run("lost", one)
    assert "journal.jsonl is gone" in str(outcome.landed[one.name].error)
    assert len(laboratory.bought(one)) == 1
    shutil.rmtree(entry.folder)
    assert laboratory.run("lost", one).exit_code == 0
    assert len(laboratory.bought(one)) == 2


@pytest.mark.parametrize("gone", ["the store", "the folder", "the journal"])
def test_what_is_removed_in_mid_run_is_not_bought_again(laboratory, gone):
    """Fails a run whose files were removed while the command worked on it, or before it came to it."""
    cells = [cell(f"{gone} is removed {number}") for number in range(2)]
    assert laboratory.run("removed", *cells).exit_code == 0
    store = laboratory.folder / "store" / "fal"
    entry = laboratory.entry(cells[0])
    laboratory.entry(cells[1]).video.unlink()
    new = cell(f"{gone} is removed, new")
    with lab.said():
        landing = laboratory.begin(laboratory.settings("again"), *cells, new, in_flight=1)
        kept = store.with_name("kept")
        landed = [next(landing)]
        shutil.copytree(store, kept)
        remove({"the store": store, "the folder": entry.folder, "the journal": entry.journal.path}[gone])
        landed += landing
    assert laboratory.charged(*cells) == 2
    shutil.rmtree(store)
    kept.rename(store)


def test_a_store_that_is_a_file_or_behind_one_is_refused(laboratory):
    """Says which before anything is spent."""
    file = laboratory.folder / "a file"
    file.touch()
    for folder in (file, file / "store"):
        refused = laboratory.run("refused", cell("refused"), store_dir=folder)
        assert isinstance(refused.error, UnavailableError)
        assert "a file" in str(refused.error)
    assert laboratory.bought(cell("refused")) == []


@pytest.mark.parametrize("name", ["a:b", "100%d", "two\nlines", os.fsdecode(b"\xff\xfe"), "-n", "猫 'x\" $HOME {a}"])
def test_a_store_may_have_any_name(laboratory, name):
    """Generates, measures and tracks in a folder of any name, and finds it again; through a link too."""
    one, folder = cell(f"named {name!a}"), laboratory.folder / name
    link = laboratory.folder / f"link {ascii(name)[1:-1]}"
    link.symlink_to(folder)
    folder.mkdir()
    assert laboratory.run("named", one, store_dir=folder).exit_code == 0
    assert laboratory.run("named", one, store_dir=link).exit_code == 0
    assert laboratory.charged(one) == 1
    assert Store(folder / "fal").entry(one.request).state().stage is Stage.FINISHED


AS_NOBODY = """
import os, sys
os.setgroups([]), os.setgid(65534), os.setuid(65534)
sys.argv[0] = "kling_sweeps"
from kling_sweeps.__main__ import main
main()
"""


def as_nobody(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user who owns nothing."""
    return subprocess.run(
        [sys.executable, "-c", AS_NOBODY, *overrides],
        cwd=folder, capture_output=True, text=True, timeout=120, env={**os.environ, "FAL_KEY": "a-key", "HOME": str(folder)},
    )  # fmt: skip
