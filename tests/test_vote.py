"""How people are asked: which pairs they get, who may ask the server, and what of a file by mail is believed."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections import Counter
from itertools import combinations, product

import av
import clips
import httpx
import pytest
import voting
from mlflow.tracking import MlflowClient

from kling_sweeps import vote
from kling_sweeps.analysis import effects, runs_df, votes_df
from kling_sweeps.errors import VideoError
from kling_sweeps.store.votes import VoteLog, votes_of
from kling_sweeps.video.remux import copy_bare
from kling_sweeps.votes.mail import FORMAT, make_page
from kling_sweeps.votes.poll import read_poll
from kling_sweeps.votes.results import track_votes
from kling_sweeps.votes.schedule import Seat, schedule
from kling_sweeps.votes.server import application
from kling_sweeps.votes.session import Session

LEVELS = (0.1875, 0.3125, 0.8125)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> voting.Voting:
    """Make a sweep of two prompts under three settings."""
    return voting.prepared(tmp_path_factory.mktemp("sweep"), LEVELS)


@pytest.fixture
def poll(sweep):
    """Give the poll on the sweep, and remove all votes in the end."""
    yield read_poll("cfg", None, "Which one?", sweep.store, sweep.uri)
    for file in sweep.files():
        file.unlink()


@pytest.fixture
def client(poll):
    """Give what asks the server as its own page does."""
    session = Session(poll)
    with voting.running(application(session, None, "s3cret")) as home, httpx.Client(base_url=home) as client:
        client.headers["origin"] = home
        yield client
    session.close()


@pytest.fixture
def command(sweep, monkeypatch):
    """Give the command, run in the sweep's folder."""
    monkeypatch.chdir(sweep.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sweep.uri)
    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments: str) -> int:
        try:
            return vote.main(["cfg", *arguments])
        except SystemExit as ended:
            return ended.code

    yield run
    signal.signal(signal.SIGTERM, before)


def design(blocks: int, levels: int, samples: int) -> list[Seat]:
    return [
        Seat(f"{b} {n} {s}", b, n, s) for b, n, s in product(range(blocks), range(levels), range(samples))
    ]


@pytest.mark.parametrize(("blocks", "levels", "samples"), [(4, 3, 2), (3, 4, 1), (1, 2, 3), (7, 5, 2)])
def test_pairs_are_spread_evenly_at_every_moment(blocks, levels, samples):
    """Shows each pair of videos once, and each block, each two levels and each repeat about as often as any other."""
    pairs = schedule(design(blocks, levels, samples), "Ann")
    contrasts = len([*combinations(range(levels), 2)])
    assert len(pairs) == len({pair.keys for pair in pairs}) == blocks * contrasts * samples**2
    by_block, by_contrast, by_video = Counter(), Counter(), Counter()
    for number, pair in enumerate(pairs, 1):
        (block, one, _), (other_block, other, _) = pair.left.split(), pair.right.split()
        assert block == other_block and one != other
        by_block[block] += 1
        by_contrast[min(one, other), max(one, other)] += 1
        by_video.update(pair.keys)
        assert max(by_block.values()) - number // blocks <= 1
        assert max(by_contrast.values()) - number / contrasts < blocks
        if number == blocks * contrasts * samples:
            assert set(by_video.values()) == {levels - 1}


def test_every_rater_has_an_order_and_sides_of_their_own():
    """Repeats a rater's schedule, gives another one to another, and puts either video on either side."""
    seats = design(3, 4, 2)
    ann, bob = schedule(seats, "Ann"), schedule(seats[::-1], "Bob")
    assert schedule(seats[::-1], "Ann") == ann
    assert [pair.keys for pair in ann] != [pair.keys for pair in bob]
    assert {pair.left < pair.right for pair in ann} == {True, False}
    assert len({pair.left for pair in ann} & {pair.right for pair in ann}) == len(seats)


