"""A store keeps generations as plain files and lets each request of fal's have one owner."""

import pytest

from kling_sweeps.errors import UnavailableError
from kling_sweeps.experiment.request import GenerationRequest
from kling_sweeps.store.folder import Store

REQUEST = GenerationRequest("a/b", {"prompt": "ein Ü, ein 🦊"}, 0, 1.4)


def test_a_folder_is_found_by_its_key(tmp_path):
    """Puts a generation into the folder that its key names."""
    entry = Store(tmp_path).entry(REQUEST)
    entry.create(REQUEST)
    assert entry.folder == tmp_path / REQUEST.key[:2] / REQUEST.key
    assert entry.read_json("request.json") == REQUEST.as_dict()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    """Leaves what was there where the writer fails."""
    entry = Store(tmp_path).entry(REQUEST)
    entry.create(REQUEST)
    with pytest.raises(RuntimeError), entry.replacing("request.json") as part:
        part.write_text("half")
        raise RuntimeError
    assert entry.read_json("request.json") == REQUEST.as_dict()


def test_a_request_id_has_one_owner(tmp_path):
    """Refuses a claim on what another key has claimed."""
    store = Store(tmp_path)
    assert store.claim("r/1", "key a")
    assert store.claim("r/1", "key a")
    assert not store.claim("r/1", "key b")


@pytest.mark.parametrize(
    "odd", ["..", ".", ".part", "a/b", "a\nb", "a\x00b", "\ud83e", "猫" * 100, "r" * 300, "r" * 4096, " "]
)
def test_any_request_id_has_one_owner(tmp_path, odd):
    """Claims an id that no file can be named after, and tells it from one that looks alike."""
    store = Store(tmp_path)
    assert store.claim("a_b", "key a")
    assert store.claim(odd, "key b")
    assert not store.claim(odd, "key c")
    assert not store.claim("a_b", "key b")


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    """Says so before anything is spent."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match=r"store\.dir"):
        Store(tmp_path / "file" / "store").check()
