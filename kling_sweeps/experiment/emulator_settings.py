"""What an emulator is started with."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isclose
from pathlib import Path

SMALLEST_SIDE_PX = 64
WIDE = 16 / 9


@dataclass(frozen=True)
class JudgeSettings:
    """How far the emulator's answers about videos are from what is to be seen, checked when made.

    `noise` is 0 for a judge that makes no errors, 1 for one of ordinary ones. `position_bias` is the share of decided
    pairs that the first of two equal videos wins, `length_bias` the one that the longer of two otherwise equal ones
    wins where it is twice as long; 0.5 is none. Raises ValueError.
    """

    noise: float = 1.0
    position_bias: float = 0.6
    length_bias: float = 0.6

    def __post_init__(self) -> None:
        if not self.noise >= 0:
            raise ValueError(f"judge.noise is {self.noise}; it must be 0 or more")
        for name in ("position_bias", "length_bias"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"judge.{name} is {getattr(self, name)}; it must lie between 0 and 1")


@dataclass(frozen=True)
class EmulatorSettings:
    """The settings of one emulator, checked when made.

    `width` and `height` are those of a 16:9 video in pixels: 9:16 swaps them and 1:1 is the
    shorter one squared. `latency_s` is the least time that a generation takes, in seconds.
    `judge` says how it answers about videos. `history_lag_s` is how long after its end a request appears in the request history. With a `video`, a file, nothing is rendered: it
    is what every request gets. `models` are folders of
    model files, or OpenAPI documents, besides the package's own. With a `key`, only that key is accepted; without one, any is. Raises ValueError.
    """

    slots: int = 2
    latency_s: float = 0.2
    width: int = 1280
    height: int = 720
    fps: int = 24
    judge: JudgeSettings = JudgeSettings()
    state_dir: Path | None = None
    video: Path | None = None
    history_lag_s: float = 0.0
    models: tuple[Path, ...] = ()
    key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise ValueError(f"slots is {self.slots}; at least 1 request must be able to run")
        if not 1 <= self.fps <= 120:
            raise ValueError(f"fps is {self.fps}; it must lie between 1 and 120")
        if min(self.latency_s, self.history_lag_s) < 0:
            raise ValueError("latency and history lag are seconds, 0 or more")
        for side in (self.width, self.height):
            if side < SMALLEST_SIDE_PX or side % 2:
                raise ValueError(f"a side of {side} px; it must be even and {SMALLEST_SIDE_PX} or more")

    def frame_size(self, ratio: float) -> tuple[int, int]:
        """Return (width, height) in pixels of a video of a ratio of width to height; the shorter side is the same."""
        long, short = max(self.width, self.height), min(self.width, self.height)
        stretch = max(ratio, 1 / ratio)
        side = long if isclose(stretch, WIDE) else 2 * round(short * stretch / 2)
        return (side, short) if ratio >= 1 else (short, side)

    def flags(self) -> list[str]:
        """Return these settings as flags of `python -m kling_sweeps.emulator`."""
        flags = [f"--slots={self.slots}", f"--latency={self.latency_s}", f"--fps={self.fps}"]
        flags += [f"--size={self.width}x{self.height}", f"--history-lag={self.history_lag_s}"]
        flags += [f"--judge-noise={self.judge.noise}", f"--position-bias={self.judge.position_bias}"]
        flags += [f"--length-bias={self.judge.length_bias}"]
        flags += [f"--models={folder}" for folder in self.models]
        if self.state_dir is not None:
            flags.append(f"--state={self.state_dir}")
        if self.video is not None:
            flags.append(f"--video={self.video}")
        if self.key is not None:
            flags.append(f"--key={self.key}")
        return flags
