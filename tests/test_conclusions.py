"""What is said at the end of a sweep, in MLflow and by `python -m kling_sweeps.effects`, on emulated videos."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import lab
import pandas as pd
import pytest
import warm
from conftest import SMALL, Command
from lab import cell
from mlflow.tracking import MlflowClient

from kling_sweeps import report
from kling_sweeps.analysis import conclusions, effects, factors, runs_df
from kling_sweeps.sweep import runner

SWEEP = """# @package _global_
prompt: A potter called ${name} shapes a vase in a workshop
name: Ann
goal: {saturation_mean: max, motion: max}
hydra:
  mode: MULTIRUN
  sweeper:
    params:
      cfg_scale: 0.1,0.9
      name: Ann,Ben
      sample: range(3)
"""


@pytest.fixture(scope="module")
def potters(tmp_path_factory) -> tuple[Command, str]:
    """Run a sweep over cfg_scale and over a name, which nothing in the emulator depends on."""
    command = Command(tmp_path_factory.mktemp("potters"))
    (command.folder / "mine" / "sweep").mkdir(parents=True)
    (command.folder / "mine" / "sweep" / "potters.yaml").write_text(SWEEP)
    completed = command(
        "--config-dir", "mine", "+sweep=potters", "provider=emulator", "metrics=fast", "+metrics.motion={}",
        "budget.max_usd=50", *SMALL,
    )  # fmt: skip
    assert completed.returncode == 0, completed.stderr
    return command, completed.stdout


def said(command: Command, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m kling_sweeps.effects` where a sweep was run."""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": command.tracking_uri, "COLUMNS": "140"}
    return subprocess.run(
        [warm.executable(), "-m", "kling_sweeps.effects", *arguments],
        cwd=command.folder, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs(potters) -> pd.DataFrame:
    return runs_df("potters", potters[0].tracking_uri)


def test_documented_effects_are_found(runs):
    """Finds that cfg_scale raises saturation, contrast and sharpness and lowers motion, as the emulator says."""
    table = effects(runs, "cfg_scale", ["saturation_mean", "luma_contrast", "sharpness", "motion"]).set_index(
        "metric"
    )
    found = table[table["cfg_scale"] == 0.9]
    assert set(found["verdict"]) == {"found"}
    assert (found["difference"] > 0).to_dict() == {
        "saturation_mean": True,
        "luma_contrast": True,
        "sharpness": True,
        "motion": False,
    }


def test_what_has_no_effect_is_not_distinguishable(runs):
    """Finds nothing in a name, of which one test in 10,000 would, pairs its texts, and says what would be seen."""
    names = ["saturation_mean", "luma_contrast", "sharpness", "motion"]
    table = effects(runs, "name", names, confidence=0.9999)
    found = table[table["name"] == "Ben"]
    assert set(found["verdict"]) == {"not distinguishable"}
    assert set(found["prompts"]) == {1}
    assert (found["smallest_detectable"] > 0).all()


def test_the_factors_are_what_varies_by_itself(runs):
    """Takes what was swept, and no text that a template makes of it."""
    assert factors(runs) == ["cfg_scale", "name"]


def test_the_terminal_says_what_was_found(potters, runs):
    """Prints the goal's effects first, as many as are read, and what was not distinguishable."""
    _, printed = potters
    lines = [line for line in printed.splitlines() if line.startswith("- ")]
    assert lines == [f"- {line}" for line in conclusions(runs)]
    assert lines[0].startswith(("- saturation_mean is ", "- motion is "))
    assert "(better) at cfg_scale=0.9 than at 0.1" in printed
    assert "(worse) at cfg_scale=0.9 than at 0.1" in printed
    assert "in these 2 prompts, not in prompts in general" in lines[0]
    assert any(line.startswith("- Not distinguishable from name=Ann") for line in lines)


def test_the_goal_comes_first_in_the_results(potters):
    """Shows the metrics that the sweep is about before all others."""
    (head,) = [line for line in potters[1].splitlines() if line.rstrip().endswith("result")]
    assert head.index("saturation_mean") < head.index("motion") < head.index("luma_mean")


def test_the_experiment_is_told(potters, runs):
    """Has the sentences as its description, and the goal for whoever analyses the runs later."""
    command, _ = potters
    found = MlflowClient(command.tracking_uri).get_experiment_by_name("kling_sweeps/potters (emulator)")
    assert all(f"- {line}" in found.tags["mlflow.note.content"] for line in conclusions(runs))
    assert runs.attrs["goal"] == {"saturation_mean": "max", "motion": "max"}


def test_the_command_prints_the_table(potters, tmp_path):
    """Prints a row for each level, and what they come to; writes all columns for a spreadsheet."""
    file = tmp_path / "effects.csv"
    done = said(
        potters[0], "potters", "--factor", "cfg_scale", "--metrics", "motion,sharpness", "--csv", str(file)
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "cfg_scale=0.9, compared with 0.1, of these prompts alone:"
    assert [line.split()[0] for line in lines[2:4]] == ["motion", "sharpness"]
    assert lines[-1] == f"{file}: 4 rows, of all metrics and levels"
    assert "found" in lines[2]
    assert {line.split()[1] for line in lines[4:6]} == {"motion", "sharpness"}
    written = pd.read_csv(file)
    assert list(written["factor"]) == ["cfg_scale"] * 4
    assert {"level", "low", "high", "p_adjusted", "verdict"} <= set(written)


def test_the_command_takes_a_reference_and_a_scope(potters):
    """Compares with the level that is named, and claims what is asked, as far as it can be."""
    done = said(potters[0], "potters", "--factor", "cfg_scale", "--reference", "0.9", "--metrics", "motion")
    assert done.stdout.startswith("cfg_scale=0.1, compared with 0.9, of these prompts alone:")
    assert "motion is " in done.stdout
    assert "higher (better) at cfg_scale=0.1 than at 0.9" in done.stdout
    done = said(potters[0], "potters", "--scope", "general")
    assert "2 prompts can't carry a claim about prompts in general" in done.stdout
    assert "name=Ben, compared with Ann" not in done.stdout  # no table without an answer


def test_the_command_says_what_is_not_there(potters):
    """Exits with 2 and names what there is."""
    for arguments, message in (
        (["poters"], "there is no experiment 'poters'; did you mean potters?"),
        (["potters", "--factor", "speed"], "the runs have no param 'speed'"),
        (["potters", "--metrics", "mtion"], "the runs have no metric 'mtion'; did you mean motion?"),
        (
            ["potters", "--metrics", "loop_gap"],
            "'loop_gap'; the same command with metrics=default measures it",
        ),
    ):
        done = said(potters[0], *arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stdout == ""


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory):
    with lab.opened(tmp_path_factory.mktemp("lab")) as opened:
        yield opened


def test_what_was_found_stays_until_a_run_changes(laboratory):
    """Keeps the sentences in the note when the same command finds nothing to do."""
    cells = [cell(f"noted {number}", sample) for number in range(2) for sample in range(2)]
    laboratory.run("noted", *cells)
    before = note(laboratory, "noted")
    assert "- " in before
    laboratory.run("noted", *cells)
    assert note(laboratory, "noted") == before


def test_other_goals_are_concluded_of_anew(laboratory):
    """Says of the same runs what another goal asks, and keeps that in the note."""
    cells = [cell(f"aimed {number}", sample) for number in range(2) for sample in range(2)]
    laboratory.run("aimed", *cells)
    assert "luma_range" in note(laboratory, "aimed")
    settings = replace(laboratory.settings("aimed"), goal={"luma_mean": "max"})
    with lab.said() as text:
        assert len(list(laboratory.begin(settings, *cells))) == 4
    assert "Nothing was generated." in text.getvalue()
    for said in (text.getvalue().partition("What the runs say")[2], note(laboratory, "aimed")):
        assert "luma_mean" in said and "luma_range" not in said


def test_a_report_made_later_is_named(laboratory, monkeypatch, tmp_path):
    """Adds a report that is made by its command to the note, which else stays, and leaves a person's note alone."""
    laboratory.run("later", *[cell(f"later {number}", sample) for number in range(2) for sample in range(2)])
    before = note(laboratory, "later")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", laboratory.tracking_uri)
    command = ["later", "--store", str(laboratory.folder / "store"), "--out", str(tmp_path / "later.html")]
    assert report.main(command) == 0
    after = note(laboratory, "later")
    (link,) = re.findall(r" · \[Report\]\(#/experiments/\d+/runs/\w+/artifacts/report\.html\)", after)
    assert "[Report]" not in before and after.replace(link, "") == before
    client = MlflowClient(laboratory.tracking_uri)
    experiment = client.get_experiment_by_name("kling_sweeps/later")
    client.set_experiment_tag(experiment.experiment_id, "mlflow.note.content", "Mine.")
    assert report.main(command) == 0
    assert note(laboratory, "later") == "Mine."


def test_ones_own_metrics_are_declared(laboratory):
    """Tells whoever reads the runs later the unit and the direction of a metric that is not of this package."""
    metrics = {"luma": {}, "brightness": {"target": "test_metrics:Brightness"}}
    settings = replace(laboratory.settings("own"), metrics=metrics)
    with lab.said():
        assert len(list(laboratory.begin(settings, cell("own 1"), cell("own 2")))) == 2
    assert runs_df("own", laboratory.tracking_uri).attrs["declared"] == {"brightness": ["levels", "neither"]}


def note(laboratory, sweep: str) -> str:
    """Return the description of a sweep's experiment."""
    client = MlflowClient(laboratory.tracking_uri)
    return client.get_experiment_by_name(f"kling_sweeps/{sweep}").tags["mlflow.note.content"]


def test_the_same_command_says_the_same_again(laboratory, monkeypatch, tmp_path):
    """Ends with what the runs say and the report, from the note alone; with the one command of a run that has no name."""
    cells = [cell(f"said {number}") for number in range(2)]
    settings = laboratory.settings("said")
    with lab.said() as text:
        assert len(list(runner.run_all(settings, cells, 9, outputs=tmp_path))) == 2
    first = text.getvalue().splitlines()
    assert first[-1].startswith("See the videos in step: http://127.0.0.1:5000/#/experiments/")
    monkeypatch.setattr("kling_sweeps.analysis.conclusions", None)  # is not asked
    again = laboratory.run("said", *cells).said.splitlines()
    assert "Nothing was generated." in again
    assert again[-3:-1] == first[-3:-1] and again[-3].startswith("- No answer by prompt: ")
    page = first[-1].partition(", or ")[0]
    assert again[-1] == f"{page}, or python -m kling_sweeps.report said --store {settings.store_dir}"
    monkeypatch.undo()
    assert "What the runs say" in laboratory.run("said", cell("said alone")).said
    alone = laboratory.run("single", cell("nameless")).said
    assert "What the runs say" not in alone and "/video.mp4" in alone
    assert alone.splitlines()[-1].startswith("See the videos in step: python -m kling_sweeps.report single ")


def test_runs_without_a_sweep_speak_for_themselves(laboratory):
    """Compares the runs of a command alone where their experiment has those of all others too."""
    laboratory.run("single", cell("single 1", 0), cell("single 1", 1))
    goal = {"luma_mean": "max"}
    with lab.said() as text:
        settings = replace(laboratory.settings("single"), goal=goal)
        assert len(list(laboratory.begin(settings, cell("single 2"), cell("single 3")))) == 2
    lines = text.getvalue().splitlines()
    assert lines[-3] == "- No answer on luma_mean by prompt: no cell has repeats, such as sample=0,1."
    assert "the same command with sample=0,1 makes 2 videos more, for 2.80 USD." in lines[-2]
    assert "No answer" not in note(laboratory, "single")


def test_conclusions_that_fail_end_nothing(laboratory, caplog):
    """Says in a line why nothing can be concluded; every run is finished all the same."""
    settings = laboratory.settings("unsaid")
    cells = [cell(f"unsaid {number}") for number in range(2)]
    results = []
    with pytest.MonkeyPatch.context() as patch, lab.said():
        patch.setattr("kling_sweeps.analysis.conclusions", lambda runs: json.loads("no JSON"))
        results += laboratory.begin(settings, *cells)
    assert [result.error for result in results] == [None, None]
    assert "no conclusions could be drawn: JSONDecodeError" in caplog.text


def test_the_aims_of_the_shipped_sweeps_are_measured():
    """Names, in every shipped sweep, metrics that are measured by default."""
    from omegaconf import OmegaConf

    from kling_sweeps.metrics import describe

    measured = {row.name for row in describe("default")}
    for path in sorted(Path(__file__).parents[1].glob("conf/sweep/*.yaml")):
        goal = OmegaConf.load(path).goal
        assert goal, path.name
        assert set(goal) <= measured, path.name
