"""Whether intervals, families and powers of `kling_sweeps.analysis` are what they say, by simulation through its functions.

    python benchmarks/soundness.py
    python benchmarks/soundness.py --only coverage,families --experiments 500

Noise has a standard deviation of 1, prompts one of 3, and prompts differ in the effect of a level by `interaction`.
Each metric of one table of runs is an experiment of its own. Coverage of a nominal 95 % is sound from 93.5 to 96.5 %,
false findings up to 5.5 % of families, and a power within 3 points of what was predicted. The last column says so, with a
question mark where a limit lies within the 95 % interval of the share (Clopper and Pearson, 1934), so that more experiments
would have to tell.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import inf

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

from kling_sweeps.analysis import Looks, agreement, design_for, effects, interaction, looked, preferences
from kling_sweeps.analysis.estimates import power_of
from kling_sweeps.emulator.judging import SLOPE, VERDICTS, Judge, Line
from kling_sweeps.emulator.sight import Seen
from kling_sweeps.experiment.emulator_settings import JudgeSettings
from kling_sweeps.judges.instructions import Verdict
from kling_sweeps.judges.pairs import OUTCOMES, orders, pairs, verdicts_df

COVERAGE, MOST_FALSE = (0.935, 0.965), 0.055
# How far a power may be from what was predicted.
NEAR = 0.03
# Repeats by plan: the looks, and how much of the full design's price and verdicts they may take and have.
LOOKS, MOST_COST, FEWEST_AGREED = (2, 4, 6), 0.7, 0.9
EFFECT = 1.0
# A table of full size, and in how many of its metrics each level has which effect.
METRICS, WITH_EFFECT, LARGE = 30, 10, 1.6
# Judges: of how many of two equals the first wins, and how much the videos of a level differ, in log odds.
POSITION_BIAS, UNLIKE = 0.71, 0.5
# Votes: the log odds of four levels, and of the side, and how many are ties.
STRENGTHS, SIDE, TIES = np.array([0.0, 0.4, 0.8, -0.3]), 0.2, 0.15


@dataclass(frozen=True)
class Row:
    """One line of the table: what was simulated, the share that came out, and from where to where it is sound.

    `of` is of how many experiments it is a share, 0 where it is a mean.
    """

    claim: str
    design: str
    share: float
    low: float = -inf
    high: float = inf
    of: int = 0

    def __str__(self) -> str:
        ends = [f"{end:.3f}" if abs(end) < inf else "" for end in (self.low, self.high)]
        sound = f"{ends[0]} to {ends[1]}" if all(ends) else f"from {ends[0]}" if ends[0] else f"to {ends[1]}"
        verdict = "too low" if self.share < self.low else "too high" if self.share > self.high else "yes"
        if self.of:
            among = stats.binomtest(round(self.share * self.of), self.of).proportion_ci()
            verdict += "?" * any(among.low < end < among.high for end in (self.low, self.high))
        if not any(ends):
            sound = verdict = ""
        return f"| {self.claim} | {self.design} | {self.share:.3f} | {sound} | {verdict} |"


def simulated(
    experiments: int,
    prompts: int,
    repeats: int,
    interaction: float = 0.0,
    blocks: int = 1,
    missing: float = 0.0,
    heavy: bool = False,
    levels: int = 2,
    effect: ArrayLike = EFFECT,
    without: int = 0,
    seed: int = 0,
) -> tuple[pd.DataFrame, np.ndarray]:
    """Return runs with a metric for each experiment, and each one's mean effect in these prompts.

    Level 0 is the reference; the first so many others are `without` the effect, which may be one for each metric.
    """
    draw = np.random.default_rng(seed)
    cells = list(product(range(prompts), range(levels), range(blocks), range(repeats)))
    prompt, level, _, _ = np.array(cells).T
    size = (prompts, levels, experiments)
    own = interaction * draw.normal(size=size)
    means = 3 * draw.normal(size=(prompts, 1, experiments)) + own
    means[:, 1 + without :] += effect
    noise = (
        draw.standard_t(3, (len(cells), experiments)) / np.sqrt(3)
        if heavy
        else draw.normal(size=(len(cells), experiments))
    )
    values = means[prompt, level] + noise
    values[draw.random(values.shape) < missing] = np.nan
    names = [f"m{number}" for number in range(experiments)]
    settings = pd.DataFrame(cells, columns=["prompt", "level", "block", "sample"])
    runs = pd.concat(
        [
            settings.assign(prompt_text=settings["prompt"], status="FINISHED"),
            pd.DataFrame(values, columns=names),
        ],
        axis=1,
    )
    runs.attrs = {"params": ["prompt", "prompt_text", "level", "block", "sample"], "metrics": names}
    return runs, (means[:, 1] - means[:, 0]).mean(axis=0)


def coverage(experiments: int, scope: str, **design: float) -> float:
    """Return how many intervals have the true effect in them, of those that there are."""
    runs, of_these = simulated(experiments, **design)
    table = effects(runs, "level", scope=scope)
    table = table[table["verdict"] != "reference"]
    truth = EFFECT if scope == "general" else of_these
    has = table["low"].notna().to_numpy()
    return float(((table["low"] <= truth) & (truth <= table["high"]))[has].mean())


def false_families(experiments: int, scope: str, prompts: int, repeats: int, **design: float) -> float:
    """Return in how many families of five levels without effect anything was found."""
    found = 0
    for number in range(experiments):
        runs, _ = simulated(1, prompts, repeats, levels=5, effect=0.0, seed=number, **design)
        found += "found" in set(effects(runs, "level", ["m0"], scope=scope)["verdict"])
    return found / experiments


def full_size(experiments: int, asked: int, effect: float = LARGE) -> tuple[float, float, float]:
    """Return what becomes of tables of 30 metrics at five levels, with 8 prompts, of which so many metrics were asked for.

    The first ten metrics have the effect at every level. In how many tables anything was found that is nothing, the share of
    nothing among all that was found, and the power: all of what was asked for, or of the others where nothing was.
    """
    has = np.arange(METRICS) < WITH_EFFECT
    families, wrong, power = 0, [], []
    for number in range(experiments):
        runs, _ = simulated(METRICS, 8, 1, levels=5, effect=np.where(has, effect, 0.0), seed=number)
        runs.attrs["goal"] = {f"m{metric}": "max" for metric in range(asked)}
        table = effects(runs, "level")
        table = table[(table["verdict"] != "reference") & (table["goal"] != ("" if asked else "max"))]
        found = table["verdict"].isin(["found", "worth a look"])
        is_true = table["metric"].isin([f"m{metric}" for metric in range(WITH_EFFECT)]) & (effect != 0)
        families += bool((found & ~is_true).any())
        wrong.append((found & ~is_true).sum() / max(found.sum(), 1))
        power.append(found[is_true].mean() if is_true.any() else 0.0)
    return families / experiments, float(np.mean(wrong)), float(np.mean(power))


def differs(experiments: int, prompts: int, repeats: int, ratio: float) -> float:
    """Return in how many experiments an effect of four levels is said to differ by prompt."""
    runs, _ = simulated(experiments, prompts, repeats, ratio, levels=4)
    return float(np.mean([interaction(runs, "level", name).p <= 0.05 for name in runs.attrs["metrics"]]))


def differs_by_theory(prompts: int, repeats: int, ratio: float) -> float:
    """Return the power of the F test of a random interaction: its mean square is 1 + R·ι² times the noise's."""
    between, within = 3 * (prompts - 1), 4 * prompts * (repeats - 1)
    critical = stats.f.isf(0.05, between, within)
    return float(stats.f.sf(critical / (1 + repeats * ratio**2), between, within))


