"""What happens when the private parts of Hydra and of fal-client are gone or changed: a sweep runs all the same."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
from conftest import FOREIGN
from fal_client.auth import AuthCredentials
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from kling_sweeps.errors import ConfigError
from kling_sweeps.experiment import hydra_private, yaml_files

pytestmark = pytest.mark.slow

SWEEP = ["-m", "cfg_scale=0.1,0.9", "metrics=fast"]
# Takes what one file imports away from it and from nobody else, Hydra needing its own parts itself.
WITHOUT = """
import builtins, sys
def without(name, globals=None, *rest, known=builtins.__import__, **more):
    if (globals or {}).get("__name__") == "FILE" and name.startswith("PART"):
        raise ImportError(name)
    return known(name, globals, *rest, **more)
builtins.__import__ = without
"""
RUN = """
import sys
from kling_sweeps.__main__ import main
sys.exit(main())
"""
HYDRA_PRIVATE, FAL_PRIVATE = (
    "kling_sweeps.experiment.hydra_private",
    "kling_sweeps.providers.fal_client_private",
)
CHANGED = """
import fal_client
async def submit(self, *args, **kwargs):
    return await self._another_client.post(*args)
fal_client.AsyncClient.submit = submit
"""
HYDRAS, OMEGACONFS = (
    WITHOUT.replace("FILE", HYDRA_PRIVATE).replace("PART", part)
    for part in ("hydra._internal", "omegaconf._utils")
)
FAL_CLIENTS = WITHOUT.replace("FILE", FAL_PRIVATE).replace("PART", "fal_client.client")
TAKEN = {
    "hydra's and fal_client's": HYDRAS + FAL_CLIENTS,
    "omegaconf's and fal_client's HTTP client": OMEGACONFS + CHANGED,
}


@pytest.mark.parametrize("part", TAKEN)
def test_a_sweep_runs_without_what_is_private(tmp_path, emulator, part):
    """Generates each video once, and none by a second command."""
    for _ in range(2):
        done = subprocess.run(
            [
                *(sys.executable, "-c", TAKEN[part] + RUN, *SWEEP, "provider=emulator"),
                f"provider.base_url={emulator.base_url}",
            ],
            cwd=tmp_path,
            env={name: value for name, value in os.environ.items() if name not in FOREIGN},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(emulator.ledger()) == 2
    assert "2 in the store" in done.stdout


def test_files_are_read_by_hydra_where_its_source_has_changed(monkeypatch, tmp_path):
    """Leaves a file to Hydra where the path of it, or its header, is found in another way."""
    (tmp_path / "one.yaml").write_text("key: value\n")
    source = yaml_files.FileConfigSource("main", f"file://{tmp_path}")
    for name in ("file_path", "header"):
        with monkeypatch.context() as patch:
            patch.setattr(hydra_private, name, _gone)
            assert source.load_config("one").config == OmegaConf.create({"key": "value"})
    (tmp_path / "one.yaml").write_text("[no mapping]\n")
    with pytest.raises(ConfigError):
        source.load_config("one")


def _gone(*args, **kwargs):
    raise AttributeError("gone")


def test_a_search_has_nothing_private_of_optuna(monkeypatch):
    """Proposes values without the private module of Hydra's plugin for Optuna, and names no private part of another."""
    name = "hydra_plugins.hydra_fal_search._sampling"
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "hydra_plugins.hydra_optuna_sweeper._impl", None)
    sampling = importlib.import_module(name)
    override = OverridesParser.create().parse_override("cfg_scale=interval(0, 1)")
    sampler = {"_target_": "optuna.samplers.TPESampler", "seed": None}
    sweeper = {"sampler": sampler, "custom_search_space": None}
    asker = sampling.Asker(
        OmegaConf.create({"hydra": {"sweeper": sweeper}}),
        {"cfg_scale": sampling.distribution(override)},
        {},
        {"motion": "max"},
    )
    proposed = [proposal.values["cfg_scale"] for proposal in islice(asker.propose([]), 20)]
    assert min(proposed) < 0.5 < max(proposed)
    attributes = [
        node
        for node in ast.walk(ast.parse(Path(sampling.__file__).read_text()))
        if isinstance(node, ast.Attribute) and re.match(r"_.*[^_]$", node.attr)
    ]
    assert {ast.unparse(node.value) for node in attributes} == {"self"}


def test_fal_client_has_no_key_of_its_own(monkeypatch):
    """Can't buy anything past the transport that submits once, whatever fal-client does."""
    from kling_sweeps.providers.fal_client_private import _Client

    monkeypatch.setenv("FAL_KEY", "a-real-one")
    (auth,) = {_read(_Client(None)._auth)}
    assert auth == AuthCredentials("Key", "none")


def _read(waiting):
    import asyncio

    async def read():
        return await waiting

    return asyncio.run(read())
