"""What is no MLflow server is refused before anything is spent; what is one is used, however it is reached."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator

import pytest
from servers import (
    Answer,
    Asked,
    answering,
    certificate,
    forwarding,
    free_port,
    tracking_server,
)

from kling_sweeps.errors import UnavailableError
from kling_sweeps.tracking import tracked
from kling_sweeps.tracking.tracker import Tracker

PAGE = b"<html><body>Log in</body></html>"
SECRET = "a-long-password"


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory) -> Iterator[str]:
    """Run MLflow's own server."""
    with tracking_server(tmp_path_factory.mktemp("server"), free_port()) as uri:
        yield uri


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch, tmp_path):
    """Take away what a developer's own shell may have for a server."""
    for name in ("USERNAME", "PASSWORD", "TOKEN", "INSECURE_TLS", "SERVER_CERT_PATH"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def opened(uri: str) -> str:
    """Check a server, make an experiment on it by MLflow's client, and see it without."""
    tracker = Tracker(uri, "cfg", "fal")
    tracker.check()
    assert tracker.experiment_id == tracked.read(uri, "kling_sweeps/cfg").experiment_id
    return tracker.experiment_id


def refused(uri: str) -> str:
    """Return why a server is refused, and whoever asks what stands there is told nothing."""
    assert tracked.read(uri, "kling_sweeps/cfg") is None
    with pytest.raises(UnavailableError, match=r"^tracking\.uri") as caught:
        Tracker(uri, "cfg", "fal").check()
    return str(caught.value)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(401, b'{"detail": "who are you"}'), "MLFLOW_TRACKING_USERNAME"),
        (Answer(403, b'{"error_code": "PERMISSION_DENIED", "message": "not\\u001b[2J you"}'), "not"),
        (Answer(200, PAGE, "text/html"), "--static-prefix"),
        (Answer(404, PAGE, "text/html"), "--static-prefix"),
        (Answer(404, b'{"detail": "Not Found"}'), "not MLflow's API"),
        (Answer(404, b'{"error_code": "ENDPOINT_NOT_FOUND"}'), "not MLflow's API"),
        (Answer(200, b"{}"), "not MLflow's API"),
        (Answer(200, b'{"experiment": "yes"}'), "not MLflow's API"),
        (Answer(200, b"[" * 100_000), "not MLflow's API"),
        (Answer(200, b"OK", "text/plain"), "not MLflow's API"),
        (Answer(200, b"\xff\xfe\x00", "video/mp4"), "video/mp4"),
        (Answer(204), "not MLflow's API"),
        (Answer(500, b"oh dear", "text/plain"), "oh dear"),
        (Answer(503, PAGE, "text/html"), "HTTP 503"),
        (Answer(302, headers={"Location": "/elsewhere"}), "TooManyRedirects"),
    ],
    ids=lambda value: f"{value.status} {value.body[:30]!r}" if isinstance(value, Answer) else "",
)
def test_what_is_no_mlflow_is_refused(answer, said):
    """Says what answers and what to do, on one line without escape sequences."""
    with answering(lambda asked: answer) as uri:
        why = refused(uri)
    assert said in why
    assert "\x1b" not in why and "\n" not in why


def test_a_redirect_to_a_page_for_the_login_is_refused():
    """Names the address that it is led to."""

    def answer(asked: Asked) -> Answer:
        is_login = asked.path.startswith("/login")
        return (
            Answer(200, PAGE, "text/html") if is_login else Answer(302, headers={"Location": "/login?next=x"})
        )

    with answering(answer) as uri:
        assert f"redirects to {uri}/login?next=x" in refused(uri)


def test_a_redirect_that_loses_what_is_posted_is_refused(mlflow_server):
    """Says which address to use, since a client that is sent on asks where it should write."""
    with answering(lambda asked: Answer(301, headers={"Location": mlflow_server + asked.path})) as uri:
        assert f"redirects to {mlflow_server}/" in refused(uri)
    with answering(lambda asked: Answer(308, headers={"Location": mlflow_server + asked.path})) as uri:
        opened(uri)


