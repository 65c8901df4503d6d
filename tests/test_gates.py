"""Gates: what is expected of runs and of a sweep, read before anything is bought, judged at the end, for CI too."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import lab
import numpy as np
import pandas as pd
import pytest
from conftest import Emulator
from hydra.core.global_hydra import GlobalHydra
from lab import Lab, cell
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from scipy import stats
from test_config import problems, read

from kling_sweeps.__main__ import main
from kling_sweeps.analysis import overall, runs_df
from kling_sweeps.emulator.process import EmulatorProcess
from kling_sweeps.errors import UnavailableError
from kling_sweeps.experiment.emulator_settings import EmulatorSettings
from kling_sweeps.experiment.expectations import Change, Expectations, Limits, read_expectations
from kling_sweeps.experiment.reader import MOST_NAMES
from kling_sweeps.metrics.camera import WORDS, Camera
from kling_sweeps.reports.contents import read_contents
from kling_sweeps.sweep import gates
from kling_sweeps.sweep.job import broken

CAMERA = tuple(value.name for value in Camera.values)
MEASURED = ("motion", "cuts", "luma_mean", *CAMERA)
BRIGHT = Expectations(limits=(Limits("luma_mean", min=2.0),))
# Characters that XML can't hold or that mean something in it, and some that only look so.
HOSTILE = 'A "fox" ]]> <b>&amp;</b> \x07\x1b[31m\x00 🦊 \ufffe \u202e\n--> the end'


def test_gates_are_read():
    """Reads a run's gates and a sweep's, percent in either form, and changes no request; null expects nothing."""
    given = "+expect={cuts: {max: 0}, motion: {min: 0.02, baseline: 0.5, drop: {max: 10 %, confidence: 0.9}, rise: {max: 25}}, measurement_errors: none}"
    settings, one = read(given, "expect.junit=out/gates.xml")
    assert settings.expect == Expectations(
        limits=(Limits("cuts", max=0.0), Limits("motion", min=0.02)),
        no_errors=True,
        changes=(Change("motion", 0.5, "drop", 10.0, 0.9), Change("motion", 0.5, "rise", 25.0, 0.95)),
        junit=Path("out/gates.xml"),
    )
    assert one.request.key == read()[1].request.key
    assert not read()[0].expect and not read("expect=null")[0].expect
    assert read(given, "++expect.motion=null")[0].expect.metrics == ["cuts"]
    assert read("+expect.inference_s.max=300")[0].expect.limits == (Limits("inference_s", max=300.0),)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (3, "expect=3 is not a mapping, as {cuts: {max: 0}}"),
        ({"cutz": {"max": 0}}, "expect.cutz is not measured; did you mean cuts?"),
        ({"cuts": 0}, "expect.cuts=0 is not a mapping, as {max: 0}"),
        ({"cuts": {}}, "expect.cuts expects nothing; give min, max, or a baseline with drop or rise"),
        (
            {"cuts": {"most": 0}},
            "expect.cuts.most is unknown; valid are baseline, drop, max, min, rise",
        ),
        ({"cuts": {"max": "few"}}, "expect.cuts.max=few is not a finite number"),
        ({"cuts": {"max": float("nan")}}, "expect.cuts.max=nan is not a finite number"),
        ({"cuts": {"max": float("inf")}}, "expect.cuts.max=inf is not a finite number"),
        ({"cuts": {"max": True}}, "expect.cuts.max=true is not a finite number"),
        ({"cuts": {"min": 2, "max": 1}}, "expect.cuts: nothing is at least 2 and at most 1"),
        (
            {"cuts": {"baseline": 1}},
            "expect.cuts.baseline needs a drop or a rise, as drop: {max: 10 %}",
        ),
        (
            {"cuts": {"rise": {"max": 10}}},
            "expect.cuts.rise needs expect.cuts.baseline, the mean that it is from",
        ),
        ({"cuts": {"baseline": 0, "rise": {"max": 10}}}, "expect.cuts.baseline=0 has no percent"),
        ({"cuts": {"baseline": 1, "rise": {}}}, "expect.cuts.rise needs max, as {max: 10 %}"),
        ({"cuts": {"baseline": 1, "rise": 10}}, "expect.cuts.rise=10 is not a mapping, as {max: 10 %}"),
        (
            {"cuts": {"baseline": 1, "rise": {"max": "10 cm"}}},
            "expect.cuts.rise.max=10 cm is not a percentage, as 10 %",
        ),
        (
            {"cuts": {"baseline": 1, "rise": {"max": 0.1}}},
            "expect.cuts.rise.max=0.1 may be a share or percent; write 0.1 % or 10 %",
        ),
        ({"cuts": {"baseline": 1, "rise": {"max": -1}}}, "expect.cuts.rise.max=-1 is negative"),
        (
            {"cuts": {"baseline": 1, "rise": {"max": 10, "confidence": 95}}},
            "expect.cuts.rise.confidence=95 is not between 0 and 1, as 0.95",
        ),
        (
            {"measurement_errors": 2},
            "expect.measurement_errors=2: nothing but none can be expected",
        ),
        ({"camera": "statik"}, "expect.camera=statik is no word for a camera; did you mean static?"),
        (
            {"camera": ["static", 3]},
            f"expect.camera=3 is no word for a camera; valid are {', '.join(sorted(WORDS))}",
        ),
        ({"camera": []}, f"expect.camera expects nothing; give one of {', '.join(WORDS)}"),
        ({"junit": 7}, "expect.junit=7 is not the name of a file"),
        ({"junit": " "}, "expect.junit=  is not the name of a file"),
    ],
    ids=str,
)
def test_a_gate_that_says_nothing_is_refused(given, problem):
    """Says in one problem what is wrong, where, and what to write."""
    assert read_expectations(given, MEASURED)[1] == [problem]


def test_gates_are_refused_with_all_else():
    """Reports gates with whatever else is wrong, the metrics being those that this command measures."""
    not_measured, negative = problems("+expect.motion.max=1", "metrics=fast", "sample=-1")
    known = _known("metrics=fast")
    told = f"expect.motion is not measured; valid are {', '.join(known[:MOST_NAMES])}"
    assert not_measured == f"{told} and {len(known) - MOST_NAMES} more"
    assert negative == "sample=-1 is not a whole number of 0 or more"


def _known(metrics: str) -> list[str]:
    from kling_sweeps.experiment.config import measured
    from kling_sweeps.experiment.expectations import BOOKKEEPING

    return sorted([*measured(read(metrics)[0].metrics), *BOOKKEEPING])


def table(*values: float, repeats: int = 3) -> pd.DataFrame:
    """Return runs with these values of motion, so many repeats a prompt."""
    names = [f"prompt {number // repeats}" for number in range(len(values))]
    samples = [number % repeats for number in range(len(values))]
    runs = pd.DataFrame({"prompt": names, "prompt_text": names, "sample": samples, "motion": values})
    runs["status"] = "FINISHED"
    runs.attrs = {"params": ["prompt", "prompt_text", "sample"], "metrics": ["motion"]}
    return runs


def test_the_mean_of_all_runs_has_its_interval():
    """Pools the noise of the repeats, each prompt counting once, as a t interval by hand."""
    values = np.array([[0.40, 0.44, 0.48], [0.52, 0.50, 0.57]])
    error = np.sqrt(values.var(axis=1, ddof=1).mean() / values.size)
    margin = stats.t.ppf(0.95, 4) * error
    found = overall(table(*values.ravel()), "motion", 0.9, "these_prompts")
    assert found == pytest.approx((values.mean(), values.mean() - margin, values.mean() + margin), rel=1e-12)


@pytest.mark.parametrize(
    ("expected", "pan", "kept"),
    [
        ("static", 0.1, True),
        ("static", 3.0, False),
        (["zoom in", "pan right"], 3.0, True),
        ("static", float("nan"), False),
    ],
)
def test_a_camera_does_what_is_expected(expected, pan, kept):
    """Holds where the word for what was measured is one of those expected; what can't be told is none."""
    expect, wrong = read_expectations({"camera": expected}, MEASURED)
    row = dict.fromkeys(CAMERA, 0.0) | {"camera_pan": pan}
    assert not wrong and expect.of_runs and (not [*gates._broken(row, expect)]) == kept
    assert read_expectations({"camera": expected}, ["motion"])[1] == [
        f"expect.camera: {', '.join(CAMERA)} are not measured; metrics=default measures them"
    ]


