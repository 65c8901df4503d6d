"""What the user may decide, and what a history, a lock or a cancellation does to a whole sweep."""

from __future__ import annotations

import dataclasses
import multiprocessing
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import clips
import httpx
import lab
import pytest
from conftest import Emulator
from filelock import FileLock
from lab import PRICE_USD, Lab, cell
from servers import until

from kling_sweeps.emulator.process import EmulatorProcess
from kling_sweeps.errors import BudgetError, CredentialsError
from kling_sweeps.experiment.emulator_settings import EmulatorSettings
from kling_sweeps.measurement.workers import _measure
from kling_sweeps.metric import FrameMetric
from kling_sweeps.metrics import comparable
from kling_sweeps.store.measured import read_flaws, read_values
from kling_sweeps.store.state_machine import Stage
from kling_sweeps.sweep import runner, summary
from kling_sweeps.sweep.scheduler import Runs
from kling_sweeps.terminal.progress import Progress
from kling_sweeps.video import MAX_PIXELS

SILENT = ("drop", "reset", "hang", "error_500", "unavailable_503", "nginx_502", "nginx_504", "html_200")
SILENT += ("unauthorized_401", "locked_403", "too_many_429", "missing", "lag")
TALKING = ("small_pages", "unfinished_too")
LOST = {"at": "submit", "fault": "drop"}


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab.opened(tmp_path_factory.mktemp("lab")) as opened:
        yield opened


@pytest.fixture(autouse=True)
def no_faults(laboratory: Lab) -> None:
    laboratory.emulator.set_faults()


def history(fault: str, **given) -> dict:
    return {"at": "history", "fault": fault, **({"seconds": 0.05} if fault == "hang" else {}), **given}


def stages(laboratory: Lab, *cells) -> list[Stage]:
    return [laboratory.state(one).stage for one in cells]


def test_a_history_that_fails_in_every_way_is_asked_again(laboratory):
    """Adopts a lost submission after each fault of the history was met once."""
    one = cell("every fault of the history")
    faults = [history(fault, times=1) for fault in SILENT]
    laboratory.emulator.set_faults(LOST, *faults)
    outcome = laboratory.run("history", one)
    rules = httpx.get(f"{laboratory.emulator.base_url}/_emulator/faults").json()
    assert {rule["fault"]: rule["applied"] for rule in rules[1:]} == dict.fromkeys(SILENT, 1)
    assert outcome.exit_code == 0
    assert laboratory.charged(one) == 1


@pytest.fixture(scope="module")
def lost(laboratory: Lab) -> dict:
    """Lose a submission under each history that never shows it, and then run all of them again."""
    cells = {fault: cell(f"history {fault} for ever") for fault in SILENT}
    outcomes = {}
    for fault, one in cells.items():
        laboratory.emulator.set_faults(LOST, history(fault))
        outcome = laboratory.run("silence", one, history_wait_s=0.2)
        outcomes[fault] = (outcome, laboratory.state(one), laboratory.costs(one), len(laboratory.bought(one)))
    laboratory.emulator.set_faults()
    laboratory.run("silence", *cells.values(), history_wait_s=0)
    return outcomes


@pytest.mark.parametrize("fault", SILENT)
def test_a_history_that_never_shows_it_leaves_it_unknown(laboratory, lost, fault):
    """Reports what may have been bought, sends nothing again, and collects it once the history shows it."""
    outcome, state, costs, bought = lost[fault]
    name = f"history {fault} for ever · #0"
    assert (outcome.exit_code, state.stage, costs, bought) == (1, Stage.UNKNOWN, ["unknown"], 1)
    assert f"{name}: failed unknown: " in outcome.said
    assert "It may have been bought, for 1.40 USD" in outcome.lines(name)
    assert "unknown=resubmit, which pays again" in outcome.lines(name)
    assert f"to look up: {name} (its submission's answer was lost)" in outcome.said
    one = cell(f"history {fault} for ever")
    assert laboratory.state(one).stage is Stage.FINISHED
    assert laboratory.charged(one) == len(laboratory.bought(one)) == 1
    assert laboratory.tracked("silence")[name].info.status == "FINISHED"


@pytest.mark.parametrize("fault", TALKING)
def test_a_history_of_another_kind_is_read(laboratory, fault):
    """Finds a lost submission on small pages, and before it has ended."""
    one = cell(f"history {fault} for ever")
    laboratory.emulator.set_faults(LOST, history(fault))
    outcome = laboratory.run("pages", one)
    assert (outcome.exit_code, laboratory.charged(one)) == (0, 1)


def test_resubmitting_pays_again_and_says_so(laboratory):
    """Buys what nobody can find a second time, on the user's word alone, and counts both."""
    one = cell("unknown=resubmit")
    laboratory.emulator.set_faults({**LOST, "accepted": False, "times": 1})
    assert laboratory.run("resubmit", one, history_wait_s=0.1).exit_code == 1
    outcome = laboratory.run("resubmit", one, history_wait_s=0.1, unknown="resubmit")
    assert outcome.exit_code == 0
    assert len(laboratory.bought(one)) == 1
    assert laboratory.costs(one) == ["unknown", "spent"]
    assert laboratory.state(one).committed_usd == 2 * PRICE_USD
    assert "1.40 USD spent" in outcome.said


def test_resubmitting_buys_nothing_that_can_be_found(laboratory):
    """Adopts what the history shows, whatever the user said."""
    one = cell("unknown=resubmit, and found")
    laboratory.emulator.set_faults({**LOST, "times": 1}, history("missing"))
    laboratory.run("resubmit", one, history_wait_s=0.1)
    laboratory.emulator.set_faults()
    assert laboratory.run("resubmit", one, history_wait_s=0.1, unknown="resubmit").exit_code == 0
    assert len(laboratory.bought(one)) == 1


@pytest.mark.parametrize("how", ["once", "ever"])
def test_resubmitting_wants_to_hear_from_the_history_first(laboratory, how):
    """Pays for nothing again while the history does not answer, which says nothing of the submission."""
    one = cell(f"unknown=resubmit, and no history {how}")
    laboratory.emulator.set_faults({**LOST, "times": 1}, history("missing"))
    laboratory.run("resubmit", one, history_wait_s=0.1)
    laboratory.emulator.set_faults(history("error_500", **({"times": 1} if how == "once" else {})))
    laboratory.run("resubmit", one, history_wait_s=0, unknown="resubmit")
    assert len(laboratory.bought(one)) == 1


def test_what_failed_is_generated_again_when_asked_for(laboratory):
    """Leaves a moderated request alone until `retry=failed`, which generates that one alone."""
    moderated, fine = cell("retry=failed"), cell("retry=failed, and fine")
    laboratory.emulator.set_faults({"at": "generate", "fault": "moderation_422", "times": 1})
    assert laboratory.run("retry", moderated, fine, in_flight=1).exit_code == 1
    assert laboratory.run("retry", moderated, fine).exit_code == 1
    assert len(laboratory.bought(moderated)) == 1
    outcome = laboratory.run("retry", moderated, fine, retry="failed")
    assert outcome.exit_code == 0
    assert "to generate again" in outcome.said
    assert (len(laboratory.bought(moderated)), laboratory.charged(moderated, fine)) == (2, 2)
    assert {run.info.status for run in laboratory.tracked("retry").values()} == {"FINISHED"}


def test_what_fal_lost_is_paid_again_when_asked_for(laboratory):
    """Leaves a video that is gone from fal alone until `retry=failed`."""
    one = cell("retry=failed, expired")
    laboratory.emulator.set_faults({"at": "file", "fault": "expired_410", "times": 2})
    assert laboratory.run("retry", one).results[one.name].error.error_type == "file_expired"
    outcome = laboratory.run("retry", one, retry="failed")
    assert (outcome.exit_code, laboratory.charged(one)) == (0, 2)
    assert laboratory.costs(one) == ["spent", "spent"]


