"""Is there still somebody? A network can vanish without a word, and only an answer tells."""

import asyncio
from collections import deque
from typing import Protocol

PING_INTERVAL = 25.0
PONG_TIMEOUT = 8.0
"""Seconds. With the time in which a close is waited for, a client that has vanished is gone in less than 40."""
GRANULARITY = 1.0
"""Seconds between two looks at who is due."""


class Pinged(Protocol):
    """A socket that is asked."""

    closed: bool

    def ping(self) -> None: ...
    def silent(self) -> bool:
        """Whether nothing came since the last ping."""
        ...

    def give_up(self) -> None: ...


class Pings:
    """Pings every socket in turn, from `run`; both times in seconds. Costs nothing while nobody is due."""

    def __init__(self, interval: float = PING_INTERVAL, timeout: float = PONG_TIMEOUT) -> None:
        self._interval = interval
        self._timeout = timeout
        # In the order of time, since each socket waits as long as all others. Who closes stays until it would be due.
        self._resting: deque[tuple[float, Pinged]] = deque()
        self._asked: deque[tuple[float, Pinged]] = deque()

    def watch(self, socket: Pinged) -> None:
        """Ask this one from now on, until it is closed."""
        self._resting.append((asyncio.get_running_loop().time() + self._interval, socket))

    async def run(self) -> None:
        """Ask, until cancelled."""
        granularity = min(GRANULARITY, self._timeout / 4)
        while True:
            await asyncio.sleep(granularity)
            now = asyncio.get_running_loop().time()
            for socket in _take_due(self._asked, now):
                if socket.silent():
                    socket.give_up()
                else:
                    self._resting.append((now + self._interval - self._timeout, socket))
            for socket in _take_due(self._resting, now):
                socket.ping()
                self._asked.append((now + self._timeout, socket))


def _take_due(queue: deque[tuple[float, Pinged]], now: float) -> list[Pinged]:
    """Those who are due, out of the queue; who has gone meanwhile is left out."""
    due = []
    while queue and queue[0][0] <= now:
        due.append(queue.popleft()[1])
    return [socket for socket in due if not socket.closed]