@pytest.mark.parametrize(
    ("values", "way", "percent", "status", "said"),
    [
        ((0.48, 0.49, 0.50, 0.49, 0.50, 0.51), "drop", 10.0, "passed", "a drop of 1 % from 0.5"),
        (
            (0.48, 0.49, 0.50, 0.49, 0.50, 0.51),
            "drop",
            3.0,
            "failed",
            "a drop of 1 % from 0.5; 95 % interval",
        ),
        ((0.60, 0.61, 0.62, 0.60, 0.61, 0.62), "drop", 0.0, "passed", "a drop of -22 % from 0.5"),
        ((0.60, 0.61, 0.62, 0.60, 0.61, 0.62), "rise", 20.0, "failed", "a rise of 22 % from 0.5"),
        ((0.2, 0.5, 0.8, 0.2, 0.5, 0.8), "drop", 10.0, "failed", "a drop of 0 % from 0.5; 95 % interval"),
        ((0.5, 0.5, 0.5, 0.5, 0.5, 0.5), "drop", 10.0, "failed", "no interval"),
        ((0.5, 0.5, np.nan, 0.5, 0.5, 0.5), "drop", 10.0, "failed", "1 of 6 runs have no motion"),
        ((), "drop", 10.0, "failed", "0 of 0 runs have no motion"),
    ],
)
def test_a_sweep_keeps_a_gate_where_its_whole_interval_does(values, way, percent, status, said):
    """Holds where both ends of the interval are within the limit; what isn't known does not hold."""
    judged = gates._of_sweep(Change("motion", 0.5, way, percent), table(*values))
    assert (judged.status, said in judged.why) == (status, True), judged.why


