"""Each fault at each stage, once and for ever, through the whole product; each row was written by hand.

A row says what a run meets (a fault of the emulator with its options, and how often), and then what is
known of it: how many submissions fal accepted and how many it charged, how far the journal came, what
MLflow and the terminal have for an error, what our own ledger says of the money, and what was said.
Each run wants one video, so more than one in `charged` is paid in vain.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import lab
import pytest
from lab import Lab, Outcome, cell

from kling_sweeps.experiment.settings import Cell
from kling_sweeps.providers import download
from kling_sweeps.store.state_machine import Stage

pytestmark = pytest.mark.timeout(1800)  # the first case waits for all rows of all tables, twice

# Whoever waits long enough.
PATIENT = """
at        fault                           how   accepted  charged  stage     error                      costs    said

# The answer is lost and the request is accepted: it is found in the history.
submit    drop                            both  1         1        finished  -                          spent    looking up
submit    cut                             both  1         1        finished  -                          spent    looking up
submit    html_200                        both  1         1        finished  -                          spent    looking up
submit    hang seconds=0.2                both  1         1        finished  -                          spent    looking up
submit    reset accepted=true             both  1         1        finished  -                          spent    looking up
submit    error_500 accepted=true         both  1         1        finished  -                          spent    looking up
submit    unavailable_503 accepted=true   both  1         1        finished  -                          spent    looking up
submit    nginx_502 accepted=true         both  1         1        finished  -                          spent    looking up
submit    nginx_504 accepted=true         both  1         1        finished  -                          spent    looking up
submit    timeout_408 accepted=true       both  1         1        finished  -                          spent    looking up

# A clear no: nothing was bought.
submit    too_many_429                    once  1         1        finished  -                          spent    -
submit    too_many_429 retry_after=3      once  1         1        finished  -                          spent    -
submit    locked_403                      once  1         1        finished  -                          spent    paused
submit    unauthorized_401                both  0         0        new       unauthorized               -        does not accept the key (401)

# A clear no that is a lie, which fal is not known to tell: it is believed, and what is asked again is paid again.
submit    too_many_429 accepted=true      once  2         2        finished  -                          spent    -
submit    locked_403 accepted=true        once  2         2        finished  -                          spent    paused
submit    unauthorized_401 accepted=true  once  1         1        new       unauthorized               -        does not accept the key (401)

# What the model refuses may be charged, and is not asked for again.
generate  moderation_422                  both  1         0        failed    content_policy_violation   perhaps  flagged by a content checker
generate  moderation_422 charged=true     both  1         1        failed    content_policy_violation   perhaps  flagged by a content checker
generate  no_media_422                    both  1         0        failed    no_media_generated         perhaps  did not generate any media
generate  no_media_422 charged=true       both  1         1        failed    no_media_generated         perhaps  did not generate any media
generate  downstream_400                  both  1         0        failed    downstream_service_error   perhaps  refused the request

# What fal fails is not charged, and is begun anew twice.
generate  error_500                       once  2         1        finished  -                          spent    -
generate  error_500                       ever  3         0        failed    internal_server_error      -        unexpected error
generate  generation_timeout_504          once  2         1        finished  -                          spent    -
generate  generation_timeout_504          ever  3         0        failed    generation_timeout         -        took too long
generate  request_timeout_504             once  2         1        finished  -                          spent    -
generate  request_timeout_504             ever  3         0        failed    request_timeout            -        timed out before
generate  startup_timeout_504             once  2         1        finished  -                          spent    -
generate  startup_timeout_504             ever  3         0        failed    startup_timeout            -        did not start in time
generate  runner_disconnected_503         once  2         1        finished  -                          spent    -
generate  runner_disconnected_503         ever  3         0        failed    runner_disconnected        -        disconnected
generate  runner_connection_error_503     once  2         1        finished  -                          spent    -
generate  runner_connection_error_503     ever  3         0        failed    runner_connection_error    -        not be reached
generate  runner_scheduling_failure_503   once  2         1        finished  -                          spent    -
generate  runner_scheduling_failure_503   ever  3         0        failed    runner_scheduling_failure  -        scheduled
generate  runner_incomplete_response_502  once  2         1        finished  -                          spent    -
generate  runner_incomplete_response_502  ever  3         0        failed    runner_incomplete_response -        incomplete
generate  runner_server_error_500         once  2         1        finished  -                          spent    -
generate  runner_server_error_500         ever  3         0        failed    runner_server_error        -        runner failed
generate  slow seconds=0.2                both  1         1        finished  -                          spent    -

