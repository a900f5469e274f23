"""When each socket has to leave, and in which order. Pure: the time, in seconds, and chance come in as arguments.

A socket is told to leave, so that its client may open another before this one is closed, and closed `grace` seconds
later. Its age is one reason, which every socket has from its beginning. Others come up for all sockets at once, and go
again: then each leaves at a time of its own, so that the instances that take them in are not run down.
"""

from collections.abc import Callable, Collection, Iterator
from enum import StrEnum
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, NamedTuple, TypeVar

YOUNGEST, OLDEST = 0.80, 0.95
"""Between these parts of the request timeout every socket is told and closed, at an age of its own."""
GRACE, GRACE_PART = 30.0, 0.05
"""Between telling a socket and closing it: so many seconds, and at most this part of the request timeout."""
RETURNS_PER_SECOND = 200
"""Clients of one instance that come back to the others; a new socket costs an instance about a millisecond."""
SHORTEST_WINDOW, LONGEST_WINDOW = 1.0, 30.0
"""Seconds over which they come back. Beyond 6,000 clients they come faster: nobody shall be away for longer."""
ROOM = 64
"""Entries of the heap that may be out of date, beside as many as there are sockets."""

S = TypeVar("S")
Chance = Callable[[], float]
"""A random number from 0 up to 1, without 1."""


class Reason(StrEnum):
    """Why a socket leaves although nothing is wrong with it."""

    DRAIN = "drain"
    """The instance is stopped."""
    AGE = "age"
    """The request timeout is near."""
    ROLLOVER = "rollover"
    """There is a newer revision."""
    DEAFNESS = "deafness"
    """The instance does not hear what is published."""
    GAP = "gap"
    """The instance has missed something, which its clients may get elsewhere."""


class Step(NamedTuple, Generic[S]):
    """A socket is to be told to leave, or (`closes`) to be closed."""

    socket: S
    reason: Reason
    closes: bool


def return_window(count: int) -> float:
    """Seconds over which so many clients should come back, wherever that is."""
    return min(max(count / RETURNS_PER_SECOND, SHORTEST_WINDOW), LONGEST_WINDOW)


def slots(count: int, window: float, chance: Chance) -> Iterator[float]:
    """`count` times from 0 to `window`, in their order: one in each of as many equal parts, anywhere in its part."""
    return ((number + chance()) * window / count for number in range(count))


class _Plan:
    """What is planned for one socket."""

    __slots__ = ("due", "limit", "number", "reason", "told")

    def __init__(self, limit: float) -> None:
        self.limit = limit
        """When it has to be told because of its age."""
        self.reason = Reason.AGE
        self.due = limit
        self.number = 0
        """Of the entry that counts."""
        self.told = False


class Departures(Generic[S]):
    """The plans for all sockets of an instance. `timeout` is the request timeout."""

    def __init__(self, timeout: float) -> None:
        self.grace = min(GRACE, GRACE_PART * timeout)
        self._first = YOUNGEST * timeout
        self._spread = (OLDEST - YOUNGEST) * timeout - self.grace
        self._plans: dict[S, _Plan] = {}
        self._heap: list[tuple[float, int]] = []
        """(due, number). An entry whose number is in no plan any more is out of date; it holds no socket."""
        self._sockets: dict[int, S] = {}
        """Number -> socket, for the entries that count."""
        self._numbers = count(1)
        self._hurries: dict[Reason, float] = {}

    @property
    def sockets(self) -> Collection[S]:
        """All that have joined and not left."""
        return self._plans.keys()

    def join(self, socket: S, now: float, chance: Chance) -> None:
        """A new socket."""
        plan = self._plans[socket] = _Plan(now + self._first + chance() * self._spread)
        self._plan_anew(socket, plan, now, chance)

    def leave(self, socket: S) -> None:
        """A socket is gone."""
        del self._sockets[self._plans.pop(socket).number]

    def hurry(self, reason: Reason, over: float, now: float, chance: Chance) -> None:
        """All who are here leave within `over` seconds, in random order; who joins meanwhile, within as many more.

        So a socket that comes back to where it was sent away from is not sent away again at once.
        """
        self._hurries[reason] = over
        here = sorted((socket for socket, plan in self._plans.items() if not plan.told), key=lambda _: chance())
        for socket, slot in zip(here, slots(len(here), over, chance), strict=True):
            plan = self._plans[socket]
            if now + slot < plan.due:
                self._set(socket, plan, now + slot, reason)

    def calm(self, reason: Reason, now: float, chance: Chance) -> None:
        """The reason is gone: who was not told yet stays, unless there is another."""
        if self._hurries.pop(reason, None) is not None:
            for socket, plan in self._plans.items():
                if plan.reason is reason and not plan.told:
                    self._plan_anew(socket, plan, now, chance)

    def due(self, now: float, most: int) -> list[Step[S]]:
        """What is to be done by now, `most` at a time. Who is told here is to be closed `grace` seconds later."""
        steps: list[Step[S]] = []
        while self._heap and self._heap[0][0] <= now and len(steps) < most:
            _, number = heappop(self._heap)
            if number not in self._sockets:
                continue
            socket = self._sockets[number]
            plan = self._plans[socket]
            steps.append(Step(socket, plan.reason, plan.told))
            if not plan.told:
                plan.told = True
                self._set(socket, plan, now + self.grace, plan.reason)
        return steps

    def _plan_anew(self, socket: S, plan: _Plan, now: float, chance: Chance) -> None:
        dues = [(now + chance() * over, reason) for reason, over in self._hurries.items()]
        self._set(socket, plan, *min([(plan.limit, Reason.AGE), *dues]))

    def _set(self, socket: S, plan: _Plan, due: float, reason: Reason) -> None:
        self._sockets.pop(plan.number, None)
        plan.due, plan.reason, plan.number = due, reason, next(self._numbers)
        self._sockets[plan.number] = socket
        heappush(self._heap, (due, plan.number))
        if len(self._heap) > 2 * len(self._plans) + ROOM:
            self._heap = [entry for entry in self._heap if entry[1] in self._sockets]
            heapify(self._heap)

    def __len__(self) -> int:
        """Entries that are kept; bounded by the number of sockets."""
        return len(self._heap)