def test_a_gate_allows_for_looks_at_the_runs():
    """Gives each look its part of the error, where it could have been the last."""
    runs = table(0.48, 0.49, 0.50, 0.49, 0.50, 0.51)
    alone = gates._of_sweep(Change("motion", 0.5, "drop", 4.0), runs)
    runs.attrs["looks"] = {
        "factor": "cfg_scale",
        "reference": None,
        "repeats": [2, 4, 6],
        "metrics": ["motion"],
    }
    looked_at = gates._of_sweep(Change("motion", 0.5, "drop", 4.0), runs)
    assert (alone.status, looked_at.status) == ("passed", "failed"), (alone.why, looked_at.why)
    assert "95 % interval" in alone.why and "98.3 % interval" in looked_at.why


def test_a_metric_that_was_not_measured_breaks_its_gate():
    """Names what does not hold with its value and its limits, and NaN or nothing as not measured."""
    expect = Expectations(
        (Limits("cuts", max=0.0), Limits("motion", 0.02, 3.0), Limits("freeze", max=1.0)), True
    )
    row = {"cuts": 3.0, "motion": 0.01, "measurement_errors": "freeze: no frames"}
    assert [*gates._broken(row, expect)] == [
        "cuts = 3 (max 0)",
        "motion = 0.01 (min 0.02, max 3)",
        "freeze not measured (max 1)",
        "measurement_errors: freeze: no frames",
    ]
    assert not Limits("cuts", max=0.0).holds(float("nan"))
    runs = pd.DataFrame([{"cuts": float("nan"), "motion": 1.0, "freeze": 0.0}])
    assert [*gates._broken(next(gates._rows(runs)), expect)] == ["cuts not measured (max 0)"]


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory) -> Iterator[Lab]:
    with lab.opened(tmp_path_factory.mktemp("lab")) as opened:
        yield opened


@pytest.fixture(autouse=True)
def nothing_broken() -> Iterator[None]:
    """Begin each test as `main` begins a command."""
    broken.clear()
    yield
    broken.clear()


