"""How long to wait before another try."""

import random


class Backoff:
    """Waits from `first` to `longest` seconds, doubling; each drawn from its upper half, so not all try at once."""

    def __init__(self, first: float, longest: float, chance: random.Random) -> None:
        self._first = first
        self._longest = longest
        self._chance = chance
        self._next = first

    def wait(self) -> float:
        """The next wait, in seconds."""
        wait = self._next * self._chance.uniform(0.5, 1)
        self._next = min(2 * self._next, self._longest)
        return wait

    def reset(self) -> None:
        """Begin with the first wait again, after a success."""
        self._next = self._first
