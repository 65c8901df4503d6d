"""The exceptions of kling_sweeps.

KlingSweepsError
├── RefusedError                 nothing was submitted; the command exits with 2
│   ├── ConfigError              a value, a key or a file of the configuration
│   ├── CredentialsError         no fal key, or one that fal does not know
│   ├── BudgetError              the plan costs more than it may
│   └── UnavailableError         the store, the provider or the tracking server
└── RunError                     one run failed; it is recorded and the others go on
    ├── OverBudgetError          not submitted, since it would cost more than allowed
    ├── SubmissionError
    │   ├── NeverSentError       the request did not leave this machine
    │   ├── RejectedError        fal said no; nothing was bought
    │   ├── RateLimitedError     fal said not now; nothing was bought
    │   └── UnknownError         the answer was lost; it may have been bought
    ├── PollError                fal does not say how a request stands; ask again
    ├── LockedAccountError       fal answers nothing more until the account is unlocked
    ├── GenerationError          fal or the model reports a failure
    ├── LostResultError          fal completed the request and no longer has its result
    ├── UnreadableResultError    fal completed the request, and its result names no video
    ├── UnreadableAnswerError    a judge's answer has no grade, or not in its form
    ├── DownloadError            the video could not be fetched
    ├── VideoError               the file is not a video that can be measured
    ├── StoreError               the store's files of a run can't be read, written or trusted
    ├── FlawedError              some of a complete run could not be measured
    └── NotTrackedError          MLflow did not take the run
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from kling_sweeps.untrusted import clean, mask, printable


class KlingSweepsError(Exception):
    """Everything that kling_sweeps raises on purpose."""


class RefusedError(KlingSweepsError):
    """The command was refused before anything was submitted."""


class ConfigError(RefusedError):
    """All that is wrong with a configuration, one problem a line."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems: Sequence[str] = problems


class CredentialsError(RefusedError):
    """There is no fal key, or fal does not know it."""


class BudgetError(RefusedError):
    """The plan costs more than `budget.max_usd`."""


class UnavailableError(RefusedError):
    """A store, a provider or a tracking server can't be used."""


class RunError(KlingSweepsError):
    """One run failed: a record with its type, its stage and what it may have cost.

    `error_type` is fal's word for it where fal gave one; `may_have_cost` says whether the failed
    request may have been charged.
    """

    stage = "run"
    error_type = "run_error"
    may_have_cost = False

    def __init__(
        self, message: str, *, error_type: str | None = None, may_have_cost: bool | None = None
    ) -> None:
        super().__init__(message)
        if error_type is not None:
            self.error_type = error_type
        if may_have_cost is not None:
            self.may_have_cost = may_have_cost


class OverBudgetError(RunError):
    """The run was not submitted, since the command would have cost more than it may."""

    stage = "submit"
    error_type = "over_budget"


class SubmissionError(RunError):
    """A submission did not lead to a request id."""

    stage = "submit"
    error_type = "submission_error"


class NeverSentError(SubmissionError):
    """No connection could be made, so the request never left this machine."""

    error_type = "never_sent"


class RejectedError(SubmissionError):
    """fal refused the submission with a clear 4xx."""

    error_type = "rejected"


class RateLimitedError(SubmissionError):
    """fal refused the submission with a 429; `retry_after_s` is what it asked for, if it did."""

    error_type = "rate_limited"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnknownError(SubmissionError):
    """The submission left and no usable answer came back."""

    error_type = "unknown"
    may_have_cost = True


class PollError(RunError):
    """fal did not answer, or not with an answer; the request is alive for all that is known."""

    stage = "poll"
    error_type = "no_answer"
    may_have_cost = True


class LockedAccountError(RunError):
    """The account is locked (403): what runs goes on running, and nothing can be asked for."""

    stage = "poll"
    error_type = "account_locked"
    may_have_cost = True


