"""What votes say: strengths, their errors, and which numbers go with them."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product

import evalica
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import voting
from scipy.special import expit
from scipy.stats import binomtest

from kling_sweeps.analysis import agreement, preference_statements, preferences
from kling_sweeps.analysis.signs import Signs
from kling_sweeps.reports.contents import read_contents
from kling_sweeps.reports.page import render
from kling_sweeps.store.votes import Answer, Study, VoteLog

STRENGTHS = np.array([0.0, 0.9, 1.8])


def voted(
    prompts: int = 12,
    raters: int = 2,
    each: int = 8,
    strengths: np.ndarray = STRENGTHS,
    side: float = 0.0,
    ties: float = 0.1,
    seed: int = 0,
) -> pd.DataFrame:
    """Return votes on levels 0.1, 0.5 and 0.9, drawn by Bradley and Terry's model with an effect of the side."""
    draw = np.random.default_rng(seed)
    count = prompts * raters * each
    left = draw.integers(0, 3, count)
    right = (left + draw.integers(1, 3, count)) % 3
    wins = draw.random(count) < expit(strengths[left] - strengths[right] + side)
    outcome = np.where(draw.random(count) < ties, 0.5, wins)
    levels = np.array([0.1, 0.5, 0.9])
    prompt, rater = np.divmod(np.arange(count) // each, raters)
    return pd.DataFrame(
        {
            "prompt": [f"p{number}" for number in prompt],
            "rater": [f"r{number}" for number in rater],
            "left": levels[left],
            "right": levels[right],
            "outcome": outcome,
        }
    )


def test_strengths_are_those_of_the_logistic_model():
    """Gives what statsmodels does with errors clustered by prompt, to six digits, the effect of the side among it."""
    votes = voted(side=0.4)
    table = preferences(votes, "cfg_scale").set_index("cfg_scale")
    rows = [
        [1.0, *(float(vote.left == level) - float(vote.right == level) for level in (0.5, 0.9))]
        for vote in votes.itertuples()
    ]
    groups = pd.factorize(votes["prompt"])[0]
    model = sm.GLM(votes["outcome"].to_numpy(), np.array(rows), family=sm.families.Binomial())
    fit = model.fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
    assert table.loc[[0.5, 0.9], "strength"].to_numpy() == pytest.approx(fit.params[1:], rel=1e-6)
    assert table.loc[[0.5, 0.9], ["low", "high"]].to_numpy() == pytest.approx(fit.conf_int()[1:], rel=1e-6)
    assert table.attrs["side"] == pytest.approx(expit([fit.params[0], *fit.conf_int()[0]]), rel=1e-6)
    assert list(table["verdict"]) == ["reference", "found", "found"]
    assert table.attrs["scope"] == "these_raters" and not table.attrs["is_bounded"]


def test_strengths_are_those_of_evalica():
    """Gives the logarithms of Evalica's scores, which knows no side, where each vote was cast both ways round."""
    votes = voted()
    other = votes.rename(columns={"left": "right", "right": "left"}).assign(outcome=1 - votes["outcome"])
    table = preferences(pd.concat([votes, other], ignore_index=True), "cfg_scale").set_index("cfg_scale")
    winners = votes["outcome"].map({1.0: evalica.Winner.X, 0.0: evalica.Winner.Y, 0.5: evalica.Winner.Draw})
    found = evalica.bradley_terry(votes["left"], votes["right"], winners, tolerance=1e-12, limit=100_000)
    scores = np.log(found.scores.loc[table.index] / found.scores.loc[table.index[0]])
    assert table["strength"].to_numpy() == pytest.approx(scores.to_numpy(), rel=1e-6)
    assert table.attrs["side"][0] == pytest.approx(0.5)


def test_shares_and_counts_are_those_of_the_votes():
    """Counts a tie as a half, for both sides, and says of how many votes, raters and prompts a level is."""
    votes = pd.DataFrame(
        [
            ("a", "x", "low", "high", 0),
            ("a", "y", "high", "low", 0.5),
            ("b", "x", "high", "mid", 1),
            ("c", "x", "mid", "low", 0),
        ],
        columns=["prompt", "rater", "left", "right", "outcome"],
    )
    table = preferences(votes, "speed").set_index("speed")
    assert table["win_share"].to_dict() == {"high": pytest.approx(2.5 / 3), "low": 0.5, "mid": 0.0}
    assert table["n"].to_dict() == {"high": 3, "low": 3, "mid": 2}
    assert (table.loc["mid", "raters"], table.loc["mid", "prompts"]) == (1, 2)
    assert table.index[0] == "high" and table["strength"].iloc[0] == 0


def test_an_unbeaten_level_has_a_strength_and_says_so():
    """Is finite where a level won all its votes, where one side always won, and where groups never met."""
    votes = voted(ties=0.0)
    best = (votes["left"] == 0.9) | (votes["right"] == 0.9)
    unbeaten = votes.assign(outcome=votes["outcome"].mask(best, (votes["left"] == 0.9).astype(float)))
    lefts = votes.assign(outcome=1.0)
    apart = votes[~best].copy()
    others = voted(ties=0.0, seed=1)
    more = others.assign(left=others["left"] + 9, right=others["right"] + 9)
    for one in (unbeaten, lefts, pd.concat([apart, more])):
        table = preferences(one, "cfg_scale")
        assert table.attrs["is_bounded"]
        assert np.isfinite(table["strength"]).all() and table[["low", "high"]].iloc[1:].notna().all(axis=None)
        assert "a tenth of a tie" in preference_statements(table)[-1]
    assert preferences(unbeaten, "cfg_scale")["strength"].iloc[-1] > 2
    assert len(table.attrs["never"]) == 6
    assert any(line.startswith("Never compared: 0.1 and 9.1") for line in preference_statements(table))


def test_a_level_that_was_always_on_one_side_has_no_answer():
    """Says that it can't be told from the side, and finds nothing."""
    votes = voted()
    votes = votes[votes["left"] < votes["right"]]
    two = preferences(votes[votes["left"].eq(0.1) & votes["right"].eq(0.9)], "cfg_scale")
    assert two["verdict"].iloc[1].startswith("each level was always on one side")
    assert two[["low", "p"]].isna().all(axis=None) and np.isfinite(two["strength"]).all()


@pytest.mark.slow
@pytest.mark.parametrize(("prompts", "raters"), [(3, 1), (5, 1), (8, 1), (4, 2)])
def test_few_votes_find_nothing_where_nothing_is(prompts, raters):
    """Finds next to nothing in coin tosses, which often let one level win all its votes, or one side."""
    draw, found, bounded = np.random.default_rng(0), 0, 0
    for _ in range(40):
        votes = voted(prompts, raters, 1, strengths=np.zeros(3), ties=0, seed=int(draw.integers(1e9)))
        table = preferences(votes, "cfg_scale")
        found += "found" in set(table["verdict"])
        bounded += table.attrs["is_bounded"]
    assert bounded > 10 and found <= 3


def test_a_level_that_won_all_its_votes_is_as_sure_as_these():
    """Is found by the exact interval of so many coin tosses, which is open above, without a count of further votes."""
    rows = [
        (f"p{number}", "x", *((0, 1) if number % 2 else (1, 0)), float(number % 2 == 0))
        for number in range(8)
    ]
    votes = pd.DataFrame(rows, columns=["prompt", "rater", "left", "right", "outcome"])
    row = preferences(votes, "speed").iloc[1]
    assert row["win_share"] == 1 and row["strength"] > 2
    exact = binomtest(8, 8).proportion_ci(0.95, "exact").low
    assert expit(row["low"]) == pytest.approx(exact, rel=1e-4) and row["high"] == np.inf
    assert (row["verdict"], row["p"]) == ("found", pytest.approx(binomtest(8, 8).pvalue))
    assert np.isnan(row["more_votes"])
    few = preferences(votes[:5], "speed").iloc[1]
    assert few["verdict"] == "not distinguishable" and expit(few["low"]) < 0.5
    lost = preferences(votes.assign(outcome=1 - votes["outcome"]), "speed").iloc[1]
    assert (lost["verdict"], lost["high"], lost["low"]) == ("found", pytest.approx(-row["low"]), -np.inf)
    assert "63 % to 100 %" in preference_statements(preferences(votes, "speed"))[0]


@pytest.mark.parametrize(
    "left,right,both", [(4, 4, 0), (7, 1, 0), (0, 0, 6), (5, 2, 3), (0, 3, 2), (6, 0, 1)]
)
@pytest.mark.parametrize("odds", [0.0, 0.7, -0.4])
def test_a_win_everywhere_is_as_likely_as_at_the_worst_side(left, right, both, odds):
    """Takes the side at which it is likeliest that all prompts are won, as a search over all sides finds it."""
    sides = np.linspace(-8, 8, 4001)
    on = expit(odds + sides), expit(odds - sides)
    likeliest = (on[0] ** left * on[1] ** right * np.minimum(*on) ** both).max()
    signs = Signs(left, right, both)
    assert np.exp(signs._log_most(odds)) == pytest.approx(likeliest, rel=1e-3)
    if odds == 0:
        assert signs.p() == pytest.approx(min(1, 2 * likeliest), rel=1e-3)
        assert signs.p() >= 2 * 0.5 ** (left + right + both) - 1e-9
        least = signs.least(0.05)
        assert np.exp(signs._log_most(least)) == pytest.approx(0.025, rel=1e-3)


def test_a_side_is_no_win():
    """Finds nothing of a level that was on the left alone, in however many prompts."""
    assert Signs(20, 0, 0).p() == 1 and Signs(20, 0, 0).least(0.05) == -np.inf


@pytest.mark.slow
def test_the_side_is_no_preference():
    """Finds nothing where nothing but the left side is preferred, and says so of the side."""
    found = 0
    for seed in range(40):
        votes = voted(prompts=8, strengths=np.zeros(3), side=0.9, seed=seed)
        votes["left"], votes["right"] = votes["left"].where(votes.index % 3 > 0, 0.5), votes["right"]
        votes = votes[votes["left"] != votes["right"]]
        table = preferences(votes, "cfg_scale")
        found += "found" in set(table["verdict"])
    assert found <= 5
    assert "Of two equals the left one is preferred in 7" in preference_statements(table)[-1]


def test_raters_in_general_take_five_of_them():
    """Claims what five raters can carry, no narrower than of these raters alone."""
    votes = voted(raters=6)
    table, these = preferences(votes, "cfg_scale", scope="raters"), preferences(votes, "cfg_scale")
    assert table.attrs["scope"] == "raters" and these.attrs["scope"] == "these_raters"
    assert ((table["high"] - table["low"]) >= (these["high"] - these["low"]))[1:].all()
    few = preferences(voted(raters=4), "cfg_scale", scope="raters")
    assert few["verdict"].iloc[1] == "4 raters can't carry a claim about raters in general"
    assert few[["low", "p", "more_votes"]].isna().all(axis=None) and few["strength"].notna().all()
    (one, *_) = preference_statements(preferences(voted(prompts=2), "cfg_scale"))
    assert one.startswith(
        "No answer on cfg_scale 0.5 and 0.9 against cfg_scale 0.1: 2 prompts can't carry a claim"
    )


def test_what_was_not_seen_is_said_with_what_would_have_been():
    """Says how large a share would have been seen, and how many votes more would show 60 %; with these it would."""
    few = preferences(voted(prompts=10, each=4, strengths=np.zeros(3), ties=0), "cfg_scale")
    row = few.iloc[1]
    assert row["verdict"] == "not distinguishable" and 0.6 < row["smallest_detectable"] < 0.9
    assert row["more_votes"] > 100
    assert f"{row['more_votes']:,.0f} more votes would show 60 %" in preference_statements(few)[0]
    times = 1 + row["more_votes"] / few.attrs["votes"]
    many = preferences(voted(10, each=round(4 * times), strengths=np.zeros(3), ties=0), "cfg_scale")
    assert many["smallest_detectable"].iloc[1] == pytest.approx(0.6, abs=0.02)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"outcome": 2}, ValueError, "outcome=2: expected 1 .left., 0.5 .a tie. or 0 .right."),
        ({"outcome": np.nan}, ValueError, "outcome=nan"),
        ({"left": 0.1, "right": 0.1}, ValueError, "one level on both sides"),
        ({"left": None}, ValueError, "none on one"),
        ({"question": [*"ab" * 96]}, ValueError, "on 2 questions"),
    ],
)
def test_votes_that_are_none_are_refused(change, error, said):
    """Says what is wrong with them."""
    with pytest.raises(error, match=said):
        preferences(voted().assign(**change), "cfg_scale")


