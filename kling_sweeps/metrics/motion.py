"""Motion, by optical flow on a thumbnail."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import hypot, inf, nan
from typing import TYPE_CHECKING, Any

import numpy as np

from kling_sweeps.metric import (
    FrameMetric,
    SampledMetric,
    Value,
    mean,
    percentile,
    positive,
    ratio,
)
from kling_sweeps.video import opencv as cv2

if TYPE_CHECKING:
    from kling_sweeps.video.frame import Frame


# DIS matches patches of 8 pixels, with a margin.
THINNEST = 12
# The least eigenvalue of the structure tensor of Y in 0..1, over a window of so many pixels, above which flow is a measurement,
# and the share of the picture that must have that much texture.
TEXTURE, WINDOW, LEAST_TEXTURE = 2e-5, 7, 0.01


@dataclass
class FlowMetric(FrameMetric):
    """What is measured on DIS flow (ultrafast), of Y resized to `long_side` pixels.

    The size matters to the flow itself (larger finds smaller movements), so compare only what was
    measured with one. Pictures thinner than 12 pixels at that size have no flow: NaN.
    """

    long_side: int = 320

    def __post_init__(self) -> None:
        positive("long_side", self.long_side)

    def thumbnail(self, frame: Frame) -> np.ndarray:
        """Give Y resized: uint8."""
        return frame.luma_scaled(self.factor(frame))

    def factor(self, frame: Frame) -> float:
        """Give what sizes are multiplied with to be those of the thumbnail."""
        return self.long_side / max(frame.width, frame.height)

    def has_flow(self, frame: Frame) -> bool:
        """Tell whether there is a frame before, and both are large enough."""
        return frame.previous is not None and min(self.thumbnail(frame).shape) >= THINNEST

    def flow(self, frame: Frame) -> np.ndarray:
        """Give where each pixel of the frame before has moved: hxwx2 float32, (x, y) in pixels."""

        def make() -> np.ndarray:
            return self.flow_between(*(self.thumbnail(each) for each in (_before(frame), frame)))

        return frame.once(("flow", self.long_side), make)

    def texture(self, frame: Frame) -> np.ndarray:
        """Tell where a frame has texture that can be followed: hxw uint8 of the thumbnail, 0 or 1."""

        def make() -> np.ndarray:
            eigenvalues = cv2.cornerMinEigenVal(self.thumbnail(frame), WINDOW)
            textured: np.ndarray = cv2.compare(eigenvalues, TEXTURE / frame.gain**2, cv2.CMP_GT) & 1
            return textured

        return frame.once(("texture", self.long_side), make)

    def flow_between(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Give where each pixel of one thumbnail is in another."""
        flow: np.ndarray = self._dis.calc(before, after, None)
        return flow

    @cached_property
    def _dis(self) -> Any:
        return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)


@dataclass
class Motion(FlowMetric):
    """Measure the mean length of the optical flow in picture diagonals a second.

    It is the flow from the frame before, divided by the time between the two frames: resolution and
    frame rate cancel out. Only where the picture has texture is flow measured; NaN where less than 1 % of it has.
    """

    version = 2
    values = (
        Value(
            "motion",
            "speed of what moves, camera included",
            "diagonals/s",
            (0, inf),
            "neither",
            "mean length of DIS flow (Kroeger et al. 2016), where there is texture, x fps / diagonal",
            scale="log",
        ),
        Value(
            "motion_p95",
            "the same in the fastest moments",
            "diagonals/s",
            (0, inf),
            "neither",
            "95th percentile of motion over the frames",
            scale="log",
        ),
    )

    def per_frame(self, frame: Frame) -> Mapping[str, float]:
        """Take the mean flow since the frame before; NaN at the first frame."""
        if not self.has_flow(frame):
            return {"motion": nan}
        texture = self.texture(_before(frame))
        if not _is_enough(texture):
            return {"motion": nan}
        lengths = np.sqrt(squared_lengths(self.flow(frame)))
        seconds = frame.time_s - _before(frame).time_s
        return {"motion": ratio(cv2.mean(lengths, texture)[0], seconds) / hypot(*lengths.shape)}

    def compute(self) -> dict[str, float]:
        """Average over the frames, and take the 95th percentile."""
        series: Iterable[float] = self.series.get("motion", ())
        return {"motion": mean(series), "motion_p95": percentile(series, 95)}


