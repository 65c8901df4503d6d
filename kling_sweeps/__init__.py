"""Prompt experiments on text-to-video models: generated on fal, measured with OpenCV, compared in MLflow."""
