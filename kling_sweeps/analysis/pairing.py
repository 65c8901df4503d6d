"""Which runs can be compared: those that differ in one factor, and in nothing else that was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from kling_sweeps.experiment.reader import close
from kling_sweeps.metrics import describe

# What conf/metrics/ has, the quickest first.
SETS = ("fast", "default", "full")
# Two params for the same thing: where one is the factor, the other can't be held constant.
TWINS = ({"prompt", "prompt_text"}, {"model", "endpoint"})


@dataclass(frozen=True)
class Pairing:
    """The runs of a factor, all of them, in blocks whose runs differ in the factor and the sample alone.

    `level` and `block` number each run's; `prompts` has a row for each prompt and a column for each block,
    1 where the block is of the prompt. `tied` are params that change with the factor, so that their
    effects can't be told from its own.
    """

    factor: str
    levels: Sequence[Any]
    level: np.ndarray
    block: np.ndarray
    prompts: np.ndarray
    prompt_names: Sequence[str]
    tied: Sequence[str]

    def runs_of(self, level: int) -> np.ndarray:
        """Return a row for each block and a column for each run, 1 where the run is of both block and level."""
        blocks = np.arange(self.prompts.shape[1])[:, None]
        is_of: np.ndarray = (self.block == blocks) & (self.level == level)
        return is_of.astype(float)


def paired(runs: pd.DataFrame, factor: str) -> Pairing:
    """Pair the runs of `runs_df`; raise LookupError where they have no such param."""
    levels = levels_of(runs, factor)
    rows = runs[runs[factor].notna()]
    ignored = {"sample", factor}.union(*(twins for twins in TWINS if factor in twins))
    # A text that no two levels share is made by the factor, as by one of a template.
    is_made = {"prompt", "prompt_text"} <= {*rows} and is_function(rows, factor, "prompt_text")
    if is_made and factor not in TWINS[0]:
        ignored.add("prompt_text")
        # A template of the command line is its own id: what stands in it for the factor tells none from another.
        told = zip(rows["prompt"], rows["prompt_text"], rows[factor], strict=True)
        templates = [_template(prompt, text, level, factor) for prompt, text, level in told]
        rows = rows.assign(prompt=np.array(templates, dtype=object))
    free = [name for name in listed(runs, "params") if name not in ignored]
    made = [name for name in free if name != "prompt" and is_function(rows, name, factor)]
    constant = [name for name in free if name not in made]
    block = _numbered(rows, constant)
    # What every text has one value of is a part of the prompt, as are the other factors of a template.
    texts = [name for name in constant if "prompt_text" not in rows or is_function(rows, name, "prompt_text")]
    prompt = _numbered(rows, texts)
    of_block = np.zeros((prompt.max() + 1, block.max() + 1))
    of_block[prompt, block] = 1
    return Pairing(
        factor,
        levels,
        np.array([levels.index(value) for value in rows[factor]]),
        block,
        of_block,
        _names(rows, texts, prompt),
        [name for name in made if rows[name].nunique(dropna=False) > 1],
    )


def values_of(runs: pd.DataFrame, factor: str, names: Sequence[str]) -> np.ndarray:
    """Return a row for each run of a pairing and a column for each metric, NaN where there is no value."""
    rows = runs[runs[factor].notna()]
    values = rows[list(names)].to_numpy(dtype=float, copy=True)
    values[(rows["status"] != "FINISHED").to_numpy()] = np.nan
    return values


def levels_of(runs: pd.DataFrame, factor: str) -> list[Any]:
    """Return the values of a factor, in their order; raise LookupError where the runs have no such param."""
    params = listed(runs, "params")
    levels = sorted(runs[factor].dropna().unique().tolist()) if factor in params else []
    if not levels:
        raise LookupError(f"the runs have no param {factor!r}{close(factor, params)}")
    return levels


def reference_of(levels: Sequence[Any], factor: str, reference: object) -> int:
    """Return the number of the reference level, the first unless given; raise LookupError for no level."""
    if reference is None:
        return 0
    if reference not in levels:
        raise LookupError(f"{factor} has no level {reference!r}; it has {', '.join(map(plain, levels))}")
    return levels.index(reference)


def listed(runs: pd.DataFrame, kind: str) -> list[str]:
    """Return the columns of a kind, params or metrics; raise LookupError for what `runs_df` did not make."""
    if kind not in runs.attrs:
        raise LookupError(f"the table lacks .attrs[{kind!r}]: copy .attrs from that of runs_df")
    return [name for name in runs.attrs[kind] if name in runs]


def check_metrics(runs: pd.DataFrame, metrics: Sequence[str]) -> None:
    """Raise LookupError for a metric that the runs don't have."""
    known = listed(runs, "metrics")
    if missing := [name for name in metrics if name not in known]:
        raise LookupError(
            f"the runs have no metric {missing[0]!r}{_measuring(missing[0]) or close(missing[0], known)}"
        )


def _measuring(metric: str) -> str:
    """Return how a metric of this package is measured, "" for any other."""
    for name in SETS:
        if any(value.name == metric for value in describe(name)):
            return f"; the same command with metrics={name} measures it, for nothing"
    return ""


def is_function(rows: pd.DataFrame, name: str, of: str) -> bool:
    """Tell whether a param has one value for each value of another."""
    return bool(rows.groupby(of, dropna=False)[name].nunique(dropna=False).max() < 2)


def _template(prompt: object, text: object, level: object, factor: str) -> object:
    return str(prompt).replace(str(level), f"${{{factor}}}") if prompt == text else prompt


def _numbered(rows: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    """Number the combinations of some params, from 0, and return that of each run."""
    if not names:
        return np.zeros(len(rows), dtype=int)
    return rows.groupby(list(names), dropna=False).ngroup().to_numpy()


def _names(rows: pd.DataFrame, texts: Sequence[str], prompt: np.ndarray) -> list[str]:
    """Return what each prompt is called: by its id, and by what else tells it from others."""
    first = rows.iloc[np.unique(prompt, return_index=True)[1]]
    told = [n for n in texts if n == "prompt" or (n != "prompt_text" and first[n].nunique(dropna=False) > 1)]
    names = [" · ".join(map(str, values)) for values in first[told].itertuples(index=False)]
    return names if told else ["all"] * len(first)


def plain(level: object) -> str:
    """Return a level of a setting as text on one line."""
    return f"{level:g}" if isinstance(level, float) else " ".join(str(level).split())


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table, each by the names of its columns."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