def test_a_file_that_only_seems_to_be_gone_is_not_paid_again(laboratory):
    """Asks the file server once more, under `retry=failed` too, for a file that it did not have at one moment."""
    one = cell("retry=failed, a passing 404 of a file")
    laboratory.emulator.set_faults({"at": "file", "fault": "not_found_404", "times": 1})
    assert laboratory.run("retry", one).results[one.name].error.error_type == "file_expired"
    assert laboratory.run("retry", one, retry="failed").exit_code == 0
    assert laboratory.charged(one) == 1


def test_one_word_pays_once_and_not_once_a_job(laboratory):
    """Generates what failed once more under `retry=failed`, however many jobs of a command want it."""
    one = cell("retry=failed, a job at a time")
    laboratory.emulator.set_faults({"at": "generate", "fault": "moderation_422"})
    laboratory.run("retry", one)
    settings = laboratory.settings("retry", retry="failed")
    for _ in range(3):
        list(laboratory.begin(settings, one))
    assert len(laboratory.bought(one)) == 2


def planned(laboratory: Lab, *cells, **given) -> Runs:
    """Plan a command, which does nothing yet."""
    runs = Runs.read(laboratory.settings("at once", retry="failed", **given), cells)
    runs.check()
    return runs


def complete(laboratory: Lab, runs: Runs) -> dict[str, str]:
    """Run a planned command; return the types of its errors by run."""
    with lab.said():
        results = list(runs.complete(runs.cells, Progress(runs.cells, 0, "at once"), 10))
    return {one.cell.name: one.error.error_type for one in results if one.error}


def test_a_word_covers_the_failure_that_it_was_given_for(laboratory):
    """Pays once for what failed, though two commands were told to, the second before the first had tried."""
    one = cell("two words for one failure")
    laboratory.emulator.set_faults({"at": "generate", "fault": "moderation_422"})
    laboratory.run("at once", one)
    for runs in [planned(laboratory, one) for _ in range(2)]:
        assert complete(laboratory, runs) == {one.name: "content_policy_violation"}
    assert len(laboratory.bought(one)) == 2


def test_one_word_resubmits_once(laboratory):
    """Pays for a submission whose answer was lost once more, and not again for as long as answers are lost."""
    one = cell("unknown=resubmit, over and over")
    laboratory.emulator.set_faults({"at": "submit", "fault": "drop"}, history("missing"))
    laboratory.run("unknown", one, history_wait_s=0)
    outcome = laboratory.run("unknown", one, history_wait_s=0, unknown="resubmit")
    assert outcome.results[one.name].error.error_type == "unknown"
    assert len(laboratory.bought(one)) == 2


def test_a_resubmission_that_is_not_sent_leaves_the_first_to_be_found(laboratory):
    """Looks a submission up again where the budget refused to pay for it a second time."""
    one = cell("unknown=resubmit, no money")
    laboratory.emulator.set_faults({"at": "submit", "fault": "drop"}, history("missing"))
    laboratory.run("unknown", one, history_wait_s=0)
    assert laboratory.run("unknown", one, history_wait_s=0, unknown="resubmit", max_usd=2).exit_code == 2
    laboratory.emulator.set_faults()
    assert laboratory.run("unknown", one).exit_code == 0
    assert len(laboratory.bought(one)) == 1


def test_a_video_that_was_removed_is_fetched_again(laboratory):
    """Downloads anew, for nothing, what is gone from the store alone."""
    one = cell("a video that was removed")
    laboratory.run("removed", one)
    laboratory.entry(one).video.unlink()
    assert "1 to collect" in laboratory.run("removed", one).said
    assert laboratory.entry(one).video.exists()
    assert laboratory.charged(one) == 1


