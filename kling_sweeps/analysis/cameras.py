"""How often a camera did what the prompt asked of it."""

from __future__ import annotations

from collections import Counter
from math import nan

import pandas as pd
from scipy import stats

from kling_sweeps.analysis.pairing import levels_of
from kling_sweeps.metrics.camera import asked

UNCLEAR = "unclear"


def cameras(runs: pd.DataFrame, factor: str = "camera", confidence: float = 0.95) -> pd.DataFrame:
    """Hold what a setting asks of the camera against what was measured, a row a level of `runs_df`'s param `factor`.

    The columns: the factor by its name, or `params.NAME`; `asked`, the words for cameras that the text asks for, after
    `kling_sweeps.metrics.camera.asked`; `runs` that finished and `unclear` ones among them, of which nothing can be said; `did`, how many of
    the others have one of the words; `share`, what part of them that is, with its interval from `low` to `high` (Wilson 1927), NaN where the
    text asks for no camera or nothing can be said of any; `measured`, each word with its number. Raises LookupError
    where the runs have no such param.
    """
    rows = []
    for level in levels_of(runs, factor):
        own = runs[(runs[factor] == level) & (runs["status"] == "FINISHED")]
        counts = Counter(own["camera_word"].dropna())
        wanted = asked(str(level))
        clear = counts.total() - counts[UNCLEAR]
        did = sum(counts[word] for word in wanted)
        is_known = bool(wanted and clear)
        interval = stats.binomtest(did, clear).proportion_ci(confidence, "wilson") if is_known else None
        rows.append(
            {
                factor: level,
                "asked": ", ".join(wanted),
                "runs": len(own),
                UNCLEAR: counts[UNCLEAR],
                "did": did,
                "share": did / clear if is_known else nan,
                "low": interval.low if interval else nan,
                "high": interval.high if interval else nan,
                "measured": ", ".join(f"{word} {number}" for word, number in counts.most_common()),
            }
        )
    return pd.DataFrame(rows)
