"""What each statistic means: how it answers to changes of a known dose, and to which it doesn't.

    python benchmarks/meaning.py                     on scenes that the emulator paints
    python benchmarks/meaning.py FILE [FILE ...]     on every shot of these files, too
    python benchmarks/meaning.py --csv FILE          and keep every value
    python benchmarks/meaning.py --metrics camera,color_drift     of these metrics alone

Each shot is changed by rising doses: blurred, made noisy, coded harder, darkened, doubled, cut and so on. A statistic *rises* with a change
where it does so, dose by dose, on most shots, *falls* where it falls on most, and *stays* where no dose changes it
by more than a tenth of itself (or of what it is below its most) or a twentieth of what tells the shots apart. What does one thing on one shot and another on the next is
*mixed*: there it can't be read. A change that makes a video worse and a statistic better is a *trap*; a statistic with one has no better and no worse.

The table has a row a statistic; with what is not named in it, the statistic stays. Shots are 1.5 s of at most 640 pixels; nine of them
take nine minutes of a core.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
import pandas as pd

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from kling_sweeps.metric import Value  # noqa: E402
from kling_sweeps.metrics import METRICS, declared, measure, specification  # noqa: E402
from kling_sweeps.video.decode import frames  # noqa: E402

FPS, FRAMES, WIDTH, CRF = 24, 36, 640, 14
SAME, APART = 0.10, 0.05
# What must agree to be called one thing.
MOST = 0.75
SCENES = (
    "A skater crosses a sunlit city square, static wide shot",
    "A red fox in a forest at dawn, slow pan",
)

Planes = tuple[np.ndarray, np.ndarray, np.ndarray]
Shot = list[Planes]


@dataclass(frozen=True)
class Change:
    """What is done to a shot, in rising doses; `is_worse` where nobody would want it done to a video."""

    name: str
    doses: Sequence[float]
    make: Callable[[Shot, float], Shot]
    is_worse: bool = False
    fps: Callable[[float], float] = lambda dose: FPS
    crf: Callable[[float], float] = lambda dose: CRF


def on_luma(shot: Shot, change: Callable[[np.ndarray, int], np.ndarray]) -> Shot:
    """Change Y of each picture, told as float32 above black, with its number."""
    changed = ((change(y.astype(np.float32) - 16, index), u, v) for index, (y, u, v) in enumerate(shot))
    return [((16 + y).clip(16, 235).round().astype(np.uint8), u, v) for y, u, v in changed]


def on_planes(shot: Shot, change: Callable[[np.ndarray, int], np.ndarray]) -> Shot:
    """Change each plane of each picture, with the picture's number."""
    return [tuple(change(plane, index) for plane in planes) for index, planes in enumerate(shot)]


def blurred(shot: Shot, sigma: float) -> Shot:
    """Blur by so many pixels of 480 lines."""
    size = sigma * min(shot[0][0].shape) / 480
    return on_luma(shot, lambda y, _: cv2.GaussianBlur(y, (0, 0), size))


def noisy(shot: Shot, sigma: float) -> Shot:
    random = np.random.default_rng(0)
    return on_luma(shot, lambda y, _: y + random.normal(0, sigma, y.shape))


def flickering(shot: Shot, percent: float) -> Shot:
    random = np.random.default_rng(0)
    return on_luma(shot, lambda y, _: y * (1 + percent / 100 * random.normal()))


def boiling(shot: Shot, percent: float) -> Shot:
    random = np.random.default_rng(0)

    def change(y: np.ndarray, _: int) -> np.ndarray:
        light = random.normal(0, percent / 100, (6, 10)).astype(np.float32)
        return y * (1 + cv2.resize(light, y.shape[::-1], interpolation=cv2.INTER_CUBIC))

    return on_luma(shot, change)


def doubled(shot: Shot, share: float) -> Shot:
    """Show the one before in place of so many of the pictures, evenly."""
    each = round(1 / share)
    return [shot[index - 1] if index % each == each - 1 else planes for index, planes in enumerate(shot)]


