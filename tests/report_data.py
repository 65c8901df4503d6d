"""Reports of sweeps that never ran: as many runs as are wanted, each with a small clip that is really there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import clips
import numpy as np

from kling_sweeps.reports.clips import Clip, clip_of
from kling_sweeps.reports.contents import Contents, Video, assemble

PROMPTS = ("potter", "lighthouse", "skater", "market", "fox", "train", "astronaut", "dancer")
METRICS = ("motion", "sharpness", "cost_usd", "queue_s", "inference_s")


def clip(folder: Path, *, frames: int = 24, size: tuple[int, int] = (320, 180), shade: int = 0) -> Clip:
    """Make a clip in which a bar goes from the left to the right, one step a frame."""
    folder.mkdir(parents=True, exist_ok=True)
    width, height = size

    def picture(index: int) -> clips.Planes:
        luma = np.full((height, width), 60 + shade % 120, np.uint8)
        left = index * (width - 20) // max(1, frames - 1)
        luma[:, left : left + 20] = 230
        chroma = np.full((height // 2, width // 2), 128, np.uint8)
        return luma, chroma, chroma + shade % 60

    video = clips.write(folder / "video.mp4", map(picture, range(frames)))
    return clip_of(video, folder)


def contents(
    made: Sequence[Clip],
    *,
    settings: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
    prompts: Sequence[str] = PROMPTS[:2],
    samples: int = 1,
    status: Callable[[int], str] = lambda number: "finished",
    text: str = "A {prompt}, seen from afar.",
    broken: Callable[[int], str] = lambda number: "",
) -> Contents:
    """Return a sweep of prompts x cfg_scale x repeats; `status` says how the run of a number ended, `broken` its gates."""
    videos = []
    for number, (prompt, setting, sample) in enumerate(product(prompts, settings, range(samples))):
        ended = status(number)
        is_over = ended == "finished"
        wave = 0.1 + 0.05 * (number % 7)
        videos.append(
            Video(
                name=f"{prompt} · cfg {setting:g} · #{sample}",
                status=ended,
                why="" if is_over else "content_policy_violation: fal would not",
                params={
                    "prompt": prompt,
                    "prompt_text": text.format(prompt=prompt),
                    "cfg_scale": f"{setting:g}",
                    "aspect_ratio": "16:9",
                    "endpoint": "fal-ai/kling-video",
                    "model": "kling",
                },
                sample=sample,
                values=dict(zip(METRICS, (wave, 100 * setting + number % 3, 1.4, 3.0, 60.0), strict=True))
                if is_over
                else {},
                run_id=f"{number:032x}" if ended != "coming" else "",
                started_ms=1_790_000_000_000 + 1000 * number,
                asked_s=1_790_000_000.0 + number,
                clip=made[number % len(made)] if is_over else None,
                broken=broken(number) if is_over else "",
            )
        )
    return assemble("cfg", "emulator", videos, METRICS if any(one.values for one in videos) else ())
