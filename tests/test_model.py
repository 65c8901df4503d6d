"""Arguments are read and checked as the model's file declares them."""

import pytest
from test_config import read

from kling_sweeps.experiment.model import read_model
from kling_sweeps.experiment.price import read_price

MODEL = {
    "name": "m",
    "endpoint": "owner/app/path",
    "arguments": {
        "prompt": {"role": "prompt", "type": "string", "maxLength": 2500},
        "cfg_scale": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.5},
        "duration": {"role": "seconds", "enum": ["5", "10", "auto"], "default": "5"},
        "aspect_ratio": {"role": "shape", "enum": ["16:9", "1:1"], "default": "16:9"},
        "generate_audio": {"type": "boolean", "default": True},
        "steps": {"type": "integer", "minimum": 1, "maximum": 50, "default": 20},
        "seed": {"role": "seed", "anyOf": [{"type": "integer"}, {"type": "null"}]},
        "frames": {"anyOf": [{"type": "integer", "maximum": 100}, {"type": "null"}], "default": 81},
        "style": {"enum": ["yes", "no", "1e-5"], "default": "yes"},
        "length": {"enum": [4, 8], "default": 4},
        "step": {"type": "number", "multipleOf": 0.05, "default": 0.5},
        "negative_prompt": {"type": "string"},
        "size": {
            "anyOf": [
                {"type": "object", "properties": {"width": {"type": "integer", "maximum": 2000}}},
                {"type": "string", "enum": ["square", "wide"]},
            ],
            "default": "wide",
        },
        "shots": {
            "type": "array",
            "maxItems": 2,
            "items": {"type": "object", "required": ["text"], "properties": {"s": {"enum": ["1", "2"]}}},
            "default": [],
        },
        "expand": {"role": "rewrites_prompt", "type": "boolean", "default": False, "fal_default": True},
    },
    "required": ["prompt"],
    "price": {"usd": 0.28, "per": "second", "tiers": [{"usd": 0.5, "when": {"generate_audio": False}}]},
}
PICTURE = {"role": "image", "type": "string"}


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
        "frames": 81,
        "style": "yes",
        "length": 4,
        "step": 0.5,
        "size": "wide",
        "shots": [],
        "expand": False,
    }


@pytest.mark.parametrize("duration", [10, "10", 10.0])
def test_spellings_of_a_duration_are_one(duration):
    """Reads the same duration from a number and from a text."""
    arguments, _ = read_model(MODEL).read_arguments({"prompt": "a", "duration": duration})
    assert arguments["duration"] == "10"


@pytest.mark.parametrize(
    ("name", "value", "sent"),
    [
        ("cfg_scale", 0.1 + 0.2, 0.3),
        ("steps", "20", 20),
        ("steps", 20.0, 20),
        ("seed", 2**63 + 1, 2**63 + 1),
        ("seed", "18446744073709551615", 2**64 - 1),
        ("length", "8", 8),
        ("length", 8.0, 8),
        ("step", 0.15, 0.15),
        ("frames", None, None),
        ("size", {"width": "720"}, {"width": 720}),
        ("shots", [{"text": "a", "s": 2}], [{"text": "a", "s": "2"}]),
    ],
)
def test_a_value_is_sent_as_its_schema_has_it(name, value, sent):
    """Reads the value as the type that is sent, in lists and mappings too; null where that is a value."""
    arguments, problems = read_model(MODEL).read_arguments({"prompt": "a", name: value})
    assert problems == []
    assert arguments[name] == sent and type(arguments[name]) is type(sent)


