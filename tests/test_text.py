"""Text in the picture: drawn, coded as H.264, read again; and the words of prompts that it is compared with."""

from __future__ import annotations

import json
import socket
import sys
from math import isnan
from pathlib import Path

import clips
import cv2
import numpy as np
import pytest
from test_guard import run as run

from kling_sweeps import metrics
from kling_sweeps.errors import UnavailableError
from kling_sweeps.measure import main
from kling_sweeps.metric import Requested
from kling_sweeps.metrics import build, fingerprint, measure, remarks, text
from kling_sweeps.metrics.words import difference, distance, quoted, share_read, words

SPEC = {"text": {"every": 6}}
SIGN = 'A shop at night, the neon sign reads "GRAND HOTEL"'
# Of 640 x 360: where a line of text begins, and the height of its letters.
PLACE, HEIGHT = (120, 200), 40


def picture(*lines: str, at: tuple[int, int] = PLACE, height: int = HEIGHT) -> np.ndarray:
    """Draw lines of light text on a dark, blurred texture: BGR uint8."""
    ground = cv2.GaussianBlur(clips.texture((640, 360), seed=3)[0], (0, 0), 4) // 3
    drawn = cv2.merge([ground] * 3)
    for number, line in enumerate(lines):
        origin = at[0], at[1] + 2 * height * number
        cv2.putText(drawn, line, origin, (235, 240, 240), cv2.FontFace("sans"), height, 600)
    return drawn


