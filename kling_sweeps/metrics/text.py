"""Text in the picture, as an optical character reader finds it: the extra `ocr`."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kling_sweeps.errors import UnavailableError
from kling_sweeps.metric import Requested, SampledMetric, Value, positive
from kling_sweeps.metrics.words import Line, difference, quoted, share_read, words
from kling_sweeps.untrusted import clean
from kling_sweeps.video import opencv as cv2

if TYPE_CHECKING:
    from kling_sweeps.video.decode import Video
    from kling_sweeps.video.frame import Frame

# How sure the reader must be of a line for it to be one, 0 to 1: 148 lines that were drawn had 0.96 or more, and balls that it took for an O at most 0.84.
SURE = 0.9
# The models that find and read lines; with others, which a later wheel may bring, `Text` has another version.
MODELS = ("PP-OCRv6_det_small.onnx", "PP-OCRv6_rec_small.onnx")
# The scripts that its model knows, as Unicode begins the names of their letters.
SCRIPTS = ("LATIN", "CJK", "HIRAGANA", "KATAKANA", "DIGIT")


@dataclass
class Text(SampledMetric):
    """Find and read the text in the picture.

    Frames are searched at `long_side` pixels and read at full size, up to 2000 pixels, by RapidOCR's PP-OCR on the processor; what is
    upside down or mirrored is not read. `text_legible` is NaN where the prompt has no word in quotes that the reader's model knows the letters of
    (Latin, Chinese, Japanese, digits), `text_flicker` where no text was read in two samples that follow each other.
    """

    version = 1
    extra = "ocr"
    needs = ("rapidocr", "onnxruntime")
    values = (
        Value(
            "text_share",
            "share of the picture that is text",
            "0..1",
            (0, 1),
            "neither",
            "area of the lines of text that PP-OCR finds and reads",
        ),
        Value(
            "text_legible",
            "share of the prompt's words in quotes that can be read",
            "0..1",
            (0, 1),
            "higher",
            "words read by PP-OCR within an edit distance (Levenshtein 1966) of a fifth of their letters",
        ),
        Value(
            "text_flicker",
            "share of the text that reads otherwise in the next sample",
            "0..1",
            (0, 1),
            "lower",
            "1 - Dice's coefficient of the pairs of letters of two samples",
            alike_in=("rate",),
        ),
    )

    every: int = 12
    long_side: int = 960
    wanted: Sequence[Line] = field(default=(), init=False, repr=False)
    read: Sequence[Line] | None = field(default=None, init=False, repr=False)
    readings: Counter[str] = field(default_factory=Counter, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("long_side", self.long_side)

    def start(self, video: Video, requested: Requested) -> None:
        """Learn which words the prompt puts in quotes."""
        self.wanted = readable(requested.prompt)

    def remark(self, requested: Requested) -> str:
        """Say where there is no word that could be read."""
        if readable(requested.prompt):
            return ""
        return "text_legible has no value where the prompt has no words in quotes, in Latin, Chinese or Japanese letters"

    def per_frame(self, frame: Frame) -> Mapping[str, float]:
        """Read the frame, and compare with what the sample before read."""
        boxes, texts = _read(frame.bgr, self.long_side)
        area = np.zeros(frame.luma.shape, np.uint8)
        cv2.fillPoly(area, boxes, 1)
        before, self.read = self.read, [words(text) for text in texts]
        self.readings.update([" / ".join(texts)] if texts else [])
        is_text = bool(before or self.read) and before is not None
        return {
            "text_share": cv2.countNonZero(area) / area.size,
            "text_legible": share_read(self.wanted, self.read) if self.wanted else nan,
            "text_flicker": difference(before or (), self.read) if is_text else nan,
        }

    def facts(self) -> dict[str, str]:
        """Tell what was read most often, with a stroke between lines; nothing where there was no text."""
        return {"text_read": clean(self.readings.most_common(1)[0][0])} if self.readings else {}


def readable(prompt: str) -> list[Line]:
    """Return the words in quotes of a prompt whose letters the reader knows, a list for each quote that has any."""
    known = ([word for word in phrase if all(map(_is_known, word))] for phrase in quoted(prompt))
    return [phrase for phrase in known if phrase]


def _is_known(letter: str) -> bool:
    return unicodedata.name(letter, "").partition(" ")[0] in SCRIPTS


def _read(bgr: np.ndarray, long_side: int) -> tuple[list[np.ndarray], list[str]]:
    """Return the corners of each line of text, 4 x 2 int32, and what it says."""
    found = _reader(long_side, cv2.getNumThreads())(bgr)
    lines = zip(found.boxes, found.txts, found.scores, strict=True) if getattr(found, "txts", None) else ()
    sure = [(box.round().astype(np.int32), text) for box, text, score in lines if score >= SURE]
    return [box for box, _ in sure], [text for _, text in sure]


@cache
def _reader(long_side: int, threads: int) -> Any:
    """Load the models that are in RapidOCR's wheel; with their paths it looks for none on the network.

    Raises UnavailableError where they are not there.
    """
    import rapidocr

    detection, recognition = (Path(rapidocr.__file__).parent / "models" / name for name in MODELS)
    if not (detection.exists() and recognition.exists()):
        raise UnavailableError(
            f"rapidocr {version('rapidocr')} has no {' and '.join(MODELS)}, by which text is read: pip install 'rapidocr==3.10.*'"
        )
    return rapidocr.RapidOCR(
        params={
            "Global.log_level": "critical",
            "Global.use_cls": False,
            "Global.text_score": SURE,
            "Det.model_path": str(detection),
            "Det.limit_type": "max",
            "Det.limit_side_len": long_side,
            "Rec.model_path": str(recognition),
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
        }
    )
