"""Rendering in threads, without importing synthesis before it is needed."""

from __future__ import annotations

import os
import shutil
import threading
from importlib import import_module
from pathlib import Path

from kling_sweeps.experiment.emulator_settings import EmulatorSettings

from .endpoints import Scene

# Width over height where nothing definite is asked for, and at most.
RATIO, MOST_RATIO = 16 / 9, 4.0


class RenderStopped(Exception):
    """The emulator is going down, so the video is not finished."""


def render_workers(slots: int) -> int:
    """Return how many videos are rendered at once: a core each, a slot each."""
    return max(1, min(slots, os.cpu_count() or 1))


def is_rendered(path: Path) -> bool:
    """Return whether the video is there; files appear under their name when they are whole."""
    return path.exists()


def prepare() -> None:
    """Import what rendering needs, so that the first video doesn't wait for it."""
    import_module(".scene.synthesis", __package__)


def render_video(
    path: Path,
    scene: Scene,
    request_id: str,
    settings: EmulatorSettings,
    stopping: threading.Event,
) -> None:
    """Render a request's video to `path`, or copy the one that every request gets.

    Raises RenderStopped when `stopping` is set meanwhile.
    """
    if settings.video is not None:
        whole = Path(shutil.copyfile(settings.video, path.with_suffix(".part")))
        whole.replace(path)
        return
    import cv2

    from .scene.picture import read_picture
    from .scene.synthesis import render

    cv2.setNumThreads(1)

    def check() -> None:
        if stopping.is_set():
            raise RenderStopped

    picture = read_picture(path.parent, scene.picture)
    ratio = scene.ratio or (RATIO if picture is None else picture.shape[1] / picture.shape[0])
    size = settings.frame_size(min(MOST_RATIO, max(1 / MOST_RATIO, ratio)))
    render(path, scene.arguments, request_id, size, settings.fps, check, picture)
