"""A judge's rubric, what it is asked, and what of its answer is a grade: nothing that a text anywhere says otherwise."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from kling_sweeps import CONF
from kling_sweeps.errors import ConfigError, UnreadableAnswerError
from kling_sweeps.experiment import yaml_files
from kling_sweeps.experiment.rubric import Rubric, read_rubric
from kling_sweeps.judges.answer import read_grades, read_verdicts
from kling_sweeps.judges.instructions import Verdict, arguments, instructions, quoted, version
from kling_sweeps.judges.looked_at import looked_at

FILES = sorted(path for path in Path(CONF, "judge").glob("*.yaml") if path.stem != "base")
DIGEST, OTHER = "a" * 64, "b" * 64
NODE: dict[str, Any] = {
    **yaml_files.content(Path(CONF, "judge/base.yaml")),
    "name": "hands",
    "questions": {
        "hands": {
            "ask": "Do hands look like hands?",
            "scale": {"1": "never", "2": "at times", "3": "always"},
        },
        "calm": {"ask": "Is the camera calm?", "scale": {0: "no", 10: "yes"}},
    },
}
RUBRIC = read_rubric(NODE)
CODE = instructions(RUBRIC, "a potter", [DIGEST]).code
ANSWER = f"The thumb bends backwards.\n\n{CODE} hands: 2\n{CODE} calm: 10\n{CODE} end"


def changed(**keys: Any) -> Rubric:
    return read_rubric({**NODE, **keys})


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_every_file_is_a_judge(file):
    """Reads each file of conf/judge/ as Hydra composes it; it has the file's name and an anchor for each grade."""
    yaml_files.install()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", [f"judge={file.stem}"])
    rubric = read_rubric(OmegaConf.to_container(cfg.judge))
    assert rubric.name == file.stem
    assert all(sorted(one.scale) == [1, 2, 3, 4, 5] for one in rubric.questions)
    assert (rubric.frames is None) == rubric.endpoint.endswith("/video")


def test_the_judge_of_the_page_is_one():
    """Reads the file that docs/judge.md has."""
    (text,) = re.findall(
        r"^```yaml\n(.*?)^```$", Path("docs/judge.md").read_text(encoding="utf-8"), re.M | re.S
    )
    own = yaml.safe_load(text)
    assert own.pop("defaults") == ["base"]
    assert [one.name for one in changed(**own).questions] == [own["name"]]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"model": ""}, "judge.model= is not OpenRouter's name"),
        ({"endpoint": "openrouter/router/audio"}, "judge.endpoint=openrouter/router/audio is not one of"),
        ({"temprature": 1}, "judge.temprature is unknown; did you mean temperature?"),
        ({"temperature": 2.5}, "judge.temperature=2.5 is not a number from 0 to 2"),
        ({"temperature": float("nan")}, "judge.temperature=nan"),
        ({"repeats": 0}, "judge.repeats=0 is not a whole number from 1 to 100"),
        ({"repeats": True}, "judge.repeats=true"),
        ({"pairs": "yes"}, "judge.pairs=yes is neither true nor false"),
        ({"max_usd": 0}, "judge.max_usd=0 is not a number above 0"),
        ({"max_usd": float("inf")}, "judge.max_usd=inf"),
        ({"frames": 8}, "judge.frames=8 is of openrouter/router/vision"),
        ({"endpoint": "openrouter/router/vision"}, "judge.frames=null is not a whole number from 1 to 64"),
        ({"questions": {}}, "judge.questions is not a mapping"),
        ({"questions": {"Hands!": NODE["questions"]["calm"]}}, "judge.questions.Hands!: a question's name"),
        (
            {"questions": {"hands": "good?"}},
            "judge.questions.hands is not a mapping with `ask` and `scale` alone",
        ),
        ({"questions": {"hands": {"ask": " ", "scale": {1: "a", 2: "b"}}}}, "judge.questions.hands.ask="),
        ({"questions": {"hands": {"ask": "?", "scale": {1: "a"}}}}, "judge.questions.hands.scale is not"),
        (
            {"questions": {"hands": {"ask": "?", "scale": {1: "a", "good": "b"}}}},
            "judge.questions.hands.scale is",
        ),
        (
            {"questions": {"hands": {"ask": "?", "scale": {1: "a", 2: None}}}},
            "judge.questions.hands.scale.2=null",
        ),
    ],
)
def test_what_is_wrong_with_a_rubric_is_said(keys, said):
    """Refuses a rubric with one sentence that begins with the key."""
    with pytest.raises(ConfigError) as caught:
        changed(**keys)
    assert [one for one in caught.value.problems if one.startswith(said)], caught.value.problems


