"""Which videos a judge compares, and that a verdict counts where it stays with the video and not with the seat."""

from __future__ import annotations

from itertools import product

import pandas as pd
import pytest

from kling_sweeps.analysis import agreement, preferences
from kling_sweeps.judges.instructions import Verdict
from kling_sweeps.judges.pairs import orders, outcome, pairs, verdicts_df

FIRST, SECOND, TIE = Verdict
LEVELS = (0.2, 0.5, 0.8)


def swept(prompts: int = 4, levels: tuple[float, ...] = LEVELS, repeats: int = 2) -> pd.DataFrame:
    """Return the runs of a sweep, whose metric `quality` is that of their level."""
    cells = product([f"p{number}" for number in range(prompts)], levels, range(repeats))
    runs = pd.DataFrame(cells, columns=["prompt", "cfg_scale", "sample"])
    keys = [f"{prompt}-{level}-{sample}" for prompt, level, sample in runs.itertuples(index=False)]
    runs = runs.assign(
        request_key=keys, prompt_text=runs["prompt"], status="FINISHED", quality=runs["cfg_scale"]
    )
    runs.attrs = {"params": ["prompt", "prompt_text", "cfg_scale", "sample"], "metrics": ["quality"]}
    return runs


def answers(runs: pd.DataFrame, verdict, repeats: int = 1):
    """Return what a judge says of all pairs in both orders, by a function of the two levels and the prompt's number."""
    level, prompt = (runs.set_index("request_key")[name] for name in ("cfg_scale", "prompt"))
    asked = [order for pair in pairs(runs, "cfg_scale") for order in orders(pair)]
    return {
        (*order, repeat): {"fidelity": verdict(*(level[key] for key in order), int(prompt[order[0]][1:]))}
        for order, repeat in product(asked, range(repeats))
    }


def of_higher(first: float, second: float, prompt: int) -> Verdict:
    """Prefer the higher level, and in one of five prompts the first."""
    return FIRST if first > second or prompt % 5 == 0 else SECOND


def test_pairs_differ_in_one_setting_alone():
    """Pairs all levels of a prompt, each with the same repeat, and each level as often on the left."""
    runs = swept()
    found = [(*pair.left.split("-"), *pair.right.split("-")) for pair in pairs(runs, "cfg_scale")]
    assert len(found) == 4 * 2 * 3
    assert all(one[0] == one[3] and one[1] != one[4] and one[2] == one[5] for one in found)
    for low, high in ((0.2, 0.5), (0.2, 0.8), (0.5, 0.8)):
        assert sum((one[1], one[4]) == (f"{low}", f"{high}") for one in found) == 4


def test_what_is_judged_stays_judged():
    """Adds pairs where prompts, repeats and levels are added, or a run ends that had failed, and changes none."""
    whole = swept()
    keys = [pair.keys for pair in pairs(whole, "cfg_scale")]
    for smaller in (swept(3), swept(repeats=1), swept(levels=LEVELS[1:])):
        assert {pair.keys for pair in pairs(smaller, "cfg_scale")} < {*keys}
    failed = whole.assign(status=["FAILED", *whole["status"][1:]])
    failed.attrs = whole.attrs
    left = {pair.keys for pair in pairs(failed, "cfg_scale")}
    assert left == {pair for pair in keys if whole["request_key"][0] not in pair}


def test_a_verdict_that_flips_is_a_tie():
    """Counts a verdict where both orders agree on it, and a tie everywhere else."""
    table = {both: outcome(*both) for both in product(Verdict, Verdict)}
    assert {both for both, one in table.items() if one == 1} == {(FIRST, SECOND)}
    assert {both for both, one in table.items() if one == 0} == {(SECOND, FIRST)}
    assert {one for both, one in table.items() if both not in ((FIRST, SECOND), (SECOND, FIRST))} == {0.5}


def test_a_judge_that_looks_at_the_seats_alone_prefers_nothing():
    """Makes ties of a judge that always says the first one, of which nothing is found."""
    runs = swept(8)
    votes = verdicts_df(runs, "cfg_scale", "fidelity", answers(runs, lambda *_: FIRST))
    assert set(votes["outcome"]) == {0.5}
    assert votes["flipped"].all()
    table = preferences(votes, "cfg_scale")
    assert table["strength"].tolist() == pytest.approx([0, 0, 0])
    assert "found" not in set(table["verdict"])


def test_what_a_judge_sees_is_a_preference():
    """Goes into `preferences` and `agreement` as votes do."""
    runs = swept(24)
    votes = verdicts_df(runs, "cfg_scale", "fidelity", answers(runs, of_higher))
    assert len(votes) == 24 * 2 * 3
    assert set(votes["rater"]) == {"fidelity"}
    assert votes["flipped"].mean() == pytest.approx(5 / 24)
    table = preferences(votes, "cfg_scale")
    assert table["strength"].is_monotonic_increasing
    assert table["verdict"].tolist() == ["reference", "found", "found"]
    assert agreement(runs, votes, ["quality"])["agreement"].iloc[0] > 0.85


def test_what_has_no_answer_is_no_vote():
    """Leaves out pairs of which an order has no readable answer, and says how many; a judge may have said nothing yet."""
    runs = swept()
    told = answers(runs, of_higher, repeats=2)
    dropped = next(iter(told))
    votes = verdicts_df(
        runs, "cfg_scale", "fidelity", {key: one for key, one in told.items() if key != dropped}
    )
    assert len(votes) == 2 * 24 - 1
    assert votes.attrs == {"factor": "cfg_scale", "unanswered": 1}
    assert votes["repeat"].value_counts().to_dict() == {0: 23, 1: 24}
    assert verdicts_df(runs, "cfg_scale", "fidelity", {}).empty
