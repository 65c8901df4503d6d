"""The registry, its configuration, and what every metric promises."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from math import inf, isnan, nan
from pathlib import Path

import clips
import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pyarrow import parquet

from kling_sweeps import metrics
from kling_sweeps.errors import ConfigError, VideoError
from kling_sweeps.measurement.measurement import Measurement
from kling_sweeps.metric import (
    FrameMetric,
    SampledMetric,
    Value,
    drawn,
    mean,
    parameters,
    percentile,
    samples,
)
from kling_sweeps.metrics import METRICS, build, describe, fingerprint, measure
from kling_sweeps.store.measured import is_measured

CONF = Path(__file__).parent.parent / "conf" / "metrics"
# tests/test_text.py has the text, which needs an extra and a text.
USUAL = [name for name in METRICS if name != "text"]
EVERY = pytest.mark.parametrize("name", USUAL)
NEEDS_A_REQUEST = {"aspect_error", "duration_error_s"}
# Nothing is steeper or changes more than anything else in what is constant.
NEEDS_STILLNESS = {"static_flicker"}
CAMERA = {value.name for value in METRICS["camera"].values}
NEEDS_A_STEP = {
    *("blockiness", "edge_width", "loop_gap", "warp_error_dis", "motion", "motion_p95", "dynamic_share"),
    *CAMERA,
}
NEEDS_TWO_FRAMES = {
    *("temporal_information", "temporal_information_mean", "vbench_temporal_flickering", "loop_gap"),
    *("motion", "motion_p95", "dynamic_share", "warp_error_dis", "frozen_share", "duplicate_share", "cuts"),
    *("exposure_flicker", "exposure_drift", "color_drift", "stutter_share", "static_flicker"),
    *CAMERA,
}


@dataclass
class Brightness(FrameMetric):
    """A user's own metric."""

    version = 3
    values = (Value("brightness", "stored Y", "levels", (0, 255), "neither", "mean"),)

    gain: float = 1.0

    def per_frame(self, frame):
        return {"brightness": self.gain * frame.luma.mean()}


@dataclass
class Faulty(Brightness):
    """A metric that raises, at a frame or at the end."""

    values = (Value("faulty", "nothing", "1", (0, 1), "neither", "none"),)

    at: int = 0

    def per_frame(self, frame):
        if frame.index == self.at:
            raise IndexError("no such thing")
        return {"faulty": 1}

    def compute(self):
        raise ZeroDivisionError("nothing to divide by")


@dataclass
class Nothing(Brightness):
    def compute(self):
        return None


@dataclass
class Misspelt(Brightness):
    def per_frame(self, frame):
        return {"brigthness": 1}


@dataclass
class NoNumber(Brightness):
    def compute(self):
        return {"brightness": "much"}


@dataclass
class Thief(Brightness):
    def per_frame(self, frame):
        return {"luma_mean": 7, "brightness": 1}


@dataclass
class OneValue(Brightness):
    values = Value("alone", "no tuple", "1")


@dataclass
class EveryOther(SampledMetric):
    """A user's own metric whose series has a name of its own."""

    version = 1
    values = (Value("last_index", "none", "1", (0, 100), "neither", "none"),)

    def per_frame(self, frame):
        return {"index": frame.index}

    def compute(self):
        return {"last_index": max(samples(self.series["index"]))}