class GenerationError(RunError):
    """fal or the model answered a request with an error."""

    stage = "generate"
    error_type = "generation_error"


class LostResultError(RunError):
    """The request completed, and fal has neither its result nor its record any more."""

    stage = "result"
    error_type = "result_lost"
    may_have_cost = True


class UnreadableResultError(RunError):
    """The request completed, and its `result` has no video in a place that is known."""

    stage = "result"
    error_type = "result_unreadable"
    may_have_cost = True

    def __init__(self, message: str, result: Any) -> None:
        super().__init__(message)
        self.result = result


class UnreadableAnswerError(RunError):
    """A judge answered, and not with each question's grade, or verdict, once."""

    stage = "judge"
    error_type = "answer_unreadable"
    may_have_cost = True


class DownloadError(RunError):
    """The video could not be fetched whole; where `is_final`, asking again comes to the same."""

    stage = "download"
    error_type = "download_failed"
    may_have_cost = True

    def __init__(self, message: str, *, error_type: str | None = None, is_final: bool = False) -> None:
        super().__init__(message, error_type=error_type)
        self.is_final = is_final


class VideoError(RunError):
    """The file can't be decoded as a video, or not to its end: `decodable` tells that some of it can."""

    stage = "measure"
    error_type = "video_corrupt"
    may_have_cost = True

    def __init__(self, message: str, *, error_type: str | None = None, decodable: bool = False) -> None:
        super().__init__(message, error_type=error_type)
        self.decodable = decodable


class StoreError(RunError):
    """The store's files of a run can't be read, written or trusted; nothing is bought for it."""

    stage = "store"
    error_type = "store_failed"


class FlawedError(RunError):
    """A run is complete and tracked, and some of its video could not be measured."""

    stage = "measure"
    error_type = "not_measured_whole"


class NotTrackedError(RunError):
    """MLflow did not take the run; its video is in the store."""

    stage = "track"
    error_type = "not_tracked"


# Set by the first submission of this command in this process, cleared by `main`: from then on no error is a refusal.
submitted = threading.Event()


def explained(error: OSError) -> str:
    """Say what the system refused, of which file, and what helps."""
    said = error.strerror or str(error)
    name = error.filename if error.filename2 is None else error.filename2
    if name is not None:
        said = f"{os.fsdecode(name)}: {said}"
    if error.errno in (errno.EACCES, errno.EPERM) and name is not None:
        said += (
            f" ({_owner(Path(os.fsdecode(name)))}); a store that several users share wants a group that may "
        )
        said += "write all of it (chmod -R g+rwX), and umask 002"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        said += "; make room, and the same command goes on"
    return clean(said, 1000)


def _owner(path: Path) -> str:
    """Tell whose the nearest file or folder is that can be looked at, and its mode."""
    for one in (path, *path.parents):
        with suppress(OSError):
            found = one.stat()
            try:
                owner = one.owner()
            except (KeyError, NotImplementedError):  # nobody that the system knows, or Windows
                owner = f"user {found.st_uid}"
            return f"{one} is {owner}'s, {stat.filemode(found.st_mode)}"
    return "nothing of it can be looked at"


def say_refused(why: object) -> int:
    """Say on stderr why a command ends; return its exit code: 2, or 1 where something was submitted."""
    say(why)
    if submitted.is_set():
        return 1
    say("Nothing was submitted.")
    return 2


def say_interrupted(more: str = "") -> int:
    """Say on stderr that Ctrl-C or SIGTERM ended a command; return its exit code, 130."""
    print(f"Interrupted{more}.", file=sys.stderr)
    # A KeyboardInterrupt that went through exec() or eval() of a text, as a dataclass is made by, has Python end by
    # SIGINT, whatever the exit code, unless another text was evaluated since.
    eval("0")
    return 130


def say(why: object) -> None:
    """Say on stderr what went wrong, whoever worded it, as text that shows no credential."""
    print(printable(mask(str(why).expandtabs(2))), file=sys.stderr)
