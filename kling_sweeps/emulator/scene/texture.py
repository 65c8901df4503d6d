"""Procedural pictures: float32 arrays in 0..1, colours in the order red, green, blue."""

from __future__ import annotations

import cv2
import numpy as np

Colour = tuple[float, float, float]


def fractal(rng: np.random.Generator, height: int, width: int, cells: float, octaves: int) -> np.ndarray:
    """Return fractal noise of mean about 0.5; `cells` of its coarsest fill the height."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        rows = max(2, round(cells * 2**octave))
        columns = max(2, round(rows * width / height))
        grid = rng.random((min(rows, height), min(columns, width)), dtype=np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * 0.5**octave
    return total / (2 - 0.5 ** (octaves - 1))


def profile(rng: np.random.Generator, width: int, cells: float, octaves: int) -> np.ndarray:
    """Return a fractal line of `width` values around 0 that stays within -0.5 to 0.5."""
    line = np.zeros(width, np.float32)
    for octave in range(octaves):
        knots = max(2, round(cells * 2**octave))
        values = rng.random((1, knots + 1), dtype=np.float32) - 0.5
        line += cv2.resize(values, (width, 1), interpolation=cv2.INTER_CUBIC)[0] * 0.55**octave
    return line * np.float32(0.5 / np.abs(line).max())


def slope(noise: np.ndarray, down: int, right: int) -> np.ndarray:
    """Return how much higher noise is than `down` rows above and `right` columns left."""
    padded = cv2.copyMakeBorder(noise, down, 0, right, 0, cv2.BORDER_REPLICATE)
    higher: np.ndarray = noise - padded[: noise.shape[0], : noise.shape[1]]
    return higher


def vertical_gradient(height: int, width: int, top: Colour, bottom: Colour, power: float = 1.0) -> np.ndarray:
    """Return a picture that goes from `top` to `bottom`."""
    share = np.linspace(0, 1, height, dtype=np.float32)[:, None, None] ** power
    rows = np.asarray(top, np.float32) * (1 - share) + np.asarray(bottom, np.float32) * share
    return np.ascontiguousarray(np.broadcast_to(rows, (height, width, 3)))


def shaded(colour: Colour, factor: float, light: float = 0.0) -> Colour:
    """Return a colour times `factor`, and `light` of white added."""
    red, green, blue = colour
    return factor * red + light, factor * green + light, factor * blue + light


def radial(height: int, width: int, centre: tuple[float, float], radius: float) -> np.ndarray:
    """Return the distance from `centre` (x, y) in units of `radius`."""
    ys = (np.arange(height, dtype=np.float32) - centre[1])[:, None] / radius
    xs = (np.arange(width, dtype=np.float32) - centre[0])[None, :] / radius
    distance: np.ndarray = np.sqrt(xs * xs + ys * ys)
    return distance


def below(line: np.ndarray, height: int, softness: float = 1.0) -> np.ndarray:
    """Return the mask of what lies below `line` (a row a column), `softness` pixels soft."""
    rows = np.arange(height, dtype=np.float32)[:, None]
    mask: np.ndarray = np.clip((rows - line[None, :]) / softness + 0.5, 0, 1)
    return mask


def mix(first: np.ndarray, second: Colour | np.ndarray, share: np.ndarray | float) -> np.ndarray:
    """Return `first` with `share` of `second` in it."""
    amount = share[..., None] if isinstance(share, np.ndarray) else share
    mixed: np.ndarray = first + (np.asarray(second, np.float32) - first) * amount
    return mixed


def receding(noise: np.ndarray, height: int, width: int, far: float = 0.06) -> np.ndarray:
    """Lay `noise` on a plane that runs from the viewer's feet (last row) to the horizon (first)."""
    nearness = np.linspace(far, 1, height, dtype=np.float32)[:, None]
    xs = (np.arange(width, dtype=np.float32)[None, :] - width / 2) / nearness * 0.5 + noise.shape[1] / 3
    ys = np.broadcast_to(noise.shape[0] * 0.35 / nearness, (height, width))
    return cv2.remap(
        noise,
        np.ascontiguousarray(xs),
        np.ascontiguousarray(ys),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )
