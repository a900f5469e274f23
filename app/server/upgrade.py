"""The head of a WebSocket's upgrade, read in one go.

Nearly every connection begins with one, which nearly always is all that comes with the first bytes, and is plain. To
find out what else it may be costs a tenth of all that a connection costs; whatever is not plain, h11 reads.
"""

import re
from typing import NamedTuple

_PLAIN = re.compile(rb"GET [\x21-\x7e]+ HTTP/1\.1(?:\r\n[-!#$%&'*+.^_`|~0-9A-Za-z]+:[\t\x20-\x7e]*)+")
_MORE_THAN_A_HEAD = {b"content-length", b"transfer-encoding", b"expect"}


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
    ):
        return None
    return Upgrade(first[4:-9], headers)
