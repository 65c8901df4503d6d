"""A process that runs sweeps in forks of itself, each killed where it was told to be.

    python crash_child.py < tasks

Reads a task a line and answers with a line: the sweep's results, or the signal that ended it. What is
slow to import is imported once, so that a fork costs next to nothing.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kling_sweeps import providers
from kling_sweeps.experiment.emulator_settings import EmulatorSettings
from kling_sweeps.experiment.expectations import Expectations
from kling_sweeps.experiment.request import GenerationRequest
from kling_sweeps.experiment.rubric import Question, Rubric
from kling_sweeps.experiment.settings import (
    BudgetSettings,
    Cell,
    OptimizeSettings,
    Policy,
    PollSettings,
    ProviderSettings,
    Settings,
)
from kling_sweeps.measurement import workers
from kling_sweeps.providers import http
from kling_sweeps.providers.transport import Route
from kling_sweeps.store import folder as store
from kling_sweeps.store import journal
from kling_sweeps.sweep import runner, scheduler
from kling_sweeps.sweep.job import unjudged
from kling_sweeps.video import MAX_PIXELS

ENDPOINT = "fal-ai/kling-video/v2.1/master/text-to-video"
METRICS = {"file": {}, "luma": {}}
# What a sweep imports on its way.
WARM = (
    "anyio._backends._asyncio",
    "fal_client.auth",
    "kling_sweeps.providers.fal",
    "mlflow.store.artifact.local_artifact_repo",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.tracking",
    "pyarrow.parquet",
)


def cells(prompts: list[str]) -> list[Cell]:
    """Return a cell for each prompt; equal prompts are repeats."""
    made = []
    for number, prompt in enumerate(prompts):
        arguments = {"prompt": prompt, "negative_prompt": "", "cfg_scale": 0.5}
        arguments |= {"aspect_ratio": "1:1", "duration": "5"}
        request = GenerationRequest(ENDPOINT, arguments, prompts[:number].count(prompt), 1.4)
        made.append(Cell(request, "kling", prompt, {}, f"{prompt} · #{request.sample}"))
    return made


def judge(question: str) -> Rubric:
    """Return a judge who is asked a question twice."""
    questions = [Question("good", question, {1: "no", 2: "yes"})]
    return Rubric(
        name="judge",
        endpoint="openrouter/router/video",
        model="a/model",
        frames=None,
        show_prompt=True,
        temperature=0,
        max_tokens=500,
        max_usd=0.02,
        repeats=2,
        pairs=False,
        factor=None,
        questions=questions,
    )


def settings(task: dict[str, Any]) -> Settings:
    """Return a task's settings: everything in its folder, no time lost between two looks."""
    provider = ProviderSettings(
        name="fal",
        base_url=task["base_url"],
        timeout_s=60,
        pause_s=0.05,
        history_wait_s=task["history_wait_s"],
        late_s=0,
        poll=PollSettings(share=0.1, min_s=0.01, max_s=0.03, far_s=0.3),
        max_video_mb=50,
        emulator=EmulatorSettings(),
    )
    return Settings(
        sweep=task["sweep"],
        command=f"command-{os.getpid()}",
        provider=provider,
        store_dir=Path(task["folder"], "store"),
        tracking_uri=task["tracking_uri"],
        metrics=METRICS,
        budget=BudgetSettings(max_usd=100, partial=False, allow_unknown_price=False),
        policy=Policy(unknown=task["unknown"]),
        objective=(),
        goal={},
        expect=Expectations(),
        repeats=None,
        optimize=OptimizeSettings(),
        dry_run=False,
        max_pixels=MAX_PIXELS,
        judge=judge(task["judge"]) if task["judge"] else None,
    )


class WorkersHere:
    """Decodes in this process, so that there is one to kill, and nothing to wait for."""

    def __init__(self, videos: int, max_pixels: int) -> None:
        self.max_pixels = max_pixels

    def __enter__(self) -> WorkersHere:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    async def verify(self, *args: Any) -> None:
        workers._verify(*args, self.max_pixels)

    async def measure(self, *args: Any) -> float:
        return workers._measure(*args, self.max_pixels)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dying(function: Callable, moment: str, when: Callable[..., bool]) -> Callable:
    """Return a function that kills the process before or after its first call of which `when` holds."""

    def dies(*args: Any, **kwargs: Any) -> Any:
        if not when(*args):
            return function(*args, **kwargs)
        if moment != "before":
            function(*args, **kwargs)
        if moment == "torn":
            tear(args[0].path)
        return die()

    return dies


def tear(path: Path) -> None:
    """Cut a file off in the middle of its last line."""
    *whole, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole) + last[: len(last) // 2])


def die_when_accepted() -> None:
    """Patch the transport: a submission, and no upload, is answered, and nobody is left to read it."""
    send = Route.handle_async_request

    async def dies(self: Route, request: Any) -> Any:
        response = await send(self, request)
        if request.method == "POST" and "/storage/" not in request.url.path:
            die()
        return response

    Route.handle_async_request = dies


def arrange(place: str) -> None:
    """Patch the process to be killed at a place, `<before|after|torn> <what> [<which>]`."""
    from mlflow.tracking import MlflowClient

    moment, what, which = (*place.split(), "")[:3]
    if what == "answer":
        die_when_accepted()
        return
    owner, name, when = {
        "append": (journal.Journal, "append", lambda self, event: event == which),
        "claim": (store.Store, "claim", lambda *_: True),
        "rename": (os, "rename", lambda *_: True),
        "replace": (os, "replace", lambda part, path: which in str(path)),
        "mlflow": (MlflowClient, which, lambda *_: True),
    }[what]
    setattr(owner, name, dying(getattr(owner, name), moment, when))


def sweep(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Run a task's sweep; return what became of each cell."""
    providers._is_emulator = lambda base_url: False  # it stands where fal does, without its mercy
    scheduler.Workers = workers.Workers if task["workers"] else WorkersHere
    if task["kill"]:
        arrange(task["kill"])
    wanted = cells(task["prompts"])
    return [
        {
            "key": result.cell.request.key,
            "error": result.error and f"{result.error.error_type}: {result.error}",
            "request_id": result.state.request_id,
        }
        for result in runner.run_all(settings(task), wanted, max_in_flight=len(wanted))
    ]


def child(task: dict[str, Any], answer: int) -> None:
    """Run a sweep with its output in a file, and write its results to a pipe."""
    log = os.open(Path(task["folder"], "log.txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(task["folder"])
    results = sweep(task)
    sys.stdout.flush()
    os.write(answer, json.dumps([results, unjudged.is_set()]).encode())


def forked(task: dict[str, Any]) -> dict[str, Any]:
    """Run a sweep in a fork; kill it after the task's time, if it has one and the fork still runs."""
    readable, answer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(readable)
            child(task, answer)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(answer)
    if task["kill_after_s"] is not None and not select.select([readable], [], [], task["kill_after_s"])[0]:
        os.kill(pid, signal.SIGKILL)
    with os.fdopen(readable, "rb") as pipe:
        said = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    results, is_unjudged = json.loads(said) if code == 0 else ([], False)
    return {"code": code, "results": results, "unjudged": is_unjudged}


def main() -> None:
    """Answer tasks until there are no more."""
    for name in WARM:
        importlib.import_module(name)
    http.trusted()
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps(forked(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