def test_what_is_missing_is_left_out():
    """Pairs what there is where a block lacks a level, and nothing where no two can be compared."""
    seats = [seat for seat in design(2, 3, 2) if (seat.block, seat.level) != (0, 1)]
    assert len(schedule(seats, "Ann")) == 4 + 3 * 4
    assert schedule(design(3, 1, 4), "Ann") == []


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"path": "/wrong/state"}, 404),
        ({"path": "/s3cre%F0/state"}, 404),
        ({"headers": {"host": "evil.example:8000"}}, 421),
        ({"headers": {"host": "[::"}}, 421),
        ({"headers": {"origin": "https://evil.example"}}, 403),
        ({"headers": {"origin": "null"}}, 403),
        ({"content": b"["}, 400),
        ({"content": b"[" * 9000}, 400),
        ({"content": b'{"rater": 3}'}, 400),
        ({"content": b'{"rater": "  "}'}, 400),
        ({"content": b'{"rater": "' + b"a" * 20_000 + b'"}'}, 400),
        ({"path": "/s3cret/vote", "content": b'{"rater": "Ann", "pair": "x", "answer": "left"}'}, 400),
        ({"path": "/s3cret/vote", "content": b'{"rater": "Ann", "pair": "x", "answer": "\\ud800"}'}, 400),
    ],
)
def test_who_does_not_belong_here_is_refused(client, sweep, change, status):
    """Answers nobody without the token, from another site, under another name, or with what is no request."""
    asked = {"path": "/s3cret/state", "content": b'{"rater": "Ann"}', **change}
    response = client.post(asked.pop("path"), **asked)
    assert response.status_code == status
    assert not [word for word in sweep.told() if word in response.text]
    assert sweep.files() == []


def test_a_page_of_another_site_can_neither_read_nor_vote(client):
    """Sends no videos or pages to another origin, wants one on every vote, and forbids frames, caches and referrers."""
    assert client.get("/s3cret/", headers={"origin": "https://evil.example"}).status_code == 403
    del client.headers["origin"]
    assert client.post("/s3cret/state", content=b'{"rater": "Ann"}').status_code == 403
    page = client.get("/s3cret/")
    assert page.status_code == 200
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert client.get("/").status_code == client.get("/s3cret/video/nothing").status_code == 404


def test_a_vote_is_counted_once(client, poll):
    """Takes one vote on a pair from two windows or by a double-click, and hands the pair out again after an undo."""
    ask = lambda what, **given: client.post(f"/s3cret/{what}", json={"rater": "Ann", **given}).json()  # noqa: E731
    first = ask("state")
    assert (first["done"], first["left"], first["last"]) == (0, 6, None)
    assert ask("state") == first
    shown = first["pair"]["id"]
    second = ask("vote", pair=shown, answer="left")
    assert second["counted"] and second["done"] == 1 and second["pair"]["id"] == first["next"]["id"]
    again = ask("vote", pair=shown, answer="right")
    assert not again["counted"] and again["done"] == 1
    assert [str(one.answer) for one in votes_of(poll.root, "cfg")] == ["left"]
    undone = ask("undo", vote=second["last"])
    assert undone["pair"]["id"] == shown and undone["done"] == 0
    assert ask("undo", vote=second["last"]) == undone


def test_ids_tell_nothing_of_a_video(client):
    """Gives a video another id in every pair, on either side and for every rater."""
    seen = []
    for rater in ("Ann", "Bob"):
        state = client.post("/s3cret/state", json={"rater": rater}).json()
        while pair := state["pair"]:
            seen += [pair["id"], pair["left"]["id"], pair["right"]["id"]]
            answer = {"rater": rater, "pair": pair["id"], "answer": "tie"}
            state = client.post("/s3cret/vote", json=answer).json()
        assert (state["done"], state["left"]) == (6, 0)
    assert len(set(seen)) == len(seen) == 2 * 6 * 3


def test_a_video_is_sent_without_remarks(client, sweep):
    """Sends the pictures alone, in parts where they are asked for, and no remark that its file holds."""
    pair = client.post("/s3cret/state", json={"rater": "Ann"}).json()["pair"]
    assert pair["left"] | {"id": ""} == {"id": "", "size": [160, 90], "seconds": 1.0, "frames": 24}
    response = client.get(f"/s3cret/video/{pair['left']['id']}")
    assert response.headers["content-type"] == "video/mp4" and b"ftyp" in response.content[:16]
    assert not [word for word in sweep.told() if word in response.text or word in str(response.headers)]
    part = client.get(f"/s3cret/video/{pair['left']['id']}", headers={"range": "bytes=0-9"})
    assert (part.status_code, part.content) == (206, response.content[:10])


def test_what_is_wrong_on_the_disk_is_nothing_for_a_rater(client, poll, sweep, capfd):
    """Says in the terminal alone which file can't be read or written."""
    log = VoteLog(poll.root, poll.study, "Ann")
    log.path.mkdir(parents=True)
    response = client.post("/s3cret/state", json={"rater": "Ann"})
    log.path.rmdir()
    assert response.status_code == 500 and str(log.path) in capfd.readouterr().err
    assert not [word for word in (*sweep.told(), "cfg", "votes/") if word in response.text]


