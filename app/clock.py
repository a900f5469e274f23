"""Time and chance, which everything else is handed: a test hands in its own."""

import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime


def rfc3339(time_ns: int) -> str:
    """Unix time as sentDateTime is written: UTC, milliseconds, `2026-01-31T12:00:00.123Z`."""
    return (
        datetime.fromtimestamp(time_ns // 10**6 / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


@dataclass(frozen=True, slots=True)
class Clock:
    """What an instance takes from the outside: a clock that never goes back, the time of day, chance, and new ids."""

    monotonic: Callable[[], float] = time.monotonic
    unix_ns: Callable[[], int] = time.time_ns
    new_id: Callable[[], str] = lambda: str(uuid.uuid4())
    chance: random.Random = field(default_factory=random.SystemRandom)

    def now(self) -> str:
        """The time of day, as sentDateTime is written."""
        return rfc3339(self.unix_ns())
