"""What each level of a factor does to each metric, by how much, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from kling_sweeps.analysis.comparison import (
    FOUND,
    NOT_DISTINGUISHABLE,
    NOT_REPEATED,
    REFERENCE,
    WORTH_A_LOOK,
    claimed,
    compared,
    holm,
    seen_from,
)
from kling_sweeps.analysis.estimates import GENERAL
from kling_sweeps.analysis.looks import Looks, looked
from kling_sweeps.analysis.pairing import check_metrics, listed, paired, reference_of
from kling_sweeps.analysis.repeats import REPEAT_DISTANCE, further, has_repeats, repeats_df
from kling_sweeps.analysis.statements import looks_statement
from kling_sweeps.experiment.naming import is_of_video

OTHER_REFERENCE = "repeats were added by looks at another reference, so that this interval is too narrow"
COLUMNS = (
    *("scope", "scale", "n_runs", "failed", "prompts", "mean", "difference", "low", "high"),
    *("p", "p_adjusted", "smallest_detectable", "verdict"),
    *("reference", "goal", "confidence", "warning"),
)


def effects(
    runs: pd.DataFrame,
    factor: str,
    metrics: Sequence[str] | None = None,
    reference: object = None,
    confidence: float = 0.95,
    scope: str | None = None,
) -> pd.DataFrame:
    """Return how every level of a factor differs from a reference level, a row a metric and level.

    Finished runs that differ in the factor and the sample alone form a block; the blocks of a prompt are
    averaged, and prompts count alike. `scope="general"` is a claim about prompts in general (Student's t
    over prompts, three at the least), `"these_prompts"` one about these alone (the noise between the
    repeats of a cell, two at the least); None takes the general one from five prompts on. The columns:

    - `metric`, the factor by its name (`params.NAME` where that is taken), `scope`, and `scale`: `log` for
      ratio metrics, whose differences are in percent, or `raw`, in the metric's unit;
    - `n_runs` and `mean` of all runs of the level that have the metric, `failed` runs that have not, and
      `prompts` that have both levels;
    - `difference` to the reference, and its interval from `low` to `high`, each row for itself;
    - `p`, and `p_adjusted`: by Holm among the metrics that were asked for, in `metrics` or as the goals in
      `runs.attrs["goal"]`, and by Benjamini and Hochberg among all others;
    - `smallest_detectable`: how large a difference the same way would have been seen with a power of 80 %, of
      as many comparisons; and the
      `verdict`: `found` (of what was asked for), `worth a look` (of all others), `not distinguishable`,
      `reference`, or why there is no answer;
    - the `reference` level, `goal` (`max`, `min` or ""), `confidence`, and a `warning`, or "".

    `metrics` are, unless given, those of the goal and then all others but bookkeeping and votes, `repeat_distance` among them where there are
    repeats: its row has a cell of `repeats_df` for a run, and unless `scope` says otherwise a claim about prompts in general. `reference` is the lowest level; `attrs["asked"]` names those that were asked for, and
    `attrs["further"]` says what repeats cost, where they are what is missing. Runs whose repeats
    were added by looks (`attrs["looks"]`) are told as `looked` has them, the reference being the plan's, in the
    plan's metrics: `confidence` is that of a row's look, and `attrs["by_looks"]` says how each level stands. Raises LookupError for a factor, level or metric that the runs don't have.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: expected a share between 0 and 1, such as 0.95")
    plan = Looks.of(runs, factor, reference)
    pairing = paired(runs, factor)
    base = reference_of(pairing.levels, factor, plan.reference if plan else reference)
    goal: Mapping[str, str] = runs.attrs.get("goal", {})
    names, asked = _chosen(runs, metrics, goal)
    of_runs = [name for name in names if name != REPEAT_DISTANCE]
    table = compared(runs, factor, of_runs, base, claimed(pairing, scope), confidence)
    if REPEAT_DISTANCE in names:
        # Of repeats there is one value a cell: only other prompts can tell how sure it is.
        repeats = repeats_df(runs)
        of_cells = compared(repeats, factor, [REPEAT_DISTANCE], base, scope or GENERAL, confidence)
        table = pd.concat([table, of_cells], ignore_index=True)
    _judge(table, table["metric"].isin(asked), 1 - confidence)
    if not plan and Looks.of(runs, factor):
        is_compared = table["verdict"] != REFERENCE
        table.loc[is_compared, "warning"] = [
            "; ".join(filter(None, [warning, OTHER_REFERENCE]))
            for warning in table.loc[is_compared, "warning"]
        ]
    by_looks: list[str] = []
    if plan and (planned := [name for name in names if name in plan.metrics]):
        by_plan = looked(runs, plan, confidence, scope)
        others = table[~table["metric"].isin(planned)]
        rows = by_plan.table[by_plan.table["metric"].isin(planned)]
        table = pd.concat([others, rows], ignore_index=True)
        by_looks.append(looks_statement(by_plan, plan))
    table["goal"] = [goal.get(name, "") for name in table["metric"]]
    free = f"params.{factor}" if factor in ("metric", *COLUMNS) else factor
    table = table.rename(columns={"level": free})[["metric", free, *COLUMNS]]
    by_metric = table["metric"].map(names.index).argsort(kind="stable")
    table = table.iloc[by_metric].reset_index(drop=True)
    table.attrs.update(asked=sorted(asked), by_looks=by_looks)
    if (table["verdict"] == NOT_REPEATED).any() and (more := further(runs)):
        table.attrs["further"] = more
    return table


def _chosen(
    runs: pd.DataFrame, metrics: Sequence[str] | None, goal: Mapping[str, str]
) -> tuple[list[str], set[str]]:
    """Return the metrics of a table in their order, and those of them that were asked for."""
    of_cells = [REPEAT_DISTANCE] if has_repeats(runs) else []
    if metrics is not None:
        check_metrics(runs, [name for name in metrics if name not in of_cells])
        return list(metrics), set(metrics)
    known = [*listed(runs, "metrics"), *of_cells]
    first = [name for name in goal if name in known]
    others = [name for name in known if is_of_video(name) and name not in first]
    return [*first, *others], set(first)


def _judge(table: pd.DataFrame, is_asked: pd.Series, alpha: float) -> None:
    """Add what becomes of the p values: adjusted, with a verdict, and what could have been seen."""
    for family, adjust, word in (
        (is_asked, holm, FOUND),
        (~is_asked, stats.false_discovery_control, WORTH_A_LOOK),
    ):
        tested = family & table["p"].notna()
        if not tested.any():
            continue
        rows = table[tested]
        adjusted = adjust(rows["p"].to_numpy())
        table.loc[tested, "p_adjusted"] = adjusted
        table.loc[tested, "smallest_detectable"] = seen_from(rows, alpha / len(rows))
        table.loc[tested, "verdict"] = np.where(adjusted <= alpha, word, NOT_DISTINGUISHABLE)
