"""Whether a way to send to many does here what it did where it was written."""

import signal
import socket
from contextlib import ExitStack

from app.sending.one_by_one import SendToEach

SOCKETS = 64


class Unfit(Exception):
    """It is not here, or is not as it was checked."""


def try_out(send: SendToEach) -> None:
    """See whether it does what it should with sockets that take all, nothing, and nothing any more. Raises Unfit."""
    if signal.getsignal(signal.SIGPIPE) != signal.SIG_IGN:  # as Python has it
        raise Unfit("SIGPIPE would end this process")
    with ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(SOCKETS)]
        for end in (end for pair in pairs for end in pair):
            stack.enter_context(end)
            end.setblocking(False)
        first, full, gone, *others = pairs
        _fill(full[0])
        gone[1].close()
        data = b"as it was checked"
        expected = [len(data) if pair in (first, *others) else 0 for pair in pairs]
        for _ in range(2):
            if (counts := send([pair[0] for pair in pairs], data)) != expected:
                raise Unfit(f"it wrote {counts} bytes for {expected}")
        if any(pair[1].recv(100) != 2 * data for pair in (first, *others)):
            raise Unfit("it wrote something else")


def _fill(sock: socket.socket) -> None:
    while True:
        try:
            sock.send(bytes(65536))
        except BlockingIOError:
            return
