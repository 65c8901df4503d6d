"""A server of somebody else's in place of fal: it answers each kind of question with what a test says."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass
class Answer:
    """What is answered: a body, JSON unless it is bytes, one byte every `pause_s` seconds where that is set."""

    body: Any = None
    code: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    pause_s: float = 0.0


@dataclass
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}


Given = Answer | Callable[[Seen], Answer]


@dataclass
class Stranger:
    """What is answered to a submission, a status, a stream, a result, a search of the history, and for a file."""

    submit: Given = field(default_factory=lambda: Answer({"request_id": "r-1"}))
    status: Given = field(default_factory=lambda: Answer({"status": "COMPLETED"}))
    stream: Given = field(default_factory=lambda: Answer({}, 404))
    result: Given = field(default_factory=lambda: Answer({"detail": "Request not found"}, 404))
    history: Given = field(default_factory=lambda: Answer({"items": []}))
    file: Given = field(default_factory=lambda: Answer({}, 404))
    pricing: Given = field(default_factory=lambda: Answer({}))
    seen: list[Seen] = field(default_factory=list)
    base_url: str = ""

    def asked(self, *kinds: str) -> list[Seen]:
        return [seen for seen in self.seen if self.kind(seen) in kinds]

    def kind(self, seen: Seen) -> str:
        path = urlsplit(seen.path).path
        if seen.method == "POST":
            return "submit"
        endings = {"/status": "status", "/stream": "stream", "/by-endpoint": "history", "/pricing": "pricing"}
        found = [kind for ending, kind in endings.items() if path.endswith(ending)]
        return found[0] if found else "file" if path.startswith("/files/") else "result"

    def answer(self, seen: Seen) -> Answer:
        self.seen.append(seen)
        given = getattr(self, self.kind(seen))
        return given if isinstance(given, Answer) else given(seen)


@contextmanager
def serving() -> Iterator[Stranger]:
    """Run a stranger's server; it is gone when the block ends."""
    stranger = Stranger()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer = stranger.answer(Seen(self.command, self.path, dict(self.headers), body))
            content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            with contextlib.suppress(OSError):  # nobody listens any more
                self._say(answer, content)

        def _say(self, answer: Answer, content: bytes) -> None:
            self.send_response_only(answer.code)
            for name, value in {"Content-Length": str(len(content)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            for byte in content if answer.pause_s else ():
                self.wfile.write(bytes([byte]))
                time.sleep(answer.pause_s)
            if not answer.pause_s:
                self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_CONNECT = _handle

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    stranger.base_url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield stranger
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
