"""Where a client is in what the fan-out carries (contract, section 5).

Written, a position is `1.<epoch>.<time>` and for each ordering key `.<key>_<age>_<id>`: the key's hash, how much older
than the position its last message is, and that message's id. Numbers are hexadecimal, all of it can stand in a URL.
"""

import hashlib
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

MAX_KEYS = 8
"""Ordering keys in one position; the stalest of more drop out, and count as unordered."""
MAX_LENGTH = 600
"""Characters of a written position."""
MAX_TIME = 2**63 - 1

_PLAIN_ID = re.compile(r"[0-9A-Za-z_-]{1,32}")
_WRITTEN = re.compile(
    r"1\.(?P<epoch>[0-9A-Za-z_-]{0,32})\.(?P<time>[0-9a-f]{1,16})"
    rf"(?P<last>(?:\.[0-9a-f]{{1,8}}_-?[0-9a-f]{{1,16}}_~?[0-9A-Za-z_-]{{1,32}}){{0,{MAX_KEYS}}})"
)
_EPOCH = re.compile(r"[0-9A-Za-z_-]{0,32}")


class PositionError(ValueError):
    """A text that is no position."""


class Last(NamedTuple):
    """The last message of an ordering key: the key's hash, the message's time and a short form of its id."""

    key: int
    time: int
    id: str


class Mark(NamedTuple):
    """What the carrier tells of a message, the same on every instance.

    `time` is Pub/Sub's publish time (Unix, ns) or the embedded fan-out's sequence number; `key` is the ordering key,
    None for what was published without order.
    """

    time: int
    id: str
    key: str | None

    @property
    def last(self) -> Last | None:
        """What stands in a position while this is the last message of its key; None where there is no order."""
        return None if self.key is None else Last(zlib.crc32(self.key.encode()), self.time, _short(self.id))


def _short(message_id: str) -> str:
    """An id that fits: what a carrier of one's own may have instead of Pub/Sub's digits becomes a hash."""
    if _PLAIN_ID.fullmatch(message_id):
        return message_id
    return "~" + hashlib.blake2b(message_id.encode(errors="surrogatepass"), digest_size=12).hexdigest()


@dataclass(frozen=True, slots=True)
class Position:
    """The place behind a message, or of an instance at a moment.

    `epoch` is empty for Pub/Sub and names the process of an embedded fan-out, up to 32 of [0-9A-Za-z_-]. `time` is that
    of the message that bears the position, else the highest that was heard. `last` has one entry for each ordering key
    that came before, sorted by key: make one with `at`.
    """

    epoch: str
    time: int
    last: tuple[Last, ...] = ()

    @classmethod
    def at(cls, epoch: str, time: int, last: Iterable[Last]) -> "Position":
        """A position with these last messages, one for each key; those of the newest keys if they are too many."""
        kept = list(last)
        if len(kept) > 1:
            kept.sort()
        if len(kept) > MAX_KEYS:
            kept = sorted(sorted(kept, key=lambda each: (each.time, each.key))[-MAX_KEYS:])
        return cls(epoch, time, tuple(kept))

    def not_before(self, time: int) -> "Position":
        """The same position, with this time if its own is lower."""
        return self if self.time >= time else Position(self.epoch, time, self.last)

    def not_after(self, time: int) -> "Position":
        """The same position, with this time if its own is higher."""
        return self if self.time <= time else Position(self.epoch, time, self.last)

    def encode(self) -> str:
        """The position as text. Equal positions are equal texts."""
        return f"1.{self.epoch}.{self.time:x}" + "".join(
            f".{key:x}_{self.time - time:x}_{message_id}" for key, time, message_id in self.last
        )

    @classmethod
    def decode(cls, text: str) -> "Position":
        """Read what `encode` wrote. Raises PositionError for anything else."""
        written = _WRITTEN.fullmatch(text) if len(text) <= MAX_LENGTH else None
        if written is None:
            raise PositionError("not a position")
        time = int(written["time"], 16)
        parts = (part.split("_", 2) for part in written["last"].split(".")[1:])
        last = tuple(Last(int(key, 16), time - int(age, 16), message_id) for key, age, message_id in parts)
        position = cls(written["epoch"], time, last)
        if (
            not all(0 <= each <= MAX_TIME for each in (time, *(entry.time for entry in last)))
            or len({entry.key for entry in last}) != len(last)
            or cls.at(position.epoch, time, last).encode() != text  # one way to write each, and no other
        ):
            raise PositionError("not a position")
        return position


def is_epoch(text: str) -> bool:
    """Whether this can be an epoch."""
    return _EPOCH.fullmatch(text) is not None
