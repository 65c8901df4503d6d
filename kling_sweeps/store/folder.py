"""Generations as plain files, one folder each, found again by what they were made from.

<root>/<key[:2]>/<key>/
    request.json     endpoint, arguments, sample, price
    journal.jsonl    every step, appended
    result.json      what fal answered
    video.mp4
    measurements/    one folder for each set of metrics
    lock             held by whoever works on the generation
    tracking.lock    held by whoever writes it to MLflow
<root>/judgements/<key[:2]>/<key>/ the same of a judgement, whose answer is in result.json alone
<root>/pictures/<SHA-256>.png      a picture that videos begin with, and <SHA-256>.json where a file was uploaded to
<root>/claims/<request id>/<key>   whose a request of fal's is
<root>/spending                    what each generation has cost
<root>/budgets/<command>           the keys that a command's budget counts
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import AsyncFileLock, FileLock

from kling_sweeps.errors import StoreError, UnavailableError, explained
from kling_sweeps.experiment.request import GenerationRequest, Product
from kling_sweeps.store.journal import Journal, force, sync_folder, written_whole
from kling_sweeps.store.state_machine import Attempt, Stage, State, Ticket, fold
from kling_sweeps.untrusted import clean

# Where in a store each product's folders are.
SHELVES = {Product.VIDEO: ".", Product.ANSWER: "judgements"}
# What a request id looks like that can be a file's name: no path, no hidden file, nothing long.
PLAIN_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")


class Store:
    """All generations of one provider under one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def pictures(self) -> Path:
        """Return the folder of the pictures that videos begin with."""
        return self.root / "pictures"

    def check_readable(self) -> None:
        """Raise UnavailableError where the folder exists and can't be read, or its name is no UTF-8."""
        try:
            str(self.root).encode()
        except UnicodeEncodeError:  # Arrow, for one, can't write to it
            raise UnavailableError(
                f"store.dir: the name {clean(self.root)} is no UTF-8; choose another"
            ) from None
        try:
            with os.scandir(self.root):
                pass
        except FileNotFoundError:
            pass  # it is new
        except OSError as error:
            raise self._unavailable(error) from None

    def check(self) -> None:
        """Make the folders that a submission needs; raise UnavailableError where one can't be written."""
        try:
            for folder in (self.root, self.root / "claims", self.root / "budgets"):
                folder.mkdir(parents=True, exist_ok=True)
                _probe(folder)
            for name in ("spending", "spending.lock"):
                open(self.root / name, "ab").close()
        except OSError as error:
            raise self._unavailable(error) from None

    @staticmethod
    def _unavailable(error: OSError) -> UnavailableError:
        return UnavailableError(
            f"store.dir: {explained(error)}; or choose another folder with store.dir=PATH"
        )

    def entry(self, request: GenerationRequest) -> Entry:
        return self.find(request.key, request.product)

    def find(self, key: str, product: Product) -> Entry:
        """Return the folder of the generation that has a key."""
        return Entry(self.root / SHELVES[product] / key[:2] / key, self, product)

    def entries(self, *products: Product) -> Iterator[Entry]:
        """Yield the folders that have a journal, by their keys."""
        for product in products:
            for path in sorted((self.root / SHELVES[product]).glob("??/*/journal.jsonl")):
                yield self.find(path.parent.name, product)

    def claim(self, request_id: str, key: str) -> bool:
        """Write down that a request at fal belongs to `key`; return False where it belongs to another key."""
        claims = self.root / "claims"
        path = claims / _file_name(request_id)
        part = claims / f".{key}.part"
        part.mkdir(parents=True, exist_ok=True)
        (part / key).touch()
        sync_folder(part)
        try:
            os.rename(part, path)  # onto a folder that has something in it nothing can be renamed
        except OSError:
            if not path.is_dir():
                raise
            return (path / key).exists()
        sync_folder(claims)
        return True

    def has_claim(self, key: str) -> bool:
        """Tell whether a request at fal belongs to a key; looks at every claim."""
        return any((claim / key).exists() for claim in (self.root / "claims").glob("*"))


def _probe(folder: Path) -> None:
    """Raise OSError where nothing can be written into a folder."""
    probe = folder / f".writable-{uuid.uuid4().hex}"
    probe.touch()
    probe.unlink()


def _file_name(request_id: str) -> str:
    """Return a request id as a file name: itself where every file system takes it, otherwise its hash."""
    if PLAIN_ID.fullmatch(request_id):
        return request_id
    return f"sha256-{sha256(request_id.encode(errors='replace')).hexdigest()}"


