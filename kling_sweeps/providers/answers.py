"""What a server answered, read in one place: JSON within bounds, and of it only what it can mean.

Whatever is not of the type that the protocol has for it counts as absent; only what makes an answer
useless without it is an error. Nothing that leaves here has half a surrogate pair, NaN, an infinite number,
or a known credential in it.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from kling_sweeps.errors import GenerationError, PollError, UnreadableResultError
from kling_sweeps.experiment.price import Price, told_price
from kling_sweeps.experiment.request import Product
from kling_sweeps.provider import CANCELLED, PastRequest, Status
from kling_sweeps.untrusted import clean, mask

# How deep an answer may be nested, how many digits an integer and how many characters an id may have.
DEPTH = 64
DIGITS = 100
ID_LENGTH = 5_000
TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)

FAILED = ("FAILED", "FAILURE", "ERROR", "CANCELLED", "CANCELED")
# What says nothing of a request that failed: the queue's own trouble, or that of something before it.
TRANSIENT = (401, 403, 408, 409, 425, 429, 502, 503, 504)
IN_PROGRESS = "still in progress"
# Where a result has its video, and what such a result may be wrapped in.
VIDEOS = ("video", "videos")
WRAPPERS = ("response", "data", "output")
# Where a result has a text, and what no answer costs.
TEXT, MOST_USD = "output", 1e6
# Of public keys: their letters, which are 32 bytes, and how many are looked at.
KEY, MOST_KEYS = re.compile(r"[A-Za-z0-9_-]{43}=?"), 16


def read(content: bytes) -> Any:
    """Return a body of JSON as plain values, None where it is no JSON; what is nested too deep is None."""
    text = content.decode(json.detect_encoding(content), errors="replace")
    try:
        return _plain(_parsed(text))
    except RecursionError:
        try:
            return _plain(_parsed(_shallow(text)))
        except ValueError:
            return None
    except ValueError:
        return None


def _parsed(text: str) -> Any:
    return json.loads(text, parse_int=_int, parse_float=_finite, parse_constant=lambda name: None)


def _int(digits: str) -> int | None:
    return int(digits) if len(digits) <= DIGITS else None


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _shallow(text: str) -> str:
    """Return JSON with null in place of what is nested deeper than `DEPTH`."""
    kept: list[str] = []
    depth = begin = 0
    for token in TOKENS.finditer(text):
        if token[0] in ("[", "{"):
            depth += 1
            if depth == DEPTH:
                kept += text[begin : token.start()], "null"
        elif token[0] in ("]", "}"):
            if depth == DEPTH:
                begin = token.end()
            depth -= 1
    return "".join(kept) + text[begin:]


def _plain(value: Any, depth: int = DEPTH) -> Any:
    if isinstance(value, str):
        return mask(_whole(value))
    if not isinstance(value, (dict, list)):
        return value
    if not depth:
        return None
    if isinstance(value, list):
        return [_plain(part, depth - 1) for part in value]
    return {_plain(name): _plain(part, depth - 1) for name, part in value.items()}


def _whole(text: str) -> str:
    """Return a text with U+FFFD for each half of a surrogate pair."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def fields(body: Any) -> Mapping[str, Any]:
    """Return a body that is an object, nothing of any other."""
    return body if isinstance(body, dict) else {}


def said(body: Any, otherwise: str = "") -> str:
    """Return what an error answer says, in its own words and on one line."""
    body = fields(body)
    words = body.get("detail") or body.get("error") or body.get("message")
    parts = words if isinstance(words, list) else [words]
    return clean("; ".join(_words(part) for part in parts if part)) or clean(otherwise)


def _words(part: Any) -> str:
    if isinstance(part, dict):
        part = part.get("msg") or part.get("message") or part
    return str(part)


def request_id(body: Any, headers: Mapping[str, str]) -> str | None:
    """Return the id that a submission was given: of the body, the headers, or one of its addresses."""
    body = fields(body)
    candidates = [body.get("request_id"), headers.get("x-fal-request-id")]
    for name in ("response_url", "status_url", "cancel_url"):
        found = re.search(r"/requests/([^/?#]+)", text(body.get(name)))
        candidates.append(found and unquote(found[1]))
    return next((id for candidate in candidates if (id := _id(candidate))), None)


def _id(value: Any) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip() or "\ufffd" in value:
        return None
    return value if len(value) <= ID_LENGTH else None


def in_path(request_id: str) -> str:
    """Return an id as one segment of an address's path, whatever characters it has."""
    segment = quote(request_id, safe="")
    return segment if segment.strip(".") else segment.replace(".", "%2E")


def text(value: Any) -> str:
    """Return a value that is text, otherwise nothing."""
    return value if isinstance(value, str) else ""


