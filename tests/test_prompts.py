"""Prompts as people have them: lists in text files, tables and JSONL, and the parts of them that a sweep is over."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from conftest import SMALL
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hypothesis import given
from hypothesis import strategies as st
from mlflow.tracking import MlflowClient
from omegaconf import DictConfig
from test_guard import SWEEP, write
from test_guard import run as run

from kling_sweeps import CONF
from kling_sweeps.errors import ConfigError
from kling_sweeps.experiment import yaml_files
from kling_sweeps.experiment.config import JobReader, read_job
from kling_sweeps.experiment.prompt import chosen, escaped
from kling_sweeps.experiment.prompt_file import ID, read_prompt_file
from kling_sweeps.experiment.settings import Cell

ODD = [
    'She says "hello", it\'s late',
    "a = b, c: d | e; f # g",
    "costs ${5}, ${HOME} or ${oc.env:HOME} \\${x} $",
    "一只猫在屋顶上睡觉，阳光明媚，镜头缓慢推进",
    "🦊 a fox\truns",
    "{a: [b, c]}",
    "sky " * 600,
    "null",
    "-1",
    "%(x)s %s {} \\n",
]


def texts(name: str, content: str | bytes) -> list[str]:
    """Return the texts of a file of prompts, as they are sent."""
    first, *others = ids(name, content)
    cfg = composed(name, first)
    reader = JobReader(cfg, cfg.hydra)
    found = [reader.read()[1].prompt_text]
    for other in others:
        cfg.prompt = other
        reader = reader.after({"prompt"}, [])
        found.append(reader.read()[1].prompt_text)
    return found


def ids(name: str, content: str | bytes) -> list[str]:
    """Write a file of prompts; return the ids that it has."""
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return [*read_prompt_file(Path(name).absolute())]


def cell(file: str, prompt: str, *more: str) -> Cell:
    """Return the run of a prompt of a file."""
    return read_job(composed(file, prompt, *more))[1]


def composed(file: str, prompt: str, *more: str) -> DictConfig:
    """Return the config of the run of a prompt of a file, as Hydra composes it."""
    yaml_files.install()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", [f"prompts={file}", f"prompt='{prompt}'", *more], return_hydra_config=True)


def problems(name: str, content: str | bytes) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        ids(name, content)
    return list(caught.value.problems)


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_line_of_a_text_file_is_a_prompt(end, encoding):
    """Sends each line as it stands, but for space at its ends, and skips empty lines and comments."""
    lines = ["# people", *ODD, "", "  ", "\ta dog \t", ODD[0]]
    assert texts("odd.txt", end.join(lines).encode(encoding)) == [*map(str.strip, ODD), "a dog"]


def test_a_table_and_json_have_what_belongs_to_a_prompt():
    """Takes arguments and factors from a line's cells; what the command gives is stronger, and `_` begins a note."""
    table = (
        "id;Text;negative_prompt;duration;camera;_by\r\n"
        'night 1;"a fox; ${camera}, \\${x}";;10;slow pan;me\r\n'
        '\r\n"day";"a ""cat""\nasleep";low quality;;;\r\n;;;;;\r\n;A cat runs;;;;\r\n'
    )
    rows = [
        {
            "id": "night 1",
            "text": "a fox; ${camera}, \\${x}",
            "duration": 10,
            "camera": "slow pan",
            "_by": [1],
        },
        {"id": "day", "prompt": 'a "cat"\nasleep', "negative_prompt": "low quality", "duration": None},
        {"text": "A cat runs", "cfg_scale": 0.5},
    ]
    for file, content in (
        ("t.csv", table),
        ("t.tsv", table.replace(";", "\t").replace("fox\t", "fox;")),
        ("t.jsonl", "\n".join(map(json.dumps, rows))),
    ):
        *named, made = ids(file, content)
        assert named == ["night 1", "day"] and made.startswith("A_cat_runs-")
        night, day = cell(file, "night 1"), cell(file, "day")
        assert night.prompt_text == "a fox; slow pan, ${x}"
        assert (night.prompt, night.factors) == ("night 1", {"camera": "slow pan"})
        assert night.request.arguments["duration"] == "10"
        assert night.request.price_usd == 2.80
        assert night.request.arguments["negative_prompt"] == "blur, distort, and low quality"
        assert day.prompt_text == 'a "cat"\nasleep'
        assert day.request.arguments["negative_prompt"] == "low quality"
        assert cell(file, "day", "negative_prompt=''").request.arguments["negative_prompt"] == ""
        assert cell(file, "night 1", "+camera='slow zoom'").prompt_text == "a fox; slow zoom, ${x}"
        assert cell(file, "night 1", "duration=5").request.arguments["duration"] == "5"


