"""Sharpness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from kling_sweeps.metric import SampledMetric, Value, positive
from kling_sweeps.video import opencv as cv2

if TYPE_CHECKING:
    from kling_sweeps.video.frame import Frame


@dataclass
class Sharpness(SampledMetric):
    """Measure the variance of the Laplacian on Y resized to `short_side` pixels, as 0..255 full range.

    The fixed size does not make sizes comparable, since resizing itself takes detail away: pictures of 540 to 1080 lines read 0.7
    to 1.2 of what the same picture at 480 lines does. Noise, compression artefacts and contrast count as sharpness too: compare
    like with like, and ask `edge_width` for blur.
    """

    version = 1
    values = (
        Value(
            "sharpness",
            "fine detail, noise included",
            "(0..255 levels)^2",
            (0, inf),
            "neither",
            "variance of the 4-neighbour Laplacian (Pech-Pacheco et al. 2000)",
            scale="log",
            alike_in=("size",),
        ),
    )

    short_side: int = 480

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("short_side", self.short_side)

    def per_frame(self, frame: Frame) -> Mapping[str, float]:
        """Filter the resized Y and take its variance, expanded to full range."""
        luma = frame.luma_scaled(self.short_side / min(frame.width, frame.height))
        laplacian = cv2.Laplacian(luma, cv2.CV_16S, ksize=1)
        # cv2.meanStdDev takes ten times as long on int16.
        mean_square = cv2.norm(laplacian, cv2.NORM_L2SQR) / laplacian.size
        variance = mean_square - cv2.mean(laplacian)[0] ** 2
        return {"sharpness": variance * frame.gain**2}