class TestContract:
    @EVERY
    def test_declares_itself(self, name):
        """Each value has a name, a unit, a range, a direction and a source."""
        kind = METRICS[name]
        assert kind.version >= 1 and kind.__doc__ and kind.values
        for value in kind.values:
            assert value.name and value.meaning and value.unit and value.source
            assert value.range[0] < value.range[1]
            assert value.direction in {"higher", "lower", "neither"}

    @EVERY
    def test_values_are_as_declared(self, tmp_path, name):
        """A moving clip, or a still one where that is needed, gives each declared value, a number within its range."""
        path = clips.write(tmp_path / "a.mp4", clips.still() if name in NEEDS_STILLNESS else clips.pan())
        measured = measure(path, {name: {}}, aspect_ratio="16:9", duration=5)
        assert measured.errors == {}
        assert list(measured.values) == [value.name for value in METRICS[name].values]
        for value in METRICS[name].values:
            assert value.range[0] <= measured.values[value.name] <= value.range[1]

    @EVERY
    def test_one_frame(self, tmp_path, name):
        """What needs two frames is NaN on one; the rest is a number."""
        path = clips.write(tmp_path / "a.mp4", clips.still(1))
        measured = measure(path, {name: {}})
        assert measured.errors == {}
        missing = {key for key, value in measured.values.items() if isnan(value)}
        assert missing == set(measured.values) & (NEEDS_TWO_FRAMES | NEEDS_A_REQUEST)

    @EVERY
    @pytest.mark.parametrize("value", [16, 128, 235])
    def test_constant(self, tmp_path, name, value):
        """A constant clip is a number for every metric that does not compare steps."""
        path = clips.write(tmp_path / "a.mp4", clips.grey(value))
        measured = measure(path, {name: {}}, aspect_ratio="4:3", duration=1)
        assert measured.errors == {}
        missing = {key for key, number in measured.values.items() if isnan(number)}
        # Noise is cut off in black and white, and nothing is a share of black.
        unseen = NEEDS_A_STEP | ({"noise_sigma"} if value in (16, 235) else set())
        unseen |= {"exposure_flicker", "exposure_drift", "static_flicker"} if value == 16 else set()
        assert missing == set(measured.values) & unseen

    @EVERY
    def test_two_passes_are_equal(self, tmp_path, name):
        """The same file gives the same numbers."""
        path = clips.write(tmp_path / "a.mp4", clips.pan())
        first, second = (measure(path, {name: {}}) for _ in range(2))
        np.testing.assert_equal(first.values, second.values)

    @EVERY
    @pytest.mark.parametrize("threads", [1, 2])
    def test_threads_change_nothing(self, tmp_path, name, threads):
        """Decoding with more threads gives the same numbers."""
        path = clips.write(tmp_path / "a.mp4", clips.pan())
        np.testing.assert_equal(
            measure(path, {name: {}}, threads=threads).values, measure(path, {name: {}}).values
        )

    def test_order_is_irrelevant(self, tmp_path):
        """A metric gives the same beside others, before or after them, as alone."""
        path = clips.write(tmp_path / "a.mp4", clips.pan())
        forward = measure(path, "full").values
        assert_same(forward, measure(path, dict(reversed(metrics.specification("full").items()))).values)
        for name in USUAL:
            alone = measure(path, {name: {}}).values
            assert_same(alone, {key: forward[key] for key in alone})

    @EVERY
    @pytest.mark.parametrize(
        "size", [(96, 128), (127, 95), (16, 16), (640, 32), (640, 20), (8, 640), (640, 8)]
    )
    def test_any_size(self, tmp_path, name, size):
        """No size is an error."""
        path = clips.write(tmp_path / "a.mkv", clips.noise(10, frames=3, size=size), codec="ffv1", options={})
        assert measure(path, {name: {}}).errors == {}

    def test_nothing_was_seen(self):
        """A metric that saw no frame gives NaN."""
        for metric in build({name: {} for name in METRICS if name != "file"}):
            assert all(map(isnan, metric.compute().values()))

    def test_statistics_leave_out_nan(self):
        """Frames without a value are no samples, and no samples give NaN."""
        assert mean([nan, 1, 3]) == 2
        assert percentile([nan, 0, 10], 95) == pytest.approx(9.5)
        assert isnan(mean([nan])) and isnan(percentile([], 95))


class TestConfiguration:
    @pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.name)
    def test_yaml_builds(self, path):
        """Every set of metrics in conf/ is valid and opens with the command that uses it."""
        assert path.read_text().startswith(f"# python -m kling_sweeps metrics={path.stem}\n")
        assert build(path)

    def test_default_is_the_default(self, tmp_path):
        """`measure(path)` measures what `metrics=default` measures."""
        default = yaml.safe_load((CONF / "default.yaml").read_text())
        path = clips.write(tmp_path / "a.mp4", clips.pan())
        np.testing.assert_equal(measure(path).values, measure(path, default).values)

    def test_full_is_all(self):
        """`metrics=full` has every metric but the texts, with the parameters that the classes have by themselves."""
        assert fingerprint("full") == fingerprint({name: {} for name in METRICS if name != "text"})
        assert metrics.specification("text")["text"] == parameters(METRICS["text"])

    def test_sets_nest(self):
        """Each set has what the smaller ones have, so that a name found in one is found in the larger."""
        names = [{row.name for row in describe(each)} for each in ("fast", "default", "full")]
        assert names[0] < names[1] < names[2]

    def test_a_set_of_ones_own(self, tmp_path):
        """A YAML file builds on another by its `defaults`, as it does for Hydra."""
        path = tmp_path / "mine.yaml"
        text = (
            "defaults: [default, _self_]\nfreeze: {noise: 2e-3}\nwarp_error: {long_side: 160}\nloop: null\n"
        )
        path.write_text(text)
        with initialize_config_dir(str(tmp_path), version_base="1.3"):
            (tmp_path / "default.yaml").write_text((CONF / "default.yaml").read_text())
            hydras = OmegaConf.to_container(compose("mine"))
        spec = metrics.specification(path)
        assert spec == hydras
        assert spec["warp_error"] == {"long_side": 160, "every": 24} and spec["freeze"]["noise"] == 0.002
        (tmp_path / "first.yaml").write_text("defaults: [_self_, default]\nwarp_error: {long_side: 160}\n")
        assert metrics.specification(tmp_path / "first.yaml")["warp_error"]["long_side"] == 320

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("[luma]", "expected a mapping"),
            ("1: {}", "expected a mapping"),
            ("a: [", "can't be read"),
            ("luma: {}\nluma: {}", "can't be read"),
            ("{}", "there is no metric in it"),
            ("defaults: [mine]", "lead back to itself"),
            ("defaults: fast", "a list of names"),
            ("defaults: 5", "a list of names"),
            ("defaults: [{fast: 1}]", "a list of names"),
            ("defaults: [elsewhere]", "mine.yaml, defaults: elsewhere: neither a set"),
            (None, r"neither a set \(default, fast, full, text\)"),
        ],
    )
    def test_no_set(self, tmp_path, text, problem):
        """What is no set of metrics is refused with its name and what would be one."""
        path = tmp_path / "mine.yaml"
        if text:
            path.write_text(text)
        with pytest.raises(ConfigError, match=problem):
            metrics.specification(path)

    def test_all_problems_at_once(self):
        """Unknown metrics, unknown parameters and wrong types are named together, with what is valid."""
        spec = {
            "sharpnes": {},
            "sharpness": {"short_sid": 3, "short_side": "big"},
            "exposure": {"gain": 1},
            "motion": 5,
            "own": {"target": "nowhere:Metric"},
            "other": {"target": "json:dumps"},
        }
        with pytest.raises(ConfigError) as caught:
            build(spec)
        text = str(caught.value)
        assert len(caught.value.problems) == 7
        for part in (
            "metrics.sharpnes is not a metric; did you mean sharpness?",
            "vbench_temporal_flickering",
            "metrics.sharpness.short_sid is not a parameter; did you mean short_side?",
            "short_side=480",
            "metrics.sharpness.short_side='big': expected int",
            "metrics.exposure.gain is not a parameter; there are none",
            "metrics.motion=5",
            "metrics.own.target='nowhere:Metric'",
            "not a class derived from FrameMetric",
        ):
            assert part in text

    def test_samples_lock_onto_nothing(self):
        """Of many groups each place is drawn about as often, odd and even alike, the same each time."""
        places = [drawn(group, 12) for group in range(1, 1201)]
        assert all(70 <= places.count(place) <= 130 for place in range(12))
        assert places == [int(np.random.default_rng(group).integers(12)) for group in range(1, 1201)]

    @pytest.mark.parametrize("size", [0, -1, True, 1.5])
    def test_impossible_sizes(self, size):
        """A size that no picture can have is refused."""
        with pytest.raises(ConfigError, match="short_side"):
            build({"sharpness": {"short_side": size}})

    @pytest.mark.parametrize("threshold", [27, 1, 0, -0.5])
    def test_a_threshold_that_is_no_correlation(self, threshold):
        """A threshold of the cuts that were counted by colour, or that everything or nothing is below, is refused."""
        with pytest.raises(ConfigError, match=r"metrics\.cuts: threshold=.*between 0 and 1"):
            build({"cuts": {"threshold": threshold}})

    def test_sampled_frames_are_those(self, tmp_path):
        """A series has its values on the frames they were measured on, NaN on the others and after the last."""
        path = clips.write(tmp_path / "a.mp4", clips.still())
        own = {"target": "test_metrics:EveryOther", "every": 3}
        measured = measure(path, {"own": own, "warp_error": {"every": 5}})
        taken = [3 * group + drawn(group, 3) for group in range(3)]
        taken = [index for index in taken if index < 8]
        assert measured.errors == {} and measured.values["last_index"] == taken[-1]
        assert measured.frames["index"].dropna().to_dict() == {index: index for index in taken}
        assert list(measured.frames.warp_error_dis.dropna().index) == [
            index for index in (1, 6 + drawn(1, 5)) if index < 8
        ]
        assert list(measured.frames) == ["frame", "time_s", "index", "warp_error_dis"]

    def test_a_metric_without_a_fork(self, tmp_path):
        """A user's own class is named in YAML, with its parameters."""
        path = clips.write(tmp_path / "a.mp4", clips.grey(100))
        spec = {"mine": {"target": "test_metrics:Brightness", "gain": 2}}
        assert measure(path, spec).values == {"brightness": 200}

    def test_a_value_needs_no_range(self):
        """What can be any number declares what it is, and no more."""
        assert Value("warmth", "red against blue", "1").range == (-inf, inf)

    @pytest.mark.parametrize(
        ("bad", "said"),
        [
            ("class Bad:\n    values = Value()", "line 5: TypeError"),
            ("class Bad:\n    values = (", "line 5: SyntaxError"),
        ],
    )
    def test_a_bad_class_is_named_by_its_line(self, tmp_path, monkeypatch, bad, said):
        """Says once where a file of metrics is wrong, and blames no metric that was wanted of it."""
        name = f"own_{abs(hash(bad))}"
        (tmp_path / f"{name}.py").write_text(f"from kling_sweeps.metric import Value\n\n\n{bad}\n")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(ConfigError) as caught:
            build({"good": {"target": f"{name}:Good"}, "other": {"target": f"{name}:Other"}})
        (problem,) = caught.value.problems
        assert f"{name}.py, {said}" in problem and "metrics.good" not in problem

    def test_values_that_are_none_are_that_metrics_fault(self):
        """Blames a class whose values are no tuple of values, and nothing else."""
        with pytest.raises(ConfigError, match="no tuple of values") as caught:
            build({"luma": {}, "own": {"target": "test_metrics:OneValue"}})
        assert len(caught.value.problems) == 1

    def test_one_name_one_value(self):
        """Two metrics that give a value of the same name are refused."""
        with pytest.raises(ConfigError, match=r"metrics\.sharpness and metrics\.again both give sharpness"):
            build({"sharpness": {}, "again": {"target": "kling_sweeps.metrics.sharpness:Sharpness"}})

    def test_describe(self):
        """Every value is described once, with what its class declares."""
        rows = describe("full")
        assert len({row.name for row in rows}) == len(rows)
        assert {row.metric for row in rows} == set(METRICS) - {"text"}