def checked(file: Path) -> list[ElementTree.Element]:
    """Return the cases of a JUnit file that is as junit-10.xsd of Jenkins' xUnit plugin wants it."""
    root = ElementTree.parse(file).getroot()
    (suite,) = root
    cases = [*suite]
    assert (root.tag, suite.tag) == ("testsuites", "testsuite")
    assert root.attrib.keys() <= {"name", "time", "tests", "failures", "errors"}
    assert suite.attrib.keys() == {"name", "time", "tests", "failures", "errors", "skipped", "timestamp"}
    for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert suite.get(attribute) == str(len(suite.findall(f"testcase/{tag}")))
    assert suite.get("tests") == str(len(cases)) == root.get("tests")
    assert len({case.get("name") for case in cases}) == len(cases)  # of two alike, GitLab shows one
    for case in cases:
        assert case.tag == "testcase" and case.attrib.keys() == {"name", "classname", "time"}
        assert float(case.get("time")) >= 0
        *ended, output = case
        assert output.tag == "system-out" and not output.attrib
        assert [one.tag for one in ended] in ([], ["failure"], ["error"], ["skipped"])
        assert all(one.attrib.keys() == {"type", "message"} and one.text for one in ended)
    return cases


@pytest.mark.slow
def test_junit_has_each_run_with_its_video(laboratory, tmp_path):
    """Writes what held, what did not, what failed and what was not run, hostile prompts included."""
    cells = [cell(HOSTILE), cell("refused"), cell("kept")]
    laboratory.emulator.set_faults({"at": "generate", "fault": "moderation_422", "match": "refused"})
    file = tmp_path / "new" / "gates.xml"
    expect = Expectations(limits=(Limits("luma_mean", max=2.0),), junit=file)
    outcome = laboratory.run("junit", *cells, expect=expect)
    assert outcome.exit_code == 1
    hostile, refused, kept = checked(file)
    assert "🦊" in hostile.get("name") and "]]>" in hostile.get("name") and "\x07" not in hostile.get("name")
    assert [one.tag for one in refused] == ["error", "system-out"]
    assert "content_policy_violation" in refused[0].get("message")
    run = laboratory.tracked("junit")[cells[2].name]
    assert f"video: {run.info.artifact_uri}/video.mp4" in kept[0].text
    assert f"/runs/{run.info.run_id}/artifacts/video.mp4" in kept[0].text
    assert "cfg_scale: 0.5" in kept[0].text and "prompt: kept" in kept[0].text
    assert "What is expected holds for 2 of 3 runs." in outcome.said
    laboratory.emulator.set_faults()
    assert gates._text("half a \ud83d") == "half a \ufffd"  # of a pair, which no file holds
    stricter = Expectations(limits=(Limits("luma_mean", min=2.0), Limits("cost_usd", max=1.0)), junit=file)
    assert laboratory.run("junit", *cells[::2], expect=stricter).exit_code == 0 and broken.is_set()
    hostile, kept = checked(file)
    assert kept[0].tag == "failure" and kept[0].get("message").endswith("(min 2); cost_usd = 1.4 (max 1)")
    assert "/artifacts/video.mp4" in kept[0].text


@pytest.mark.slow
def test_what_was_not_run_is_skipped(laboratory, tmp_path):
    """Tells in JUnit's file of runs that `fail_fast` left out."""
    laboratory.emulator.set_faults({"at": "generate", "fault": "moderation_422"})
    file = tmp_path / "gates.xml"
    cells = [cell(f"left {number}") for number in range(3)]
    laboratory.run("left", *cells, in_flight=1, fail_fast=True, expect=Expectations(junit=file))
    laboratory.emulator.set_faults()
    assert [case[0].tag for case in checked(file)] == ["error", "skipped", "skipped"]
    assert [case[0].get("message") for case in checked(file)][1:] == ["to generate"] * 2