def test_a_copy_has_the_pictures_alone(tmp_path):
    """Copies pictures as they are coded, without sound, and leaves what browsers don't play to a clip."""
    video = clips.write(tmp_path / "video.mp4", clips.grey(90, frames=24), options={}, audio=True)
    copy = tmp_path / "copy.mp4"
    assert copy_bare(video, copy)
    with av.open(str(video)) as given, av.open(str(copy)) as made:
        assert [stream.type for stream in made.streams] == ["video"] and len(given.streams) == 2
        coded = [
            [(packet.pts * packet.time_base, bytes(packet)) for packet in one.demux(video=0) if packet.size]
            for one in (given, made)
        ]
        assert coded[0] == coded[1] and len(coded[0]) == 24
    odd = clips.write(tmp_path / "odd.mkv", clips.grey(90, frames=4), codec="ffv1", options={})
    assert not copy_bare(odd, tmp_path / "none.mp4") and not (tmp_path / "none.mp4").exists()
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(video.read_bytes()[:200])
    with pytest.raises(VideoError, match="can't be copied"):
        copy_bare(broken, tmp_path / "none.mp4")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--factor", "prompt"], "two videos of one prompt are compared"),
        (["--factor", "size"], "the runs have no param 'size'"),
        (["--question", " "], "--question must have 1 to 300 characters"),
        (["--rater", "a" * 61], "the rater's name must have 1 to 60 characters"),
        (["--port", "99999"], "--port 99999"),
        (["--read", "none.json"], "none.json: No such file"),
        (["--read", "none.json", "--question", "Which?"], "the question are those of the page"),
    ],
)
def test_a_wrong_command_says_what_to_do(command, capsys, arguments, said):
    """Ends with 2 and one sentence."""
    assert command("--no-browser", *arguments) == 2
    assert said in capsys.readouterr().err


def sent(page: str, **change: object) -> dict:
    """Return a file of votes as the page makes it: left on its first pair, a tie on its second, which is undone."""
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    told = json.loads(data)
    events = []
    for number, ((left, right, _), answer) in enumerate(zip(told["pairs"], ("left", "tie"), strict=False)):
        at = f"2026-01-0{number + 1}T10:00:00.000Z"
        events.append(
            {
                "event": "voted",
                "id": f"{number:016x}",
                "left": left,
                "right": right,
                "answer": answer,
                "at": at,
            }
        )
    events.append({"event": "undone", "id": f"{1:016x}", "at": "2026-01-03T10:00:00.000Z"})
    return {"format": FORMAT, "page": told["page"], "rater": "Zoë", "events": events, **change}


def test_a_file_by_mail_is_taken_once(command, poll, sweep, tmp_path, capsys):
    """Reads a file as often as it is given, counts its votes once, and writes what came of them to MLflow."""
    before = runs_df("cfg", sweep.uri)
    page = tmp_path / "vote.html"
    assert command("--page", str(page), "--question", "Which one?") == 0
    text = page.read_text()
    assert not [word for word in sweep.told() if word in text]
    file = tmp_path / "votes.json"
    file.write_text(json.dumps(sent(text)))
    for new in (2, 0):
        assert command("--read", str(file), str(file)) == 0
        assert f"{new} of 2 votes are new, by Zoë" in capsys.readouterr().out
    (row,) = votes_df("cfg", tracking_uri=sweep.uri, store=sweep.store).to_dict("records")
    assert (row["rater"], row["outcome"], str(row["at"].date())) == ("Zoë", 1.0, "2026-01-01")
    runs = runs_df("cfg", sweep.uri).set_index("request_key")
    assert runs.loc[row["left_key"], ["votes/win_share", "votes/n"]].tolist() == [1, 1]
    assert runs.loc[row["right_key"], ["votes/win_share", "votes/n"]].tolist() == [0, 1]
    assert runs["votes/n"].sum() == 2
    assert list(before["run_id"]) == list(runs["run_id"])
    client = MlflowClient(sweep.uri)
    assert all(
        client.get_run(run).data.tags["content"] == key
        for key, run in runs["run_id"].items()
        if key[0] != "0"
    )
    assert not effects(runs_df("cfg", sweep.uri), "cfg_scale")["metric"].str.startswith("votes/").any()
    (one,) = votes_of(sweep.root, "cfg")
    assert VoteLog(sweep.root, one.study, "Zoë").undo(one.id)
    assert track_votes(one.study, "emulator", sweep.store, sweep.uri) == []
    runs = runs_df("cfg", sweep.uri)
    assert runs["votes/n"].sum() == 0 and runs["votes/win_share"].isna().all()


