"""The notebooks run from top to bottom on a finished sweep, and show what they say."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import av
import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
VIDEO = re.compile(r'src="data:video/mp4;base64,([^"]+)"')


def executed(path: Path) -> nbformat.NotebookNode:
    """Return a notebook with the outputs of all its cells, run where it lies by this interpreter."""
    notebook = nbformat.read(path, as_version=4)
    # No installed kernel is asked: without any, jupyter starts ipykernel in this very Python.
    kernel = AsyncKernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    resources = {"metadata": {"path": str(path.parent)}}
    return NotebookClient(notebook, km=kernel, resources=resources, timeout=120).execute(cleanup_kc=True)


def outputs(notebook: nbformat.NotebookNode, kind: str) -> list[str]:
    """Return all outputs of a MIME type, in their order."""
    found = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output["data"][kind] for output in found if kind in output.get("data", {})]


@pytest.fixture(scope="module")
def cfg_scale(sweep) -> nbformat.NotebookNode:
    """Run the notebook of the cfg sweep, once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", sweep.command.tracking_uri)
        return executed(FOLDER / "01_cfg_scale.ipynb")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path):
    """Keeps no outputs, no execution counts and no metadata but the kernel's name."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec"}
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        assert cell.metadata == {}
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None


def test_it_says_what_the_runs_can_show(cfg_scale):
    """Names n, what a single sample can't tell, and that the videos are synthetic."""
    summary, _ = outputs(cfg_scale, "text/markdown")
    assert "10 of 10 runs finished" in summary
    assert "n = 1 per point" in summary
    assert "can't be told apart" in summary
    assert "emulated" in summary


def test_it_shows_every_run_and_every_comparison(cfg_scale):
    """Lists ten runs, and four comparisons for each of seven statistics, and says what they can't tell."""
    runs, effects = [html for html in outputs(cfg_scale, "text/html") if "<table" in html]
    assert runs.count("FINISHED") == 10
    assert effects.count("these_prompts") == effects.count("no cell has repeats") == 4 * 7
    assert "No answer on luma_mean" in outputs(cfg_scale, "text/markdown")[-1]


def test_it_draws_its_figures(cfg_scale):
    """Draws the statistics, the effects, the frames and the film strips."""
    figures = outputs(cfg_scale, "image/png")
    assert len(figures) == 4
    assert all(base64.b64decode(figure).startswith(b"\x89PNG") for figure in figures)


def test_it_shows_the_videos_of_one_prompt(cfg_scale):
    """Embeds five whole videos, one for each value, in the order of the values."""
    html = outputs(cfg_scale, "text/html")[-1]
    assert re.findall(r"cfg_scale = ([\d.]+)", html) == ["0.1", "0.3", "0.5", "0.7", "0.9"]
    videos = VIDEO.findall(html)
    assert len(videos) == 5
    for source in videos:
        with av.open(io.BytesIO(base64.b64decode(source))) as container:
            assert sum(1 for _ in container.decode(video=0)) == 120


def test_it_says_nothing_on_the_side(cfg_scale):
    """Prints no warning and no progress into the page."""
    streams = [output for cell in cfg_scale.cells for output in cell.get("outputs", []) if "text" in output]
    assert streams == []
