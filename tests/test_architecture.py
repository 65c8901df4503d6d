"""The rooms of the house: who may import whom, and what of others' packages each may import."""

from __future__ import annotations

import ast
import re
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The rooms from the ground up, each with the rooms below that it may import; every room may import `errors`,
# `untrusted` and itself. A file at the top of the package is a room of its own.
ROOMS = {
    "untrusted": "",
    "errors": "",
    "video": "",
    "requested": "",
    "metric": "requested video",
    "metrics": "metric video measurement terminal",
    "experiment": "requested metrics video",
    "store": "experiment",
    "provider": "experiment store",
    "terminal": "experiment store",
    "emulator": "experiment terminal",
    "providers": "provider experiment store emulator",
    "measurement": "metrics metric store video",
    "generation": "provider providers measurement experiment store",
    "tracking": "measurement metrics experiment store",
    "analysis": "tracking experiment metrics store video",
    "reports": "analysis tracking experiment metrics store video",
    "votes": "reports analysis tracking experiment store video",
    "judges": "votes analysis experiment video",
    "sweep": "judges votes reports analysis tracking terminal generation measurement metrics provider providers experiment store video",
    "effects": "analysis experiment terminal",
    "endpoint": "providers experiment store terminal",
    "measure": "measurement metrics store video terminal",
    "ledger": "generation providers tracking experiment store terminal",
    "report": "reports tracking experiment terminal",
    "vote": "votes tracking experiment store terminal",
    "__main__": "sweep experiment terminal",
    "hydra_plugins": "sweep tracking terminal experiment store",
    "judge": "hydra_plugins sweep terminal",
    "check": "hydra_plugins sweep tracking terminal endpoint emulator providers metrics experiment store video",
}
# `kling_sweeps.metrics.measure` and `python -m kling_sweeps.metrics` stand above the metrics themselves.
ABOVE = {"metrics/__init__.py": "measurement", "metrics/__main__.py": "terminal"}
ONLY = {
    "hydra": (
        "kling_sweeps/__main__.py",
        "kling_sweeps/sweep/job.py",
        "kling_sweeps/experiment/",
        "hydra_plugins/",
    ),
    "omegaconf": ("kling_sweeps/experiment/", "kling_sweeps/metrics/sets.py", "hydra_plugins/"),
    "optuna": ("hydra_plugins/hydra_fal_search/_sampling.py",),
    "fal_client": ("kling_sweeps/providers/",),
    "mlflow": (
        "kling_sweeps/tracking/tracker.py",
        "kling_sweeps/tracking/presentation.py",
        "kling_sweeps/tracking/judged.py",
        "kling_sweeps/analysis",
    ),
}
HEAVY = {"mlflow", "pandas", "fal_client", "cv2", "av", "scipy", "matplotlib", "pyarrow"}
LIGHT = (
    *("__main__", "measure", "ledger", "experiment/config", "sweep/job", "sweep/runner", "sweep/scheduler"),
    *("sweep/plan", "sweep/summary", "tracking/tracker", "tracking/run_data", "terminal/progress"),
)


def module(path: Path) -> str:
    """Return the dotted name that a file is imported by."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {
    module(path): path for top in ("kling_sweeps", "hydra_plugins") for path in ROOT.glob(f"{top}/**/*.py")
}


def nodes(tree: ast.AST, top_level: bool) -> list[ast.AST]:
    """Return the nodes of a module, or those alone that run when it is imported."""
    return tree.body if top_level else [*ast.walk(tree)]


@cache
def imported(name: str, top_level: bool = False) -> set[str]:
    """Return the full names of what a module imports, or imports when it is imported."""
    found, package = set(), name.split(".") if FILES[name].name == "__init__.py" else name.split(".")[:-1]
    for node in nodes(ast.parse(FILES[name].read_text(encoding="utf-8")), top_level):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parent = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*parent, *([node.module] if node.module else [])])
            found |= {f"{origin}.{alias.name}" for alias in node.names}
    return found


def ours(name: str, top_level: bool = False) -> set[str]:
    """Return the modules of this project that a module imports."""
    found = {full if full in FILES else full.rpartition(".")[0] for full in imported(name, top_level)}
    return {other for other in found if other in FILES} - {name, "kling_sweeps"}


def room(name: str) -> str:
    """Return the room that a module stands in."""
    top, _, rest = name.partition(".")
    return top if top == "hydra_plugins" else rest.partition(".")[0]


@cache
def arrows() -> dict[tuple[str, str], set[str]]:
    """Return, for every two rooms, the files of the first that import the second."""
    found: dict[tuple[str, str], set[str]] = {}
    for name in FILES.keys() - {"kling_sweeps"}:
        for other in ours(name):
            if room(name) != room(other):
                file = FILES[name].relative_to(
                    ROOT / "kling_sweeps" if room(name) != "hydra_plugins" else ROOT
                )
                found.setdefault((room(name), room(other)), set()).add(file.as_posix())
    return found


def test_every_room_is_in_the_table():
    """Has a place in the table for every room and every file at the top."""
    assert {room(name) for name in FILES.keys() - {"kling_sweeps"}} == ROOMS.keys()


@pytest.mark.parametrize("importer", ROOMS)
def test_a_room_imports_what_is_below_it(importer):
    """Imports the rooms that the table has, all of them, and no other."""
    allowed = set(ROOMS[importer].split())
    found = {other for (one, other), _ in arrows().items() if one == importer} - {"errors", "untrusted"}
    assert found == allowed


def test_the_rooms_have_an_order():
    """Goes one way: no room is above and below another, but for the files that stand above their room."""
    below = {one: set(others.split()) for one, others in ROOMS.items()}
    for file, other in ABOVE.items():
        assert arrows()[file.partition("/")[0], other] == {file}
        below[file.partition("/")[0]].discard(other)
    assert [*TopologicalSorter(below).static_order()]


def test_the_picture_shows_the_rooms_and_their_arrows():
    """Draws in docs/architecture.md what the table has."""
    picture = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn = re.findall(r"^    (\w+) --> (\w+)$", picture, flags=re.MULTILINE)
    assert sorted(drawn) == sorted((one, other) for one, others in ROOMS.items() for other in others.split())


def test_no_imports_go_in_a_circle():
    """Imports every module without the need of one that is being imported."""
    assert [*TopologicalSorter({name: ours(name, top_level=True) for name in FILES}).static_order()]


@pytest.mark.parametrize("package", ONLY)
def test_a_package_is_imported_where_it_belongs(package):
    """Keeps Hydra, fal and MLflow each in their room."""
    importers = [
        path.relative_to(ROOT).as_posix()
        for name, path in FILES.items()
        if package in {other.partition(".")[0] for other in imported(name)}
    ]
    assert importers
    assert [name for name in importers if not name.startswith(ONLY[package])] == []


@pytest.mark.parametrize("file", LIGHT)
def test_heavy_imports_wait(file):
    """Imports nothing that takes seconds before it is needed, neither itself nor by what it imports."""
    seen, left = set(), {f"kling_sweeps.{file.replace('/', '.')}"}
    while left:
        name = left.pop()
        seen.add(name)
        heavy = {other.partition(".")[0] for other in imported(name, top_level=True)} & HEAVY
        assert heavy == set(), name
        left |= ours(name, top_level=True) - seen