def dropped(shot: Shot, share: float) -> Shot:
    """Leave so many of the pictures out, evenly: the movement jumps."""
    each = round(1 / share)
    return [planes for index, planes in enumerate(shot) if index % each != each - 1]


def frozen(shot: Shot, share: float) -> Shot:
    last = round(len(shot) * (1 - share))
    return [*shot[:last], *[shot[last - 1]] * (len(shot) - last)]


def smaller(shot: Shot, factor: float) -> Shot:
    def change(plane: np.ndarray, _: int) -> np.ndarray:
        half = plane.shape != shot[0][0].shape
        even = [
            round(side * (2 if half else 1) / factor / 2) * 2 // (2 if half else 1)
            for side in plane.shape[::-1]
        ]
        return cv2.resize(plane, even, interpolation=cv2.INTER_AREA)

    return on_planes(shot, change)


def barred(shot: Shot, share: float) -> Shot:
    black = [16, 128, 128]

    def change(planes: Planes) -> Planes:
        found = []
        for plane, level in zip(planes, black, strict=True):
            rows = round(len(shot[0][1]) * share) * (len(plane) // len(shot[0][1]))
            framed = plane.copy()
            framed[:rows] = framed[len(framed) - rows :] = level
            found.append(framed)
        return tuple(found)

    return [change(planes) for planes in shot]


def grey(shot: Shot, share: float) -> Shot:
    return [
        (y, *((128 + (1 - share) * (c - 128.0)).round().astype(np.uint8) for c in (u, v))) for y, u, v in shot
    ]


def cut(shot: Shot, times: float) -> Shot:
    """Cut to the shot, upside down and mirrored, and back."""
    length = len(shot) / (times + 1)
    return on_planes(shot, lambda plane, n: plane[::-1, ::-1] if int(n / length) % 2 else plane)


def flashed(shot: Shot, frames: float) -> Shot:
    return on_luma(shot, lambda y, n: y * 0.2 + 200 if 12 <= n < 12 + frames else y)


def faded(shot: Shot, seconds: float) -> Shot:
    return on_luma(shot, lambda y, n: y * min(1.0, n / (seconds * FPS)))


def moved(shot: Shot, matrix: Callable[[int, tuple[int, int]], np.ndarray]) -> Shot:
    """Let a camera move before the first picture, shown at four fifths of its size."""

    def change(plane: np.ndarray, index: int) -> np.ndarray:
        height, width = plane.shape
        scale = width / shot[0][0].shape[1]
        middle = np.array([width, height]) / 2
        view = matrix(index, (width, height))
        view = np.column_stack([1.25 * view[:, :2], view[:, 2] * scale])
        view[:, 2] += middle - view[:, :2] @ middle
        return cv2.warpAffine(
            plane, view, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
        )

    return on_planes([shot[0]] * len(shot), change)


def panned(shot: Shot, pixels: float) -> Shot:
    return moved(shot, lambda n, _: np.array([[1, 0, -pixels * (n - FRAMES / 2)], [0, 1, 0]], float))


def zoomed(shot: Shot, percent: float) -> Shot:
    """Zoom in by so much a second."""
    return moved(
        shot, lambda n, _: np.hstack([np.eye(2) * (1 + percent / 100) ** (n / FPS), np.zeros((2, 1))])
    )


def shaken(shot: Shot, pixels: float) -> Shot:
    path = np.random.default_rng(0).normal(0, pixels, (len(shot), 2, 1))
    return moved(shot, lambda n, _: np.hstack([np.eye(2), path[n]]))


CHANGES = (
    Change("blur", (0.5, 1, 2, 4), blurred, True),
    Change("noise", (2, 5, 10), noisy, True),
    Change("coding", (24, 32, 40), lambda shot, _: shot, True, crf=lambda dose: dose),
    Change("darker", (0.2, 0.5, 0.8), lambda shot, dose: on_luma(shot, lambda y, _: y * (1 - dose))),
    Change(
        "flatter",
        (0.2, 0.5, 0.7),
        lambda shot, dose: on_luma(shot, lambda y, _: 110 + (y - 110) * (1 - dose)),
        True,
    ),
    Change("grey", (0.5, 1), grey),
    Change("flicker", (1, 2, 5), flickering, True),
    Change("boiling", (1, 2, 4), boiling, True),
    Change("doubled", (1 / 8, 1 / 4, 1 / 2), doubled, True),
    Change("dropped", (1 / 8, 1 / 4, 1 / 2), dropped, True),
    Change("frozen", (0.4, 0.6, 0.8), frozen, True),
    Change("smaller", (4 / 3, 2), smaller),
    Change("rate / 2", (2,), lambda shot, _: shot[::2], fps=lambda dose: FPS / dose),
    Change("bars", (0.05, 0.1, 0.15), barred, True),
    Change("cuts", (1, 2, 3), cut, True),
    Change("flash", (1, 2, 3), flashed, True),
    Change("fade in", (0.25, 0.5, 1), faded),
    Change("pan", (1, 3, 6), panned),
    Change("zoom", (4, 12, 24), zoomed),
    Change("shake", (0.5, 1, 2, 4), shaken),
)


# What moves a camera before a picture that is held still.
CAMERAS = ("pan", "zoom", "shake")


def write(path: Path, shot: Shot, fps: float, crf: float) -> Path:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=round(fps), options={"crf": f"{crf:g}", "preset": "fast"})
        stream.height, stream.width = shot[0][0].shape
        stream.pix_fmt = "yuv420p"
        for planes in shot:
            frame = av.VideoFrame(stream.width, stream.height, "yuv420p")
            for target, plane in zip(frame.planes, planes, strict=True):
                rows = np.asarray(memoryview(target)).reshape(-1, target.line_size)
                rows[: plane.shape[0], : plane.shape[1]] = plane
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def shots(path: Path) -> Iterable[Shot]:
    """Yield the beginning of each shot of a file that lasts a second, as large as a shot is here."""
    told = measure(path, {"cuts": {}}).frames["structure"].to_numpy()
    begins = [0, *np.flatnonzero(told < 0.35), len(told)]
    pictures: Shot = [_resized(frame.planes) for frame in frames(path)]
    for begin, end in itertools.pairwise(begins):
        if end - begin >= FPS:
            yield pictures[begin : min(end, begin + FRAMES)]


