"""Writing a model file: YAML that reads as it was meant, descriptions above the arguments."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from kling_sweeps.experiment.hydra_private import yaml_loader
from kling_sweeps.untrusted import printable

WIDTH = 118
# What OmegaConf would resolve, with the backslashes before it, each of which is written twice.
INTERPOLATION = re.compile(r"(\\*)\$\{")
# What YAML reads as a text in any of its versions; anything else is quoted.
PLAIN = re.compile(r"[A-Za-z_][A-Za-z_0-9]*(?:[./-][A-Za-z_0-9]+)*")


def written(model: Mapping[str, Any], comments: Mapping[str, str], usage: str) -> str:
    """Return a model file: `usage` and the comment of "" at its head, and one above each argument that has one."""
    lines = [f"# {usage}", *_comment(comments.get("", ""), "")]
    for key, value in model.items():
        if key != "arguments":
            lines += _entry(key, value, "")
            continue
        lines.append("arguments:")
        for name, schema in value.items():
            lines += [*_comment(comments.get(name, ""), "  "), *_entry(name, schema, "  ")]
    return "\n".join(lines) + "\n"


def _comment(text: str, indent: str) -> list[str]:
    line = printable(" ".join(text.split()))
    return textwrap.wrap(line, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def _entry(key: str, value: Any, indent: str) -> Iterator[str]:
    """Yield the lines of a key, on one where it fits, else broken where it is a mapping or a list."""
    head = f"{indent}{_scalar(key)}:"
    line = f"{head} {_flow(value)}"
    if len(line) <= WIDTH or not isinstance(value, dict | list) or not value:
        yield line
        return
    yield head
    yield from _block(value, f"{indent}  ")


def _block(value: dict[str, Any] | list[Any], indent: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name, one in value.items():
            yield from _entry(name, one, indent)
    elif any(isinstance(one, dict | list) for one in value):
        for one in value:
            first, *rest = (
                _block(one, f"{indent}  ") if isinstance(one, dict | list) and one else [_flow(one)]
            )
            yield f"{indent}- {first.lstrip()}"
            yield from rest
    else:  # a long list, as many values on a line as fit
        line = f"{indent}["
        for number, one in enumerate(value):
            end = "]" if number == len(value) - 1 else ", "
            if len(line) + len(_flow(one)) > WIDTH and line.strip() != "[":
                yield line.rstrip()
                line = f"{indent} "
            line += _flow(one) + end
        yield line


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_scalar(name)}: {_flow(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    """Return a scalar as YAML; a text that OmegaConf would resolve or YAML read as something else is escaped, quoted."""
    if not isinstance(value, str):
        return (
            str(yaml.safe_dump(value, default_flow_style=True, width=10**9)).removesuffix("\n...\n").strip()
        )
    text = INTERPOLATION.sub(r"\1\1\\${", value)
    if PLAIN.fullmatch(text) and yaml.load(text, Loader=yaml_loader()) == yaml.safe_load(text) == text:
        return text
    return str(yaml.safe_dump(text, default_style='"', allow_unicode=True, width=10**9)).strip()
