"""fal's queue on this machine: its protocol over HTTP, with real H.264 files that cost nothing.

    python -m kling_sweeps.emulator --port 8900

The real fal client talks to it. A request's `Host` says which of fal's hosts it is for
(queue.fal.run, fal.run, api.fal.ai and the backups queue.falrun.com, falrun.com); where that says
nothing, the path does, and a POST is a submission to the queue. Every answer carries the header
`x-kling-sweeps-emulator: 1`, and every frame of every video the word "emulated".

Where fal leaves the choice, the less comfortable one is made: a request that is running when it is
cancelled completes and is charged, and only requests that have ended are in the history.


The ledger
----------
`GET /_emulator/ledger` lists every submission that was accepted, the oldest first: `request_id`,
`endpoint`, `arguments`, `charged_usd`, `status` (IN_QUEUE, IN_PROGRESS, COMPLETED), `status_code` and
`error_type` of its result, `answered` (whether an answer with its request id was sent whole),
`submitted_at` and `ended_at` (seconds since 1970). A video is charged when it is complete; a failure is
not, except for a 422 whose fault says so. `webhook` is the address to be called at its end, and `called` has the
status codes with which that answered, 0 for none.

`GET /_emulator` says what this is. `GET /_emulator/counters` counts requests by kind: `submits`
(POSTs to the queue), `accepted`, `runs` (POSTs to fal.run), `status_polls`, `results`, `cancels`,
`history`, `pricing`, `bills`, `file_downloads`, `uploads`; PUT or DELETE starts again from zero. None of these needs a key.


Faults
------
`PUT /_emulator/faults` replaces all rules by a JSON list of others, `GET` lists them with how often
each was `applied`, `DELETE` removes them. A rule is an object:

    {"at": "submit", "fault": "drop", "times": 1, "match": "potter"}

`at` and `fault` are from the table below. These keys choose the events that a rule applies to; of
several rules the first that applies is followed:

    match        only where the prompt contains this text, or the request id is this one
    nth          only the nth such event (1 is the first)
    times        at most this many times; without it, for ever
    probability  with this chance, drawn from a generator with `seed` (default 0)

The options of a fault stand beside them, here with their defaults. A rule that can't be followed is
refused with 422 and the valid names, and the rules before it stay in force.

Everywhere but at `generate`, `judge` and `webhook`:
    drop                    the connection is closed without an answer
    reset                   the connection is reset (RST) without an answer
    hang                    no answer for `seconds` (30), then closed
    error_500               a JSON error
    unavailable_503         a JSON error
    nginx_502, nginx_504    an HTML error page of a proxy
    html_200                a page where JSON is expected

At `submit`, `status`, `result`, `cancel`, `history`, `upload`, `pricing`, `bills` and `account`:
    unauthorized_401        the key is not known
    locked_403              the account is locked
    too_many_429            with a Retry-After of `retry_after` seconds, if that is not 0

At `submit` each has the option `accepted`: whether the submission is accepted (and run, and charged)
all the same. It is true by default for drop, hang, html_200 and cut, false for all others.
    timeout_408             a time-out
    cut                     the connection is closed after a `share` (0.5) of the answer's body

At `generate`, where the request itself fails:
    moderation_422          content_policy_violation; `charged` (false)
    no_media_422            no_media_generated; `charged` (false)
    error_500               internal_server_error
    downstream_400          downstream_service_error
    generation_timeout_504, request_timeout_504, startup_timeout_504
    runner_disconnected_503, runner_connection_error_503, runner_scheduling_failure_503
    runner_incomplete_response_502, runner_server_error_500
    slow                    nothing fails; it takes `seconds` (5) longer

At `judge`, where a model has answered about videos (`match` is of all that it was asked):
    no_grade                its grades are in a sentence, and not in the form that was asked for
    prose_around            words stand before and behind each of them
    out_of_scale            each is one that was not offered
    two_grades              each is followed by another
    empty                   the answer is empty
    cut_short               it ends anywhere, within a word too
    html                    it is a page
    no_usage                what it took is not told (null); it is charged
    dear                    it costs `usd` (1)

At `status` and `cancel`:
    not_found_404

At `status`:
    failed_200              the status FAILED, with `error`, whatever becomes of the request

At `webhook`, which is called when a request that names one has ended, up to ten times until it answers with success:
    never                   it is not called
    late                    it is called `seconds` (5) later
    twice                   it is called once more
    wrong_signature         signed with a key that is not published
    unsigned                without the headers that say who calls
    old_timestamp           signed as of `seconds` (600) ago
    wrong_id                about a request that nobody knows
    garbage                 with a page for a body
    oversized               with a body of `bytes` (2^21) more

At `result`:
    result_504              a JSON 504, though the request is complete
    not_found_404, expired_410
    in_progress_400         "Request is still in progress", though it is complete
    error_200               an error's words with a 200
    wrapped_200             the result under one more `key` ("data")
    in_videos_200           the video in a list `videos` of one
    bare_address_200        the address alone for the video
    other_shape_200         a video under a name that nobody knows

At `history` (`match` is not used there, nor at `upload`):
    lag                     what ended less than `seconds` (60) ago is missing
    small_pages             at most `size` (1) items a page
    missing                 nothing is found
    unfinished_too          requests that wait or run are listed too, at once

At `pricing`:
    raised                  prices times `factor` (1.5)
    other_unit              prices a `unit` ("megapixels")

At `bills` and `account`:
    forbidden_403           this key may not ask

At `bills` (`match` is not used at these three):
    lag                     what ended less than `seconds` (60) ago is missing
    small_pages             at most `size` (1) items a page
    discount                so much less is charged, in `percent` (10)

At `account`:
    balance                 so much is left, in `usd` (1)

At `file`:
    truncated               the connection is closed after a `share` (0.5) of what was promised;
                            ranges are honoured
    truncated_no_range      the same, with the whole file promised whatever range was asked for
    no_range                the whole file, whatever range was asked for
    zero_bytes              an empty file
    not_a_video             an HTML page with a 200
    wrong_type              the video under another `content_type` ("application/octet-stream")
    absurd_length           a Content-Length of `length` (10^15), and zeros
    endless                 `bytes` (10^9) zeros without a Content-Length
    late                    an error of `code` (404) until `seconds` (5) after the request ended
    cut_off                 a `share` (0.5) of the file, as if it were all of it
    gzip                    the whole file with Content-Encoding: gzip, whatever was asked for
    drip                    one byte after the other, `bytes_per_s` (10); ranges are honoured
    not_found_404, forbidden_403, expired_410
    redirect                a 302 to `location` ("http://elsewhere.invalid/video.mp4")
    slow                    the file spread over `seconds` (5)
"""

from kling_sweeps.experiment.emulator_settings import EmulatorSettings

from .process import EmulatorProcess

__all__ = ["EmulatorProcess", "EmulatorSettings"]
