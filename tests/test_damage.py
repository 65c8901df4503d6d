"""Whatever happens to the files of a store: nothing is bought twice, and one run's files cost no other run."""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import lab
import pytest
from lab import Lab, cell

from kling_sweeps.errors import UnavailableError, explained
from kling_sweeps.experiment.settings import Cell
from kling_sweeps.store.folder import Store
from kling_sweeps.store.journal import Journal
from kling_sweeps.store.measured import FILMSTRIP, FRAMES, VALUES
from kling_sweeps.store.state_machine import Stage


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


MADE_GOOD = ("request.json", "video.mp4", *(f"measurements/*/{name}" for name in (VALUES, FRAMES, FILMSTRIP)))
# What no file can replace is named.
NAMED = {("request.json", "a folder"), ("video.mp4", "a folder")}


@pytest.fixture(scope="module")
def damaged(laboratory: Lab) -> tuple[dict[tuple[str, str], Cell], lab.Outcome, lab.Outcome]:
    """Finish a run for each damage of each file, do the damage, and run twice: again, and as another experiment."""
    kinds = [(name, damage) for name in (*MADE_GOOD, "journal.jsonl") for damage in (*DAMAGES, "no")]
    cells = {kind: cell(" ".join(kind)) for kind in kinds}
    assert laboratory.run("damage", *cells.values()).exit_code == 0
    for (name, damage), one in cells.items():
        (path,) = laboratory.entry(one).folder.glob(name)
        DAMAGES.get(damage, lambda path: None)(path)
    again = laboratory.run("damage", *cells.values())
    return cells, again, laboratory.run("other damage", *cells.values())


def test_nothing_is_bought_again_whatever_is_damaged(laboratory, damaged):
    """Has one purchase for each run."""
    cells, *_ = damaged
    assert len(laboratory.bought(*cells.values())) == len(cells)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", MADE_GOOD)
def test_what_can_be_made_good_for_nothing_is(laboratory, damaged, name, damage):
    """Writes, downloads or measures anew what is torn, so that a new experiment has all of it."""
    cells, again, other = damaged
    one = cells[name, damage]
    if (name, damage) in NAMED:
        assert all(name in str(error) for error in (other.results[one.name].error,) if error)
        return
    assert (again.results[one.name].error, other.results[one.name].error) == (None, None)
    folder = laboratory.entry(one).folder
    assert json.loads((folder / "request.json").read_text()) == one.request.as_dict()
    assert not list(folder.rglob("*.tmp")) and not list(folder.rglob("*.part"))
    assert laboratory.tracked("other damage")[one.name].info.status == "FINISHED"


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_journal_that_is_lost_is_named(laboratory, damaged, damage):
    """Fails the run whose journal can't be trusted, and leaves what stands in MLflow; half a one is gone on from."""
    cells, again, _ = damaged
    one = cells["journal.jsonl", damage]
    error = again.results[one.name].error
    if damage == "halved":
        assert error is None
        return
    assert error.error_type == "store_failed"
    assert "journal.jsonl" in str(error) and "move" in str(error)
    assert f"damaged {one.name}" in again.said
    assert laboratory.tracked("damage")[one.name].info.status == "FINISHED"


def test_what_is_whole_does_not_mind(damaged):
    """Finishes every run whose files nobody touched."""
    cells, again, other = damaged
    whole = [one.name for (_, damage), one in cells.items() if damage == "no"]
    assert [outcome.results[name].error for outcome in (again, other) for name in whole] == [None] * 2 * len(
        whole
    )


@pytest.fixture(scope="module")
def results(laboratory: Lab) -> tuple[dict[str, Cell], lab.Outcome]:
    """Finish a run for each damage, remove its video, damage its result, and run again."""
    cells = {damage: cell(f"result {damage}") for damage in DAMAGES}
    assert laboratory.run("result", *cells.values()).exit_code == 0
    for damage, one in cells.items():
        laboratory.entry(one).video.unlink()
        DAMAGES[damage](laboratory.entry(one).folder / "result.json")
    return cells, laboratory.run("result", *cells.values())


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_result_that_is_torn_is_fetched_again(laboratory, results, damage):
    """Asks fal for the result once more where the video is gone as well, and pays for nothing."""
    cells, again = results
    error = again.results[cells[damage].name].error
    assert error is None if damage != "a folder" else "result.json" in str(error)
    assert len(laboratory.bought(cells[damage])) == 1


def test_a_journal_that_is_lost_while_fal_has_the_request_is_named(laboratory):
    """Buys nothing where the journal is empty and a claim shows that fal has had the request."""
    one = cell("lost in flight")
    laboratory.emulator.set_faults({"at": "file", "fault": "error_500"})
    laboratory.run("lost", one, timeout_s=1)
    entry = laboratory.entry(one)
    (entry.folder / "result.json").unlink()
    entry.journal.path.write_bytes(b"")
    laboratory.emulator.set_faults()
    outcome = laboratory.run("lost", one)
    assert "journal.jsonl is gone" in str(outcome.results[one.name].error)
    assert len(laboratory.bought(one)) == 1
    shutil.rmtree(entry.folder)
    assert laboratory.run("lost", one).exit_code == 0
    assert len(laboratory.bought(one)) == 2


