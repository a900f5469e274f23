"""Why a socket is closed, and whether its client should come back (3000-3499: yes, 3500-3999: no)."""

from enum import IntEnum

CROWDED = "unfinished messages take too much"
"""The reason of a close where what all clients sent, and is not handled yet, is too much, and this one's most."""


class CloseCode(IntEnum):
    INVALID_UTF8 = 1007
    TOO_BIG = 1009
    SHUTDOWN = 3001
    EXPIRED = 3005
    SLOW_CONSUMER = 3008
    ROTATION = 3011
    NO_PONG = 3012
    UNAUTHENTICATED = 3500
    TOO_MANY_ERRORS = 3501
    LOGGED_OUT = 3503
    RATE_LIMITED = 3508

    @property
    def reconnect(self) -> bool:
        """Whether the client should open a new socket after this close."""
        return 3000 <= self < 3500