def test_all_that_is_wrong_is_said_at_once():
    """Names every key that is missing, and what no mapping is."""
    with pytest.raises(ConfigError) as caught:
        read_rubric({"name": "hands", "repeats": "many"})
    assert len(caught.value.problems) == 2
    assert "judge.endpoint, judge.model" in caught.value.problems[0]
    with pytest.raises(ConfigError, match="judge=fidelity is not a mapping"):
        read_rubric("fidelity")


@pytest.mark.parametrize(
    "keys",
    [
        {"model": "google/gemini-2.5-pro"},
        {"endpoint": "openrouter/router/vision", "frames": 8},
        {"show_prompt": False},
        {"temperature": 0.5},
        {"max_tokens": 100},
        {"questions": {"hands": NODE["questions"]["hands"]}},
        {"questions": {"hands": {**NODE["questions"]["hands"], "ask": "Are there hands?"}}},
        {"questions": {"hands": {**NODE["questions"]["hands"], "scale": {1: "never", 2: "always"}}}},
    ],
)
def test_what_decides_an_answer_is_in_the_version(keys):
    """Changes the version with all that is sent, and with nothing that is not."""
    assert version(changed(**keys)) != version(RUBRIC)
    same = changed(name="other", repeats=3, pairs=True, max_usd=1.0, factor="cfg_scale")
    assert version(same) == version(RUBRIC)


def test_stills_that_are_made_otherwise_are_other_ones(monkeypatch):
    """Has their version in what stands for a still, so in the request's key, and in the version of who looks at stills."""
    of_stills = changed(endpoint="openrouter/router/vision", frames=2)

    def known(rubric: Rubric) -> tuple[str, set[str]]:
        return version(rubric), {one.mark for one in looked_at(rubric, Path("a.mp4"), DIGEST)}

    before = [known(rubric) for rubric in (of_stills, RUBRIC)]
    for module in ("looked_at", "instructions"):
        monkeypatch.setattr(f"kling_sweeps.judges.{module}.STILLS_VERSION", 2)
    (old, olds), (new, news) = before[0], known(of_stills)
    assert old != new and len(olds | news) == 4
    assert known(RUBRIC) == before[1]  # who looks at the video itself


def test_a_judge_is_asked_by_the_endpoints_arguments():
    """Sends each grade with its anchor, the prompt as one JSON string, and the form to answer in."""
    said = instructions(RUBRIC, 'a "potter"\nat work', [DIGEST])
    sent = arguments(RUBRIC, said, ["sha256:1"])
    assert sent["video_urls"] == ["sha256:1"]
    assert (sent["model"], sent["temperature"], sent["reasoning"]) == (RUBRIC.model, 0, False)
    lines = sent["prompt"].splitlines()
    assert '"a \\"potter\\"\\nat work"' in lines
    assert "  2: at times" in lines
    form = [f"{said.code} hands: 1 | 2 | 3", f"{said.code} calm: 0 | 10", f"{said.code} end"]
    assert lines[-3:] == form
    stills = changed(endpoint="openrouter/router/vision", frames=8)
    of_two = instructions(stills, None, [DIGEST, OTHER])
    assert "8 stills of each" in of_two.text
    assert of_two.text.endswith(f"calm: first | second | tie\n{of_two.code} end")
    assert arguments(stills, of_two, ["a", "b"])["image_urls"] == ["a", "b"]


def test_a_prompt_that_may_not_be_shown_is_not_sent():
    """Sends no word of it, in neither text."""
    said = instructions(changed(show_prompt=False), "xylophone", [DIGEST])
    assert "xylophone" not in said.text + said.system


def test_each_request_has_a_code_of_its_own():
    """Gives another code to another video, prompt, rubric and order of two, and the same to the same."""
    asked = [(RUBRIC, "a", [DIGEST]), (RUBRIC, "b", [DIGEST]), (RUBRIC, "a", [OTHER])]
    asked += [
        (RUBRIC, "a", [DIGEST, OTHER]),
        (RUBRIC, "a", [OTHER, DIGEST]),
        (changed(temperature=1), "a", [DIGEST]),
    ]
    codes = [instructions(*one).code for one in asked]
    assert len({*codes}) == len(codes)
    assert codes == [instructions(*one).code for one in asked]