def _resized(planes: Planes) -> Planes:
    height, width = planes[0].shape
    factor = min(1.0, WIDTH / max(height, width))
    half = [round(side * factor / 2) for side in (width, height)]
    sizes = ([2 * side for side in half], half, half)
    return tuple(
        cv2.resize(plane, size, interpolation=cv2.INTER_AREA)
        for plane, size in zip(planes, sizes, strict=True)
    )


def painted(folder: Path) -> Iterable[Shot]:
    """Yield scenes of the emulator."""
    from kling_sweeps.emulator.scene.synthesis import render

    for number, prompt in enumerate(SCENES):
        path = folder / f"painted{number}.mp4"
        render(path, {"prompt": prompt, "duration": "2"}, "meaning", (640, 360), FPS)
        yield from shots(path)


def measured(
    given: Sequence[Shot],
    folder: Path,
    changes: Sequence[Change] = CHANGES,
    only: Sequence[str] = (),
) -> pd.DataFrame:
    """Measure every shot under every change: a row a shot, change, dose and statistic; dose 0 is the shot itself."""
    # Often enough for a shot of 36 frames, and not on every frame, where that takes long.
    spec = {
        name: {**(settings or {}), **({"every": 3} if "every" in (settings or {}) else {})}
        for name, settings in specification("full").items()
        if name in (only or METRICS)
    }
    still = Change("pan", (0,), panned)
    rows = []
    for number, shot in enumerate(given):
        plain = [Change("", (0,), lambda shot, _: shot), still]
        for change in (*plain, *changes):
            for dose in change.doses:
                path = write(folder / "a.mp4", change.make(shot, dose), change.fps(dose), change.crf(dose))
                values = measure(path, spec).values
                rows += [(number, change.name, dose, name, value) for name, value in values.items()]
        print(f"shot {number + 1} of {len(given)}", file=sys.stderr, flush=True)
    return pd.DataFrame(rows, columns=["shot", "change", "dose", "statistic", "value"])


