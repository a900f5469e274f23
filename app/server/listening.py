"""A listening socket that pauses where file descriptors run out.

asyncio tries to accept as often as its backlog is long, although each try fails, reports every one, and schedules as
many further ones for a second later, each of which does the same.
"""

import errno
import socket
from time import monotonic

from app.server.http_connections import is_scarce

OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
PAUSE = 0.9
"""Seconds without another try; asyncio's own comes after a second."""


class ListeningSocket(socket.socket):
    """Fails once where there is no file descriptor, and then has nobody to accept for a while."""

    _paused_until = 0.0
    _is_enough = False
    """True: the next accept() finds nobody, so that idle connections go first where descriptors are scarce."""

    @classmethod
    def of(cls, sock: socket.socket) -> "ListeningSocket":
        """Take a socket's place."""
        return cls(sock.family, sock.type, sock.proto, fileno=sock.detach())

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
