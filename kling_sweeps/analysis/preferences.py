"""What people preferred: how strong each level of a factor is in pairwise votes, and how sure that is.

The odds that the left of two videos is preferred are those of their levels' strengths (Bradley and Terry 1952) and of
the side; a tie is half a vote for each. The errors are of prompts as clusters (Liang and Zeger 1986), with Student's t
of one degree of freedom less than there are prompts. Where one of two levels has won all the votes on the two, which
has no such error, it is an exact sign test over prompts, at whatever side is the worst.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations, product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import optimize, special, stats

from kling_sweeps.analysis.comparison import FOUND, NOT_DISTINGUISHABLE, REFERENCE, corrected, holm
from kling_sweeps.analysis.estimates import detectable
from kling_sweeps.analysis.pairing import plain
from kling_sweeps.analysis.runs import NoRunsError
from kling_sweeps.analysis.signs import Signs, unbeaten
from kling_sweeps.analysis.votes import by_side
from kling_sweeps.experiment.naming import in_words

if TYPE_CHECKING:
    from statsmodels.genmod.generalized_linear_model import GLMResults

THESE_RATERS, RATERS = "these_raters", "raters"
# So many raters carry a claim about raters in general, and so many prompts one about prompts.
ENOUGH_RATERS, FEWEST_PROMPTS = 5, 3
NEEDED = ("prompt", "rater", "left", "right", "outcome")
# Of a tie for each pair of levels, where the votes alone would have a strength be infinite.
PRIOR_TIE = 0.1
# What further votes are counted for: to tell 60:40 from 50:50.
TOLD = float(special.logit(0.6))


def preferences(
    votes: pd.DataFrame, factor: str, confidence: float = 0.95, scope: str = "these_raters"
) -> pd.DataFrame:
    """Return how strong each level of a factor is in people's votes, a row a level.

    `votes` has a row a vote, as `votes_df` returns it: `prompt`, `rater`, the levels `left` and `right`, and
    `outcome`: 1 where the left one was preferred, 0 the right one, 0.5 a tie. `scope="these_raters"` is a claim about
    the eyes of these raters, `"raters"` about raters in general (five at the least; clustered by both prompt and
    rater (Cameron, Gelbach and Miller 2011), with t of the fewer of them, or by prompt where that is wider). The columns:

    - the factor by its name; `strength`, the log odds of being preferred to the first level, and its interval from
      `low` to `high`, each row for itself;
    - `win_share`, from 0 to 1, of the level's `n` votes, a tie counted as a half; how many `raters` and `prompts` these are of;
    - `p` of no difference to the first level, and `p_adjusted` by Holm;
    - `smallest_detectable`, the share of wins against the first level that would have been seen with a power of 80 %, of
      as many comparisons, and `more_votes`: how many further votes, spread as these are, would make that 60 %;
    - `verdict`: `found`, `not distinguishable`, `reference`, or why there is no answer.

    `.attrs`: `factor`, `scope`, `votes`, `raters`, `prompts`, `confidence`; `side`, how often the left of two equals is
    preferred, with its interval; `never`, the pairs of levels that were not compared; `is_bounded`, whether a tenth of a tie
    was added for each pair, since the votes alone put a strength at infinity: errors are then those of the model where they are
    larger, and `more_votes` is NaN. The p value and the interval, which is open, of a level that won or lost all its votes against
    the first one are then those of a sign test over prompts (of both prompts and raters, the weaker, of raters in general). Raises LookupError for votes without these columns or without
    a vote, and ValueError for outcomes other than those, a level against itself, or votes on several questions.
    """
    _check(votes, confidence, scope)
    levels = _levels(votes)
    raters, prompts = votes["rater"].nunique(), votes["prompt"].nunique()
    reason = _reason(raters, prompts, scope) or _confounded(votes)
    sources = [] if reason else ["prompt"] if scope == THESE_RATERS else ["prompt", "rater"]
    fit = _fitted(votes, levels, sources)
    others = np.arange(len(levels)) > 0
    alpha = 1 - confidence
    seen = detectable(fit.error, fit.freedom, alpha / max(others.sum(), 1))
    p = np.where(others, 2 * stats.t.sf(np.abs(fit.value) / fit.error, fit.freedom), np.nan)
    margin = fit.error * stats.t.isf(alpha / 2, fit.freedom)
    low, high = fit.value - margin, fit.value + margin
    if fit.is_bounded and sources:
        for number, level in enumerate(levels[1:], 1):
            if way := unbeaten(votes, level, levels[0]):
                signs = [Signs.of(votes, level, levels[0], source) for source in sources]
                p[number], least = max(one.p() for one in signs), min(one.least(alpha) for one in signs)
                low[number], high[number] = (least, np.inf) if way > 0 else (-np.inf, -least)
    adjusted = corrected(p, holm)
    more = np.nan if fit.is_bounded else np.ceil(np.maximum(len(votes) * ((seen / TOLD) ** 2 - 1), 0))
    sides = by_side(votes, "left", "right", "level").groupby("level", sort=False)
    table = pd.DataFrame(
        {
            factor: levels,
            "strength": fit.value,
            "low": low,
            "high": high,
            "win_share": sides["won"].mean()[levels].to_numpy(),
            "n": sides.size()[levels].to_numpy(),
            "raters": sides["rater"].nunique()[levels].to_numpy(),
            "prompts": sides["prompt"].nunique()[levels].to_numpy(),
            "p": p,
            "p_adjusted": adjusted,
            "smallest_detectable": special.expit(seen),
            "more_votes": more,
            "verdict": [
                REFERENCE,
                *(_verdict(one, alpha) or reason or "nothing varies" for one in adjusted[1:]),
            ],
        }
    )
    side_margin = fit.side_error * stats.t.isf(alpha / 2, fit.side_freedom)
    compared = {frozenset(pair) for pair in zip(votes["left"], votes["right"], strict=True)}
    table.attrs.update(
        factor=factor,
        scope=scope,
        confidence=confidence,
        votes=len(votes),
        raters=raters,
        prompts=prompts,
        side=special.expit([fit.side, fit.side - side_margin, fit.side + side_margin]).tolist(),
        never=[pair for pair in combinations(levels, 2) if frozenset(pair) not in compared],
        is_bounded=fit.is_bounded,
    )
    return table


def preference_statements(table: pd.DataFrame) -> list[str]:
    """Return what may be said of a table of `preferences`, a sentence a level and what has to be known with them."""
    about, rows = table.attrs, table.to_dict("records")
    factor = about["factor"]
    first = f"{factor} {plain(rows[0][factor])}"
    eyes = _eyes(about)
    among = f", as one of {len(rows) - 1} comparisons," if len(rows) > 2 else ""
    lines: list[str] = []
    untold: dict[str, list[str]] = defaultdict(list)
    for row in rows[1:]:
        name, share = f"{factor} {plain(row[factor])}", special.expit(row["strength"])
        sure = f"{100 * about['confidence']:g}% confidence"
        within = f"({sure}: {_share(special.expit(row['low']))} to {_share(special.expit(row['high']))})"
        if row["verdict"] == FOUND:
            way = "to" if share > 0.5 else "less than"
            verb = "is preferred" if share > 0.5 else "is liked"
            lines.append(f"{eyes}, {name} {verb} {way} {first}, in {_share(share)} of pairs {within}.")
        elif row["verdict"] == NOT_DISTINGUISHABLE:
            more = f" {row['more_votes']:,.0f} more votes would show 60 %." if row["more_votes"] > 0 else ""
            lines.append(
                f"{eyes}, {name} and {first} are not distinguishable{among} {within}: "
                f"{_share(row['smallest_detectable'])} of pairs would have been seen.{more}"
            )
        else:
            untold[row["verdict"]].append(plain(row[factor]))
    lines += [
        f"No answer on {factor} {in_words(names)} against {first}: {why}." for why, names in untold.items()
    ]
    middle, low, high = about["side"]
    if low > 0.5 or high < 0.5:
        side = "left" if middle > 0.5 else "right"
        lines.append(
            f"Of two equals the {side} one is preferred in {_share(max(middle, 1 - middle))} of pairs; the strengths allow for that."
        )
    if about["never"]:
        pairs = ", ".join(f"{plain(one)} and {plain(other)}" for one, other in about["never"][:5])
        more = f", and {len(about['never']) - 5} pairs more" if len(about["never"]) > 5 else ""
        lines.append(f"Never compared: {pairs}{more}.")
    if about["is_bounded"]:
        lines.append(
            "A level has won or lost all its votes, or two groups were never compared: strengths hold a tenth of a tie for each pair."
        )
    return lines


class NoVotesError(NoRunsError):
    """Nobody has voted; a notebook shows the sentence alone, and stops."""


@dataclass(frozen=True)
class _Fit:
    """Strengths by level, the first of them 0, and the side's; NaN where there is no error."""

    value: np.ndarray
    error: np.ndarray
    freedom: np.ndarray
    side: float
    side_error: float
    side_freedom: float
    is_bounded: bool


