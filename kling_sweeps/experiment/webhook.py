"""The address at which fal reaches this machine, as far as it can be judged without being tried."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

# The last labels of names that no public server has.
PRIVATE = ("localhost", "local", "internal", "lan", "home", "test", "invalid")


def problem(url: str, is_fals: bool) -> str:
    """Return what is wrong with an address for webhooks, "" where nothing is; an emulator (not `is_fals`) calls any host."""
    try:
        parts = urlsplit(url)
        host, is_plain = parts.hostname, parts.port != 0 and url.isascii() and url.isprintable()
    except ValueError:
        host, is_plain = None, False
    if not host or not is_plain or " " in url or parts.scheme not in ("http", "https"):
        return "is not an address, like https://example.com/fal"
    if parts.username is not None or parts.fragment:
        return "has a login or a fragment in it, which webhooks can't have"
    if is_fals and parts.scheme != "https":
        return "is not https"
    if is_fals and _is_private(host):
        return "is out of fal's reach; give the public address of a tunnel or a reverse proxy"
    return ""


def _is_private(host: str) -> bool:
    try:
        return not ip_address(host).is_global
    except ValueError:
        name = host.rstrip(".")
        return "." not in name or name.rpartition(".")[2] in PRIVATE
