"""The colours of runs in MLflow's charts: a hue for each prompt, a lightness for each setting."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kling_sweeps.tracking.overview import Overview

# Luminances (of WCAG) whose contrast is at least 2.5 to the white and to the dark page.
DARKEST, LIGHTEST = 0.10, 0.365
CHROMA = 0.14
FIRST_HUE = 260.0


def run_colors(overview: Overview) -> list[str]:
    """Return the colour of each run as `#rrggbb`, the same for the same runs in any order."""
    settings = {
        setting: place for place, setting in enumerate(sorted(set(map(overview.setting, overview.runs))))
    }
    hues = {prompt: FIRST_HUE + 360 * n / len(overview.prompts) for n, prompt in enumerate(overview.prompts)}
    last = max(len(settings) - 1, 1)
    colors = []
    for run in overview.runs:
        share = settings[overview.setting(run)] / last if len(settings) > 1 else 0.5
        colors.append(color(hues.get(run.prompt, FIRST_HUE), LIGHTEST * (DARKEST / LIGHTEST) ** share))
    return colors


def color(hue: float, luminance: float) -> str:
    """Return the colour of a hue (degrees, of OKLCH) and a luminance, as strong as sRGB has it."""
    lightness, chroma = luminance ** (1 / 3), CHROMA
    for _ in range(40):
        linear = _linear_rgb(lightness, chroma, hue)
        if min(linear) < 0 or max(linear) > 1:
            chroma *= 0.95
            continue
        found = _luminance(linear)
        if abs(found - luminance) < 0.002:
            break
        lightness *= (luminance / found) ** (1 / 3)
    return "#" + "".join(f"{round(255 * _encoded(min(max(part, 0.0), 1.0))):02x}" for part in linear)


def _linear_rgb(lightness: float, chroma: float, hue: float) -> tuple[float, float, float]:
    """Return linear sRGB of OKLCH (Ottosson 2020)."""
    a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    middle = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * middle + 1.7076147010 * short,
    )


def _luminance(linear: Sequence[float]) -> float:
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _encoded(linear: float) -> float:
    return 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055
