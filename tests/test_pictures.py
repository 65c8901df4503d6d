"""Pictures that videos begin with: local files are checked, kept, uploaded once, and bought once wherever they are."""

from __future__ import annotations

import asyncio
import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import clips
import cv2
import fal_client
import httpx
import lab
import numpy as np
import pytest
from conftest import SMALL
from hydra import compose, initialize_config_dir
from lab import Lab
from mlflow.tracking import MlflowClient

from kling_sweeps import CONF
from kling_sweeps.errors import ConfigError
from kling_sweeps.experiment.config import read_job
from kling_sweeps.experiment.picture import find_picture
from kling_sweeps.experiment.settings import Cell
from kling_sweeps.measurement.measurement import distance_from
from kling_sweeps.metrics import measure
from kling_sweeps.providers.fal import NO_CREDENTIALS, FalProvider
from kling_sweeps.store.folder import Store
from kling_sweeps.store.state_machine import Stage
from kling_sweeps.tracking import run_data
from kling_sweeps.video import picture

MODEL = """
name: still
endpoint: fal-ai/still/image-to-video
arguments:
  prompt: {role: prompt, type: string}
  image_url: {role: image, type: string, x-fal: {max_file_size: 300000, min_width: 80, max_aspect_ratio: 2.5}}
  elements:
    type: array
    items: {type: object, properties: {name: {type: string}, frontal_image_url: {role: image, type: string}}}
  others: {role: image, type: array, items: {type: string}, default: []}
  duration: {role: seconds, enum: ["5", "10"], default: "5"}
required: [prompt, image_url]
price: {usd: 0.28, per: second}
"""
RED = (40, 40, 200)  # blue, green, red


def paint(path: str, color: tuple[int, int, int] = RED, size: tuple[int, int] = (160, 90)) -> Path:
    """Write a picture of one colour."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(path, np.full((size[1], size[0], 3), color, np.uint8))
    return Path(path).absolute()


def read(*overrides: str) -> Cell:
    """Return the run of the model that takes pictures."""
    folder = Path("mine/model")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "still.yaml").write_text(MODEL)
    own = f"hydra.searchpath=[file://{folder.parent.absolute()}]"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", [own, "model=still", *overrides], return_hydra_config=True)
    return read_job(cfg)[1]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_request_is_told_by_what_its_picture_shows(tmp_path):
    """Has one key for a picture under any name and path, another for another picture, and passes addresses on."""
    content = paint("a.png").read_bytes()
    Path("b c").mkdir()
    Path("b c/ä.png").write_bytes(content)
    first = read("+image_url=a.png")
    assert first.request.key == read("+image_url='b c/ä.png'").request.key
    assert first.request.key == read(f"+image_url={tmp_path}/a.png").request.key
    assert first.request.key != read(f"+image_url={paint('other.jpg')}").request.key
    assert first.params["image_url"].startswith("a.png ")
    assert f" · {first.params['image_url']} · " in first.name
    address = "https://v3.fal.media/files/a.png"
    assert read(f"+image_url='{address}'").request.arguments["image_url"] == address
    several = read("+image_url=a.png", f"+others=[a.png,'{address}',other.jpg]").request
    assert [several.arguments["others"][1], len(several.pictures)] == [address, 2]


def test_a_picture_within_an_argument_is_one_too():
    """Takes files in lists of mappings as it takes any, and leaves the other texts there alone."""
    paint("a.png")
    request = read("+image_url=a.png", "+elements=[{frontal_image_url: a.png, name: a.png}]").request
    (one,) = request.pictures
    assert request.arguments["elements"] == [{"frontal_image_url": one.mark, "name": "a.png"}]
    assert (
        request.with_pictures({one.mark: "https://x/a"})["elements"][0]["frontal_image_url"] == "https://x/a"
    )
    assert [name for name, _ in request.pictures_by_argument()] == ["image_url", "elements"]
    with pytest.raises(ConfigError, match=r"elements=.*b.png: No such file"):
        read("+image_url=a.png", "+elements=[{frontal_image_url: b.png}]")


def test_a_digest_is_no_picture():
    """Refuses a text that reads as what stands for a picture, whose request would have the key of that picture's."""
    mark = find_picture(paint("a.png")).mark
    for text in (mark, f"sha256:{'0' * 64}"):
        with pytest.raises(ConfigError, match=r"image_url=.*sha256:\w{64}: No such file"):
            read(f"+image_url='{text}'")


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ((70, 90), "is 70 pixels wide; fal takes at least 80 pixels wide"),
        ((300, 100), "is 3 times as wide as high; fal takes at most 2.5 times as wide as high"),
        ((1000, 500), "bytes; fal takes at most 300,000 bytes"),
    ],
)
def test_a_picture_is_within_what_fal_states(size, said):
    """Refuses a picture beyond the limits of its argument, and says by how much."""
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    cv2.imwrite("a.png", noise)
    with pytest.raises(ConfigError) as refused:
        read("+image_url=a.png")
    assert said in str(refused.value)
    assert read("+image_url=https://x/a.png", "+others=[a.png]")


