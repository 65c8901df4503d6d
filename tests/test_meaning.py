"""What the statistics answer to, on shots made here: the benchmark's own doses, a few of them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import clips
import numpy as np
import pandas as pd
import pytest

spec = importlib.util.spec_from_file_location("meaning", Path(__file__).parents[1] / "benchmarks/meaning.py")
meaning = sys.modules["meaning"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(meaning)


def test_verdicts():
    """Tells what rises, falls, stays and is mixed, by most shots, and where one of them can't be measured."""
    courses = {
        "sharpness": [[10, 20, 30], [10, 15, 18], [10, 30, 60], [10, 12, 19]],
        "edge_width": [[3, 2, 1], [3, 2, 1], [3, 2, 1], [1, 2, 3]],
        "luma_mean": [[0.5, 0.51, 0.5], [0.4, 0.4, 0.41], [0.5, 0.52, 0.5], [0.2, 0.2, 0.2]],
        "noise_sigma": [[1, 3, 1], [1, 3, 1], [1, 0.2, 0.1], [1, 3, 9]],
        "motion": [[np.nan, 1, 2]] * 4,
    }
    rows = [
        (shot, "blur" if number else "", dose, name, value)
        for name, course in courses.items()
        for shot, values in enumerate(course)
        for number, (dose, value) in enumerate(zip((0, 1, 2), values, strict=True))
    ]
    table = pd.DataFrame(rows, columns=["shot", "change", "dose", "statistic", "value"])
    (blur,) = (change for change in meaning.CHANGES if change.name == "blur")
    wide = meaning.verdicts(table, [blur])
    expected = {"sharpness": "+", "edge_width": "-", "luma_mean": ".", "noise_sigma": "?", "motion": "n"}
    assert wide["blur"].to_dict() == expected
    assert meaning.traps(wide) == {name: ["blur"] if name == "edge_width" else [] for name in expected}


@pytest.mark.slow
def test_what_the_statistics_are_for(tmp_path):
    """Holds on a shot that was made: each answers to what it is for, and not to what it is said not to."""
    pan = clips.pan(4, size=(320, 180), frames=36)
    shot = [(np.where(y > 125, 190, 60).astype(np.uint8), u, v) for y, u, v in pan]
    wanted = ("blur", "noise", "flatter", "doubled", "frozen", "bars", "cuts", "flash", "grey")
    changes = [change for change in meaning.CHANGES if change.name in wanted]
    wide = meaning.verdicts(meaning.measured([shot], tmp_path, changes), changes)
    answers = {
        "edge_width": {"blur": "+", "noise": ".", "flatter": "."},
        "noise_sigma": {"noise": "+"},
        "luma_contrast": {"flatter": "-", "bars": "."},
        "luma_mean": {"bars": ".", "grey": "."},
        "saturation_mean": {"grey": "-"},
        "stutter_share": {"doubled": "+"},
        "frozen_share": {"frozen": "+", "doubled": ".", "noise": "."},
        "cuts": {"cuts": "+", "flash": ".", "grey": ".", "noise": "."},
        "bars_share": {"bars": "+", "blur": "."},
    }
    found = {name: {change: wide.loc[name, change] for change in said} for name, said in answers.items()}
    assert found == answers