def test_a_cell_of_a_table_is_read_as_its_argument_wants():
    """Takes true and false of a switch, in any letters, and numbers; a text that says true stays one."""
    ids("p.csv", "id,text,generate_audio,negative_prompt\na,b,FALSE,true\nc,d,true,false\n")
    sent = [cell("p.csv", name, "model=kling_v2.6_pro").request.arguments for name in "ac"]
    assert [one["generate_audio"] for one in sent] == [False, True]
    assert [one["negative_prompt"] for one in sent] == ["true", "false"]


def test_a_request_is_the_same_wherever_its_prompt_stands():
    """Makes the request, and so the video, of a text that a YAML set or the command line has."""
    (name,) = ids("a.txt", "A red fox")
    from_table = ids("a.csv", "negative_prompt,text\n,A red fox\n")
    written = cell("a.txt", name)
    assert from_table == [name]
    assert written.request.key == cell("a.txt", "A red fox", "cfg_scale=0.50").request.key
    assert written.request.key == cell("a.csv", name).request.key


@given(st.lists(st.text(st.characters(exclude_categories=["C"]), min_size=1), min_size=1), st.randoms())
def test_made_ids_are_stable(tmp_path_factory, lines, order):
    """Calls a text the same, wherever it stands and whatever stands beside it, and no two texts alike."""
    path = tmp_path_factory.getbasetemp() / "made.jsonl"
    kept = [line for line in lines if line.strip()] + ["a fox"]
    path.write_text("\n".join(json.dumps({"text": line}) for line in kept))
    found = read_prompt_file(path)
    order.shuffle(kept)
    path.write_text("\n".join(json.dumps({"text": line}) for line in kept[: len(kept) // 2 + 1]))
    fewer = read_prompt_file(path)
    assert {name: found[name].text for name in fewer} == {name: one.text for name, one in fewer.items()}
    assert len(found) == len({line.strip() for line in [*kept]})
    assert all(ID.fullmatch(name) and len(name) <= 40 for name in found)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.txt", b"a fox\nGr\xfc\xdfe\n", "p.txt, line 2: is not UTF-8 text"),
        ("p.txt", "# nothing\n\n", "p.txt holds no prompt"),
        ("p.csv", "", "p.csv holds no prompt"),
        ("p.csv", "id,words\n1,a\n", "line 1: names the columns, and none is called text; it has id, words"),
        ("p.csv", "text,cfg_scale,cfg_scale\na,1,2\n", "line 1: names the column cfg_scale twice"),
        ("p.csv", "id,text\n1,a\n2,a fox, asleep\n", "line 3: has 3 cells, and the first line names 2"),
        ("p.csv", "id,text\n1,a\n2,\n", "line 3: has no text"),
        ("p.csv", 'id,text\n1,"a\nb"\n2,"c\n', "line 4: is no row of a table"),
        ("p.csv", "id,text,\n1,a,b\n", "line 2: has a cell in a column that has no name"),
        ("p.csv", "id,text\nfox,a\ncat,b\nfox,c\n", "line 4: the id fox is that of line 2 too"),
        ("p.csv", "id,text\nall,a\n", "line 2: the id 'all' is none"),
        ("p.csv", "id,text\n${x},a\n", "line 2: the id '${x}' is none"),
        ("p.csv", "text,prompt\na,b\n", "line 2: has a text and a prompt"),
        ("p.jsonl", '{"text": "a"}\n{"text": "b"\n', "line 2: is no JSON"),
        ("p.jsonl", '{"text": "a", "text": "b"}', "line 1: is no JSON: a key is there twice"),
        ("p.jsonl", '{"text": "a", "cfg_scale": NaN}', "line 1: is no JSON: NaN"),
        ("p.jsonl", '"a fox"', "line 1: is no JSON object"),
        ("p.jsonl", '\n{"text": 5}', "line 2: has no text"),
        ("p.jsonl", '{"text": "key-1:5b4a39281706f5e4d3c2b1a0"}', "line 1: holds a credential"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_by_line(name, content, said, monkeypatch):
    """Says the file, the line and what is wrong there."""
    monkeypatch.setenv("FAL_KEY", "key-1:5b4a39281706f5e4d3c2b1a0")
    (problem,) = problems(name, content)
    assert said in problem


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("id,text,cfg_scale\na,b,2\n", "p.csv, line 2: cfg_scale=2 is not a number from 0 to 1"),
        ("id,text\na," + "x" * 2501, "p.csv, line 2: prompt=xxx"),
        ("id,text\na,${camera}", "p.csv, line 2 has ${camera}, and there is no camera"),
        (
            "id,text,camrea\na,b,c",
            "p.csv: camrea is neither an argument of kling_v2.1_master nor a factor of a text",
        ),
        ("id,text\nb,c", "prompt=a is not in p.csv; it has one prompt: prompt=b"),
    ],
)
def test_what_is_wrong_with_a_prompt_is_said_by_line(content, said):
    """Says of a value that the model refuses in which line of which file it is."""
    ids("p.csv", content)
    with pytest.raises(ConfigError) as caught:
        cell("p.csv", "a")
    assert caught.value.problems[0].startswith(said)
    assert len(caught.value.problems) == 1


def test_a_choice_is_a_part_of_the_set():
    """Chooses by id, or by a seed: more of the same seed has the fewer, and a line more in the set changes little."""
    names = [f"night_{n}" for n in range(50)] + [f"day_{n}" for n in range(50)]
    assert chosen("all", names) == names
    assert chosen("glob(night_*)", names) == names[:50]
    assert chosen("glob([night_1*,day_2*],exclude=*3)", names) == [
        name for name in names if name.startswith(("night_1", "day_2")) and not name.endswith("3")
    ]
    ten, twenty = chosen("pick(10)", names), chosen("pick( 20 )", names)
    assert len(ten) == 10 and {*ten} < {*twenty} and [*filter({*twenty}.__contains__, names)] == twenty
    assert chosen("pick(20, 0)", names) == twenty != chosen("pick(20, seed=1)", names)
    shuffled = random.sample(names, len(names))
    assert {*chosen("pick(20)", shuffled)} == {*twenty}
    assert len({*chosen("pick(20)", [*names, "evening"])} & {*twenty}) >= 19


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            ["prompt=pick(9)"],
            "prompt=pick(9) asks for 9 prompts, and the set has 8; prompt=all is all of them",
        ),
        (["prompt=pick(0)"], "prompt=pick(0) asks for none, and the set has 8"),
        (["prompt=alll"], "prompt=alll is not in the prompt set; did you mean all?"),
        (["prompt=pick20"], "prompt=pick20 is not in the prompt set; did you mean pick(20)?"),
        (["prompt=pick(some)"], "prompt=pick(some) is no pick; write it as pick(20)"),
        (["prompt=glob(nigth_*)"], "prompt=glob(nigth_*) matches none of the 8 prompts"),
        (["prompt=all", "-m", "prompts=default,scene"], "sweep over the sets one by one"),
        (["prompt=all,fox", "-m"], "prompt=all chooses the prompts of a sweep; give it alone"),
        (["prompts=no.csv", "prompt=all"], "no.csv can't be read: No such file or directory"),
        (["prompts=no.doc"], "a file of prompts ends in .txt, .csv, .tsv, .jsonl"),
        (["+sweep=optimize", "optimize.prompts=pick(9)"], "optimize.prompts=pick(9) asks for 9 prompts"),
    ],
)
def test_a_choice_of_nothing_is_refused(run, command, said):
    """Says what can be chosen."""
    code, _, err = run(*command, "dry_run=true")
    assert (code, said in err) == (2, True), err


