"""A file is fetched whole or not at all, and resumed where it broke off."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gzip
import random
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pyarrow
import pytest
from conftest import Emulator
from test_provider import completed, on

from kling_sweeps.errors import DownloadError
from kling_sweeps.providers import download as download_module
from kling_sweeps.providers.download import EXPIRED, download


@pytest.fixture
def url(emulator: Emulator) -> str:
    async def work(provider):
        return (await provider.result(await completed(provider), failed=False))["video"]["url"]

    return on(emulator.base_url, work)


def fetch(url: str, path: Path, max_bytes: int = 10**8, tries: int = 5) -> bytes:
    """Fetch a file, trying again for as long as that may help."""

    async def once() -> None:
        async with httpx.AsyncClient() as client:
            await download(client, url, path, max_bytes)

    while True:
        tries -= 1
        try:
            asyncio.run(once())
            return path.read_bytes()
        except DownloadError as error:
            if error.is_final or not tries:
                raise


@pytest.fixture
def whole(url, tmp_path) -> bytes:
    return fetch(url, tmp_path / "whole.mp4")


@pytest.mark.parametrize("fault", ["truncated", "truncated_no_range", "no_range", "drop", "reset"])
def test_a_broken_download_is_completed(url, whole, emulator, tmp_path, fault):
    """Goes on after a break, with ranges or without."""
    emulator.set_faults({"at": "file", "fault": fault, "times": 2})
    assert fetch(url, tmp_path / "video.mp4") == whole


def test_what_is_here_is_not_fetched_again(url, whole, tmp_path):
    """Asks only for what is missing of a file that was begun before."""
    part = tmp_path / "video.mp4"
    part.write_bytes(b"x" * 1000 + whole[1000:5000])
    assert fetch(url, part) == b"x" * 1000 + whole[1000:]


def test_what_is_here_and_wrong_is_thrown_away(url, whole, tmp_path):
    """Begins anew where the part is longer than the file."""
    part = tmp_path / "video.mp4"
    part.write_bytes(whole + b"more")
    assert fetch(url, part) == whole


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("zero_bytes", "0 bytes"),
        ("absurd_length", "max_video_mb"),
        ("endless", "max_video_mb"),
        ("not_found_404", "404"),
        ("expired_410", "410"),
        ("redirect", "elsewhere.invalid"),
        ("drop", "broke off"),
        ("nginx_502", "broke off"),
    ],
)
def test_a_file_that_cannot_be_fetched_is_an_error(url, emulator, tmp_path, fault, said):
    """Says why, and stops at the size that is allowed."""
    emulator.set_faults({"at": "file", "fault": fault})
    with pytest.raises(DownloadError, match=said):
        fetch(url, tmp_path / "video.mp4", max_bytes=5_000_000)
    part = tmp_path / "video.mp4"
    assert not part.exists() or part.stat().st_size < 6_000_000


@dataclass
class Answer:
    """What a file server sends for one request: it hangs up after `sent` bytes of the body, `pause_s` each."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    sent: int | None = None
    pause_s: float = 0.0


@dataclass
class FileServer:
    """Gives its answers one after the other, the last for ever; notes what headers each request had."""

    url: str
    answers: list[Answer] = field(default_factory=list)
    asked: list[dict[str, str]] = field(default_factory=list)

    def next(self) -> Answer:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
def server() -> Iterator[FileServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            files.asked.append({name.lower(): value for name, value in self.headers.items()})
            answer = files.next()
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):  # whoever asked may have enough of it
                if answer.pause_s:
                    for byte in answer.body:
                        self.wfile.write(bytes([byte]))
                        time.sleep(answer.pause_s)
                else:
                    self.wfile.write(answer.body[: answer.sent])
            self.close_connection = True

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        files = FileServer(f"http://127.0.0.1:{listening.server_port}/video.mp4")
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        yield files
        listening.shutdown()
        thread.join()


