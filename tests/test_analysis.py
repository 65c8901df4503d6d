"""Runs, frames and videos of real MLflow stores as a notebook sees them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from kling_sweeps.analysis import (
    artifact_path,
    cameras,
    cells,
    effects,
    frames_df,
    preview,
    repeats_df,
    runs_df,
    video_path,
)
from kling_sweeps.analysis.repeats import REPEAT_DISTANCE, distances
from kling_sweeps.metrics.camera import WORDS, asked

COMMON = {"prompt": "potter", "prompt_text": "A potter", "model": "kling", "endpoint": "fal-ai/kling"}


@dataclass
class Experiment:
    """An experiment in a real database, written by a test run by run."""

    client: MlflowClient
    uri: str
    name: str

    def __post_init__(self) -> None:
        self.id = self.client.create_experiment(self.name)

    def add(self, metrics: dict | None = None, status: str = "FINISHED", **params: object) -> str:
        """Track a run and return its id."""
        run_id = self.client.create_run(self.id, tags={"provider": "fal"}).info.run_id
        for name, value in {**COMMON, "sample": 0, **params}.items():
            if value is not None:
                self.client.log_param(run_id, name, value)
        for name, value in (metrics or {}).items():
            self.client.log_metric(run_id, name, value)
        self.client.set_terminated(run_id, status)
        return run_id

    def runs(self) -> pd.DataFrame:
        return runs_df(self.name, self.uri)


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> tuple[MlflowClient, str]:
    """Make one database, whose tables take seconds, for all tests here."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    return MlflowClient(uri), uri


@pytest.fixture
def experiment(database, request) -> Experiment:
    """Give an empty experiment."""
    return Experiment(*database, f"kling_sweeps/{request.node.name}")


@pytest.fixture(scope="module")
def cfg(sweep) -> pd.DataFrame:
    return runs_df("cfg", sweep.command.tracking_uri)


def row(table: pd.DataFrame, level: object, metric: str = "motion") -> pd.Series:
    """Return the one row of a level and metric; the level is in the second column."""
    (found,) = table[(table["metric"] == metric) & (table.iloc[:, 1] == level)].iloc
    return found


def test_repeats_and_cameras(cfg, sweep):
    """Says of each cell of the sweep how far its videos are apart, and of each video what its camera does."""
    assert cfg["picture_hashes"].str.fullmatch(r"[0-9a-f]{16}( [0-9a-f]{16})*").all()
    assert set(cfg["camera_word"]) <= set(WORDS)
    found = repeats_df(cfg)
    assert found["repeats"].sum() == len(cfg) and "sample" not in found
    has_repeats = found["repeats"] > 1
    assert found[REPEAT_DISTANCE].notna().equals(has_repeats)
    assert found.loc[has_repeats, REPEAT_DISTANCE].between(0, 0.7).all()


def hashed(levels: dict[str, list[str]], prompts: int) -> pd.DataFrame:
    """Make runs of a setting `mood` in so many prompts, each with repeats that look like these hashes."""
    rows = [
        {
            **COMMON,
            "prompt": f"p{prompt}",
            "prompt_text": f"text {prompt}",
            "mood": mood,
            "sample": sample,
            "status": "FINISHED",
            "motion": 1.0 + prompt,
            "picture_hashes": looks,
        }
        for prompt, (mood, samples) in product(range(prompts), levels.items())
        for sample, looks in enumerate(samples)
    ]
    runs = pd.DataFrame(rows)
    runs.attrs.update(params=[*COMMON, "mood", "sample"], metrics=["motion"], goal={})
    return runs


def test_the_distance_of_repeats():
    """Is the mean share of bits that differ, of all pairs; of one video, and of failed ones, there is none."""
    same, third, all_bits = f"{0:016x}", f"{2**21 - 1:016x}", f"{2**63 - 1:016x}"
    runs = hashed({"calm": [same, same, third], "wild": [same, all_bits], "one": [same, None]}, 1)
    found = repeats_df(runs).set_index("mood")[REPEAT_DISTANCE]
    assert found["calm"] == pytest.approx((0 + 1 / 3 + 1 / 3) / 3) and found["wild"] == 1
    assert np.isnan(found["one"])
    per_run = distances(runs)
    assert per_run.tolist()[:5] == pytest.approx([1 / 6, 1 / 6, 1 / 3, 1, 1]) and per_run[5:].isna().all()


