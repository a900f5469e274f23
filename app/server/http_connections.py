"""The connections that are no sockets, or none yet: how many there may be, and which goes first.

Each of them holds a file descriptor. Where these run out nobody can connect any more, not even who asks for the
service's health; so some are kept free, and whoever says nothing makes room for who asks for something.
"""

import resource
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

RESERVED = 32
"""File descriptors that are kept free of sockets, for HTTP and for what the service opens itself."""
AT_ONCE = 8
"""Connections that are cut at once where descriptors run out."""
HTTP_ROOM = 1000
"""Connections beyond those that may be sockets."""


class Held(Protocol):
    """A connection as this room knows it."""

    def abort(self) -> None:
        """Cut this connection."""
        ...

    def __hash__(self) -> int: ...


class HTTPConnections:
    """All connections that are no sockets, those that say nothing apart from those that are being served.

    `room` is how many there may be beside `sockets()`; `on_shed` is called for each that has to go.
    """

    def __init__(self, room: int, sockets: Callable[[], int], on_shed: Callable[[], object]) -> None:
        self._room = room
        self._sockets = sockets
        self._on_shed = on_shed
        self._idle: OrderedDict[Held, None] = OrderedDict()  # who has been idle for longest comes first
        self._busy: set[Held] = set()

    def __len__(self) -> int:
        return len(self._idle) + len(self._busy)

    def join(self, connection: Held, number: int) -> bool:
        """Take in a new connection with this file descriptor; where it is one too many, another goes, or itself.

        Return whether it may become a socket.
        """
        self._idle[connection] = None
        is_one_too_many = is_scarce(number)
        # Whoever comes may ask for the service's health, so a few may come before the oldest have to go. Then several
        # go: the kernel gives the lowest number that is free, so this one was the last of a full row.
        if is_one_too_many and is_scarce(number, RESERVED // 2):
            self.make_room()
        elif len(self) + self._sockets() > self._room:
            self._shed_oldest()
        return not is_one_too_many

    def set_busy(self, connection: Held, *, busy: bool) -> None:
        """Note that a connection is being served, or waits for its next request."""
        if busy and connection in self._idle:
            del self._idle[connection]
            self._busy.add(connection)
        elif not busy and connection in self._busy:
            self._busy.discard(connection)
            self._idle[connection] = None

    def leave(self, connection: Held) -> None:
        """Forget a connection: it is a socket now, or is gone."""
        self._idle.pop(connection, None)
        self._busy.discard(connection)

    def make_room(self) -> None:
        """Cut some of those that have been idle for longest, because file descriptors run out."""
        for _ in range(min(AT_ONCE, len(self._idle))):
            self._shed_oldest()

    def _shed_oldest(self) -> None:
        connection, _ = self._idle.popitem(last=False)
        self._on_shed()
        connection.abort()


def is_scarce(number: int, reserved: int = RESERVED) -> bool:
    """Return whether file descriptors are so few that one with this number is among the `reserved` last."""
    # The kernel gives out the lowest number that is free. The limit may change while the process runs.
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limit != resource.RLIM_INFINITY and number >= limit - min(reserved, limit // 2)


def raise_descriptor_limit(connections: int) -> None:
    """Allow this process so many connections at once, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 2 * RESERVED
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    with suppress(ValueError, OSError):  # such as a sandbox that lets nothing be changed
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )
