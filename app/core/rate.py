"""How often something happened lately."""

from collections import deque


class RateLimit:
    """Tells when something happens more than `limit` times in `period` seconds."""

    def __init__(self, limit: int, period: float) -> None:
        self._period = period
        self._times: deque[float] = deque(maxlen=limit + 1)

    def exceeded(self, now: float) -> bool:
        """Note that it happened now; answers whether that was once too often. `now` never goes back."""
        self._times.append(now)
        return len(self._times) == self._times.maxlen and now - self._times[0] <= self._period