def seen(
    experiments: int, scope: str, prompts: int, repeats: int, ratio: float, heavy: bool = False
) -> float:
    """Return how often an effect is seen that by the formula is seen in 80 % of experiments."""
    variance = (2 * ratio**2 * (scope == "general") + 2 / repeats) / prompts
    freedom = prompts - 1 if scope == "general" else 2 * prompts * (repeats - 1)

    def missed(effect: float) -> float:
        return power_of(effect, variance**0.5, freedom, 0.05) - 0.8

    effect = optimize.brentq(missed, 0.01, 50)
    # These prompts' own effect is the mean of theirs, so nothing but noise may stand beside it.
    own = ratio if scope == "general" else 0.0
    runs, _ = simulated(experiments, prompts, repeats, own, heavy=heavy, effect=effect)
    return float((effects(runs, "level", scope=scope)["p"].dropna() <= 0.05).mean())


def enough(experiments: int, scope: str, prompts: int, repeats: int, ratio: float) -> float:
    """Return how many pilots plan enough at the upper end of `design_for`, for a power of 80 %."""
    runs, _ = simulated(experiments, prompts, repeats, ratio)
    has_power = []
    for name in runs.attrs["metrics"]:
        plan = design_for(runs, "level", name, effect=EFFECT, scope=scope)
        best = plan[plan["repeats"] == repeats].iloc[0] if scope == "general" else plan.iloc[0]
        number, each = best["prompts_most"], best["repeats_most"]
        variance = (2 * ratio**2 * (scope == "general") + 2 / each) / number
        freedom = number - 1 if scope == "general" else 2 * number * (each - 1)
        has_power.append(power_of(EFFECT, variance**0.5, freedom, 0.05) >= 0.8)
    return float(np.mean(has_power))


