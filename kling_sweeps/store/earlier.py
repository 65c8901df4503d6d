"""What a store has of a request whose model file has changed since: the same run, under another key."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kling_sweeps.experiment.reader import said
from kling_sweeps.experiment.request import GenerationRequest, Product
from kling_sweeps.store.folder import Store
from kling_sweeps.store.state_machine import Stage, State


def is_paid(state: State) -> bool:
    """Tell whether something was, or may have been, paid for a request, as it may where its files can't be trusted."""
    return state.stage is not Stage.NEW and (state.stage is not Stage.FAILED or state.committed_usd > 0)


@dataclass(frozen=True)
class Stored:
    """The arguments of a request in a store, and which of them had the default of the model file as it was."""

    key: str
    arguments: Mapping[str, Any]
    defaults: Sequence[str]

    def differences(self, request: GenerationRequest) -> dict[str, str] | None:
        """Return what the model file has changed, by argument, since a request was this one; None of another run."""
        form, now, found = request.form, request.arguments, {}
        for name in {*self.arguments, *now}:
            if name not in self.arguments:
                if name not in form.defaults:
                    return None
                found[name] = f"{name} is new, at {said(now[name])}"
            elif name not in now:
                if name in form.names and name not in self.defaults:
                    return None
                found[name] = f"{name} is gone"
            elif self.arguments[name] != now[name]:
                if name not in form.defaults or name not in self.defaults:
                    return None
                found[name] = f"{name} was {said(self.arguments[name])} by default and is {said(now[name])}"
        return dict(sorted(found.items()))


class Earlier:
    """The requests of a store, by what no change of a model file changes: endpoint, repeat and each of their texts."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        self.stored: dict[tuple[str, int, str], list[Stored]] = defaultdict(list)
        for path in sorted(root.glob("??/*/request.json")):
            try:
                saved = json.loads(path.read_bytes())
                one = Stored(path.parent.name, saved["arguments"], [*saved.get("defaults", ())])
                for text in {"", *(value for value in one.arguments.values() if isinstance(value, str))}:
                    self.stored[saved["endpoint"], saved["sample"], text].append(one)
            except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
                continue  # whoever needs it says so

    def find(self, request: GenerationRequest, prompt: str) -> tuple[Stored, dict[str, str]] | None:
        """Return what was paid for as this request before its model file changed, and the changes, the fewest."""
        known = self.stored.get((request.endpoint, request.sample, prompt), [])
        changes = [(one, found) for one in known if (found := one.differences(request))]
        for one, found in sorted(changes, key=lambda change: len(change[1])):
            if is_paid(self.store.find(one.key, Product.VIDEO).state()):
                return one, found
        return None
