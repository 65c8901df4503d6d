"""Say whether a command will work: with this key, at fal, and on this machine.

    python -m kling_sweeps.check
    python -m kling_sweeps.check +sweep=cfg
    python -m kling_sweeps.check +sweep=cfg --json

It buys nothing, sends nothing, and has no credential in what it prints. The key is tried, the balance compared with the price of
the command that follows, each of its endpoints with its model file; store, disk, MLflow, OpenCV and PyAV are tried on this
machine. The exit code is 0, or 1 where something will fail.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kling_sweeps import CONF, providers
from kling_sweeps.errors import KlingSweepsError, RefusedError, say_interrupted
from kling_sweeps.experiment.rubric import Rubric
from kling_sweeps.experiment.settings import Cell, Settings
from kling_sweeps.metrics import remarks
from kling_sweeps.terminal.streams import Parser, settle
from kling_sweeps.untrusted import clean, mask, printable

OK, NOTE, FAIL = "ok", "note", "fail"
STYLES = {OK: "green", NOTE: "yellow", FAIL: "bold red"}
PACKAGES = (
    "kling-sweeps",
    "hydra-core",
    "fal-client",
    "mlflow",
    "opencv-python",
    "av",
    "numpy",
    "pandas",
)
TIMEOUT_S = 30.0
# What a command says of where it runs and what it keeps, and not of what it generates.
ELSEWHERE = ("provider", "store.", "tracking", "cluster", "budget.")
# Seconds by which this machine's clock may be off, and bytes that a video with all that belongs to it takes at most.
SKEW_S, VIDEO_BYTES = 60.0, 60 * 10**6


@dataclass(frozen=True)
class Finding:
    """What was checked, whether it is ok, a note or a failure to come, what was found, and what to do."""

    name: str
    status: str
    said: str
    remedy: str = ""


@dataclass(frozen=True)
class Told:
    """What fal answered to each question, as status code and content, and by how many seconds its clock is ahead."""

    answers: Mapping[str, tuple[int, Any]] = field(default_factory=dict)
    ahead_s: float = 0.0

    def code(self, name: str) -> int:
        return self.answers.get(name, (0, None))[0]

    def body(self, name: str) -> Any:
        return self.answers.get(name, (0, None))[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    settle()
    parser = Parser(
        "python -m kling_sweeps.check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="a command's, as +sweep=cfg")
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="your own folder of configs")
    parser.add_argument("--json", action="store_true", help="print JSON, for a bug report")
    parser.add_argument("-m", "--multirun", action="store_true", help="as the command has it")
    options = parser.parse_args(arguments)
    try:
        found = [*check(options.overrides, options.config_dir)]
    except KeyboardInterrupt:
        return say_interrupted()
    will_work = not any(one.status == FAIL for one in found)
    if options.json:
        told = {"will_work": will_work, "checks": [asdict(one) for one in found]}
        print(mask(json.dumps(told, indent=2, ensure_ascii=False)))
    else:
        _show(found)
    return 0 if will_work else 1


def check(overrides: Sequence[str], config_dir: Path | None) -> Iterator[Finding]:
    """Yield what is found of a command, one after another, the command itself first where it is refused."""
    from hydra_plugins.hydra_fal_launcher._planned import read_command

    refused = ""
    try:
        settings, cells, is_whole = read_command(overrides, config_dir)
    except RefusedError as error:
        refused = str(error)
        settings, cells, is_whole, kept = _without_runs(overrides, config_dir)
        said = (
            f"the rest is checked of one run with {' '.join(kept)}"
            if kept
            else "the rest is checked of one run"
        )
        yield Finding("command", FAIL, refused, said)
    is_well = not refused
    for one in _of_provider(settings, cells, is_whole, config_dir):
        is_well &= one.status != FAIL
        yield one
    if is_well:
        yield _tried("command", lambda: _command(settings, cells, is_whole))
    for name, question in (
        ("store", lambda: _store(settings, cells)),
        ("MLflow", lambda: _mlflow(settings, cells)),
        ("video", _video),
    ):
        yield _tried(name, question)
    for remark in remarks(settings.metrics, [cell.requested for cell in cells]):
        yield Finding("metrics", NOTE, remark)
    yield _versions()


def _without_runs(
    overrides: Sequence[str], config_dir: Path | None
) -> tuple[Settings, list[Cell], bool, Sequence[str]]:
    """Read a command that is refused without what it generates; return also what of it is kept."""
    from hydra_plugins.hydra_fal_launcher._planned import read_command

    kept = [one for one in overrides if one.lstrip("+").startswith(ELSEWHERE)]
    try:
        return *read_command(kept, config_dir), kept
    except RefusedError:
        return *read_command([], config_dir), ()


def _command(settings: Settings, cells: Sequence[Cell], is_whole: bool) -> Finding:
    """Say what a command would run and what that costs; it fails where that would be refused."""
    from kling_sweeps.sweep.judging import with_judging
    from kling_sweeps.sweep.scheduler import Runs
    from kling_sweeps.terminal.tables import money

    limit = f"budget.max_usd={settings.budget.max_usd:g}"
    if not is_whole:
        return Finding("command", OK, f"a search, of {limit} at most")
    runs, judging = with_judging(Runs.read(settings, cells))
    plan = runs.plan
    counts = Counter(planned.status for planned in plan.planned)
    said = f"{len(plan.planned)} run{'s' * (len(plan.planned) != 1)}: "
    said += ", ".join(f"{number} {status}" for status, number in counts.items())
    price = money(planned.cost_usd for planned in plan.planned)
    said += f"; {price}{' on fal, here for nothing' * runs.is_ephemeral}"
    if judging:
        said += f", and {judging.most_usd:.2f} USD at most for {judging.rubric.name} to judge them"
    said += f" ({limit})"
    try:
        runs.check_price()
    except RefusedError as error:
        return Finding("command", FAIL, f"{said}: {error}")
    return Finding("command", OK, said)


def _tried(name: str, question: Callable[[], Finding]) -> Finding:
    try:
        return question()
    except KlingSweepsError as error:
        return Finding(name, FAIL, str(error))
    except Exception as error:  # whatever it is, it would strike a command too
        return Finding(name, FAIL, f"{type(error).__name__}: {clean(error)}")


def _versions() -> Finding:
    found = [f"Python {platform.python_version()}", platform.platform()]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue  # a clone that is not installed, or another flavour of OpenCV
    return Finding("versions", OK, ", ".join(found))


def _of_provider(
    settings: Settings, cells: Sequence[Cell], is_whole: bool, config_dir: Path | None
) -> Iterator[Finding]:
    """Yield what fal, or whoever stands in its place, says of the key, the account and the endpoints."""
    given = settings.provider
    try:
        name = providers.resolve(given)
    except RefusedError as error:
        yield Finding("key", FAIL, str(error))
        return
    if name == "emulator" and not given.base_url:
        is_asked = given.name == "emulator"
        remedy = "" if is_asked else "to generate on fal: export FAL_KEY=... (from fal.ai/dashboard/keys)"
        said = "everything is emulated on this machine, for nothing"
        yield Finding(
            "key", OK if is_asked else NOTE, said + "; no fal credentials are set" * (not is_asked), remedy
        )
        return
    endpoints = sorted({cell.request.endpoint for cell in cells})
    asked = [*endpoints, *([settings.judge.endpoint] if settings.judge else [])]
    try:
        told = asyncio.run(
            providers.asked(given.name, given.base_url, lambda fal: _ask(fal, asked), TIMEOUT_S)
        )
    except KlingSweepsError as error:
        yield Finding("key", FAIL, str(error), "check the network, the proxy if there is one, and the key")
        return
    key = _key(told)
    yield key
    if key.status == FAIL:
        return
    yield _balance(told, settings, cells, is_whole)
    for endpoint in endpoints:
        yield from _endpoint(
            told, next(cell for cell in cells if cell.request.endpoint == endpoint), config_dir
        )
    if settings.judge:
        yield _judge(told, settings.judge)
    yield _may_ask(told, "history", "a submission whose answer was lost is looked for in fal's history")
    yield _may_ask(told, "bills", "what was charged becomes cost_usd")
    yield _clock(told)


async def _ask(fal: Any, endpoints: Sequence[str]) -> Told:
    """Ask fal all there is to ask; raise PollError where it does not answer."""
    answers = {
        "account": await fal.question("account/billing", expand="credits"),
        "history": await fal.question("models/requests/by-endpoint", endpoint_id=endpoints[0], limit=1),
        "bills": await fal.question("models/billing-events", limit=1),
    }
    for endpoint in endpoints:
        answers[f"price {endpoint}"] = await fal.question("models/pricing", endpoint_id=endpoint)
        answers[f"model {endpoint}"] = await fal.question(
            "models", endpoint_id=endpoint, expand="openapi-3.0"
        )
    return Told(answers, (fal.now() - datetime.now(UTC)).total_seconds())


def _key(told: Told) -> Finding:
    codes = {code for name, (code, _) in told.answers.items() if not name.startswith("model ")}
    if 401 in codes:
        return Finding(
            "key", FAIL, "fal does not accept the key (401)", "copy it again from fal.ai/dashboard/keys"
        )
    if codes and all(code >= 500 for code in codes):
        return Finding("key", FAIL, f"fal answers {min(codes)} to everything", "try again later")
    return Finding("key", OK, "fal accepts the key")


def _balance(told: Told, settings: Settings, cells: Sequence[Cell], is_whole: bool) -> Finding:
    from kling_sweeps.providers import answers
    from kling_sweeps.sweep.judging import with_judging
    from kling_sweeps.sweep.scheduler import Runs

    credits = answers.fields(answers.fields(told.body("account")).get("credits"))
    left = credits.get("current_balance")
    try:
        runs = Runs.read(settings, cells)
        runs = with_judging(runs)[0] if is_whole else runs
    except RefusedError as error:
        return Finding("balance", FAIL, str(error))
    plan = runs.plan
    needed = plan.total_usd + plan.more_usd if is_whole else settings.budget.max_usd
    cost = f"this command costs {needed:.2f} USD {plan.price_words}".rstrip()
    if not is_whole:
        cost = f"this search costs budget.max_usd={needed:g} at most"
    if not isinstance(left, int | float) or isinstance(left, bool):
        why = "this key may not ask" if told.code("account") == 403 else "fal does not say"
        return Finding("balance", NOTE, f"{why}; {cost}", "see fal.ai/dashboard/billing")
    said = f"{left:.2f} {clean(credits.get('currency', ''))} left; {cost}"
    if left < needed:
        return Finding(
            "balance", FAIL, said, "top up at fal.ai/dashboard/billing, or run less: budget.partial=true"
        )
    return Finding("balance", OK, said)


def _judge(told: Told, rubric: Rubric) -> Finding:
    """Tell how the endpoint of a judge stands at fal."""
    from kling_sweeps.experiment import openapi

    name, endpoint = f"judge {rubric.name}", rubric.endpoint
    try:
        source = openapi.described(told.body(f"model {endpoint}"), endpoint)
    except (ValueError, KlingSweepsError) as error:
        return Finding(name, NOTE, f"{endpoint}: {clean(error)}", "fal may have taken it off, or not list it")
    if str(source.metadata.get("status", "active")) != "active":
        return Finding(name, NOTE, f"{endpoint} is deprecated: fal may take it off", "choose another judge")
    return Finding(name, OK, f"{endpoint} is active; whether it has {rubric.model} is seen when it is asked")


def _endpoint(told: Told, cell: Cell, config_dir: Path | None) -> Iterator[Finding]:
    """Yield how an endpoint stands at fal, beside its model file: its schema, and its price."""
    from kling_sweeps.endpoint import changes
    from kling_sweeps.experiment import openapi, yaml_files

    endpoint, name = cell.request.endpoint, f"{cell.model}"
    folders = [folder for folder in (config_dir, CONF) if folder]
    path = next(
        (one for folder in folders if (one := folder / "model" / f"{cell.model}.yaml").exists()), None
    )
    again = f"python -m kling_sweeps.endpoint {endpoint} --replace"
    try:
        source = openapi.described(told.body(f"model {endpoint}"), endpoint)
        status = str(source.metadata.get("status", ""))
        new = openapi.imported(source).model(cell.model, None)
        lines = [*changes(yaml_files.content(path), new)] if path else []
    except (ValueError, KlingSweepsError) as error:
        code = told.code(f"model {endpoint}")
        if code >= 500 or code == 429:
            yield Finding(name, NOTE, f"{endpoint}: fal does not say how it is ({code})", "try again later")
        else:
            yield Finding(
                name, FAIL, f"{endpoint}: {clean(error)}", "fal may have taken it off; choose another model"
            )
        return
    if status == "deprecated":
        yield Finding(name, NOTE, f"{endpoint} is deprecated: fal may take it off", "choose another model")
    if lines:
        yield Finding(name, NOTE, "\n".join([f"{endpoint} is not as in its file:", *lines]), again)
    elif status != "deprecated":
        yield Finding(name, OK, f"{endpoint} is active, and as in its file")
    yield _price(told, cell, again)


def _price(told: Told, cell: Cell, again: str) -> Finding:
    from kling_sweeps.providers.answers import prices

    endpoint, name = cell.request.endpoint, f"{cell.model} price"
    price = prices(told.body(f"price {endpoint}")).get(endpoint)
    quote = cell.quoted(price)[1]
    filed = f"{cell.price.usd:g} USD a {cell.price.per}" if cell.price else "none"
    if price is None:
        status = OK if cell.price else FAIL
        remedy = "" if cell.price else "give its file a price, or budget.allow_unknown_price=true"
        return Finding(name, status, f"fal tells none that can be read; the file has {filed}", remedy)
    said = f"{price.usd:g} USD a {price.per} as fal says today; the file has {filed}"
    return Finding(name, NOTE if quote.is_disputed else OK, said, again if quote.is_disputed else "")


def _may_ask(told: Told, name: str, use: str) -> Finding:
    code = told.code(name)
    if code == 200:
        return Finding(name, OK, f"can be asked: {use}")
    why = "this key may not ask" if code in (401, 403) else f"fal answers {code}"
    return Finding(
        name, NOTE, f"{why}, so that not: {use}", "use a key of the account's administrator" * (code == 403)
    )


def _clock(told: Told) -> Finding:
    is_off = abs(told.ahead_s) > SKEW_S
    said = "as fal's, by a few seconds"
    if is_off:
        said = f"{abs(told.ahead_s):.0f} s {'behind' if told.ahead_s > 0 else 'ahead of'} fal's"
    return Finding("clock", NOTE if is_off else OK, said, "set this machine's clock (NTP)" * is_off)


def _store(settings: Settings, cells: Sequence[Cell]) -> Finding:
    import os

    from kling_sweeps.store.folder import Store

    folder = settings.store_dir.absolute()
    there = next(one for one in (folder, *folder.parents) if one.exists())
    Store(folder).check_readable()
    if not os.access(there, os.W_OK | os.X_OK):
        return Finding("store", FAIL, f"{there} can't be written", "choose another folder: store.dir=PATH")
    free, needed = shutil.disk_usage(there).free, len(cells) * VIDEO_BYTES
    said = f"{folder} can be written, with {free / 1e9:.1f} GB free"
    if free < needed:
        return Finding(
            "store", FAIL, f"{said}; {len(cells)} runs may take {needed / 1e9:.1f} GB", "make room"
        )
    return Finding("store", OK, said)


def _mlflow(settings: Settings, cells: Sequence[Cell]) -> Finding:
    from kling_sweeps.tracking.tracker import Tracker

    tracker = Tracker(settings.tracking_uri, settings.sweep, providers.resolve(settings.provider), cells)
    tracker.check()
    return Finding("MLflow", OK, f"can log to {mask(str(tracker.store))}, as {tracker.experiment}")


def _video() -> Finding:
    """Encode, decode and measure a video of a few frames."""
    from kling_sweeps.metrics import measure
    from kling_sweeps.video import opencv

    opencv.load()
    import numpy as np

    from kling_sweeps.emulator.scene.encoding import write_h264

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "check.mp4")
        planes = (np.full((144, 128), level, np.uint8) for level in range(60, 180, 15))
        write_h264(path, planes, (128, 96), 8)
        found = measure(path)
    return Finding(
        "video", OK, f"OpenCV and PyAV decode and measure H.264 ({found.values['frames']:.0f} frames)"
    )


def _show(found: Sequence[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    from kling_sweeps.terminal.console import console

    if not console.is_terminal:
        width = max(len(one.name) for one in found)
        for one in found:
            remedy = f"; → {one.remedy}" if one.remedy else ""
            print(printable(mask(f"{one.status:<4}  {one.name:<{width}}  {one.said}{remedy}")))
        return
    table = Table.grid(padding=(0, 2))
    for column in range(3):
        table.add_column(no_wrap=column < 2, overflow="fold")
    for one in found:
        said = Text(printable(mask(one.said)))
        if one.remedy:
            said.append(f"\n→ {printable(mask(one.remedy))}", style="bold")
        table.add_row(Text(one.status, STYLES[one.status]), Text(printable(one.name)), said)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
