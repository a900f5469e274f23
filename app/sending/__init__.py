"""Bytes to many sockets, the same for all or for each its own.

One system call for each is most of what a delivery costs, and what Python does around it most of the rest. Linux has
two ways to take a list of sends in one call, and a send to a socket that does not block is done when that call returns:
io_uring, and the older AIO where that may not be used, as in many containers. Where neither can be had (another system,
a sandbox that does not allow them, as Cloud Run's first generation) each socket takes a call of its own.
"""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from app.sending import io_uring, linux_aio
from app.sending.one_by_one import Data, SendToEach, one_by_one
from app.sending.open_sockets import OpenSockets
from app.sending.trial import try_out

__all__ = ["AT_ONCE", "Data", "OpenSockets", "SendToEach", "one_by_one", "to_many"]

logger = logging.getLogger(__name__)

AT_ONCE = 512
"""Sockets that are written to by one call; more take another."""


@contextmanager
def to_many() -> Iterator[SendToEach]:
    """The best way to send to many sockets that there is here, for as long as this lasts."""
    with ExitStack() as kept:
        yield _best_way(kept)


def _best_way(kept: ExitStack) -> SendToEach:
    for name, sender in (("io_uring", io_uring.sender), ("Linux's AIO", linux_aio.sender)):
        with ExitStack() as stack:
            try:
                send = stack.enter_context(sender(AT_ONCE))
                try_out(send)
            except Exception as error:  # whatever it is, there are other ways
                logger.info("%s is not used: %s", name, error)
                continue
            kept.push(stack.pop_all())
            return send
    logger.info("each socket is written to by a system call of its own")
    return one_by_one
