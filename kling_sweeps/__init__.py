"""Prompt experiments on text-to-video models: generated on fal, measured with OpenCV, compared in MLflow."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
# Within the package where it is installed, beside it where it is worked on.
CONF = next(folder for folder in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if folder.is_dir())