def test_no_votes_are_no_table():
    """Says which column is missing, and that there are none."""
    with pytest.raises(LookupError, match="no column 'rater'"):
        preferences(voted().drop(columns="rater"), "cfg_scale")
    with pytest.raises(LookupError, match="there are no votes"):
        preferences(voted().iloc[:0], "cfg_scale")


def watched(prompts: int = 24, videos: int = 6) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return runs with a metric that goes with people's liking, one against it and two of nothing, and votes."""
    draw = np.random.default_rng(0)
    rows, votes = [], []
    for prompt in range(prompts):
        liked = draw.normal(size=videos)
        rows += [
            {
                "request_key": f"{prompt}-{video}",
                "prompt": f"p{prompt}",
                "cfg_scale": video / 10,
                "status": "FINISHED",
                "good": liked[video] + 100 * prompt + 0.3 * draw.normal(),
                "bad": -liked[video] + 0.3 * draw.normal(),
                "by_prompt": prompt + 0.0,
                "nothing": draw.normal(),
            }
            for video in range(videos)
        ]
        for left, right in permutations(range(videos), 2):
            outcome = float(draw.random() < expit(2 * (liked[left] - liked[right])))
            votes.append(
                (f"p{prompt}", "x", left / 10, right / 10, outcome, f"{prompt}-{left}", f"{prompt}-{right}")
            )
    runs = pd.DataFrame(rows)
    runs.attrs = {"params": ["prompt", "cfg_scale"], "metrics": ["good", "bad", "by_prompt", "nothing"]}
    names = ["prompt", "rater", "left", "right", "outcome", "left_key", "right_key"]
    return runs, pd.DataFrame(votes, columns=names)