def test_a_server_under_a_path_is_used(mlflow_server):
    """Asks under the path of the address, and refuses the address without it."""
    forward = forwarding(mlflow_server, "/tools/mlflow")

    def answer(asked: Asked) -> Answer:
        return forward(asked) if asked.path.startswith("/tools/mlflow/") else Answer(404, PAGE, "text/html")

    with answering(answer) as uri:
        assert opened(f"{uri}/tools/mlflow") == opened(f"{uri}/tools/mlflow/")
        assert "--static-prefix" in refused(uri)


def test_a_servers_certificate_is_checked_as_mlflow_does(mlflow_server, tmp_path, monkeypatch):
    """Uses a server behind a private authority where MLflow's variables or requests' name it, and says so where not."""
    authority, tls = certificate(tmp_path)
    with answering(forwarding(mlflow_server), tls) as uri:
        assert "MLFLOW_TRACKING_SERVER_CERT_PATH" in refused(uri)
        for name, value in (
            ("MLFLOW_TRACKING_SERVER_CERT_PATH", str(authority)),
            ("REQUESTS_CA_BUNDLE", str(authority)),
            ("MLFLOW_TRACKING_INSECURE_TLS", "true"),
        ):
            with monkeypatch.context() as patch:
                patch.setenv(name, value)
                opened(uri)
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(tmp_path / "not-there.pem"))
        assert "MLFLOW_TRACKING_SERVER_CERT_PATH" in refused(uri)


@pytest.mark.parametrize("way", ["name", "token", "file", "address"])
def test_credentials_are_those_of_mlflow(mlflow_server, tmp_path, monkeypatch, way):
    """Sends what MLflow's client sends, refuses what the server refuses, and shows no password."""
    basic = "Basic " + b64encode(f"me:{SECRET}".encode()).decode()
    wanted = f"Bearer {SECRET}" if way == "token" else basic
    forward = forwarding(mlflow_server)
    with answering(
        lambda asked: forward(asked) if asked.headers["Authorization"] == wanted else Answer(401)
    ) as uri:
        assert "wants credentials" in refused(uri)
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "another-one")
        assert "does not accept the credentials" in refused(uri)
        monkeypatch.delenv("MLFLOW_TRACKING_TOKEN")
        if way == "file":
            (tmp_path / ".mlflow").mkdir()
            lines = f"[mlflow]\nmlflow_tracking_username = me\nmlflow_tracking_password = {SECRET}\n"
            (tmp_path / ".mlflow" / "credentials").write_text(lines)
        elif way == "name":
            monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
        elif way == "token":
            monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", SECRET)
        else:
            uri = uri.replace("//", f"//me:{SECRET}@")
        opened(uri)
    assert SECRET not in refused(uri)


@pytest.mark.parametrize(
    "content", [b"no section", b"[mlflow]\nmlflow_tracking_password = 5%\n", b"[mlflow]\n\xff"]
)
def test_credentials_that_mlflow_cannot_read_are_refused(tmp_path, content):
    """Names the file that MLflow would end with a traceback for."""
    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow" / "credentials").write_bytes(content)
    with answering(lambda asked: Answer(401)) as uri:
        assert ".mlflow/credentials can't be read" in refused(uri)


def test_a_workspace_is_asked_for(monkeypatch):
    """Names the workspace in every request, so that a run of another one does not count."""
    asked: list[str | None] = []

    def answer(request: Asked) -> Answer:
        asked.append(request.headers["X-MLFLOW-WORKSPACE"])
        return Answer(404, json.dumps({"error_code": "RESOURCE_DOES_NOT_EXIST"}).encode())

    monkeypatch.setenv("MLFLOW_WORKSPACE", "team")
    with answering(answer) as uri:
        assert tracked.read(uri, "kling_sweeps/cfg") == tracked.TrackedRuns(None, {})
    assert asked == ["team"]


def test_a_plugin_is_left_to_mlflow(monkeypatch):
    """Lets MLflow's own client ask where a plugin signs its requests."""
    monkeypatch.setenv("MLFLOW_TRACKING_AUTH", "no-such-plugin")
    with answering(lambda asked: Answer(404, b"{}")) as uri:
        assert "MLflow can't use" in refused(uri)
