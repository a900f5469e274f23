"""What came through the fan-out lately, by stream: the messages, and what must be known of those that are gone.

A replay is only worth something if it can be proven whole, so every eviction leaves a trace: for each ordering key the
last message that a stream lost, for all else the highest time (`floor`). A stream that aged out is a tombstone with
these traces.

When the bytes run out, who fills them gives way: an owner of more than an eighth, first the traces of its empty
streams, then the oldest message of its fullest one; where there is none, the same over all streams. So a stream that
takes less than its share (the bytes by the number of streams) keeps its messages whatever others do, and one client
that begins 40,000 channels loses its own.

What is left of a tombstone then is a grave: one number, the stream's floor when it comes again. Graves may take an
eighth. Of those beyond one number for all is left, `forgotten_through`, the floor of every stream of which nothing is
known: without graves, 1000 new channels a second would raise it to a few seconds ago, and no client of a channel that
was silent here could be told that it missed nothing.
"""

from collections import OrderedDict, deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from app.core.position import MAX_KEYS, Last, Mark, Position
from app.core.sizes import text_bytes

T = TypeVar("T")

ENTRY_BYTES = 800
"""Bytes that a kept message costs beside itself (this and the next three were measured on 64-bit CPython)."""
LOG_BYTES = 1150
"""What a stream costs beside its name, its keys and its messages."""
KEY_BYTES = 300
"""What an ordering key of a stream costs."""
GRAVE_BYTES = 350
"""Bytes that a stream costs beside its name once only its floor is left."""
PART = 8
"""The part of all bytes that an owner may have before it gives way first, and that graves may take: an eighth."""
EXACT_BELOW = 16_384
"""Bytes of a stream below which its rank is exact; above, it may be an eighth too high."""
SLACK = 16
"""Places of a ranking that may be out of date, beyond one for each stream."""
EMPTY = 2**62
"""The bound of a tombstone: it goes before all that have messages."""

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


@dataclass(slots=True, eq=False)
class Log(Generic[T]):
    """A stream's messages, oldest first, and the traces of those that are gone. Valid until the next `add`."""

    floor: int
    """The highest time of anything that is gone and has no entry in `evicted`."""
    entries: deque[Entry[T]] = field(default_factory=lambda: _NO_ENTRIES)
    last: dict[int, Seen] = field(default_factory=dict)
    """The last message that arrived, of each of the newest ordering keys."""
    evicted: dict[int, Seen] = field(default_factory=dict)
    """The last message that is gone, of the same keys."""
    stream: Stream = EVERYONE
    owner: "Owner[T] | None" = None
    """The sender that began the stream; None: nobody whose share is looked at."""
    bytes: int = 0
    """Bytes that it takes, with its messages."""
    bound: int = 0
    """The bytes that it took when it was ranked, or up to an eighth more; below that it needs no other rank."""
    rank: int = 0
    """The number of its place in the rankings; 0: it has none."""

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


Place = tuple[int, int, Log[T]]
"""Of a stream in a ranking: its bound below zero, so that the highest comes first, and its rank."""


class Ranking(Generic[T]):
    """Streams by what they take, tombstones before all. A place is out of date once its stream has another rank."""

    __slots__ = ("_places", "streams")

    def __init__(self) -> None:
        self.streams = 0
        """How many there are."""
        self._places: list[Place[T]] = []

    def put(self, place: Place[T]) -> None:
        """Give a stream its place."""
        heappush(self._places, place)
        if len(self._places) > 2 * self.streams + SLACK:
            # At least half of them are out of date: each was put here once, which pays for its share of this.
            self._places = [each for each in self._places if each[2].rank == each[1]]
            heapify(self._places)

    def first(self) -> Log[T] | None:
        """Return the stream whose bound is the highest; of equals, the one that was ranked first."""
        places = self._places
        while places:
            _, rank, log = places[0]
            if log.rank == rank:
                return log
            heappop(places)
        return None


