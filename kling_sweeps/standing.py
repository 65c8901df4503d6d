"""Which runs of an experiment stand in MLflow already, read without MLflow, whose import takes seconds."""

from __future__ import annotations

import os
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ACTIVE = "SELECT experiment_id FROM experiments WHERE name = ? AND lifecycle_stage = 'active'"
RUNS = """
    SELECT key.value, content.value FROM runs
    JOIN tags key ON key.run_uuid = runs.run_uuid AND key.key = 'request_key'
    LEFT JOIN tags content ON content.run_uuid = runs.run_uuid AND content.key = 'content'
    WHERE runs.experiment_id = ? AND runs.lifecycle_stage = 'active'
"""
PAGE = 1000
TIMEOUT_S = 10


@dataclass(frozen=True)
class Standing:
    """The runs of an experiment: request key -> tag `content`, for whatever is there once and whole."""

    experiment_id: str | None
    contents: dict[str, str]


def read(uri: str, experiment: str) -> Standing | None:
    """Read what stands in a SQLite file or on a server; None where only MLflow itself can tell."""
    scheme = urlsplit(uri).scheme
    try:
        if scheme == "sqlite":
            return _in_file(Path(uri.removeprefix("sqlite:///")), experiment)
        if scheme in ("http", "https") and not os.environ.get("MLFLOW_TRACKING_TOKEN"):
            return _on_server(uri.rstrip("/"), experiment)
    except (sqlite3.Error, OSError, LookupError, TypeError, ValueError):
        pass  # another version's tables, a server that wants more than this
    return None


def _in_file(path: Path, experiment: str) -> Standing:
    if not path.exists():
        return Standing(None, {})
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
        found = database.execute(ACTIVE, [experiment]).fetchone()
        if found is None:
            return Standing(None, {})
        return Standing(str(found[0]), _once(database.execute(RUNS, [found[0]])))


def _on_server(uri: str, experiment: str) -> Standing | None:
    import httpx

    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    auth = (user, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None
    with httpx.Client(base_url=f"{uri}/api/2.0/mlflow/", timeout=TIMEOUT_S, auth=auth) as client:
        try:
            found = client.get("experiments/get-by-name", params={"experiment_name": experiment})
            if found.status_code == 404:
                return Standing(None, {})
            named = found.raise_for_status().json()["experiment"]
            if named["lifecycle_stage"] != "active":
                return Standing(None, {})
            return Standing(named["experiment_id"], _once(_runs(client, named["experiment_id"])))
        except httpx.HTTPError:
            return None


def _runs(client: Any, experiment_id: str) -> Iterator[tuple[str | None, str | None]]:
    query: dict[str, Any] = {"experiment_ids": [experiment_id], "max_results": PAGE}
    while True:
        page = client.post("runs/search", json=query).raise_for_status().json()
        for run in page.get("runs", ()):
            tags = {tag["key"]: tag["value"] for tag in run["data"].get("tags", ())}
            yield tags.get("request_key"), tags.get("content")
        if not page.get("next_page_token"):
            return
        query["page_token"] = page["next_page_token"]


def _once(runs: Iterable[tuple[str | None, str | None]]) -> dict[str, str]:
    """Return the content of each key that one run has, and no other."""
    found: dict[str, list[str | None]] = defaultdict(list)
    for key, content in runs:
        if key is not None:
            found[key].append(content)
    return {key: only for key, (only, *more) in found.items() if only and not more}
