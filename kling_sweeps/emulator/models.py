"""The endpoints that are emulated: what they cost, and which arguments they refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Problem = dict[str, Any]

# US dollars a second of video, as listed by fal.
USD_PER_SECOND = {
    "fal-ai/kling-video/v1.6/pro/text-to-video": 0.095,
    "fal-ai/kling-video/v2/master/text-to-video": 0.28,
    "fal-ai/kling-video/v2.1/master/text-to-video": 0.28,
    "fal-ai/kling-video/v2.5-turbo/pro/text-to-video": 0.07,
    "fal-ai/kling-video/v2.6/pro/text-to-video": 0.07,
}
TWICE_THE_PRICE_WITH_AUDIO = {"fal-ai/kling-video/v2.6/pro/text-to-video"}
LONGEST_TEXT = 2500
DURATIONS = ("5", "10")
ASPECT_RATIOS = ("16:9", "9:16", "1:1")


def price_usd(endpoint: str, arguments: Mapping[str, Any]) -> float:
    """Return what a video costs in US dollars; 0 where no price is known."""
    audio = endpoint in TWICE_THE_PRICE_WITH_AUDIO and arguments.get("generate_audio", True)
    seconds = billable_seconds(arguments)
    return round(USD_PER_SECOND.get(endpoint, 0.0) * seconds * (2 if audio else 1), 6)


def billable_seconds(arguments: Mapping[str, Any]) -> int:
    """Return the seconds of video that a request asks for; 0 where that can't be read."""
    duration = str(arguments.get("duration", "5"))
    return int(duration) if duration in DURATIONS else 0


def problems(arguments: Mapping[str, Any]) -> list[Problem]:
    """Return what is wrong with arguments, in the shape of fal's `detail` list."""
    return [problem for check in CHECKS for problem in check(arguments)]


def with_defaults(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return valid arguments with those that were left out, `cfg_scale` as a number."""
    filled = {"cfg_scale": 0.5, "duration": "5", "aspect_ratio": "16:9", **arguments}
    return {**filled, "cfg_scale": float(filled["cfg_scale"])}


def _check_prompt(arguments: Mapping[str, Any]) -> Iterator[Problem]:
    if "prompt" not in arguments:
        yield _problem("prompt", "missing", "Field required", None)
        return
    prompt = arguments["prompt"]
    if prompt == "":
        yield _problem("prompt", "string_too_short", "String should have at least 1 character", prompt)
    yield from _text_problems("prompt", prompt)


def _check_negative_prompt(arguments: Mapping[str, Any]) -> Iterator[Problem]:
    yield from _text_problems("negative_prompt", arguments.get("negative_prompt", ""))


def _text_problems(name: str, text: Any) -> Iterator[Problem]:
    if not isinstance(text, str):
        yield _problem(name, "string_type", "Input should be a valid string", text)
    elif len(text) > LONGEST_TEXT:
        yield _problem(name, "string_too_long", f"String should have at most {LONGEST_TEXT} characters", text)


def _check_cfg_scale(arguments: Mapping[str, Any]) -> Iterator[Problem]:
    given = arguments.get("cfg_scale", 0.5)
    try:
        scale = float("nan") if isinstance(given, bool) else float(given)
    except (TypeError, ValueError):
        scale = float("nan")
    if scale != scale:
        yield _problem("cfg_scale", "float_parsing", "Input should be a valid number", given)
    elif scale < 0:
        yield _problem("cfg_scale", "greater_than_equal", "Input should be greater than or equal to 0", given)
    elif scale > 1:
        yield _problem("cfg_scale", "less_than_equal", "Input should be less than or equal to 1", given)


def _check_choice(name: str, choices: tuple[str, ...]) -> Callable[[Mapping[str, Any]], Iterator[Problem]]:
    def check(arguments: Mapping[str, Any]) -> Iterator[Problem]:
        given = arguments.get(name, choices[0])
        if given not in choices:
            expected = " or ".join(f"'{choice}'" for choice in choices)
            yield _problem(name, "literal_error", f"Input should be {expected}", given)

    return check


CHECKS = (
    _check_prompt,
    _check_negative_prompt,
    _check_cfg_scale,
    _check_choice("duration", DURATIONS),
    _check_choice("aspect_ratio", ASPECT_RATIOS),
)


def _problem(name: str, kind: str, message: str, given: Any) -> Problem:
    return {"loc": ["body", name], "msg": message, "type": kind, "input": given}
