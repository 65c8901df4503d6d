"""How the camera moves, and what moves besides."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from math import degrees, hypot, inf, isnan, nan, radians, sqrt
from typing import TYPE_CHECKING

import numpy as np

from kling_sweeps.metric import NORMAL, Value, mean, ratio
from kling_sweeps.metrics.motion import FlowMetric

if TYPE_CHECKING:
    from kling_sweeps.video.frame import Frame

# In pixels of the thumbnail: how far apart the points are that are followed, and how wide a border has no reliable flow.
STEP, BORDER = 6, 16
# Of a grid of so many cells a side, how many must have texture, and by how many points.
CELLS, LEAST_CELLS, LEAST_POINTS = 4, 10, 3
# The share of points that must agree on a movement, and how far off they may be, in pixels, and beside the movement.
AGREEMENT, TOLERANCE, RELATIVE = 0.65, 0.5, 0.1
# Of Tukey's biweight (Beaton & Tukey 1974): its width in standard deviations, the least of those, and how often it is fitted at most.
WIDTH, LEAST_DEVIATION, ROUNDS = 4.685, 0.05, 10
# In pixels: a round that moves the fit by less is the last.
SETTLED = 1e-3
# In % of the diagonal: the shake of a camera in a hand, and a second, what is a movement of it.
HANDHELD, MOVING = 0.05, 1.0
# The words for a camera: for each movement those of its two directions, and the others.
WAYS = (
    ("pan right", "pan left"),
    ("tilt up", "tilt down"),
    ("zoom in", "zoom out"),
    ("roll clockwise", "roll counter-clockwise"),
)
WORDS = ("static", "handheld", *chain(*WAYS), "orbit or truck", "unclear")
# What of a prompt asks for which of the words, as people write it; a camera that goes ahead looks like one that zooms. Words that things in a
# picture are called by, too (a pan, a truck, something that moves or rises), count where they are said of a camera.
HOW = (
    r"(?:(?:very |more )?(?:slow|slowly|gentle|gently|smooth|smoothly|quick|quickly|fast|steady|steadily) )?"
)
SAID = r"\b(?:camera|drone|lens)\b[^.,;]*\b"
PHRASES = {
    rf"\bstatic\b(?! (?:electricity|noise))|{SAID}(?:is|stays|stands|remains) (?:stationary|still|fixed|locked)\b|\blocked[- ](?:off|down)\b"
    r"|\b(?:stationary|still|fixed) (?:wide |medium )?(?:camera|shot)\b|\bon a tripod\b|\btripod shot\b": (
        "static",
    ),
    r"\bhand-?held\b(?! (?:console|device|game|phone))|\bshaky (?:camera|cam|shot)\b": ("handheld",),
    r"\bpan(?:s|ning)? (?:slowly )?(?:to the )?left\b|\bleft pan\b": ("pan left",),
    r"\bpan(?:s|ning)? (?:slowly )?(?:to the )?right\b|\bright pan\b": ("pan right",),
    rf"(?:^|\b(?:slow|smooth|gentle|quick|steady) |{SAID})(?:pans?|panning)\b(?! (?:slowly )?(?:to the )?(?:left|right))"
    r"|\bpan(?:ning)? shot\b|\bpan(?:s|ning)? (?:across|over)\b": WAYS[0],
    rf"\btilt(?:s|ing)? {HOW}up\b|\bcranes? up\b|{SAID}(?:rises|rising|ascends|ascending)\b|\brising shot\b": (
        "tilt up",
    ),
    rf"\btilt(?:s|ing)? {HOW}down\b|\bcranes? down\b|{SAID}(?:descends|descending)\b": ("tilt down",),
    rf"(?:^|\b(?:slow|smooth|gentle) |{SAID})(?:tilts?|tilting)\b(?! {HOW}(?:up|down))": WAYS[1],
    rf"\b(?:zoom|push|doll)(?:s|es|y|ies|ing|ying)?[- ]{HOW}in\b|\bpush-in\b|{SAID}mov(?:es?|ing) {HOW}(?:in|closer)\b"
    rf"|{SAID}(?:forwards?|approaches)\b": ("zoom in",),
    rf"\b(?:zoom|pull|doll)(?:s|y|ies|ing|ying)?[- ]{HOW}(?:out|back)\b|{SAID}(?:backwards?|mov(?:es?|ing) away)\b": (
        "zoom out",
    ),
    r"\b(?:camera|barrel) roll\b|\broll(?:s|ing)? (?:counter-?)?clockwise\b|\bdutch (?:angle|tilt)\b": WAYS[
        3
    ],
    rf"(?:^|\b(?:aerial|slow|smooth|drone|360[- ]degree) |{SAID})orbit(?:s|ing)?\b|\borbit(?:ing)? shot\b|\barc shot\b"
    rf"|\b(?:tracking|trucking|travelling|traveling) shot\b|\btruck (?:left|right)\b|{SAID}(?:circles|circling|sideways|alongside)\b": (
        "orbit or truck",
        *WAYS[0],
    ),
}
SERIES = ("camera_pan", "camera_tilt", "camera_zoom", "camera_roll", "subject_motion")


@dataclass
class Camera(FlowMetric):
    """Measure the movement of the camera that explains most of the optical flow.

    The flow between neighbouring frames is fitted, at points that have texture, by a translation, a scale and a rotation about
    the picture's centre, with Tukey's biweight, so that what moves by itself counts little. Speeds are means over the frames. A
    camera that goes sideways looks like one that turns, and one that goes ahead like one that zooms, as far as all is equally far away.
    NaN for a step where fewer than 10 of 4 x 4 parts of the picture have texture, or fewer than 65 % of the points agree: a subject
    that fills the picture can't be told from a camera.
    """

    steps: list[complex] = field(default_factory=list, init=False, repr=False)

    version = 3
    values = (
        Value(
            "camera_pan",
            "speed of the camera to the right",
            "% of the diagonal/s",
            (-inf, inf),
            "neither",
            "similarity fitted to DIS flow with Tukey's biweight: -x of the translation x fps / diagonal",
        ),
        Value(
            "camera_tilt",
            "speed of the camera upwards",
            "% of the diagonal/s",
            (-inf, inf),
            "neither",
            "the same: y of the translation, which points down in the picture",
        ),
        Value("camera_zoom", "speed of zooming in", "%/s", (-inf, inf), "neither", "the same: scale - 1"),
        Value(
            "camera_roll",
            "speed of the camera clockwise",
            "degrees/s",
            (-inf, inf),
            "neither",
            "the same: rotation, counter-clockwise in the picture",
        ),
        Value(
            "camera_shake",
            "how far the camera is from a smooth path",
            "% of the diagonal",
            (0, inf),
            "neither",
            "1.4826 MAD of the second difference of the camera's position / sqrt(6), root mean square of x and y",
            alike_in=("rate",),
        ),
        Value(
            "subject_motion",
            "speed of what moves besides the camera",
            "% of the diagonal/s",
            (0, inf),
            "neither",
            "mean distance of the flow from the fitted movement x fps / diagonal",
        ),
    )

    def per_frame(self, frame: Frame) -> Mapping[str, float]:
        """Fit the movement since the frame before; NaN at the first frame, and where it can't be told."""
        fitted = self._moved(frame) if self.has_flow(frame) else None
        step, turn, rest = fitted or (complex(nan, nan), complex(nan, nan), nan)
        self.steps.append(step)
        seconds = frame.time_s - frame.previous.time_s if frame.previous else nan
        speeds = step.real, step.imag, 100 * turn.real, degrees(turn.imag), rest
        return {name: ratio(value, seconds) for name, value in zip(SERIES, speeds, strict=True)}

    def _moved(self, frame: Frame) -> tuple[complex, complex, float] | None:
        """Return how far the camera went, right and up in % of the diagonal, zoom and roll, and what else moved by."""
        before = frame.previous
        assert before
        thumbnail = self.thumbnail(before)
        height, width = thumbnail.shape
        border = min(BORDER, height // 6, width // 6)
        rows, columns = (np.arange(border, side - border, STEP) for side in (height, width))
        points = np.ix_(rows, columns)
        flow = self.flow(frame)[points].astype(float)
        # DIS has no flow in some places of a thin picture.
        texture = np.isfinite(flow).all(2) & (self.texture(before)[points] > 0)
        if not _is_spread(texture):
            return None
        middle = complex(width - 1, height - 1) / 2
        place = (columns + 1j * rows[:, None])[texture] - middle
        moved = (flow[..., 0] + 1j * flow[..., 1])[texture]
        a, b = _fitted(place, moved)
        distance = np.abs(moved - a - b * place)
        if np.mean(distance < TOLERANCE + RELATIVE * np.abs(moved)) < AGREEMENT:
            return None
        percent = 100 / hypot(height, width)
        # The picture goes to the left and down where the camera goes to the right and up, and turns the other way.
        return complex(-a.real, a.imag) * percent, b.conjugate(), float(distance.mean()) * percent

    def compute(self) -> dict[str, float]:
        """Average the speeds, and take the deviation from a smooth path."""
        found = {name: mean(self.series.get(name, ())) for name in SERIES}
        return {**found, "camera_shake": self._shake()}

    def _shake(self) -> float:
        bends = np.diff(np.array(self.steps, dtype=complex))
        bends = bends[~np.isnan(bends)]
        if not bends.size:
            return nan
        deviations = [NORMAL * np.median(np.abs(each - np.median(each))) for each in (bends.real, bends.imag)]
        return float(hypot(*deviations)) / sqrt(12)


def word(values: Mapping[str, float]) -> str:
    """Return what the camera does, by the values of `Camera`: one word, or a few, for a person and for a gate.

    `unclear` where one of the values is missing or NaN; `handheld` where the shake is 0.05 % of the diagonal or more; `static`
    where nothing at the picture's edge moves by 1 % of the diagonal a second: a zoom of 2 %/s and a roll of 1.1 degrees/s do that.
    Else the largest movement has the word: `pan right`, `pan left`, `tilt up`, `tilt down`, `zoom in`, `zoom out`, `roll clockwise`,
    `roll counter-clockwise`; or `orbit or truck`, where the camera goes sideways and what is left of the flow is more than half of that,
    as it is where things are at different distances.
    """
    pan, tilt, zoom, roll, shake, rest = (float(values.get(value.name, nan)) for value in Camera.values)
    if isnan(pan + tilt + zoom + roll + shake + rest):
        return "unclear"
    if shake >= HANDHELD:
        return "handheld"
    speeds = (pan, tilt, zoom / 2, 50 * radians(roll))
    (ahead, back), speed = max(zip(WAYS, speeds, strict=True), key=lambda one: abs(one[1]))
    if abs(speed) < MOVING:
        return "static"
    if speed in (pan, tilt) and rest > abs(speed) / 2:
        return "orbit or truck"
    return ahead if speed > 0 else back


def asked(text: str) -> tuple[str, ...]:
    """Return the words for a camera that satisfy a text, in any letters: of "slow dolly in" that is `zoom in`.

    All phrases of the text count, so that a handheld tracking shot may be either; () where it asks for no camera that is known.
    """
    found = (words for phrase, words in PHRASES.items() if re.search(phrase, text, re.IGNORECASE))
    return tuple(dict.fromkeys(chain(*found)))


def _is_spread(has_texture: np.ndarray) -> bool:
    """Tell whether enough parts of the picture have texture."""
    if min(has_texture.shape) < CELLS:
        return False
    starts = (np.linspace(0, side, CELLS, endpoint=False).astype(int) for side in has_texture.shape)
    points = has_texture.astype(int)
    for axis, start in enumerate(starts):
        points = np.add.reduceat(points, start, axis)
    return int(np.count_nonzero(points >= LEAST_POINTS)) >= LEAST_CELLS


def _fitted(place: np.ndarray, moved: np.ndarray) -> tuple[complex, complex]:
    """Fit moved = a + b place by iteratively reweighted least squares, x and y being real and imaginary parts; return a, b."""
    a, b = complex(_middle(moved.real), _middle(moved.imag)), 0j
    reach = float(np.abs(place).max())
    for _ in range(ROUNDS):
        distance = np.abs(moved - a - b * place)
        deviation = max(LEAST_DEVIATION, NORMAL * _middle(distance))
        weights = np.clip(1 - (distance / (WIDTH * deviation)) ** 2, 0, None) ** 2
        total = weights.sum()
        here, there = (weights @ each / total for each in (place, moved))
        arm = place - here
        before = a, b
        b = np.vdot(weights * arm, moved - there) / np.vdot(weights * arm, arm)
        a = there - b * here
        if abs(a - before[0]) + reach * abs(b - before[1]) < SETTLED:
            break
    return complex(a), complex(b)


def _middle(values: np.ndarray) -> float:
    # np.median takes five times as long on so few.
    half = len(values) // 2
    return float(np.partition(values, half)[half])
