"""Voting by mail: a page with its videos inside, and the files of votes that come back.

<root>/votes/<sweep>/pages/<page>.json   what a page asks, and whose videos the ids in it are
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema

from kling_sweeps.errors import ConfigError, StoreError, explained
from kling_sweeps.reports.contents import PROVIDERS
from kling_sweeps.store.journal import force, is_date, written_whole
from kling_sweeps.store.votes import Answer, Study, VoteLog, votes_folder
from kling_sweeps.untrusted import clean
from kling_sweeps.votes.page import render
from kling_sweeps.votes.poll import NAME_LENGTH, Poll, rater_name
from kling_sweeps.votes.session import shape

FORMAT = "kling_sweeps votes 1"
# In bytes: of a page, since mail programs take 25 MB with a third more for their own coding, and of a file of votes.
PAGE, FILE = 18 * 2**20, 4 * 2**20
# What a clip takes beside its bytes.
BESIDE = 70
ID = {"type": "string", "pattern": "^[0-9a-f]{1,32}$"}
VOTED = {
    "properties": {"left": ID, "right": ID, "answer": {"enum": list(Answer)}},
    "required": ["left", "right", "answer"],
}
SCHEMA = {
    "type": "object",
    "properties": {
        "format": {"const": FORMAT},
        "page": ID,
        "rater": {"type": "string", "minLength": 1, "maxLength": NAME_LENGTH},
        "events": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "event": {"enum": ["voted", "undone"]},
                    "id": ID,
                    "at": {"type": "string", "maxLength": 40},
                },
                "required": ["event", "id", "at"],
                "if": {"properties": {"event": {"const": "voted"}}},
                "then": VOTED,
            },
        },
    },
    "required": ["format", "page", "rater", "events"],
}


@dataclass(frozen=True)
class Received:
    """What a file of votes holds, as far as it was found to be right."""

    provider: str
    root: Path
    study: Study
    rater: str
    events: Sequence[Mapping[str, Any]]


def make_page(poll: Poll, path: Path, limit: int = PAGE) -> int:
    """Write the page of a poll to a file, and return how many videos are in it.

    What maps the ids in it to requests stays in the store. Where the clips take more than `limit` bytes, the last
    repeats are left out. Raises ConfigError where no pair fits, and OSError where a file can't be written.
    """
    ids = {key: secrets.token_hex(8) for key in poll.videos}
    page, question = secrets.token_hex(16), poll.study.question
    room = limit - len(render(question, _data(poll, page, ids), {}).encode())
    ids = {key: ids[key] for key in sorted(_fitting(poll, room), key=ids.__getitem__)}
    data = _data(poll, page, ids)
    if not data["pairs"]:
        raise ConfigError(f"no two videos fit into a page of {limit / 2**20:.0f} MiB")
    about = {**vars(poll.study), "videos": {name: key for key, name in ids.items()}}
    about["pairs"] = [[one, other] for one, other, _ in data["pairs"]]
    _keep(votes_folder(poll.root, poll.study.sweep) / "pages" / f"{page}.json", about)
    path.parent.mkdir(parents=True, exist_ok=True)
    clips = {name: poll.videos[key].clip.path.read_bytes() for key, name in ids.items()}
    with written_whole(path) as part:
        part.write_text(render(question, data, clips), encoding="utf-8")
    return len(ids)


def _data(poll: Poll, page: str, ids: Mapping[str, str]) -> dict[str, Any]:
    """Return what the page is told of some videos, which `ids` has by the keys of their requests."""
    pairs = [pair for pair in poll.pairs(page) if pair.keys <= ids.keys()]
    texts = list(dict.fromkeys(map(poll.text, pairs)))
    return {
        "format": FORMAT,
        "page": page,
        "rater": None,
        "texts": texts,
        "pairs": [[ids[pair.left], ids[pair.right], texts.index(poll.text(pair))] for pair in pairs],
        "videos": {name: shape(poll.videos[key]) for key, name in ids.items()},
    }


def _fitting(poll: Poll, room: int) -> Iterator[str]:
    """Yield the keys of the videos whose clips fit into so many bytes, the first repeat of all before the next."""
    for video in sorted(poll.videos.values(), key=lambda one: (one.seat.sample, one.seat.key)):
        room -= -(-video.clip.path.stat().st_size // 3) * 4 + BESIDE
        if room >= 0:
            yield video.seat.key


def _keep(path: Path, about: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path, force) as part:
        part.write_text(json.dumps(about), encoding="utf-8")


def read_files(files: Sequence[Path], sweep: str, store_dir: Path) -> list[Received]:
    """Read files of votes on a sweep; raise ConfigError with all that is wrong with any of them."""
    found, problems = [], []
    for file in files:
        try:
            found.append(_received(file, sweep, [(name, store_dir / name) for name in PROVIDERS]))
        except (ConfigError, StoreError) as error:
            problems.append(f"{file}: {error}")
        except OSError as error:
            problems.append(explained(error))
    if problems:
        raise ConfigError(*problems)
    return found


def take(received: Received) -> int:
    """Write the votes that were not written before, and return how many those are."""
    return VoteLog(received.root, received.study, received.rater).take(received.events)


def _received(file: Path, sweep: str, roots: Sequence[tuple[str, Path]]) -> Received:
    content = _checked(file)
    for provider, root in roots:
        about = votes_folder(root, sweep) / "pages" / f"{content['page']}.json"
        if about.is_file():
            return _of_page(content, _about(about), provider, root)
    raise ConfigError(
        f"the page that it comes from was not made here for {sweep}: name the sweep and the --store that it was made with"
    )


def _checked(file: Path) -> dict[str, Any]:
    """Return what a file holds; raise ConfigError where it is no file of votes."""
    with open(file, "rb") as opened:
        written = opened.read(FILE + 1)
    if len(written) > FILE:
        raise ConfigError(f"it has more than {FILE // 2**20} MiB: it is no file of votes")
    try:
        content = json.loads(written)
    except (ValueError, RecursionError):
        raise ConfigError("it is no JSON: read the file that `Save the votes` made") from None
    if not isinstance(content, dict) or "format" not in content:
        raise ConfigError("it is no file of votes: read the file that `Save the votes` made")
    checked = jsonschema.Draft202012Validator(SCHEMA)
    if error := jsonschema.exceptions.best_match(checked.iter_errors(content)):
        raise ConfigError(f"{error.json_path}: {clean(error.message, 120)}")
    return dict(content)


def _about(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError):
        raise StoreError(f"{path} is damaged: bring it back, it says whose the votes are") from None


def _of_page(content: Mapping[str, Any], about: Mapping[str, Any], provider: str, root: Path) -> Received:
    """Return votes by the keys of their requests; raise ConfigError for one that the page does not offer."""
    pairs = {frozenset(pair) for pair in about["pairs"]}
    voted = {event["id"] for event in content["events"] if event["event"] == "voted"}
    for event in content["events"]:
        if not is_date(event["at"]):
            raise ConfigError(f"the vote {event['id']}: `at` is no date with a time zone")
        if event["event"] == "undone" and event["id"] not in voted:
            raise ConfigError(f"the vote {event['id']} is undone and was not given")
        if event["event"] == "voted" and {event["left"], event["right"]} not in pairs:
            raise ConfigError(f"the vote {event['id']} is on two videos that the page does not show together")
    study = Study(about["sweep"], about["factor"], about["question"])
    events = [_event(event, content["page"], about["videos"]) for event in content["events"]]
    return Received(provider, root, study, rater_name(content["rater"]), events)


def _event(event: Mapping[str, Any], page: str, keys: Mapping[str, str]) -> dict[str, Any]:
    """Return an event as the store has it: an id of the page's own, and the keys of the videos."""
    told = {"event": event["event"], "id": f"{page}-{event['id']}", "at": event["at"]}
    if event["event"] == "undone":
        return told
    return {**told, **{side: keys[event[side]] for side in ("left", "right")}, "answer": event["answer"]}
