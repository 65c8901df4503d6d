"""A run's name says what its command varies, and no two different runs of a command have the same."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st

from kling_sweeps import CONF
from kling_sweeps.experiment.config import SWEPT, read_job
from kling_sweeps.experiment.naming import LENGTH, part

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
VALUES = st.one_of(
    TEXTS, st.integers(), st.booleans(), st.floats(allow_nan=False).map(lambda number: number + 0.0)
)


def name(*overrides: str, swept: str | None = None) -> str:
    told = [] if swept is None else [f"++hydra.job.env_set.{SWEPT}='{swept}'"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", [*overrides, *told], return_hydra_config=True)
    return read_job(cfg)[1].name


@pytest.mark.parametrize(
    ("overrides", "swept", "expected"),
    [
        ([], None, "potter · #0"),
        (["cfg_scale=0.7", "sample=3", "store.dir=x", "dry_run=true"], None, "potter · cfg 0.7 · #3"),
        (["prompts=scene", "prompt=scene", "camera='slow pan'"], None, "scene · slow pan · #0"),
        (["cfg_scale=0.7", "duration=10"], "duration", "potter · 10 s · #0"),
        (["prompt=fox", "aspect_ratio='1:1'"], "prompt aspect_ratio", "fox · 1:1 · #0"),
        (["negative_prompt=''"], "negative_prompt", "potter · no negative_prompt · #0"),
        (["negative_prompt='blur, noise'"], "negative_prompt", "potter · not blur, noise · #0"),
        (["model=kling_v2_master", "sample=1"], "model sample", "potter · kling_v2_master · #1"),
        (
            ["+model.arguments.loud={type: boolean, default: true}", "+loud=false"],
            "loud",
            "potter · loud false · #0",
        ),
        (
            ["+model.arguments.steps={type: integer, default: 1}", "+steps=20"],
            "steps",
            "potter · steps 20 · #0",
        ),
        (["model.endpoint=a/b"], "model.endpoint", "potter · model.endpoint a/b · #0"),
        (["prompts=scene", "prompt=scene"], "prompts", "scene · prompts scene · #0"),
    ],
)
def test_a_name_says_what_varies(overrides, swept, expected):
    """Leaves out what all the runs of a sweep have in common, and of a single run what was not given."""
    assert name(*overrides, swept=swept) == expected


@given(VALUES, VALUES)
def test_names_of_different_values_differ(one, other):
    """Cuts texts that share their beginning, and white space, to different parts of 40 characters at most."""
    assert len(part("steps", one)) <= LENGTH
    if type(one) is type(other) and one != other:
        assert part("steps", one) != part("steps", other)


def test_long_texts_that_begin_alike_are_told_apart():
    """Shows as much of a text as fits, and a digest of the whole."""
    one, other = (
        part("prompt", "A close-up shot of a potter's hands shaping " + end) for end in ("clay", "glass")
    )
    assert one != other
    assert one.startswith("A close-up shot of a potter's")
    assert part("prompt", "a  cat") != part("prompt", "a cat")
    assert part("cfg_scale", 0.1234567) != part("cfg_scale", 0.12345671)