def status(body: Any) -> Status:
    """Return what a status answer says; raise GenerationError for a failure, PollError where it says nothing."""
    known = fields(body)
    stage = _stage(known)
    if stage in FAILED:
        raise _failed_status(known, stage)
    if stage == "IN_QUEUE":
        return Status(stage, queue_position=_position(known.get("queue_position")))
    if stage == "IN_PROGRESS":
        return Status(stage, log=_last_line(known.get("logs")))
    if stage != "COMPLETED":
        raise PollError(f"fal gives no status: {said(body, stage or str(body))}")
    return Status(
        stage,
        inference_s=seconds(fields(known.get("metrics")).get("inference_time")),
        failed=bool(known.get("error") or known.get("error_type")),
        log=_last_line(known.get("logs")),
    )


def _stage(known: Mapping[str, Any]) -> str:
    return text(known.get("status")).strip().upper()


def _failed_status(known: Mapping[str, Any], stage: str) -> GenerationError:
    is_cancelled = stage.startswith("CANCEL")
    kind = clean(text(known.get("error_type")), 100) or (CANCELLED if is_cancelled else "generation_failed")
    words = said(known, f"fal says {stage}")
    return GenerationError(f"{words} ({stage})", error_type=kind, may_have_cost=not is_cancelled)


def _position(value: Any) -> int | None:
    number = _number(value)
    return None if number is None or not 0 <= number < 1e9 else int(number)


def seconds(value: Any) -> float | None:
    """Return a time span in seconds, None where it is no number of them."""
    number = _number(value)
    return None if number is None or not 0 <= number < 1e9 else number


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return _finite(str(value))
    except ValueError:
        return None


def _last_line(logs: Any) -> str:
    last = logs[-1] if isinstance(logs, list) and logs else logs
    last = last.get("message") if isinstance(last, dict) else last
    lines = text(last).strip().splitlines()
    return clean(lines[-1]) if lines else ""


def video_url(result: Any, layers: int = 3) -> str | None:
    """Return the address of a result's one video, None where there is none that could be fetched.

    It may be an object or the address itself, the only one of a list, and be wrapped in up to two layers.
    """
    if not layers:
        return None
    if isinstance(result, list) and len(result) == 1:
        return video_url(result[0], layers - 1)
    known = fields(result)
    found = (_url(known.get(name)) for name in VIDEOS)
    wrapped = (video_url(known.get(name), layers - 1) for name in WRAPPERS)
    return next((url for urls in (found, wrapped) for url in urls if url), None)


def _url(video: Any) -> str | None:
    if isinstance(video, list) and len(video) == 1:
        return _url(video[0])
    url = text(video.get("url") if isinstance(video, dict) else video)
    try:
        parts = urlsplit(url)
        return url if parts.scheme in ("http", "https") and parts.hostname and url.isprintable() else None
    except ValueError:
        return None


def address(value: Any) -> str:
    """Return where fal says that an upload is; raise ValueError where it does not."""
    found = _url(value)
    if found is None:
        raise ValueError("fal's storage gives no address")
    return found


def answer_text(result: Any, layers: int = 3) -> str | None:
    """Return the text that a model that looks at videos has answered, which may be empty; None where there is none."""
    known = fields(result)
    if isinstance(known.get(TEXT), str):
        return str(known[TEXT])
    inner = (known.get(name) for name in WRAPPERS) if layers else ()
    return next((found for one in inner if (found := answer_text(one, layers - 1)) is not None), None)


def usage_usd(result: Any, layers: int = 3) -> float | None:
    """Return what an answer's result says that it has cost in USD, None where it does not."""
    known = fields(result)
    usd = fields(known.get("usage")).get("cost")
    if isinstance(usd, int | float) and not isinstance(usd, bool) and 0 <= usd < MOST_USD:
        return float(usd)
    inner = (known.get(name) for name in WRAPPERS) if layers else ()
    return next((found for one in inner if (found := usage_usd(one, layers - 1)) is not None), None)


def has(product: Product, result: Any, failed: bool = False) -> bool:
    """Tell whether a result has what was bought; `failed` is what the status said of it.

    An answer may be empty, but not beside a failure.
    """
    if product is Product.VIDEO:
        return bool(video_url(result))
    text = answer_text(result)
    return text is not None and bool(text.strip() or not (failed or _is_failure(fields(result))))


def _is_failure(known: Mapping[str, Any]) -> bool:
    return bool(_stage(known) in FAILED or known.get("detail") or known.get("error"))