def _check(votes: pd.DataFrame, confidence: float, scope: str) -> None:
    if missing := [name for name in NEEDED if name not in votes]:
        raise LookupError(f"the votes have no column {missing[0]!r}; they need {', '.join(NEEDED)}")
    if votes.empty:
        raise NoVotesError("there are no votes: python -m kling_sweeps.vote SWEEP asks for them")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: expected a share between 0 and 1, such as 0.95")
    if scope not in (RATERS, THESE_RATERS):
        raise ValueError(f"scope={scope!r}: expected {RATERS!r} or {THESE_RATERS!r}")
    wrong = votes.loc[~votes["outcome"].isin([0, 0.5, 1]), "outcome"]
    if len(wrong):
        raise ValueError(f"outcome={wrong.iloc[0]}: expected 1 (left), 0.5 (a tie) or 0 (right)")
    if votes[["left", "right"]].isna().any(axis=None) or (votes["left"] == votes["right"]).any():
        raise ValueError("a vote has one level on both sides, or none on one; it needs two")
    if "question" in votes and votes["question"].nunique() > 1:
        asked = sorted(votes["question"].unique())
        raise ValueError(f"the votes are on {len(asked)} questions, {asked}; choose those on one")


def _levels(votes: pd.DataFrame) -> list[Any]:
    levels = pd.unique(pd.concat([votes["left"], votes["right"]])).tolist()
    try:
        return sorted(levels)
    except TypeError:
        return sorted(levels, key=str)


