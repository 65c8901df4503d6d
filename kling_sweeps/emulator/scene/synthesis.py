"""Synthetic videos: a scene that the prompt describes, as a real H.264 file.

What is rendered is a function of the arguments and the request id alone: the same id gives the same
frames, another id gives another sample of the same cell. What the arguments do, in the mean over
samples (`look.py` has the numbers):

- `cfg_scale` from 0 to 1 raises contrast (luma's standard deviation), saturation and sharpness
  (variance of the Laplacian), and lowers motion (of the camera and of the subject to half).
- The prompt decides the place (mountains, sea, desert, forest, city, room), the light (night, golden
  hour, dawn, overcast, day: a night is darker, an overcast day less saturated than a clear one), the
  subject, the camera (static, handheld, orbit, push, pull, crane, pan, otherwise a slow drift: a pan
  moves most, a static camera leaves only subject and clouds moving) and the subject's speed (slow
  halves it, words such as fast or running double it).
- A negative prompt that names blur gives a sharper video; one that names noise or low quality gives
  less than half of the grain; one that names distortion takes out a wobble of the camera.

A picture that is given opens the video: its first frame is the picture, which gives way to the scene in half a second.

Each sample differs in layout, in where the subject starts, and by a few per cent in contrast,
saturation, exposure, sharpness and speed: less than `cfg_scale` does, and enough that one sample of
each value can mislead.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .camera import Move, Pose
from .canvas import Canvas, Layer
from .encoding import write_h264
from .grading import focus, grade
from .landscape import Plate, Stage, plates
from .look import read_look
from .overlay import grains, mark
from .palette import LIGHTS, PLACES, lit
from .picture import covering, open_with
from .subject import SUBJECTS, Sprite

SUBJECT_DEPTH = 0.7
WOBBLE_ROOM = 0.02


def render(
    path: Path,
    arguments: Mapping[str, Any],
    request_id: str,
    size: tuple[int, int],
    fps: int,
    before_each: Callable[[], None] = lambda: None,
    picture: np.ndarray | None = None,
) -> None:
    """Write the video of a request to `path`, `size` (width, height) pixels large; it begins with `picture`.

    `before_each` is called before each frame, and ends the rendering by raising.
    """
    scene = Scene(arguments, request_id, size, picture)
    frames = round(scene.duration_s * fps)
    write_h264(path, scene.frames(frames, fps, before_each), size, fps)


def seed_of(arguments: Mapping[str, Any], request_id: str) -> int:
    """Return the seed of a request's sample."""
    text = json.dumps([dict(arguments), request_id], sort_keys=True, ensure_ascii=False)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


@dataclass(frozen=True)
class Backdrop:
    """A layer of the scene: its depth, the even row it begins at, its own drift (pixels a second)."""

    layer: Layer
    depth: float
    top: int
    drift: float


