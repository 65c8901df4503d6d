"""Whether intervals and families of `effects` are what they say, by simulation through the public functions.

    python benchmarks/soundness.py --experiments 2000

Noise has a standard deviation of 1, prompts one of 3, and prompts differ in the effect of a level by `interaction`.
Each metric of one table of runs is an experiment of its own. Coverage of a nominal 95 % is sound from 93.5 to 96.5 %,
false findings up to 5.5 % of families; the last column says so.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import product

import numpy as np
import pandas as pd

from kling_sweeps.analysis import Looks, effects, looked

COVERAGE, MOST_FALSE = (0.935, 0.965), 0.055
# Repeats by plan: the looks, and how much of the full design's price and verdicts they may take and have.
LOOKS, MOST_COST, FEWEST_AGREED = (2, 4, 6), 0.7, 0.9
EFFECT = 1.0


def simulated(
    experiments: int,
    prompts: int,
    repeats: int,
    interaction: float = 0.0,
    blocks: int = 1,
    missing: float = 0.0,
    heavy: bool = False,
    levels: int = 2,
    effect: float = EFFECT,
    without: int = 0,
    seed: int = 0,
) -> tuple[pd.DataFrame, np.ndarray]:
    """Return runs with a metric for each experiment, and each one's mean effect in these prompts.

    Level 0 is the reference; the first so many others are `without` the effect.
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


def false_families(experiments: int, scope: str, prompts: int, repeats: int) -> float:
    """Return in how many families of five levels without effect anything was found."""
    found = 0
    for number in range(experiments):
        runs, _ = simulated(1, prompts, repeats, levels=5, effect=0.0, seed=number)
        found += "found" in set(effects(runs, "level", ["m0"], scope=scope)["verdict"])
    return found / experiments


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


def table(experiments: int) -> Iterator[tuple[str, str, float, bool]]:
    """Yield a row for each design: scope, design, share, and whether it is sound."""
    low, high = COVERAGE
    for prompts, ratio in product((3, 5, 8, 16, 30), (0.0, 0.5, 1.0, 2.0)):
        share = coverage(experiments, "general", prompts=prompts, repeats=1, interaction=ratio)
        yield "general", f"{prompts} prompts, interaction {ratio:g}", share, low <= share <= high
    for prompts, ratio in product((1, 2, 3, 5, 8), (0.0, 1.0, 2.0)):
        share = coverage(experiments, "these_prompts", prompts=prompts, repeats=3, interaction=ratio)
        yield (
            "these_prompts",
            f"{prompts} prompts, 3 repeats, interaction {ratio:g}",
            share,
            low <= share <= high,
        )
    for scope, name, design in (
        ("general", "8 prompts, heavy tails", {"prompts": 8, "repeats": 2, "heavy": True}),
        ("these_prompts", "3 prompts, heavy tails", {"prompts": 3, "repeats": 4, "heavy": True}),
        (
            "general",
            "8 prompts, 4 blocks, interaction 1",
            {"prompts": 8, "repeats": 1, "blocks": 4, "interaction": 1.0},
        ),
        ("these_prompts", "3 prompts, 4 blocks", {"prompts": 3, "repeats": 2, "blocks": 4}),
        ("general", "8 prompts, 10 % missing", {"prompts": 8, "repeats": 2, "missing": 0.1}),
        ("these_prompts", "3 prompts, 10 % missing", {"prompts": 3, "repeats": 4, "missing": 0.1}),
    ):
        share = coverage(experiments, scope, **design)
        yield scope, name, share, low <= share <= high
    for scope, prompts, repeats in (("general", 8, 1), ("these_prompts", 3, 3)):
        share = false_families(max(experiments // 4, 1), scope, prompts, repeats)
        yield scope, f"{prompts} prompts, 5 levels without effect: false families", share, share <= MOST_FALSE
    yield from looks_table(max(experiments // 4, 1))


def looks_table(experiments: int) -> Iterator[tuple[str, str, float, bool]]:
    """Yield the rows of looks at 2, 4 and 6 repeats, of levels all, or half of them, without effect."""
    for prompts, (without, effect) in product((3, 8), ((4, 0.0), (2, 1.5))):
        false, cost, agreed = by_plan(experiments, prompts, without, effect)
        design = f"{prompts} prompts, looks at 2, 4, 6 repeats, {without} of 4 levels without effect"
        yield "looks", f"{design}: false families", false, false <= MOST_FALSE
        yield "looks", f"{design}: cost of the full design", cost, cost <= MOST_COST
        yield "looks", f"{design}: its verdicts reached", agreed, agreed >= FEWEST_AGREED


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experiments", type=int, default=2000)
    options = parser.parse_args()
    print("| scope | design | share | sound |\n| --- | --- | ---: | --- |")
    for scope, design, share, is_sound in table(options.experiments):
        print(f"| {scope} | {design} | {share:.3f} | {'yes' if is_sound else 'no'} |", flush=True)


if __name__ == "__main__":
    main()
