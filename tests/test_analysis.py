"""What notebooks import: real MLflow stores as data frames, and effects against plain transcriptions."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient
from scipy import stats

from kling_sweeps.analysis import (
    artifact_path,
    effects,
    frames_df,
    preview,
    runs_df,
    video_path,
)

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


def holm(p: Iterable[float]) -> list[float]:
    """Correct p values as Holm 1979 says, step by step."""
    p, corrected, largest = list(p), {}, 0.0
    for step, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, (len(p) - step) * p[index])
        corrected[index] = min(largest, 1.0)
    return [corrected[index] for index in range(len(p))]


def fill(experiment: Experiment, prompts: int, levels=(0.1, 0.5, 0.9)) -> pd.DataFrame:
    """Track noisy motions and contrasts, a run for each prompt and level, and return the runs."""
    noise = np.random.default_rng(1)
    for prompt, level in product(range(prompts), levels):
        metrics = {
            "motion": prompt + 2 * level + noise.normal(),
            "luma_contrast": prompt - level + noise.normal(),
        }
        experiment.add(metrics, prompt=f"p{prompt}", prompt_text=f"text {prompt}", cfg_scale=level)
    return experiment.runs()


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


def test_blocks_are_compared_by_a_paired_t_test(experiment):
    """Agrees with scipy's paired t test of the prompts, difference, interval and p value."""
    runs = fill(experiment, prompts=6)
    table = effects(runs, "cfg_scale", ["motion"])
    values = runs.pivot(index="prompt", columns="cfg_scale", values="motion")
    tested = {level: stats.ttest_rel(values[level], values[0.1]) for level in (0.5, 0.9)}
    corrected = holm(test.pvalue for test in tested.values())
    for (level, test), p in zip(tested.items(), corrected, strict=True):
        found = row(table, level)
        assert (found["n"], found["unit"], found["n_runs"]) == (6, "blocks", 6)
        assert found["mean"] == pytest.approx(values[level].mean())
        assert found["difference"] == pytest.approx((values[level] - values[0.1]).mean())
        assert (found["low"], found["high"]) == pytest.approx(tuple(test.confidence_interval(0.95)))
        assert found["p_holm"] == pytest.approx(p)


def test_the_sweep_by_hand(cfg):
    """Agrees with the textbook on two prompts, whose t has one degree of freedom: a Cauchy's quantile."""
    values = cfg.pivot(index="prompt", columns="cfg_scale", values="sharpness")
    one, two = values[0.9] - values[0.1]
    found = row(effects(cfg, "cfg_scale", ["sharpness"]), 0.9, "sharpness")
    margin = np.tan(np.pi * 0.475) * abs(one - two) / 2
    assert found["difference"] == pytest.approx((one + two) / 2)
    assert found["high"] - found["difference"] == pytest.approx(margin)
    assert found["difference"] - found["low"] == pytest.approx(margin)


def test_samples_of_a_block_count_once(experiment):
    """Averages the samples of a prompt before prompts are compared, however many there are."""
    for prompt, level, sample in product(range(4), (0.1, 0.9), range(3)):
        if (prompt, level, sample) != (2, 0.9, 2):
            motion = prompt + level + 0.3 * sample * prompt
            experiment.add({"motion": motion}, prompt=f"p{prompt}", cfg_scale=level, sample=sample)
    runs = experiment.runs()
    found = row(effects(runs, "cfg_scale"), 0.9)
    means = runs.groupby(["prompt", "cfg_scale"])["motion"].mean().unstack()
    test = stats.ttest_rel(means[0.9], means[0.1])
    assert (found["n_runs"], found["n"]) == (11, 4)
    assert (found["low"], found["high"]) == pytest.approx(tuple(test.confidence_interval()))


def test_samples_of_one_block_are_compared_by_welch(experiment):
    """Agrees with scipy's Welch test where there is one prompt, and counts the smaller side."""
    noise = np.random.default_rng(2)
    sides = {0.1: noise.normal(0, 1, 5), 0.9: noise.normal(1, 3, 4)}
    for level, values in sides.items():
        for sample, motion in enumerate(values):
            experiment.add({"motion": motion}, cfg_scale=level, sample=sample)
    found = row(effects(experiment.runs(), "cfg_scale", confidence=0.9), 0.9)
    test = stats.ttest_ind(sides[0.9], sides[0.1], equal_var=False)
    assert (found["n"], found["unit"], found["n_runs"]) == (4, "samples", 4)
    assert (found["low"], found["high"]) == pytest.approx(tuple(test.confidence_interval(0.9)))
    assert found["p_holm"] == pytest.approx(test.pvalue)


def test_p_values_are_corrected_for_the_whole_table(experiment):
    """Agrees with Holm's steps over all metrics and levels at once."""
    runs = fill(experiment, prompts=5, levels=(0.1, 0.3, 0.5, 0.9))
    table = effects(runs, "cfg_scale", ["motion", "luma_contrast"])
    compared = table[table["n"] > 0]
    alone = [
        effects(runs[runs["cfg_scale"].isin([0.1, r.cfg_scale])], "cfg_scale", [r.metric])["p_holm"].iloc[1]
        for r in compared.itertuples()
    ]
    assert len(alone) == 6
    assert list(compared["p_holm"]) == pytest.approx(holm(alone))