@dataclass
class Dynamic(FlowMetric):
    """Measure the share of moments with large movement somewhere in the picture.

    Frames are compared that are an eighth of a second apart. There is large movement where the fastest
    5 % of the pixels moved by more than `pixels` on average, in a picture whose short side is 256 pixels. Pixels
    without texture don't count; NaN where less than 1 % of them have some. VBench calls a video dynamic where about a quarter of its moments are, and takes RAFT's flow.
    """

    version = 2
    values = (
        Value(
            "dynamic_share",
            "share of moments with large movement",
            "0..1",
            (0, 1),
            "neither",
            "the rule of VBench's dynamic degree (Huang et al. 2024) on DIS flow",
        ),
    )

    pixels: float = 6.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("pixels", self.pixels)

    def per_frame(self, frame: Frame) -> Mapping[str, float]:
        """Compare with the moment before; NaN in between."""
        if not self.has_flow(frame):
            self._keep(frame)
            return {"dynamic_share": nan}
        # The frame that is nearest to an eighth of a second later.
        half_a_frame = (frame.time_s - _before(frame).time_s) / 2
        if frame.time_s - self._before_s <= 1 / 8 - half_a_frame + 1e-6:
            return {"dynamic_share": nan}
        before, texture = self._before, self._texture
        self._keep(frame)
        if not _is_enough(texture):
            return {"dynamic_share": nan}
        squared = squared_lengths(self.flow_between(before, self.thumbnail(frame)))
        squared[texture == 0] = 0
        fastest = max(1, squared.size // 20)
        length = np.sqrt(np.partition(squared, -fastest, axis=None)[-fastest:]).mean()
        return {"dynamic_share": length > self.pixels * min(squared.shape) / 256}

    def _keep(self, frame: Frame) -> None:
        self._before, self._before_s, self._texture = self.thumbnail(frame), frame.time_s, self.texture(frame)


@dataclass
class WarpError(FlowMetric, SampledMetric):
    """Measure how far each frame is from the next one once its movement is taken back, beside its contrast.

    The mean squared difference of RGB in 0..1 between a frame and the next, warped back along the
    flow, over the pixels that can be followed: those within the picture, whose flow there and back
    adds up to nothing, and that are not at a motion boundary. It is divided by the variance of Y in 0..1 over
    the same pixels, so that a picture of less contrast is not taken for a steadier one: 0 is what movement explains
    wholly, 2 a picture that has nothing to do with the next. NaN where the variance is below that
    of one level in 255. Flicker and warping raise it, noise and errors of the flow too.
    """

    version = 2
    values = (
        Value(
            "warp_error_dis",
            "change that movement does not explain, of the picture's variance",
            "1",
            (0, inf),
            "neither",
            "Lai et al. 2018, occlusions after Ruder et al. 2016, on DIS flow, over the variance of Y",
            scale="log",
            alike_in=("rate",),
        ),
    )

    first_frame = 1

    def __post_init__(self) -> None:
        FlowMetric.__post_init__(self)
        SampledMetric.__post_init__(self)

    def per_frame(self, frame: Frame) -> Mapping[str, float]:
        """Compare the frame before with this one warped back; NaN where no pixel can be followed."""
        if not self.has_flow(frame):
            return {"warp_error_dis": nan}
        there = self.flow(frame)
        back = self.flow_between(self.thumbnail(frame), self.thumbnail(_before(frame)))
        target = _positions(there) + there
        followed = _inside(target) & _consistent(there, _warped(back, target)) & ~_boundaries(there)
        before, now = (self._rgb(each) for each in (_before(frame), frame))
        mask = followed.astype(np.uint8)
        total = cv2.norm(_warped(now, target), before, cv2.NORM_L2SQR, mask)
        deviation = cv2.meanStdDev(self.thumbnail(_before(frame)), mask=mask)[1].item() * frame.gain
        if deviation < 1:
            return {"warp_error_dis": nan}
        return {"warp_error_dis": ratio(total, 3 * cv2.countNonZero(mask)) / (deviation / 255) ** 2}

    def _rgb(self, frame: Frame) -> np.ndarray:
        return frame.bgr_scaled(self.factor(frame)).astype(np.float32) / 255


def _before(frame: Frame) -> Frame:
    """Return the frame before; there is one wherever there is a flow."""
    assert frame.previous
    return frame.previous


def _is_enough(texture: np.ndarray) -> bool:
    return int(cv2.countNonZero(texture)) >= LEAST_TEXTURE * texture.size


def squared_lengths(vectors: np.ndarray) -> np.ndarray:
    # Not cv2.magnitude: its last bits depend on where in memory the arrays lie.
    u, v = cv2.split(vectors)
    squared: np.ndarray = u * u + v * v
    return squared


def _positions(flow: np.ndarray) -> np.ndarray:
    rows, columns = np.indices(flow.shape[:2], np.float32)
    return np.dstack([columns, rows])


def _warped(image: np.ndarray, target: np.ndarray) -> np.ndarray:
    warped: np.ndarray = cv2.remap(image, target, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return warped


def _inside(target: np.ndarray) -> np.ndarray:
    (x, y), (height, width) = cv2.split(target), target.shape[:2]
    inside: np.ndarray = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return inside


def _consistent(there: np.ndarray, back: np.ndarray) -> np.ndarray:
    consistent: np.ndarray = (
        squared_lengths(there + back) <= 0.01 * (squared_lengths(there) + squared_lengths(back)) + 0.5
    )
    return consistent


def _boundaries(flow: np.ndarray) -> np.ndarray:
    steps = np.zeros(flow.shape[:2], np.float32)
    steps[:, :-1] += squared_lengths(np.diff(flow, axis=1))
    steps[:-1] += squared_lengths(np.diff(flow, axis=0))
    return steps > 0.01 * squared_lengths(flow) + 0.002
