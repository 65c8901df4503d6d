"""The notebooks run from top to bottom on finished sweeps, and say what those can show and what not."""

from __future__ import annotations

import ast
import base64
import io
import re
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import av
import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import Command
from IPython.display import HTML, Markdown
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from kling_sweeps.analysis import NoRunsError, detectable_for, effects, money, runs_df, swept, times
from kling_sweeps.analysis.plots import Picture, plot_effects, plot_metrics, plot_money
from kling_sweeps.analysis.preferences import NoVotesError
from kling_sweeps.store.votes import Answer, Study, VoteLog

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
VIDEO = re.compile(r'src="data:video/mp4;base64,([^"]+)"')
SMALL = (
    *("provider=emulator", "provider.emulator.width=160", "provider.emulator.height=90"),
    *("provider.emulator.fps=8", "provider.emulator.latency_s=0", "budget.max_usd=99"),
)
# Each notebook's own sweep, and another one.
SWEEPS = {
    "01_cfg_scale": ("cfg", "camera"),
    "02_prompts": ("camera", "grid"),
    "03_aspect_and_duration": ("grid", "cfg"),
    "04_cost_and_time": ("cfg", "grid"),
    "05_how_many": ("cfg", "camera"),
    "06_votes": ("cfg", ""),
}
OF_RUNS = [name for name, (_, other) in SWEEPS.items() if other]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory) -> Iterator[dict[str, pd.DataFrame]]:
    """Run the sweeps of all notebooks, with repeats, into one database, and name it for all that read."""
    command = Command(tmp_path_factory.mktemp("notebooks"))
    for sweep, narrower in (
        ("cfg", "sample=0,1 cfg_scale=0.1,0.5,0.9"),
        ("camera", "sample=0,1,2"),
        ("grid", "sample=0,1 cfg_scale=0.5"),
    ):
        done = command(f"+sweep={sweep}", *narrower.split(), *SMALL)
        assert done.returncode == 0, done.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", command.tracking_uri)
        patch.setenv("KLING_SWEEPS_STORE", str(command.folder / "store"))
        found = {sweep: runs_df(sweep) for sweep in ("cfg", "camera", "grid")}
        vote(found["cfg"], command.folder / "store" / "emulator")
        yield found


def vote(runs: pd.DataFrame, root: Path) -> None:
    """Vote, as somebody who likes what is sharper, on all pairs of a prompt's settings, either side in turn."""
    study = Study("cfg", "cfg_scale", "Which is sharper?")
    log = VoteLog(root, study, "Ann")
    for _, own in runs[runs["sample"] == 0].groupby("prompt"):
        for number, pair in enumerate(combinations(own.to_dict("records"), 2)):
            left, right = pair[:: 1 if number % 2 else -1]
            answer = Answer.LEFT if left["sharpness"] > right["sharpness"] else Answer.RIGHT
            log.vote(left["request_key"], right["request_key"], answer)


@pytest.fixture(scope="module")
def executed(tracked) -> dict[str, list[nbformat.NotebookNode]]:
    """Return the outputs of each notebook, all run in one kernel, as a person runs them one after another."""
    read = {path.stem: nbformat.read(path, as_version=4) for path in NOTEBOOKS}
    cells = [
        {**cell, "id": f"{name}-{cell.id}"} for name, notebook in read.items() for cell in notebook.cells
    ]
    whole = nbformat.v4.new_notebook(cells=[*map(nbformat.from_dict, cells)])
    # No installed kernel is asked: without any, jupyter starts ipykernel in this very Python.
    kernel = AsyncKernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    resources = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(whole, km=kernel, resources=resources, timeout=120).execute(cleanup_kc=True)
    return {
        name: [out for cell in whole.cells if cell.id.startswith(name) for out in cell.get("outputs", [])]
        for name in read
    }


def of_kind(outputs: list[nbformat.NotebookNode], kind: str) -> list[str]:
    """Return all outputs of a MIME type, in their order."""
    return [output["data"][kind] for output in outputs if kind in output.get("data", {})]