class Owner(Ranking[T]):
    """A sender, and the streams that it began."""

    __slots__ = ("bytes", "name")

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.bytes = 0
        """Bytes that these streams take."""


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
        self._logs: dict[Stream, Log[T]] = {}
        # These two lose their first all the time, where a plain dict searches ever longer for the next.
        self._by_age: OrderedDict[int, Log[T]] = OrderedDict()  # arrival -> the log that keeps the message
        self._graves: OrderedDict[Stream, int] = OrderedDict()  # stream -> its floor; the latest is at the end
        self._grave_bytes = 0
        self._ranking: Ranking[T] = Ranking()
        self._ranks = 0
        self._owners: dict[str, Owner[T]] = {}
        self._large: dict[str, Owner[T]] = {}  # those that had too much when they were added to last

    def add(self, stream: Stream, mark: Mark, message: T, size: int, now: float, owner: str = "") -> Position:
        """Keep a message of `size` bytes; answers the position that it bears as a message of this stream.

        `owner` is who sent it; a stream is its first sender's, and empty is nobody. `now` is in seconds and never goes
        back. A repeat must not come here.
        """
        last = mark.last
        if not self.on:
            return Position(self._epoch, mark.time, () if last is None else (last,))
        self.expire(now)
        log = self._logs.get(stream) or self._begin(stream, owner)
        if not log.entries:
            log.bound = 0
        self._arrivals += 1
        more = size + ENTRY_BYTES
        if last is not None:
            keys = len(log.last)
            log.note(Seen(self._arrivals, last))
            more += (len(log.last) - keys) * KEY_BYTES
        if last is not None and len(log.last) == 1:  # as nearly always, and an eighth faster
            position = Position(self._epoch, mark.time, (last,))
        else:
            position = Position.at(self._epoch, mark.time, (seen.last for seen in log.last.values()))
        log.take(Entry(self._arrivals, now, mark.time, last, position, message, size))
        self._by_age[self._arrivals] = log
        self._count(log, more)
        if len(log.entries) > self._size:
            self._evict(log, "size")
        if log.bytes > log.bound:
            self._rank(log, log.bytes if log.bytes < EXACT_BELOW else log.bytes + log.bytes // PART)
        while self.bytes > self._max_bytes:
            self._make_room()
        return position

    def lose(self, stream: Stream, time: int, now: float) -> None:
        """Something of this stream came and is not kept: what was before `time` cannot be gone on from."""
        if not self.on:
            return
        self.expire(now)
        log = self._logs.get(stream) or self._begin(stream, "")
        log.floor = max(log.floor, time)
        if not log.entries:
            self._rank(log, EMPTY)
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
        return [self._logs.get(stream) or Log(self._floor_of(stream)) for stream in streams] if self.on else []

    @property
    def messages(self) -> int:
        """How many messages are kept."""
        return len(self._by_age)

    @property
    def streams(self) -> int:
        """How many streams are known, tombstones too."""
        return len(self._logs)

    def _floor_of(self, stream: Stream) -> int:
        """The floor of a stream that has no log."""
        return self._graves.get(stream, self.forgotten_through)

    def _last_of(self, streams: Iterable[Stream]) -> Collection[Last]:
        """The last message of each key over these streams."""
        newest: dict[int, Seen] = {}
        for stream in streams:
            log = self._logs.get(stream)
            for key, seen in log.last.items() if log is not None else ():
                if key not in newest or newest[key].arrival < seen.arrival:
                    newest[key] = seen
        return [seen.last for seen in newest.values()]

    # What a stream goes through

    def _begin(self, stream: Stream, owner: str) -> Log[T]:
        """Make the log of a stream; the caller ranks it."""
        log: Log[T] = Log(self._floor_of(stream), stream=stream)
        if self._graves and self._graves.pop(stream, None) is not None:
            self._count_grave(stream, -1)
        if owner:
            log.owner = self._owners.get(owner)
            if log.owner is None:
                log.owner = self._owners[owner] = Owner(owner)
            log.owner.streams += 1
        self._ranking.streams += 1
        self._logs[stream] = log
        self._count(log, LOG_BYTES + text_bytes(stream.name))
        return log

    def _evict(self, log: Log[T], reason: str) -> None:
        entry = log.evict()
        del self._by_age[entry.arrival]
        self._count(log, -entry.size - ENTRY_BYTES)
        self.evicted[reason] += 1
        if not log.entries:
            self._rank(log, EMPTY)

    def _bury(self, log: Log[T]) -> None:
        """Keep nothing of a tombstone but its floor."""
        del self._logs[log.stream]
        self._graves[log.stream] = log.through
        self._count(log, -log.bytes)
        self._count_grave(log.stream, 1)
        log.rank = 0
        log.last.clear()  # its places in the rankings are out of date, and may stay for a while
        log.evicted.clear()
        self._ranking.streams -= 1
        owner = log.owner
        if owner is not None:
            owner.streams -= 1
            if not owner.streams:
                del self._owners[owner.name]
                self._large.pop(owner.name, None)
        while self._grave_bytes > self._max_bytes // PART:
            self._forget()

    def _forget(self) -> None:
        """Keep nothing of the oldest grave, but that there may have been one."""
        stream, floor = self._graves.popitem(last=False)
        self._count_grave(stream, -1)
        self.forgotten_through = max(self.forgotten_through, floor)

    # Bytes

    def _count(self, log: Log[T], more: int) -> None:
        self.bytes += more
        log.bytes += more
        owner = log.owner
        if owner is not None:
            owner.bytes += more
            if more > 0 and owner.bytes * PART > self._max_bytes:
                self._large[owner.name] = owner

    def _count_grave(self, stream: Stream, number: int) -> None:
        size = number * (GRAVE_BYTES + text_bytes(stream.name))
        self._grave_bytes += size
        self.bytes += size

    def _rank(self, log: Log[T], bound: int) -> None:
        self._ranks += 1
        log.rank, log.bound = self._ranks, bound
        place = (-bound, self._ranks, log)
        self._ranking.put(place)
        if log.owner is not None:
            log.owner.put(place)

    def _make_room(self) -> None:
        """Let go of one thing: of the owner that has too much, where there is one."""
        owner = self._largest_owner() if self._large else None
        log = self._fullest(self._ranking if owner is None else owner)
        if log is None:
            self._forget()
        elif log.entries:
            self._evict(log, "bytes")
        else:
            self._bury(log)

    def _largest_owner(self) -> Owner[T] | None:
        """The owner that has most, of those that have more than an eighth: at most seven."""
        for owner in tuple(self._large.values()):
            if owner.bytes * PART <= self._max_bytes:
                del self._large[owner.name]
        return max(self._large.values(), key=lambda owner: owner.bytes, default=None)

    def _fullest(self, ranking: Ranking[T]) -> Log[T] | None:
        """A tombstone, or the stream that takes most: within an eighth of that, and more than its share."""
        while (log := ranking.first()) is not None and log.entries and log.bytes < log.bound:
            is_near = log.bytes * PART >= log.bound * (PART - 1)
            if is_near and log.bytes * len(self._logs) >= self._max_bytes:
                break
            self._rank(log, log.bytes)
        return log
