"""Sums by key, and the key with the largest: for limits that all share, where the one that takes most gives way."""

from collections.abc import Hashable
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

SLACK = 16
"""Places of the heap beyond two for each key, so that a few keys do not have it built anew all the time."""


class Largest(Generic[K]):
    """A sum for each key, and `total`, the sum of all of them. A key whose sum is 0 is forgotten.

    `add` takes constant time, `top` a logarithm of the number of keys for each `add` before it. Memory is bounded by
    the keys that have a sum; nothing else refers to a key.
    """

    __slots__ = ("_changed", "_heap", "_keys", "_number", "_numbers", "_sums", "total")

    def __init__(self) -> None:
        self.total = 0
        self._sums: dict[K, int] = {}
        self._changed: dict[K, None] = {}
        """The keys whose sum the heap does not have yet; a dict, because it keeps their order."""
        # The heap names keys by number. So an entry that is out of date keeps no key alive: a key may be a connection.
        self._heap: list[tuple[int, int]] = []
        """(-sum, number), smallest first; an entry whose number is not in `_keys` is out of date."""
        self._keys: dict[int, K] = {}
        self._numbers: dict[K, int] = {}
        self._number = 0

    def add(self, key: K, amount: int) -> None:
        """Add to a key's sum, or take from it with a negative amount. Raises ValueError for a sum below 0."""
        left = self._sums.get(key, 0) + amount
        if left > 0:
            self._sums[key] = left
            self._changed[key] = None
        elif left == 0:
            self._forget(key)
        else:
            raise ValueError(f"a sum cannot fall to {left}")
        self.total += amount

    def of(self, key: K) -> int:
        """Return the sum of a key, 0 for an unknown one."""
        return self._sums.get(key, 0)

    def top(self) -> K | None:
        """Return a key that has the largest sum, None while there is no key."""
        if len(self._heap) + len(self._changed) > 2 * len(self._sums) + SLACK:
            self._build()
        for key in self._changed:
            if (number := self._numbers.get(key)) is not None:
                del self._keys[number]
            heappush(self._heap, self._entry(key))
        self._changed.clear()
        while self._heap:
            if (found := self._keys.get(self._heap[0][1])) is not None:
                return found
            heappop(self._heap)
        return None

    def __len__(self) -> int:
        return len(self._sums)

    def _forget(self, key: K) -> None:
        self._sums.pop(key, None)
        self._changed.pop(key, None)
        if (number := self._numbers.pop(key, None)) is not None:
            del self._keys[number]
        if len(self._heap) > 2 * len(self._sums) + SLACK:
            self._build()

    def _build(self) -> None:
        """Make the heap anew, with one entry for each key."""
        # At least half of the entries are out of date: each was an `add`, which pays for its share of this.
        self._changed.clear()
        self._keys.clear()
        self._numbers.clear()
        self._heap = [self._entry(key) for key in self._sums]
        heapify(self._heap)

    def _entry(self, key: K) -> tuple[int, int]:
        self._number += 1
        self._keys[self._number] = key
        self._numbers[key] = self._number
        return -self._sums[key], self._number