def verdicts(table: pd.DataFrame, changes: Sequence[Change] = CHANGES) -> pd.DataFrame:
    """Say of each statistic and change what most shots say: a row a statistic, a column a change."""
    plain = table[table["change"] == ""]
    spread = plain.groupby("statistic")["value"].std().fillna(0.0)
    found = {}
    for change in changes:
        base = table[(table["change"] == "pan") & (table["dose"] == 0)] if change.name in CAMERAS else plain
        rows = table[(table["change"] == change.name) & (table["dose"] != 0)]
        for name, own in rows.groupby("statistic"):
            begins = base[base["statistic"] == name].set_index("shot")["value"]
            told = [
                _told(
                    begins[shot], one.sort_values("dose")["value"].to_numpy(), spread[name], declared()[name]
                )
                for shot, one in own.groupby("shot")
            ]
            most = max(set(told), key=told.count)
            found[name, change.name] = most if told.count(most) >= MOST * len(told) else "?"
    wide = pd.Series(found).unstack()
    order = [name for name in declared() if name in wide.index]
    return wide.loc[order, [change.name for change in changes]]


def _told(begin: float, values: np.ndarray, spread: float, value: Value) -> str:
    """Say what a shot's doses do: + rises, - falls, . stays, ? neither, n can't be measured."""
    if np.isnan(begin) or np.isnan(values).any():
        return "n"
    near = min(abs(begin), abs(value.range[1] - begin))
    room = max(SAME * near, APART * spread, 1e-9)
    steps = np.diff([begin, *values])
    if (np.abs(values - begin) <= room).all():
        return "."
    for sign, word in ((1, "+"), (-1, "-")):
        if sign * (values[-1] - begin) > room and (sign * steps >= -room).all():
            return word
    return "?"


def traps(wide: pd.DataFrame) -> dict[str, list[str]]:
    """Give for each statistic that has a better the changes for the worse that look like one for the better."""
    worse = [change.name for change in CHANGES if change.is_worse and change.name in wide]
    signs = {"higher": "+", "lower": "-"}
    return {
        str(name): [change for change in worse if row[change] == signs.get(declared()[name].direction)]
        for name, row in wide.iterrows()
    }


def main() -> None:
    """Print the table, and what follows from it for each statistic."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--csv", type=Path, help="write every value to this file")
    parser.add_argument(
        "--metrics", type=lambda text: text.split(","), metavar="NAME,...", help="these alone"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        given = [*painted(Path(folder)), *(shot for path in options.videos for shot in shots(path))]
        table = measured(given, Path(folder), only=options.metrics or ())
    if options.csv:
        table.to_csv(options.csv, index=False)
    print_verdicts(table)


def print_verdicts(table: pd.DataFrame) -> None:
    """Print what each statistic does, and which is misled."""
    wide = verdicts(table)
    found = traps(wide)
    print(f"{table['shot'].nunique()} shots\n")
    print("| statistic | rises with | falls with | is mixed under | can't be measured under |")
    print("| --- | --- | --- | --- | --- |")
    for name, row in wide.iterrows():
        told = (", ".join(change for change in wide.columns if row[change] == sign) for sign in "+-?n")
        print(f"| `{name}` | {' | '.join(told)} |")
    print()
    for name, changes in found.items():
        if changes:
            print(
                f"A trap: {declared()[name].direction} {name} is called better, and so does {', '.join(changes)}."
            )


if __name__ == "__main__":
    main()
