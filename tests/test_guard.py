"""A command that can't be run as it is written is refused in one message, before Hydra writes anything."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from hydra_plugins.hydra_fal_launcher import _outputs
from kling_sweeps.__main__ import main
from kling_sweeps.errors import UnavailableError
from kling_sweeps.sweep import cluster

pytestmark = pytest.mark.slow

KEY = "0f1e2d3c-guard:5b4a39281706f5e4d3c2b1a0"
SWEEP = "# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Give the command in this process and an empty folder: its exit code, and what it said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FAL_HOME_DIR", str(tmp_path / "no-fal-login"))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    for name in ("FAL_KEY", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM)}
    root, level = logging.getLogger().handlers[:], logging.getLogger().level

    def run(*overrides: str) -> tuple[int, str, str]:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["kling_sweeps", *overrides])
        try:
            code = main()
        except SystemExit as exit:
            code = exit.code
        return code, *capsys.readouterr()

    yield run
    GlobalHydra.instance().clear()
    logging.getLogger().handlers[:] = root
    logging.getLogger().setLevel(level)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def write(name: str, content: str | bytes) -> str:
    """Write a file of a config folder of one's own; return the flag that adds the folder."""
    path = Path("mine", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return "--config-dir=mine"


def written() -> list[str]:
    return [str(path) for path in Path().rglob("*") if path.is_file() and path.parts[0] != "mine"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("cfg_scale=[0.5]", "cfg_scale=[0.5] is not a number from 0 to 1"),
        ("duration={}", "duration={} is not allowed"),
        ("cfg_scale=1e400", "cfg_scale=inf is not a number"),
        ("cfg_scale='٠.٥'", "is not a number from 0 to 1"),
        (f"sample=1{'0' * 400}", "is not a whole number from 0 to 1e+15"),
        ("sample=1e400", "sample=inf is not a whole number"),
        ("budget=5", "budget=5 is not a mapping"),
        ("store=x", "store=x is not a mapping"),
        ("tracking=x", "there is no tracking=x"),
        ("model=null", "must be a string"),
        ("prompt=", "at least 1 character"),
        ("prompt=null", "prompt=null is neither an id of the prompt set nor a text"),
        ("prompt=12", "prompt=12 is neither an id"),
        ("~prompt", "prompt=null is neither"),
        ("prompts={a: b}", "write a + before it"),
        ("subject='A dog'", "subject is unknown"),
        ("cfg_scal=0.5", "cfg_scal is unknown; did you mean cfg_scale?"),
        ("prompt='costs ${price}'", "write \\${price} where these characters are meant"),
        ("prompt='costs ${'", "where the characters ${ are meant, write \\${"),
        ("negative_prompt='${a.b}'", "where the characters ${ are meant, write \\${"),
        ("model.arguments=null", "model.required names prompt, which is no argument"),
        ("model.arguments.aspect_ratio.enum=[969]", "enum has 969, which is no text; quote it"),
        (
            "model.arguments.cfg_scale.minimum=a",
            "model.arguments.cfg_scale.minimum: 'a' is not of type 'number'",
        ),
        ("hydra.mode=RUN +sweep=cfg", "hydra.mode=RUN would leave out what is swept over: cfg_scale, prompt"),
        ("-m prompt=", "at least 1 character"),
        ("-m sample=range(100000000)", "100,000,000 runs"),
        ("-m cfg_scale=interval(0,1)", "does not support sweep type"),
        (
            "-m sample=0,1 hydra.sweeper.max_batch_size=0",
            "max_batch_size=0 is not a whole number of 1 or more",
        ),
        ("-m sample=0,1 hydra.sweeper.params=x", "hydra.sweeper.params is x, not a mapping"),
        ("+sweep=nosuch", "there is no sweep=nosuch"),
        ("--config-dir nosuch", "not found"),
        ("--config-name x", "Cannot find primary config 'x'"),
        ("--run --multirun", "Only one of"),
        ("hydra.job.name=a/b", "has a slash"),
        ("hydra.run.dir=/dev/null/x", "hydra.run.dir: /dev/null/x can't be written"),
        ("-m hydra.sweep.dir=/dev/null/x", "hydra.sweep.dir: /dev/null/x can't be written"),
        ("-m hydra.sweep.subdir=${prompt}/../..", "leads out of its folder"),
        (
            "-m hydra.sweep.subdir=${negative_prompt} negative_prompt='" + "猫" * 90 + "'",
            "more than 251 bytes",
        ),
        ("hydra.run.dir=${nowhere}", "hydra.run.dir: Interpolation key 'nowhere' not found"),
    ],
    ids=lambda value: value[:60],
)
def test_it_is_refused(run, command, said):
    """Exits with 2, says what is wrong in a line, and leaves nothing behind, not even Hydra's notes."""
    words = command.split(" ") if command.startswith(("-", "hydra.mode")) else [command]
    code, out, err = run(*words)
    assert code == 2, out
    assert said in err
    assert err.endswith("Nothing was submitted.\n")
    assert "Traceback" not in err
    assert written() == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (SWEEP.replace("\n", "\n# Prüfung\n", 1).encode("latin-1"), "is not UTF-8 text"),
        (f"{SWEEP}      prompt: fox\n".encode("utf-16-le"), "bad.yaml"),
        (f"{SWEEP}\tprompt: fox\n", "line 6"),
        (f"{SWEEP}      prompt: fox\n      prompt: market\n", "duplicate key prompt"),
        (f"{SWEEP}      1: a\n      1: b\n", "duplicate key 1"),
        ("- prompt\n", "holds no mapping"),
        ("fox\n", "holds no mapping"),
        ("5\n", "holds no mapping"),
        ("hydra: {mode: [\n", "line 2"),
        ("a: \x07\n", "special characters are not allowed"),
        ("? [a, b]\n: c\n", "unhashable key"),
        ("# @package\nprompt: fox\n", "Expected header format"),
        ("{a: " * 3000, "nested too deep"),
        (f"{SWEEP}      prompt: {{fox: 1}}\n", "give the values to sweep over as a list"),
        (f"{SWEEP}      prompt: []\n", "give the values to sweep over as a list"),
        (f"{SWEEP}      prompt: [[fox]]\n", "each is a text or a number"),
        ("# @package _global_\nprompt: [fox, market]\n", "neither an id of the prompt set nor a text"),
        ("# @package _global_\nprompts: 5\n", "prompts"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(run, content, said):
    """Names the file or the key, and what is wrong with it."""
    code, _, err = run("+sweep=bad", write("sweep/bad.yaml", content))
    assert code == 2
    assert said in err
    assert "bad.yaml" in err or ": " not in said
    assert "Traceback" not in err
    assert written() == []


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_file_in_any_unicode_encoding_is_read(run, encoding):
    """Reads a sweep file as editors of all systems write it, its first line included."""
    flag = write("sweep/notes.yaml", f"{SWEEP}      prompt: fox,market\n".encode(encoding))
    code, out, err = run("+sweep=notes", flag, "dry_run=true")
    assert code == 0, err
    assert "2 runs: 2 to generate" in out


IDS = ["1", "007", "no", "2026-01-01", "1.0", "true", "~", "1e3", "0x1F"]


def test_an_id_is_text_whatever_yaml_makes_of_it(run):
    """Finds each prompt by its id, unquoted in the file, swept and alone."""
    texts = "\n".join(f"{name}: the text of {number}" for number, name in enumerate(IDS))
    flag = write("prompts/odd.yaml", texts)
    given = ["null" if name == "~" else name for name in IDS]
    code, out, err = run("-m", "prompts=odd", f"prompt={','.join(given)}", flag, "dry_run=true")
    assert code == 0, err
    assert f"{len(IDS)} runs: {len(IDS)} to generate" in out
    for name in given[1::3]:
        assert run("prompts=odd", f"prompt={name}", flag, "dry_run=true")[0] == 0


def test_a_list_in_a_sweep_file_is_its_values(run):
    """Sweeps over each element as it is written, whatever characters it has."""
    params = "      prompt: ['A cat, asleep', \"It's a \\\\ dog's\", fox]\n      cfg_scale: [0.1, 0.5]\n      sample: [1]\n"
    code, out, err = run("+sweep=lists", write("sweep/lists.yaml", SWEEP + params), "dry_run=true")
    assert code == 0, err
    assert "6 runs: 6 to generate" in out
    for text in ("A cat, asleep", "It's a \\ dog's", "fox"):
        assert text in out


@pytest.mark.parametrize(
    ("command", "file"),
    [
        ("+sweep=leak", f"{SWEEP}      prompt: \"'${{oc.env:FAL_KEY}}',fox\"\n"),
        ("+sweep=leak", f"{SWEEP}      prompt: ['a ${{oc.env:FAL_KEY}}', fox]\n"),
        ("+sweep=leak hydra/launcher=basic", f"{SWEEP}      negative_prompt: ${{oc.env:FAL_KEY}}\n"),
        ("+sweep=leak", "# @package _global_\nnegative_prompt: ${oc.env:FAL_KEY}\n"),
        ("+sweep=leak", f"# @package _global_\nnegative_prompt: {KEY}\n"),
        ("+sweep=leak prompt=x", "# @package _global_\nprompts: {x: '${who}'}\nwho: '${oc.env:FAL_KEY}'\n"),
        (f"prompt='{KEY}'", None),
        (f"prompt={KEY.partition(':')[2]}", None),
        ("negative_prompt=${oc.env:FAL_KEY}", None),
        ("-m negative_prompt='${oc.env:FAL_KEY}',''", None),
        (f"-m negative_prompt='{KEY}',''", None),
        (f"-m hydra/launcher=basic negative_prompt='{KEY}',''", None),
        (f"hydra.job.name={KEY.partition(':')[2]}", None),
        ("hydra.run.dir=outputs/${oc.env:FAL_KEY}", None),
        ("-m hydra.sweep.subdir=${oc.env:FAL_KEY}", None),
        ("-m sample=0,1 store.dir=${oc.env:FAL_KEY}", None),
        ("+sweep=${oc.env:FAL_KEY}", None),
    ],
)
def test_a_credential_is_written_nowhere(run, monkeypatch, command, file):
    """Refuses it wherever it stands, before Hydra notes the command, and never says it."""
    monkeypatch.setenv("FAL_KEY", KEY)
    flags = [write("sweep/leak.yaml", file)] if file else []
    code, out, err = run(*command.split(" "), *flags, "provider=emulator")
    assert code == 2, out
    assert KEY.partition(":")[2] not in out + err
    assert written() == []


def test_the_folder_of_the_command_may_be_gone(tmp_path):
    """Says so in a line."""
    code = "import os, sys; os.rmdir(os.getcwd()); from kling_sweeps.__main__ import main; sys.exit(main())"
    folder = tmp_path / "gone"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "is gone" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("store", ["store", "./shared", "../shared"])
def test_a_cluster_wants_a_store_that_all_machines_share(run, store):
    """Refuses a path that is another folder on each machine."""
    code, _, err = run("-m", "sample=0,1", "cluster=slurm", "provider=fal", f"store.dir={store}")
    assert code == 2
    assert "another folder on each" in err


def test_a_job_knows_the_store_of_its_command(tmp_path):
    """Fails on a machine where the same path is another folder, before it submits anything."""
    settings = type("Settings", (), {"store_dir": tmp_path / "store", "command": "c0ffee"})
    with pytest.raises(UnavailableError, match=r"is not the folder of that name"):
        cluster.check(settings)
    cluster.announce(settings)
    cluster.check(settings)


def test_a_path_of_many_names_is_measured_as_a_whole():
    """Counts bytes of a whole path, not of its names alone."""
    from omegaconf import OmegaConf

    hydra = OmegaConf.create({"mode": "RUN", "run": {"dir": "/".join(["é" * 100] * 6)}, "job": {"name": "x"}})
    (problem,) = _outputs.problems(hydra)
    assert "bytes long" in problem


@pytest.mark.slow
@pytest.mark.parametrize("part", ["_core.run_job", "_notes.Notes.write", "_core._Jobs.config"])
def test_what_hydra_cannot_note_costs_no_run_anything(run, emulator, monkeypatch, part):
    """Tracks every run, and counts the failed ones, though the folder of notes can't be made any more."""

    def fail(*args, **given):
        raise FileNotFoundError(2, "No such file or directory", "outputs")

    monkeypatch.setattr(f"hydra_plugins.hydra_fal_launcher.{part}", fail)
    emulator.set_faults({"at": "generate", "fault": "moderation_422", "match": "fox"})
    given = ["provider=emulator", f"provider.base_url={emulator.base_url}", "metrics=fast"]
    code, out, err = run("-m", "prompt=potter,fox", *given)
    assert code == 1, err
    assert "Hydra could not note the run potter · #0" in err
    assert len(list(Path("store").rglob("video.mp4"))) == 1
    code, out, err = run("-m", "prompt=potter", *given)
    assert code == 0, err
    assert "in the store" in out
