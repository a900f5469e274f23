"""A system call for each socket: the way that every system has."""

import socket
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from typing import Any, TypeAlias

Data: TypeAlias = bytes | list[bytes]
"""The same for all, or for each its own, in step with the sockets."""

SendToEach: TypeAlias = Callable[[Sequence[socket.socket], Data], list[int]]
"""Sends to sockets that do not block; answers how many bytes each took, 0 where it took none. For one thread. Raises
OSError where it cannot be known how much they took."""

_SEND: Any = socket.socket.send


def one_by_one(sockets: Sequence[socket.socket], data: Data) -> list[int]:
    """Send to each with a call of its own."""
    counts: list[int] = []
    # The loop is map's, in C: right after a system call Python's own steps take several times as long as elsewhere.
    sending: Iterator[int] = map(_SEND, sockets, repeat(data) if isinstance(data, bytes) else data)
    while True:
        try:
            counts.extend(sending)
        except OSError:  # it takes nothing now, or is gone; the others are still to come
            counts.append(0)
        else:
            return counts