def test_two_commands_that_wait_for_one_video_measure_it_once(laboratory):
    """Lets one of them measure, and both have the numbers."""
    one = cell("measured once")
    laboratory.emulator.set_faults({"at": "generate", "fault": "slow", "seconds": 0.5})
    result = []
    commands = [
        threading.Thread(target=lambda: result.extend(laboratory.begin(laboratory.settings("once"), one)))
        for _ in range(2)
    ]
    with lab.said():
        for command in commands:
            command.start()
        for command in commands:
            command.join()
    events = [event["event"] for event in laboratory.entry(one).journal.events()]
    assert (events.count("measured"), laboratory.charged(one)) == (1, 1)
    assert [run.error for run in result] == [None, None]


def test_what_fal_only_seems_to_have_lost_is_not_paid_again(laboratory):
    """Asks fal once more, under `retry=failed` too, for a request that it did not know at one moment."""
    one = cell("retry=failed, a passing 404")
    slow = {"at": "generate", "fault": "slow", "seconds": 0.5}
    laboratory.emulator.set_faults(slow, {"at": "status", "fault": "not_found_404", "times": 1})
    assert laboratory.run("retry", one).results[one.name].error.error_type == "result_lost"
    assert laboratory.run("retry", one, retry="failed").exit_code == 0
    assert len(laboratory.bought(one)) == 1


def test_what_was_found_again_is_not_lost(laboratory):
    """Plans nothing anew for a video that is here, though fal did not know its request for a moment."""
    one = cell("retry=failed, lost and found")
    slow = {"at": "generate", "fault": "slow", "seconds": 0.5}
    laboratory.emulator.set_faults(slow, {"at": "status", "fault": "not_found_404", "times": 1})
    laboratory.run("retry", one)
    assert laboratory.run("retry", one).exit_code == 0
    outcome = laboratory.run("retry", one, retry="failed")
    assert "1 in the store" in outcome.said
    assert "to generate again" not in outcome.said


def test_what_fal_has_lost_is_paid_again_once_the_history_confirms_it(laboratory):
    """Pays for a lost request again only where the history was read and does not have it either."""
    one = cell("retry=failed, a lasting 404")
    laboratory.emulator.set_faults({"at": "result", "fault": "not_found_404"}, history("error_500"))
    for _ in range(2):
        assert (
            laboratory.run("retry", one, retry="failed").results[one.name].error.error_type == "result_lost"
        )
    assert len(laboratory.bought(one)) == 1
    (lost,) = laboratory.bought(one)
    gone = {"at": "result", "fault": "not_found_404", "match": lost["request_id"]}
    laboratory.emulator.set_faults(gone, history("missing"))
    assert laboratory.run("retry", one).exit_code == 1
    assert len(laboratory.bought(one)) == 1
    assert laboratory.run("retry", one, retry="failed").exit_code == 0
    assert laboratory.costs(one) == ["spent", "spent"]


def test_the_first_failure_can_stop_the_sweep(laboratory):
    """Submits nothing after a failure under `fail_fast=true`, and everything under the next command."""
    cells = [cell(f"fail_fast {number}") for number in range(4)]
    laboratory.emulator.set_faults({"at": "generate", "fault": "moderation_422", "match": "fail_fast 1"})
    outcome = laboratory.run("fast", *cells, in_flight=1, fail_fast=True)
    assert outcome.exit_code == 1
    assert [len(laboratory.bought(one)) for one in cells][:2] == [1, 1]
    assert len(laboratory.bought(cells[3])) == 0
    assert "fail_fast 1 · #0: failed content_policy_violation" in outcome.said
    again = laboratory.run("fast", *cells)
    assert again.exit_code == 1
    assert laboratory.charged(*cells) == len(cells) - 1
    assert len(laboratory.tracked("fast")) == len(cells)