class Entry:
    """The folder of one generation, or of one judgement."""

    def __init__(self, folder: Path, store: Store, product: Product = Product.VIDEO) -> None:
        self.folder = folder
        self.store = store
        self.product = product
        self.video = folder / "video.mp4"
        self.journal = Journal(folder / "journal.jsonl")

    @property
    def key(self) -> str:
        return self.folder.name

    def state(self) -> State:
        """Return the state by the journal and the files, with the stage DAMAGED where they can't be trusted.

        A video that is gone or has changed leads back to FETCHED, a result that can't be read to COMPLETED.
        """
        try:
            return self._by_files(self.journal.state())
        except StoreError as error:
            problem = str(error)
        except OSError as error:
            problem = explained(error)
        remedy = f"bring the file back, or move {self.folder} away, and it is generated and paid for anew"
        damage = StoreError(f"{problem}. Nothing is done for this run while it is so: {remedy}")
        return State(stage=Stage.DAMAGED, error=damage)

    def _by_files(self, state: State) -> State:
        if state.is_blank and (self.video.exists() or (self.folder / "result.json").exists()):
            raise StoreError(f"{self.journal.path} is gone or empty, though something was generated")
        if state.stage is Stage.FINISHED and not self._has_product(state):
            state = replace(state, stage=Stage.FETCHED)
        if state.stage is Stage.FETCHED and not self.read_json("result.json"):
            state = replace(state, stage=Stage.COMPLETED)
        return state

    def _has_product(self, state: State) -> bool:
        """Tell whether the answer can be read, or the video has the size that was downloaded and begins not with zeros only."""
        if self.product is Product.ANSWER:
            return bool(self.read_json("result.json"))
        try:
            with open(self.video, "rb") as file:
                begin = file.read(64)
                size = os.fstat(file.fileno()).st_size
                return begin.strip(b"\0") != b"" and state.video_bytes in (None, size)
        except (FileNotFoundError, IsADirectoryError):
            return False

    def attempts(self, command: str) -> list[Attempt]:
        """Return the submissions that a command made; none where the journal can't be trusted."""
        try:
            return [one for one in fold(self.journal.events()).attempts if one.command == command]
        except StoreError:
            return []

    def has_lost_journal(self) -> bool:
        """Tell whether fal has had the request though the journal has no events; looks at every claim."""
        is_begun = (self.folder / "request.json").exists()
        return is_begun and self.journal.state().is_blank and self.store.has_claim(self.key)

    def make_folder(self) -> None:
        """Make the folder, and force it to disk, so that it survives a power cut."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for made in {self.folder.parent, self.folder.parent.parent, self.store.root}:
            sync_folder(made)

    def create(self, request: GenerationRequest) -> None:
        """Make the folder and `request.json`; raise OSError where one can't be written. Under the lock."""
        self.make_folder()
        _probe(self.folder)
        if self.journal.path.exists():
            open(self.journal.path, "ab").close()
        for left in self.folder.glob(".*.part"):
            left.unlink()
        self.write_request(request)

    def write_request(self, request: GenerationRequest) -> None:
        """Write `request.json`, unless it is there and is right but for the price, and the defaults as they were then."""
        saved, content = self.read_json("request.json"), request.as_dict()
        kept: dict[str, Any] = {name: saved[name] for name in ("price_usd", "defaults") if name in saved}
        if saved != {**content, **kept} or len(kept) < 2:
            self.write_json("request.json", content)

    def read_json(self, name: str) -> dict[str, Any]:
        """Return a JSON file's object; an empty one where there is no file, or none that can be read."""
        try:
            content = json.loads((self.folder / name).read_bytes())
        except (FileNotFoundError, IsADirectoryError, ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file whole or not at all."""
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        with written_whole(self.folder / name, force) as part:
            # Half a surrogate pair is written as JSON has it.
            part.write_text(text, encoding="utf-8", errors="backslashreplace")

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """Yield a path to write to, which becomes `name` when the block ends, and is kept where the block raises."""
        part = self._part(name)
        yield part
        force(part, self.folder / name)

    def set_aside(self, name: str, mark: str) -> None:
        """Give a file that is there another name, with a mark of letters and digits in it, so that it is kept."""
        path = self.folder / name
        with suppress(FileNotFoundError):
            os.replace(path, path.with_stem(f"{path.stem}-{mark}"))

    def discard_part(self, name: str) -> None:
        """Remove the file that a `replacing` that raised has kept."""
        self._part(name).unlink(missing_ok=True)

    def _part(self, name: str) -> Path:
        return self.folder / f"{name}.part"

    def submitted(self, ticket: Ticket, how: str) -> bool:
        """Claim a ticket and journal it as submitted; return False where another key has claimed it."""
        try:
            is_mine = self.store.claim(ticket.request_id, self.key)
            if is_mine:
                self.journal.append("submitted", **vars(ticket), how=how)
        except OSError as error:
            raise StoreError(
                f"fal has the request {ticket.request_id}, which can't be noted ({explained(error)}); the same "
                "command finds it in fal's history",
                may_have_cost=True,
            ) from None
        return is_mine

    def measurements(self, fingerprint: str) -> Path:
        """Return the folder of a measurement, which exists once it has been made."""
        return self.folder / "measurements" / fingerprint

    @contextmanager
    def tracking_lock(self) -> Iterator[None]:
        """Hold the lock for writing the generation to MLflow; no lock in a folder that can't be written."""
        lock = FileLock(self.folder / "tracking.lock")
        with suppress(OSError):  # a store that can only be read has no other writer here
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def lock(self, timeout_s: float) -> FileLock:
        """Return the same lock as `async_lock`, for code that has no event loop."""
        return FileLock(self.folder / "lock", timeout=timeout_s)

    def async_lock(self, timeout_s: float = -1) -> AsyncFileLock:
        """Return the lock of whoever works on the generation; a negative time-out waits for ever."""
        path = self.folder / "lock"
        return AsyncFileLock(path, timeout=timeout_s, poll_interval=0.2, run_in_executor=False)