# A status that does not come is asked for again.
status    drop                            once  1         1        finished  -                          spent    -
status    reset                           once  1         1        finished  -                          spent    -
status    hang seconds=0.2                once  1         1        finished  -                          spent    -
status    unauthorized_401                once  1         1        finished  -                          spent    paused
status    locked_403                      once  1         1        finished  -                          spent    paused
status    too_many_429                    once  1         1        finished  -                          spent    -
status    error_500                       once  1         1        finished  -                          spent    no answer
status    unavailable_503                 once  1         1        finished  -                          spent    no answer
status    nginx_502                       once  1         1        finished  -                          spent    -
status    nginx_504                       once  1         1        finished  -                          spent    -
status    html_200                        once  1         1        finished  -                          spent    no answer

# A result that does not come is asked for again; what fal no longer has is in the history.
result    drop                            once  1         1        finished  -                          spent    -
result    reset                           once  1         1        finished  -                          spent    -
result    hang seconds=0.01               once  1         1        finished  -                          spent    -
result    unauthorized_401                once  1         1        finished  -                          spent    paused
result    locked_403                      once  1         1        finished  -                          spent    paused
result    too_many_429                    once  1         1        finished  -                          spent    -
result    error_500                       once  1         1        finished  -                          spent    -
result    unavailable_503                 once  1         1        finished  -                          spent    -
result    nginx_502                       once  1         1        finished  -                          spent    -
result    nginx_504                       once  1         1        finished  -                          spent    -
result    html_200                        once  1         1        finished  -                          spent    -
result    result_504                      once  1         1        finished  -                          spent    -
result    in_progress_400                 once  1         1        finished  -                          spent    -
result    not_found_404                   both  1         1        finished  -                          spent    -
result    expired_410                     both  1         1        finished  -                          spent    -

# A result of another shape is read as far as it is known; what is not stays as it was delivered. A failure by any name is one.
result    wrapped_200                     both  1         1        finished  -                          spent    -
result    wrapped_200 key=output          both  1         1        finished  -                          spent    -
result    wrapped_200 key=response        both  1         1        finished  -                          spent    -
result    in_videos_200                   both  1         1        finished  -                          spent    -
result    bare_address_200                both  1         1        finished  -                          spent    -
result    other_shape_200                 both  1         1        completed result_unreadable          spent    is not paid for again
result    error_200                       both  1         1        failed    generation_failed          perhaps  generation failed
status    failed_200                      both  1         1        failed    generation_failed          perhaps  generation failed

# A file that breaks off is resumed or begun again; one that is none stays with fal.
file      drop                            once  1         1        finished  -                          spent    -
file      reset                           once  1         1        finished  -                          spent    -
file      hang seconds=0.1                once  1         1        finished  -                          spent    -
file      error_500                       once  1         1        finished  -                          spent    -
file      unavailable_503                 once  1         1        finished  -                          spent    -
file      nginx_502                       once  1         1        finished  -                          spent    -
file      nginx_504                       once  1         1        finished  -                          spent    -
file      truncated                       once  1         1        finished  -                          spent    -
file      truncated_no_range              once  1         1        finished  -                          spent    -
file      no_range                        both  1         1        finished  -                          spent    -
file      wrong_type                      both  1         1        finished  -                          spent    -
file      slow seconds=0.2                both  1         1        finished  -                          spent    -
file      gzip                            both  1         1        finished  -                          spent    -
file      drip                            once  1         1        finished  -                          spent    bytes came in
file      cut_off                         once  1         1        finished  -                          spent    no video yet
file      cut_off share=0.9               ever  1         1        finished  -                          spent    no video yet
file      cut_off share=0.01              ever  1         1        fetched   video_corrupt              spent    undecodable.mp4
file      html_200                        once  1         1        finished  -                          spent    no video yet
file      html_200                        ever  1         1        fetched   video_corrupt              spent    it begins with <!doctype html>
file      not_a_video                     once  1         1        finished  -                          spent    no video yet
file      not_a_video                     ever  1         1        fetched   video_corrupt              spent    it begins with <!doctype html>
file      zero_bytes                      ever  1         1        fetched   file_empty                 spent    0 bytes
file      absurd_length                   both  1         1        fetched   download_failed            spent    max_video_mb
file      endless                         both  1         1        fetched   download_failed            spent    max_video_mb
file      endless bytes=100000            once  1         1        finished  -                          spent    -
file      endless bytes=100000            ever  1         1        fetched   video_corrupt              spent    can't be opened
file      redirect                        both  1         1        fetched   download_failed            spent    elsewhere.invalid
file      not_found_404                   ever  1         1        fetched   file_expired               spent    gone from fal: there is no video at its address (404)
file      forbidden_403                   ever  1         1        fetched   file_expired               spent    gone from fal: there is no video at its address (403)
file      expired_410                     ever  1         1        fetched   file_expired               spent    gone from fal: there is no video at its address (410)
"""

# Whoever waits for six seconds, while the history shows nothing.
IMPATIENT = """
at        fault                           how   accepted  charged  stage     error                      costs    said

