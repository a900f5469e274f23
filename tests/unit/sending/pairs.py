"""Pairs of sockets, of which the first sends."""

import fcntl
import select
import socket
import sys
import time
from collections.abc import Callable
from typing import TypeAlias

DATA = b"to all of you" * 20
MANY = 48
"""Sockets: more than those for which a call for each costs less."""
ROOM = 64
"""Sends at once: few enough that tests come round to where they began."""

_SIOCOUTQ, _SIOCOUTQNSD = 0x5411, 0x894B  # of Linux: all that is kept for a socket, and what of it is not sent yet

Pair: TypeAlias = tuple[socket.socket, socket.socket]
MakePairs: TypeAlias = Callable[[int], list[Pair]]


def received(theirs: socket.socket, size: int) -> bytes:
    """So many bytes that came."""
    data = b""
    while len(data) < size:
        part = theirs.recv(size - len(data))
        assert part
        data += part
    return data


def fill(ours: socket.socket) -> None:
    """Have it take nothing any more, also when what is under way has been acknowledged."""
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        was_still = _bytes_under_way(ours) == 0
        try:
            ours.send(bytes(1 << 20))
        except BlockingIOError:
            if was_still:
                return
            select.select([], [ours], [], 0.01)
    raise AssertionError("it takes ever more")


def _bytes_under_way(ours: socket.socket) -> int:
    """What was sent and not acknowledged; 0 where the system does not tell."""
    if sys.platform != "linux":
        return 0
    kept, unsent = (fcntl.ioctl(ours, request, bytes(4)) for request in (_SIOCOUTQ, _SIOCOUTQNSD))
    return int.from_bytes(kept, sys.byteorder) - int.from_bytes(unsent, sys.byteorder)


def one_that_takes_nothing(pairs: MakePairs, count: int = MANY) -> tuple[list[socket.socket], list[int]]:
    """Sockets of which the third takes nothing, and what sending DATA should answer."""
    made = pairs(count)
    fill(made[2][0])
    return [pair[0] for pair in made], [0 if at == 2 else len(DATA) for at in range(count)]


def of_its_own(count: int, longest: int = 300) -> list[bytes]:
    """Something for each, of many lengths; some get the very same as their neighbour."""
    own = [b"%d:" % at + bytes((at % 256,)) * (at * 37 % longest) for at in range(count)]
    return [own[at - 1] if at % 3 == 1 else data for at, data in enumerate(own)]