class TestFingerprint:
    def test_names_what_is_measured(self):
        """Order and defaults written out change nothing; parameters and metrics do."""
        assert fingerprint({"luma": {}, "sharpness": None}) == fingerprint(
            {"sharpness": {"short_side": 480}, "luma": {}}
        )
        specs = [{}, {"luma": {}}, {"sharpness": {}}, {"sharpness": {"short_side": 720}}]
        assert len({fingerprint(spec) for spec in specs}) == 4

    def test_a_new_version_is_measured_again(self, monkeypatch):
        """A changed formula has another fingerprint."""
        before = fingerprint({"luma": {}})
        monkeypatch.setattr(METRICS["luma"], "version", 99)
        assert fingerprint({"luma": {}}) != before


class TestMeasure:
    @pytest.mark.parametrize("at", [0, 3, -1])
    def test_a_failing_metric_is_a_record(self, tmp_path, at):
        """A metric that raises is NaN with a message, and the others are measured."""
        path = clips.write(tmp_path / "a.mp4", clips.grey(126))
        spec = {"bad": {"target": "test_metrics:Faulty", "at": at}, "luma": {}}
        measured = measure(path, spec)
        assert isnan(measured.values["faulty"])
        assert measured.values["luma_mean"] == pytest.approx(110 / 219)
        assert list(measured.errors) == ["bad"]
        assert len(measured.frames) == 8

    @pytest.mark.parametrize(
        ("kind", "problem"),
        [
            ("Nothing", "AttributeError"),
            ("NoNumber", "ValueError"),
            ("Misspelt", "per_frame gave brigthness"),
            ("Thief", "series luma_mean"),
        ],
    )
    def test_a_metric_that_breaks_its_word(self, tmp_path, kind, problem):
        """What sums up to nothing, to no number, or takes another's series, is NaN or left out, with a message."""
        path = clips.write(tmp_path / "a.mp4", clips.grey(126))
        measured = measure(path, {"luma": {}, "bad": {"target": f"test_metrics:{kind}"}})
        assert measured.values["luma_mean"] == pytest.approx(110 / 219)
        assert measured.frames.luma_mean.to_numpy() == pytest.approx(110 / 219)
        assert problem in measured.errors["bad"]

    def test_a_row_a_frame(self, tmp_path):
        """The table has every frame, its time, and a column a series."""
        path = clips.write(tmp_path / "a.mp4", clips.pan())
        table = measure(path).frames
        assert list(table.frame) == list(range(8))
        assert table.time_s.to_numpy() == pytest.approx(np.arange(8) / 24, abs=1e-4)
        assert {"luma_mean", "luma_contrast", "motion", "structure"} <= set(table)
        assert isnan(table.motion[0]) and not table.motion[1:].isna().any()

    def test_broken_tail(self, tmp_path):
        """A cut file is measured up to there, and marked."""
        path = clips.truncate(clips.write(tmp_path / "a.mp4", clips.noise(20, frames=20)))
        measured = measure(path)
        assert measured.values["frames"] == len(measured.frames) < 20
        assert "of 20 frames" in measured.errors["video"]

    def test_not_a_video(self, tmp_path):
        """What can't be decoded at all is an error, not a measurement."""
        path = tmp_path / "a.mp4"
        path.write_bytes(b"nothing")
        with pytest.raises(VideoError):
            measure(path)

    @pytest.mark.parametrize("aspect_ratio", ["16x9", "16:0", "wide"])
    def test_bad_aspect_ratio(self, tmp_path, aspect_ratio):
        """A requested ratio that is none is named."""
        with pytest.raises(ConfigError, match="aspect_ratio"):
            measure(tmp_path / "a.mp4", aspect_ratio=aspect_ratio)

    def test_provenance(self, tmp_path):
        """Versions of decoder, libraries and metrics, and the colour tags, go with the numbers."""
        measured = measure(clips.write(tmp_path / "a.mp4", clips.grey()))
        assert {"av", "ffmpeg", "opencv", "numpy", "metric.luma"} <= set(measured.versions)
        assert measured.facts["color_space"] == "bt709"
        assert measured.facts["color_range"] == "limited"
        assert measured.facts["pixel_format"] == "yuv420p"


