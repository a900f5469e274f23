"""Requests' targets, compared as they came."""

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote_to_bytes

_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)([^?#]*)")
"""The form of a target that proxies are sent (RFC 9112, 3.2.2): its host, and the path."""
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


def names(scope: Any, path: str) -> bool:
    """Return whether a request's target is this path, letter by letter, at the host that its Host header names.

    Routers decode a path first, and forgive doubled slashes. A rule that a proxy in front has for the path as it is
    written would then not hold for its other spellings.
    """
    raw: bytes | None = scope.get("raw_path")
    if raw is None:
        return True  # not every server tells; what the router found has to do
    raw = raw.partition(b"?")[0]
    if not raw.startswith(b"/"):
        rest = _rest_at_own_host(scope, raw)
        if rest is None:
            return False
        raw = rest
    wanted = path.encode()
    return raw in (wanted, scope.get("root_path", "").encode() + wanted)


def routable(scope: Any) -> Any:
    """Return a scope that Quart can route: it takes a path without a slash for a whole URL, and fails on what is none.

    What names another host, or is no path at all, becomes a path that nothing has.
    """
    path: str = scope["path"]
    if path.startswith("/"):
        return scope
    rest = _rest_at_own_host(scope, scope.get("raw_path", b"").partition(b"?")[0])
    own = None if rest is None else unquote_to_bytes(rest).decode(errors="replace")
    return {**scope, "path": own if own and own.startswith("/") else f"/{path}"}


def _rest_at_own_host(scope: Any, target: bytes) -> bytes | None:
    """Return the path of a target that is a whole URL of the host that the Host header names."""
    found = _ABSOLUTE.fullmatch(target)
    if found is None or found[1].decode("latin1").lower() != (host_of(scope["headers"]) or "").lower():
        return None
    return found[2]


def host_of(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Return the Host header as it came; None where there is none, as HTTP/1.0 allows and no browser sends it."""
    return next((value.decode("latin1") for name, value in headers if name.lower() == b"host"), None)


def scheme_of(scope: Any, forwarded: str | None) -> str | None:
    """Return http or https, whatever a request came by; None where nobody knows.

    `forwarded` is its X-Forwarded-Proto, of which the first counts. Without one, TLS may have ended in front.
    """
    first = (forwarded or "").partition(",")[0].strip().lower()
    if first in _SCHEMES:
        return _SCHEMES[first]
    return "https" if scope.get("scheme") in ("https", "wss") else None