@pytest.mark.parametrize("name", ["seed", "negative_prompt"])
def test_what_has_no_default_is_left_to_fal(name):
    """Sends nothing for an argument that is optional and not given, or given as null."""
    for given in ({}, {name: None}):
        arguments, problems = read_model(MODEL).read_arguments({"prompt": "a", **given})
        assert problems == [] and name not in arguments


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
        ("cfg_scale", None, "no value"),
        ("seed", "high", "is not a whole number"),
        ("frames", 101, "is not a whole number of at most 100"),
        ("style", False, "YAML reads an unquoted no as false: write '\"no\"'"),
        ("style", 1e-5, "YAML reads an unquoted 1e-5 as 1e-05: write '\"1e-5\"'"),
        ("step", 0.16, "is not a number in steps of 0.05"),
        ("size", "square_hd", "is not allowed; allowed are square, wide"),
        ("size", 5, "is not a mapping of width or one of square, wide"),
        ("size", {"width": 2001}, "size.width=2001 is not a whole number of at most 2000"),
        ("shots", "a", "is not a list"),
        ("shots", [{"text": ""}] * 3, "has 3 items; at most 2 are allowed"),
        ("shots", [{"text": "a", "s": "3"}], "shots[0].s=3 is not allowed; allowed are 1, 2"),
        ("shots", [{"s": "1"}], "has no text"),
        ("shots", [{"text": "a\x00"}], "NUL"),
    ],
)
def test_a_value_out_of_range_is_a_problem(name, value, said):
    """Names the key, the value and what is allowed."""
    _, problems = read_model(MODEL).read_arguments({"prompt": "a", name: value})
    assert len(problems) == 1
    assert problems[0].startswith(name)
    assert said in problems[0]


def test_alternatives_may_be_nothing_at_all():
    """Names what is allowed where one of the alternatives allows nothing."""
    odd = read_model(
        {**MODEL, "arguments": {"a": {"anyOf": [False, {"enum": ["x"]}]}}, "required": [], "price": None}
    )
    assert odd.read_arguments({"a": 5})[1] == ["a=5 is not allowed; allowed are x"]


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


@pytest.mark.parametrize(
    ("price", "seconds", "usd"),
    [
        ({"usd": 0.28, "per": "second"}, 5, 1.40),
        ({"usd": 0.28, "per": "seconds"}, 10, 2.80),
        ({"usd": 0.5, "per": "5 seconds"}, 6, 1.00),
        ({"usd": 0.45, "per": "video"}, None, 0.45),
        ({"usd": 0.28, "per": "second"}, None, None),
    ],
)
def test_a_price_is_of_a_unit(price, seconds, usd):
    """Charges for a video, or for units of seconds, one that is begun too; not where the seconds are unknown."""
    assert read_price(price).of({}, seconds) == usd


def test_the_price_of_a_model_follows_its_arguments():
    """Takes a tier where its condition holds, the longest where fal chooses the seconds, none where there is none."""
    model = read_model(MODEL)
    assert model.price_usd({"duration": "5", "generate_audio": True}) == 1.40
    assert model.price_usd({"duration": "5", "generate_audio": False}) == 2.50
    assert model.price_usd({"duration": "auto"}) == 2.80
    assert read_model({**MODEL, "price": None}).price_usd({"duration": "5"}) is None


def test_the_plan_is_told_what_is_left_to_the_model():
    """Says when a switch rewrites the prompt, and when the seconds are not known."""
    model = read_model(MODEL)
    assert model.remarks(model.read_arguments({"prompt": "a"})[0]) == []
    (rewritten,) = model.remarks({"duration": "5", "expand": True})
    assert "expand=true lets m rewrite the prompt" in rewritten
    (longest,) = model.remarks({"duration": "auto", "expand": False})
    assert "that of 10" in longest


@pytest.mark.parametrize(
    ("shape", "seconds", "ratio", "duration"),
    [
        ("16:9", "5", 16 / 9, 5),
        ("auto", "auto", None, None),
        ({"width": 720, "height": 480}, "8s", 1.5, 8),
        ("portrait_16_9", 6, 9 / 16, 6),
        ({"width": 3}, [5], None, None),
        (None, None, None, None),
        ("0:9", "-5", None, None),
    ],
)
def test_what_is_asked_for_is_read_where_it_is_definite(shape, seconds, ratio, duration):
    """Reads ratios, presets and sizes, and seconds in all their spellings; nothing of what is left to the model."""
    asked = read_model(MODEL).requested({"prompt": "a cat", "aspect_ratio": shape, "duration": seconds})
    assert (asked.aspect_ratio, asked.duration_s, asked.prompt) == (ratio, duration, "a cat")


