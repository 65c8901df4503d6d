"""`python -m kling_sweeps.measure`: any video's numbers, without generating one."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from math import isnan
from pathlib import Path

import clips
import psutil
import pytest
from rich.cells import cell_len

from kling_sweeps.measure import main
from kling_sweeps.measurement.measurement import Measurement
from kling_sweeps.metrics import describe, measure
from kling_sweeps.metrics.__main__ import table
from kling_sweeps.metrics.motion import Motion

ROOT = Path(__file__).parents[1]


@pytest.fixture
def clip(tmp_path: Path) -> str:
    return str(clips.write(tmp_path / "pan.mp4", clips.pan(size=(320, 180))))


def test_json_is_what_python_measures(clip, capsys):
    """Prints the values of `measure`, NaN as null, with the file's facts and all versions."""
    assert main([clip, "--json", "--metrics", "full", "--duration", "5"]) == 0
    (record,) = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    expected = measure(clip, "full", duration=5)
    assert record["file"] == clip and record["errors"] == {}
    assert isnan(expected.values["aspect_error"])
    assert record["values"] == {
        name: None if isnan(value) else value for name, value in expected.values.items()
    }
    assert record["facts"]["codec"] == "h264" and record["versions"]["metric.motion"] == str(Motion.version)


def test_a_table_has_every_value(clip, capsys, monkeypatch):
    """Prints a row for each value, with its unit, and what it is where there is room."""
    monkeypatch.setenv("COLUMNS", "140")
    assert main([clip]) == 0
    printed = capsys.readouterr().out
    values = measure(clip).values
    for row in describe("default"):
        (line,) = [line for line in printed.splitlines() if line.strip().startswith(f"{row.name} ")]
        value = values[row.name]
        shown = "–" if isnan(value) else f"{value:.4g}" if value % 1 else str(int(value))
        assert line.split()[1] == shown and row.unit in line and row.meaning in line
    assert max(map(len, printed.splitlines())) <= 140


def test_several_files_share_a_table(clip, tmp_path, capsys):
    """Prints one table with a row for each of several files, in order, and writes the same as CSV."""
    grey = [str(clips.write(tmp_path / f"grey {level}.mp4", clips.grey(level))) for level in (40, 126)]
    (tmp_path / "no.mp4").write_text("nothing")
    files, table = [clip, *grey, str(tmp_path / "no.mp4")], tmp_path / "all.csv"
    assert main([*files, "--metrics", "fast", "--csv", str(table)]) == 1
    head, *rows = capsys.readouterr().out.strip().splitlines()
    names = [row.name for row in describe("fast")]
    assert head.split() == ["file", *names] and len({len(line) for line in (head, *rows)}) == 1
    assert [row.split("  ")[0] for row in rows] == ["pan.mp4", "grey 40.mp4", "grey 126.mp4", "no.mp4"]
    assert rows[2].split()[2:][names.index("luma_mean")] == f"{(126 - 16) / 219:.4g}"
    with table.open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [row["file"] for row in written] == files
    for row, values in zip(written, [measure(file, "fast").values for file in files[:3]], strict=False):
        assert {name: row[name] for name in names} == {
            name: "" if isnan(value) else repr(value) for name, value in values.items()
        }
    assert not any(written[3][name] for name in names) and "invalid data" in written[3]["error"]


def test_rows_fit_the_terminal(clip, tmp_path, capsys, monkeypatch):
    """Goes on below with the values that a narrow terminal has no room for."""
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setenv("FORCE_COLOR", "1")
    other = str(clips.write(tmp_path / "猫.mp4", clips.grey()))
    assert main([clip, other, "--metrics", "fast"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(cell_len, lines)) <= 70
    heads = [line.split() for line in lines if line.startswith("file")]
    assert len(heads) > 1 and all(head[0] == "file" for head in heads)
    assert [name for head in heads for name in head[1:]] == [row.name for row in describe("fast")]


def test_files_of_one_name(tmp_path, capsys):
    """Tells files apart by their folders where they share a name."""
    files = []
    for folder in ("a" * 30, "b"):
        (tmp_path / folder).mkdir()
        files.append(str(clips.write(tmp_path / folder / "video.mp4", clips.grey())))
    assert main([*files, "--metrics", "fast"]) == 0
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines() if "video.mp4" in line]
    assert rows == [f"{'a' * 30}/video.mp4", "b/video.mp4"]


def test_what_can_not_be_measured_is_said(clip, tmp_path, capsys):
    """Measures the rest, names what is no video, and exits with 1."""
    (tmp_path / "no.mp4").write_text("nothing")
    files = [str(tmp_path / "no.mp4"), clip, str(tmp_path / "gone.mp4")]
    assert main([*files, "--json", "--metrics", "fast"]) == 1
    printed, said = capsys.readouterr()
    records = json.loads(printed)
    assert [record["file"] for record in records] == files
    assert [bool(record["values"]) for record in records] == [False, True, False]
    assert "invalid data" in records[0]["errors"]["video"] and "no such file" in records[2]["errors"]["video"]
    assert len(said.splitlines()) == 2 and "no.mp4 can't be opened as a video" in said


