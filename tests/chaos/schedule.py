"""When which fault happens. Pure: the same seed and length make the same schedule."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from tests.chaos.slots import SLOTS, VETERAN

FIRST = 5.0
"""Seconds before the first fault: what must come through has come through once."""
BETWEEN = (2.0, 6.0)
"""Seconds from one fault to the next. Faults last longer than that: they overlap."""


class Kind(StrEnum):
    """What can happen."""

    TERMINATE = "SIGTERM of an instance, and a replacement"
    KILL = "kill -9 of an instance, and a replacement"
    FREEZE = "SIGSTOP of an instance for a while"
    FREEZE_PUBSUB = "SIGSTOP of the emulator for a while"
    DELETE_SUBSCRIPTION = "an instance's subscription deleted"
    DUPLICATES = "messages published twice"
    MALFORMED = "malformed messages published"
    VANISH = "clients whose network vanishes"
    STALL = "clients that do not read for a while"


REPLACING = {Kind.TERMINATE, Kind.KILL}
LASTS: dict[Kind, tuple[float, float]] = {
    Kind.FREEZE: (0.5, 32.0),  # beyond the pings of clients: they are gone when it wakes
    Kind.FREEZE_PUBSUB: (0.5, 9.0),  # beyond the patience of publishers: they are in doubt
    Kind.STALL: (3.0, 8.0),
}
"""Seconds that a fault lasts, at the least and at the most."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `at` and `seconds` are in seconds from the beginning and for how long."""

    at: float
    kind: Kind
    slot: int
    """Of the instance that is meant, where one is."""
    seconds: float
    share: float
    """Of the clients that are meant, where some are."""
    seed: int
    """For whatever else has to be drawn."""

    def __str__(self) -> str:
        return f"{self.at:6.1f} s: {self.kind}"


def schedule(seed: int, seconds: float) -> list[Fault]:
    """The faults of a run, in their order. Every kind comes once before any comes again."""
    chance = random.Random(seed)
    faults = []
    kinds = _kinds(chance)
    at = FIRST
    while at < seconds:
        kind = next(kinds)
        least, most = LASTS.get(kind, (0.0, 0.0))
        slot = chance.choice([slot for slot in SLOTS if slot != VETERAN or kind not in REPLACING])
        length, share, own_seed = chance.uniform(least, most), chance.uniform(0.02, 0.15), chance.getrandbits(32)
        faults.append(Fault(at, kind, slot, length, share, own_seed))
        at += chance.uniform(*BETWEEN)
    return faults


def _kinds(chance: random.Random) -> Iterator[Kind]:
    while True:
        kinds = list(Kind)
        chance.shuffle(kinds)
        yield from kinds