def test_the_reference_can_be_chosen(experiment):
    """Turns the sign of the difference around with the reference, whose own row compares nothing."""
    runs = fill(experiment, prompts=3, levels=(0.1, 0.9))
    up = effects(runs, "cfg_scale", ["motion"])
    down = effects(runs, "cfg_scale", ["motion"], reference=0.9)
    assert row(up, 0.9)["difference"] == pytest.approx(-row(down, 0.1)["difference"])
    own = row(down, 0.9)
    assert (own["n"], own["unit"], own["difference"], own["n_runs"]) == (0, "", 0, 3)
    assert np.isnan([own["low"], own["high"], own["p_holm"]]).all()


def test_a_single_sample_has_no_interval(experiment):
    """Tells the difference of one prompt's single samples, and that nothing is known of its error."""
    experiment.add({"motion": 1.0}, cfg_scale=0.1)
    experiment.add({"motion": 1.5}, cfg_scale=0.9)
    found = row(effects(experiment.runs(), "cfg_scale"), 0.9)
    assert (found["n"], found["unit"], found["difference"]) == (1, "samples", 0.5)
    assert np.isnan([found["low"], found["high"], found["p_holm"]]).all()


def test_what_failed_is_not_averaged(experiment):
    """Leaves out runs that failed, whatever they logged, and shows in n that they are missing."""
    for prompt, level in product("abc", (0.1, 0.9)):
        metrics, status = {"motion": ord(prompt) + level**2, "cost_usd": 1.4}, "FINISHED"
        if (prompt, level) == ("c", 0.9):
            metrics, status = {"cost_usd": 0.0}, "FAILED"
        experiment.add(metrics, status, prompt=prompt, cfg_scale=level)
    runs = experiment.runs()
    assert list(runs["status"]).count("FAILED") == 1
    table = effects(runs, "cfg_scale", ["motion", "cost_usd"])
    assert row(table, 0.1)["n_runs"] == 3
    assert (row(table, 0.9)["n_runs"], row(table, 0.9)["n"]) == (2, 2)
    assert row(table, 0.9, "cost_usd")["mean"] == 1.4


def test_a_level_where_everything_failed_keeps_its_row(experiment):
    """Shows n = 0 rather than nothing, or an error."""
    for prompt, level in product("ab", (0.1, 0.9)):
        metrics, status = ({}, "FAILED") if level == 0.9 else ({"motion": 1.0}, "FINISHED")
        experiment.add(metrics, status, prompt=prompt, cfg_scale=level)
    found = row(effects(experiment.runs(), "cfg_scale"), 0.9)
    assert (found["n_runs"], found["n"]) == (0, 0)
    assert np.isnan([found["mean"], found["difference"], found["low"], found["p_holm"]]).all()


def test_a_metric_that_one_run_lacks(experiment):
    """Compares the blocks that have both, as if the other were not there."""
    for number, (prompt, level) in enumerate(product("abc", (0.1, 0.9))):
        metrics = {"luma_mean": number**2} if (prompt, level) == ("c", 0.1) else {"motion": number**2}
        experiment.add(metrics, prompt=prompt, cfg_scale=level)
    runs = experiment.runs()
    found = row(effects(runs, "cfg_scale", ["motion"]), 0.9)
    assert (found["n_runs"], found["n"]) == (3, 2)
    assert found["difference"] == pytest.approx(((1 - 0) + (9 - 4)) / 2)
    assert found["mean"] == pytest.approx((1 + 9 + 25) / 3)


def test_blocks_that_share_nothing_are_not_mixed(experiment):
    """Compares the one prompt that has both levels, and no prompt with another."""
    for sample, motion in enumerate((1.0, 2.0)):
        experiment.add({"motion": motion}, prompt="both", cfg_scale=0.1, sample=sample)
        experiment.add({"motion": motion + 3}, prompt="both", cfg_scale=0.9, sample=sample)
        experiment.add({"motion": 100.0}, prompt="low", cfg_scale=0.1, sample=sample)
        experiment.add({"motion": -100.0}, prompt="high", cfg_scale=0.5, sample=sample)
    table = effects(experiment.runs(), "cfg_scale")
    assert (row(table, 0.9)["difference"], row(table, 0.9)["n"], row(table, 0.9)["unit"]) == (3, 2, "samples")
    assert row(table, 0.5)["n"] == 0
    assert np.isnan(row(table, 0.5)["difference"])


