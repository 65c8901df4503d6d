"""Camera moves: where the camera is at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Pose:
    """A place of the camera: `x` and `y` in frame widths, `zoom` a factor, `roll` in degrees."""

    x: float = 0.0
    y: float = 0.0
    zoom: float = 1.0
    roll: float = 0.0


@dataclass(frozen=True)
class Move:
    """A camera move; `speed` is a factor, `side` is 1 or -1, `phase` in radians."""

    name: str
    speed: float
    side: int
    phase: float
    duration_s: float

    def at(self, time_s: float) -> Pose:
        """Return where the camera is at `time_s`."""
        return MOVES[self.name](self, time_s)

    @property
    def travel(self) -> float:
        """Return how far the camera goes sideways, in frame widths."""
        steps = [self.at(self.duration_s * step / 64).x for step in range(65)]
        return 2 * max(map(abs, steps))


def _static(move: Move, time_s: float) -> Pose:
    del move, time_s
    return Pose()


def _sideways(widths_per_s: float) -> Callable[[Move, float], Pose]:
    def pose(move: Move, time_s: float) -> Pose:
        centred = time_s - move.duration_s / 2
        return Pose(x=move.side * widths_per_s * move.speed * centred)

    return pose


def _push(move: Move, time_s: float) -> Pose:
    return Pose(zoom=math.exp(0.055 * move.speed * time_s))


def _pull(move: Move, time_s: float) -> Pose:
    return Pose(zoom=math.exp(0.055 * move.speed * (move.duration_s - time_s)))


def _orbit(move: Move, time_s: float) -> Pose:
    turn = 0.16 * move.speed * (time_s - move.duration_s / 2)
    return Pose(x=move.side * 0.5 * math.sin(turn))


def _crane(move: Move, time_s: float) -> Pose:
    share = time_s / move.duration_s
    rise = 0.03 * move.speed * (0.5 - share)
    return Pose(y=rise, zoom=1.06 + 0.05 * move.speed * (1 - share))


def _handheld(move: Move, time_s: float) -> Pose:
    def sway(frequency: float, offset: float) -> float:
        turn = math.tau * time_s * move.speed
        return math.sin(turn * frequency + move.phase + offset) + 0.4 * math.sin(
            turn * frequency * 2.7 + offset
        )

    return Pose(x=0.009 * sway(0.55, 0.0), y=0.007 * sway(0.7, 2.0), zoom=1.06, roll=0.5 * sway(0.4, 4.0))


MOVES: dict[str, Callable[[Move, float], Pose]] = {
    "static": _static,
    "drift": _sideways(0.022),
    "pan": _sideways(0.09),
    "push": _push,
    "pull": _pull,
    "orbit": _orbit,
    "crane": _crane,
    "handheld": _handheld,
}
