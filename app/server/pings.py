"""Is there still somebody? A network can vanish without a word, and only an answer tells.

Some clients have their answer ready, and let it go only with the next message that they get, such as all that are made
with libcurl. So whoever does not answer is sent one, and has as long again.
"""

import asyncio
from collections import OrderedDict
from typing import Protocol

PING_INTERVAL = 25.0
PONG_TIMEOUT = 8.0
"""Seconds, each of two times. With the time in which a close is waited for, a client that has vanished is gone in less
than 45."""
GRANULARITY = 0.5
"""Seconds between two looks at who is due."""


class Pinged(Protocol):
    """A socket that is asked."""

    closed: bool

    def ping(self) -> None: ...
    def silent(self) -> bool:
        """Whether nothing came since the last ping."""
        ...

    def insist(self) -> None:
        """Ask once more, by a message."""
        ...

    def give_up(self) -> None: ...


class Pings:
    """Pings every socket in turn, from `run`; both times in seconds, `timeout` that of each of the two answers.

    Costs nothing while nobody is due.
    """

    def __init__(self, interval: float = PING_INTERVAL, timeout: float = PONG_TIMEOUT) -> None:
        self._interval = interval
        self._timeout = timeout
        # When each is due, in the order of time, since in each of these all wait for as long as all others.
        self._new: OrderedDict[Pinged, float] = OrderedDict()
        self._asked: OrderedDict[Pinged, float] = OrderedDict()
        self._asked_again: OrderedDict[Pinged, float] = OrderedDict()
        self._answered: OrderedDict[Pinged, float] = OrderedDict()

    def watch(self, socket: Pinged) -> None:
        """Ask this one from now on, until it is closed."""
        self._new[socket] = asyncio.get_running_loop().time() + self._interval

    def unwatch(self, socket: Pinged) -> None:
        """This one is closed: forget it."""
        for queue in (self._new, self._asked, self._asked_again, self._answered):
            queue.pop(socket, None)

    async def run(self) -> None:
        """Ask, until cancelled."""
        granularity = min(GRANULARITY, self._timeout / 4)
        loop = asyncio.get_running_loop()
        before = loop.time()
        while True:
            await asyncio.sleep(granularity)
            now = loop.time()
            late, before = now - before - granularity, now
            if late > granularity:  # this process stood still: the answers that came meanwhile are yet to be read
                self._asked, self._asked_again = (
                    OrderedDict((socket, due + late) for socket, due in queue.items())
                    for queue in (self._asked, self._asked_again)
                )
            self._ask(now)

    def _ask(self, now: float) -> None:  # apart from `run`, which would keep the last of them while it sleeps
        for socket in _take_due(self._asked_again, now):
            if socket.silent():
                socket.give_up()
            else:
                self._answered[socket] = now + self._interval - self._timeout
        for socket in _take_due(self._asked, now):
            if socket.silent():
                socket.insist()
                self._asked_again[socket] = now + self._timeout
            else:
                self._answered[socket] = now + self._interval - self._timeout
        for socket in (*_take_due(self._new, now), *_take_due(self._answered, now)):
            socket.ping()
            self._asked[socket] = now + self._timeout


def _take_due(queue: OrderedDict[Pinged, float], now: float) -> list[Pinged]:
    """Those who are due, out of the queue; who has gone meanwhile is left out."""
    due = []
    while queue and next(iter(queue.values())) <= now:
        due.append(queue.popitem(last=False)[0])
    return [socket for socket in due if not socket.closed]