# The answer is lost, and so is the request, or nobody can know: it is never sent again.
submit    drop accepted=true              both  1         1        unknown   unknown                    unknown  may have been bought
submit    drop accepted=false             both  0         0        unknown   unknown                    unknown  may have been bought
submit    cut accepted=false              both  0         0        unknown   unknown                    unknown  may have been bought
submit    html_200 accepted=false         both  0         0        unknown   unknown                    unknown  may have been bought
submit    hang accepted=false seconds=0.1 both  0         0        unknown   unknown                    unknown  may have been bought
submit    reset                           both  0         0        unknown   unknown                    unknown  may have been bought
submit    error_500                       both  0         0        unknown   unknown                    unknown  may have been bought
submit    unavailable_503                 both  0         0        unknown   unknown                    unknown  may have been bought
submit    nginx_502                       both  0         0        unknown   unknown                    unknown  may have been bought
submit    nginx_504                       both  0         0        unknown   unknown                    unknown  may have been bought
submit    timeout_408                     both  0         0        unknown   unknown                    unknown  may have been bought
submit    too_many_429                    ever  0         0        new       rate_limited               -        asks to slow down (429)
submit    locked_403                      ever  0         0        new       account_locked             -        paused

# Nothing is heard of a request: it stays with fal, to be collected.
status    drop                            ever  1         1        submitted no_answer                  in flight  the same command collects it
status    reset                           ever  1         1        submitted no_answer                  in flight  the same command collects it
status    hang seconds=0.01               ever  1         1        submitted no_answer                  in flight  the same command collects it
status    unauthorized_401                ever  1         1        submitted no_answer                  in flight  paused
status    locked_403                      ever  1         1        submitted no_answer                  in flight  paused
status    too_many_429                    ever  1         1        submitted no_answer                  in flight  the same command collects it
status    error_500                       ever  1         1        submitted no_answer                  in flight  the same command collects it
status    unavailable_503                 ever  1         1        submitted no_answer                  in flight  the same command collects it
status    nginx_502                       ever  1         1        submitted no_answer                  in flight  the same command collects it
status    nginx_504                       ever  1         1        submitted no_answer                  in flight  the same command collects it
status    html_200                        ever  1         1        submitted no_answer                  in flight  the same command collects it
status    not_found_404                   both  1         1        submitted result_lost                in flight  does not know the request (404)
"""

# Whoever waits for twenty seconds for what does not come.
PERSISTENT = """
at        fault                           how   accepted  charged  stage     error                      costs    said

# It stays with fal, to be collected.
result    drop                            ever  1         1        completed no_answer                  spent    gives no result
result    reset                           ever  1         1        completed no_answer                  spent    gives no result
result    hang seconds=0.01               ever  1         1        completed no_answer                  spent    gives no result
result    too_many_429                    ever  1         1        completed no_answer                  spent    fal answered 429
result    error_500                       ever  1         1        completed no_answer                  spent    fal answered 500
result    unavailable_503                 ever  1         1        completed no_answer                  spent    fal answered 503
result    nginx_502                       ever  1         1        completed no_answer                  spent    502
result    nginx_504                       ever  1         1        completed no_answer                  spent    504
result    html_200                        ever  1         1        completed no_answer                  spent    names no video
result    result_504                      ever  1         1        completed no_answer                  spent    504
result    in_progress_400                 ever  1         1        completed no_answer                  spent    still in progress
result    unauthorized_401                ever  1         1        completed account_locked             spent    paused
result    locked_403                      ever  1         1        completed account_locked             spent    paused
file      drop                            ever  1         1        fetched   download_failed            spent    broke off
file      reset                           ever  1         1        fetched   download_failed            spent    broke off
file      hang seconds=0.1                ever  1         1        fetched   download_failed            spent    broke off
file      error_500                       ever  1         1        fetched   download_failed            spent    answered 500
file      unavailable_503                 ever  1         1        fetched   download_failed            spent    answered 503
file      nginx_502                       ever  1         1        fetched   download_failed            spent    answered 502
file      nginx_504                       ever  1         1        fetched   download_failed            spent    answered 504
file      truncated                       ever  1         1        fetched   download_failed            spent    broke off
file      truncated_no_range              ever  1         1        fetched   download_failed            spent    broke off
"""

# Whoever takes nothing for gone that was completed within a minute.
EARLY = """
at        fault                           how   accepted  charged  stage     error                      costs    said
file      late seconds=3.0                both  1         1        finished  -                          spent    -
file      late seconds=3.0 code=403       both  1         1        finished  -                          spent    -
file      zero_bytes                      once  1         1        finished  -                          spent    no video yet
file      not_found_404                   once  1         1        finished  -                          spent    no video yet
file      forbidden_403                   once  1         1        finished  -                          spent    no video yet
file      expired_410                     once  1         1        finished  -                          spent    no video yet
"""

COLUMNS = re.compile(r"(\w+) +(\w+)((?: \w+=\S+)*) +(\w+) +(\d) +(\d) +(\w+) +(\S+) +(in flight|\S+) +(.+)")


@dataclass(frozen=True)
class Row:
    """A fault, and what is known of the run that met it."""

    at: str
    fault: str
    options: str
    how: str
    accepted: int
    charged: int
    stage: Stage
    error: str | None
    costs: list[str]
    said: str

    @property
    def cell(self) -> Cell:
        return cell(f"{self.at} {self.fault}{self.options} {self.how}")

    @property
    def is_finished(self) -> bool:
        return self.stage is Stage.FINISHED

    @property
    def rule(self) -> dict:
        """Return the emulator's rule, for this run alone."""
        options = dict(option.split("=") for option in self.options.split())
        values = {name: _value(text) for name, text in options.items()}
        rule = {"at": self.at, "fault": self.fault, "match": self.cell.prompt_text, **values}
        return rule | ({"times": 1} if self.how == "once" else {})


def rows(table: str) -> list[Row]:
    """Read a table; `both` stands for a row each of once and ever."""
    read = []
    for line in table.strip().splitlines()[1:]:
        if not line or line.startswith("#"):
            continue
        at, fault, options, how, accepted, charged, stage, error, costs, said = COLUMNS.fullmatch(
            line
        ).groups()
        for each in ("once", "ever") if how == "both" else (how,):
            known = (
                int(accepted),
                int(charged),
                Stage(stage),
                _none(error),
                [costs] * (costs != "-"),
                _none(said) or "",
            )
            read.append(Row(at, fault, options, each, *known))
    return read


def _value(text: str) -> bool | float | str:
    if text in ("true", "false"):
        return text == "true"
    return float(text) if text[0].isdigit() else text


def _none(text: str) -> str | None:
    return None if text == "-" else text


TABLES = {"patient": PATIENT, "impatient": IMPATIENT, "persistent": PERSISTENT, "early": EARLY}
SWEEPS = {sweep: rows(table) for sweep, table in TABLES.items()}
ROWS = [(sweep, row) for sweep, swept in SWEEPS.items() for row in swept]


@dataclass(frozen=True)
class Known:
    """What is known of every run of a sweep after a command, by the run's name."""

    outcome: Outcome
    applied: dict[str, int]
    bought: dict[str, list[dict]]
    states: dict[str, tuple[Stage, bool]]
    costs: dict[str, list[str]]
    tracked: dict


def carried_out(laboratory: Lab, sweep: str, swept: list[Row], *faults: dict, **given) -> Known:
    """Run a sweep under faults and note what can be known of it."""
    cells = {row.cell.name: row.cell for row in swept}
    laboratory.emulator.set_faults(*faults)
    outcome = laboratory.run(sweep, *cells.values(), **given)
    ledger = laboratory.emulator.ledger()
    rules = httpx.get(f"{laboratory.emulator.base_url}/_emulator/faults").json()
    return Known(
        outcome,
        applied={rule.get("match"): rule["applied"] for rule in rules},
        bought={
            name: [entry for entry in ledger if entry["arguments"]["prompt"] == one.prompt_text]
            for name, one in cells.items()
        },
        states={
            name: (laboratory.state(one).stage, laboratory.entry(one).video.exists())
            for name, one in cells.items()
        },
        costs={name: laboratory.costs(one) for name, one in cells.items()},
        tracked=laboratory.tracked(sweep),
    )


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab.opened(tmp_path_factory.mktemp("lab")) as opened, pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, "LEAST_S", 3.0)
        yield opened