def _verdict(p_adjusted: float, alpha: float) -> str:
    """Return what a test says, "" where there was none."""
    return "" if np.isnan(p_adjusted) else FOUND if p_adjusted <= alpha else NOT_DISTINGUISHABLE


def _reason(raters: int, prompts: int, scope: str) -> str:
    """Return why nothing can be told, "" where something can."""
    if prompts < FEWEST_PROMPTS:
        return f"{prompts} prompt{'s' * (prompts > 1)} can't carry a claim; it takes {FEWEST_PROMPTS}"
    if scope == RATERS and raters < ENOUGH_RATERS:
        return f"{raters} rater{'s' * (raters > 1)} can't carry a claim about raters in general"
    return ""


def _confounded(votes: pd.DataFrame) -> str:
    """Return that no level was seen on both sides, "" where one was."""
    both = {*votes["left"]} & {*votes["right"]}
    return "" if both else "each level was always on one side, whose effect can't be told from its own"


def _fitted(votes: pd.DataFrame, levels: Sequence[Any], sources: Sequence[str]) -> _Fit:
    """Fit the strengths; their errors are clustered by the first of the sources, and by all, whichever is wider."""
    codes = {name: pd.factorize(votes[name])[0] for name in ("prompt", "rater")}
    numbers = {name: int(one.max()) + 1 for name, one in codes.items()}
    left, right = (votes[side].map(levels.index).to_numpy() for side in ("left", "right"))
    design = _design(left, right, len(levels))
    y, weight = votes["outcome"].to_numpy(dtype=float), np.ones(len(votes))
    is_bounded = _is_unbounded(y, design)
    if is_bounded:
        # Each prompt has the same part of the ties, so that none of them makes an error.
        of = range(numbers["prompt"])
        added = np.array([(*pair, one) for pair, one in product(permutations(range(len(levels)), 2), of)])
        design = np.vstack([design, _design(added[:, 0], added[:, 1], len(levels))])
        y = np.concatenate([y, np.full(len(added), 0.5)])
        weight = np.concatenate([weight, np.full(len(added), PRIOR_TIE / 2 / len(of))])
        codes = {name: np.concatenate([one, added[:, 2] % numbers[name]]) for name, one in codes.items()}
    value, error, freedom = _glm(y, design, weight).params, *np.full((2, len(levels)), np.nan)
    if is_bounded and sources:
        # At the edge residuals vanish, and with them the errors of clusters; those of the model grow.
        error, freedom = (
            np.sqrt(np.diag(_glm(y, design, weight).cov_params())),
            np.full(len(levels), float(numbers["prompt"] - 1)),
        )
    for number in range(1, len(sources) + 1):
        groups = np.column_stack([codes[name] for name in sources[:number]]).squeeze()
        df = min(numbers[name] for name in sources[:number]) - 1
        with np.errstate(invalid="ignore"):
            own = np.sqrt(np.diag(_glm(y, design, weight, groups).cov_params()))
        is_wider = ~(own * stats.t.isf(0.025, df) <= error * stats.t.isf(0.025, freedom)) & (own > 1e-9)
        error, freedom = np.where(is_wider, own, error), np.where(is_wider, df, freedom)
    # The side's place is the first level's, which has no strength of its own.
    side = float(value[0]), float(error[0]), float(freedom[0])
    value, error, freedom = value.copy(), error.copy(), freedom.copy()
    value[0], error[0], freedom[0] = 0.0, np.nan, np.nan
    return _Fit(value, error, freedom, *side, is_bounded)