FILE = random.Random(8).randbytes(20_000)
OTHER = random.Random(9).randbytes(20_000)


def rest(content: bytes, first: int, total: object = None, **headers: str) -> Answer:
    """Return the answer of a server that has ranges."""
    total = len(content) if total is None else total
    ranges = {"Content-Range": f"bytes {first}-{len(content) - 1}/{total}"}
    return Answer(content[first:], 206, {**ranges, **headers})


def first_byte(asked: dict[str, str]) -> int:
    return int(asked["range"].removeprefix("bytes=").removesuffix("-"))


@pytest.mark.parametrize(
    "validator", [{"ETag": '"1"'}, {"ETag": 'W/"1"'}, {"Last-Modified": "yesterday"}, {}]
)
def test_a_break_is_resumed_with_the_version_that_is_here(server, tmp_path, validator):
    """Asks for the rest of the same version, by the validator that the server gave."""
    server.answers = [Answer(FILE, headers=validator, sent=10_000), rest(FILE, REST, **validator)]
    assert fetch(server.url, tmp_path / "video.mp4") == FILE
    assert first_byte(server.asked[1]) == REST
    strong = [value for value in validator.values() if not value.startswith("W/")]
    assert server.asked[1].get("if-range") == (strong[0] if strong else None)
    assert [path.name for path in tmp_path.iterdir()] == ["video.mp4"]


REST = 10_000 - download_module.OVERLAP
CHANGED = {
    "another etag": rest(OTHER, REST, ETag='"2"'),
    "no etag any more": rest(OTHER, REST),
    "the same etag, in vain": rest(OTHER, REST, ETag='"1"'),
    "a wrong range": rest(FILE, 9_000, ETag='"1"'),
    "from the beginning": Answer(FILE, 206, {"Content-Range": "bytes 0-19999/20000", "ETag": '"1"'}),
    "no range": Answer(FILE[REST:], 206, {"ETag": '"1"'}),
    "many ranges": Answer(b"--x\r\n", 206, {"Content-Type": "multipart/byteranges; boundary=x"}),
    "an encoded range": Answer(
        gzip.compress(FILE[REST:]),
        206,
        {"Content-Range": f"bytes {REST}-19999/20000", "Content-Encoding": "gzip"},
    ),
    "a shorter file": rest(FILE[:9_950], REST, ETag='"1"'),
    "416": Answer(b"", 416),
}


@pytest.mark.parametrize("changed", CHANGED)
def test_two_versions_are_never_made_into_one(server, tmp_path, changed):
    """Begins anew where the rest is not that of what is here."""
    now = OTHER if changed.endswith(("any more", "etag", "vain")) else FILE
    server.answers = [Answer(FILE, headers={"ETag": '"1"'}, sent=10_000), CHANGED[changed], Answer(now)]
    assert fetch(server.url, tmp_path / "video.mp4") == now
    assert "range" in server.asked[1] and "range" not in server.asked[2]


def test_a_whole_file_for_a_range_is_taken(server, tmp_path):
    """Takes what a server without ranges gives, whichever version it is."""
    server.answers = [Answer(FILE, sent=10_000), Answer(OTHER)]
    assert fetch(server.url, tmp_path / "video.mp4") == OTHER
    assert len(server.asked) == 2


def packed(wbits: int) -> bytes:
    packer = zlib.compressobj(wbits=wbits)
    return packer.compress(FILE) + packer.flush()


ENCODED = {
    "gzip": packed(31),
    "x-gzip": packed(31),
    "GZIP": gzip.compress(FILE[:100]) + gzip.compress(FILE[100:]),
    "deflate": packed(15),
    "deflate, identity": packed(-15),
    "br": pyarrow.compress(FILE, "brotli").to_pybytes(),
    "zstd": pyarrow.compress(FILE, "zstd").to_pybytes(),
    "deflate, gzip": gzip.compress(packed(15)),
}