def test_what_a_setting_does_to_repeats():
    """Compares the distances of cells, which prompts carry: repeats of one cell are one value, and no failures."""
    random = np.random.default_rng(0)

    def near(bits: int) -> list[str]:
        flips = random.choice(63, bits, replace=False)
        return [f"{0:016x}", f"{sum(1 << int(each) for each in flips):016x}"]

    runs = pd.concat(
        [
            hashed({"calm": near(4 + n % 2), "wild": near(20 + n % 3)}, 1).assign(
                prompt=f"p{n}", prompt_text=f"text {n}"
            )
            for n in range(6)
        ],
        ignore_index=True,
    )
    runs.attrs.update(params=[*COMMON, "mood", "sample"], metrics=["motion"], goal={})
    found = row(effects(runs, "mood"), "wild", REPEAT_DISTANCE)
    assert found["difference"] == pytest.approx(16.5 / 63) and found["verdict"] == "worth a look"
    assert (found["n_runs"], found["failed"]) == (6, 0)
    few = runs[runs["prompt"].isin(["p0", "p1"])]
    few.attrs.update(runs.attrs)
    assert "2 prompts can't carry" in row(effects(few, "mood"), "wild", REPEAT_DISTANCE)["verdict"]
    asked = row(effects(runs, "mood", [REPEAT_DISTANCE]), "wild", REPEAT_DISTANCE)
    assert asked["verdict"] == "found"
    assert cells(runs, "mood", REPEAT_DISTANCE).table["mean"].tolist() == pytest.approx([4.5 / 63, 21 / 63])


def test_cameras_beside_what_was_asked():
    """Counts how many videos did what their text asks for, leaving out those of which nothing can be said."""
    said = {
        "static wide shot": ["static", "static", "pan left", "unclear"],
        "slow dolly in": ["static", "zoom in"],
        "golden hour": ["static"],
    }
    rows = [{"look": look, "status": "FINISHED", "camera_word": word} for look in said for word in said[look]]
    runs = pd.DataFrame([*rows, {"look": "slow dolly in", "status": "FAILED", "camera_word": None}])
    runs.attrs.update(params=["look"], metrics=[])
    found = cameras(runs, "look").set_index("look")
    static, dolly = found.loc["static wide shot"], found.loc["slow dolly in"]
    assert (static["asked"], static["runs"], static["unclear"], static["did"]) == ("static", 4, 1, 2)
    assert static["share"] == pytest.approx(2 / 3) and static["measured"] == "static 2, pan left 1, unclear 1"
    z = 1.959964
    center, half = (2 + z**2 / 2) / (3 + z**2), z / (3 + z**2) * np.sqrt(2 / 3 + z**2 / 4)
    assert [static["low"], static["high"]] == pytest.approx([center - half, center + half], rel=1e-5)
    assert (dolly["runs"], dolly["did"], dolly["share"]) == (2, 1, 0.5)
    assert found.loc["golden hour", "asked"] == "" and np.isnan(found.loc["golden hour", "share"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("slow push-in", {"zoom in"}),
        ("slow dolly in", {"zoom in"}),
        ("The camera is slowly moving in on her face", {"zoom in"}),
        ("the drone flies forward over a forest", {"zoom in"}),
        ("pull back to reveal the city", {"zoom out"}),
        ("slow zoom out", {"zoom out"}),
        ("camera pans to the left", {"pan left"}),
        ("slow pan", {"pan left", "pan right"}),
        ("panning right across the harbour", {"pan right"}),
        ("the camera stays still", {"static"}),
        ("a shot of a still lake, a man walking forward", set()),
        ("Locked-off tripod shot", {"static"}),
        ("static wide shot", {"static"}),
        ("fixed camera", {"static"}),
        ("aerial orbit around the subject", {"orbit or truck", "pan left", "pan right"}),
        ("the camera circles the dancer", {"orbit or truck", "pan left", "pan right"}),
        ("tracking shot from behind", {"orbit or truck", "pan left", "pan right"}),
        ("handheld, then tilts up", {"handheld", "tilt up"}),
        ("crane up over the crowd", {"tilt up"}),
        ("camera roll", {"roll clockwise", "roll counter-clockwise"}),
        ("an ecstatic crowd", set()),
        ("a surprising turn at sunrise", set()),
        ("a circle of friends looks forward to dinner", set()),
        ("a frying pan on a truck, static electricity, a rolling hill", set()),
        ("a family is moving in, the father tilting his head", set()),
        ("a satellite orbiting the earth, smoke rising", set()),
        ("a child with a handheld console on a stationary bike", set()),
        ("Peter Pan tracks a deer in a Japanese garden", set()),
    ],
)
def test_what_a_text_asks_of_a_camera(text, words):
    """Reads the phrases that people write, whichever satisfy them, and takes no other words for them."""
    assert set(asked(text)) == words and words <= set(WORDS)