def test_where_nothing_varies_nothing_is_tested(experiment):
    """Tells a difference that is the same everywhere, without an interval, a p value or a warning."""
    for prompt, level, sample in product("abc", (5, 10), (0, 1)):
        metrics = {"frames": 24 * level, "motion": 0.1 + level * 0.01}
        experiment.add(metrics, prompt=prompt, duration=level, sample=sample)
    runs = experiment.runs()
    for chosen, unit in ((runs, "blocks"), (runs[runs["prompt"] == "a"], "samples")):
        table = effects(chosen, "duration")
        for metric, difference in (("frames", 120), ("motion", 0.05)):
            found = row(table, 10, metric)
            assert found["unit"] == unit
            assert found["difference"] == pytest.approx(difference)
            assert np.isnan([found["low"], found["high"], found["p_holm"]]).all()


def test_levels_are_ordered_as_numbers(experiment):
    """Takes 5 s for less than 10 s, and for the reference, also for a factor nobody knows of."""
    for level in (10, 5):
        experiment.add({"motion": 1.0}, duration=level, speed=level, prompt=str(level))
    runs = experiment.runs()
    assert list(effects(runs, "duration")["duration"]) == [5, 10]
    assert list(effects(runs, "speed")["speed"]) == [5, 10]
    assert list(effects(runs, "prompt")["prompt"]) == ["10", "5"]


def test_a_factor_of_a_template_makes_the_text(experiment):
    """Pairs by everything but the text, which is another for each camera."""
    cameras = ("dolly in", "static wide shot")
    for number, (light, camera) in enumerate(product("xyz", cameras)):
        text = f"A scene, {camera}, {light}"
        experiment.add({"motion": number**2}, prompt_text=text, camera=camera, light=light)
    found = row(effects(experiment.runs(), "camera"), "static wide shot")
    assert (found["n"], found["unit"]) == (3, "blocks")


def test_an_edited_prompt_is_another_block(experiment):
    """Keeps the old and the new text of a prompt apart, and the model and its endpoint together."""
    for number, (text, level, model) in enumerate(product(("old", "new"), (0.1, 0.9), ("v1", "v2"))):
        params = {"prompt_text": text, "cfg_scale": level, "model": model, "endpoint": f"fal/{model}"}
        experiment.add({"motion": number**2}, **params)
    runs = experiment.runs()
    assert row(effects(runs, "cfg_scale"), 0.9)["n"] == 4
    assert row(effects(runs, "model"), "v2")["n"] == 4
    assert row(effects(runs, "endpoint"), "fal/v2")["n"] == 4


def test_a_param_that_some_runs_lack(experiment):
    """Makes a block of the runs that have no such param."""
    for number, (negative, level) in enumerate(product((None, "", "blur"), (0.1, 0.9))):
        experiment.add({"motion": number**2}, negative_prompt=negative, cfg_scale=level)
    assert row(effects(experiment.runs(), "cfg_scale"), 0.9)["n"] == 3


def test_a_param_named_as_a_metric(experiment):
    """Keeps both, the param under MLflow's own word for it."""
    for number, (wanted, prompt) in enumerate(product(("fast", "slow"), "ab")):
        experiment.add({"motion": number**2}, motion=wanted, prompt=prompt)
    runs = experiment.runs()
    assert list(runs["params.motion"]) == ["fast", "fast", "slow", "slow"]
    assert list(runs["motion"]) == [0, 1, 4, 9]
    assert row(effects(runs, "params.motion"), "slow")["n"] == 2


def test_bookkeeping_is_no_statistic(experiment):
    """Compares what was measured, unless cost or seconds are asked for."""
    for level in (0.1, 0.9):
        experiment.add({"motion": level, "cost_usd": 1.4, "queue_s": 3.0}, cfg_scale=level)
    runs = experiment.runs()
    assert set(effects(runs, "cfg_scale")["metric"]) == {"motion"}
    assert set(effects(runs, "cfg_scale", ["cost_usd"])["metric"]) == {"cost_usd"}


def test_an_experiment_without_runs(experiment):
    """Gives empty tables that still have their columns."""
    runs = experiment.runs()
    assert list(runs["run_id"]) == []
    assert frames_df(runs, experiment.uri).empty


def test_what_is_not_there_is_named(experiment):
    """Names what there is, for a factor, a level and a metric that the runs don't have."""
    runs = fill(experiment, prompts=1)
    with pytest.raises(LookupError, match=r"no param 'seed'.*cfg_scale"):
        effects(runs, "seed")
    with pytest.raises(LookupError, match="no param 'motion'"):
        effects(runs, "motion")
    with pytest.raises(LookupError, match=r"no level 0\.3; it has \[0\.1, 0\.5, 0\.9\]"):
        effects(runs, "cfg_scale", reference=0.3)
    with pytest.raises(LookupError, match=r"no metric 'beauty'.*motion"):
        effects(runs, "cfg_scale", ["beauty"])
    with pytest.raises(ValueError, match="confidence=95"):
        effects(runs, "cfg_scale", confidence=95)
    with pytest.raises(LookupError, match=r"copy .attrs"):
        effects(pd.DataFrame(runs.to_dict("records")), "cfg_scale")


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
    with pytest.raises(LookupError, match=r"no experiment 'thrice'; there are .*'kling_sweeps/twice"):
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