@pytest.mark.parametrize("coding", ENCODED)
def test_a_content_coding_is_not_the_file(server, tmp_path, coding):
    """Undoes what a server packs though it was asked not to, after a break too, which it can't resume."""
    encoded = Answer(ENCODED[coding], headers={"Content-Encoding": coding, "ETag": '"1"'})
    server.answers = [dataclasses.replace(encoded, sent=9_000), encoded]
    assert fetch(server.url, tmp_path / "video.mp4") == FILE
    assert all(asked["accept-encoding"] == "identity" and "range" not in asked for asked in server.asked)
    assert [path.name for path in tmp_path.iterdir()] == ["video.mp4"]


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "aws-chunked", "identity", "none"])
def test_a_coding_that_is_only_claimed_costs_nothing(server, tmp_path, coding):
    """Takes a file as it is where it is not encoded as the server says."""
    whole = bytes.fromhex("00000020667479706d703432") + FILE
    server.answers = [Answer(whole, headers={"Content-Encoding": coding})]
    assert fetch(server.url, tmp_path / "video.mp4") == whole


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
def test_what_is_cut_off_within_its_coding_is_fetched_again(server, tmp_path, coding):
    """Takes no part of an encoded file for all of it, whatever length the server told."""
    encoded = ENCODED[coding]
    headers = {"Content-Encoding": coding}
    server.answers = [Answer(encoded[:-200], headers=headers), Answer(encoded, headers=headers)]
    assert fetch(server.url, tmp_path / "video.mp4") == FILE


@pytest.mark.slow
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_what_an_encoded_file_unpacks_to_is_limited(server, tmp_path, coding):
    """Stops unpacking at the size that is allowed, and leaves nothing behind."""
    names = {"br": "brotli", "zstd": "zstd"}
    zeros = bytes(300_000_000)
    body = pyarrow.compress(zeros, names[coding]).to_pybytes() if coding in names else zlib.compress(zeros)
    if coding == "gzip":
        body = gzip.compress(zeros)
    server.answers = [Answer(body, headers={"Content-Encoding": coding})]
    with pytest.raises(DownloadError, match="max_video_mb"):
        fetch(server.url, tmp_path / "video.mp4", max_bytes=5_000_000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "kind", ["text/plain", "text/html", "application/json", "application/octet-stream", ""]
)
def test_bytes_count_and_not_their_type(server, tmp_path, kind):
    """Takes a file under whatever Content-Type."""
    server.answers = [Answer(FILE, headers={"Content-Type": kind})]
    assert fetch(server.url, tmp_path / "video.mp4") == FILE


def test_a_drip_is_broken_off_and_resumed(server, tmp_path, monkeypatch):
    """Waits for no server that sends a byte now and then, and goes on with what came."""
    monkeypatch.setattr(download_module, "LEAST_S", 0.3)
    monkeypatch.setattr(download_module, "OVERLAP", 2)
    server.answers = [Answer(FILE, pause_s=0.02), Answer(FILE)]
    assert fetch(server.url, tmp_path / "video.mp4") == FILE
    assert first_byte(server.asked[1]) > 0


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
def test_what_is_not_there_may_come_yet(server, tmp_path, status):
    """Tells a file that is not there from one that will not be fetched whatever one does."""
    server.answers = [Answer(b"{}", status), Answer(FILE)]
    with pytest.raises(DownloadError, match=str(status)) as caught:
        fetch(server.url, tmp_path / "video.mp4", tries=1)
    assert (caught.value.error_type, caught.value.is_final) == (EXPIRED, False)
    assert fetch(server.url, tmp_path / "video.mp4") == FILE


def test_an_address_of_another_kind_is_an_error(tmp_path):
    """Reads no file of this machine."""
    with pytest.raises(DownloadError, match="HTTP"):
        fetch("file:///etc/hosts", tmp_path / "video.mp4")