def shown(name: str, runs: pd.DataFrame, monkeypatch) -> list[Any]:
    """Run a notebook's cells in this process on other runs, and return what each shows."""
    found: list[Any] = []
    monkeypatch.setattr("kling_sweeps.analysis.runs_df", lambda sweep: runs.copy())
    monkeypatch.setattr("IPython.display.display", lambda *values: found.extend(values))
    space: dict[str, Any] = {}
    for cell in nbformat.read(FOLDER / f"{name}.ipynb", as_version=4).cells:
        if cell.cell_type == "code":
            *body, last = ast.parse(cell.source).body
            exec(compile(ast.Module(body, []), name, "exec"), space)
            value = eval(compile(ast.Expression(last.value), name, "eval"), space)
            found += [] if value is None else [value]
    return found


def said(found: list[Any]) -> str:
    """Return all that is written: text, tables, and the sentences that stand in place of a picture."""
    words = [value.data for value in found if isinstance(value, Markdown | HTML)]
    words += [text.get_text() for value in found if isinstance(value, Picture) for text in value.texts]
    return "\n".join(words)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path):
    """Keeps no outputs, no execution counts and no metadata but the kernel's name, names its sweep once, and draws nothing itself."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec"}
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        assert cell.metadata == {}
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert re.findall(r'(?:runs_df\(|sweep = )"(\w+)"', code) == [SWEEPS[path.stem][0]]
    assert re.findall(r"\bmatplotlib\b|\bplt\b|\bdef ", code) == []


def test_all_run_without_a_word_on_the_side(executed):
    """Runs every notebook to its end; prints no warning and no progress, and shows no path of this machine."""
    assert executed.keys() == SWEEPS.keys()
    for outputs in executed.values():
        assert [out for out in outputs if out.output_type == "stream"] == []
        assert "emulated" in of_kind(outputs, "text/markdown")[0]
        assert not [text for text in of_kind(outputs, "text/plain") if "sqlite" in text]
        pictures = [base64.b64decode(picture) for picture in of_kind(outputs, "image/png")]
        assert len(pictures) >= 2
        assert all(picture.startswith(b"\x89PNG") and len(picture) > 10_000 for picture in pictures)


def test_it_says_what_the_runs_show(executed):
    """Lists every run, says what was varied, and ends with what can be said of the goals."""
    summary, answer = of_kind(executed["01_cfg_scale"], "text/markdown")
    assert "**12 of 12 runs finished.** 3 levels of `cfg_scale` × 2 prompts, 2 videos in each" in summary
    assert "sharpness" in answer
    assert "motion" in answer
    assert "in these 2 prompts, not in prompts in general" in answer
    table = of_kind(executed["01_cfg_scale"], "text/html")[0]
    assert table.count("FINISHED") == 12


def test_it_shows_the_videos_of_one_prompt(executed):
    """Embeds whole videos, two for each value, in the order of the values."""
    html = of_kind(executed["01_cfg_scale"], "text/html")[-1]
    assert re.findall(r"cfg_scale = ([\d.]+), sample 0", html) == ["0.1", "0.5", "0.9"]
    videos = VIDEO.findall(html)
    assert len(videos) == 6
    for source in videos:
        with av.open(io.BytesIO(base64.b64decode(source))) as container:
            assert sum(1 for _ in container.decode(video=0)) == 40


def test_it_says_what_money_shows(executed, tracked):
    """Says what four times the money would show, as `detectable_for` has it, and what 20 % cost to see."""
    _, shown_for, needed_for, _ = of_kind(executed["05_how_many"], "text/markdown")
    spent = tracked["cfg"]["cost_usd"].sum()
    (row,) = detectable_for(tracked["cfg"], "cfg_scale", "sharpness", [4 * spent]).itertuples()
    assert (spent, row.videos, row.prompts, row.repeats) == (pytest.approx(16.8), 48, 2, 8)
    assert f"sharpness: an effect of {row.smallest:.3g} % to {row.smallest_most:.3g} % or more" in shown_for
    assert re.search(r"sharpness, 20 %: 2 prompts with [\d a-z]+repeats at each level", needed_for)


@pytest.mark.parametrize("name", OF_RUNS)
def test_another_sweep_is_one_line(name, tracked, monkeypatch):
    """Says as much of another sweep, which varies other settings, as of its own."""
    runs = tracked[SWEEPS[name][1]]
    found = shown(name, runs, monkeypatch)
    assert f"{len(runs)} of {len(runs)} runs finished" in said(found)
    assert "nothing to draw" not in said(found)
    factor = swept(runs)[0]
    assert name == "04_cost_and_time" or factor in said(found)


@pytest.mark.parametrize("name", OF_RUNS)
def test_a_notebook_says_in_a_sentence_what_it_cannot_show(name, tracked, monkeypatch):
    """Has no traceback where a sweep has one prompt without repeats, one level, or nothing but failures."""
    own = tracked[SWEEPS[name][0]]
    one = own[(own["prompt"] == own["prompt"][0]) & (own["sample"] == 0)]
    text = said(shown(name, one, monkeypatch))
    assert "With one video each" in text
    assert name == "04_cost_and_time" or "No answer" in text or "no answer" in text

    level = own[own[swept(own)].eq(own[swept(own)].iloc[0]).all(axis=1) & (own["prompt"] == own["prompt"][0])]
    text = said(shown(name, level, monkeypatch))
    assert name == "04_cost_and_time" or "one level" in text

    measured = [metric for metric in own.attrs["metrics"] if metric != "cost_usd"]
    failed = own.assign(
        status="FAILED", error_type="no_media_generated", cost_usd=0.0, **dict.fromkeys(measured, np.nan)
    )
    text = said(shown(name, failed, monkeypatch))
    assert f"**0 of {len(own)} runs finished.** Not finished: {len(own)} × no_media_generated." in text
    assert "There is nothing to" in text

    with pytest.raises(NoRunsError, match="no runs yet"):
        shown(name, own.iloc[:0], monkeypatch)


def test_a_sweep_that_is_not_there_is_a_sentence(tracked):
    """Gives a notebook one line in place of a traceback, which names what there is."""
    with pytest.raises(NoRunsError) as caught:
        runs_df("nothing")
    (line,) = caught.value._render_traceback_()
    assert "there is no experiment 'nothing'; " in line
    assert "valid are " in line and "cfg" in line


def test_pictures_show_failures_and_their_numbers(tracked):
    """Names the failed runs where an effect is drawn and where dots are missing; draws n beside each level."""
    runs = tracked["cfg"].copy()
    runs.loc[runs["cfg_scale"] == 0.9, "status"] = "FAILED"
    assert "4 failed, not drawn" in plot_metrics(runs, "cfg_scale")._suptitle.get_text()
    figure = plot_effects(effects(runs, "cfg_scale", ["sharpness"]))
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["n 4", "n 0, 4 failed"]
    drawn = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "no answer: no run has it" in drawn
    assert "smaller would not have been seen (power 80 %)" in drawn


def test_time_and_money_add_up(tracked):
    """Sums what each part took and what each day cost, with what attempts may have cost besides."""
    runs = tracked["cfg"].copy()
    table = times(runs).set_index("part")["total"]
    assert table["together"] == pytest.approx(table.drop("together").sum())
    by = times(runs, by="cfg_scale")
    assert by.loc[by["part"] == "together", "total"].sum() == pytest.approx(table["together"])
    runs.loc[:5, "start_time"] -= 3 * 86_400_000
    runs.loc[3, ["status", "cost_usd", "may_have_cost_usd"]] = ["FAILED", 0.0, 1.4]
    first, second = money(runs).itertuples()
    assert (first.videos, first.failed, first.may_have_cost_usd) == (5, 1, 1.4)
    assert (first.usd, second.in_all_usd) == pytest.approx((5 * 1.4, 11 * 1.4))
    labels = {text.get_text() for text in plot_money(runs).legends[0].get_texts()}
    assert labels == {"cost that day", "may have cost as well", "so far"}


def test_without_matplotlib_one_error_names_the_extra(monkeypatch):
    """Says which extra has what is missing; the rest of the analysis does without."""
    for name in [
        name for name in sys.modules if name.startswith(("kling_sweeps.analysis.plots", "matplotlib"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"kling-sweeps\[notebooks\]"):
        import kling_sweeps.analysis.plots  # noqa: F401


def test_votes_are_told_and_missed_in_a_sentence(executed, tracked, monkeypatch, tmp_path):
    """Says what two prompts can't carry, and where nobody has voted, how one does."""
    text = "\n".join(of_kind(executed["06_votes"], "text/markdown"))
    assert "No answer on cfg_scale 0.5 and 0.9 against cfg_scale 0.1: 2 prompts can't carry a claim" in text
    monkeypatch.setenv("KLING_SWEEPS_STORE", str(tmp_path))
    with pytest.raises(NoVotesError, match="asks for them"):
        shown("06_votes", tracked["cfg"], monkeypatch)