def test_as_much_as_fits_is_run(laboratory):
    """Runs one repeat of every cell before the second, within the budget, under `budget.partial=true`."""
    cells = [cell(f"partial {letter}", sample) for letter in "ab" for sample in range(2)]
    with_room = 3 * PRICE_USD + 0.5
    refused = laboratory.run("partial", *cells, max_usd=with_room)
    assert isinstance(refused.error, BudgetError)
    assert "5.60 USD" in str(refused.error)
    assert laboratory.bought(*cells) == []
    outcome = laboratory.run("partial", *cells, max_usd=with_room, partial=True)
    assert outcome.exit_code == 0
    assert "over budget" in outcome.said
    finished = [laboratory.state(one).stage is Stage.FINISHED for one in cells]
    assert finished == [True, True, True, False]
    assert laboratory.charged(*cells) == 3
    again = laboratory.run("partial", *cells, max_usd=with_room, partial=True)
    assert (again.exit_code, laboratory.charged(*cells)) == (0, 3)


def test_a_price_that_nobody_knows_is_refused(laboratory):
    """Submits to an endpoint without a price only under `budget.allow_unknown_price=true`."""
    one = cell("no price", price_usd=None)
    refused = laboratory.run("price", one)
    assert isinstance(refused.error, BudgetError)
    assert "budget.allow_unknown_price=true" in str(refused.error)
    assert laboratory.bought(one) == []
    outcome = laboratory.run("price", one, allow_unknown_price=True)
    assert outcome.exit_code == 0
    assert laboratory.tracked("price")[one.name].data.metrics.get("cost_usd") is None


def test_an_unknown_price_is_told_as_such(laboratory):
    """Tells in row, total and sum how many have no price, never that they cost nothing."""
    cells = [cell("a price"), *(cell("no price at all", sample, price_usd=None) for sample in range(2))]
    laboratory.emulator.set_faults({"at": "bills", "fault": "lag"})  # or the bill would say the price
    said = laboratory.run("price", *cells, allow_unknown_price=True).said
    assert said.count("to generate  unknown") == 2
    assert "3 to generate. 1.40 USD and the unknown price of 2 runs (" in said
    assert "1.40 USD and the unknown price of 2 runs spent." in said
    again = laboratory.run("price", cell("no price at all", 2, price_usd=None), allow_unknown_price=True).said
    laboratory.emulator.set_faults()
    assert "1 to generate. The unknown price of 1 run (" in again
    assert "0.00" not in again


def test_what_a_budget_leaves_out_is_named(laboratory):
    """Says how many, which, what they would cost and what would be enough, before and after the others."""
    cells = [cell(f"left out {number}") for number in range(4)]
    said = laboratory.run("partial", *cells, partial=True, max_usd=3).said
    left_out = "2 left out by budget.partial=true, for 2.80 USD: left out 2 · #0, left out 3 · #0."
    assert said.count(f"{left_out} budget.max_usd=5.6 runs them too.") == 2


def test_a_dry_run_says_that_it_would_be_refused(laboratory):
    """Says why, and refuses nothing."""
    for given, why in (({"max_usd": 1}, "budget.max_usd=1.4"), ({}, "budget.allow_unknown_price=true")):
        one = cell("over budget", price_usd=1.4 if given else None)
        with lab.said() as text:
            list(
                laboratory.begin(dataclasses.replace(laboratory.settings("dry", **given), dry_run=True), one)
            )
        assert "Without dry_run=true this would be refused: " in text.getvalue()
        assert why in text.getvalue()


def test_a_failed_run_says_what_to_do(laboratory):
    """Ends with the way on for each kind of failure, and its price."""
    moderated, sent, away = (
        cell("what to do, moderated"),
        cell("what to do, lost"),
        cell("what to do, never sent"),
    )
    laboratory.emulator.set_faults(
        {"at": "generate", "fault": "moderation_422", "match": moderated.prompt},
        {"at": "submit", "fault": "drop", "match": sent.prompt},
        history("missing"),
        {"at": "generate", "fault": "slow", "seconds": 60, "match": away.prompt},
    )
    said = laboratory.run("advice", moderated, sent, away, history_wait_s=0.1, timeout_s=1).said
    assert f"retry=failed generates 1 again, for 1.40 USD: {moderated.name}." in said
    assert f"unknown=resubmit pays again, 1.40 USD for {sent.name}." in said
    assert "2 left with fal, for 2.80 USD. The same command collects them." in said


@contextmanager
def unlocked_after(refusals: int, laboratory: Lab) -> Iterator[None]:
    """Unlock the account once it was refused so often."""

    def unlock() -> None:
        faults = f"{laboratory.emulator.base_url}/_emulator/faults"
        until(lambda: sum(rule["applied"] for rule in httpx.get(faults).json()) >= refusals)
        laboratory.emulator.set_faults()

    unlocking = threading.Thread(target=unlock)
    unlocking.start()
    yield
    unlocking.join()


def test_a_locked_account_pauses_the_sweep_until_it_is_unlocked(laboratory):
    """Gives nothing up while submissions, statuses and results are refused, says so, and goes on."""
    cells = [cell(f"locked {number}") for number in range(3)]
    places = ("submit", "status", "result", "history")
    laboratory.emulator.set_faults(*({"at": at, "fault": "locked_403"} for at in places))
    with unlocked_after(10, laboratory):
        outcome = laboratory.run("locked", *cells)
    assert outcome.exit_code == 0
    assert "paused fal refuses the account (403): User is locked. Reason: Exhausted balance" in outcome.said
    assert laboratory.charged(*cells) == len(laboratory.bought(*cells)) == len(cells)


@pytest.mark.parametrize("at", ["status", "result"])
def test_a_lock_outlasts_what_is_in_flight(laboratory, at):
    """Waits for as long as a video is waited for, wherever the lock is met."""
    one = cell(f"locked while {at}")
    laboratory.emulator.set_faults({"at": at, "fault": "locked_403"})
    with unlocked_after(20, laboratory):
        outcome = laboratory.run("locked", one, pause_s=0.05)
    assert (outcome.exit_code, laboratory.charged(one)) == (0, 1)


def test_a_key_that_is_not_accepted_refuses_a_sweep_of_nothing(laboratory):
    """Refuses the command where its very first submission is refused for the key."""
    one = cell("a wrong key")
    laboratory.emulator.set_faults({"at": "submit", "fault": "unauthorized_401"})
    outcome = laboratory.run("key", one)
    assert isinstance(outcome.error, CredentialsError)
    assert (outcome.exit_code, laboratory.bought(one)) == (2, [])


def test_an_interrupt_stops_everything_before_it_says_what_is_left(laboratory, monkeypatch):
    """Lets nobody submit any more when the terminal lists what is in flight, wherever the interrupt struck."""
    cells = [cell(f"interrupted {number}") for number in range(3)]
    laboratory.emulator.set_faults(
        {"at": "generate", "fault": "slow", "seconds": 9, "match": "interrupted 2"}
    )
    at_work = []

    def interrupt(*args) -> None:
        raise KeyboardInterrupt

    def note(in_flight) -> None:
        at_work.extend(thread.name for thread in threading.enumerate() if thread.name == "fal")

    monkeypatch.setattr(runner, "_track", interrupt)
    monkeypatch.setattr(summary, "show_in_flight", note)
    with pytest.raises(KeyboardInterrupt), lab.said():
        list(laboratory.begin(laboratory.settings("interrupted"), *cells))
    assert at_work == []


