"""One decoded frame and the planes that metrics share."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from functools import cached_property, lru_cache
from math import floor, log2, nan
from typing import Any, NamedTuple, TypeVar

import av
import numpy as np
from av.filter import Graph
from av.video.reformatter import ColorRange, Colorspace

from kling_sweeps.video import opencv as cv2

Shared = TypeVar("Shared")

PLANAR = re.compile(r"yuvj?4(20|22|44)p(\d+le)?")

# Kr and Kb of each matrix. Anything else, an untagged file above all, is taken for BT.601, as FFmpeg
# and OpenCV take it: players guess BT.709 for HD, but then no number would agree with those tools'.
BT601 = (0.299, 0.114)
LUMA_WEIGHTS: dict[int, tuple[float, float]] = {
    Colorspace.ITU709: (0.2126, 0.0722),
    Colorspace.FCC: (0.30, 0.11),
    Colorspace.SMPTE240M: (0.212, 0.087),
    Colorspace.BT2020: (0.2627, 0.0593),
}


class Window(NamedTuple):
    """The part of a picture between its bars, and what share of the picture the bars take.

    Rows `top` to before `bottom`, columns `left` to before `right`, of Y, upright.
    """

    top: int
    bottom: int
    left: int
    right: int
    bars_share: float


class Converter:
    """Convert pictures to BGR by their own colour tags, into buffers that are used again and again.

    `VideoFrame.reformat` takes new memory for each, whose page faults cost 3 ms a frame of 1080p.
    """

    def __init__(self) -> None:
        self._graphs: dict[Hashable, Graph] = {}

    def bgr(self, picture: av.VideoFrame) -> av.VideoFrame:
        """Give the picture as bgr24."""
        size = picture.width, picture.height
        key = (size, picture.format.name, picture.colorspace, picture.color_range)
        if key not in self._graphs:
            self._graphs[key] = _graph(picture)
        graph = self._graphs[key]
        graph.push(picture)
        converted = graph.pull()
        assert isinstance(converted, av.VideoFrame)
        return converted


class Frame:
    """A frame as it is seen: upright, its planes viewed in place, what is derived prepared once.

    `index` counts from 0, `time_s` is in seconds from the first frame, and `previous` is the frame
    before it (None at the first, and where the size changes), which itself has none. A frame that is
    kept keeps its planes. `window` is the part of the picture that it shows, None where that is all.
    """

    def __init__(
        self,
        picture: av.VideoFrame,
        *,
        index: int = 0,
        time_s: float = 0.0,
        converter: Converter | None = None,
    ) -> None:
        self.index, self.time_s = index, time_s
        self.previous: Frame | None = None
        self.window: Window | None = None
        self._whole: Frame | None = None
        self._converter = converter or Converter()
        self._turns = (picture.rotation // 90) % 4
        self._source, self._picture = picture, _planar(picture)
        self._made: dict[Hashable, Any] = {}

    def inside(self, window: Window) -> Frame:
        """Give the part of the frame within a window, which must be of a picture of its size."""
        part = Frame(self._source, index=self.index, time_s=self.time_s, converter=self._converter)
        part.window, part._whole = window, self
        return part

    @property
    def whole(self) -> Frame:
        """Give the frame with the bars that are left out of it: itself where there are none."""
        return self._whole or self

    @property
    def height(self) -> int:
        """Give the height in pixels, upright."""
        return int(self.luma.shape[0])

    @property
    def width(self) -> int:
        """Give the width in pixels as stored, upright: pixels may be shown wider than high."""
        return int(self.luma.shape[1])

    @cached_property
    def luma(self) -> np.ndarray:
        """View Y as stored: HxW uint8, `black` to `white`; more than 8 bits are rounded to 8."""
        return self._plane(0)

    @cached_property
    def chroma(self) -> tuple[np.ndarray, np.ndarray]:
        """View U and V as stored, subsampled as the file has them: uint8, 128 is grey."""
        return self._plane(1), self._plane(2)

    @property
    def planes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """View Y, U and V as stored."""
        return self.luma, *self.chroma

    @cached_property
    def luma_counts(self) -> np.ndarray:
        """Count the pixels of each stored Y: 256 float64, exact."""
        counts: np.ndarray = cv2.calcHist([self.luma], [0], None, [256], [0, 256])
        return counts.ravel().astype(np.float64)

    @cached_property
    def luma_mean(self) -> float:
        """Average Y as stored."""
        return float(cv2.mean(self.luma)[0])

    @property
    def full_range(self) -> bool:
        """Say whether Y goes from 0 to 255 rather than from 16 to 235."""
        picture = self._picture
        return picture.format.name.startswith("yuvj") or picture.color_range == ColorRange.JPEG

    @property
    def black(self) -> int:
        """Give the stored Y of black: 0 in full range, 16 in limited range."""
        return 0 if self.full_range else 16

    @property
    def white(self) -> int:
        """Give the stored Y of white: 255 in full range, 235 in limited range."""
        return 255 if self.full_range else 235

    @property
    def gain(self) -> float:
        """Give what a difference of stored Y is multiplied with to be one of 0..255 levels."""
        return 255 / (self.white - self.black)

    @property
    def to_bgr(self) -> np.ndarray:
        """Give the 3x4 matrix from (Y, U, V, 1) as stored to B, G, R in 0..255, by the file's tags."""
        return _to_bgr(self._picture.colorspace, self.full_range)

    @cached_property
    def bgr(self) -> np.ndarray:
        """Convert to HxWx3 uint8 as `cv2.VideoCapture.read` does, bit for bit."""
        picture = self._converter.bgr(self._source)
        return self._shown(view(picture.planes[0], channels=3))

    @cached_property
    def bgr_difference(self) -> float:
        """Average abs(BGR - BGR of the frame before), in 0..255; NaN at the first frame."""
        if self.previous is None:
            return nan
        return float(cv2.norm(self.bgr, self.previous.bgr, cv2.NORM_L1)) / self.bgr.size

    def luma_scaled(self, factor: float) -> np.ndarray:
        """Resize Y as stored by `factor`: uint8, averaged where it shrinks."""
        return self._resized(0, self._size(factor))

    def bgr_scaled(self, factor: float) -> np.ndarray:
        """Resize to BGR by `factor`: hxwx3 uint8, averaged where it shrinks."""
        size = self._size(factor)

        def make() -> np.ndarray:
            yuv = cv2.merge([self._resized(plane, size) for plane in range(3)])
            bgr: np.ndarray = cv2.transform(yuv, self.to_bgr)
            return bgr

        return self.once(("bgr", size), make)

    def pixels(self, long_side: int = 320) -> np.ndarray:
        """Pick BGR pixels on a grid, at least `long_side` along the longer side: hxwx3 uint8.

        Nothing is averaged, so that what depends on single pixels keeps its full-size mean. The grid is
        as regular as the size allows, up to a pixel.
        """

        def make() -> np.ndarray:
            step = max(1, max(self.width, self.height) // long_side)
            size = -(-self.width // step), -(-self.height // step)
            yuv = [cv2.resize(plane, size, interpolation=cv2.INTER_NEAREST) for plane in self.planes]
            bgr: np.ndarray = cv2.transform(cv2.merge(yuv), self.to_bgr)
            return bgr

        return self.once(("pixels", long_side), make)

    def once(self, key: Hashable, make: Callable[[], Shared]) -> Shared:
        """Make what several metrics want of this frame for the first that asks, and keep it for the rest."""
        if key not in self._made:
            self._made[key] = make()
        made: Shared = self._made[key]
        return made

    def _size(self, factor: float) -> tuple[int, int]:
        return max(1, round(self.width * factor)), max(1, round(self.height * factor))

    def _resized(self, plane: int, size: tuple[int, int]) -> np.ndarray:
        # cv2's INTER_AREA takes 6 ms for a factor that is not whole; halving and one linear step, 1 ms.
        def make() -> np.ndarray:
            stored = self.planes[plane]
            shrink = min(stored.shape[1] / size[0], stored.shape[0] / size[1])
            source = self._halved(plane, max(0, floor(log2(shrink))))
            resized: np.ndarray = cv2.resize(source, size, interpolation=cv2.INTER_LINEAR)
            return resized

        return self.once((plane, size), make)

    def _halved(self, plane: int, times: int) -> np.ndarray:
        if times == 0:
            return self.planes[plane]
        return self.once((plane, times), lambda: _half(self._halved(plane, times - 1)))

    def _plane(self, index: int) -> np.ndarray:
        pixels = view(self._picture.planes[index], self._bits)
        if self._bits > 8:
            white = 255 / (2**self._bits - 1) if self.full_range else 2.0 ** (8 - self._bits)
            pixels = cv2.convertScaleAbs(pixels, alpha=white)
        return self._shown(pixels)

    @property
    def _bits(self) -> int:
        return self._picture.format.components[0].bits

    def _shown(self, plane: np.ndarray) -> np.ndarray:
        """Turn a plane upright, and view the part of it that the frame shows."""
        upright = np.ascontiguousarray(np.rot90(plane, self._turns)) if self._turns else plane
        if self.window is None:
            return upright
        window, sides = self.window, (self._picture.height, self._picture.width)
        height, width = sides[::-1] if self._turns % 2 else sides
        top, bottom = (row * upright.shape[0] // height for row in (window.top, window.bottom))
        left, right = (column * upright.shape[1] // width for column in (window.left, window.right))
        return upright[top:bottom, left:right]


def _graph(picture: av.VideoFrame) -> Graph:
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=picture.width,
        height=picture.height,
        format=picture.format,
        time_base=picture.time_base,
    )
    target = graph.add("format", "pix_fmts=bgr24")
    sink = graph.add("buffersink")
    source.link_to(target)
    target.link_to(sink)
    graph.configure()
    return graph


def _planar(picture: av.VideoFrame) -> av.VideoFrame:
    """Give Y, U and V as planes of their own: what is stored as RGB, say, is converted to BT.709."""
    if PLANAR.fullmatch(picture.format.name):
        return picture
    matrix, limited = Colorspace.ITU709, ColorRange.MPEG
    planar = picture.reformat(format="yuv444p", dst_colorspace=matrix, dst_color_range=limited)
    planar.colorspace, planar.color_range = matrix, limited
    return planar


def view(plane: av.video.plane.VideoPlane, bits: int = 8, channels: int = 1) -> np.ndarray:
    """Return a plane's pixels where they lie, height x width, or height x width x channels."""
    # A row is `line_size` bytes, padded beyond the width.
    rows: np.ndarray = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    rows = rows.view(np.uint16 if bits > 8 else np.uint8)
    rows = rows[: plane.height, : plane.width * channels]
    return rows if channels == 1 else rows.reshape(plane.height, plane.width, channels)


def _half(plane: np.ndarray) -> np.ndarray:
    height, width = plane.shape[0] // 2, plane.shape[1] // 2
    even = plane[: 2 * height, : 2 * width]
    half: np.ndarray = cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA)
    return half


@lru_cache
def _to_bgr(colorspace: int, full_range: bool) -> np.ndarray:
    red, blue = LUMA_WEIGHTS.get(colorspace, BT601)
    green = 1 - red - blue
    luma, chroma, black = (1, 1, 0) if full_range else (255 / 219, 255 / 224, 16)
    matrix = np.array(
        [
            [luma, 2 * (1 - blue) * chroma, 0],
            [luma, -2 * (1 - blue) * blue / green * chroma, -2 * (1 - red) * red / green * chroma],
            [luma, 0, 2 * (1 - red) * chroma],
        ]
    )
    return np.column_stack([matrix, -matrix @ [black, 128, 128]])