@pytest.fixture(scope="module")
def first(laboratory: Lab) -> dict[str, Known]:
    """Run every row once, under its fault."""
    unseen = {"at": "history", "fault": "missing"}
    slow = {"at": "generate", "fault": "slow", "seconds": 0.5, "match": "not_found_404"}
    given = {
        "patient": ([], {}),
        "impatient": ([unseen, slow], {"timeout_s": 6, "history_wait_s": 1}),
        "persistent": ([unseen], {"timeout_s": 20}),
        "early": ([], {"late_s": 60}),
    }
    return {
        sweep: carried_out(
            laboratory, sweep, SWEEPS[sweep], *faults, *(row.rule for row in SWEEPS[sweep]), **settings
        )
        for sweep, (faults, settings) in given.items()
    }


@pytest.fixture(scope="module")
def second(laboratory: Lab, first: dict[str, Known]) -> dict[str, Known]:
    """Run the same commands again, with nothing wrong any more."""
    return {
        sweep: carried_out(
            laboratory, sweep, swept, **({"history_wait_s": 0} if sweep == "impatient" else {})
        )
        for sweep, swept in SWEEPS.items()
    }


@pytest.mark.parametrize(
    ("sweep", "row"), ROWS, ids=lambda value: getattr(value, "cell", None) and value.cell.prompt
)
def test_a_run_under_a_fault_ends_as_its_row_says(first, second, sweep: str, row: Row):
    """Meets the fault, is paid once, and is told of alike everywhere; the same command then goes on with it."""
    known, later, name = first[sweep], second[sweep], row.cell.name
    bought, run, lines = known.bought[name], known.tracked[name], known.outcome.lines(name)
    spent = row.costs.count("spent")
    is_open = row.stage not in (Stage.NEW, Stage.FINISHED, Stage.FAILED) and row.error != "result_unreadable"
    stays = row.stage is Stage.FAILED or not (row.accepted or row.stage is Stage.NEW)
    end = row.stage if stays else Stage.FINISHED
    # By name, what is known and what the row says.
    checks = {
        "the fault was met": (known.applied[row.cell.prompt_text] >= 1, True),
        "fal accepted, and charged": (
            (len(bought), sum(entry["charged_usd"] > 0 for entry in bought)),
            (row.accepted, row.charged),
        ),
        "the store's stage, video and costs": (
            (*known.states[name], known.costs[name]),
            (row.stage, row.is_finished, row.costs),
        ),
        "MLflow's status, error, cost, and whether it may have cost more": (
            (
                run.info.status,
                run.data.tags.get("error_type"),
                run.data.metrics["cost_usd"],
                "may_have_cost_usd" in run.data.tags,
            ),
            (
                "FINISHED" if row.is_finished else "FAILED",
                row.error,
                spent * lab.PRICE_USD,
                len(row.costs) > spent,
            ),
        ),
        "the terminal's end, reason, and whether it names what fal still has": (
            (
                f"{name}: tracked" in lines if row.is_finished else f"{name}: failed {row.error}: " in lines,
                row.said if row.said in lines else lines,
                bool(re.search(rf"to (collect|look up): {re.escape(name)} \(", lines)),
            ),
            (True, row.said, is_open),
        ),
        "the same command's stage, video, submissions and status": (
            (*later.states[name], len(later.bought[name]), later.tracked[name].info.status),
            (
                end,
                end is Stage.FINISHED,
                row.accepted + (row.stage is Stage.NEW),
                "FINISHED" if end is Stage.FINISHED else "FAILED",
            ),
        ),
    }
    seen = {check: pair[0] for check, pair in checks.items()}
    assert seen == {check: pair[1] for check, pair in checks.items()}


def test_a_sweep_with_failures_exits_with_1(first, second):
    """Tells that some run failed, in the first command and in the second, and that none did."""
    codes = {sweep: (first[sweep].outcome.exit_code, second[sweep].outcome.exit_code) for sweep in SWEEPS}
    assert codes == {"patient": (1, 1), "impatient": (1, 1), "persistent": (1, 0), "early": (0, 0)}
