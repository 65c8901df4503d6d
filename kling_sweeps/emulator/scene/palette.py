"""The light of a scene and the colours of its places."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .texture import Colour


@dataclass(frozen=True)
class Light:
    """Colours of the sky, the sun (or moon) and the haze, and the tint of what they fall on.

    `sun_height` is a share of the frame's height from above, `haze` the share of haze at the
    horizon, `clouds` the share of the sky they cover.
    """

    zenith: Colour
    horizon: Colour
    sun: Colour
    sun_height: float
    sun_size: float
    tint: Colour
    haze: float
    clouds: float
    cloud_light: Colour
    cloud_shade: Colour

    @property
    def is_dark(self) -> bool:
        """Whether windows are lit and stars are out."""
        return max(self.zenith) < 0.2


LIGHTS = {
    "day": Light(
        (0.16, 0.40, 0.72), (0.72, 0.84, 0.92), (1.0, 0.97, 0.86), 0.18, 0.045,
        (1.0, 0.98, 0.93), 0.62, 0.5, (0.98, 0.98, 0.97), (0.70, 0.76, 0.84),
    ),
    "golden": Light(
        (0.20, 0.24, 0.46), (0.99, 0.66, 0.36), (1.0, 0.86, 0.58), 0.40, 0.06,
        (1.0, 0.76, 0.55), 0.70, 0.55, (1.0, 0.72, 0.50), (0.55, 0.34, 0.42),
    ),
    "dawn": Light(
        (0.44, 0.52, 0.72), (0.97, 0.80, 0.72), (1.0, 0.92, 0.86), 0.38, 0.05,
        (0.96, 0.86, 0.92), 0.72, 0.5, (0.98, 0.87, 0.84), (0.66, 0.64, 0.74),
    ),
    "night": Light(
        (0.02, 0.03, 0.10), (0.13, 0.15, 0.33), (0.92, 0.94, 1.0), 0.17, 0.035,
        (0.34, 0.40, 0.62), 0.55, 0.35, (0.22, 0.25, 0.42), (0.07, 0.08, 0.18),
    ),
    "overcast": Light(
        (0.52, 0.56, 0.61), (0.76, 0.78, 0.79), (0.86, 0.87, 0.87), 0.15, 0.03,
        (0.78, 0.81, 0.84), 0.80, 0.85, (0.80, 0.81, 0.82), (0.54, 0.57, 0.61),
    ),
}  # fmt: skip

# The far and the near colour of each place, before light falls on it, and its accent.
PLACES: dict[str, tuple[Colour, Colour, Colour]] = {
    "mountains": ((0.36, 0.42, 0.50), (0.34, 0.42, 0.20), (0.90, 0.30, 0.20)),
    "sea": ((0.32, 0.44, 0.52), (0.08, 0.30, 0.40), (0.95, 0.93, 0.88)),
    "desert": ((0.66, 0.44, 0.34), (0.82, 0.60, 0.36), (0.20, 0.55, 0.60)),
    "forest": ((0.24, 0.38, 0.34), (0.20, 0.31, 0.15), (0.95, 0.62, 0.20)),
    "city": ((0.34, 0.36, 0.44), (0.24, 0.24, 0.28), (0.98, 0.26, 0.55)),
    "room": ((0.66, 0.56, 0.46), (0.50, 0.33, 0.21), (0.76, 0.44, 0.30)),
}


def lit(colour: Colour, light: Light, rng: np.random.Generator) -> Colour:
    """Return a colour under a light, a little different in every sample."""
    red, green, blue = (
        np.asarray(colour, np.float32)
        * np.asarray(light.tint, np.float32)
        * (1 + 0.03 * rng.uniform(-1, 1, 3))
    )
    return float(red), float(green), float(blue)
