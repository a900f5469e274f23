"""Fair shares of the event loop among the connections that have more to do than fits into one turn."""

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic

LONG, SHORT = 0.003, 0.00025
"""Seconds for which one connection may have the loop: long where nobody else has much to do, so that a burst leaves in
one write for each of its receivers; short where many have."""
WINDOW = 0.006
"""Seconds in which there is one long turn for what was just read; all connections may be read in one turn of the loop,
and 20 long turns would be felt."""
GRANTS = 2
"""Connections that go on in one turn of the loop. The loop reads between two of its turns, so whoever asks for little
waits no longer than these take, however many others ask for much."""
HEAVY = 0.001
"""Seconds beyond its turn that a connection may have taken. A large message is handled in one piece, which may take
twenty turns: connections with such go on one in a turn of the loop, behind those that kept to theirs."""


class Turns:
    """A queue of connections that have had their turn. It belongs to one event loop."""

    def __init__(self, time: Callable[[], float] = monotonic) -> None:
        self.time = time
        """The clock of all turns, in seconds."""
        self._light: deque[asyncio.Future[None]] = deque()
        self._heavy: deque[asyncio.Future[None]] = deque()
        self._is_granting = False
        self._long_until = 0.0
        self._next_window = 0.0

    @property
    def is_busy(self) -> bool:
        """Return whether a connection waits for a turn."""
        return bool(self._light or self._heavy)

    def first(self, now: float) -> float:
        """Return the time until which a connection may handle what was just read."""
        if self.is_busy:
            return now + SHORT
        if now >= self._next_window:
            self._long_until, self._next_window = now + LONG, now + WINDOW
        return max(self._long_until, now + SHORT)

    async def next(self, ended: float | None = None) -> float:
        """Wait for the next turn; return the time at which it ends. `ended`: the time at which the last was to end."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        is_heavy = ended is not None and self.time() - ended > HEAVY
        (self._heavy if is_heavy else self._light).append(turn)
        if not self._is_granting:
            self._is_granting = True
            loop.call_soon(self._grant, loop)
        await turn
        return self.time() + max(SHORT, LONG / (1 + len(self._light) + len(self._heavy)))

    def _grant(self, loop: asyncio.AbstractEventLoop) -> None:
        granted = _grant(self._light, GRANTS)
        _grant(self._heavy, max(1, GRANTS - granted))
        self._is_granting = self.is_busy
        if self._is_granting:
            loop.call_soon(self._grant, loop)


def _grant(waiting: "deque[asyncio.Future[None]]", most: int) -> int:
    """Grant their turns to the first of these; return to how many."""
    granted = 0
    while waiting and granted < most:
        turn = waiting.popleft()
        if not turn.done():  # else who waited for it was cancelled
            turn.set_result(None)
            granted += 1
    return granted