@pytest.mark.slow
def test_tags_follow_the_gates(laboratory):
    """Says of each run which gates it broke, brings that up to date for nothing, and leaves people's tags alone."""
    cells = [cell("tags 1"), cell("tags 2")]
    laboratory.run("tags", *cells, expect=BRIGHT)
    client = MlflowClient(laboratory.tracking_uri)
    before = laboratory.tracked("tags")
    for run in before.values():
        assert (run.info.status, run.data.tags["expect"]) == ("FINISHED", "failed")
        assert run.data.tags["expect_failed"] == f"luma_mean = {run.data.metrics['luma_mean']:.6g} (min 2)"
        client.set_tag(run.info.run_id, "mine", "yes")
    dark = Expectations(limits=(Limits("luma_mean", max=2.0),))
    bought = len(laboratory.emulator.ledger())
    laboratory.run("tags", *cells, expect=dark)
    after = laboratory.tracked("tags")
    assert {run.info.run_id for run in after.values()} == {run.info.run_id for run in before.values()}
    for run in after.values():
        assert run.data.tags["expect"] == "passed" and "expect_failed" not in run.data.tags
        assert run.data.tags["mine"] == "yes"
    assert len(laboratory.emulator.ledger()) == bought
    assert list(runs_df("tags", laboratory.tracking_uri)["expect"]) == ["passed"] * 2


@pytest.mark.slow
def test_gates_that_can_not_be_judged_do_not_hold(laboratory, monkeypatch, caplog):
    """Says why in a line where MLflow can't be read at the end, and does not take that for a success."""
    monkeypatch.setattr("kling_sweeps.analysis.runs_df", lambda *_: (_ for _ in ()).throw(OSError("away")))
    expect = Expectations(BRIGHT.limits, changes=(Change("luma_mean", 1.0, "drop", 10.0),))
    outcome = laboratory.run("unknown", cell("unknown 1"), expect=expect)
    assert broken.is_set()
    assert "the gates could not be judged: OSError: away" in caplog.text
    assert "holds for 0 of 1 runs and 0 of 1 gates of the sweep" in outcome.said


def test_the_terminal_names_a_few():
    """Lists at most five gates that did not hold, those of the sweep first, and counts the others."""
    of_runs = [gates.Judged(f"few {number}", "failed", "cuts = 3 (max 0)") for number in range(6)]
    with lab.said() as text:
        gates._show([*of_runs, gates.Judged("kept", "passed")], [gates.Judged("g", "failed", "motion fell")])
    assert text.getvalue().splitlines() == [
        "What is expected holds for 1 of 7 runs and 0 of 1 gates of the sweep.",
        "- motion fell",
        *(f"- few {number}: cuts = 3 (max 0)" for number in range(4)),
        "and 2 more; in MLflow: tags.expect = 'failed'",
    ]


@pytest.mark.parametrize("name", ["gates.xml/inside.xml", "folder", "nul\x00.xml"])
def test_a_file_that_can_not_be_written_is_refused(tmp_path, name):
    """Says which file it is before anything is bought, and leaves nothing where it can be written."""
    (tmp_path / "gates.xml").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(UnavailableError, match=r"expect\.junit: .* can't be written"):
        gates.check(Expectations(junit=tmp_path / name))
    gates.check(Expectations(junit=tmp_path / "new" / "deep" / "gates.xml"))
    assert [*(tmp_path / "new" / "deep").iterdir()] == []


SWEEP = """# @package _global_
expect: {motion: {min: 0.01}, measurement_errors: none}
hydra:
  mode: MULTIRUN
  sweeper:
    params:
      prompt: potter,skater
      sample: 0,1
"""


