"""The rooms of the house: who may import what, and that each file of conf/ stands by itself."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((*ROOT.glob("kling_sweeps/**/*.py"), *ROOT.glob("hydra_plugins/**/*.py")))
ONLY = {
    "hydra": ("kling_sweeps/__main__.py", "kling_sweeps/job.py", "kling_sweeps/config", "hydra_plugins/"),
    "omegaconf": ("kling_sweeps/__main__.py", "kling_sweeps/config", "kling_sweeps/metrics/sets.py", "hydra_plugins/"),
    "optuna": ("hydra_plugins/hydra_fal_search/_sampling.py",),
    "fal_client": ("kling_sweeps/providers/",),
    "mlflow": ("kling_sweeps/tracking.py", "kling_sweeps/analysis.py"),
}
HEAVY = {"mlflow", "pandas", "fal_client", "cv2", "av", "scipy", "matplotlib", "pyarrow"}
BANNED = {"utils", "helpers", "common", "core", "manager"}


def imports(path: Path, top_level: bool = False) -> set[str]:
    """Return the names of the packages that a file imports, or imports when it is imported."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("package", ONLY)
def test_a_package_is_imported_where_it_belongs(package):
    """Keeps Hydra, fal and MLflow each in their room."""
    importers = [str(path.relative_to(ROOT)) for path in FILES if package in imports(path)]
    assert importers
    assert [name for name in importers if not name.startswith(ONLY[package])] == []


@pytest.mark.parametrize("name", ["__main__", "config", "session", "run", "record", "tracking", "plan", "terminal"])
def test_heavy_imports_wait(name):
    """Imports nothing that takes seconds before it is needed."""
    assert imports(ROOT / "kling_sweeps" / f"{name}.py", top_level=True) & HEAVY == set()


def test_no_room_is_named_after_nothing():
    """Names rooms by the user's nouns."""
    assert [path for path in FILES if BANNED & set(path.with_suffix("").parts)] == []