def test_a_set_without_the_default_prompt_asks_which(run):
    """Says of a file that is named alone how many prompts it has and how they are chosen, and of no id that nobody gave."""
    Path("many.txt").write_text("\n".join(f"a fox on day {n} of the long and cold winter" for n in range(60)))
    Path("few.csv").write_text("id,text\nfox,a fox\nowl,an owl\n")
    code, _, err = run("prompts=many.txt", "dry_run=true")
    assert code == 2 and "many.txt has 60 prompts; say which: prompt=all, 'prompt=pick(20)', " in err
    assert "or an id, as prompt=a_fox_on_day_0" in err and "potter" not in err and len(err) < 300
    code, _, err = run("prompts=few.csv", "dry_run=true")
    assert code == 2 and "few.csv has 2 prompts; say which: " in err and "or one of fox, owl" in err


def plan(text: str) -> str:
    return next(line for line in text.splitlines() if " runs: " in line)


@pytest.mark.slow
def test_a_sweep_file_chooses_as_the_command_line_does(run):
    """Sweeps over a choice wherever it is written, and narrows it down; a search has it in each trial."""
    Path("mine.txt").write_text("\n".join(f"a fox, take {n}" for n in range(30)))
    sweeps = {
        "params": f"{SWEEP}      prompts: mine.txt\n      prompt: pick(7)\n      sample: 0,1\n",
        "body": f"# @package _global_\nprompts: mine.txt\nprompt: pick(7)\n{SWEEP.split(chr(10), 1)[1]}      sample: 0,1\n",
        "chosen": f"# @package _global_\ndefaults:\n  - override /prompts: mine.txt\n{SWEEP.split(chr(10), 1)[1]}"
        "      prompt: [pick(7)]\n      sample: 0,1\n",
    }
    for name, text in sweeps.items():
        flag = write(f"sweep/{name}.yaml", text)
        code, out, err = run(flag, f"+sweep={name}", "dry_run=true")
        assert (code, plan(out)[:8]) == (0, "14 runs:"), err
        assert "Prompts: 7 of the 30 of mine.txt" in out
    assert plan(run(flag, "+sweep=chosen", "prompt=glob(a_fox*)", "dry_run=true")[1])[:8] == "60 runs:"
    code, out, err = run("+sweep=optimize", "optimize.prompts=pick(3)", "dry_run=true")
    assert code == 0 and "the others cost 16.80 USD at most" in out + err  # 16 trials of 3 prompts