class Scene:
    """One request's scene: painted once, then moved frame by frame."""

    def __init__(
        self,
        arguments: Mapping[str, Any],
        request_id: str,
        size: tuple[int, int],
        picture: np.ndarray | None = None,
    ) -> None:
        self.size = size
        self.opening = None if picture is None else covering(picture, size)
        self.duration_s = float(arguments.get("duration", "5"))
        self.rng = np.random.default_rng(seed_of(arguments, request_id))
        self.look = read_look(arguments, self.rng)
        self.light = LIGHTS[self.look.light]
        side = int(self.rng.choice([-1, 1]))
        self.phase = self.rng.uniform(0, math.tau)
        self.move = Move(self.look.camera, self.look.camera_speed, side, self.phase, self.duration_s)
        self.backdrops = [self._backdrop(plate) for plate in self._plates()]
        self.sprite, self.subject = self._cast()
        pixels = self.subject.size[0]
        self.shadow = _blot(pixels, (0.02, 0.02, 0.04), 0.55, 0.30)
        self.glow = _blot(pixels * 2, self.light.sun, 0.38, 1.0)
        self.home = size[0] * (0.5 + self.rng.uniform(-0.08, 0.08))
        self.grains = grains(self.rng, size, self.look.grain)
        self.mark = mark(size)

    def frames(self, count: int, fps: int, before_each: Callable[[], None]) -> Iterator[np.ndarray]:
        """Yield `count` frames as packed planes."""
        for index in range(count):
            before_each()
            yield self.frame(index, fps)

    def frame(self, index: int, fps: int) -> np.ndarray:
        """Return one frame as packed planes."""
        time_s = index / fps
        canvas, pose = Canvas(*self.size), self._pose(time_s)
        for backdrop in self.backdrops:
            canvas.slide(backdrop.layer, self._left(backdrop, pose, time_s), backdrop.top)
        self._paint_subject(canvas, pose, time_s)
        if pose != Pose(x=pose.x):
            canvas.transform(self._aim(pose))
        grain = self.grains[index % len(self.grains)]
        cv2.addWeighted(canvas.luma, 1, grain, 1, -128, dst=canvas.luma)
        if self.opening:
            open_with(canvas, self.opening, time_s)
        (width, height), (mark_width, mark_height) = self.size, self.mark.size
        canvas.stamp(self.mark, (width - mark_width / 2, height - mark_height / 2))
        return canvas.planes()

    def _plates(self) -> Iterator[Plate]:
        width, height = self.size
        travel = (self.move.travel + WOBBLE_ROOM) * width
        return plates(Stage(width, height, travel, self.look.place, self.light, self.rng), self.duration_s)

    def _backdrop(self, plate: Plate) -> Backdrop:
        lines = min(self.size) / (2 if plate.soft else 1)
        layer = self._layer(plate.colours, plate.alpha, lines, plate.soft)
        return Backdrop(layer, plate.depth, int(plate.top) // 2 * 2, plate.drift)

    def _layer(
        self, colours: np.ndarray, alpha: np.ndarray | None, lines: float, soft: bool = False
    ) -> Layer:
        graded = focus(grade(np.ascontiguousarray(colours, np.float32), self.look), self.look, lines)
        return Layer.of(
            graded, None if alpha is None else np.clip(focus(alpha, self.look, lines), 0, 1), soft
        )

    def _left(self, backdrop: Backdrop, pose: Pose, time_s: float) -> float:
        """Return the column of a backdrop that stands at the left edge of the frame."""
        centred = (backdrop.layer.size[0] - self.size[0]) / 2
        drift = backdrop.drift * (time_s - self.duration_s / 2)
        last = backdrop.layer.size[0] - self.size[0] - 4
        return min(max(0.0, centred + pose.x * self.size[0] * backdrop.depth + drift), last)

    def _pose(self, time_s: float) -> Pose:
        """Return the camera's place, with the wobble of a video that nobody told not to distort."""
        pose = self.move.at(time_s)
        wobble = self.look.wobble / 720
        tremble = wobble * math.sin(math.tau * 3.1 * time_s + self.phase)
        return Pose(
            pose.x + tremble,
            pose.y,
            pose.zoom * (1 + wobble + tremble / 2),
            pose.roll + 30 * tremble,
        )

    def _aim(self, pose: Pose) -> np.ndarray:
        """Return the matrix of what a pose does to the whole frame: zoom, roll, up and down."""
        width, height = self.size
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), pose.roll, pose.zoom)
        matrix[1, 2] -= pose.y * width
        return matrix

    def _cast(self) -> tuple[Sprite, Layer]:
        accent = lit(PLACES[self.look.place][2], self.light, self.rng)
        red, green, blue = (min(1.0, 0.25 + part) for part in accent)
        sprite = SUBJECTS[self.look.subject]((red, green, blue), self.rng)
        side = int(sprite.size * min(self.size)) // 2 * 2
        colours, alpha = (
            cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA)
            for part in (sprite.colours, sprite.alpha)
        )
        return sprite, self._layer(colours, alpha, min(self.size))

    def _paint_subject(self, canvas: Canvas, pose: Pose, time_s: float) -> None:
        sprite, short = self.sprite, min(self.size)
        swing = math.sin(0.55 * self.look.subject_speed * time_s + self.phase)
        bob = math.sin(1.9 * self.look.subject_speed * time_s + 2 * self.phase)
        x = self.home + swing * sprite.swing * short / 2 - pose.x * self.size[0] * SUBJECT_DEPTH
        rest = sprite.rest * self.size[1]
        y = rest - abs(bob) * sprite.bob * short
        if sprite.shadow:
            canvas.stamp(self.shadow, (x, rest + sprite.size * short * 0.46))
        canvas.stamp(self.glow, (x, y))
        canvas.paint(self.subject, _placing(self.subject, (x, y), sprite.turn * (swing + 0.15 * bob)))


def _placing(layer: Layer, centre: tuple[float, float], turn: float) -> np.ndarray:
    """Return the matrix that puts a layer's centre at `centre`, turned by `turn` degrees."""
    width, height = layer.size
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), -turn, 1)
    matrix[:, 2] += np.subtract(centre, (width / 2, height / 2))
    return matrix


def _blot(pixels: int, colour: tuple[float, float, float], strength: float, flatness: float) -> Layer:
    """Return a soft ellipse, `flatness` times as high as it is wide."""
    height = max(4, int(pixels * flatness) // 2 * 2)
    ys = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    xs = np.linspace(-1, 1, pixels, dtype=np.float32)[None, :]
    alpha = np.clip(1 - np.sqrt(xs * xs + ys * ys), 0, 1) ** 1.5 * strength
    return Layer.of(np.broadcast_to(np.asarray(colour, np.float32), (height, pixels, 3)), alpha)