def by_plan(experiments: int, prompts: int, without: int, effect: float = 0.0) -> tuple[float, float, float]:
    """Return what looks at repeats come to, of four levels and a reference.

    In how many experiments a level without effect was found, the share of the full design's runs that were
    made, and of its verdicts that were reached.
    """
    false = cost = agreed = 0.0
    plan = Looks("level", LOOKS, ("m0",))
    for number in range(experiments):
        runs, _ = simulated(1, prompts, LOOKS[-1], levels=5, effect=effect, without=without, seed=number)
        found = looked(runs, plan)
        whole = effects(runs, "level", ["m0"])
        reached, full = (set(one.loc[one["verdict"] == "found", "level"]) for one in (found.table, whole))
        false += any(level <= without for level in reached)
        cost += sum(found.taken.values()) / (5 * LOOKS[-1])
        agreed += 1 - len(reached ^ full) / 4
    return false / experiments, cost / experiments, agreed / experiments


def coverage_table(experiments: int) -> Iterator[Row]:
    """Yield how often intervals have the true effect in them."""
    for prompts, ratio in product((3, 5, 8, 16, 30), (0.0, 0.5, 1.0, 2.0)):
        share = coverage(experiments, "general", prompts=prompts, repeats=1, interaction=ratio)
        yield Row("general", f"{prompts} prompts, interaction {ratio:g}", share, *COVERAGE, of=experiments)
    for prompts, ratio in product((1, 2, 3, 5, 8, 16, 30), (0.0, 0.5, 1.0, 2.0)):
        share = coverage(experiments, "these_prompts", prompts=prompts, repeats=3, interaction=ratio)
        yield Row(
            "these_prompts",
            f"{prompts} prompts, 3 repeats, interaction {ratio:g}",
            share,
            *COVERAGE,
            of=experiments,
        )
    for name, general, these in (
        ("heavy tails", {"heavy": True}, {"heavy": True}),
        (
            "4 blocks a prompt, interaction 1",
            {"blocks": 4, "interaction": 1.0},
            {"blocks": 4, "interaction": 1.0},
        ),
        ("10 % missing", {"missing": 0.1}, {"missing": 0.1}),
        ("10 % missing, heavy tails", {"missing": 0.1, "heavy": True}, {"missing": 0.1, "heavy": True}),
    ):
        share = coverage(experiments, "general", prompts=8, repeats=2, **general)
        yield Row("general", f"8 prompts, 2 repeats, {name}", share, *COVERAGE, of=experiments)
        share = coverage(experiments, "these_prompts", prompts=3, repeats=4, **these)
        yield Row("these_prompts", f"3 prompts, 4 repeats, {name}", share, *COVERAGE, of=experiments)