def test_a_number_agrees_with_people_within_prompts():
    """Tells what goes with people's wins from what goes against them, and from what says nothing, whatever prompts do."""
    runs, votes = watched()
    table = agreement(runs, votes).set_index("metric")
    assert table["verdict"].to_dict() == {
        "good": "agrees",
        "bad": "opposed",
        "by_prompt": "can't be told",
        "nothing": "can't be told",
    }
    assert 0.6 < table.loc["good", "agreement"] < 0.95
    assert np.isnan(table.loc["by_prompt", "agreement"]) and table.index[-1] == "by_prompt"
    assert tuple(table.loc["good", ["prompts", "videos"]]) == (24, 144)
    factor = votes.drop(columns=["left_key", "right_key"])
    factor.attrs["factor"] = "cfg_scale"
    by_level = agreement(runs, factor).set_index("metric")
    pd.testing.assert_frame_equal(by_level.sort_index(), table.sort_index())


@pytest.mark.slow
def test_numbers_that_follow_nothing_are_told_to_agree_by_chance_alone():
    """Corrects for the number of metrics: few tables of thirty that follow nothing have one that agrees."""
    wrong = 0
    for seed in range(20):
        runs, votes = watched()
        noise = np.random.default_rng(seed).normal(size=(len(runs), 30))
        runs = pd.concat([runs, pd.DataFrame(noise, columns=[f"m{n}" for n in range(30)])], axis=1)
        runs.attrs = {"params": ["prompt"], "metrics": [f"m{n}" for n in range(30)]}
        table = agreement(runs, votes)
        wrong += (table["verdict"] != "can't be told").any()
        assert (table["p_adjusted"] >= table["p"]).all()
    assert wrong <= 4