@pytest.mark.parametrize(
    ("picture", "is_good"), [("https://a/b.png", True), ("data:image/png;base64,", True), ("b.png", False)]
)
def test_a_picture_is_an_address(picture, is_good):
    """Refuses what fal could not fetch."""
    model = read_model({**MODEL, "arguments": {"image_url": PICTURE}, "required": [], "price": None})
    assert (model.read_arguments({"image_url": picture})[1] == []) is is_good


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"endpont": "x"}, "model.endpont is unknown"),
        ({"endpoint": ""}, "no endpoint"),
        ({"arguments": {"a": {"type": "text"}}}, "model.arguments.a.type is 'text'"),
        ({"arguments": {"a": {"type": "float"}}}, "JSON Schema calls it number"),
        (
            {"arguments": {"a": {"type": "number", "min": 0}}},
            "a.min is unknown; JSON Schema calls it minimum",
        ),
        ({"arguments": {"a": {"enum": []}}}, "model.arguments.a.enum"),
        ({"arguments": {"a": {"type": "string", "enum": [5]}}}, "has 5, which is no text; quote it"),
        ({"arguments": {"a": {"type": "integer", "default": "x"}}}, "a.default=x is not a whole number"),
        (
            {"arguments": {"a": {"anyOf": [{"typ": "string"}]}}},
            r"anyOf\[0\].typ is unknown; did you mean type",
        ),
        ({"arguments": {"a": {"pattern": "("}}}, "a.pattern: .* is not a .regex."),
        ({"arguments": {"a": {"role": "length"}}}, "a.role is 'length'"),
        ({"arguments": {"a": {"role": "seed"}, "b": {"role": "seed"}}}, "a and b have the role seed"),
        ({"arguments": {"a": 3}}, "a mapping is needed"),
        (
            {"arguments": {"a": {"properties": [1]}}},
            r"model.arguments.a.properties: \[1\] is not of type 'object'",
        ),
        (
            {"arguments": {"a": {"additionalProperties": {"role": "image", "type": "string"}}}},
            "model.arguments.a.additionalProperties.role is 'image', which is looked for in items, properties",
        ),
        (
            {"arguments": {"a": {"items": {"role": "seed", "type": "integer"}}}},
            "model.arguments.a.items.role is 'seed'; a part of an argument may be an image alone",
        ),
        ({"arguments": {"a": {"x-fal": {"min_width": "wide"}}}}, "model.arguments.a.x-fal is"),
        ({"arguments": {"a": {"type": 5}}}, "model.arguments.a.type is 5; valid are string"),
        ({"arguments": {"a": {"anyOf": 5}}}, "model.arguments.a.anyOf: 5 is not of type 'array'"),
        ({"arguments": {"a": {"enum": 5}}}, "model.arguments.a.enum: 5 is not of type 'array'"),
        ({"required": [[1]]}, "a list of names is needed"),
        ({"required": ["promt"]}, "names promt, which is no argument; did you mean prompt"),
        ({"required": "prompt"}, "a list of names is needed"),
        ({"price": {"first_usd": 1}}, "first_usd is unknown; valid are usd, per"),
        ({"price": {"usd": 1, "per": "minute"}}, "is no unit"),
        ({"price": {"usd": -1, "per": "video"}}, "0 or more"),
        (
            {"price": {"usd": 1, "per": "video", "tiers": [{"usd": 1, "when": {"x": 1}}]}},
            "when.x is no argument",
        ),
    ],
)
def test_a_wrong_model_file_is_refused(change, said):
    """Names the key of the file that is wrong."""
    with pytest.raises(ValueError, match=said):
        read_model({**MODEL, **change})


KEYS = {
    "kling_v1.6_pro": ("c5010e18681117b3", "927564b4781926e9"),
    "kling_v2.1_master": ("d870c3e44f0ddaf8", "7a20fcb869cb7bd7"),
    "kling_v2.5_turbo_pro": ("2aefc5ad473a1e0b", "30d9f1c4a989265c"),
    "kling_v2_master": ("b5c901b32cb3a843", "159579d121eabf34"),
}


@pytest.mark.parametrize(("model", "keys"), KEYS.items())
def test_what_was_paid_for_is_found_again(model, keys):
    """Keeps the keys under which stores have videos since before model files were JSON Schema."""
    changed = ("cfg_scale='0.7'", "duration='10'", "aspect_ratio='1:1'", "prompt=fox")
    found = [read(f"model={model}", *overrides)[1].request.key[:16] for overrides in ((), changed)]
    assert found == [*keys]
