"""The head of a WebSocket's upgrade, read in one go, and what speaks against one.

Nearly every connection begins with one, which nearly always is all that comes with the first bytes, and is plain. To
find out what else it may be costs a tenth of all that a connection costs; whatever is not plain, h11 reads. So what is
read in one go is one that nothing speaks against, and all others are judged where h11 has read them.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

_PLAIN = re.compile(rb"GET [\x21-\x7e]+ HTTP/1\.1(?:\r\n[-!#$%&'*+.^_`|~0-9A-Za-z]+:[\t\x20-\x7e]*)+")
_MORE_THAN_A_HEAD = {b"content-length", b"transfer-encoding", b"expect"}
_VERSION = b"13"
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")
"""Sixteen bytes in base64 (RFC 6455, 4.1)."""
_LISTS = (b"connection", b"upgrade", b"sec-websocket-extensions", b"sec-websocket-protocol")
"""Headers whose lines are one list, however many they are (RFC 9110, 5.3)."""
_READ = {*_LISTS, b"host", b"origin", b"sec-websocket-key", b"sec-websocket-version"}
"""Headers that are read as ASCII."""
UPGRADE_REQUIRED = ((b"upgrade", b"websocket"), (b"connection", b"upgrade, close"))
"""Headers of each 426 (RFC 9110, 15.5.22)."""


class Upgrade(NamedTuple):
    """What was asked for: the target as it came, and the headers with their names in lower case, in their order."""

    target: bytes
    headers: list[tuple[bytes, bytes]]


def upgrade_in(data: bytes, max_size: int) -> Upgrade | None:
    """The upgrade to a WebSocket that these bytes are, no more and no less; None where they are anything else."""
    if len(data) > max_size or not data.endswith(b"\r\n\r\n") or _PLAIN.fullmatch(data, 0, len(data) - 4) is None:
        return None
    first, *lines = data[:-4].split(b"\r\n")
    headers = []
    for line in lines:
        name, _, value = line.partition(b":")
        headers.append((name.lower(), value.strip(b" \t")))
    values = dict(headers)
    if (
        len(values) < len(headers)  # whether they may be repeated is h11's to say
        or b"host" not in values
        or values.get(b"upgrade", b"").lower() != b"websocket"
        or not any(token.strip() == b"upgrade" for token in values.get(b"connection", b"").lower().split(b","))
        or not _MORE_THAN_A_HEAD.isdisjoint(values)
        or values.get(b"sec-websocket-version") != _VERSION
        or _KEY.fullmatch(values.get(b"sec-websocket-key", b"")) is None
    ):
        return None
    return Upgrade(first[4:-9], headers)


# What h11 has read: names in lower case, values without white space around them


class Refusal(NamedTuple):
    """Why an upgrade is none: the status, the text for its client, and further headers of the answer."""

    status: int
    text: str
    headers: tuple[tuple[bytes, bytes], ...] = ((b"connection", b"close"),)


def asks_for_socket(method: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether a request is an upgrade to a WebSocket, among what else it may list."""
    headers = list(headers)
    return (
        method.upper() == b"GET"  # Hypercorn looks at it so
        and b"upgrade" in _tokens(headers, b"connection")
        and b"websocket" in _tokens(headers, b"upgrade")
    )


def refusal_of(method: bytes, http_version: bytes, headers: Iterable[tuple[bytes, bytes]]) -> Refusal | None:
    """Return the refusal of a request that has an Upgrade header; None: nothing is wrong, or it asks for no socket."""
    headers = list(headers)
    for name, value in headers:
        if name in _READ and not value.isascii():
            return Refusal(400, f"{name.decode()} may have ASCII characters only")
    if not asks_for_socket(method, headers):
        return None
    if http_version != b"1.1":
        return Refusal(400, "a WebSocket is opened by HTTP/1.1")
    if _values(headers, b"sec-websocket-version") != [_VERSION]:
        return Refusal(
            426, "Sec-WebSocket-Version must be 13", ((b"sec-websocket-version", _VERSION), *UPGRADE_REQUIRED)
        )
    keys = _values(headers, b"sec-websocket-key")
    if len(keys) != 1 or _KEY.fullmatch(keys[0]) is None:
        return Refusal(400, "Sec-WebSocket-Key must be there once, and be 16 bytes in base64")
    if len(_values(headers, b"origin")) > 1:
        return Refusal(400, "Origin may be there once")
    if _values(headers, b"transfer-encoding") or any(size.strip(b"0") for size in _values(headers, b"content-length")):
        return Refusal(400, "an upgrade to a WebSocket has no body")
    return None


def with_lists_joined(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the headers of an upgrade with each list in one line, and of all that it lists the WebSocket alone."""
    lists: dict[bytes, list[bytes]] = {}
    joined = []
    for name, value in headers:
        if name in _LISTS:
            lists.setdefault(name, []).append(value)
        else:
            joined.append((name, value))
    lists[b"upgrade"] = [b"websocket"]
    return [*joined, *((name, b", ".join(values)) for name, values in lists.items())]


def _values(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> list[bytes]:
    return [value for name, value in headers if name == wanted]


def _tokens(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> set[bytes]:
    return {token.strip(b" \t").lower() for value in _values(headers, wanted) for token in value.split(b",")}
