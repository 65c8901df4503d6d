"""A small, seeded run of the simulation that shows the intervals of `effects` to be what they say."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

spec = importlib.util.spec_from_file_location(
    "soundness", Path(__file__).parents[1] / "benchmarks/soundness.py"
)
soundness = sys.modules["soundness"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(soundness)


@pytest.mark.parametrize(
    ("scope", "design"),
    [
        ("general", {"prompts": 5, "repeats": 1, "interaction": 1.0}),
        ("general", {"prompts": 8, "repeats": 1, "blocks": 4, "interaction": 1.0}),
        ("these_prompts", {"prompts": 3, "repeats": 3, "interaction": 2.0}),
    ],
)
def test_intervals_cover_what_they_say(scope, design):
    """Has the true effect in 95 % of 600 intervals, as nearly as 600 can tell."""
    assert 0.92 < soundness.coverage(600, scope, **design) < 0.98


def test_few_families_without_effect_have_a_finding():
    """Finds something in about 5 % of the families in which nothing is, as nearly as 100 can tell."""
    assert soundness.false_families(100, "general", 8, 1) <= 0.11


@pytest.mark.slow
def test_looks_find_nothing_where_nothing_is_and_cost_less():
    """Closes about 3 % of the families without effect, at half the price, as nearly as 60 can tell."""
    false, cost, agreed = soundness.by_plan(60, 3, without=4)
    assert false <= 0.1
    assert 0.4 < cost < 0.62
    assert agreed > 0.9


def test_a_judge_who_prefers_a_seat_is_not_found_to_prefer_a_level():
    """Finds what is not there in one fixed order often, and in both orders in about 5 %, as nearly as 60 can tell."""
    fixed, _, both = np.mean([soundness.by_seats(8, 2, 4, 0.0, seed) for seed in range(60)], axis=0)
    assert fixed > 0.3
    assert both <= 0.12
    assert np.mean([soundness.by_seats(8, 2, 4, 1.5, seed)[2] for seed in range(10)]) > 0.5