def test_an_interrupt_forgets_no_money(laboratory, monkeypatch):
    """Counts and lists every video that fal has charged, tracked, measured, downloaded or neither."""
    cells = [cell(f"interrupted, and paid for {number}") for number in range(4)]
    slow = {"at": "generate", "fault": "slow", "seconds": 30, "match": "paid for 3"}
    laboratory.emulator.set_faults(slow, {"at": "file", "fault": "error_500", "match": "paid for 2"})

    def interrupt(tracker, result) -> None:
        until(lambda: laboratory.charged(*cells) == 3)
        until(lambda: laboratory.state(cells[1]).stage is Stage.FINISHED)
        until(lambda: laboratory.state(cells[2]).stage is Stage.FETCHED)
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "_track", interrupt)
    with pytest.raises(KeyboardInterrupt), lab.said() as text:
        list(laboratory.begin(laboratory.settings("interrupted"), *cells))
    assert text.getvalue().count("  to track") == 2
    assert text.getvalue().count("  to collect") == 1
    assert "4.20 USD spent, 1.40 USD in flight." in text.getvalue()
    assert "2 left with fal, for 1.40 USD, 1.40 USD spent. The same command collects them." in text.getvalue()


CANCEL = ("drop", "reset", "hang", "unauthorized_401", "locked_403", "too_many_429", "error_500")
CANCEL += ("unavailable_503", "nginx_502", "nginx_504", "html_200", "not_found_404")


