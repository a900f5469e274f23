"""What was delivered lately, so that a message that comes twice is delivered once."""

from collections import OrderedDict


class RecentKeys:
    """A memory of keys, bounded in time (`ttl` seconds) and in number (`limit`; then the oldest are forgotten)."""

    def __init__(self, ttl: float, limit: int) -> None:
        self._ttl = ttl
        self._limit = limit
        # In the order of their time. A plain dict that loses its first all the time searches ever longer for the next.
        self._noted: OrderedDict[str, float] = OrderedDict()

    def note(self, key: str, now: float) -> bool:
        """Remember a key; answers whether it is new. `now` is in seconds and never goes back."""
        self._forget(now)
        if key in self._noted:
            return False
        self._noted[key] = now
        return True

    def _forget(self, now: float) -> None:
        while self._noted:
            oldest = next(iter(self._noted))
            if len(self._noted) < self._limit and now - self._noted[oldest] < self._ttl:
                return
            del self._noted[oldest]

    def __len__(self) -> int:
        return len(self._noted)


TTL = 600.0
ENTRIES = 100_000


class Deduplicator:
    """Knows a message again by its carrier's id, its origin's sequence number, or the id that its sender gave it."""

    def __init__(self) -> None:
        self._carrier_ids = RecentKeys(TTL, ENTRIES)
        self._sequences = RecentKeys(TTL, ENTRIES)
        self._sender_ids = RecentKeys(TTL, ENTRIES)

    def carried_before(
        self, carrier_id: str | None, origin: str | None, sequence: str | None, now: float
    ) -> str | None:
        """Whether this was delivered before, and by what it was known: `pubsub_id` or `sequence`.

        Where an origin counts, its number tells all: what comes again under one carrier's id has one number.
        """
        if origin and sequence:
            return None if self._sequences.note(f"{origin} {sequence}", now) else "sequence"
        return "pubsub_id" if carrier_id is not None and not self._carrier_ids.note(carrier_id, now) else None

    def sent_before(self, sender: str, message_id: str, now: float) -> bool:
        """Whether this sender sent a message of this id before."""
        return not self._sender_ids.note(f"{sender} {message_id}", now)
