"""A judge's answers are bought as videos are: planned, once, within the budget, and never taken for what they don't say."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import lab
import pandas as pd
import pytest
from lab import Lab
from mlflow.tracking import MlflowClient

from hydra_plugins.hydra_fal_launcher._planned import read_command
from kling_sweeps.analysis import agreement, effects, main_metrics, runs_df
from kling_sweeps.check import FAIL, NOTE, OK, check
from kling_sweeps.errors import BudgetError, ConfigError
from kling_sweeps.experiment.expectations import Expectations, Limits
from kling_sweeps.experiment.request import Product
from kling_sweeps.experiment.rubric import VISION, Rubric, read_rubric
from kling_sweeps.experiment.settings import Cell, Settings
from kling_sweeps.generation.budget import UNIT
from kling_sweeps.judges import looked_at
from kling_sweeps.judges.instructions import version
from kling_sweeps.ledger import read_ledger
from kling_sweeps.store.folder import Entry, Store
from kling_sweeps.store.state_machine import Stage, fold
from kling_sweeps.sweep import judging
from kling_sweeps.sweep.job import broken, unjudged
from kling_sweeps.sweep.judging import Judging, judge_sweep
from kling_sweeps.sweep.plan import WORDS
from kling_sweeps.tracking.tracker import PARAM_LENGTH

MOST_USD = 0.02
NODE = {
    "name": "strict",
    "endpoint": "openrouter/router/video",
    "model": "a/model",
    "frames": None,
    "show_prompt": True,
    "temperature": 0,
    "max_tokens": 500,
    "max_usd": MOST_USD,
    "repeats": 1,
    "pairs": False,
    "factor": None,
    "questions": {
        "fidelity": {"ask": "Is it what the prompt says?", "scale": {1: "no", 2: "half", 3: "all"}}
    },
}
STRICT = read_rubric(NODE)


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab.opened(tmp_path_factory.mktemp("lab")) as opened:
        yield opened


def run_of(prompt: str, cfg_scale: float = 0.5, sample: int = 0) -> Cell:
    one = lab.cell(prompt, sample)
    arguments = {**one.request.arguments, "cfg_scale": cfg_scale}
    name = f"{prompt} · cfg {cfg_scale:g} · #{sample}"
    return replace(one, request=replace(one.request, arguments=arguments), name=name)


def generated(laboratory: Lab, sweep: str, *cells: Cell) -> None:
    laboratory.emulator.set_faults()
    assert laboratory.run(sweep, *cells).exit_code == 0


def judged(laboratory: Lab, sweep: str, rubric: Rubric = STRICT, **given: Any) -> tuple[bool, str]:
    """Judge what is in the store; return whether all have their grades, and what was said."""
    with lab.said() as text:
        whole = judge_sweep(laboratory.settings(sweep, judge=rubric, **given), sweep)
    return whole, text.getvalue()


def asked(laboratory: Lab, word: str) -> list[dict]:
    """Return what the emulator accepted for judges about videos whose prompt has a word."""
    ledger = laboratory.emulator.ledger()
    return [
        one
        for one in ledger
        if one["endpoint"].startswith("openrouter") and word in one["arguments"]["prompt"]
    ]


def answers(laboratory: Lab, sweep: str) -> list[Entry]:
    """Return the folders of the answers that a sweep bought."""
    entries = Store(laboratory.folder / "store/fal").entries(Product.ANSWER)
    return [one for one in entries if one.state().attempts and one.state().attempts[-1].sweep == sweep]


def grade(entry: Entry) -> float:
    return float(re.findall(r"fidelity: (\d)", entry.read_json("result.json")["output"])[0])


def uploads(laboratory: Lab) -> int:
    return httpx.get(f"{laboratory.emulator.base_url}/_emulator/counters").json()["uploads"]


def test_a_video_is_judged_once(laboratory):
    """Buys an answer for each video and repeat, tells MLflow the mean, notes what it has cost, and buys nothing again."""
    cells = [run_of(f"judged once {name}", cfg) for name in "ab" for cfg in (0.1, 0.9)]
    generated(laboratory, "once", *cells)
    before = uploads(laboratory)
    whole, said = judged(laboratory, "once")
    assert whole and f"4 answers: 4 to ask. {4 * MOST_USD:.2f} USD" in said
    assert (len(asked(laboratory, "judged once")), uploads(laboratory) - before) == (4, 4)
    whole, said = judged(laboratory, "once")
    assert whole and "4 answers: 4 in the store. 0.00 USD" in said and "Nothing was bought." in said
    assert len(asked(laboratory, "judged once")) == 4
    whole, _ = judged(laboratory, "once", replace(STRICT, repeats=3, temperature=0.0))
    assert whole and (len(asked(laboratory, "judged once")), uploads(laboratory) - before) == (12, 4)
    entries = answers(laboratory, "once")
    runs = runs_df("kling_sweeps/once", laboratory.tracking_uri)
    assert runs["judge/fidelity"].mean() == pytest.approx(sum(map(grade, entries)) / 12)
    assert runs.attrs["declared"]["judge/fidelity"] == ["", "higher"]
    assert main_metrics(runs)[0] == "judge/fidelity"
    keys = dict(zip(runs["run_name"], runs["request_key"], strict=True))
    votes = [
        [name, keys[low.name], keys[high.name], 0.0]
        for name, (low, high) in {"a": cells[:2], "b": cells[2:]}.items()
    ]
    table = pd.DataFrame(votes, columns=["prompt", "left_key", "right_key", "outcome"])
    told = agreement(runs, table).set_index("metric").loc["judge/fidelity"]
    named = [agreement(runs, table)["metric"], effects(runs, "cfg_scale")["metric"], main_metrics(runs)]
    assert all("judge/fidelity" in some and "judge/fidelity/n" not in some for some in map(list, named))
    assert {*runs["judge/fidelity/n"]} == {3}
    assert (told["videos"], told["verdict"]) == (4, "can't be told")
    charged = sum(one["charged_usd"] for one in asked(laboratory, "judged once"))
    lines = [line for line in read_ledger(laboratory.folder / "store").lines if line.sweep == "once"]
    told = [line.attempt.usd for line in lines if line.product is Product.ANSWER]
    assert len(told) == 12 and 0 < sum(told) == pytest.approx(charged, abs=12e-6)  # a bill has six digits
    assert all(one.state().committed_usd < MOST_USD for one in entries)


def test_what_an_answer_has_cost_counts_in_every_command(laboratory):
    """Settles what the store's running total says of an answer by the answer's own journal, unless another works on it."""
    generated(laboratory, "counted", run_of("counted a"))
    assert judged(laboratory, "counted")[0]
    (entry,) = answers(laboratory, "counted")
    usd = entry.state().committed_usd
    assert usd > 0

    def counted() -> float:
        with open(laboratory.folder / "store/fal/spending", "a") as file:
            file.write(f"{entry.key} {10 * UNIT}\n")
        settings = laboratory.settings("counted", judge=STRICT)
        runs = Judging.read(settings, STRICT, runs_df("counted", laboratory.tracking_uri)).runs
        return runs.budget.amounts[entry.key] / UNIT

    assert counted() == pytest.approx(usd)
    with entry.lock(timeout_s=0):
        assert counted() == 10
    assert counted() == pytest.approx(usd)


def test_a_file_that_fal_no_longer_has_is_uploaded_anew(laboratory):
    """Sends an address that it knows as long as fal has the file, and another one after fal has said that it has not."""
    generated(laboratory, "gone", run_of("upload gone"))
    assert judged(laboratory, "gone")[0]
    (file,) = {
        path
        for path in (laboratory.folder / "store/fal/pictures").glob("*.json")
        if path.stem in str(answers(laboratory, "gone")[0].read_json("request.json"))
    }
    (known,) = json.loads(file.read_text())
    file.write_text(json.dumps([{**known, "address": f"{known['address']}.lost"}]))
    before, other = uploads(laboratory), replace(STRICT, temperature=0.5)
    assert not judged(laboratory, "gone", other)[0]
    assert asked(laboratory, "upload gone")[-1]["error_type"] == "file_download_error"
    assert not judged(laboratory, "gone", other)[0]
    assert uploads(laboratory) == before
    assert judged(laboratory, "gone", other, retry="failed")[0]
    assert (uploads(laboratory), len(asked(laboratory, "upload gone"))) == (before + 1, 3)


def test_what_was_asked_otherwise_is_bought_anew_and_never_mixed(laboratory):
    """Gives a run that only an earlier version of a question judged no grade, and keeps what each version said."""
    cells = [run_of("asked otherwise", cfg) for cfg in (0.1, 0.5, 0.9)]
    generated(laboratory, "versions", *cells)
    assert judged(laboratory, "versions")[0]
    other = {"fidelity": {"ask": "Is it all there?", "scale": {5: "no", 6: "yes"}}}
    changed = read_rubric({**NODE, "questions": other})
    assert version(changed) != version(STRICT)
    gone = laboratory.entry(cells[0]).video
    aside = gone.rename(gone.with_name("aside.mp4"))
    assert judged(laboratory, "versions", changed)[0]
    aside.rename(gone)
    runs = runs_df("kling_sweeps/versions", laboratory.tracking_uri).set_index("run_name")
    assert runs["judge/fidelity"].isna().tolist() == [name == cells[0].name for name in runs.index]
    assert runs["judge/fidelity"].min() >= 5
    left = laboratory.tracked("versions")[cells[0].name].data  # what MLflow's own pages show
    assert math.isnan(left.metrics["judge/fidelity"]) and math.isnan(left.metrics["judge/fidelity/n"])
    assert "judge/fidelity" not in left.tags
    assert len(asked(laboratory, "asked otherwise")) == 5
    assert judged(laboratory, "versions")[0]  # the earlier version counts again, for nothing
    runs = runs_df("kling_sweeps/versions", laboratory.tracking_uri)
    assert runs["judge/fidelity"].max() <= 3 and not runs["judge/fidelity"].isna().any()
    assert len(asked(laboratory, "asked otherwise")) == 5


def test_grades_stay_with_their_video(laboratory):
    """Keeps them where a run is written anew, and drops them where its video is another."""
    cell = run_of("written anew")
    generated(laboratory, "anew", cell)
    assert judged(laboratory, "anew")[0]
    client = MlflowClient(laboratory.tracking_uri)

    def rewritten(**tags: str) -> dict[str, float]:
        run = laboratory.tracked("anew")[cell.name]
        for key, value in {"content": "older", **tags}.items():
            client.set_tag(run.info.run_id, key, value)
        assert laboratory.run("anew", cell).exit_code == 0
        return laboratory.tracked("anew")[cell.name].data.metrics

    theirs = client.create_run(client.get_experiment_by_name("kling_sweeps/anew").experiment_id)
    client.set_terminated(theirs.info.run_id)  # a run of somebody's own has no video
    assert judged(laboratory, "anew")[0]
    client.delete_run(theirs.info.run_id)
    assert "judge/fidelity" in rewritten()
    assert "judge/fidelity" not in rewritten(request_id="of another video")


def test_a_judge_is_told_the_whole_prompt(laboratory):
    """Takes from the store what MLflow has cut, so that both commands ask the same."""
    text = "a long prompt, " * 500
    entry = laboratory.entry(run_of(text))
    entry.create(run_of(text).request)
    assert judging._prompt(text[:PARAM_LENGTH], entry) == text
    assert judging._prompt("a fox", entry) == "a fox" and judging._prompt(math.nan, entry) == ""


def test_stills_are_made_once_a_video(monkeypatch, tmp_path):
    """Decodes each of many videos once, whose stills are asked for by turns and at once."""
    made: list[str] = []

    def stills(video: Path, number: int) -> list[bytes]:
        made.append(video.name)
        return [f"{video.name} {place}".encode() for place in range(number)]

    monkeypatch.setattr(looked_at, "stills", stills)
    asked_for = []
    for place in range(judging.IN_FLIGHT):
        video = tmp_path / f"{place}.mp4"
        video.write_bytes(f"video {place}".encode())
        digest = hashlib.sha256(video.read_bytes()).hexdigest()
        rubric = read_rubric({**NODE, "endpoint": VISION, "frames": 4})
        asked_for.append(looked_at.looked_at(rubric, video, digest))
    by_turns = [still for stills in zip(*asked_for, strict=True) for still in stills]
    with ThreadPoolExecutor(8) as threads:
        found = [*threads.map(lambda still: still.content(still.path), by_turns)]
    assert sorted(made) == sorted(f"{place}.mp4" for place in range(judging.IN_FLIGHT))
    assert found[0] == b"0.mp4 0" and len({*found}) == 4 * judging.IN_FLIGHT
    other = replace(by_turns[0], digest="0" * 64)
    assert other.content(other.path) is None and other.content(tmp_path / "gone.mp4") is None


def test_no_answer_is_bought_over_the_budget(laboratory):
    """Refuses a plan over budget, buys nothing in a dry run, and stops at the first answer that costs more than it may."""
    cells = [run_of("over budget", cfg) for cfg in (0.1, 0.5, 0.9)]
    generated(laboratory, "budget", *cells)
    whole, said = judged(laboratory, "budget", dry_run=True, max_usd=0.05)
    assert whole and "would be refused: this costs 0.06 USD" in said
    with pytest.raises(BudgetError, match=r"this costs 0.06 USD, and budget.max_usd=0.05"):
        judged(laboratory, "budget", max_usd=0.05)
    assert asked(laboratory, "over budget") == []
    laboratory.emulator.set_faults({"at": "judge", "fault": "dear", "usd": 0.5})
    whole, said = judged(laboratory, "budget", max_usd=0.06)
    assert not whole and "was to cost 0.02 at most; nothing more is sent" in said
    laboratory.emulator.set_faults()
    with pytest.raises(BudgetError, match=r"has cost 0.5 USD, and judge.max_usd=0.02"):
        judged(laboratory, "budget")
    assert len(asked(laboratory, "over budget")) == 1
    dear = replace(STRICT, max_usd=0.6)
    for max_usd, bought in ((0.55, 1), (1.15, 2)):
        whole, _ = judged(laboratory, "budget", dear, max_usd=max_usd, partial=True)
        assert not whole and len(asked(laboratory, "over budget")) == bought
    again = replace(dear, repeats=2)  # what the answers have cost counts beside the videos
    spent = sum(one.state().committed_usd for one in answers(laboratory, "budget"))
    outcome = laboratory.run("budget", *cells, judge=again, max_usd=3 * lab.PRICE_USD + spent + 2.3)
    assert isinstance(outcome.error, BudgetError) and "this costs 2.40 USD" in str(outcome.error)
    outcome = laboratory.run("budget", *cells, judge=STRICT, max_usd=100)
    assert isinstance(outcome.error, BudgetError) and "has cost 0.5 USD" in str(outcome.error)
    assert len(asked(laboratory, "over budget")) == 2


def test_an_answer_without_a_grade_is_a_record_and_no_number(laboratory):
    """Keeps what was said, tells it in MLflow and the terminal, gives no grade, and is paid for once."""
    faults = ("no_grade", "out_of_scale", "two_grades", "empty", "html", "prose_around")
    cells = {fault: run_of(f"spoilt by {fault}.") for fault in ("nothing", *faults)}
    generated(laboratory, "spoilt", *cells.values())
    rules = [{"at": "judge", "fault": one, "match": cells[one].prompt_text} for one in faults]
    laboratory.emulator.set_faults(*rules)
    for _ in range(2):
        whole, said = judged(laboratory, "spoilt")
        assert not whole and said.count("no grade for spoilt by ") == 5
        assert "and 1 answer more without a grade" in said
        assert len(asked(laboratory, "spoilt by")) == len(cells)
    runs = runs_df("kling_sweeps/spoilt", laboratory.tracking_uri).set_index("run_name")
    lacking = {name for name in runs.index if runs["judge/fidelity"].isna()[name]}
    assert lacking == {cells[fault].name for fault in faults}
    assert {name for name in runs.index if isinstance(runs["judge_unreadable"][name], str)} == lacking
    texts = [one.read_json("result.json")["output"] for one in answers(laboratory, "spoilt")]
    assert len(texts) == len(cells) and "" in texts
    laboratory.emulator.set_faults()
    whole, said = judged(laboratory, "spoilt", replace(STRICT, repeats=2))
    assert not whole and "of 7 videos, by 1 to 2 grades each" in said

    def tracked() -> pd.DataFrame:
        return runs_df("kling_sweeps/spoilt", laboratory.tracking_uri).set_index("run_name")

    runs = tracked()
    assert not runs["judge/fidelity"].isna().any()
    number = {name: 1 + (name == cells["nothing"].name) for name in runs.index}
    assert runs["judge/fidelity/n"].to_dict() == number
    judged(laboratory, "spoilt")  # asks once, and still averages what was bought
    assert tracked()["judge/fidelity/n"].to_dict() == number
    other = {**NODE, "name": "other", "questions": {"hands": NODE["questions"]["fidelity"]}}
    assert judged(laboratory, "spoilt", read_rubric(other))[0]
    runs = tracked()  # what one judge could not say is still told where another one could
    assert {name for name in runs.index if isinstance(runs["judge_unreadable"][name], str)} == lacking
    whole, said = judged(laboratory, "spoilt", retry="failed")
    assert whole and f"{len(faults)} to ask again" in said
    assert tracked()["judge_unreadable"].isna().all()
    assert len(asked(laboratory, "spoilt by")) == 3 * len(cells) + len(faults)
    kept = [path for one in answers(laboratory, "spoilt") for path in one.folder.glob("result-*.json")]
    assert len(kept) == len(faults)
    assert judged(laboratory, "spoilt", retry="failed")[0]
    assert len(asked(laboratory, "spoilt by")) == 3 * len(cells) + len(faults)


def test_a_sweep_is_judged_when_its_videos_are_there(laboratory):
    """Counts what judging costs at the most in the plan, and judges what was made, in the same command and budget."""
    cells = [run_of("judged at once", cfg) for cfg in (0.1, 0.9)]
    videos_usd = 2 * lab.PRICE_USD
    laboratory.emulator.set_faults()
    outcome = laboratory.run("with judge", *cells, judge=STRICT, max_usd=videos_usd + MOST_USD)
    assert isinstance(outcome.error, BudgetError) and laboratory.bought(*cells) == []
    unjudged.clear()
    outcome = laboratory.run("with judge", *cells, judge=STRICT, max_usd=videos_usd + 2 * MOST_USD)
    assert (outcome.exit_code, unjudged.is_set()) == (0, False), outcome.said
    assert "2 answers about videos to come: 0.04 USD" in outcome.said
    assert len(asked(laboratory, "judged at once")) == 2
    runs = runs_df("kling_sweeps/with judge", laboratory.tracking_uri)
    assert not runs["judge/fidelity"].isna().any()
    gate = Expectations(limits=(Limits("judge/fidelity", min=runs["judge/fidelity"].max() + 1),))
    broken.clear()
    outcome = laboratory.run("with judge", *cells, judge=STRICT, expect=gate)
    assert outcome.exit_code == 0 and broken.is_set() and "holds for 0 of 2 runs" in outcome.said
    laboratory.emulator.set_faults({"at": "judge", "fault": "no_grade"})
    again = replace(STRICT, repeats=2)
    assert laboratory.run("with judge", *cells, judge=again).exit_code == 0 and unjudged.is_set()
    assert laboratory.charged(*cells) == 2
    laboratory.emulator.set_faults()


def test_a_check_counts_the_judge(laboratory):
    """Says of a command what judging costs, fails where that is over its budget, and how the judge's endpoint stands."""
    command = [
        "prompt=potter",
        "judge=fidelity",
        "provider=fal",
        f"provider.base_url={laboratory.emulator.base_url}",
    ]
    found = {one.name: one for one in check([*command, f"budget.max_usd={lab.PRICE_USD}"], None)}
    assert found["command"].status == FAIL and "this costs 1.42 USD" in found["command"].said
    assert found["judge fidelity"].status in (OK, NOTE)
    found = {one.name: one for one in check(command, None)}
    assert found["command"].status == OK and "and 0.02 USD at most for fidelity" in found["command"].said