def test_prompts_that_are_all_the_same_have_no_interval():
    """Says what was seen and no more, where nothing differs between prompts."""
    runs, votes = watched(prompts=2, videos=2)
    same = runs.assign(good=[0.0, 1.0] * 2)
    told = votes.assign(outcome=[1.0 if key.endswith("-1") else 0.0 for key in votes["left_key"]])
    (row,) = agreement(same, told, ["good"]).to_dict("records")
    assert row["agreement"] == 1 and np.isnan([row["low"], row["high"], row["p"]]).all()


def test_few_prompts_tell_nothing_of_agreement():
    """Has the coefficient and says that it can't be told, of fewer than 20 prompts or 120 videos."""
    table = agreement(*watched(prompts=10), metrics=["good"])
    assert list(table["verdict"]) == ["can't be told"] and table["agreement"].iloc[0] > 0.5
    runs, votes = watched(prompts=10)
    with pytest.raises(LookupError, match="none of the votes is of these runs"):
        agreement(runs, votes.assign(left_key="?", right_key="?"))
    with pytest.raises(LookupError, match="take them from votes_df"):
        agreement(runs, votes.drop(columns="left_key"))
    with pytest.raises(LookupError, match="no metric 'speed'"):
        agreement(runs, votes, ["speed"])


@pytest.mark.slow
def test_a_report_says_what_people_prefer(tmp_path):
    """Has a part for each question: what is preferred, how often each level won, and what goes with it or why not."""
    prompts = [f"p{number}" for number in range(4)]
    sweep = voting.prepared(tmp_path / "sweep", prompts=prompts)
    hostile = "Which <b>looks</b> better?"
    for question, raters in ((hostile, "abc"), ("Which moves more?", "a")):
        for rater, prompt in product(raters, prompts):
            low, high = (sweep.keys[prompt, level, 0] for level in (0.125, 0.875))
            best = low if prompt == "p0" else high
            sides = (low, high) if prompt in "p0p1" else (high, low)
            answer = Answer.LEFT if sides[0] == best else Answer.RIGHT
            VoteLog(sweep.root, Study("cfg", "cfg_scale", question), rater).vote(*sides, answer)
    contents = read_contents("cfg", sweep.store, sweep.uri)
    assert [(one.question, one.factor) for one in contents.people] == [
        (hostile, "cfg_scale"),
        ("Which moves more?", "cfg_scale"),
    ]
    first = contents.people[0]
    assert [(row["level"], row["n"], row["win_share"]) for row in first.levels] == [
        ("0.125", 12, 0.25),
        ("0.875", 12, 0.75),
    ]
    assert first.untold.startswith("Which numbers go with this can't be told of")
    page = render(contents)
    assert "<b>looks" not in page and "Which &lt;b&gt;looks" in page and "<td>75 %</td>" in page
    assert "In the eyes of these 3 raters (12 votes on 4 prompts)" in page
    assert "people-title" not in render(replace(contents, people=()))