@pytest.mark.slow
def test_a_thousand_lines_are_planned_at_once(run, monkeypatch):
    """Plans a list as long as VBench's from a few configs of Hydra's, each prompt its own request, equal lines once."""
    composed, compose = [], ConfigLoaderImpl.load_configuration
    monkeypatch.setattr(
        ConfigLoaderImpl, "load_configuration", lambda *a, **k: composed.append(1) or compose(*a, **k)
    )
    lines = [f"a person, number {n}, drinks coffee" for n in range(936)] + ODD + ODD[:4]
    Path("list.txt").write_text("\n".join(lines), encoding="utf-8-sig")
    code, out, err = run("prompts=list.txt", "prompt=all", "dry_run=true")
    assert code == 0, err
    assert "Prompts: all 946 of list.txt; 4 lines more say the same as an earlier one" in out
    assert "946 runs: 946 to generate. 1324.40 USD" in out
    assert 0 < len(composed) < 10  # a config of its own for each takes 30 s


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["fal", "joblib"])
def test_any_launcher_makes_the_prompts_of_a_file(run, tmp_path, launcher):
    """Generates and logs each prompt of a file as it stands there, whoever composes and runs the jobs."""
    fox = {"id": "fox", "text": "A fox, ${camera}", "camera": "slow pan", "negative_prompt": ""}
    rows = [*({"text": escaped(text)} for text in ODD[:4]), fox]
    Path("odd.jsonl").write_text("\n".join(map(json.dumps, rows)))
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    given = [f"hydra/launcher={launcher}", *SMALL, "provider=emulator", "metrics=fast", f"tracking.uri={uri}"]
    code, _, err = run("prompts=odd.jsonl", "prompt=all", *given)
    assert code == 0, err
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("kling_sweeps/single (emulator)")
    runs = client.search_runs([experiment.experiment_id])
    found = {run.data.params["prompt_text"]: run.data.params for run in runs if "prompt" in run.data.params}
    assert set(found) == {*ODD[:4], "A fox, slow pan"}
    params = found["A fox, slow pan"]
    assert (params["prompt"], params["camera"], params["negative_prompt"]) == ("fox", "slow pan", "")
