"""A listening socket that pauses where file descriptors run out.

asyncio tries to accept as often as its backlog is long, although each try fails, reports every one, and schedules as
many further ones for a second later, each of which does the same.
"""

import errno
import socket
from time import monotonic

OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
PAUSE = 0.9
"""Seconds without another try; asyncio's own comes after a second."""


class ListeningSocket(socket.socket):
    """Fails once where there is no file descriptor, and then has nobody to accept for a while."""

    _paused_until = 0.0

    @classmethod
    def of(cls, sock: socket.socket) -> "ListeningSocket":
        """Take a socket's place."""
        return cls(sock.family, sock.type, sock.proto, fileno=sock.detach())

    def accept(self) -> tuple[socket.socket, object]:
        """Accept a connection, as the socket's own. Raises BlockingIOError while it pauses."""
        if self._paused_until and monotonic() < self._paused_until:
            raise BlockingIOError
        try:
            return super().accept()
        except OSError as error:
            if error.errno in OUT_OF_DESCRIPTORS:
                self._paused_until = monotonic() + PAUSE
            raise
