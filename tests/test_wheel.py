"""The wheel alone, in an empty environment and an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import FOREIGN, SMALL

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[1]
SWEEP = """\
# @package _global_
hydra:
  mode: MULTIRUN
  sweeper:
    params:
      cfg_scale: 0.2,0.8
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel as `pip wheel` does."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl")
    return built


def test_all_that_is_needed_is_in_it(wheel: Path) -> None:
    """The wheel has the configs that the repository has, and says that it is typed."""
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = {f"kling_sweeps/{path.relative_to(REPOSITORY)}" for path in REPOSITORY.glob("conf/**/*.yaml")}
    assert configs <= names
    assert "kling_sweeps/py.typed" in names


def test_it_runs_a_sweep_where_there_is_no_repository(wheel: Path, tmp_path: Path) -> None:
    """A sweep of one's own runs by `--config-dir` in a folder that has nothing else."""
    python = _environment(tmp_path / "environment", wheel)
    work = tmp_path / "work"
    (work / "mine" / "sweep").mkdir(parents=True)
    (work / "mine" / "sweep" / "own.yaml").write_text(SWEEP)
    clean = {name: value for name, value in os.environ.items() if name not in (*FOREIGN, "PYTHONPATH")}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [python, *arguments]
        return subprocess.run(command, cwd=work, env=clean, capture_output=True, text=True)

    where = run("-c", "import kling_sweeps; print(kling_sweeps.__file__)")
    assert Path(where.stdout).is_relative_to(tmp_path / "environment"), where.stderr
    done = run(
        *("-m", "kling_sweeps", "--config-dir", "mine", "+sweep=own", "provider=emulator", *SMALL),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    videos = list((work / "store" / "emulator").glob("??/*/video.mp4"))
    assert len(videos) == 2
    assert (work / "mlflow.db").exists()


def _environment(folder: Path, wheel: Path) -> str:
    """Make an environment that has the wheel, and the libraries of this one without what it installed editably."""
    venv.create(folder, with_pip=False)
    place = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", "venv", vars=place))
    zipfile.ZipFile(wheel).extractall(packages)
    # A folder that a .pth file names is searched, and its own .pth files are not read.
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "libraries.pth").write_text("\n".join(libraries))
    return str(Path(sysconfig.get_path("scripts", "venv", vars=place)) / "python")
