"""The emulator's videos: real files of the size asked for, with the effects that are documented."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import av
import cv2
import numpy as np
import pytest

from kling_sweeps.emulator.scene.synthesis import render

pytestmark = pytest.mark.slow

SIZE = (320, 180)
FPS = 12
SAMPLES = 4
PROMPT = "A sailboat on the ocean, the camera pans"

Frames = list[np.ndarray]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Frames]:
    """Render a video and return its decoded frames as RGB."""
    folder = tmp_path_factory.mktemp("videos")
    rendered: dict[str, Frames] = {}

    def frames(request_id: str = "a", **arguments: Any) -> Frames:
        key = f"{request_id}{sorted(arguments.items())}"
        if key not in rendered:
            path = folder / f"{len(rendered)}.mp4"
            render(path, {"prompt": PROMPT, **arguments}, request_id, SIZE, FPS)
            rendered[key] = decode(path)
        return rendered[key]

    return frames


def decode(path: Path) -> Frames:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def luma(frame: np.ndarray) -> np.ndarray:
    return frame @ np.array([0.2126, 0.7152, 0.0722])


def brightness(frames: Frames) -> float:
    return fmean(luma(frame).mean() for frame in frames[::10])


def contrast(frames: Frames) -> float:
    return fmean(luma(frame).std() for frame in frames[::10])


def saturation(frames: Frames) -> float:
    spread = [
        (frame.max(axis=2) - frame.min(axis=2)) / np.maximum(frame.max(axis=2), 1) for frame in frames[::10]
    ]
    return fmean(part.mean() for part in spread)


def sharpness(frames: Frames) -> float:
    def laplacian(y: np.ndarray) -> np.ndarray:
        return y[:-2, 1:-1] + y[2:, 1:-1] + y[1:-1, :-2] + y[1:-1, 2:] - 4 * y[1:-1, 1:-1]

    return fmean(laplacian(luma(frame)).var() for frame in frames[::10])


def motion(frames: Frames) -> float:
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    greys = [luma(frame).astype(np.uint8) for frame in frames]
    pairs = list(pairwise(greys))[::6]
    return fmean(np.linalg.norm(flow.calc(first, second, None), axis=2).mean() for first, second in pairs)


def unrest(frames: Frames) -> float:
    """Return what is left of the difference of two frames of a still sky: grain."""
    corners = [luma(frame)[:60, :80] for frame in frames[:20]]
    return fmean(np.abs(second - first).mean() for first, second in pairwise(corners))


def mean_over_samples(
    statistic: Callable[[Frames], float], video: Callable[..., Frames], **arguments: Any
) -> float:
    return fmean(statistic(video(f"sample-{number}", **arguments)) for number in range(SAMPLES))


@pytest.mark.parametrize("statistic", [contrast, saturation, sharpness])
def test_cfg_scale_raises(statistic: Callable[[Frames], float], video: Callable[..., Frames]) -> None:
    """A larger cfg_scale gives more contrast, saturation and sharpness."""
    low, middle, high = (mean_over_samples(statistic, video, cfg_scale=cfg) for cfg in (0, 0.5, 1))
    assert low < middle < high


def test_cfg_scale_lowers_motion(video: Callable[..., Frames]) -> None:
    """A larger cfg_scale gives less motion."""
    low, middle, high = (mean_over_samples(motion, video, cfg_scale=cfg) for cfg in (0, 0.5, 1))
    assert low > middle > high


@pytest.mark.parametrize("statistic", [contrast, saturation, sharpness])
def test_samples_differ_less_than_cfg_scale_does(
    statistic: Callable[[Frames], float], video: Callable[..., Frames]
) -> None:
    """The samples of one cell differ, by less than the whole range of cfg_scale makes."""
    samples = [statistic(video(f"sample-{number}", cfg_scale=0.5)) for number in range(SAMPLES)]
    effect = mean_over_samples(statistic, video, cfg_scale=1) - mean_over_samples(
        statistic, video, cfg_scale=0
    )
    assert 0 < float(np.std(samples)) < effect / 2


def test_night_is_darker_than_day(video: Callable[..., Frames]) -> None:
    """The light that the prompt names decides the exposure."""
    assert brightness(video(prompt="hills at night")) < 0.6 * brightness(video(prompt="hills"))


def test_overcast_is_less_saturated_than_day(video: Callable[..., Frames]) -> None:
    """An overcast sky takes the colour out."""
    assert saturation(video(prompt="overcast hills")) < saturation(video(prompt="hills"))


def test_a_pan_moves_more_than_a_drift_and_that_more_than_a_tripod(
    video: Callable[..., Frames],
) -> None:
    """The camera move that the prompt names decides the motion."""
    static, drift, pan = (motion(video(prompt=f"a view, {move}")) for move in ("tripod", "wide", "pan"))
    assert static < drift < pan


def test_words_of_speed_decide_how_far_the_subject_goes(video: Callable[..., Frames]) -> None:
    """A running subject moves more than a slow one."""
    slow, fast = (
        mean_over_samples(motion, video, prompt=f"{speed}, tripod") for speed in ("slow", "running")
    )
    assert slow < fast


def test_naming_blur_as_unwanted_sharpens(video: Callable[..., Frames]) -> None:
    """A negative prompt with blur in it gives a sharper video than one without."""
    with_it, without = (
        mean_over_samples(sharpness, video, negative_prompt=text) for text in ("noise, blur", "noise")
    )
    assert with_it > without


def test_naming_low_quality_as_unwanted_takes_grain_out(video: Callable[..., Frames]) -> None:
    """A negative prompt with low quality in it gives less grain."""
    prompt = "a view, tripod"
    clean, grainy = (
        unrest(video(prompt=prompt, negative_prompt=text)) for text in ("low quality, distort", "distort")
    )
    assert clean < grainy


def test_the_same_request_gives_the_same_bytes(tmp_path: Path) -> None:
    """A restarted emulator renders the file again that it had rendered before."""
    for name in ("first", "second"):
        render(tmp_path / name, {"prompt": PROMPT}, "a", SIZE, FPS)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_two_requests_of_the_same_arguments_differ(video: Callable[..., Frames]) -> None:
    """Another request id is another sample."""
    difference = np.abs(np.float64(video("a")[0]) - video("b")[0]).mean()
    assert difference > 3


@pytest.mark.parametrize(("size", "duration"), [((320, 180), "5"), ((180, 320), "5"), ((180, 180), "10")])
def test_the_file_is_what_was_asked_for(size: tuple[int, int], duration: str, tmp_path: Path) -> None:
    """Codec, size, duration, frame rate and colour tags are those of a delivered video."""
    path = tmp_path / "video.mp4"
    render(path, {"prompt": "a city at night, orbit", "duration": duration}, "a", size, FPS)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        assert stream.codec_context.name == "h264"
        assert (stream.codec_context.width, stream.codec_context.height) == size
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == FPS
        assert len(frames) == int(duration) * FPS
        assert (frames[0].color_range, frames[0].colorspace) == (1, 1)
    assert path.read_bytes().index(b"moov") < path.read_bytes().index(b"mdat")


PLACES = ("potter", "city", "sea", "desert", "forest", "hills")
MOVES = ("tripod", "handheld", "orbit", "push", "pull", "crane", "pan", "wide")


@pytest.mark.parametrize("place", PLACES)
def test_every_place_can_be_shown(place: str, video: Callable[..., Frames]) -> None:
    """A place fills the frame with a picture that is neither black nor flat."""
    frames = video(prompt=place, duration="5")
    assert brightness(frames) > 20
    assert contrast(frames) > 10


@pytest.mark.parametrize("move", MOVES)
def test_no_camera_move_shows_an_edge(move: str, video: Callable[..., Frames]) -> None:
    """No move, even over ten seconds without guidance, shows what lies beside the scene."""
    frames = video(prompt=f"desert, {move}", duration="10", cfg_scale=0)
    for frame in (frames[0], frames[-1]):
        for side in (frame[:, :4], frame[:, -4:], frame[:4], frame[-20:, :60]):
            assert side.mean() > 15
            assert side.astype(float).std() > 0.5


def test_every_frame_carries_the_mark(video: Callable[..., Frames]) -> None:
    """The lower right corner has letters: whiter than anything else in a dark scene."""
    for frame in video(prompt="a forest at night")[::20]:
        assert luma(frame)[-24:, -70:].max() > luma(frame)[-24:, :-70].max()


def test_a_rendering_that_is_stopped_leaves_no_file(tmp_path: Path) -> None:
    """What raises before a frame ends the rendering, and nothing has the video's name."""

    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        render(tmp_path / "video.mp4", {"prompt": PROMPT}, "a", SIZE, FPS, stop)
    assert not (tmp_path / "video.mp4").exists()
