"""Arguments are read and checked as the model's file declares them."""

import pytest

from kling_sweeps.experiment.model import Argument, Price, read_model

MODEL = {
    "name": "m",
    "endpoint": "owner/app/path",
    "arguments": {
        "prompt": {"type": "string", "min_length": 1, "max_length": 2500},
        "cfg_scale": {"type": "float", "min": 0, "max": 1, "default": 0.5},
        "duration": {"type": "enum", "values": ["5", "10"], "default": "5"},
        "aspect_ratio": {"type": "enum", "values": ["16:9", "1:1"], "default": "16:9"},
        "generate_audio": {"type": "boolean", "default": True},
        "steps": {"type": "integer", "min": 1, "max": 50, "default": 20},
    },
    "price": {"first_seconds": 5, "first_usd": 1.4, "further_second_usd": 0.28},
}


def test_all_arguments_are_sent_with_their_defaults():
    """Sends every declared argument, whether configured or not."""
    arguments, problems = read_model(MODEL).read_arguments({"prompt": "a cat"})
    assert problems == []
    assert arguments == {
        "prompt": "a cat",
        "cfg_scale": 0.5,
        "duration": "5",
        "aspect_ratio": "16:9",
        "generate_audio": True,
        "steps": 20,
    }


@pytest.mark.parametrize("duration", [10, "10", 10.0])
def test_spellings_of_a_duration_are_one(duration):
    """Reads the same duration from a number and from a text."""
    arguments, _ = read_model(MODEL).read_arguments({"prompt": "a", "duration": duration})
    assert arguments["duration"] == "10"


@pytest.mark.parametrize("cfg_scale", [1, 1.0, "1", "1.0"])
def test_spellings_of_a_number_are_one(cfg_scale):
    """Reads the same number from an integer, a float and a text."""
    arguments, _ = read_model(MODEL).read_arguments({"prompt": "a", "cfg_scale": cfg_scale})
    assert arguments["cfg_scale"] == 1.0
    assert isinstance(arguments["cfg_scale"], float)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("prompt", "", "at least 1 character"),
        ("prompt", " \n", "at least 1 character"),
        ("prompt", "x" * 2501, "2,501 characters"),
        ("prompt", "a\x00b", "NUL"),
        ("prompt", "\ud83d", "surrogate"),
        ("prompt", None, "no value"),
        ("prompt", False, "quote it"),
        ("prompt", 12, "quote it"),
        ("cfg_scale", 1.5, "from 0 to 1"),
        ("cfg_scale", -0.1, "from 0 to 1"),
        ("cfg_scale", float("nan"), "from 0 to 1"),
        ("cfg_scale", "high", "from 0 to 1"),
        ("cfg_scale", True, "from 0 to 1"),
        ("duration", 7, "5, 10"),
        ("duration", 5.5, "5, 10"),
        ("aspect_ratio", "4:3", "16:9, 1:1"),
        ("generate_audio", "yes", "neither true nor false"),
        ("steps", 2.5, "whole number"),
        ("steps", 0, "from 1 to 50"),
        ("steps", float("inf"), "from 1 to 50"),
    ],
)
def test_a_value_out_of_range_is_a_problem(name, value, said):
    """Names the key, the value and what is allowed."""
    _, problems = read_model(MODEL).read_arguments({"prompt": "a", name: value})
    assert len(problems) == 1
    assert problems[0].startswith(f"{name}=")
    assert said in problems[0]


def test_yaml_reads_an_unquoted_ratio_as_a_number():
    """Says how to write 16:9 where YAML made 969 of it."""
    _, problems = read_model(MODEL).read_arguments({"prompt": "a", "aspect_ratio": 969})
    assert "'\"16:9\"'" in problems[0]


def test_a_required_argument_is_missed():
    """Reports an argument that has neither a value nor a default."""
    _, problems = read_model(MODEL).read_arguments({})
    assert problems == ["prompt is missing; m requires it"]


def test_all_problems_are_reported_at_once():
    """Reports every wrong argument, not the first alone."""
    _, problems = read_model(MODEL).read_arguments({"prompt": "", "cfg_scale": 2, "duration": 1})
    assert len(problems) == 3


def test_prompt_of_2500_characters_is_accepted_whole():
    """Counts characters, not bytes, and changes none."""
    text = "🦊" * 2499 + "\n"
    arguments, problems = read_model(MODEL).read_arguments({"prompt": text})
    assert problems == []
    assert arguments["prompt"] == text


@pytest.mark.parametrize(("seconds", "usd"), [(5, 1.40), (10, 2.80), (3, 1.40), (6, 1.68)])
def test_price_grows_with_the_duration(seconds, usd):
    """Charges the first seconds at once and each further one by itself."""
    assert Price(5, 1.4, 0.28).of(seconds) == usd


def test_price_may_be_unknown():
    """Gives no price where the file has none."""
    assert read_model({**MODEL, "price": None}).price_usd({"duration": "5"}) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"endpont": "x"}, "model.endpont is unknown"),
        ({"endpoint": ""}, "no endpoint"),
        ({"arguments": {"a": {"type": "text"}}}, "model.arguments.a.type is 'text'"),
        ({"arguments": {"a": {"type": "float", "mim": 0}}}, "model.arguments.a.mim is unknown"),
        ({"arguments": {"a": {"type": "enum"}}}, "model.arguments.a.values is missing"),
        ({"arguments": {"a": 3}}, "a mapping is needed"),
        ({"price": {"first_usd": 1}}, "three numbers"),
        ({"price": {**MODEL["price"], "first_usd": -1}}, "0 or more"),
    ],
)
def test_a_wrong_model_file_is_refused(change, said):
    """Names the key of the file that is wrong."""
    with pytest.raises(ValueError, match=said):
        read_model({**MODEL, **change})


def test_argument_without_limits_takes_any_text():
    """Limits nothing that the file does not limit."""
    assert Argument("string").read("") == ""
