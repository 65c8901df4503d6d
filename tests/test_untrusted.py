"""Text from outside can neither show a credential nor steer a terminal."""

import pytest

from kling_sweeps import untrusted
from kling_sweeps.untrusted import clean


@pytest.fixture
def key(monkeypatch) -> str:
    monkeypatch.setenv("FAL_KEY", "0f1e2d3c-key:5b4a39281706f5e4")
    return "0f1e2d3c-key:5b4a39281706f5e4"


def test_a_key_is_masked_whole_and_by_its_secret_part(key):
    """Hides the key where an error echoes the request's headers, in whatever spelling of its colon."""
    assert clean(f"bad header Authorization: Key {key}!") == "bad header Authorization: Key ***!"
    assert "5b4a39281706f5e4" not in clean("key=0f1e2d3c-key%3A5b4a39281706f5e4")


def test_a_credential_that_no_variable_holds_is_masked_once_it_is_known(monkeypatch):
    """Hides the token of a fal login too."""
    monkeypatch.setattr(untrusted, "_further", set())
    untrusted.hide("token-of-a-login")
    assert clean("Bearer token-of-a-login") == "Bearer ***"


def test_a_key_that_a_cut_would_split_is_masked_before(key):
    """Leaves no half of a key at the end of a long text."""
    assert "0f1e" not in clean("x" * 290 + key)


@pytest.mark.parametrize("odd", ["\x1b[2J", "\x00", "\ud83d", "\u202e", "\x9b31m", "\x07", "\u2066"])
def test_what_steers_a_terminal_is_replaced(odd):
    """Prints escape sequences, halves of characters and marks of direction as text."""
    said = clean(f"before {odd} after")
    assert said.isprintable() and said.startswith("before") and said.endswith("after")
    said.encode()


def test_a_text_becomes_one_short_line():
    """Folds line breaks, keeps other alphabets, and cuts what is long."""
    assert clean("no\r\n  such\tmodel  猫") == "no such model 猫"
    assert len(clean("a" * 10_000_000)) == 300


@pytest.mark.parametrize("text", ["👩\u200d🚀", "می\u200cخواهم", "क्\u200dष"])
def test_what_joins_letters_and_emoji_is_kept(text):
    """Shows an emoji of several parts, and Persian and Hindi, as they are written."""
    assert clean(text) == text