def test_a_picture_belongs_to_a_prompt():
    """Takes the picture of a line of a file of prompts, and says in which line one is wrong."""
    from kling_sweeps.experiment import yaml_files

    yaml_files.install()
    paint("a.png")
    Path("p.csv").write_text("id,text,image_url\nx,a fox,a.png\ny,a cat,no.png\n")
    assert (
        read("prompts=p.csv", "prompt=x").request.key
        == read("prompt='a fox'", "+image_url=a.png").request.key
    )
    with pytest.raises(ConfigError, match=r"p.csv, line 3: image_url=.*no.png: No such file or directory"):
        read("prompts=p.csv", "prompt=y")


def test_what_is_no_picture_is_refused_before_anything_is_bought(monkeypatch):
    """Says which file is wrong, and why."""
    whole = paint("a.png").read_bytes()
    Path("cut.png").write_bytes(whole[:40])
    Path("text.png").write_text("a picture")
    huge = zlib.crc32(head := b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
    Path("huge.png").write_bytes(whole[:12] + head + struct.pack(">I", huge) + whole[33:])
    for side in (1, 4, 63):
        paint(f"side{side}.png", size=(side, 100))
    Path("photo.png").write_bytes(b"\0\0\0\x18ftypheic\0\0")
    Path("sound.webp").write_bytes(b"RIFF\x00\x00\x00\x00WAVEfmt ")
    for name, why in (
        ("no.png", "No such file or directory"),
        (".", "Is a directory"),
        ("cut.png", "can't be decoded"),
        ("huge.png", "can't be decoded"),
        *((f"side{side}.png", f"is {side} x 100 pixels large; 64 a side are needed") for side in (1, 4, 63)),
        ("text.png", "is no picture in PNG, JPEG or WebP"),
        ("photo.png", "is no picture in PNG, JPEG or WebP, but a HEIC"),
        ("sound.webp", "is no picture in PNG, JPEG or WebP"),
    ):
        with pytest.raises(ConfigError) as caught:
            read(f"+image_url={name}")
        (problem,) = caught.value.problems
        assert problem.startswith("image_url=") and why in problem
    monkeypatch.setattr(picture, "MAX_BYTES", 100)
    with pytest.raises(ConfigError, match="MB are allowed"):
        read(f"+image_url={paint('large.png', size=(400, 400))}")


def test_how_far_a_video_is_from_its_picture(tmp_path):
    """Is near the picture that it begins with, far from another, and NaN where there is none to be read."""
    first, other = (clips.texture((320, 180), seed=seed, grain=24) for seed in (0, 9))
    measured = measure(clips.write(tmp_path / "a.mp4", [first, *clips.pan(6, size=(320, 180))]), {})
    for name, planes in (("first", first), ("other", other)):
        cv2.imwrite(f"{name}.png", cv2.resize(planes[0], (640, 360)))
    Path("text.png").write_text("no picture")
    far = [
        distance_from(Path(name), measured.facts)
        for name in ("first.png", "other.png", "text.png", "gone.png")
    ]
    assert far[0] <= 0.05 and 0.3 < far[1] < 0.7 and np.isnan(far[2:]).all()


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab.opened(tmp_path_factory.mktemp("lab")) as opened:
        yield opened


def run_of(prompt: str, path: Path, sample: int = 0) -> Cell:
    """Return a run that begins with a picture."""
    found = find_picture(path)
    one = lab.cell(prompt, sample)
    arguments = {**one.request.arguments, "image_url": found.mark}
    return replace(one, request=replace(one.request, arguments=arguments, pictures=[found]))


def uploads(laboratory: Lab) -> int:
    return httpx.get(f"{laboratory.emulator.base_url}/_emulator/counters").json()["uploads"]


@pytest.mark.slow
def test_a_picture_is_uploaded_once_and_its_video_bought_once(laboratory, tmp_path):
    """Uploads a picture once for all its runs and commands, keeps it, and logs it; a later upload buys nothing again."""
    path = paint("once.png")
    runs = [run_of("uploaded once", path, sample) for sample in range(3)]
    before = uploads(laboratory)
    outcome = laboratory.run("pictures", *runs)
    assert outcome.exit_code == 0, outcome.said
    assert uploads(laboratory) == before + 1
    (address,) = {entry["arguments"]["image_url"] for entry in laboratory.bought(runs[0])}
    assert httpx.get(address).content == path.read_bytes()
    folder = laboratory.folder / "store/fal/pictures"
    digest = find_picture(path).digest
    assert (folder / f"{digest}.png").read_bytes() == path.read_bytes()
    saved = json.loads((laboratory.entry(runs[0]).folder / "request.json").read_text())
    assert saved["arguments"]["image_url"] == f"sha256:{digest}"
    run = laboratory.tracked("pictures")[runs[0].name]
    (artifact,) = MlflowClient(laboratory.tracking_uri).list_artifacts(run.info.run_id, "image_url")
    assert artifact.path == f"image_url/{digest}.png"
    assert 0 <= run.data.metrics["input_distance"] <= 1
    old = [{"address": address, "at": (datetime.now(UTC) - timedelta(days=2)).isoformat()}]
    (folder / f"{digest}.json").write_text(json.dumps(old))
    laboratory.run("pictures", *runs, run_of("uploaded again", path))
    assert uploads(laboratory) == before + 2
    assert laboratory.charged(*runs) == 3
    paint("once.png", (250, 250, 250))  # what the store has is what the video began with
    again = {point.name: point.value for point in run_data.metrics(outcome.results[runs[0].name])}
    assert again["input_distance"] == run.data.metrics["input_distance"]


@pytest.mark.slow
def test_an_upload_that_fails_is_tried_again_and_buys_nothing(laboratory):
    """Tries a lost upload again, and says of one that fal refuses that nothing was submitted."""
    laboratory.emulator.set_faults({"at": "upload", "fault": "drop", "times": 2})
    tried, refused = (
        run_of("upload lost", paint("lost.png")),
        run_of("upload refused", paint("refused.png", (9, 9, 9))),
    )
    assert laboratory.run("uploads", tried).exit_code == 0
    laboratory.emulator.set_faults({"at": "upload", "fault": "unauthorized_401"})
    outcome = laboratory.run("uploads", refused)
    assert outcome.exit_code in (1, 2) and laboratory.bought(refused) == []
    laboratory.emulator.set_faults()
    changed = run_of("changed meanwhile", paint("changed.png", (1, 2, 3)))
    paint("changed.png", (3, 2, 1))
    outcome = laboratory.run("uploads", changed)
    assert "has changed since this command began" in outcome.said and laboratory.bought(changed) == []


@pytest.mark.slow
def test_a_lost_submission_with_a_picture_is_found(laboratory):
    """Adopts the request whose answer was lost by the address that its picture had."""
    one = run_of("lost with a picture", paint("found.png", (70, 80, 90)))
    laboratory.emulator.set_faults({"at": "submit", "fault": "drop", "times": 1})
    assert laboratory.run("lost pictures", one).exit_code == 0
    assert (laboratory.state(one).stage, laboratory.charged(one)) == (Stage.FINISHED, 1)
    laboratory.emulator.set_faults()


@pytest.mark.slow
def test_a_video_begins_with_its_picture(command):
    """Sweeps over pictures; shows each in the first frame of its video, which has its shape, and a scene later."""
    paint("red.png", size=(90, 160))
    paint("b.jpg", (200, 200, 40))
    one = read("+image_url=red.png")
    done = command(
        *("--config-dir", "mine", "-m", "model=still", "image_url=red.png,b.jpg"),
        *(*SMALL, "provider=emulator", "metrics=fast"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    video = cv2.VideoCapture(str(Store(command.folder / "store/emulator").entry(one.request).video))
    frames = [video.read()[1] for _ in range(8)]
    assert frames[0].shape[0] > frames[0].shape[1]
    assert np.abs(np.median(frames[0], axis=(0, 1)) - RED).max() < 12
    assert np.abs(np.median(frames[-1], axis=(0, 1)) - RED).max() > 30


@pytest.mark.parametrize("repository", ["fal_v3", "fal"])
def test_the_emulator_takes_fal_clients_uploads(emulator, monkeypatch, repository):
    """Takes a file from fal-client itself by either of its ways, and serves it at the address that it gives."""
    monkeypatch.setattr(fal_client.client, "REST_URL", emulator.base_url)
    monkeypatch.setattr(fal_client.client, "CDN_URL", emulator.base_url)
    path = paint("mine.png")

    async def upload() -> str:
        client = fal_client.AsyncClient(key="any")
        try:
            return await client.upload_file(path, repository=repository, fallback_repository=[])
        finally:
            await (await client._client).aclose()

    address = asyncio.run(upload())
    found = httpx.get(address)
    assert (found.content, found.headers["content-type"]) == (path.read_bytes(), "image/png")
    assert httpx.get(f"{emulator.base_url}/uploads/{'0' * 32}/mine.png").status_code == 404
    initiate = f"{emulator.base_url}/storage/upload/initiate"
    for body in (b"", b"[1]", b'{"content_type": "image/png"}'):
        assert httpx.post(initiate, content=body, headers={"Authorization": "Key any"}).status_code == 422
    assert httpx.put(f"{emulator.base_url}/uploads/../x.png", content=b"x").status_code != 200


def test_a_picture_is_uploaded_without_what_is_private(emulator, monkeypatch):
    """Uploads by HTTP alone where fal-client does not take our client any more."""

    async def gone(*args, **kwargs):
        raise AttributeError("gone")

    monkeypatch.setattr(fal_client.AsyncClient, "upload", gone)

    async def upload() -> str:
        provider = FalProvider(NO_CREDENTIALS, emulator.base_url, max_bytes=10**6)
        try:
            return await provider.upload(b"content", "image/png", "a.png")
        finally:
            await provider.close()

    assert httpx.get(asyncio.run(upload())).content == b"content"
