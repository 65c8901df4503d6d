"""A budget counts what all commands on a store have spent on its own requests, to the cent."""

import shutil

import pytest

from kling_sweeps.errors import OverBudgetError, StoreError
from kling_sweeps.experiment.price import amount
from kling_sweeps.generation.budget import Budget


def test_a_budget_is_exact_and_shared(tmp_path):
    """Lets two processes of a command reserve to the cent, and not one cent more."""
    first, second = (Budget(tmp_path, "c", 4.2) for _ in range(2))
    first.reserve("a", 1.4)
    second.reserve("b", 1.4)
    first.reserve("c", 1.4)
    with pytest.raises(OverBudgetError, match=r"0\.01 USD more"):
        second.reserve("d", 0.01)
    first.settle("a", 0)
    second.reserve("d", 1.4)


def test_fractions_of_a_cent_are_told():
    """Says amounts with the digits by which they differ from what is allowed, and never less than cents."""
    assert [amount(usd) for usd in (0, 1.4, 20, 0.475, 0.0004, 10.0123, 0.1 + 0.2)] == [
        "0.00", "1.40", "20.00", "0.475", "0.0004", "10.0123", "0.30",
    ]  # fmt: skip


def test_a_refusal_says_by_how_little(tmp_path):
    """Tells 10.004 from 10, which is all that there may be."""
    budget = Budget(tmp_path, "c", 10)
    budget.reserve("a", 9.998)
    with pytest.raises(
        OverBudgetError, match=r"0\.004 USD more would make 10\.002, and budget\.max_usd is 10\.00"
    ):
        budget.reserve("b", 0.004)


def test_what_another_command_pays_counts_for_the_requests_that_both_have(tmp_path):
    """Refuses what no longer fits since another command paid for the same plan, and ignores other plans."""
    commands = [Budget(tmp_path, f"c{number}", 5) for number in range(4)]
    for command in commands:
        command.count({"a": 1.4})
    stranger = Budget(tmp_path, "stranger", 100)
    stranger.reserve("z", 90)
    commands[0].reserve("a", 1.4)
    commands[1].reserve("a", 1.4)
    for command in commands:
        with pytest.raises(OverBudgetError, match=r"would make 5\.60"):
            command.reserve("a", 1.4)


def test_what_the_journals_say_counts_where_no_budget_knew_it(tmp_path):
    """Counts what was paid where the file of spending was lost, and names what it knows to have cost more."""
    budget = Budget(tmp_path, "c", 5)
    assert budget.count({"a": 1.4, "b": 1.4}) == []
    budget.reserve("b", 1.4)
    assert Budget(tmp_path, "d", 5).count({"a": 1.4, "b": 1.4}) == ["b"]
    with pytest.raises(OverBudgetError):
        budget.reserve("a", 1.4)


@pytest.mark.parametrize("left", [b"a 14", b"\0" * 512, b"\xff\xfe 3\n", b"a -3\na 1e9\na\n", b"\n"])
def test_whatever_a_crash_leaves_in_the_file_is_passed_over(tmp_path, left):
    """Reads every whole line before and behind it."""
    budget = Budget(tmp_path, "c", 5)
    budget.reserve("a", 1.4)
    with open(tmp_path / "spending", "ab") as file:
        file.write(left)
    other = Budget(tmp_path, "d", 5)
    other.count({"a": 0})
    other.reserve("a", 1.4)
    with pytest.raises(OverBudgetError, match=r"would make 5\.60"):
        budget.reserve("a", 2.8)


def test_a_store_that_is_gone_buys_nothing_more(tmp_path):
    """Refuses where the store was removed or replaced since the command began."""
    store = tmp_path / "store"
    budget = Budget(store, "c", 100)
    budget.reserve("a", 1.4)
    shutil.rmtree(store)
    with pytest.raises((StoreError, OSError)):
        budget.reserve("b", 1.4)
    Budget(store, "another", 100).count({"a": 0, "b": 0})
    with pytest.raises(StoreError, match="removed or replaced"):
        budget.reserve("b", 1.4)