def _glm(
    y: np.ndarray, design: np.ndarray, weight: np.ndarray, groups: np.ndarray | None = None
) -> GLMResults:
    """Fit the logistic model; `groups` has a column for each source of clusters."""
    import statsmodels.api as sm

    with warnings.catch_warnings():
        # Errors of clusters with weights are right but for the factor (n - 1) / (n - k), in which each row counts as one.
        warnings.filterwarnings("ignore", message="cov_type not fully supported")
        # Where all are ties, as of a judge that looks at the seats alone, the fit is exact; `_is_unbounded` sees the rest.
        warnings.filterwarnings("ignore", message="Perfect separation or prediction")
        model = sm.GLM(y, design, family=sm.families.Binomial(), var_weights=weight)
        if groups is None:
            return model.fit()
        return model.fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)


def _design(left: np.ndarray, right: np.ndarray, levels: int) -> np.ndarray:
    """Return a row a vote: 1 for the side, then 1 at its left level and -1 at its right one, without the first level."""
    rows = np.zeros((len(left), levels))
    rows[np.arange(len(left)), left] += 1
    rows[np.arange(len(left)), right] -= 1
    rows[:, 0] = 1
    return rows


def _is_unbounded(y: np.ndarray, design: np.ndarray) -> bool:
    """Tell whether the votes put a strength, or the side, at infinity (Albert and Anderson 1984).

    That is where levels fall apart into groups that were never compared, where the side is that of a level, or where
    some direction of the parameters agrees with every vote and is against none.
    """
    if np.linalg.matrix_rank(design) < design.shape[1]:
        return True
    ways = [(y > 0, 1.0), (y < 1, -1.0)]
    agrees = np.unique(np.vstack([sign * design[rows] for rows, sign in ways]), axis=0)
    found = optimize.linprog(
        -agrees.sum(axis=0), A_ub=-agrees, b_ub=np.zeros(len(agrees)), bounds=[(-1, 1)] * design.shape[1]
    )
    return bool(found.fun < -1e-9)


def _eyes(about: Mapping[Any, Any]) -> str:
    raters, prompts = about["raters"], about["prompts"]
    whose = (
        "In the eyes of raters in general"
        if about["scope"] == RATERS
        else f"In the eyes of {'this rater' if raters == 1 else f'these {raters} raters'}"
    )
    return f"{whose} ({about['votes']:,} votes on {prompts} prompt{'s' * (prompts > 1)})"


def _share(share: float) -> str:
    return f"{100 * share:.0f} %"