def test_runs_are_rows(cfg, sweep):
    """Gives every run of the sweep with MLflow's own params and metrics, settings as numbers."""
    client = MlflowClient(sweep.command.tracking_uri)
    assert len(cfg) == 10
    assert cfg["cfg_scale"].dtype == float
    assert set(cfg["cfg_scale"]) == {0.1, 0.3, 0.5, 0.7, 0.9}
    assert set(cfg["duration"]) == {5}
    assert set(cfg["status"]) == {"FINISHED"}
    assert set(cfg["provider"]) == {"emulator"}
    for found in cfg.to_dict("records"):
        run = client.get_run(found["run_id"])
        assert found["run_name"] == run.info.run_name
        assert found["request_key"] == run.data.tags["request_key"]
        assert found["prompt_text"] == run.data.params["prompt_text"]
        assert found["sharpness"] == run.data.metrics["sharpness"]
    assert {"sharpness", "cost_usd"} <= set(cfg.attrs["metrics"])
    assert {"prompt", "cfg_scale", "endpoint"} <= set(cfg.attrs["params"])
    assert not [name for name in cfg if name.startswith("frame/")]


def test_runs_stand_in_the_order_they_were_begun(experiment):
    """Sorts runs by their start, whatever MLflow's own order is."""
    begun = [experiment.add(cfg_scale=level) for level in (0.9, 0.1, 0.5)]
    assert list(experiment.runs()["run_id"]) == begun


def test_frames_are_those_the_metrics_were_made_of(cfg, sweep):
    """Gives a row a frame under its run's params; the means of the series are the run's metrics."""
    frames = frames_df(cfg, sweep.command.tracking_uri)
    assert len(frames) == 10 * 120
    means = frames.groupby("run_id").mean(numeric_only=True).loc[cfg["run_id"]]
    for name in ("luma_mean", "sharpness", "motion", "cfg_scale"):
        np.testing.assert_allclose(means[name], cfg[name], rtol=1e-6)
    assert list(frames["frame"][:3]) == [0, 1, 2]


def test_frames_of_chosen_runs(cfg, sweep):
    """Reads no more runs than the table has, and none that did not finish."""
    chosen = cfg[cfg["prompt"] == "skater"]
    frames = frames_df(chosen, sweep.command.tracking_uri)
    assert set(frames["run_id"]) == set(chosen["run_id"])
    assert frames_df(chosen.assign(status="FAILED"), sweep.command.tracking_uri).empty


def test_a_video_is_where_it_is_said_to_be(cfg, sweep):
    """Finds a run's mp4 and its other artifacts without copying them."""
    run = cfg.iloc[0]
    path = video_path(run["run_id"], sweep.command.tracking_uri)
    strip = artifact_path(run["run_id"], "filmstrip.png", sweep.command.tracking_uri)
    for found in (path, strip):
        assert found.is_relative_to(sweep.command.folder)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == run["frames"]
    assert strip.read_bytes().startswith(b"\x89PNG")


def test_what_a_run_lacks_is_named(experiment):
    """Says which run has no video, and which artifact is missing."""
    run_id = experiment.add()
    with pytest.raises(LookupError, match=f"{run_id} has no video.mp4"):
        video_path(run_id, experiment.uri)
    with pytest.raises(LookupError, match=r"has no filmstrip\.png"):
        artifact_path(run_id, "filmstrip.png", experiment.uri)


@pytest.mark.parametrize(("height", "size"), [(240, (320, 180)), (90, (160, 90)), (77, (136, 76))])
def test_a_preview_is_the_whole_video_made_small(cfg, sweep, height, size):
    """Keeps frames and times, shrinks to even sides, and never enlarges."""
    small = preview(video_path(cfg["run_id"][0], sweep.command.tracking_uri), height)
    with av.open(io.BytesIO(small)) as container:
        frames = list(container.decode(video=0))
    assert {(frame.width, frame.height) for frame in frames} == {size}
    assert [frame.time for frame in frames] == pytest.approx(np.arange(120) / 24, abs=1e-4)


def test_a_preview_looks_as_its_video(cfg, sweep):
    """Keeps the brightness and colours of what it is a copy of."""
    path = video_path(cfg["run_id"][0], sweep.command.tracking_uri)
    means = []
    for source in (str(path), io.BytesIO(preview(path))):
        with av.open(source) as container:
            means.append(next(container.decode(video=0)).to_ndarray(format="rgb24").mean(axis=(0, 1)))
    np.testing.assert_allclose(means[0], means[1], atol=3)


def test_the_sweep_says_what_it_lacks(cfg):
    """Gives what two prompts of one sample differ by, without a claim, and why."""
    values = cfg.pivot(index="prompt", columns="cfg_scale", values="luma_contrast")
    found = row(effects(cfg, "cfg_scale", ["luma_contrast"]), 0.9, "luma_contrast")
    assert found["difference"] == pytest.approx((values[0.9] - values[0.1]).mean())
    assert (found["prompts"], found["verdict"]) == (2, "no cell has repeats, such as sample=0,1")


def test_a_param_named_as_a_metric(experiment):
    """Keeps both, the param under MLflow's own word for it."""
    for number, (wanted, prompt) in enumerate(product(("fast", "slow"), "ab")):
        experiment.add({"motion": number**2}, motion=wanted, prompt=prompt, prompt_text=f"A {prompt}")
    runs = experiment.runs()
    assert list(runs["params.motion"]) == ["fast", "fast", "slow", "slow"]
    assert list(runs["motion"]) == [0, 1, 4, 9]
    assert row(effects(runs, "params.motion"), "slow")["prompts"] == 2


def test_an_experiment_without_runs(experiment):
    """Gives empty tables that still have their columns."""
    runs = experiment.runs()
    assert list(runs["run_id"]) == []
    assert frames_df(runs, experiment.uri).empty


def test_an_experiment_is_found_by_its_sweep(database):
    """Finds what was bought or emulated, asks which where both are there, and forgets what was deleted."""
    client, uri = database
    emulated = Experiment(client, uri, "kling_sweeps/twice (emulator)")
    emulated.add(cfg_scale=0.1)
    assert len(runs_df("twice", uri)) == 1
    bought = Experiment(client, uri, "kling_sweeps/twice")
    with pytest.raises(LookupError, match=r"'kling_sweeps/twice' or 'kling_sweeps/twice \(emulator\)'"):
        runs_df("twice", uri)
    assert len(runs_df(bought.name, uri)) == 0
    assert len(runs_df(emulated.name, uri)) == 1
    client.delete_experiment(bought.id)
    assert len(runs_df("twice", uri)) == 1
    with pytest.raises(LookupError, match=r"no experiment 'thrice'; did you mean twice\?"):
        runs_df("thrice", uri)


def test_a_folder_without_a_database_stays_so(tmp_path, monkeypatch):
    """Says what to do in a wrong folder, and leaves no empty database there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(LookupError, match=r"mlflow\.db: run a sweep, or set MLFLOW_TRACKING_URI"):
        runs_df("cfg")
    assert list(Path().iterdir()) == []


def test_the_database_is_the_one_of_the_environment(sweep, monkeypatch):
    """Reads where MLFLOW_TRACKING_URI points to."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sweep.command.tracking_uri)
    assert len(runs_df("cfg")) == 10
