"""How often something happened lately."""

from collections import deque


class RateLimit:
    """Tells when something happens more than `limit` times in `period` seconds."""

    def __init__(self, limit: int, period: float) -> None:
        self._limit = limit
        self._period = period
        self._times: deque[float] | None = None  # a deque takes 700 bytes, and most connections never need it

    def exceeded(self, now: float) -> bool:
        """Note that it happened now; answers whether that was once too often. `now` never goes back."""
        if self._times is None:
            self._times = deque(maxlen=self._limit + 1)
        self._times.append(now)
        return len(self._times) == self._times.maxlen and now - self._times[0] <= self._period