@pytest.mark.parametrize("gone", ["the store", "the folder", "the journal"])
def test_what_is_removed_in_mid_run_is_not_bought_again(laboratory, gone):
    """Fails a run whose files were removed while the command worked on it, or before it came to it."""
    cells = [cell(f"{gone} is removed {number}") for number in range(2)]
    store = laboratory.folder / f"{gone} is removed"
    assert laboratory.run("removed", *cells, store_dir=store).exit_code == 0
    entry, other = (Store(store / "fal").entry(one.request) for one in cells)
    other.video.unlink()
    paths = {"the store": store, "the folder": entry.folder, "the journal": entry.journal.path}
    with lab.said():
        new = cell(f"{gone} is removed, new")
        settings = laboratory.settings("removed again", store_dir=store)
        for result in laboratory.begin(settings, *cells, new, in_flight=1):
            if paths[gone].exists() and result.entry.key == entry.key:
                paths[gone].rename(laboratory.folder / f"{gone}, removed")
    assert laboratory.charged(*cells) == 2


def test_a_store_that_is_a_file_or_has_bytes_for_a_name_is_refused(laboratory):
    """Says which before anything is spent."""
    file = laboratory.folder / "a file"
    file.touch()
    for folder in (file, file / "store", laboratory.folder / os.fsdecode(b"a file \xff\xfe")):
        refused = laboratory.run("refused", cell("refused"), store_dir=folder)
        assert isinstance(refused.error, UnavailableError)
        assert "a file" in str(refused.error)
    assert laboratory.bought(cell("refused")) == []


@pytest.mark.parametrize("name", ["a:b", "100%d", "two\nlines", "-n", "猫 'x\" $HOME {a}"])
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


@pytest.fixture
def shared() -> Iterator[Path]:
    """Give a folder that others reach, in which everything that is there can be read and not written."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextlib.contextmanager
def another_user() -> Iterator[None]:
    """Be somebody who owns nothing, where that can be."""
    user = os.geteuid()
    gc.collect()  # what is this user's
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("closed", [".", "claims", "budgets", "spending", "spending.lock"])
def test_what_a_submission_needs_is_probed_before_it(laboratory, shared, closed):
    """Names the file, its owner and the umask, and submits nothing."""
    one, store = cell(f"of another user: {closed}"), shared / "store"
    Store(store / "fal").check()
    for path in (store, *store.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    (store / "fal" / closed).chmod(0o555)
    with another_user():
        refused = laboratory.run("shared", one, store_dir=store)
    assert isinstance(refused.error, UnavailableError)
    for said in (str(store / "fal" / closed).removesuffix("/."), "umask 002", "root", "store.dir="):
        assert said in str(refused.error)
    assert laboratory.bought(one) == []


@pytest.mark.parametrize("closed", ["", "lock", "journal.jsonl"])
def test_a_folder_of_another_user_costs_its_own_run(shared, closed):
    """Refuses before anything is submitted, with an error that names the file."""
    store = Store(shared / "store")
    store.check()
    entry = store.entry(cell("a folder of another user").request)
    entry.make_folder()
    for name in ("lock", "journal.jsonl"):
        (entry.folder / name).touch()
    for path in (entry.folder, *entry.folder.iterdir()):
        path.chmod(0o777 if path.is_dir() else 0o666)
    (entry.folder / closed).chmod(0o555)
    with another_user(), pytest.raises(OSError) as refused, entry.lock(timeout_s=0):
        entry.create(cell("a folder of another user").request)
    assert entry.key in explained(refused.value) and "umask 002" in explained(refused.value)


def test_a_store_that_can_only_be_read_is_enough_for_what_is_finished(laboratory, shared, monkeypatch):
    """Plans, and tracks in a new experiment, what is generated and measured."""
    one, store = cell("finished, read-only"), shared / "store"
    assert laboratory.run("read-only", one, store_dir=store).exit_code == 0
    for path in (store, *store.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    tracking_uri = f"sqlite:///{shared / 'mlflow.db'}"
    shared.chmod(0o777)
    monkeypatch.chdir(shared)
    with another_user():
        outcome = laboratory.run("read-only", one, store_dir=store, tracking_uri=tracking_uri)
        refused = laboratory.run("read-only", cell("new, read-only"), store_dir=store)
    assert outcome.exit_code == 0, outcome.said
    assert isinstance(refused.error, UnavailableError)
    for path in (store, *store.rglob("*")):
        path.chmod(0o777)


def test_a_full_disk_is_one_line_a_run_and_no_traceback(laboratory, monkeypatch, caplog):
    """Fails what can't be written, submits nothing, and generates it under the next command."""
    cells = [cell(f"full {number}") for number in range(3)]

    def full(self: Journal, event: str, **facts: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", full)
        outcome = laboratory.run("full", *cells)
    errors = {str(result.error) for result in outcome.results.values()}
    assert len(errors) == 1 and "the same command goes on" in errors.pop()
    assert "Traceback" not in caplog.text
    assert laboratory.bought(*cells) == []
    assert laboratory.run("full", *cells).exit_code == 0
    assert laboratory.charged(*cells) == 3


def test_a_submission_that_cannot_be_noted_is_found_again(laboratory, monkeypatch):
    """Names the request that fal has, and finds it in fal's history under the next command."""
    one, append = cell("not noted"), Journal.append

    def full(self: Journal, event: str, **facts: object) -> None:
        if event == "submitted":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(self, event, **facts)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", full)
        outcome = laboratory.run("noted", one)
    (bought,) = laboratory.bought(one)
    assert bought["request_id"] in str(outcome.results[one.name].error)
    assert laboratory.run("noted", one).exit_code == 0
    assert len(laboratory.bought(one)) == 1
