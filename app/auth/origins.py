"""Which pages may open a socket. Browsers do not lie about a page's origin; other clients send none. Pure."""

from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

ANY = "*"
NULL = "null"
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


class OriginRule:
    """`allowed`: the configured origins; None: pages of the same host, with `local` also loopback and null."""

    def __init__(self, allowed: Sequence[str] | None, *, local: bool) -> None:
        self._any = allowed is not None and ANY in allowed
        self._allowed = None if allowed is None else {_normal(origin) for origin in allowed}
        self._local = local

    def allows(self, origin: str | None, host: str | None) -> bool:
        """Whether a page of this origin may open a socket here; `host` is the request's Host header."""
        if origin is None or self._any:
            return True
        if self._allowed is not None:
            return _normal(origin) in self._allowed
        if host and origin in (f"https://{host}", f"http://{host}"):
            return True  # as most say it, and soon found out; what follows sees the same host in other words
        if self._local and (origin == NULL or _is_loopback(origin)):
            return True
        return origin != NULL and host is not None and _same_host(origin, host)


def _split(origin: str) -> tuple[str, str, int | None] | None:
    try:
        parts = urlsplit(origin.strip().lower())
        return parts.scheme, parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:  # a port or an address that is none
        return None


def _normal(origin: str) -> object:
    return NULL if origin.lower() == NULL else _split(origin)


def _same_host(origin: str, host: str) -> bool:
    parts = _split(origin)
    if parts is None:
        return False
    scheme, name, port = parts
    here = _split(f"{scheme}://{host}")
    return bool(name) and here is not None and here[1:] == (name, port)


def _is_loopback(origin: str) -> bool:
    parts = _split(origin)
    if parts is None or parts[0] not in ("http", "https"):
        return False
    try:
        return ip_address(parts[1]).is_loopback
    except ValueError:
        return parts[1] == "localhost" or parts[1].endswith(".localhost")
