"""What came through the fan-out lately, by stream: the messages, and what must be known of those that are gone.

A replay is only worth something if it can be proven whole, so every eviction leaves a trace: for each ordering key the
last message that a stream lost, for all else the highest time (`floor`). A stream that aged out is a tombstone with
these traces. When the bytes run out, the stream whose last message is the oldest goes first, message by message and in
the end with its traces; then one number for all streams, `forgotten_through`, is the floor of every stream made anew.
"""

from collections import OrderedDict, deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from app.core.position import MAX_KEYS, Last, Mark, Position

T = TypeVar("T")

ENTRY_BYTES = 600
"""What a kept message costs beside itself (this and the next two were measured on 64-bit CPython)."""
LOG_BYTES = 700
"""What a stream costs beside its name, its keys and its messages."""
KEY_BYTES = 400
"""What an ordering key of a stream costs."""

NOTHING = -1
"""A time before all times, and an arrival before all arrivals."""


class Stream(NamedTuple):
    """A channel, the inbox of a user (by user key), or everyone."""

    kind: Literal["channel", "inbox", "everyone"]
    name: str

    @classmethod
    def channel(cls, name: str) -> "Stream":
        return cls("channel", name)

    @classmethod
    def inbox(cls, user_key: str) -> "Stream":
        return cls("inbox", user_key)


EVERYONE = Stream("everyone", "")


class Seen(NamedTuple):
    """A message of an ordering key, and when it arrived (`arrival` counts those of all streams)."""

    arrival: int
    last: Last


class Entry(NamedTuple, Generic[T]):
    """A kept message. `at` is when it arrived, in seconds of the caller's clock; `position` is its own stream's."""

    arrival: int
    at: float
    time: int
    last: Last | None
    position: Position
    message: T
    size: int


_NO_ENTRIES: deque[Any] = deque(maxlen=0)  # one for all tombstones: an empty deque takes 600 bytes


@dataclass(slots=True)
class Log(Generic[T]):
    """A stream's messages, oldest first, and the traces of those that are gone. Valid until the next `add`."""

    floor: int
    """The highest time of anything that is gone and has no entry in `evicted`."""
    entries: deque[Entry[T]] = field(default_factory=lambda: _NO_ENTRIES)
    last: dict[int, Seen] = field(default_factory=dict)
    """The last message that arrived, of each of the newest ordering keys."""
    evicted: dict[int, Seen] = field(default_factory=dict)
    """The last message that is gone, of the same keys."""

    def take(self, entry: Entry[T]) -> None:
        """Keep a message. Its key is among `last` already: see `note`."""
        if not self.entries:
            self.entries = deque()
        self.entries.append(entry)

    def note(self, seen: Seen) -> None:
        """Remember that this is now the last of its key; the stalest key of too many is given up."""
        self.last[seen.last.key] = seen
        if len(self.last) > MAX_KEYS:
            stalest = min(self.last.values(), key=lambda each: (each.last.time, each.last.key)).last.key
            del self.last[stalest]
            if (gone := self.evicted.pop(stalest, None)) is not None:
                self.floor = max(self.floor, gone.last.time)

    def evict(self) -> Entry[T]:
        """Let go of the oldest message."""
        entry = self.entries.popleft()
        if entry.last is not None and entry.last.key in self.last:
            self.evicted[entry.last.key] = Seen(entry.arrival, entry.last)
        else:
            self.floor = max(self.floor, entry.time)
        if not self.entries:
            self.entries = _NO_ENTRIES
        return entry

    @property
    def through(self) -> int:
        """The highest time of anything that is gone, once all is gone."""
        return max([self.floor, *(seen.last.time for seen in self.last.values())])


