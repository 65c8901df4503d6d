"""A file is fetched whole or not at all, and resumed where it broke off."""

from __future__ import annotations

import asyncio

import httpx
import pytest
import stamina
from conftest import Emulator
from test_provider import completed, on

from kling_sweeps.download import download
from kling_sweeps.errors import DownloadError


@pytest.fixture(autouse=True)
def no_backoff():
    """Retries at once."""
    with stamina.set_testing(True, attempts=5, cap=True):
        yield


@pytest.fixture
def url(emulator: Emulator) -> str:
    async def work(provider):
        return (await provider.result(await completed(provider), failed=False))["video"]["url"]

    return on(emulator.base_url, work)


def fetch(url: str, path, max_bytes: int = 10**8) -> bytes:
    async def run():
        async with httpx.AsyncClient() as client:
            await download(client, url, path, max_bytes)

    asyncio.run(run())
    return path.read_bytes()


@pytest.fixture
def whole(url, tmp_path) -> bytes:
    return fetch(url, tmp_path / "whole.mp4")


@pytest.mark.parametrize("fault", ["truncated", "truncated_no_range", "no_range", "drop", "reset"])
def test_a_broken_download_is_completed(url, whole, emulator, tmp_path, fault):
    """Goes on after a break, with ranges or without."""
    emulator.set_faults({"at": "file", "fault": fault, "times": 2})
    assert fetch(url, tmp_path / "video.mp4") == whole


def test_what_is_here_is_not_fetched_again(url, whole, emulator, tmp_path):
    """Asks only for what is missing of a file that was begun before."""
    part = tmp_path / "video.mp4"
    part.write_bytes(b"x" * 1000)
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
        ("not_a_video", "text/html"),
        ("absurd_length", "max_video_mb"),
        ("endless", "max_video_mb"),
        ("not_found_404", "gone"),
        ("expired_410", "gone"),
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


def test_an_address_of_another_kind_is_an_error(tmp_path):
    """Reads no file of this machine."""
    with pytest.raises(DownloadError, match="HTTP"):
        fetch("file:///etc/hosts", tmp_path / "video.mp4")