def test_a_vote_that_a_file_has_twice_is_counted_once(command, poll, sweep, tmp_path, capsys):
    """Takes the first of two votes with one id, whatever the second says."""
    page, file = tmp_path / "vote.html", tmp_path / "votes.json"
    make_page(poll, page)
    good = sent(page.read_text())
    first, *_ = good["events"]
    file.write_text(json.dumps({**good, "events": [first, first, {**first, "answer": "right"}]}))
    capsys.readouterr()
    assert command("--read", str(file)) == 0
    assert "1 of 3 votes are new, by Zoë" in capsys.readouterr().out
    assert [str(one.answer) for one in votes_of(sweep.root, "cfg")] == ["left"]
    (log,) = sweep.files()
    assert len(log.read_text().splitlines()) == 1


def test_a_page_leaves_out_what_is_too_much(poll, tmp_path):
    """Has as many videos as fit, and refuses where no two do."""
    page = tmp_path / "vote.html"
    size = max(one.clip.path.stat().st_size for one in poll.videos.values())
    assert make_page(poll, page) == 6
    whole = page.stat().st_size
    assert make_page(poll, page, whole - size) < 6
    assert page.stat().st_size < whole
    with pytest.raises(vote.ConfigError, match="no two videos fit"):
        make_page(poll, page, size)


WRONG = {
    "no JSON": lambda good: "{",
    "it is no JSON": lambda good: "[" * 100_000,
    "more than 4 MiB": lambda good: " " * (5 * 2**20),
    "$.format": lambda good: {**good, "format": "votes"},
    "not made here": lambda good: {**good, "page": "ab"},
    "$.page": lambda good: {**good, "page": "../../../etc/passwd"},
    "$.rater": lambda good: {**good, "rater": 7},
    "1 to 60 characters": lambda good: {**good, "rater": "  "},
    "$.events[0]": lambda good: {**good, "events": [{"event": "voted", "id": "1", "at": "now"}]},
    "no date": lambda good: {**good, "events": [{**good["events"][0], "at": "2026-01-01"}]},
    "not show together": lambda good: {**good, "events": [{**good["events"][0], "left": "abc"}]},
    "was not given": lambda good: {**good, "events": good["events"][2:]},
    "$.events[0].answer": lambda good: {**good, "events": [{**good["events"][0], "answer": "both"}]},
}


def test_a_wrong_file_is_refused_whole(command, poll, sweep, tmp_path, capsys):
    """Takes nothing of several files where one is wrong, and says of each what and where."""
    page = tmp_path / "vote.html"
    make_page(poll, page)
    good = sent(page.read_text())
    (tmp_path / "good.json").write_text(json.dumps(good))
    for number, (said, change) in enumerate(WRONG.items()):
        wrong = change(good)
        file = tmp_path / f"wrong{number}.json"
        file.write_text(wrong if isinstance(wrong, str) else json.dumps(wrong))
        assert command("--read", str(tmp_path / "good.json"), str(file)) == 2, said
        told = capsys.readouterr().err
        assert said in told and file.name in told
    assert sweep.files() == []


@pytest.mark.slow
def test_a_kill_loses_no_vote_that_was_acknowledged(tmp_path):
    """Has, after the server was killed in the midst of votes, every one that it had answered, and goes on after it."""
    sweep = voting.prepared(tmp_path, LEVELS, samples=3)
    acknowledged: list[str] = []

    def ask(address: str, what: str, **given: str) -> dict:
        origin = address.rsplit("/", 2)[0]
        sent = httpx.post(
            address + what, json={"rater": "Ann", **given}, headers={"origin": origin}, timeout=60
        )
        return sent.raise_for_status().json()

    def vote_on(address: str, state: dict) -> None:
        while pair := state["pair"]:
            state = ask(address, "vote", pair=pair["id"], answer="left")
            acknowledged.append(state["last"])
            enough.set() if len(acknowledged) == 5 else None

    enough = threading.Event()
    with voting.served(tmp_path) as (address, process):

        def vote_until_it_dies() -> None:
            with pytest.raises(httpx.HTTPError):
                vote_on(address, ask(address, "state"))

        thread = threading.Thread(target=vote_until_it_dies)
        thread.start()
        assert enough.wait(60)
        process.kill()
        thread.join()
    kept = [one.id for one in votes_of(sweep.root, "cfg")]
    assert kept[: len(acknowledged)] == acknowledged and 5 <= len(kept) <= len(acknowledged) + 1 < 54
    with voting.served(tmp_path) as (address, _):
        assert ask(address, "state")["done"] == len(kept)
    runs = runs_df("cfg", sweep.uri)
    assert runs["votes/n"].sum() == 2 * len(kept)
