"""Generations as plain files, one folder each, found again by what they were made from.

    <root>/<key[:2]>/<key>/
        request.json     endpoint, arguments, sample, price
        journal.jsonl    every step, appended
        result.json      what fal answered
        video.mp4
        measurements/    one folder for each set of metrics
        lock             held by whoever works on the generation
        tracking.lock    held by whoever writes it to MLflow
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
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import AsyncFileLock, FileLock

from kling_sweeps.errors import UnavailableError
from kling_sweeps.journal import Journal, Stage, State, Ticket, sync_folder
from kling_sweeps.request import GenerationRequest

# What a request id looks like that can be a file's name: no path, no hidden file, nothing long.
PLAIN_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")


class Store:
    """All generations of one provider under one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def check(self) -> None:
        """Make the folder; raise UnavailableError where it can't be written."""
        probe = self.root / f".writable-{uuid.uuid4().hex}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise UnavailableError(
                f"store.dir: {self.root} can't be written ({error.strerror}); "
                "choose another folder with store.dir=PATH"
            ) from None

    def entry(self, request: GenerationRequest) -> Entry:
        return self.find(request.key)

    def find(self, key: str) -> Entry:
        """Return the folder of the generation that has a key."""
        return Entry(self.root / key[:2] / key, self)

    def claim(self, request_id: str, key: str) -> bool:
        """Note that a request at fal belongs to `key`; return False where another key has it."""
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


def _file_name(request_id: str) -> str:
    """Return a request id as it is where every file system takes it, otherwise its hash."""
    if PLAIN_ID.fullmatch(request_id):
        return request_id
    return f"sha256-{sha256(request_id.encode(errors='replace')).hexdigest()}"


class Entry:
    """The folder of one generation."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder = folder
        self.store = store
        self.video = folder / "video.mp4"
        self.journal = Journal(folder / "journal.jsonl")

    @property
    def key(self) -> str:
        return self.folder.name

    def state(self) -> State:
        """Return what the journal says; a video that was removed since is to be fetched again."""
        state = self.journal.state()
        if state.stage is Stage.FINISHED and not self.video.exists():
            return replace(state, stage=Stage.FETCHED)
        return state

    def make_folder(self) -> None:
        """Make the folder, which outlives a power cut from here on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        sync_folder(self.folder.parent)
        sync_folder(self.store.root)

    def create(self, request: GenerationRequest) -> None:
        """Make the folder and write `request.json`, where they are not there yet; under the lock."""
        self.make_folder()
        if not (self.folder / "request.json").exists():
            self.write_json("request.json", request.as_dict())

    def read_json(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file whole or not at all."""
        with self.replacing(name) as part:
            part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """Yield a temporary name; what is there when the block ends becomes `name`, forced to disk."""
        part = self._part(name)
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, self.folder / name)
        sync_folder(self.folder)

    def discard_part(self, name: str) -> None:
        """Remove what a `replacing` that broke off has left."""
        self._part(name).unlink(missing_ok=True)

    def _part(self, name: str) -> Path:
        return self.folder / f"{name}.part"

    def submitted(self, ticket: Ticket, how: str) -> bool:
        """Journal that fal has the request under this ticket, unless another key has taken it over."""
        is_mine = self.store.claim(ticket.request_id, self.key)
        if is_mine:
            self.journal.append("submitted", **vars(ticket), how=how)
        return is_mine

    def measurements(self, fingerprint: str) -> Path:
        """Return the folder of a measurement, which is there once it has been made."""
        return self.folder / "measurements" / fingerprint

    def tracking_lock(self) -> FileLock:
        """Return what is held for as long as the generation is written to MLflow."""
        return FileLock(self.folder / "tracking.lock")

    def lock(self, timeout_s: float) -> FileLock:
        """Return what `async_lock` does, for code that has no event loop."""
        return FileLock(self.folder / "lock", timeout=timeout_s)

    def async_lock(self, timeout_s: float = -1) -> AsyncFileLock:
        """Return what is held by whoever works on the generation; a negative time-out waits for ever."""
        path = self.folder / "lock"
        return AsyncFileLock(path, timeout=timeout_s, poll_interval=0.2, run_in_executor=False)