def test_grades_and_verdicts_are_read():
    """Takes the lines with the code, and lets the rest be said."""
    assert read_grades(RUBRIC, CODE, ANSWER) == {"hands": 2, "calm": 10}
    assert read_grades(
        RUBRIC, CODE, f"```\n- **{CODE} hands:** 3\r\n{CODE} `calm:` 0\n{CODE} **end**\n```"
    ) == {
        "hands": 3,
        "calm": 0,
    }
    told = f"{CODE} calm: tie\n{CODE} hands: Second\n{CODE} end"
    assert read_verdicts(RUBRIC, CODE, told) == {"hands": Verdict.SECOND, "calm": Verdict.TIE}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hands: 2\ncalm: 10",
        f"{CODE} hands: 2\n{CODE} end",
        f"{CODE} hands: 2\n{CODE} end\n{CODE} calm: 10",
        ANSWER.replace("hands: 2", "hands: 4"),
        ANSWER.replace("hands: 2", "hands: 2.5"),
        ANSWER.replace("hands: 2", "hands: 2 or 3"),
        ANSWER.replace("hands: 2", "hands: 1 | 2 | 3"),
        ANSWER.replace("hands: 2", "hands: 2/3"),
        ANSWER.replace("hands: 2", "hands: ２"),
        ANSWER.replace("hands: 2", "hands: - 2"),
        ANSWER.replace("hands: 2", "hands: first"),
        ANSWER.replace("hands", "feet"),
        ANSWER + f"\n{CODE} hands: 3",
        ANSWER.replace("hands: 2", f"hands: 2\n{CODE} hands: 3"),
        ANSWER.replace("hands: 2", f"hands: 2\n{CODE} hands: 2"),
        ANSWER + f"\n{CODE} end",
        ANSWER + f"\nSo {CODE} hands: 3 would be too much.",
        ANSWER.replace(CODE, "deadbeef"),
        f"<!doctype html><p>{CODE} hands: 2 <p>{CODE} calm: 10",
        json.dumps({"hands": 2, "calm": 10}),
    ],
)
def test_what_is_not_each_grade_once_is_no_grade(text):
    """Refuses the whole answer, and says what it was."""
    with pytest.raises(UnreadableAnswerError, match="the judge's answer has"):
        read_grades(RUBRIC, CODE, text)


def test_an_answer_that_was_cut_off_is_no_grade():
    """Refuses every beginning of an answer, that one too whose last grade, 10, is cut off to another one, 1."""
    scale = {1: "none", 5: "half", 10: "all"}
    of_ten = changed(questions={"hands": {"ask": "Are there hands?", "scale": scale}})
    whole = f"Both.\n{CODE} hands: 10\n{CODE} end"
    assert read_grades(of_ten, CODE, whole) == {"hands": 10}
    for length in range(len(whole)):
        with pytest.raises(UnreadableAnswerError):
            read_grades(of_ten, CODE, whole[:length])


# Texts that try to be answers: pieces of the form, and anything.
HOSTILE = st.lists(
    st.one_of(
        st.text(),
        st.sampled_from(
            [
                "\n",
                "\u2028",
                "\r",
                "\x85",
                "hands: 3",
                " calm: 10 ",
                "grade: 5",
                '"',
                "\\",
                "\ud800",
                "*",
                "- ",
            ]
        ),
        st.from_regex(r"[0-9a-f]{8} hands: [0-9]", fullmatch=True),
    )
).map("".join)


@given(HOSTILE)
def test_no_prompt_becomes_an_instruction(prompt):
    """Leaves all lines but one as they are for any prompt; that one is it, as a JSON string."""
    said = instructions(RUBRIC, prompt, [DIGEST])
    plain = instructions(RUBRIC, "plain", [DIGEST])
    lines, others = (one.text.replace(one.code, "").splitlines() for one in (said, plain))
    if prompt:
        (at,) = [number for number, line in enumerate(others) if line == '"plain"']
        assert json.loads(lines[at]) == json.loads(json.dumps(prompt))
        others[at] = lines[at]
        assert lines == others
    assert said.text.isprintable() or said.text.replace("\n", "").isprintable()
    said.text.encode()


@given(HOSTILE.filter(lambda text: CODE not in text), st.permutations(["before", "between", "after"]))
def test_no_text_changes_a_grade(text, order):
    """Reads the same grades with any text before, between and after their lines, and none without them."""
    own = iter([f"\n{CODE} hands: 2\n", f"\n{CODE} calm: 10\n{CODE} end\n"])
    whole = "".join(text if place == "between" else next(own) for place in order)
    assert read_grades(RUBRIC, CODE, whole) == {"hands": 2, "calm": 10}
    with pytest.raises(UnreadableAnswerError):
        read_grades(RUBRIC, CODE, text)
    with pytest.raises(UnreadableAnswerError):
        read_verdicts(RUBRIC, CODE, text)


@given(st.text(alphabet=f"{CODE}hands clm:0123456789*`\n-"))
def test_whatever_is_read_is_of_the_scale(text):
    """Returns a grade of its scale for each question, or raises the one error."""
    try:
        grades = read_grades(RUBRIC, CODE, f"{CODE} calm: 0\n{CODE} hands: {text}\n{CODE} end")
    except UnreadableAnswerError as error:
        assert str(error).isprintable()
    else:
        assert grades["calm"] == 0
        assert grades["hands"] in (1, 2, 3)


@given(HOSTILE)
def test_a_quoted_text_is_one_line_that_json_reads(text):
    """Quotes any text so that it is read as what it was, on one line without marks that can't be seen."""
    line = quoted(text)
    assert line.isprintable()
    assert json.loads(line) == json.loads(json.dumps(text))
