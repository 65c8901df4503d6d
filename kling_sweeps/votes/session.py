"""What raters are shown and have said, told in ids that say nothing of a video."""

from __future__ import annotations

import hmac
import secrets
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kling_sweeps.errors import VideoError
from kling_sweeps.store.journal import written_whole
from kling_sweeps.store.votes import Answer, VoteLog
from kling_sweeps.video.remux import copy_bare
from kling_sweeps.votes.poll import Candidate, Poll
from kling_sweeps.votes.schedule import Pair


class Session:
    """Hands out pairs of videos and takes votes on them, of several raters at once.

    Every id is made from a secret that goes with the session, and is another one for each rater, pair and side, so
    that neither a video nor what was made alike can be recognised by it.
    """

    def __init__(self, poll: Poll) -> None:
        self.poll = poll
        self._secret = secrets.token_bytes(32)
        self._schedules: dict[str, dict[str, Pair]] = {}
        self._shown: dict[str, Candidate] = {}
        self._copies = TemporaryDirectory(prefix="kling_sweeps_votes_", ignore_cleanup_errors=True)

    def state(self, rater: str, counted: bool = True) -> dict[str, Any]:
        """Return what a rater's page shows: the next two pairs, and how many are done and left."""
        votes = self._log(rater).votes()
        voted = {vote.pair for vote in votes}
        left = [(name, pair) for name, pair in self._schedule(rater).items() if pair.keys not in voted]
        pair, following, *_ = *(self._told(*named) for named in left[:2]), None, None
        return {
            "counted": counted,
            "done": len(votes),
            "left": len(left),
            "last": votes[-1].id if votes else None,
            "pair": pair,
            "next": following,
        }

    def vote(self, rater: str, pair_id: str, answer: Answer) -> dict[str, Any]:
        """Take a vote, which is on disk when this returns; raise LookupError for a pair that is not the rater's."""
        pair = self._schedule(rater).get(pair_id)
        if pair is None:
            raise LookupError("there is no such pair; load the page anew")
        return self.state(rater, self._log(rater).vote(pair.left, pair.right, answer))

    def undo(self, rater: str, vote_id: str) -> dict[str, Any]:
        """Take back a rater's last vote, if it is the one named."""
        self._log(rater).undo(vote_id)
        return self.state(rater)

    def video(self, video_id: str) -> Path:
        """Return a file with a video that was shown, and nothing but its pictures; raise LookupError for no such video."""
        candidate = self._shown[video_id]
        copy = Path(self._copies.name, f"{candidate.seat.key}.mp4")
        if not copy.exists():
            with written_whole(copy) as part:
                if not _is_copied(candidate.source, part):
                    part.write_bytes(candidate.clip.path.read_bytes())
        return copy

    def close(self) -> None:
        """Remove the copies of videos."""
        self._copies.cleanup()

    def _log(self, rater: str) -> VoteLog:
        return VoteLog(self.poll.root, self.poll.study, rater)

    def _schedule(self, rater: str) -> dict[str, Pair]:
        """Return a rater's pairs by their ids, in their order."""
        if rater not in self._schedules:
            pairs = self.poll.pairs(rater)
            self._schedules[rater] = {self._digest(rater, pair.left, pair.right): pair for pair in pairs}
        return self._schedules[rater]

    def _told(self, pair_id: str, pair: Pair) -> dict[str, Any]:
        sides = {side: self._side(pair_id, side, key) for side, key in vars(pair).items()}
        return {"id": pair_id, "prompt": self.poll.text(pair), **sides}

    def _side(self, pair_id: str, side: str, key: str) -> dict[str, Any]:
        video_id, candidate = self._digest(pair_id, side), self.poll.videos[key]
        self._shown[video_id] = candidate
        return {"id": video_id, **shape(candidate)}

    def _digest(self, *words: str) -> str:
        return hmac.digest(self._secret, "\n".join(words).encode(), "sha256").hex()[:24]


def shape(candidate: Candidate) -> dict[str, Any]:
    """Return what a player must know of a video: its width and height, seconds and number of frames."""
    clip = candidate.clip
    return {
        "size": [clip.width, clip.height],
        "seconds": round(clip.duration_s, 4),
        "frames": len(clip.times),
    }


def _is_copied(source: Path, target: Path) -> bool:
    try:
        return copy_bare(source, target)
    except VideoError:
        return False