def test_a_broken_tail_is_marked(tmp_path, capsys):
    """Measures a cut file up to there, says so, and exits with 1."""
    path = clips.truncate(clips.write(tmp_path / "cut.mp4", clips.noise(20, frames=20)))
    assert main([str(path), "--json"]) == 1
    printed, said = capsys.readouterr()
    (record,) = json.loads(printed)
    assert record["values"]["frames"] < 20 and "of 20 frames" in record["errors"]["video"]
    assert "cut.mp4: video: decoding ended after" in said


@pytest.mark.parametrize("several", [False, True])
def test_save(clip, tmp_path, capsys, several):
    """Writes what a sweep keeps of a measurement, a folder a file."""
    files = [clip, str(clips.write(tmp_path / "b.mp4", clips.grey()))] if several else [clip]
    assert main([*files, "--save", str(tmp_path / "out"), "--metrics", "fast"]) == 0
    saved = Measurement.load(tmp_path / "out" / "pan.mp4")
    assert saved.frames.equals(measure(clip, "fast").frames) and saved.filmstrip is not None
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        Path(file).name for file in files
    )


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--metrics", "best"], "neither a set (default, fast, full, text) nor a file"),
        (["--aspect-ratio", "wide"], "expected width:height"),
        (["--aspect-ratio", "0:9"], "expected width:height"),
        (["--duration", "-3"], "expected seconds, more than 0"),
        (["--duration", "nan"], "expected seconds, more than 0"),
        (["--save", "{clip}"], "can't be written"),
        (["--csv", "{clip}/x.csv"], "can't be written"),
        (["--csv", "{clip}"], "is one of the videos"),
        (["{clip}", "elsewhere/pan.mp4", "--save", "out"], "would be written to one folder"),
    ],
)
def test_bad_commands(clip, capsys, options, problem):
    """Refuses what can't be meant, before anything is decoded, and exits with 2."""
    assert main([clip, *(option.format(clip=clip) for option in options)]) == 2
    printed, said = capsys.readouterr()
    assert printed == "" and problem in said


def test_what_was_saved_before_is_gone_where_measuring_fails(clip, tmp_path, capsys):
    """Leaves no measurement of another file behind."""
    assert main([clip, "--save", str(tmp_path / "out"), "--metrics", "fast"]) == 0
    Path(clip).write_text("nothing")
    assert main([clip, "--save", str(tmp_path / "out"), "--metrics", "fast"]) == 1
    assert not (tmp_path / "out" / "pan.mp4" / "values.json").exists()


def started(*arguments: str, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "kling_sweeps.measure", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, cwd=ROOT, **{**pipes, **options})


@pytest.mark.slow
@pytest.mark.parametrize("several", [False, True])
def test_ctrl_c(clip, tmp_path, several):
    """Ends at once, with a line and 130, when it is interrupted while it decodes."""
    long = str(clips.write(tmp_path / "long.mp4", clips.grey(frames=3000, size=(640, 360))))
    process = started(long, *([clip] if several else []), "--metrics", "full")
    while not decodes(process.pid, long):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    printed, said = process.communicate()
    assert (process.returncode, printed, said) == (130, "", "Interrupted: nothing is printed.\n")


def decodes(pid: int, path: str) -> bool:
    """Tell whether a process or one of its children has a file open."""
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        return any(path == file.path for each in family for file in each.open_files())
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
def test_nobody_reads(clip):
    """Says so in a line where its output is closed, and where it can't be written."""
    read, write = os.pipe()
    os.close(read)
    with open("/dev/full", "w") as full, open(write, "w") as closed:
        for stream in (full, closed):
            process = started(clip, "--json", "--metrics", "fast", stdout=stream)
            assert process.communicate()[1].startswith("The numbers could not be written: ")
            assert process.returncode == 1


@pytest.mark.slow
def test_plain_terminals(clip):
    """Prints on a terminal that knows ASCII alone."""
    process = started(clip, "--metrics", "fast", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    printed, said = process.communicate()
    assert process.returncode == 0 and said == ""
    assert "aspect_error" in printed


def test_help_answers_at_once():
    """Explains itself without numpy, OpenCV or a video."""
    code = "import sys; from kling_sweeps.measure import _parser; _parser().format_help();"
    code += "print(*{'numpy', 'cv2', 'av', 'pandas', 'rich'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert printed.stdout.strip() == ""


def test_the_documentation_has_the_declared_metrics():
    """Keeps the table of docs/measure.md the one that `python -m kling_sweeps.metrics` prints."""
    assert table() in (ROOT / "docs/measure.md").read_text(encoding="utf-8")
