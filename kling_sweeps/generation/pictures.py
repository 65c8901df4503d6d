"""The files that requests are about: uploaded once, and named by their addresses in what is sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from filelock import AsyncFileLock

from kling_sweeps.errors import RejectedError
from kling_sweeps.experiment.picture import Attachment, Picture
from kling_sweeps.experiment.request import GenerationRequest
from kling_sweeps.provider import Provider
from kling_sweeps.store.journal import force, written_whole

MEDIA_TYPES = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp", "mp4": "video/mp4"}
# How long an upload is used again: fal keeps files for a week at least, and a request may wait for long.
FRESH = timedelta(days=1)


@dataclass(frozen=True)
class Pictures:
    """The files that were uploaded from a store, each with its addresses; of pictures that videos begin with it has copies.

    `uploaded` has those of this command, the only ones that an emulator which ends with the command knows.
    """

    provider: Provider
    folder: Path
    uploaded: dict[str, str] = field(default_factory=dict)

    async def addressed(self, request: GenerationRequest) -> GenerationRequest:
        """Return a request as it is sent; raise a SubmissionError where a file of it can't be uploaded."""
        addresses = {picture.mark: await self._address(picture) for picture in request.pictures}
        return replace(request, arguments=request.with_pictures(addresses)) if addresses else request

    def is_of(self, request: GenerationRequest, sent: Mapping[str, Any] | None) -> bool:
        """Tell whether a request was sent with these arguments, whichever upload of a file they name."""
        marks = {
            upload["address"]: picture.mark
            for picture in request.pictures
            for upload in self._uploads(picture)
        }
        named = None if sent is None else replace(request, arguments=sent).with_pictures(marks)
        return named == request.arguments

    async def forget(self, request: GenerationRequest) -> None:
        """Have the files of a request uploaded anew when they are sent again, since fal no longer has them."""
        for picture in request.pictures:
            async with self._locked(picture):
                self.uploaded.pop(picture.mark, None)
                self._note(picture, [{**upload, "is_gone": True} for upload in self._uploads(picture)])

    def _locked(self, picture: Attachment) -> AsyncFileLock:
        self.folder.mkdir(parents=True, exist_ok=True)
        return AsyncFileLock(self.folder / f"{picture.name}.lock", poll_interval=0.1, run_in_executor=False)

    async def _address(self, picture: Attachment) -> str:
        async with self._locked(picture):
            if picture.mark not in self.uploaded:
                self.uploaded[picture.mark] = self._fresh(picture) or await self._upload(picture)
            return self.uploaded[picture.mark]

    def _fresh(self, picture: Attachment) -> str | None:
        """Return the address of an earlier upload that is not old, and that fal has for all that is known."""
        if self.provider.is_ephemeral:
            return None
        since = datetime.now(UTC) - FRESH
        known = (one for one in self._uploads(picture) if not one["is_gone"] and _utc(one["at"]) > since)
        return next((str(one["address"]) for one in known), None)

    async def _upload(self, picture: Attachment) -> str:
        content = await asyncio.to_thread(self._kept, picture)
        address = await self.provider.upload(content, MEDIA_TYPES[picture.kind], picture.file_name)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        # An emulator that ends with the command takes its files along.
        upload = {"address": address, "at": at, "is_gone": self.provider.is_ephemeral}
        self._note(picture, [upload, *self._uploads(picture)])
        return address

    def _kept(self, picture: Attachment) -> bytes:
        """Return what is uploaded of a file, from the store where it has a copy; keep one of a picture."""
        for path in (self.folder / picture.file_name, picture.path):
            if (content := picture.content(path)) is not None:
                if path == picture.path and isinstance(picture, Picture):
                    self._write(picture.file_name, content)
                return content
        raise RejectedError(
            f"{picture.path} has changed since this command began; run it again", error_type="picture_changed"
        )

    def _note(self, picture: Attachment, uploads: Sequence[Mapping[str, Any]]) -> None:
        self._write(f"{picture.name}.json", f"{json.dumps(uploads, indent=2)}\n".encode())

    def _uploads(self, picture: Attachment) -> list[dict[str, Any]]:
        """Return where a file was uploaded to and when, the newest first; nothing where that can't be read."""
        try:
            found = json.loads((self.folder / f"{picture.name}.json").read_bytes())
            return [
                {
                    "address": str(one["address"]),
                    "at": str(_utc(one["at"])),
                    "is_gone": bool(one.get("is_gone")),
                }
                for one in found
            ]
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return []

    def _write(self, name: str, content: bytes) -> None:
        with written_whole(self.folder / name, force) as part:
            part.write_bytes(content)


def _utc(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
