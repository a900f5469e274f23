"""How often something happened lately, and how much a client may send."""

from collections import deque
from math import inf

MESSAGE_BURST = 5
BYTE_BURST = 4
"""Seconds of a rate that may come at once after a silence."""
MOST_OWED = 100_000
"""Acknowledgements that are free, beside the rate."""
REFUSED_PERIOD = 10.0
"""Seconds in which a client may have a whole burst refused; above: it does not heed what it is told."""
ROUNDING = 1e-6
"""Seconds by which sums of floats may be off."""
_NEVER = (float("-inf"), 0.0)


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


class SenderLimits:
    """How much one connection may send; a rate of 0: no limit. A burst is what it may send at once after a silence."""

    __slots__ = ("byte_burst", "byte_room", "byte_seconds", "message_burst", "message_room", "message_seconds")

    def __init__(self, messages: float, message_burst: float, bytes: float, byte_burst: float) -> None:
        """Take rates in messages and bytes (inflated) a second."""
        self.message_burst = message_burst
        self.message_seconds = 1 / messages if messages else 0.0
        """Seconds that one message takes of the rate."""
        self.message_room = message_burst / messages + ROUNDING if messages else inf
        """Seconds of the rate that a burst takes."""
        self.byte_burst = byte_burst
        self.byte_seconds = 1 / bytes if bytes else 0.0
        self.byte_room = byte_burst / bytes + ROUNDING if bytes else inf

    @classmethod
    def of(cls, message_rate: int, byte_rate: int) -> "SenderLimits":
        """Return limits with the usual bursts: five seconds' messages, and four seconds' bytes."""
        return cls(message_rate, MESSAGE_BURST * message_rate, byte_rate, BYTE_BURST * byte_rate)


class SenderRate:
    """Two token buckets of one connection, for its messages and their bytes, and what was refused lately.

    A bucket is one number, the time at which it would be full again (the "theoretical arrival time" of the generic cell
    rate algorithm), since there are as many as connections. `now` is in seconds and never goes back.
    """

    __slots__ = ("_bytes_full_at", "_limits", "_messages_full_at", "_owed", "_refused", "_taken_at")

    def __init__(self, limits: SenderLimits) -> None:
        self._limits = limits
        self._messages_full_at = 0.0
        self._bytes_full_at = 0.0
        self._taken_at = 0.0
        self._owed = 0
        """Messages that the client was sent and has to acknowledge: as many are free."""
        self._refused: tuple[float, float] = _NEVER

    def take(self, size: int, now: float) -> float:
        """Count a message of `size` bytes; return 0.0, or the seconds until it may be sent if it may not be now."""
        # Every message comes here: a comparison takes a third of what max() does.
        limits = self._limits
        messages_full_at = self._messages_full_at
        if messages_full_at < now:  # noqa: PLR1730
            messages_full_at = now
        messages_full_at += limits.message_seconds
        bytes_full_at = self._bytes_full_at
        if bytes_full_at < now:  # noqa: PLR1730
            bytes_full_at = now
        used = bytes_full_at - now
        cost = size * limits.byte_seconds
        # A message that is larger than a burst passes once the bucket is full.
        if messages_full_at - now <= limits.message_room and (used + cost <= limits.byte_room or used <= ROUNDING):
            self._messages_full_at = messages_full_at
            self._bytes_full_at = bytes_full_at + cost
            self._taken_at = now
            return 0.0
        if self._owed and (used + cost <= limits.byte_room or used <= ROUNDING):
            self._owed -= 1
            self._bytes_full_at = bytes_full_at + cost
            self._taken_at = now
            return 0.0
        return max(
            messages_full_at - now - limits.message_room, min(used, used + cost - limits.byte_room), 2 * ROUNDING
        )

    @property
    def used(self) -> float:
        """Bytes of its burst that were used when a message passed last."""
        seconds = self._limits.byte_seconds
        return (self._bytes_full_at - self._taken_at) / seconds if seconds else 0.0

    def charge(self, size: int, now: float) -> None:
        """Count bytes without asking: such as those that a request had the service send back."""
        self._bytes_full_at = max(self._bytes_full_at, now) + size * self._limits.byte_seconds
        self._taken_at = now

    def credit(self) -> None:
        """Count a message that the client owes: its acknowledgement of one that it was sent."""
        if self._owed < MOST_OWED:
            self._owed += 1

    def refused_too_often(self, size: int, now: float) -> bool:
        """Count a message that was refused; return True once a whole burst was refused within ten seconds."""
        limits = self._limits
        part = max(
            1 / limits.message_burst if limits.message_burst else 0.0,
            size / limits.byte_burst if limits.byte_burst else 0.0,
        )
        since, refused = self._refused
        if now - since > REFUSED_PERIOD:
            since, refused = now, 0.0
        self._refused = since, refused + part
        return refused + part > 1 + ROUNDING


class TokenBucket:
    """Allows `rate` things a second, and `burst` at once after a silence. `now` is in seconds and never goes back."""

    __slots__ = ("_burst", "_full_at", "_rate")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._full_at = 0.0

    def take(self, now: float) -> bool:
        """Take a token; return False, with nothing taken, where there is none."""
        full_at = max(self._full_at, now) + 1 / self._rate
        if full_at - now > self._burst / self._rate + ROUNDING:
            return False
        self._full_at = full_at
        return True
