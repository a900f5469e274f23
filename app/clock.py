"""Time and chance, which everything else is handed: a test hands in its own."""

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache


def rfc3339(time_ns: int) -> str:
    """Unix time as sentDateTime is written: UTC, milliseconds, `2026-01-31T12:00:00.123Z`."""
    seconds, milliseconds = divmod(time_ns // 10**6, 1000)
    return f"{_date_and_time(seconds)}.{milliseconds:03}Z"


@lru_cache(maxsize=2)
def _date_and_time(seconds: int) -> str:
    # Every message asks for it, most of them for the second of the one before.
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()


def _random_id() -> str:
    """A random UUID (RFC 9562, version 4). The standard library's object around it takes twice as long as the rest."""
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) % 4]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


@dataclass(frozen=True, slots=True)
class Clock:
    """What an instance takes from the outside: a clock that never goes back, the time of day, chance, and new ids."""

    monotonic: Callable[[], float] = time.monotonic
    unix_ns: Callable[[], int] = time.time_ns
    new_id: Callable[[], str] = _random_id
    chance: random.Random = field(default_factory=random.SystemRandom)

    def now(self) -> str:
        """The time of day, as sentDateTime is written."""
        return rfc3339(self.unix_ns())
