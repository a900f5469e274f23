"""When sessions end, each at a time of its own. Pure: the time, in seconds, comes in as an argument."""

from collections.abc import Hashable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, TypeVar

ROOM = 64
"""Entries of the heap that may be out of date, beside as many as there are members."""

M = TypeVar("M", bound=Hashable)


class Expiries(Generic[M]):
    """Members with the time at which each ends; one that has none is not kept here, and costs nothing."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._heap: list[tuple[float, int]] = []
        """(end, number). An entry whose number is no member's any more is out of date; it holds no member."""
        self._members: dict[int, M] = {}
        self._number_of: dict[M, int] = {}

    def __len__(self) -> int:
        """Return how many entries are kept; bounded by the number of members."""
        return len(self._heap)

    def set(self, member: M, ends_at: float) -> None:
        """Note when a member ends; a later word replaces an earlier one."""
        self.leave(member)
        number = next(self._numbers)
        self._members[number] = member
        self._number_of[member] = number
        heappush(self._heap, (ends_at, number))
        if len(self._heap) > 2 * len(self._members) + ROOM:
            self._tidy_up()

    def leave(self, member: M) -> None:
        """Forget a member, if it is one."""
        number = self._number_of.pop(member, None)
        if number is not None:
            del self._members[number]
            if len(self._heap) > 2 * len(self._members) + ROOM:
                self._tidy_up()

    def due(self, now: float, most: int) -> list[M]:
        """Take out the members that have ended by now, the earliest first, `most` at a time."""
        ended: list[M] = []
        while self._heap and self._heap[0][0] <= now and len(ended) < most:
            _, number = heappop(self._heap)
            member = self._members.pop(number, None)
            if member is not None:
                del self._number_of[member]
                ended.append(member)
        return ended

    def _tidy_up(self) -> None:
        self._heap = [entry for entry in self._heap if entry[1] in self._members]
        heapify(self._heap)
