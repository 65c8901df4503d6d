"""OpenCV, imported when it is first used: `from kling_sweeps import opencv as cv2`.

A configuration is checked without it, and where it can't be imported one error says what to do.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from kling_sweeps.errors import UnavailableError


def load() -> ModuleType:
    """Import cv2; raise `UnavailableError` where it, or a library of the system it needs, is missing."""
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        raise UnavailableError(
            f"OpenCV can't be imported ({error}). opencv-python needs the system's libGL and libxcb; "
            "without them: pip uninstall -y opencv-python && "
            "pip install --force-reinstall opencv-python-headless"
        ) from error


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    value = getattr(load(), name)
    globals()[name] = value
    return value