class TestFiles:
    def test_come_back(self, tmp_path):
        """What is saved is what is loaded, NaN included."""
        measured = measure(clips.write(tmp_path / "a.mp4", clips.pan()))
        measured.save(tmp_path / "deep" / "m")
        loaded = Measurement.load(tmp_path / "deep" / "m")
        np.testing.assert_equal(loaded.values, measured.values)
        assert isnan(loaded.values["aspect_error"])
        assert (loaded.errors, loaded.facts, loaded.versions) == (
            measured.errors,
            measured.facts,
            measured.versions,
        )
        assert loaded.frames.equals(measured.frames)
        np.testing.assert_array_equal(loaded.filmstrip, measured.filmstrip)

    @pytest.mark.slow
    def test_are_written_without_pandas(self, tmp_path):
        """A worker process never imports it, and what was not measured is null in the file."""
        path = clips.write(tmp_path / "a.mp4", clips.pan())
        done = f"""
import sys
from pathlib import Path
from kling_sweeps.measurement.workers import _measure
from kling_sweeps.metric import Requested
_measure(Path({str(tmp_path / "m")!r}), Path({str(path)!r}), {{"motion": None}}, Requested(), 10**6)
assert "cv2" in sys.modules and "pandas" not in sys.modules
"""
        subprocess.run([sys.executable, "-c", done], check=True)
        motion = parquet.read_table(tmp_path / "m" / "frames.parquet")["motion"]
        assert motion.null_count == 1 and motion[0].as_py() is None

    def test_are_plain(self, tmp_path):
        """The folder holds three files, and its JSON is strict."""
        measure(clips.write(tmp_path / "a.mp4", clips.still())).save(tmp_path / "m")
        assert is_measured(tmp_path / "m") and not is_measured(tmp_path)
        names = sorted(path.name for path in (tmp_path / "m").iterdir())
        assert names == ["filmstrip.png", "frames.parquet", "values.json"]
        text = (tmp_path / "m" / "values.json").read_text()
        assert json.loads(text, parse_constant=pytest.fail)["values"]["aspect_error"] is None

    def test_half_written_is_not_there(self, tmp_path, monkeypatch):
        """Where writing fails, nothing that looks finished is left."""
        measured = measure(clips.write(tmp_path / "a.mp4", clips.still()))
        monkeypatch.setattr(Measurement, "_json", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            measured.save(tmp_path / "m")
        assert not (tmp_path / "m" / "values.json").exists()
        assert not list((tmp_path / "m").glob("*.tmp"))


def assert_same(first, second):
    np.testing.assert_equal(dict(sorted(first.items())), dict(sorted(second.items())))
