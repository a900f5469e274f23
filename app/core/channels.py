"""The registry of subscriptions: channel -> subId -> connections, and its inverse, kept in step by one owner."""

from collections.abc import Collection, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

C = TypeVar("C", bound=Hashable)
V = TypeVar("V")


class Members(dict[C, V]):
    """Connections that belong together, in the order in which they came, each with what is known of it."""

    __slots__ = ("kept",)

    def __init__(self) -> None:
        super().__init__()
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


@dataclass(slots=True)
class _Channel(Generic[C]):
    subscriptions: dict[str, Members[C, None]] = field(default_factory=dict)
    memberships: Members[C, set[str]] = field(default_factory=Members)  # each once, however many subIds it has


class ChannelManager(Generic[C]):
    """Who wants what. Every operation costs what it touches, never what else is there."""

    def __init__(self) -> None:
        self._channels: dict[str, _Channel[C]] = {}
        self._channels_of: dict[C, dict[str, None]] = {}
        self._counts: Members[C, int] = Members()
        self._subscription_count = 0

    def subscribe(self, connection: C, channel: str, sub_id: str) -> None:
        """Add a membership; adding it again changes nothing."""
        entry = self._channels.get(channel)
        if entry is None:
            entry = self._channels[channel] = _Channel()
        subscribers = entry.subscriptions.get(sub_id)
        if subscribers is None:
            subscribers = entry.subscriptions[sub_id] = Members()
            self._subscription_count += 1
        if connection in subscribers:
            return
        subscribers.join(connection, None)
        if connection not in entry.memberships:
            entry.memberships.join(connection, set())
        entry.memberships[connection].add(sub_id)
        if connection not in self._counts:
            self._counts.join(connection, 0)
            self._channels_of[connection] = {}
        self._channels_of[connection][channel] = None
        self._counts[connection] += 1

    def unsubscribe(self, connection: C, channel: str | None = None, sub_id: str | None = None) -> Removed:
        """Take away one subscription, all of a channel, or all (the seed's three forms); nothing there is no error."""
        if channel is None:
            removed = [self._leave(connection, name, None) for name in tuple(self._channels_of.get(connection, ()))]
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
        leaving = tuple(joined) if sub_id is None else (sub_id,)
        emptied = 0
        for name in leaving:
            joined.discard(name)
            subscribers = entry.subscriptions[name]
            subscribers.leave(connection)
            if not subscribers:
                del entry.subscriptions[name]
                emptied += 1
        self._subscription_count -= emptied
        if not joined:
            entry.memberships.leave(connection)
            del self._channels_of[connection][channel]
        self._counts[connection] -= len(leaving)
        if not self._counts[connection]:
            self._counts.leave(connection)
            del self._channels_of[connection]
        if not entry.subscriptions:
            del self._channels[channel]
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
        return self._counts

    def subscriptions_of(self, channel: str) -> Iterator[tuple[str, int]]:
        """Each subId of a channel with the number of its connections."""
        entry = self._channels.get(channel)
        for sub_id, subscribers in entry.subscriptions.items() if entry else ():
            yield sub_id, len(subscribers)

    def subscription_count_of(self, connection: C) -> int:
        """How many subscriptions a connection has."""
        return self._counts.get(connection, 0)

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
