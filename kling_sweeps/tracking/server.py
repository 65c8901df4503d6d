"""MLflow's server, asked by its REST API without MLflow, whose import takes seconds.

It is asked as MLflow's own client asks: by `requests`, with the same variables for credentials,
certificates, proxies and workspaces.
"""

from __future__ import annotations

import configparser
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kling_sweeps.errors import UnavailableError
from kling_sweeps.experiment.tracking_uri import Address
from kling_sweeps.untrusted import clean

if TYPE_CHECKING:
    import requests

# What only MLflow's own client can do: sign, or add headers of a plugin.
PLUGINS = ("MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4")
PLUGIN_GROUP = "mlflow.request_header_provider"
TIMEOUT_S = 10
ANSWER_S = 60
ANSWER_BYTES = 1 << 26
PAGE = 1000
# With these, a client sends a POST on as a GET.
REDIRECTS = (301, 302, 303)
ABSENT = "RESOURCE_DOES_NOT_EXIST"


def needs_mlflow() -> bool:
    """Tell whether a server can only be asked by MLflow's own client, since a plugin of it is in use."""
    return any(map(os.environ.get, PLUGINS)) or bool(entry_points(group=PLUGIN_GROUP))


@dataclass(frozen=True)
class TrackingServer:
    """An MLflow server; every method raises UnavailableError with what to do where it does not answer as one."""

    address: Address

    def experiment(self, name: str) -> dict[str, Any] | None:
        """Return an experiment, None where the server has none of that name."""
        response = self._ask("GET", "experiments/get-by-name", params={"experiment_name": name})
        answer = _json(response)
        if response.status_code == 404 and answer.get("error_code") == ABSENT:
            return None
        found = answer.get("experiment")
        if response.status_code != 200 or not isinstance(found, dict) or "experiment_id" not in found:
            raise self._refused(response)
        return found

    def runs(self, experiment_id: str) -> Iterator[dict[str, str]]:
        """Yield the tags of every run of an experiment that is not deleted."""
        query: dict[str, Any] = {"experiment_ids": [experiment_id], "max_results": PAGE}
        while True:
            response = self._ask("POST", "runs/search", json=query)
            page = _json(response)
            if response.status_code != 200:
                raise self._refused(response)
            for run in page.get("runs", ()):
                yield {tag["key"]: tag["value"] for tag in run["data"].get("tags", ())}
            if not page.get("next_page_token"):
                return
            query["page_token"] = page["next_page_token"]

    def _ask(self, method: str, path: str, **content: Any) -> requests.Response:
        import requests

        url = f"{self.address.uri.rstrip('/')}/api/2.0/mlflow/{path}"
        try:
            with requests.Session() as session:
                response = session.request(
                    method, url, **content, **self._means, timeout=TIMEOUT_S, stream=True
                )
                response._content = _read(response)
        except (requests.RequestException, OSError, ValueError) as error:
            raise UnavailableError(self._silence(error)) from None
        if any(earlier.status_code in REDIRECTS for earlier in response.history):
            raise UnavailableError(
                f"tracking.uri: {self.address} redirects to {clean(response.url)}; "
                "set tracking.uri to the address of the MLflow server itself"
            )
        return response

    @cached_property
    def _means(self) -> dict[str, Any]:
        """Return what MLflow's client sends with every request: credentials, certificates, a workspace."""
        env = os.environ.get
        is_insecure = (env("MLFLOW_TRACKING_INSECURE_TLS") or "").lower() in ("true", "1")
        if is_insecure:
            import urllib3

            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # it was asked for
        workspace = (env("MLFLOW_WORKSPACE") or "").strip()
        return {
            "verify": env("MLFLOW_TRACKING_SERVER_CERT_PATH") or not is_insecure,
            "cert": env("MLFLOW_TRACKING_CLIENT_CERT_PATH"),
            "headers": {**_authorization(), **({"X-MLFLOW-WORKSPACE": workspace} if workspace else {})},
            "allow_redirects": (env("MLFLOW_ALLOW_HTTP_REDIRECTS") or "true").lower() in ("true", "1"),
        }

    def _silence(self, error: Exception) -> str:
        import requests

        said = f"tracking.uri: no MLflow server answers at {self.address} ({type(error).__name__})"
        if isinstance(error, requests.exceptions.SSLError) or "TLS CA certificate" in str(error):
            why = clean(self.address.mask(str(error)), 200)
            return (
                f"{said}: its certificate is not trusted or can't be checked: {why}. Name its CA's file in "
                "MLFLOW_TRACKING_SERVER_CERT_PATH (or REQUESTS_CA_BUNDLE)"
            )
        return (
            f"{said}; start it with `mlflow server`, or log to a file with tracking.uri=sqlite:///mlflow.db"
        )

    def _refused(self, response: requests.Response) -> UnavailableError:
        """Return why an answer is not the one that MLflow's server gives, and what to do."""
        status = response.status_code
        words = _json(response).get("message") or (response.text if _is_text(response) else "")
        said = f": {clean(self.address.mask(str(words)), 200)}" if words else ""
        if status in (401, 407):
            known = "does not accept the credentials" if _authorization() else "wants credentials"
            return UnavailableError(
                f"tracking.uri: {self.address} {known} (HTTP {status}){said}; set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            )
        if status == 403:
            return UnavailableError(
                f"tracking.uri: {self.address} does not let these credentials in (HTTP 403){said}; ask whoever "
                "runs the server, or set other ones with MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
        if status >= 500 or status == 429:
            return UnavailableError(
                f"tracking.uri: the server at {self.address} answers HTTP {status}{said}; try again when it is well"
            )
        kind = clean(response.headers.get("Content-Type", "nothing"), 60)
        return UnavailableError(
            f"tracking.uri: what answers at {self.address} is not MLflow's API (HTTP {status}, {kind}){said}; give "
            "the address of the MLflow server, with the path that it is under if it has one (--static-prefix)"
        )


def _authorization() -> dict[str, str]:
    """Return MLflow's credentials as a header: a name and a password, or else a token."""
    kept = _credentials_file()
    name, password = (
        os.environ.get(f"MLFLOW_TRACKING_{part}") or kept.get(f"mlflow_tracking_{part.lower()}")
        for part in ("USERNAME", "PASSWORD")
    )
    if name and password:
        from base64 import b64encode

        return {"Authorization": f"Basic {b64encode(f'{name}:{password}'.encode()).decode()}"}
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _credentials_file() -> dict[str, str]:
    """Return what MLflow's file of credentials holds; raise UnavailableError where MLflow could not read it."""
    path, file = Path("~/.mlflow/credentials").expanduser(), configparser.ConfigParser()
    try:
        file.read(path, encoding="utf-8")
        return dict(file["mlflow"]) if "mlflow" in file else {}
    except (configparser.Error, UnicodeDecodeError) as error:
        raise UnavailableError(
            f"tracking.uri: {path} can't be read ({type(error).__name__}), and MLflow takes its credentials from it; "
            "mend it as MLflow documents it, a % in it written %%"
        ) from None


def _read(response: requests.Response) -> bytes:
    """Return the body of an answer; raise ValueError for one without end."""
    body, give_up = bytearray(), time.monotonic() + ANSWER_S
    for chunk in response.iter_content(1 << 16):
        body += chunk
        if len(body) > ANSWER_BYTES or time.monotonic() > give_up:
            raise ValueError("an answer without end")
    return bytes(body)


def _json(response: requests.Response) -> dict[str, Any]:
    """Return the JSON object that an answer is, an empty one for anything else."""
    try:
        found = json.loads(response.content)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_text(response: requests.Response) -> bool:
    return response.headers.get("Content-Type", "").startswith("text/plain")