def families_table(experiments: int) -> Iterator[Row]:
    """Yield how many families have a false finding, small ones and those of full size, and what they find."""
    for scope, prompts, repeats in (("general", 8, 1), ("these_prompts", 3, 3)):
        for name, design in (
            ("", {}),
            (", 10 % missing", {"missing": 0.1}),
            (", heavy tails", {"heavy": True}),
        ):
            share = false_families(experiments, scope, prompts, repeats, **design)
            yield Row(
                scope,
                f"1 metric × 4 levels, {prompts} prompts{name}: false families",
                share,
                high=MOST_FALSE,
                of=experiments,
            )
    half = max(experiments // 2, 1)
    size = f"{METRICS} metrics × 4 levels, 8 prompts"
    for asked, name in (
        (METRICS, "all asked for"),
        (3, "3 asked for"),
        (1, "1 asked for"),
        (0, "none asked for"),
    ):
        families, _, _ = full_size(half, asked, effect=0.0)
        yield Row("general", f"{size}, {name}: false families", families, high=MOST_FALSE, of=half)
        _, wrong, power = full_size(half, asked)
        with_effect = f"{size}, {WITH_EFFECT} with an effect of {LARGE:g}, {name}"
        yield Row("general", f"{with_effect}: false among the found", wrong, high=MOST_FALSE)
        yield Row("general", f"{with_effect}: power", power)


def interaction_table(experiments: int) -> Iterator[Row]:
    """Yield how often an effect of four levels is said to differ by prompt, where it does not and where it does."""
    half = max(experiments // 2, 1)
    for ratio, (prompts, repeats) in product((0.0, 1.0), ((3, 2), (5, 2), (8, 2), (8, 3))):
        share = differs(half, prompts, repeats, ratio)
        theory = differs_by_theory(prompts, repeats, ratio)
        low, high = (theory - NEAR, theory + NEAR) if ratio else (-inf, MOST_FALSE)
        yield Row(
            "interaction",
            f"{prompts} prompts, {repeats} repeats, interaction {ratio:g}",
            share,
            low,
            high,
            of=half,
        )


def power_table(experiments: int) -> Iterator[Row]:
    """Yield how often an effect is seen that is predicted to be in 80 %, and how many pilots plan for enough."""
    sound, quarter = (0.8 - NEAR, 0.8 + NEAR), max(experiments // 4, 1)
    for prompts, ratio in product((5, 8, 16, 30), (0.0, 1.0)):
        share = seen(experiments, "general", prompts, 2, ratio)
        yield Row(
            "general",
            f"{prompts} prompts, 2 repeats, interaction {ratio:g}: power",
            share,
            *sound,
            of=experiments,
        )
    for prompts, repeats in ((1, 4), (3, 3), (8, 3)):
        share = seen(experiments, "these_prompts", prompts, repeats, 0.0)
        yield Row(
            "these_prompts", f"{prompts} prompts, {repeats} repeats: power", share, *sound, of=experiments
        )
    for scope, prompts, repeats in (("general", 8, 2), ("these_prompts", 3, 3)):
        share = seen(experiments, scope, prompts, repeats, 0.0, heavy=True)
        yield Row(
            scope,
            f"{prompts} prompts, {repeats} repeats, heavy tails: power",
            share,
            low=sound[0],
            of=experiments,
        )
    for scope, prompts, repeats, ratio in (
        *(("general", 5, 2, 1.0), ("general", 8, 2, 1.0), ("general", 16, 2, 1.0)),
        *(("these_prompts", 3, 3, 1.0), ("these_prompts", 8, 3, 1.0)),
    ):
        share = enough(quarter, scope, prompts, repeats, ratio)
        name = (
            f"pilots of {prompts} prompts, {repeats} repeats, interaction {ratio:g}: enough at the upper end"
        )
        yield Row(scope, name, share, low=0.8 - NEAR, of=quarter)


def looks_table(experiments: int) -> Iterator[Row]:
    """Yield the rows of looks at 2, 4 and 6 repeats, of levels all, or half of them, without effect."""
    quarter = max(experiments // 4, 1)
    for prompts, (without, effect) in product((3, 8), ((4, 0.0), (2, 1.5))):
        false, cost, agreed = by_plan(quarter, prompts, without, effect)
        design = f"{prompts} prompts, looks at 2, 4, 6 repeats, {without} of 4 levels without effect"
        yield Row("looks", f"{design}: false families", false, high=MOST_FALSE, of=quarter)
        yield Row("looks", f"{design}: cost of the full design", cost, high=MOST_COST)
        yield Row("looks", f"{design}: its verdicts reached", agreed, low=FEWEST_AGREED)


def voted(
    draw: np.random.Generator, prompts: int, raters: int, each: int, own: float, strengths: np.ndarray
) -> pd.DataFrame:
    """Return votes on levels by Bradley and Terry's model, whose strengths differ by prompt, with ties and a side."""
    count = prompts * raters * each
    prompt, rater = np.divmod(np.arange(count) // each, raters)
    levels = len(strengths)
    left = draw.integers(0, levels, count)
    right = (left + draw.integers(1, levels, count)) % levels
    strength = strengths + own * draw.normal(size=(prompts, levels))
    odds = strength[prompt, left] - strength[prompt, right] + SIDE
    outcome = np.where(draw.random(count) < TIES, 0.5, draw.random(count) < special.expit(odds))
    return pd.DataFrame({"prompt": prompt, "rater": rater, "left": left, "right": right, "outcome": outcome})


def votes_table(experiments: int) -> Iterator[Row]:
    """Yield how often intervals have the strength in them that all prompts there are would give, and false families."""
    quarter = max(experiments // 4, 1)
    for own, (prompts, raters, each) in product(
        (0.0, 0.7), ((3, 2, 12), (5, 2, 8), (8, 2, 6), (16, 3, 6), (8, 6, 4))
    ):
        design = f"{prompts} prompts × {raters} raters × {each} votes, strengths differ by {own:g}"
        draw = np.random.default_rng(0)
        everyone = preferences(voted(draw, 20_000, 1, 3, own, STRENGTHS), "level")["strength"].to_numpy()[1:]
        hits, false = [], 0
        for _ in range(quarter):
            table = preferences(voted(draw, prompts, raters, each, own, STRENGTHS), "level")[1:]
            hits.append((table["low"] <= everyone) & (everyone <= table["high"]))
            nothing = preferences(voted(draw, prompts, raters, each, own, 0 * STRENGTHS), "level")
            false += "found" in set(nothing["verdict"])
        yield Row("votes", f"{design}: coverage", float(np.mean(hits)), *COVERAGE, of=quarter * 3)
        yield Row("votes", f"{design}: false families", false / quarter, high=MOST_FALSE, of=quarter)
    # Few votes, of which often one level wins all.
    for levels, prompts, raters in ((4, 3, 1), (4, 8, 1), (4, 4, 2), (2, 6, 1), (2, 8, 1), (2, 8, 2)):
        draw, false = np.random.default_rng(0), 0
        for _ in range(quarter):
            votes = voted(draw, prompts, raters, 1, 0.0, np.zeros(levels))
            false += "found" in set(preferences(votes, "level")["verdict"])
        design = f"{levels} levels, {prompts} prompts × {raters} raters × 1 vote"
        yield Row("votes", f"{design}: false families", false / quarter, high=MOST_FALSE, of=quarter)


def liked(draw: np.random.Generator, prompts: int, videos: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return runs with a metric that follows what people like, and one that follows nothing, and four votes a video."""
    like = draw.normal(size=(prompts, videos))
    cells = list(product(range(prompts), range(videos)))
    runs = pd.DataFrame(cells, columns=["prompt", "video"])
    own = {"seen": like.ravel() + draw.normal(size=len(cells)), "nothing": draw.normal(size=len(cells))}
    runs = runs.assign(
        request_key=[f"{prompt}-{video}" for prompt, video in cells],
        status="FINISHED",
        **{name: values + 3 * runs["prompt"] for name, values in own.items()},
    )
    runs.attrs = {"params": ["prompt"], "metrics": list(own)}
    prompt = np.repeat(np.arange(prompts), 4 * videos)
    left = draw.integers(0, videos, len(prompt))
    right = (left + draw.integers(1, videos, len(prompt))) % videos
    wins = draw.random(len(prompt)) < special.expit(1.5 * (like[prompt, left] - like[prompt, right]))
    votes = pd.DataFrame({"prompt": prompt, "outcome": wins.astype(float)})
    for side, which in (("left_key", left), ("right_key", right)):
        votes[side] = [f"{one}-{other}" for one, other in zip(prompt, which, strict=True)]
    return runs, votes


def agreement_table(experiments: int) -> Iterator[Row]:
    """Yield how often intervals of an agreement with people have it in them, and how often nothing is said to agree."""
    quarter = max(experiments // 4, 1)
    for prompts, videos in ((20, 6), (24, 5), (30, 4)):
        draw = np.random.default_rng(0)
        everyone = agreement(*liked(draw, 4000, videos), ["seen"])["agreement"].iloc[0]
        hits = false = 0
        for _ in range(quarter):
            table = agreement(*liked(draw, prompts, videos)).set_index("metric")
            hits += table.loc["seen", "low"] <= everyone <= table.loc["seen", "high"]
            false += table.loc["nothing", "verdict"] != "can't be told"
        design = f"{prompts} prompts × {videos} videos"
        yield Row("agreement", f"{design}: coverage", hits / quarter, *COVERAGE, of=quarter)
        yield Row("agreement", f"{design}: false", false / quarter, high=MOST_FALSE, of=quarter)


def judged(
    prompts: int, levels: int, repeats: int, better: float, seed: int
) -> tuple[pd.DataFrame, dict[tuple[str, str], Verdict]]:
    """Return runs, and what a judge with a bias of position says of their pairs in both orders.

    The judge is the emulator's; videos differ by chance, and by `better` for each level, both in log odds.
    """
    draw = np.random.default_rng(seed)
    cells = list(product(range(prompts), range(levels), range(repeats)))
    runs = pd.DataFrame(cells, columns=["prompt", "level", "sample"])
    keys = [f"{seed}-{prompt}-{level}-{sample}" for prompt, level, sample in cells]
    runs = runs.assign(request_key=keys, prompt_text=runs["prompt"], status="FINISHED")
    runs.attrs = {"params": ["prompt", "prompt_text", "level", "sample"], "metrics": []}
    quality = (UNLIKE * draw.normal(size=len(cells)) + better * runs["level"]) / SLOPE
    seen = {key: Seen(key, one, 5.0, 0) for key, one in zip(keys, quality, strict=True)}
    judge, line = Judge(JudgeSettings(position_bias=POSITION_BIAS), "model", 1.0, ""), Line("", "q", VERDICTS)
    asked = [order for pair in pairs(runs, "level") for order in orders(pair)]
    return runs, {
        (one, other): Verdict(
            replace(judge, request_id=f"{one} {other}").verdict(line, seen[one], seen[other])
        )
        for one, other in asked
    }


def by_seats(prompts: int, levels: int, repeats: int, better: float, seed: int) -> tuple[bool, bool, bool]:
    """Return whether a judge is found to prefer a level: by counting one order, by one order in turn, by our design.

    Counting is that of the pairs with the higher level in the first seat, against a half (the binomial test).
    """
    runs, told = judged(prompts, levels, repeats, better, seed)
    level = runs.set_index("request_key")["level"]
    fixed = [verdict for (one, other), verdict in told.items() if level[one] > level[other] == 0]
    won, lost = (fixed.count(verdict) for verdict in (Verdict.FIRST, Verdict.SECOND))
    both = verdicts_df(runs, "level", "judge", {(*order, 0): {"q": one} for order, one in told.items()})
    shown = [told[pair] for pair in zip(both["left_key"], both["right_key"], strict=True)]
    one_order = both.assign(outcome=[OUTCOMES[verdict] for verdict in shown])
    found = ("found" in set(preferences(votes, "level")["verdict"]) for votes in (one_order, both))
    return stats.binomtest(won, won + lost).pvalue <= 0.05, *found


def judges_table(experiments: int) -> Iterator[Row]:
    """Yield how often a judge who prefers the first seat is found to prefer a level, where it does not and where it does."""
    half = max(experiments // 2, 1)
    for better, (prompts, levels, repeats) in product((0.0, 1.0), ((8, 2, 4), (8, 3, 2), (16, 2, 8))):
        found = np.mean([by_seats(prompts, levels, repeats, better, seed) for seed in range(half)], axis=0)
        design = f"{prompts} prompts × {levels} levels × {repeats} repeats, {f'better by {better:g}' if better else 'no difference'}"
        names = ("one fixed order, counted", "one order in turn", "both orders, flips are ties")
        for name, share, most in zip(names, found, (inf, inf, inf if better else MOST_FALSE), strict=True):
            yield Row("judges", f"{design}: {name}", float(share), high=most, of=half)


TABLES: dict[str, Callable[[int], Iterator[Row]]] = {
    "coverage": coverage_table,
    "families": families_table,
    "interaction": interaction_table,
    "power": power_table,
    "looks": looks_table,
    "votes": votes_table,
    "agreement": agreement_table,
    "judges": judges_table,
}


def main() -> None:
    """Print the tables in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--experiments",
        type=int,
        default=2000,
        help="of each design, of slow ones a half or a quarter of it (2000)",
    )
    parser.add_argument("--only", default=",".join(TABLES), metavar="A,B", help=f"of {', '.join(TABLES)}")
    options = parser.parse_args()
    if unknown := set(options.only.split(",")) - TABLES.keys():
        parser.error(f"--only {','.join(sorted(unknown))}: expected some of {', '.join(TABLES)}")
    print("| claim | design | share | sound | is it |\n| --- | --- | ---: | --- | --- |")
    for name in options.only.split(","):
        for row in TABLES[name](options.experiments):
            print(row, flush=True)


if __name__ == "__main__":
    main()
