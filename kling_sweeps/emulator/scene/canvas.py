"""Layers and the frame they are put on, as the planes of 4:2:0 BT.709 limited-range video.

Painting in planes costs half of what painting in colours does, and nothing has to be converted
before it is encoded.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

# Rows give Y, Cb, Cr of red, green and blue in 0..1, in 8-bit limited range (ITU-R BT.709).
BT709 = np.asarray(
    [
        [0.2126 * 219, 0.7152 * 219, 0.0722 * 219],
        [-0.2126 / 1.8556 * 224, -0.7152 / 1.8556 * 224, 0.5 * 224],
        [0.5 * 224, -0.7152 / 1.5748 * 224, -0.0722 / 1.5748 * 224],
    ],
    np.float32,
)
OFFSETS = np.asarray([16, 128, 128], np.float32)


@dataclass(frozen=True)
class Layer:
    """A picture as planes times its alpha; `gap` is 255 - alpha, None where it is opaque."""

    luma: np.ndarray
    chroma: np.ndarray
    gap: np.ndarray | None
    chroma_gap: np.ndarray | None

    @classmethod
    def of(cls, colours: np.ndarray, alpha: np.ndarray | None = None, enlarge: bool = False) -> Layer:
        """Make a layer of (h, w, 3) colours in 0..1, and of alpha (h, w) in 0..1 if it has holes.

        With `enlarge` the layer is twice as large as the picture.
        """
        planes = cv2.transform(np.clip(colours, 0, 1), BT709) + OFFSETS
        if alpha is None:
            return cls(_plane(planes[..., 0], enlarge), _chroma(planes[..., 1:], enlarge), None, None)
        planes *= alpha[..., None]
        gap = 255 * (1 - alpha)
        chroma_gap = cv2.merge([_chroma(gap, enlarge)] * 2)
        return cls(
            _plane(planes[..., 0], enlarge),
            _chroma(planes[..., 1:], enlarge),
            _plane(gap, enlarge),
            chroma_gap,
        )

    @property
    def gaps(self) -> tuple[np.ndarray, np.ndarray]:
        """The gaps of luma and chroma; ValueError where the layer is opaque."""
        if self.gap is None or self.chroma_gap is None:
            raise ValueError("an opaque layer can only be slid")
        return self.gap, self.chroma_gap

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.luma.shape[1], self.luma.shape[0]


class Canvas:
    """One frame under work: luma (h, w) and chroma (h/2, w/2, 2), uint8."""

    def __init__(self, width: int, height: int) -> None:
        self.luma: np.ndarray = np.full((height, width), 16, np.uint8)
        self.chroma = np.full((height // 2, width // 2, 2), 128, np.uint8)

    def slide(self, layer: Layer, left: float, top: int) -> None:
        """Show a wide layer from its column `left` on, its first row at the even row `top`."""
        first, last = max(0, top), min(self.luma.shape[0], top + layer.size[1]) // 2 * 2
        luma, chroma = self.luma[first:last], self.chroma[first // 2 : last // 2]
        rows = slice(first - top, last - top)
        _cover(luma, _part(layer.luma[rows], left, luma.shape[1]), layer.gap, rows, left)
        rows = slice((first - top) // 2, (last - top) // 2)
        _cover(
            chroma,
            _part(layer.chroma[rows], left / 2, chroma.shape[1]),
            layer.chroma_gap,
            rows,
            left / 2,
        )

    def stamp(self, layer: Layer, centre: tuple[float, float]) -> None:
        """Put a layer of soft edges with its centre at the even pixel closest to `centre`."""
        left, top = (round((at - side / 2) / 2) for at, side in zip(centre, layer.size, strict=True))
        gap, chroma_gap = layer.gaps
        _drop(self.chroma, layer.chroma, chroma_gap, left, top)
        _drop(self.luma, layer.luma, gap, 2 * left, 2 * top)

    def paint(self, layer: Layer, placing: np.ndarray) -> None:
        """Put a small layer where the 2 x 3 affine matrix `placing` moves it."""
        box = self._box(layer, placing)
        if box is None:
            return
        left, top, right, bottom = box
        gap, chroma_gap = layer.gaps
        moved = placing - [[0, 0, left], [0, 0, top]]
        _blend(self.luma[top:bottom, left:right], layer.luma, gap, moved)
        half = (slice(top // 2, bottom // 2), slice(left // 2, right // 2))
        _blend(self.chroma[half], layer.chroma, chroma_gap, _half_placing(moved))

    def transform(self, placing: np.ndarray) -> None:
        """Move the whole frame by the 2 x 3 affine matrix `placing`; it must stay filled."""
        size = self.luma.shape[::-1]
        self.luma = cv2.warpAffine(self.luma, placing, size, borderMode=cv2.BORDER_REPLICATE)
        # Both chroma planes as one of 16 bits: ten times as fast, and nobody sees half a pixel.
        pairs = self.chroma.view(np.uint16)[..., 0]
        moved = cv2.warpAffine(
            pairs,
            _half_placing(placing),
            pairs.shape[::-1],
            flags=cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_REPLICATE,
        )
        self.chroma = moved.view(np.uint8).reshape(self.chroma.shape)

    def planes(self) -> np.ndarray:
        """Return the frame as one (1.5 h, w) array in the order Y, Cb, Cr."""
        height, width = self.luma.shape
        packed = np.empty((height * 3 // 2, width), np.uint8)
        packed[:height] = self.luma
        halves = packed[height:].reshape(2, height // 2, width // 2)
        cv2.mixChannels([self.chroma], [halves[0], halves[1]], [0, 0, 1, 1])
        return packed

    def _box(self, layer: Layer, placing: np.ndarray) -> tuple[int, int, int, int] | None:
        """Return the even-sided part of the frame that the placed layer can touch."""
        width, height = layer.size
        corners = placing @ np.array([[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]])
        left, top = np.maximum(0, np.floor(corners.min(axis=1) / 2).astype(int) * 2 - 2)
        right, bottom = np.ceil(corners.max(axis=1) / 2).astype(int) * 2 + 2
        right, bottom = min(right, self.luma.shape[1]), min(bottom, self.luma.shape[0])
        return (left, top, right, bottom) if left < right and top < bottom else None


def _part(picture: np.ndarray, left: float, width: int) -> np.ndarray:
    """Return `width` columns from `left` on, between two columns where it is not whole."""
    column = int(left)
    share = left - column
    here, right = picture[:, column : column + width], picture[:, column + 1 : column + 1 + width]
    return cv2.addWeighted(here, 1 - share, right, share, 0)


def _cover(target: np.ndarray, part: np.ndarray, gap: np.ndarray | None, rows: slice, left: float) -> None:
    if gap is None:
        target[:] = part
        return
    holes = _part(gap[rows], left, target.shape[1])
    cv2.add(cv2.multiply(target, holes, scale=1 / 255), part, dst=target)


def _drop(target: np.ndarray, picture: np.ndarray, gap: np.ndarray, left: int, top: int) -> None:
    height, width = target.shape[:2]
    rows, columns = slice(max(0, -top), height - top), slice(max(0, -left), width - left)
    seen, holes = picture[rows, columns], gap[rows, columns]
    if seen.size:
        under = target[max(0, top) :, max(0, left) :][: seen.shape[0], : seen.shape[1]]
        cv2.add(cv2.multiply(under, holes, scale=1 / 255), seen, dst=under)


def _blend(target: np.ndarray, picture: np.ndarray, gap: np.ndarray, placing: np.ndarray) -> None:
    size = (target.shape[1], target.shape[0])
    moved = cv2.warpAffine(picture, placing, size, borderMode=cv2.BORDER_CONSTANT)
    holes = cv2.warpAffine(
        gap, placing, size, borderMode=cv2.BORDER_CONSTANT, borderValue=(255, 255, 255, 255)
    )
    cv2.add(cv2.multiply(target, holes, scale=1 / 255), moved, dst=target)


def _half_placing(placing: np.ndarray) -> np.ndarray:
    linear = placing[:, :2]
    shift = (linear @ [0.5, 0.5] + placing[:, 2] - 0.5) / 2
    return np.column_stack([linear, shift])


def _plane(plane: np.ndarray, enlarge: bool) -> np.ndarray:
    whole = np.clip(plane + 0.5, 0, 255).astype(np.uint8)
    return cv2.resize(whole, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC) if enlarge else whole


def _chroma(plane: np.ndarray, enlarge: bool) -> np.ndarray:
    if not enlarge:
        size = ((plane.shape[1] + 1) // 2, (plane.shape[0] + 1) // 2)
        plane = cv2.resize(plane, size, interpolation=cv2.INTER_AREA)
    return np.clip(plane + 0.5, 0, 255).astype(np.uint8)
