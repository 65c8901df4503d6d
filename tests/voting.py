"""A small sweep that people can vote on: real runs in MLflow, real videos in a store, made without generating any."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import clips
import numpy as np
import tables
import uvicorn
from mlflow.tracking import MlflowClient
from starlette.applications import Starlette

from kling_sweeps.experiment.request import GenerationRequest
from kling_sweeps.store.folder import Store

ENDPOINT = "fal-ai/kling-video/v2.1/master/text-to-video"


@contextmanager
def served(folder: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run `python -m kling_sweeps.vote cfg`; yield the page's address and the process, which is interrupted in the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "kling_sweeps.vote", "cfg", "--no-browser", *options],
        cwd=folder,
        env={**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        lines = iter(process.stdout.readline, "")
        address = next(found[0] for line in lines if (found := re.search(r"http://\S+", line)))
        yield address, process
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)


@contextmanager
def running(app: Starlette) -> Iterator[str]:
    """Run an application in a thread; yield its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=[[listener]])
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@dataclass(frozen=True)
class Voting:
    """A sweep `cfg` that was emulated: its store, its tracking address, and the key of each video."""

    folder: Path
    keys: dict[tuple[str, float, int], str]

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder / 'mlflow.db'}"

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def root(self) -> Path:
        return self.store / "emulator"

    def told(self) -> list[str]:
        """Return what no rater may see: levels, keys, names of settings, of runs and of files."""
        levels = {str(level) for _, level, _ in self.keys}
        keys = {part for key in self.keys.values() for part in (key, key[:10])}
        return [*levels, *keys, "cfg_scale", "cfg 0", ".mp4", str(self.folder), "kling_sweeps/cfg"]

    def files(self) -> list[Path]:
        """Return the files of votes."""
        return sorted(self.root.glob("votes/*/*/*.jsonl"))


def prepared(
    folder: Path,
    levels: Sequence[float] = (0.125, 0.875),
    prompts: Sequence[str] = ("potter", "fox"),
    samples: int = 1,
    text: str = "A {prompt}, seen from afar.",
) -> Voting:
    """Write runs of prompts x cfg_scale x repeats, a failed one among them, whose videos last a second."""
    made = Voting(folder, {})
    folder.mkdir(parents=True, exist_ok=True)
    tables.new_database(folder / "mlflow.db")
    client = MlflowClient(made.uri)
    experiment = client.create_experiment(
        "kling_sweeps/cfg (emulator)", artifact_location=(folder / "artifacts").as_uri()
    )
    for number, (prompt, level, sample) in enumerate(product(prompts, levels, range(samples))):
        words = text.format(prompt=prompt)
        request = GenerationRequest(ENDPOINT, {"prompt": words, "cfg_scale": level}, sample, 1.4)
        entry = Store(made.root).entry(request)
        entry.create(request)
        _remark(clips.write(entry.video, _moving(shade=20 * number)), f"cfg_scale {level}")
        made.keys[prompt, level, sample] = entry.key
        params = {"prompt": prompt, "prompt_text": words, "cfg_scale": level, "sample": sample}
        _track(client, experiment, entry.key, params)
    _track(client, experiment, "0" * 64, {**params, "sample": samples}, "FAILED")
    return made


def _track(client: MlflowClient, experiment: str, key: str, params: dict, status: str = "FINISHED") -> None:
    tags = {"request_key": key, "provider": "emulator", "sweep": "cfg", "content": key}
    name = "{prompt} · cfg {cfg_scale} · #{sample}".format(**params)
    run = client.create_run(experiment, tags=tags, run_name=name)
    for param, value in {**params, "model": "kling", "endpoint": ENDPOINT}.items():
        client.log_param(run.info.run_id, param, value)
    client.log_metric(run.info.run_id, "motion", 0.5)
    client.set_terminated(run.info.run_id, status)


def _remark(video: Path, text: str) -> None:
    """Put a remark into a video's file that no player shows: a box `free` at its end."""
    with open(video, "ab") as file:
        file.write((8 + len(text)).to_bytes(4, "big") + b"free" + text.encode())


def _moving(shade: int, frames: int = 24) -> list[clips.Planes]:
    """Return a bar that goes from the left to the right."""
    pictures = []
    for index in range(frames):
        luma = np.full((90, 160), 60 + shade % 120, np.uint8)
        luma[:, index * 6 : index * 6 + 20] = 230
        chroma = np.full((45, 80), 128, np.uint8)
        pictures.append((luma, chroma, chroma))
    return pictures