def test_a_judge_is_a_part_of_the_config(monkeypatch, tmp_path):
    """Is chosen by name, with goals and gates on what it gives, and refused with all that is wrong with it."""
    monkeypatch.chdir(tmp_path)

    def settings(*overrides: str) -> Settings:
        return read_command(overrides, None)[0]

    assert settings().judge is None
    found = settings("judge=fidelity", "goal={judge/fidelity: max}", "+expect={judge/plausible: {min: 3}}")
    assert (found.judge.name, found.goal) == ("fidelity", {"judge/fidelity": "max"})
    assert found.expect.limits == (Limits("judge/plausible", min=3),)
    with pytest.raises(ConfigError) as caught:
        settings("judge=fidelity", "judge.repeats=0", "judge.max_usd=0", "+judge.colour=red")
    said = str(caught.value)
    assert all(key in said for key in ("judge.repeats=0", "judge.max_usd=0", "judge.colour is unknown"))
    with pytest.raises(ConfigError, match=r"expect.judge/fidelity is not measured; add the judge"):
        settings("+expect={judge/fidelity: {min: 3}}")
    with pytest.raises(ConfigError, match=r"there is no judge=fidelty; did you mean fidelity"):
        settings("judge=fidelty")


def test_two_videos_are_compared_in_both_orders(laboratory):
    """Buys each pair twice, by stills, and tells of each run how often it won, a tie counting as a half."""
    cells = [run_of(f"compared {name}", cfg) for name in "ab" for cfg in (0.1, 0.5, 0.9)]
    generated(laboratory, "pairs", *cells)
    rubric = read_rubric({**NODE, "pairs": True, "endpoint": VISION, "frames": 2})
    before = uploads(laboratory)
    whole, said = judged(laboratory, "pairs", rubric)
    assert whole and "in both orders, which differ in cfg_scale" in said
    bought = asked(laboratory, "compared")
    assert (len(bought), uploads(laboratory) - before) == (12, 12)
    orders = {tuple(one["arguments"]["image_urls"]) for one in bought}
    assert {(*second, *first) for *first, second in [(a, b, (c, d)) for a, b, c, d in orders]} == orders
    runs = runs_df("kling_sweeps/pairs", laboratory.tracking_uri)
    shares = runs["judge/fidelity/win_share"]
    assert shares.mean() == pytest.approx(0.5) and shares.std() > 0
    assert {*runs["judge/fidelity/win_share/n"]} == {2}
    assert judged(laboratory, "pairs", rubric)[0] and len(asked(laboratory, "compared")) == 12
    with pytest.raises(ConfigError, match=r"two videos of one prompt are compared"):
        judged(laboratory, "pairs", replace(rubric, factor="prompt"))
    with pytest.raises(ConfigError, match=r"judge.factor=colour: "):
        judged(laboratory, "pairs", replace(rubric, factor="colour"))