@pytest.fixture(scope="module")
def cancelled(laboratory: Lab, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Interrupt a sweep of which one is complete, one runs and the rest wait, under a fault each."""
    result, running = cell("cancel completed"), cell("cancel running")
    waiting = {(fault, how): cell(f"cancel {fault} {how}") for fault in CANCEL for how in ("once", "ever")}
    waiting["none", ""] = cell("cancel none")
    laboratory.run("before", result)
    # The first that is submitted is the one that runs.
    cells = [result, running, *waiting.values()]
    forgetful = dataclasses.replace(lab.SMALL, state_dir=tmp_path_factory.mktemp("fal"))
    with _at_another(laboratory, dataclasses.replace(forgetful, slots=1, latency_s=600)) as busy:
        busy.emulator.set_faults(
            *(_cancel_rule(*key, one.prompt) for key, one in waiting.items() if all(key))
        )
        said = _interrupted(busy, *cells)
        ended = {key: busy.bought(one)[0]["error_type"] for key, one in waiting.items()}
        known = {key: laboratory.state(one) for key, one in waiting.items()}
    with _at_another(laboratory, forgetful) as idle:
        idle.run("cancel", *cells)
        bought = {key: idle.bought(one) for key, one in {**waiting, "running": running}.items()}
    return {
        "said": said,
        "ended": ended,
        "known": known,
        "bought": bought,
        "cells": waiting,
        "running": running,
    }


@contextmanager
def _at_another(laboratory: Lab, settings: EmulatorSettings) -> Iterator[Lab]:
    with EmulatorProcess(settings) as process:
        yield dataclasses.replace(laboratory, emulator=Emulator(process.base_url))


def _interrupted(laboratory: Lab, *cells) -> str:
    """Begin a sweep, and end it once all is submitted; return what was said."""
    with lab.said() as text:
        completed = laboratory.begin(laboratory.settings("cancel", on_interrupt="cancel"), *cells)
        next(completed)
        until(lambda: len(laboratory.bought(*cells)) == len(cells) - 1)
        completed.close()
    return text.getvalue()


def test_an_interrupt_leaves_alone_what_another_command_works_on(laboratory):
    """Cancels nothing that somebody else waits for, and what waits for nobody all the same."""
    result, running, one = cell("theirs, completed"), cell("theirs, running"), cell("theirs")
    laboratory.run("before", result)
    with _at_another(laboratory, dataclasses.replace(lab.SMALL, slots=1, latency_s=600)) as busy:

        def interrupted(sweep: str, on_interrupt: str) -> str | None:
            completed = busy.begin(busy.settings(sweep, on_interrupt=on_interrupt), result, running, one)
            next(completed)
            until(lambda: len(busy.bought(running, one)) == 2)
            completed.close()
            return busy.bought(one)[0]["error_type"]

        assert interrupted("theirs, begun", "leave") is None
        with FileLock(busy.entry(one).folder / "lock"):
            assert interrupted("theirs, held", "cancel") is None
        assert busy.state(one).stage is Stage.SUBMITTED
        assert interrupted("theirs, free", "cancel") == "client_cancelled"


def _cancel_rule(fault: str, how: str, prompt: str) -> dict:
    rule = {"at": "cancel", "fault": fault, "match": prompt}
    return rule | ({"times": 1} if how == "once" else {}) | ({"seconds": 0.01} if fault == "hang" else {})


def test_an_interrupt_cancels_what_waits_and_nothing_else(laboratory, cancelled):
    """Cancels in fal's queue, leaves what runs to be collected, and says so."""
    assert cancelled["ended"]["none", ""] == "client_cancelled"
    assert cancelled["known"]["none", ""].stage is Stage.NEW
    running = cancelled["running"]
    assert f"to collect: {running.name} (" in cancelled["said"]
    assert laboratory.state(running).stage is Stage.FINISHED
    assert len(cancelled["bought"]["running"]) == 1
    assert "The same command collects them." in cancelled["said"]


@pytest.mark.parametrize("how", ["once", "ever"])
@pytest.mark.parametrize("fault", CANCEL)
def test_a_cancellation_that_fails_leaves_it_to_be_collected(laboratory, cancelled, fault, how):
    """Cancels, or keeps what could not be cancelled; either way the same command ends with one video."""
    one = cancelled["cells"][fault, how]
    is_cancelled = cancelled["ended"][fault, how] == "client_cancelled"
    stage = cancelled["known"][fault, how].stage
    assert stage is (Stage.NEW if is_cancelled else Stage.SUBMITTED)
    assert (f"to collect: {one.name} (" in cancelled["said"]) == (not is_cancelled)
    assert laboratory.state(one).stage is Stage.FINISHED
    bought = cancelled["bought"][fault, how]
    assert sum(entry["charged_usd"] > 0 for entry in bought) == 1
    assert len(bought) == 1 + is_cancelled


class MeasuresHereAlone(FrameMetric):
    """A metric that no worker process can make."""

    version, values = 1, ()

    def __init__(self) -> None:
        super().__init__()
        if multiprocessing.parent_process():
            raise RuntimeError("not here")

    def per_frame(self, frame):
        return {}


def test_what_a_worker_refuses_is_that_runs_failure(laboratory):
    """Fails what can't be measured and says so, where it was bought; nothing of it is a refusal."""
    cells = [cell(f"refused by a worker {number}") for number in range(2)]
    own = {"own": {"target": "test_policies:MeasuresHereAlone"}}
    settings = dataclasses.replace(laboratory.settings("worker"), metrics=own)
    for _ in range(2):  # the second time there is nothing to submit
        with lab.said():
            results = list(laboratory.begin(settings, *cells))
        assert [one.error.error_type for one in results] == ["refused"] * 2
        assert all("not here" in str(one.error) for one in results)
    assert laboratory.charged(*cells) == 2


@pytest.mark.parametrize(
    ("aspect_ratio", "duration", "compared"),
    [
        ("auto", "auto", set()),
        (None, None, set()),
        ({"width": 3}, [5], set()),
        ("0:9", "-5", set()),
        ("21:9 ", "8s", {"aspect_error", "duration_error_s"}),
        ("16:9", 5, {"aspect_error", "duration_error_s"}),
    ],
)
def test_what_no_video_can_be_compared_with_is_measured(tmp_path, aspect_ratio, duration, compared):
    """Measures a video whatever it was asked to be, and leaves out the errors that have no meaning."""
    video = clips.write(tmp_path / "a.mp4", clips.grey(frames=2))
    _measure(tmp_path / "out", video, {"file": {}}, comparable(aspect_ratio, duration), MAX_PIXELS)
    assert read_flaws(tmp_path / "out") == ""
    assert {"aspect_error", "duration_error_s"} & set(read_values(tmp_path / "out")) == compared
