"""Listening sockets, on all addresses at one port; each pauses where file descriptors run out.

asyncio tries to accept as often as its backlog is long, although each try fails, reports every one, and schedules as
many further ones for a second later, each of which does the same.
"""

import errno
import socket
from collections.abc import Sequence
from time import monotonic

from app.addresses import Address
from app.server.http_connections import is_scarce

OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
PAUSE = 0.9
"""Seconds without another try; asyncio's own comes after a second."""
ABSENT = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT, errno.ENOPROTOOPT)
"""Errors that the system gives where it has no IPv6, or none of these addresses."""
TRIES = 20
"""How many free ports are tried that may be taken on another address."""


class ListeningSocket(socket.socket):
    """Fails once where there is no file descriptor, and then has nobody to accept for a while."""

    _paused_until = 0.0
    _is_enough = False
    """True: the next accept() finds nobody, so that idle connections go first where descriptors are scarce."""

    def accept(self) -> tuple[socket.socket, object]:
        """Accept a connection, as the socket's own. Raises BlockingIOError while it pauses."""
        if self._is_enough or (self._paused_until and monotonic() < self._paused_until):
            self._is_enough = False
            raise BlockingIOError
        try:
            accepted = super().accept()
            self._is_enough = is_scarce(accepted[0].fileno())
            return accepted
        except OSError as error:
            if error.errno in OUT_OF_DESCRIPTORS:
                self._paused_until = monotonic() + PAUSE
            raise


def listen(addresses: Sequence[Address], port: int) -> list[ListeningSocket]:
    """Bind a socket for each address, all to one port; 0 is one that is free on all. Raises OSError."""
    tries = 1 if port else TRIES
    while True:
        tries -= 1
        try:
            return _bind_all(addresses, port)
        except OSError as error:
            if not tries or error.errno != errno.EADDRINUSE:
                raise


def _bind_all(addresses: Sequence[Address], port: int) -> list[ListeningSocket]:
    bound: list[ListeningSocket] = []
    try:
        for address in addresses:
            try:
                bound.append(_bind(address.host, port))
            except OSError as error:
                if address.needed or error.errno not in ABSENT:
                    raise OSError(error.errno, f"{error.strerror} ({address.host})") from error
            if bound:
                port = bound[0].getsockname()[1]
    except BaseException:
        for sock in bound:
            sock.close()
        raise
    return bound


def _bind(host: str, port: int) -> ListeningSocket:
    family, kind, protocol, _, where = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_PASSIVE
    )[0]
    sock = ListeningSocket(family, kind, protocol)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has a socket of its own
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(where)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock
