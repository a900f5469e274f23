"""The registry of subscriptions: channel -> subId -> connections, and its inverse, kept in step by one owner.

It also counts the memory that they take, and lets no connection have so much that others could have none.
"""

import sys
from collections.abc import Collection, Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from app.core.position import MAX_KEYS
from app.core.sizes import compact, text_bytes
from app.protocol.errors import ErrorCode, MessageError

C = TypeVar("C", bound=Hashable)
V = TypeVar("V")

# Bytes that each takes beside its name: here, and in app.journal, which keeps a `Join` for each membership. Measured on
# 64-bit CPython 3.11 with tracemalloc; test_channels.py holds them to it.
CHANNEL_BYTES = 500
SUBSCRIPTION_BYTES = 280
"""A subId of a channel."""
PLACE_BYTES = 460
"""A connection in a channel, however many subIds it has there."""
MEMBERSHIP_BYTES = 240
"""A connection in a subId."""
CONNECTION_BYTES = 500
"""A connection that has a subscription."""
POSITION_BYTES = 300
"""The position from which a subscription was resumed."""
KEY_BYTES = 270
"""An ordering key of such a position, there and in `Behind`."""
FEW = 8
"""Subscriptions that a connection may have as long as there is room at all, however many greedy ones there are."""
SHARE = 8
"""A connection may have at most an eighth of what is free."""


class Members(dict[C, V]):
    """Connections that belong together, in the order in which they came, each with what is known of it."""

    __slots__ = ("kept",)

    def __init__(self) -> None:
        # Not dict's own __init__, which does nothing here: without it and the like a new channel takes 2.2 us, not 2.9.
        self.kept: object | None = None
        """A cache for who sends to them (see app.outgoing). None as soon as one has come or gone."""

    def join(self, connection: C, value: V) -> None:
        """Add one."""
        self[connection] = value
        self.kept = None

    def leave(self, connection: C) -> None:
        """Take one away."""
        del self[connection]
        self.kept = None


@dataclass(frozen=True, slots=True)
class Removed:
    """What an unsubscribe took away: memberships (connection, subId), and what was left empty by it."""

    connections: int = 0
    subscriptions: int = 0
    channels: int = 0


class _Subscribers(Members[C, None]):
    """Connections of a subId. `size` is for the subId and its name, without them."""

    __slots__ = ("name", "size")

    def __init__(self, name: str, size: int) -> None:
        self.kept = None
        self.name = name
        self.size = size


@dataclass(slots=True)
class _Channel(Generic[C]):
    name: str
    size: int
    """Bytes of the channel and its name, without what is in it."""
    subscriptions: dict[str, _Subscribers[C]]
    memberships: Members[C, dict[str, int]]
    """Each connection once, with its subIds, each with the bytes of the position from which it was resumed."""


@dataclass(slots=True)
class _Own:
    """Subscriptions of one connection."""

    channels: dict[str, None]
    count: int = 0
    size: int = 0
    """Their bytes, counted as `ChannelManager` says."""


class ChannelManager(Generic[C]):
    """Keeps the connections of each channel and subId. Every operation costs what it touches, never what else is there.

    All of it takes `bytes`, at most `max_bytes`. Each channel and each subId count there once, from their first member
    to their last, and belong to no connection. A connection's own sum (`bytes_of`) counts each of its channels and
    subIds in full, as if it were alone there. So no other connection can change that sum: it cannot drift, and nobody
    is charged for another. The first member of a channel pays what those pay who come later.
    """

    # A connection may have an eighth of what is free, times the part that is free: own <= free / 8 * free / M. With one
    # fixed limit, the few who fill it would lock everybody else out. Such a dynamic threshold is how switches share
    # their buffers (Choudhury and Hahne, 1998); but a buffer drains, and subscriptions stay. Of free / 8 alone each
    # greedy connection takes a ninth of what the ones before it left, and 80 of them leave 5 kB. With the second factor
    # n of them leave about 8 M / (8 + n). Of M = 64 MiB, one alone may have 6.8 MB, a thousand subscriptions with names
    # of 255 wide characters. A newcomer may have 47 kB beside 100 greedy ones, which is 30 subscriptions with short
    # names, and 5.7 kB beside 300, which is three.

    def __init__(self, max_bytes: int = sys.maxsize) -> None:
        self.bytes = 0
        """Memory that all subscriptions take."""
        self._max_bytes = max_bytes
        self._channels: dict[str, _Channel[C]] = {}
        self._owners: Members[C, _Own] = Members()
        self._subscription_count = 0

    def subscribe(self, connection: C, channel: str, sub_id: str, position: str | None = None) -> tuple[str, str]:
        """Add a membership; adding it again changes nothing. Raises MessageError where it would take too much.

        `position` is where it is resumed from. Return the channel and the subId as the registry keeps them, for callers
        that keep them too and need no second copy.
        """
        entry = self._channels.get(channel)
        subscribers = None if entry is None else entry.subscriptions.get(sub_id)
        resumed = 0 if position is None else _position_bytes(position)
        if entry is not None and subscribers is not None and connection in subscribers:
            self._resume(entry, connection, sub_id, resumed)
            return entry.name, subscribers.name
        if entry is None:
            entry = _Channel(channel, CHANNEL_BYTES + text_bytes(channel), {}, Members())
        if subscribers is None:
            subscribers = _Subscribers(sub_id, SUBSCRIPTION_BYTES + text_bytes(sub_id))
        own = self._owners.get(connection) or _Own({})
        joined = entry.memberships.get(connection)
        new = MEMBERSHIP_BYTES + resumed
        if joined is None:
            new += PLACE_BYTES
        if not own.count:
            new += CONNECTION_BYTES
        shared = subscribers.size + (entry.size if joined is None else 0)
        self._check(own.size + new + shared, new + shared, own.count)
        own.size += new + shared
        self.bytes += new
        if not entry.subscriptions:
            self._channels[channel] = entry
            self.bytes += entry.size
        if not subscribers:
            entry.subscriptions[sub_id] = subscribers
            self._subscription_count += 1
            self.bytes += subscribers.size
        if joined is None:
            joined = {}
            entry.memberships.join(connection, joined)
            own.channels[entry.name] = None
        if not own.count:
            self._owners.join(connection, own)
        subscribers.join(connection, None)
        joined[subscribers.name] = resumed
        own.count += 1
        return entry.name, subscribers.name

    def _resume(self, entry: _Channel[C], connection: C, sub_id: str, resumed: int) -> None:
        """Count the position from which a subscription is resumed once more, if it is the largest until now."""
        joined = entry.memberships[connection]
        more = resumed - joined[sub_id]
        if more > 0:
            own = self._owners[connection]
            self._check(own.size + more, more, own.count - 1)
            own.size += more
            self.bytes += more
            joined[sub_id] = resumed

    def _check(self, size: int, more: int, count: int) -> None:
        """Raise MessageError if a connection with so many bytes had more than its share of what is free.

        `more` of these bytes are new, and `count` subscriptions it has already.
        """
        free = self._max_bytes - self.bytes
        if count < FEW and more <= free:
            return
        if size * SHARE * self._max_bytes > free * free:
            raise MessageError(
                ErrorCode.TOO_MANY_SUBSCRIPTIONS,
                "the subscriptions of all connections take too much; this connection may have no more now",
            )

    def unsubscribe(self, connection: C, channel: str | None = None, sub_id: str | None = None) -> Removed:
        """Take away one subscription, all of a channel, or all (the seed's three forms); nothing there is no error."""
        if channel is None:
            own = self._owners.get(connection)
            removed = [self._leave(connection, name, None) for name in (tuple(own.channels) if own is not None else ())]
        else:
            removed = [self._leave(connection, channel, sub_id)]
        return Removed(
            sum(part.connections for part in removed),
            sum(part.subscriptions for part in removed),
            sum(part.channels for part in removed),
        )

    def _leave(self, connection: C, channel: str, sub_id: str | None) -> Removed:
        entry = self._channels.get(channel)
        joined = entry.memberships.get(connection) if entry else None
        if entry is None or joined is None or (sub_id is not None and sub_id not in joined):
            return Removed()
        own = self._owners[connection]
        leaving = tuple(joined) if sub_id is None else (sub_id,)
        emptied = 0
        for name in leaving:
            size = MEMBERSHIP_BYTES + joined.pop(name)
            subscribers = entry.subscriptions[name]
            subscribers.leave(connection)
            own.size -= size + subscribers.size
            if subscribers:
                compact(subscribers)
            else:
                del entry.subscriptions[name]
                emptied += 1
                size += subscribers.size
            self.bytes -= size
        own.count -= len(leaving)
        self._subscription_count -= emptied
        if joined:
            compact(joined)
        else:
            entry.memberships.leave(connection)
            del own.channels[channel]
            own.size -= PLACE_BYTES + entry.size
            self.bytes -= PLACE_BYTES
        if own.count:
            compact(own.channels)
        else:
            self._owners.leave(connection)
            self.bytes -= CONNECTION_BYTES
        if entry.subscriptions:
            compact(entry.subscriptions)
            compact(entry.memberships)
        else:
            del self._channels[channel]
            self.bytes -= entry.size
        return Removed(len(leaving), emptied, int(not entry.subscriptions))

    def connections_of(self, channel: str, sub_id: str | None = None) -> Collection[C]:
        """The connections of a subscription or of a whole channel, each once. Valid until the next change.

        What is there is one of `Members`, and the same one for as long as it is not empty.
        """
        entry = self._channels.get(channel)
        if entry is None:
            return ()
        return entry.memberships if sub_id is None else entry.subscriptions.get(sub_id, ())

    def subscribed_connections(self) -> Collection[C]:
        """All connections that have at least one subscription; the same `Members` at any time."""
        return self._owners

    def subscriptions_of(self, channel: str) -> Iterator[tuple[str, int]]:
        """Each subId of a channel with the number of its connections."""
        entry = self._channels.get(channel)
        for sub_id, subscribers in entry.subscriptions.items() if entry else ():
            yield sub_id, len(subscribers)

    def subscription_count_of(self, connection: C) -> int:
        """How many subscriptions a connection has."""
        own = self._owners.get(connection)
        return 0 if own is None else own.count

    def channels_of(self, connection: C) -> Collection[str]:
        """The channels in which a connection has a subscription. Valid until the next change."""
        own = self._owners.get(connection)
        return () if own is None else own.channels.keys()

    def sub_ids_of(self, connection: C, channel: str) -> Collection[str]:
        """The subIds that a connection has in a channel. Valid until the next change."""
        entry = self._channels.get(channel)
        return () if entry is None else entry.memberships.get(connection, {}).keys()

    def bytes_of(self, connection: C) -> int:
        """Return the bytes of a connection's subscriptions, each counted as if it were alone in its channel."""
        own = self._owners.get(connection)
        return 0 if own is None else own.size

    def has(self, connection: C, channel: str, sub_id: str) -> bool:
        """Whether a connection has this subscription."""
        entry = self._channels.get(channel)
        return entry is not None and connection in entry.subscriptions.get(sub_id, ())

    @property
    def channels(self) -> Collection[str]:
        """The channels with a subscription: exactly these have what the seed calls an event listener."""
        return self._channels.keys()

    @property
    def subscription_count(self) -> int:
        """How many (channel, subId) pairs have a connection."""
        return self._subscription_count


def _position_bytes(position: str) -> int:
    """Return what keeping a position takes at most, from its text: `1.<epoch>.<time>` and `.<key>` for each key."""
    return POSITION_BYTES + min(MAX_KEYS, max(0, position.count(".") - 2)) * KEY_BYTES