def delivered(body: Any, shown: str, failed: bool, product: Product = Product.VIDEO) -> Any:
    """Return the result of a successful answer; `shown` is its text, `failed` what the status said.

    Raises PollError where it is none yet, GenerationError where it is an error under another name, and
    UnreadableResultError where its product is in no place that is known.
    """
    if has(product, body, failed):
        return body
    known = fields(body)
    stage, words = _stage(known), said(body, shown)
    if body is None or IN_PROGRESS in words.lower() or stage in ("IN_QUEUE", "IN_PROGRESS"):
        raise PollError(f"fal's result names no {product}: {clean(shown) or 'it is empty'}")
    if failed or _is_failure(known):
        raise GenerationError(words, error_type=_kind(known, {}) or "generation_failed", may_have_cost=True)
    raise UnreadableResultError(
        f"fal's result names no {product} in a place that is known: {clean(shown)}", body
    )


def failure(
    code: int, body: Any, headers: Mapping[str, str], shown: str, failed: bool
) -> GenerationError | None:
    """Return the error that a request ended in; None where an answer does not make that certain.

    Certain is what the status said (`failed`), what the model says itself (a list of typed details),
    and a 422. Anything else may be the queue's own trouble with a video that is there and paid for.
    """
    words = said(body, shown)
    kind = _kind(fields(body), headers)
    by_model = _detail(fields(body)) is not None
    by_status = failed and bool(kind or (code not in TRANSIENT and IN_PROGRESS not in words.lower()))
    if not (by_model or code == 422 or by_status):
        return None
    return GenerationError(
        f"{words} ({code})",
        error_type=kind or "unprocessable",
        may_have_cost=code < 500 and kind != CANCELLED,
    )


def _kind(known: Mapping[str, Any], headers: Mapping[str, str]) -> str:
    """Return fal's word for an error, that of the model before the queue's."""
    detail = _detail(known) or {}
    kinds = (detail.get("type"), known.get("error_type"), headers.get("x-fal-error-type"))
    return next((found for kind in kinds if (found := clean(text(kind), 100))), "")


def _detail(known: Mapping[str, Any]) -> Mapping[str, Any] | None:
    detail = known.get("detail")
    return detail[0] if isinstance(detail, list) and detail and isinstance(detail[0], dict) else None


def public_keys(body: Any) -> list[bytes]:
    """Return the Ed25519 keys of a JSON Web Key Set, 32 bytes each, and not more than `MOST_KEYS`."""
    listed = fields(body).get("keys")
    texts = [text(fields(one).get("x")) for one in (listed if isinstance(listed, list) else [])[:MOST_KEYS]]
    return [base64.urlsafe_b64decode(one + "=" * (-len(one) % 4)) for one in texts if KEY.fullmatch(one)]


def page(body: Any) -> tuple[list[PastRequest], str | None]:
    """Return a page of the history and what asks for the next; raise PollError where it is none."""
    known = fields(body)
    if not isinstance(known.get("items"), list):
        raise PollError(f"fal's history is not a list: {said(body, str(body))}")
    return [past for item in known["items"] if (past := _past(fields(item)))], _cursor(known)


def prices(body: Any) -> dict[str, Price]:
    """Return what fal says that a unit of each endpoint costs, as far as it can be read."""
    listed = fields(body).get("prices")
    found = {
        text(one.get("endpoint_id")): told_price(one.get("unit_price"), one.get("unit"), one.get("currency"))
        for one in map(fields, listed if isinstance(listed, list) else [])
    }
    return {endpoint: price for endpoint, price in found.items() if price}


def bills(body: Any) -> tuple[list[tuple[str, float]], str | None]:
    """Return a page of what requests were charged in USD, and what asks for the next; raise PollError where it is none."""
    known = fields(body)
    if not isinstance(known.get("billing_events"), list):
        raise PollError(f"fal's bills are not a list: {said(body, str(body))}")
    events = [
        (text(event.get("request_id")), _number(event.get("cost_total")))
        for event in map(fields, known["billing_events"])
    ]
    return [(found, usd) for found, usd in events if found and usd is not None and usd >= 0], _cursor(known)


def _cursor(known: Mapping[str, Any]) -> str | None:
    cursor = known.get("next_cursor")
    return str(cursor) if known.get("has_more") and isinstance(cursor, (str, int)) and cursor != "" else None


def _past(item: Mapping[str, Any]) -> PastRequest | None:
    found = _id(item.get("request_id"))
    if found is None:
        return None
    return PastRequest(
        found, _moment(item.get("sent_at")), _object(item.get("json_input")), _object(item.get("json_output"))
    )


def _object(value: Any) -> Mapping[str, Any] | None:
    """Return an object, which may be given as its JSON."""
    if isinstance(value, str):
        value = read(value.encode())
    return value if isinstance(value, dict) else None


def _moment(value: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text(value))
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
