"""Pairs of sockets, of which the first sends."""

import socket
from collections.abc import Callable
from typing import TypeAlias

DATA = b"to all of you" * 20
MANY = 48
"""Sockets: more than those for which a call for each costs less."""
ROOM = 64
"""Sends at once: few enough that tests come round to where they began."""

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
    """Have it take nothing any more."""
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    while True:
        try:
            ours.send(bytes(1 << 20))
        except BlockingIOError:
            return


def one_that_takes_nothing(pairs: MakePairs, count: int = MANY) -> tuple[list[socket.socket], list[int]]:
    """Sockets of which the third takes nothing, and what sending DATA should answer."""
    made = pairs(count)
    fill(made[2][0])
    return [pair[0] for pair in made], [0 if at == 2 else len(DATA) for at in range(count)]