def test_comparisons_by_two_settings_never_mix(laboratory):
    """Gives a run that has no partner in the setting that was compared last no share, although it had one in another."""
    first, vivid = run_of("two settings", 0.1), run_of("two settings", 0.9)
    arguments = {**first.request.arguments, "duration": "10"}
    long = replace(first, request=replace(first.request, arguments=arguments), name="two settings · 10 s")
    generated(laboratory, "settings", first, vivid, long)
    rubric = replace(STRICT, pairs=True)

    def compared_by(factor: str) -> set[str]:
        assert judged(laboratory, "settings", replace(rubric, factor=factor))[0]
        runs = runs_df("kling_sweeps/settings", laboratory.tracking_uri)
        return {*runs["run_name"][runs["judge/fidelity/win_share"].notna()]}

    assert compared_by("cfg_scale") == {first.name, vivid.name}
    assert compared_by("duration") == {first.name, long.name}
    assert compared_by("cfg_scale") == {first.name, vivid.name}
    assert len(asked(laboratory, "two settings")) == 4


# What an answer meets; then how many were accepted and charged, how far it came, what it costs, and what the same command makes of it.
FAULTS = """
submit    drop                          once  1  1  finished   spent      1
submit    cut                           once  1  1  finished   spent      1
submit    error_500 accepted=true       once  1  1  finished   spent      1
submit    too_many_429                  once  1  1  finished   spent      1
submit    drop accepted=false           ever  0  0  unknown    unknown    0
upload    drop                          once  1  1  finished   spent      1
generate  error_500                     once  2  1  finished   spent      2
generate  error_500                     ever  3  0  failed     -          3
generate  moderation_422                ever  1  0  failed     perhaps    1
status    html_200                      once  1  1  finished   spent      1
status    drop                          ever  1  1  submitted  in_flight  1
result    html_200                      once  1  1  finished   spent      1
result    not_found_404                 ever  1  1  finished   spent      1
result    error_500                     ever  1  1  completed  spent      1
judge     no_usage                      ever  1  1  finished   spent      1
"""