def written(path: Path, pictures: list[np.ndarray], crf: int = 23) -> Path:
    """Code BGR pictures as people do."""
    planes = []
    for bgr in pictures:
        height, width = bgr.shape[:2]
        flat = cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_I420).ravel()
        y, u, v = np.split(flat, [height * width, height * width * 5 // 4])
        half = (height // 2, width // 2)
        planes.append((y.reshape(height, width), u.reshape(half), v.reshape(half)))
    return clips.write(path, planes, matrix="bt601", options={"crf": str(crf)})


def drawn_share(*lines: str, at: tuple[int, int] = PLACE, height: int = HEIGHT) -> float:
    """Give the share of the picture that the boxes around the letters take."""
    empty, area = picture(height=height), 0
    for line in lines:
        rows, columns = np.nonzero(
            np.abs(picture(line, at=at, height=height).astype(int) - empty).max(2) > 20
        )
        area += (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    return float(area) / (640 * 360)


class TestWords:
    @pytest.mark.parametrize(
        ("said", "expected"),
        [
            ("It's OPEN, 24/7!", ["its", "open", "24", "7"]),
            ("CAFÉ Öl — naïve", ["cafe", "ol", "naive"]),
            ("Straße ＦＵＬＬ", ["strasse", "full"]),
            ("茶馆OPEN がぎ", ["茶", "馆", "open", "が", "ぎ"]),
            ("!? — …", []),
        ],
    )
    def test_as_they_are_compared(self, said, expected):
        """Has no case, accents, apostrophes and punctuation; a character of Chinese or Japanese is a word."""
        assert words(said) == expected

    @pytest.mark.parametrize(
        ("prompt", "expected"),
        [
            ('A sign says "OPEN NOW" and "Bar"', ["open now", "bar"]),
            ("“Open” and „Offen“ and „Otwarte” and ”Öppet”", ["open", "offen", "otwarte", "oppet"]),
            ("« Ouvert » and »Offen« and ‹ouvert›", ["ouvert", "offen", "ouvert"]),
            ("写着「茶馆」和『酒店』的招牌，“面馆”", ["茶 馆", "酒 店", "面 馆"]),
            ('写着"茶馆"的招牌', ["茶 馆"]),
            ("the potter's hands, 'quoted' isn't, rock 'n' roll", []),
            ('a 12" record beside a 7" one, a 5\'10" man, "ROUTE 66"', ["route 66"]),
            ('an empty "" and a mark "!"', []),
            ('one that does not end "OPEN', []),
        ],
    )
    def test_in_quotes(self, prompt, expected):
        """Finds what stands in the quotes of many languages; apostrophes and inches are none."""
        assert [" ".join(phrase) for phrase in quoted(prompt)] == expected

    @pytest.mark.parametrize(
        ("wanted", "read", "share"),
        [
            ("GRAND HOTEL", ["Grand Hotel"], 1),
            ("GRAND HOTEL", ["HOTEL", "GRAND"], 1),
            ("GRAND HOTEL", ["GRAN0 H0TE1"], 0.5),
            ("GRAND HOTEL", ["GRANDHOTEL"], 1),
            ("GRAND HOTEL", ["GR AND"], 0.5),
            ("OPEN", ["OVEN"], 0),
            ("OPEN", ["REOPENED"], 0),
            ("café", ["CAFE"], 1),
            ("TO LET", ["TOILET"], 0),
            ("茶馆", ["茶銪"], 0.5),
            ("茶馆", ["老茶馆欢迎"], 1),
            ("OPEN", [], 0),
        ],
    )
    def test_read(self, wanted, read, share):
        """Counts the words that were read, however they were divided, one letter in five being wrong at most."""
        assert share_read([words(wanted)], map(words, read)) == share

    def test_difference(self):
        """Is 0 of what reads the same, wherever it stands and however it is divided, and 1 of what has no pair of letters in common."""
        lines = [words("grand hotel"), words("bar")]
        assert difference(lines, lines) == difference(lines, [words("bar"), words("grandhotel")]) == 0
        assert difference(lines, []) == difference([["ab"]], [["cd"]]) == 1
        assert difference([["abc"]], [["abd"]]) == pytest.approx(1 - 2 * 2 / 8)
        assert difference([], []) == 0

    @pytest.mark.parametrize(
        ("one", "other", "letters"),
        [("", "abc", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("same", "same", 0)],
    )
    def test_distance(self, one, other, letters):
        """Is Levenshtein's, both ways."""
        assert distance(one, other) == distance(other, one) == letters


@pytest.mark.slow
class TestClips:
    @pytest.mark.parametrize(("crf", "height"), [(18, 56), (30, 24)])
    def test_clean(self, tmp_path, crf, height):
        """Reads a sign that stands still, and takes for text what is, with a margin."""
        path = written(tmp_path / "a.mp4", [picture("Grand Hotel", height=height)] * 24, crf)
        found = measure(path, SPEC, prompt=SIGN)
        assert found.errors == {}
        assert (found.values["text_legible"], found.values["text_flicker"]) == (1, 0)
        assert found.facts["text_read"] == "Grand Hotel"
        assert 1.2 < found.values["text_share"] / drawn_share("Grand Hotel", height=height) < 1.8
        assert np.isfinite(found.frames["text_share"]).sum() == 4

    def test_more_of_it(self, tmp_path):
        """Is a share of the picture: two lines are twice one."""
        one, two = (
            measure(written(tmp_path / f"{n}.mp4", [picture(*["Grand Hotel"] * n)]), SPEC, prompt=SIGN)
            for n in (1, 2)
        )
        assert two.values["text_share"] == pytest.approx(2 * one.values["text_share"], rel=0.1)

    def test_moving(self, tmp_path):
        """Reads a sign that moves, and it reads the same wherever it is."""
        moving = [picture("Grand Hotel", at=(20 + 6 * n, 120 + 4 * n)) for n in range(24)]
        values = measure(written(tmp_path / "a.mp4", moving), SPEC, prompt=SIGN).values
        assert (values["text_legible"], values["text_flicker"]) == (1, 0)

    @pytest.mark.parametrize(
        "spoil", [lambda bgr: cv2.GaussianBlur(bgr, (0, 0), 14), lambda bgr: bgr[:, ::-1]]
    )
    def test_blurred_and_mirrored(self, tmp_path, spoil):
        """Reads neither what is blurred beyond its strokes nor what is mirrored."""
        path = written(tmp_path / "a.mp4", [spoil(picture("Grand Hotel"))] * 12)
        assert measure(path, SPEC, prompt=SIGN).values["text_legible"] == 0

    def test_as_often_as_it_is_there(self, tmp_path):
        """Is the share of the words, in the mean over the samples."""
        shown = [picture("Grand Hotel")] * 12 + [picture("Grand")] * 12 + [picture()] * 12
        values = measure(written(tmp_path / "a.mp4", shown), SPEC, prompt=SIGN).values
        assert values["text_legible"] == pytest.approx((2 * 1 + 2 * 0.5 + 2 * 0) / 6)
        steps = [0, difference([["grandhotel"]], [["grand"]]), 0, 1]
        assert values["text_flicker"] == pytest.approx(np.mean(steps))

    def test_a_text_that_changes(self, tmp_path):
        """Flickers by as much as reads otherwise."""
        said = ["MORNING", "SUCKLED", "BAZAAR", "TWIXT"]
        shown = [picture(said[n // 6]) for n in range(24)]
        values = measure(written(tmp_path / "a.mp4", shown), SPEC, prompt='"MORNING"').values
        assert values["text_flicker"] > 0.9 and values["text_legible"] == 0.25

    def test_chinese(self, tmp_path):
        """Reads Chinese, character by character."""
        path = written(tmp_path / "a.mp4", [picture("老茶馆", height=60)] * 6)
        assert measure(path, SPEC, prompt="写着「茶馆」的招牌").values["text_legible"] == 1
        assert measure(path, SPEC, prompt="写着「茶店」的招牌").values["text_legible"] == 0.5

    def test_no_text(self, tmp_path):
        """Finds none in a texture, where what was asked for is not legible and nothing can flicker."""
        path = clips.write(tmp_path / "a.mp4", clips.pan(frames=12))
        values = measure(path, SPEC, prompt=SIGN).values
        assert (values["text_share"], values["text_legible"]) == (0, 0) and isnan(values["text_flicker"])

    @pytest.mark.parametrize("size", [(96, 128), (16, 16), (640, 20), (8, 640)])
    def test_any_size(self, tmp_path, size):
        """No size is an error."""
        path = clips.write(tmp_path / "a.mkv", clips.noise(10, frames=2, size=size), codec="ffv1", options={})
        found = measure(path, {"text": {"every": 1}}, prompt=SIGN)
        assert found.errors == {} and found.values["text_legible"] == 0

    def test_the_network_is_left_alone(self, tmp_path, monkeypatch):
        """Loads its models from the package."""
        path = written(tmp_path / "a.mp4", [picture("Grand Hotel")])
        text._reader.cache_clear()
        monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("asked the network"))
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("asked the network"))
        assert measure(path, SPEC, prompt=SIGN).values["text_legible"] == 1

    def test_the_command(self, tmp_path, capsys):
        """Takes the prompt as an option, and prints nothing that the reader says."""
        path = written(tmp_path / "a.mp4", [picture("Grand Hotel")])
        assert main([str(path), "--metrics", "text", "--prompt", SIGN, "--json"]) == 0
        printed, said = capsys.readouterr()
        assert json.loads(printed)[0]["values"]["text_legible"] == 1 and said == ""


class TestWhatIsSaid:
    def test_without_quotes(self):
        """Says, once, that there is no value where a prompt has no words in quotes that the reader knows the letters of."""
        asked = [Requested(), Requested(prompt="the potter's hands"), Requested(prompt="«ОТКРЫТО»")]
        (said,) = remarks("text", asked)
        assert said.startswith("text_legible has no value where the prompt has no words in quotes")
        assert remarks("text", [Requested(prompt=SIGN)]) == remarks("default", asked) == []

    def test_without_the_extra(self, tmp_path, monkeypatch, capsys):
        """Leaves the values out, says so once with what installs them, and measures the others."""
        complete = fingerprint("text")
        monkeypatch.setitem(sys.modules, "rapidocr", None)
        names = "text_share, text_legible, text_flicker"
        expected = f"{names} are not measured without rapidocr: pip install 'kling-sweeps[ocr]'"
        assert remarks("text", [Requested()]) == [expected]
        assert [metric.name for metric in build("text")] == [metric.name for metric in build("default")]
        assert fingerprint("text") == fingerprint("default") != complete
        assert {row.name for row in metrics.describe("text")} >= set(names.split(", "))
        path = str(clips.write(tmp_path / "a.mp4", clips.grey(frames=2)))
        with pytest.warns(UserWarning, match="not measured without rapidocr"):
            assert "text_share" not in measure(path, "text").values
        assert main([path, "--metrics", "text"]) == 0
        printed, said = capsys.readouterr()
        assert said == expected + "\n" and "text_" not in printed and "luma_mean" in printed

    @pytest.mark.slow
    def test_in_the_plan(self, run):
        """Tells before anything is bought that no word is in quotes, and why a gate's metric is not measured."""
        said = "text_legible has no value"
        code, out, err = run("metrics=text", "dry_run=true", "provider=emulator")
        assert code == 0 and out.count(said) == 1, err
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "rapidocr", None)
            asked = ("objective=text_legible", "+expect.text_legible.min=1")
            code, _, err = run("metrics=text", *asked, "dry_run=true", "provider=emulator")
        assert code == 2 and err.count("is not measured") == 2 and err.count("[ocr]") == 1
        code, out, err = run("metrics=text", f"prompt='{SIGN}'", "dry_run=true", "provider=emulator")
        assert code == 0 and said not in out, err


def test_a_reader_with_other_models_is_refused(monkeypatch):
    """Says which models are missing and what has them, instead of reading with others."""
    monkeypatch.setattr(text, "MODELS", ("PP-OCRv9_det.onnx", text.MODELS[1]))
    with pytest.raises(UnavailableError, match=r"rapidocr 3.* has no PP-OCRv9_det.onnx and .*: pip install"):
        text._reader.__wrapped__(640, 1)