@pytest.fixture(scope="module")
def commands(tmp_path_factory) -> Iterator[SimpleNamespace]:
    """Run the same sweep again and again, with other gates and by other launchers, and keep what came of each."""
    folder = tmp_path_factory.mktemp("gates")
    (folder / "mine" / "sweep").mkdir(parents=True)
    (folder / "mine" / "sweep" / "walk.yaml").write_text(SWEEP)
    with (
        pytest.MonkeyPatch.context() as patch,
        EmulatorProcess(EmulatorSettings(slots=4, width=128, height=72, fps=8, latency_s=0)) as process,
    ):
        patch.chdir(folder)
        patch.setattr(sys, "unraisablehook", sys.unraisablehook)
        for name in ("FAL_KEY", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        here = [
            "provider=emulator",
            f"provider.base_url={process.base_url}",
            "metrics=fast",
            "+metrics.motion={}",
        ]

        def run(*overrides: str, sweep: str = "+sweep=walk") -> tuple[int, str]:
            GlobalHydra.instance().clear()
            patch.setenv("HYDRA_FULL_ERROR", "0")
            patch.setattr(sys, "argv", ["kling_sweeps", "--config-dir=mine", sweep, *here, *overrides])
            with lab.said() as text:
                try:
                    return main(), text.getvalue()
                except SystemExit as ended:
                    return ended.code, text.getvalue()

        yield SimpleNamespace(run=run, folder=folder, emulator=Emulator(process.base_url))
    GlobalHydra.instance().clear()


def walked(commands: SimpleNamespace) -> dict[str, Run]:
    """Return the runs in MLflow by their names."""
    client = MlflowClient(f"sqlite:///{commands.folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("kling_sweeps/walk (emulator)")
    found = client.search_runs([experiment.experiment_id])
    return {run.info.run_name: run for run in found if "request_key" in run.data.tags}


@pytest.mark.slow
def test_a_command_from_its_gates_to_its_exit_code(commands):
    """Exits with 3 for a gate, 0 where all hold and 1 for a failure; the same by any launcher; and buys nothing twice."""
    dry = commands.run("dry_run=true", "expect.junit=ci/gates.xml")
    assert dry[0] == 0 and "- each run: motion min 0.01; no measurement_errors" in dry[1]
    assert "- the results go to ci/gates.xml" in dry[1] and not Path("ci").exists()
    refused, _ = commands.run("expect.junit=mine")
    assert refused == 2 and commands.emulator.ledger() == []

    code, said = commands.run("expect.junit=ci/gates.xml")
    assert code == 3, said
    assert "What is expected holds for 2 of 4 runs." in said
    assert [case[0].tag for case in checked(Path("ci/gates.xml"))] == [
        "failure",
        "failure",
        "system-out",
        "system-out",
    ]
    assert len(commands.emulator.ledger()) == 4
    tags = {name: run.data.tags["expect"] for name, run in walked(commands).items()}
    assert tags == {
        "potter · #0": "failed",
        "potter · #1": "failed",
        "skater · #0": "passed",
        "skater · #1": "passed",
    }
    contents = read_contents("walk", Path("store"), f"sqlite:///{commands.folder / 'mlflow.db'}")
    assert [bool(video.broken) for video in contents.videos] == [True, True, False, False]
    assert len([*Path("outputs").rglob("report.html")]) == 1

    looser = "expect.motion.min=0"
    for launcher in ("fal", "basic"):
        assert commands.run(f"hydra/launcher={launcher}")[0] == 3
        code, said = commands.run(f"hydra/launcher={launcher}", looser, "expect.junit=ci/again.xml")
        assert code == 0, said
        assert "What is expected holds for 4 of 4 runs." in said
        assert [len(case) for case in checked(Path("ci/again.xml"))] == [1] * 4
        assert {run.data.tags["expect"] for run in walked(commands).values()} == {"passed"}
    batches = commands.run(
        "hydra.sweeper.max_batch_size=3", "+expect.motion.baseline=0.001", "+expect.motion.drop.max=5 %"
    )
    assert batches[0] == 3 and batches[1].count("What is expected holds for") == 1
    assert "2 of 4 runs and 1 of 1 gates of the sweep" in batches[1]
    assert len(commands.emulator.ledger()) == 4

    commands.emulator.set_faults({"at": "generate", "fault": "moderation_422", "match": "fox"})
    for launcher in ("fal", "basic"):
        prompts = "prompt=potter,'a fox'"
        assert commands.run(f"hydra/launcher={launcher}", prompts, "sample=0")[0] == 1
    commands.emulator.set_faults()


@pytest.mark.slow
def test_a_single_run_and_a_search_have_gates(commands):
    """Judges the run of a command that sweeps over nothing, and all the trials of a search at its end."""
    alone = {"sweep": "prompt=skater"}
    assert commands.run("+expect.motion.min=0", **alone)[0] == 0
    assert commands.run("+expect.motion.min=2", **alone)[0] == 3
    search = [
        "hydra/sweeper=optuna",
        "cfg_scale=interval(0, 1)",
        "goal={motion: max}",
        "+expect.motion.min=2",
    ]
    code, said = commands.run(*search, "hydra.sweeper.n_trials=2", sweep="-m")
    assert code == 3, said
    assert said.count("What is expected holds for 0 of 2 runs.") == 1