class History(Generic[T]):
    """The logs of all streams of one instance.

    At most `size` messages a stream, `ttl` seconds, and `max_bytes` over all; any of them 0: nothing is kept.
    """

    def __init__(self, *, size: int, ttl: float, max_bytes: int, epoch: str = "") -> None:
        self.on = size > 0 and ttl > 0 and max_bytes > 0
        self.bytes = 0
        self.forgotten_through = NOTHING
        """The highest time in any stream that was forgotten with its traces."""
        self.evicted = {"size": 0, "age": 0, "bytes": 0}
        """How many messages were let go of, by reason, since the start."""
        self._size = size
        self._ttl = ttl
        self._max_bytes = max_bytes
        self._epoch = epoch
        self._arrivals = 0
        # Both lose their first all the time, where a plain dict searches ever longer for the next.
        self._logs: OrderedDict[Stream, Log[T]] = OrderedDict()  # the stream that was added to last is at the end
        self._by_age: OrderedDict[int, Log[T]] = OrderedDict()  # arrival -> the log that keeps the message

    def add(self, stream: Stream, mark: Mark, message: T, size: int, now: float) -> Position:
        """Keep a message of `size` bytes; answers the position that it bears as a message of this stream.

        `now` is in seconds and never goes back. A repeat must not come here.
        """
        last = mark.last
        if not self.on:
            return Position(self._epoch, mark.time, () if last is None else (last,))
        self.expire(now)
        log = self._log_of(stream)
        self._arrivals += 1
        if last is not None:
            keys = len(log.last)
            log.note(Seen(self._arrivals, last))
            self.bytes += (len(log.last) - keys) * KEY_BYTES
        position = Position.at(self._epoch, mark.time, (seen.last for seen in log.last.values()))
        log.take(Entry(self._arrivals, now, mark.time, last, position, message, size))
        self._by_age[self._arrivals] = log
        self.bytes += size + ENTRY_BYTES
        if len(log.entries) > self._size:
            self._evict(log, "size")
        while self.bytes > self._max_bytes:
            self._make_room()
        return position

    def lose(self, stream: Stream, time: int, now: float) -> None:
        """Something of this stream came and is not kept: what was before `time` cannot be gone on from."""
        if not self.on:
            return
        self.expire(now)
        log = self._log_of(stream)
        log.floor = max(log.floor, time)
        while self.bytes > self._max_bytes:
            self._make_room()

    def expire(self, now: float) -> None:
        """Let go of what is too old. Each `add` does it; call it from a timer too."""
        while self._by_age:
            log = next(iter(self._by_age.values()))
            if log.entries[0].at + self._ttl > now:
                return
            self._evict(log, "age")

    def position(self, streams: Iterable[Stream], time: int) -> Position:
        """Where these streams are together now. `time`: the highest that was heard, for a reply or a welcome."""
        return Position.at(self._epoch, time, self._last_of(streams))

    def widened(self, own: Position, streams: Iterable[Stream], skew: int) -> Position:
        """The position that a message bears to a client of more streams than its own, just after `add` answered `own`.

        It is `own` itself where that will do, so that a broadcast need not be written anew for everyone who has an
        inbox: a key that `own` does not name needs no mention once its last message is older by
        twice the skew (see app.core.recovery).
        """
        last = self._last_of(streams)
        named = {each.key for each in own.last}
        if all(each in own.last or (each.key not in named and each.time <= own.time - 2 * skew) for each in last):
            return own
        return Position.at(self._epoch, own.time, last)

    def logs(self, streams: Iterable[Stream]) -> Sequence[Log[T]]:
        """The logs of these streams, to be read; none at all when nothing is kept."""
        return [self._logs.get(stream) or Log(self.forgotten_through) for stream in streams] if self.on else []

    @property
    def messages(self) -> int:
        """How many messages are kept."""
        return len(self._by_age)

    @property
    def streams(self) -> int:
        """How many streams are known, tombstones too."""
        return len(self._logs)

    def _log_of(self, stream: Stream) -> Log[T]:
        """The log of a stream that something came of just now."""
        log = self._logs.get(stream)
        if log is None:
            log = self._logs[stream] = Log(self.forgotten_through)
            self.bytes += LOG_BYTES + len(stream.name)
        else:
            self._logs.move_to_end(stream)
        return log

    def _last_of(self, streams: Iterable[Stream]) -> Collection[Last]:
        """The last message of each key over these streams."""
        newest: dict[int, Seen] = {}
        for stream in streams:
            log = self._logs.get(stream)
            for key, seen in log.last.items() if log is not None else ():
                if key not in newest or newest[key].arrival < seen.arrival:
                    newest[key] = seen
        return [seen.last for seen in newest.values()]

    def _evict(self, log: Log[T], reason: str) -> None:
        entry = log.evict()
        del self._by_age[entry.arrival]
        self.bytes -= entry.size + ENTRY_BYTES
        self.evicted[reason] += 1

    def _make_room(self) -> None:
        stream, log = next(iter(self._logs.items()))
        if log.entries:
            self._evict(log, "bytes")
            return
        del self._logs[stream]
        self.bytes -= LOG_BYTES + len(stream.name) + len(log.last) * KEY_BYTES
        self.forgotten_through = max(self.forgotten_through, log.through)
