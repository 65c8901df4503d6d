"""Synthetic videos whose statistics are known beforehand, written without loss unless told otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

LOSSLESS = {"qp": "0", "preset": "ultrafast"}
MATRICES = {"rgb": 0, "bt709": 1, "unspecified": 2, "bt601": 6}
MILLISECOND = Fraction(1, 1000)

Planes = tuple[np.ndarray, np.ndarray, np.ndarray]


def write(
    path: Path,
    pictures: Iterable[Planes],
    *,
    fps: int = 24,
    times_ms: Sequence[int] | None = None,
    matrix: str = "bt709",
    full_range: bool = False,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
    rotation: int = 0,
    audio: bool = False,
) -> Path:
    """Write Y, U, V planes (uint8, 4:2:0) as a video; `times_ms` makes the frame rate variable."""
    pictures = list(pictures)
    container_options = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=container_options) as file:
        stream = file.add_stream(codec, rate=fps, options=LOSSLESS if options is None else options)
        height, width = pictures[0][0].shape
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        context = stream.codec_context
        context.time_base = MILLISECOND if times_ms else Fraction(1, fps)
        context.colorspace, context.color_range = MATRICES[matrix], 2 if full_range else 1
        if rotation:
            stream.set_display_rotation(rotation)
        sound = file.add_stream("aac", rate=44100) if audio else None
        for index, planes in enumerate(pictures):
            frame = _frame(planes, matrix, full_range, pixel_format)
            frame.pts, frame.time_base = times_ms[index] if times_ms else index, context.time_base
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
        if sound:
            file.mux(sound.encode(silence()))
            file.mux(sound.encode())
    return path


def grey(value: int = 128, *, frames: int = 8, size: tuple[int, int] = (128, 96)) -> Iterator[Planes]:
    """Give frames of one Y and no colour; `size` is width, height."""
    return color((value, 128, 128), frames=frames, size=size)


def color(
    yuv: tuple[int, int, int], *, frames: int = 8, size: tuple[int, int] = (128, 96)
) -> Iterator[Planes]:
    """Give frames of one stored (Y, U, V)."""
    width, height = size
    half = (-(-height // 2), -(-width // 2))
    shapes = ((height, width), half, half)
    for _ in range(frames):
        yield tuple(np.full(shape, level, np.uint8) for shape, level in zip(shapes, yuv, strict=True))


def noise(
    sigma: float = 3, *, mean: float = 126, frames: int = 8, size: tuple[int, int] = (128, 96), seed: int = 0
) -> Iterator[Planes]:
    """Give frames of Gaussian noise on grey, new in each frame, in colour too."""
    random = np.random.default_rng(seed)
    for planes in color((0, 0, 0), frames=frames, size=size):
        yield tuple(
            np.clip(random.normal(center, sigma, plane.shape).round(), 16, 235).astype(np.uint8)
            for plane, center in zip(planes, (mean, 128, 128), strict=True)
        )


def pan(
    pixels: int = 6, *, frames: int = 8, size: tuple[int, int] = (640, 360), seed: int = 0
) -> Iterator[Planes]:
    """Give a soft texture that moves left by `pixels` a frame (an even number)."""
    width, height = size
    wide = texture((width + pixels * frames, height), seed=seed)
    for index in range(frames):
        left = index * pixels
        half = slice(left // 2, (left + width) // 2)
        yield (wide[0][:, left : left + width], wide[1][:, half], wide[2][:, half])


def texture(size: tuple[int, int], *, seed: int = 0, grain: int = 8) -> Planes:
    """Make one picture of coloured blobs some `grain` pixels large, within limited range."""
    width, height = size
    half = (-(-height // 2), -(-width // 2))
    return tuple(
        _blobs(shape, seed + index, low, high, grain if index == 0 else grain // 2)
        for index, (shape, low, high) in enumerate(
            [((height, width), 40, 210), (half, 80, 176), (half, 80, 176)]
        )
    )


def still(frames: int = 8, size: tuple[int, int] = (128, 96), seed: int = 0) -> Iterator[Planes]:
    """Give one textured picture again and again."""
    picture = texture(size, seed=seed)
    for _ in range(frames):
        yield picture


def truncate(path: Path, share: float = 0.5) -> Path:
    """Cut a file's tail off, in place."""
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    return path


def _blobs(shape: tuple[int, int], seed: int, low: int, high: int, grain: int) -> np.ndarray:
    field = np.random.default_rng(seed).normal(size=shape)
    kernel = np.ones(grain) / grain
    for axis in (0, 0, 1, 1):
        field = np.apply_along_axis(np.convolve, axis, field, kernel, mode="same")
    field = (field - field.min()) / (field.max() - field.min())
    return (low + (high - low) * field).round().astype(np.uint8)


def _frame(planes: Planes, matrix: str, full_range: bool, pixel_format: str) -> av.VideoFrame:
    height, width = planes[0].shape
    frame = av.VideoFrame(width, height, "yuv420p")
    frame.colorspace, frame.color_range = MATRICES[matrix] or 1, 2 if full_range else 1
    for target, plane in zip(frame.planes, planes, strict=True):
        rows = np.asarray(memoryview(target)).reshape(-1, target.line_size)
        rows[: plane.shape[0], : plane.shape[1]] = plane
    if pixel_format == "yuv420p":
        return frame
    if pixel_format == "yuv420p10le":
        return _ten_bits(frame, full_range)
    return frame.reformat(format=pixel_format)


def _ten_bits(frame: av.VideoFrame, full_range: bool) -> av.VideoFrame:
    ten = av.VideoFrame(frame.width, frame.height, "yuv420p10le")
    ten.colorspace, ten.color_range = frame.colorspace, frame.color_range
    for target, source in zip(ten.planes, frame.planes, strict=True):
        rows = np.asarray(memoryview(source)).reshape(-1, source.line_size)[:, : source.width]
        wide = np.asarray(memoryview(target)).view(np.uint16).reshape(-1, target.line_size // 2)
        wide[:, : target.width] = (rows * (1023 / 255)).round() if full_range else rows * 4.0
    return ten


def silence() -> av.AudioFrame:
    """Make a moment of a sound track."""
    frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
    frame.sample_rate, frame.pts = 44100, 0
    return frame