@dataclass(frozen=True)
class Row:
    """A fault that one answer meets, and what is known of it afterwards."""

    at: str
    fault: str
    options: dict[str, Any]
    how: str
    known: tuple[int, int, str, str]
    later: int

    @property
    def cell(self) -> Cell:
        return run_of(f"answer at {self.at} {self.fault} {self.how} {sorted(self.options)}.")

    @property
    def rule(self) -> dict[str, Any]:
        rule = {"at": self.at, "fault": self.fault, **self.options}
        rule |= {} if self.at == "upload" else {"match": self.cell.prompt_text.split("[")[0]}
        return rule | ({"times": 1} if self.how == "once" else {})


def rows() -> Sequence[Row]:
    found = []
    for line in FAULTS.strip().splitlines():
        at, fault, *options, how, accepted, charged, stage, costs, later = line.split()
        given = {name: value == "true" for name, value in (one.split("=") for one in options)}
        known = (int(accepted), int(charged), stage, costs)
        found.append(Row(at, fault, given, how, known, int(later)))
    return found


def test_an_answer_under_a_fault_ends_as_its_row_says(laboratory):
    """Is bought once and not lost, whatever it meets; the same command then goes on with it, and the budget holds."""
    cells = {row.cell.name: row for row in rows()}
    generated(laboratory, "faults", *(row.cell for row in cells.values()))

    def known() -> dict[str, tuple[int, int, str, str]]:
        entries = {
            row.cell.name: next(
                one
                for one in answers(laboratory, "faults")
                if row.cell.prompt_text in one.read_json("request.json")["arguments"]["prompt"]
            )
            for row in cells.values()
        }
        found = {}
        for name, entry in entries.items():
            bought = asked(laboratory, cells[name].cell.prompt_text)
            attempts = fold(entry.journal.events()).attempts
            costs = [one.cost.replace(" ", "_") for one in attempts if one.cost != "free"]
            charged = sum(one["charged_usd"] > 0 for one in bought)
            found[name] = (len(bought), charged, entry.state().stage.value, ",".join(costs) or "-")
        return found

    laboratory.emulator.set_faults(*(row.rule for row in cells.values()))
    most_usd = 20 * MOST_USD
    whole, _ = judged(laboratory, "faults", timeout_s=2, history_wait_s=2, max_usd=most_usd)
    assert not whole
    assert known() == {name: row.known for name, row in cells.items()}
    laboratory.emulator.set_faults()
    judged(laboratory, "faults", history_wait_s=0, max_usd=most_usd)
    later = known()
    assert {name: found[0] for name, found in later.items()} == {
        name: row.later for name, row in cells.items()
    }
    stays = {name for name, row in cells.items() if row.known[2] in ("unknown", "failed")}
    assert {name for name, found in later.items() if found[2] != Stage.FINISHED} == stays
    assert set(WORDS) >= {Stage(found[2]) for found in later.values()}
    spent = sum(one.state().committed_usd for one in answers(laboratory, "faults"))
    assert spent <= most_usd
