"""What the runs of a sweep say: of every factor that varies, in sentences."""

from __future__ import annotations

import pandas as pd

from kling_sweeps.analysis.effects import effects
from kling_sweeps.analysis.pairing import is_function, listed
from kling_sweeps.analysis.statements import MOST, statements

# What says the same as another param, or varies without being chosen.
NO_FACTORS = {"sample", "prompt_text", "endpoint"}


def factors(runs: pd.DataFrame) -> list[str]:
    """Return the params that vary by themselves, as swept; the prompt where it is the only one."""
    varied = [p for p in listed(runs, "params") if p not in NO_FACTORS and runs[p].nunique() > 1]
    chosen: list[str] = []
    for name in sorted(varied, key=lambda name: (name != "prompt", name != "model")):
        if not any(_is_made_by(runs, name, other) for other in chosen):
            chosen.append(name)
    return [name for name in chosen if name != "prompt"] or chosen


def _is_made_by(runs: pd.DataFrame, name: str, other: str) -> bool:
    """Tell whether a param follows from another one; what stands in the text of a prompt makes that instead."""
    if other == "prompt" and "prompt_text" in runs:
        texts = runs[[name, "prompt_text"]].dropna().to_numpy()
        if all(str(level) in text for level, text in texts):
            return False
    return is_function(runs, name, other)


def conclusions(runs: pd.DataFrame, most: int = MOST) -> list[str]:
    """Return what the runs of a sweep say of every factor: at most so many findings, and what could not be told.

    Of a search it is what that has found: the levels that it tried were chosen by how others came out.
    """
    if found := runs.attrs.get("search"):
        return list(found)
    return statements(*(effects(runs, factor) for factor in factors(runs)), most=most)
