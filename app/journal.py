"""What came through the shared fan-out lately, and where each client is in it (contract, section 5).

The hub says what arrives, who joins and who comes back; the journal answers positions and what there is to replay. What
it may promise is worked out in `app.core.recovery`, which is pure; here is the state that it takes.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import nsmallest
from sys import maxsize
from typing import NamedTuple
from weakref import ref

from app.arrival import Arrival
from app.connection import Connection
from app.core.history import EVERYONE, History, Stream
from app.core.largest import Largest
from app.core.position import Mark, Position, PositionError
from app.core.recovery import Behind, Recovered, Replay, Unproven, heard_through, recover
from app.core.router import Audience, OneUser, Subscribers
from app.core.sizes import compact
from app.core.users import UserMap
from app.fanout import Delivery, Fanout
from app.metrics import Metrics
from app.replaying import Again, Join, Run

SECOND = 10**9
"""Nanoseconds."""
MAX_REPLAYING = 150_000
"""Messages that wait to be replayed, for all clients together; where there are more, whoever has most gives way."""
REPLAY_STALL_SECONDS = 5.0
"""Time in which a client has to take something of what is replayed to it; then its place is somebody else's."""
LONGEST_LOOK = 2.0
"""Seconds between two looks that count: no client is to blame while the whole process stands still."""
MAX_POSITIONS = 4
"""Positions of other subscriptions that are looked at when one of the same channel comes back."""
ITS_OWN = Position("", 0)
"""Stands for the position that a message bore when it was new. Only the message has it, so that it goes with it."""


@dataclass(frozen=True, slots=True)
class HistoryLimits:
    """What is kept: messages of each channel, for how long, bytes in all; and how late the carrier may deliver.

    Times are in seconds.
    """

    size: int
    ttl: float
    max_bytes: int
    delivery_skew: float


class Place(NamedTuple):
    """Where a message stands: its stream, what its carrier tells of it, and the position that it bears."""

    stream: Stream
    mark: Mark
    position: Position
    had: Collection[Connection] = ()
    """Who has had it elsewhere."""


class Resumed(NamedTuple):
    """The answer to a client that comes: the position of the reply, and what to replay behind it."""

    recovered: bool | None
    """None: it did not say where it was."""
    position: str
    run: Run | None = None
    """None: nothing can be replayed."""
    replay: Sequence[Again] = ()
    """With weak references: what waits for a slow client does not keep what the history has let go of."""


class _Progress(NamedTuple):
    """How far a replay was when it went on last: messages left, bytes that its client had yet to take, and when."""

    left: int
    waiting: int
    at: float


class Journal:
    """The history of one instance, and its clients' places in it. It belongs to the hub."""

    def __init__(
        self,
        fanout: Fanout,
        limits: HistoryLimits,
        users: UserMap[Connection],
        metrics: Metrics,
        end_replay: Callable[[Connection], None],
    ) -> None:
        """Begin with nothing. `end_replay` ends a connection whose replay has to give way to another's."""
        self._fanout = fanout
        self._end_replay = end_replay
        self._users = users
        self._metrics = metrics
        # What counts has no lateness: it hands out each message at once.
        self._skew = 0 if fanout.epoch else int(limits.delivery_skew * SECOND)
        self._history: History[Arrival] = History(
            size=limits.size, ttl=limits.ttl, max_bytes=limits.max_bytes, epoch=fanout.epoch
        )
        self._heard = 0
        self._arrivals = 0
        self._covered_from: int | None = None
        self._behind: dict[Connection, dict[str | None, Behind]] = {}
        """By channel, and None for the inbox: what a client has had and this instance has not."""
        self._joins: dict[Connection, dict[str, dict[str, Join]]] = {}
        """By channel and subId."""
        self._replaying: Largest[Connection] = Largest()
        """How many messages wait to be replayed."""
        self._progress: dict[Connection, _Progress] = {}
        """Of the same connections, when it was last looked at."""
        self._looked_at = 0.0
        self._awake = 0.0
        """The seconds between all looks, as far as they count."""
        self._counted = dict.fromkeys(self._history.evicted, 0)
        metrics.watch(metrics.history_bytes, lambda: self._history.bytes)
        metrics.watch(metrics.history_messages, lambda: self._history.messages)
        metrics.watch(metrics.history_streams, lambda: self._history.streams)
        metrics.watch(metrics.replaying, lambda: self._replaying.total)

    # What arrives

    def keep(self, arrival: Arrival, delivery: Delivery, audience: Audience, now: float) -> Place | None:
        """Note what arrived; None where its carrier tells nothing by which another instance would know it again."""
        mark = _mark_of(delivery)
        if mark is None:
            return None
        self._heard = max(self._heard, mark.time)
        stream = self._stream_of(audience)
        self._arrivals += 1
        arrival.number = self._arrivals
        # What goes to everyone is nobody's own, whoever was the first.
        owner = "" if stream is EVERYONE else arrival.sender
        position = arrival.position = self._history.add(stream, mark, arrival, arrival.size, now, owner)
        channel = arrival.address.channel
        if channel is not None and stream.kind != "channel":
            # Its receivers take its position for the channel's, in whose log it is not.
            position = self._history.position([Stream.channel(channel)], mark.time)
        return Place(stream, mark, self._clamped(position), self._had_by(stream, mark))

    @property
    def between(self) -> float:
        """The number of what is not kept, behind all that was until now."""
        return self._arrivals + 0.5

    def _had_by(self, stream: Stream, mark: Mark) -> Collection[Connection]:
        """Who has had this message elsewhere. Also who is not sent it: with it, others of its batch have their turn."""
        had = []
        channel = stream.name if stream.kind == "channel" else None
        for connection, channels in tuple(self._behind.items()):
            behind = channels.get(channel)
            if behind is None or (channel is None and stream not in self._own_streams(connection)):
                continue
            if not behind.passes(mark):
                had.append(connection)
            if not behind:
                self._caught_up(connection, channel)
        return had

    def lose(self, audience: Audience, now: float) -> None:
        """Note that something arrived which is not kept: who was not there has missed it."""
        self._history.lose(self._stream_of(audience), self._heard + 1, now)

    def _stream_of(self, audience: Audience) -> Stream:
        match audience:
            case Subscribers(channel, _) if channel is not None:
                return Stream.channel(channel)
            case OneUser(user_tag):
                return Stream.inbox(self._users.key_of(user_tag))
            case _:
                # Also what goes to all who are subscribed to anything: who that is, only the future of a client that
                # comes back can tell, and one message too many is better than one too few.
                return EVERYONE

    def is_the_same_for_all(self, place: Place) -> bool:
        """Whether a message bears the same position to all its receivers, and none of them has had it."""
        return not self._behind and not place.had and (place.stream.kind == "channel" or not self._users.names)

    def position_for(self, connection: Connection, place: Place, channel: str | None) -> Position | None:
        """The position that a message bears to this receiver; None if it has had the message elsewhere."""
        is_own = place.stream.kind != "channel"
        if connection in place.had:
            return None
        position = place.position
        if is_own and channel is None:
            position = self._history.widened(position, self._own_streams(connection), self._skew)
        behind = self._behind.get(connection, {}).get(channel)
        if behind is None:
            return position
        position = behind.position(position)
        if not behind:
            self._caught_up(connection, channel)
        return position

    # Who joins, who comes back

    def welcome(self, connection: Connection, text: str | None) -> Resumed:
        """Where a new connection is in its inbox and what goes to everyone; `text` is where it says that it was."""
        streams = self._own_streams(connection)
        resumed = None if text is None else self._recover(connection, streams, text)
        if resumed is None:
            return Resumed(None if text is None else False, self._now_at(streams).encode())
        return self._resume(connection, streams, resumed, resumed.replay)

    def join(self, connection: Connection, channel: str, sub_id: str, text: str | None) -> Resumed:
        """A connection subscribes, from now on or from where it says that it was. Once it is subscribed."""
        streams = [Stream.channel(channel)]
        resumed = None if text is None else self._recover(connection, streams, text)
        subscriptions = self._joins.setdefault(connection, {}).setdefault(channel, {})
        is_again = sub_id in subscriptions
        others = () if is_again or resumed is None else tuple(subscriptions.values())
        join = subscriptions.setdefault(sub_id, Join(self._arrivals))
        later = connection.later
        if resumed is None:
            # Behind what is still to come of the channel there is nothing yet to go on from.
            position = (None if later is None else later.frontier(channel)) or self._now_at(streams)
            behind = self._behind.get(connection, {}).get(channel)
            position = position if behind is None else behind.position(position)
            return Resumed(None if text is None else False, position.encode())
        join.resumes(resumed.position)
        replay = [each for each in resumed.replay if each.message.address.sub_id in (None, sub_id)]
        waiting = set() if later is None else later.numbers(channel)
        if is_again:
            # Its client begins again there, whatever it was sent before; but the others' messages come once.
            if later is not None and later.brings(channel, sub_id, resumed.position):
                replay = [
                    each for each in replay if each.message.address.sub_id is not None or each.message.number in waiting
                ]
        elif others:
            replay = self._without_what_it_had(replay, others, streams, resumed.position, waiting)
        return self._resume(connection, streams, resumed, replay, join, channel, sub_id)

    def joins_of(self, connection: Connection, channel: str) -> Mapping[str, Join]:
        """Return a connection's subscriptions of a channel, by subId."""
        return self._joins.get(connection, {}).get(channel, {})

    def leave(self, connection: Connection, channel: str | None = None, sub_id: str | None = None) -> None:
        """A connection unsubscribes: from one, from a channel, from all."""
        channels = self._joins.get(connection, {})
        for name in [channel] if channel is not None else tuple(channels):
            subscriptions = channels.get(name, {})
            for left in [sub_id] if sub_id is not None else tuple(subscriptions):
                if (join := subscriptions.pop(left, None)) is not None:
                    join.left = True
            self._dropped(connection, connection.leave(name))
            if subscriptions:
                compact(subscriptions)
            else:
                channels.pop(name, None)
                self._caught_up(connection, name)
        if channels:
            compact(channels)
        else:
            self._joins.pop(connection, None)

    def forget(self, connection: Connection) -> None:
        """A connection is gone."""
        self._joins.pop(connection, None)
        self._behind.pop(connection, None)
        self.drop_replay(connection)

    def replayed(self, connection: Connection, count: int) -> None:
        """Note that so many messages wait no longer to be replayed to a connection."""
        left = self._replaying.of(connection)
        self._replaying.add(connection, -min(count, left))
        if count >= left:
            self._progress.pop(connection, None)

    def _dropped(self, connection: Connection, count: int) -> None:
        """Note that so many messages are not wanted any more: that is not to take them."""
        if count:
            self._replaying.add(connection, -count)
            last = self._progress[connection]
            self._progress[connection] = last._replace(left=max(0, last.left - count))

    def drop_replay(self, connection: Connection) -> None:
        """Forget what waits to be replayed to a connection: it will not be."""
        self.replayed(connection, self._replaying.of(connection))

    def stalled(self, now: float) -> list[Connection]:
        """Return the connections that have taken nothing of their replay for too long. `now` is in seconds."""
        found = []
        self._awake += min(now - self._looked_at, LONGEST_LOOK)
        self._looked_at = now
        for connection, last in tuple(self._progress.items()):
            left, waiting = self._replaying.of(connection), connection.outlet.unacknowledged()
            if left < last.left or waiting < last.waiting:  # to ask for more is not to take
                self._progress[connection] = _Progress(left, waiting, self._awake)
            elif not left and not waiting:
                del self._progress[connection]
            elif left and self._awake - last.at >= REPLAY_STALL_SECONDS:
                found.append(connection)
            else:
                self._progress[connection] = _Progress(left, waiting, last.at)
        return found

    def _resume(
        self,
        connection: Connection,
        streams: Sequence[Stream],
        recovered: Recovered[Arrival],
        replay: list[Replay[Arrival]],
        join: Join | None = None,
        channel: str | None = None,
        sub_id: str | None = None,
    ) -> Resumed:
        self._caught_up(connection, channel)
        if recovered.behind:
            self._behind.setdefault(connection, {})[channel] = recovered.behind
        now_at = self._now_at(streams)
        end = None
        if replay and replay[-1] is not recovered.replay[-1]:
            # What came behind it was not for this subscription: with it, the client has all there is for it.
            end = recovered.behind.position(now_at.not_before(recovered.position.time))
        run = Run((channel,), recovered.position, () if join is None else (join,), sub_id, end)
        again = [
            Again(
                each.message.number,
                ref(each.message),
                ITS_OWN if each.own else each.position,
                run,
                own=each.own,
                sub_id=each.message.address.sub_id,
            )
            for each in replay
        ]
        position = replace(recovered, replay=replay).acknowledged(now_at)
        if channel is not None and connection.later is not None and connection.later.is_replaying(channel):
            position = recovered.position
        return Resumed(True, position.encode(), run, again)

    def waits(self, connection: Connection, count: int) -> None:
        """Note that so many more messages wait to be replayed to a connection."""
        if count:
            self._replaying.add(connection, count)
            # The first look sees that it has gone on, and when that was.
            self._progress.setdefault(connection, _Progress(maxsize, 0, 0.0))

    def _without_what_it_had(
        self,
        replay: Sequence[Replay[Arrival]],
        joins: Collection[Join],
        streams: Sequence[Stream],
        position: Position,
        waiting: Collection[float],
    ) -> list[Replay[Arrival]]:
        """Leave out what other subscriptions of the connection to the same channel have brought it.

        That can only be what names no subId. Of the positions from which they were given messages the earliest tell it
        all, unless their client mixes what it has from several instances: a message may then come again.
        """
        live_since = min(join.number for join in joins)
        positions = {join.resumed_from for join in joins if join.resumed_from is not None}
        had: set[int] = set()
        for since in nsmallest(MAX_POSITIONS, positions, key=lambda each: each.time):
            numbers = self._numbers_since(streams, since, position)
            if numbers is None:
                had.update(each.message.number for each in replay)
                break
            had |= numbers

        def is_new(arrival: Arrival) -> bool:
            return arrival.address.sub_id is not None or (arrival.number <= live_since and arrival.number not in had)

        # What waits for another is this one's too: that one may be left before it has come.
        return [each for each in replay if each.message.number in waiting or is_new(each.message)]

    def _numbers_since(self, streams: Sequence[Stream], resumed_from: Position, position: Position) -> set[int] | None:
        """The messages that a subscription was given when it began; None: all that `position` asks for."""
        if resumed_from == position:
            return None
        recovered = self._judge(streams, resumed_from)
        if isinstance(recovered, Recovered):
            return {each.message.number for each in recovered.replay}
        return None if resumed_from.time <= position.time else set()

    # Positions

    def _own_streams(self, connection: Connection) -> Sequence[Stream]:
        if connection.user is None:
            return (EVERYONE,)
        return (EVERYONE, *(Stream.inbox(key) for key in connection.user.keys))

    def _now_at(self, streams: Iterable[Stream]) -> Position:
        heard = heard_through(self._heard, self._fanout.covers_from, self._skew)
        return self._clamped(self._history.position(streams, heard))

    def _clamped(self, position: Position) -> Position:
        """No position names a time up to which not all was heard."""
        limit = self._fanout.heard_through
        return position if limit is None else position.not_after(limit)

    def borne(self, again: Again, arrival: Arrival, *, is_last: bool) -> str | None:
        """The position that a replayed message, `arrival`, bears now. `is_last`: nothing waits behind it in its lane.

        None where its client would take it for a channel's: what names a channel and comes out of an inbox. Where the
        client is in that channel only the client knows, and nobody may go on there from where the inbox is.
        """
        run = again.run
        if not run.joins and arrival.address.channel is not None:
            return None
        position = arrival.position if again.own and arrival.position is not None else again.position
        if is_last and run.end is not None:
            position = run.end
        again.position = self._clamped(position).not_before(run.position.time)
        return again.position.encode()

    def _recover(self, connection: Connection, streams: Sequence[Stream], text: str) -> Recovered[Arrival] | None:
        try:
            result = self._judge(streams, Position.decode(text))
        except PositionError:
            self._metrics.recoveries.labels("malformed").inc()
            return None
        if isinstance(result, Unproven):
            self._metrics.recoveries.labels(result.reason.value).inc()
            return None
        if not self._has_room_for(connection, len(result.replay)):
            self._metrics.recoveries.labels("busy").inc()
            return None
        self._metrics.recoveries.labels("recovered").inc()
        return result

    def _has_room_for(self, connection: Connection, count: int) -> bool:
        """Return whether so many more may wait for a connection; those that have more make room for it."""
        while self._replaying.total + count > MAX_REPLAYING:
            largest = self._replaying.top()
            if largest is None or self._replaying.of(largest) <= self._replaying.of(connection) + count:
                return False
            self.drop_replay(largest)
            self._end_replay(largest)
        return True

    def _judge(self, streams: Sequence[Stream], position: Position) -> Recovered[Arrival] | Unproven:
        return recover(
            self._history.logs(streams),
            position,
            epoch=self._fanout.epoch,
            covers_from=self._fanout.covers_from,
            begins_there=self._fanout.begins_there,
            skew=self._skew,
        )

    def _caught_up(self, connection: Connection, channel: str | None) -> None:
        channels = self._behind.get(connection)
        if channels is not None:
            channels.pop(channel, None)
            if not channels:
                del self._behind[connection]

    # Time

    def found_gap(self) -> bool:
        """Whether something was lost since this was asked last, so that clients may have missed it."""
        covers_from = self._fanout.covers_from
        if covers_from is None or covers_from == self._covered_from:
            return False
        before, self._covered_from = self._covered_from, covers_from
        return before is not None

    def expire(self, now: float) -> None:
        """Let go of what is too old, and count what went."""
        self._history.expire(now)
        for reason, count in self._history.evicted.items():
            self._metrics.history_evicted.labels(reason).inc(count - self._counted[reason])
            self._counted[reason] = count


def _mark_of(delivery: Delivery) -> Mark | None:
    if delivery.sequence is not None:
        return Mark(delivery.sequence, str(delivery.sequence), delivery.ordering_key)
    if delivery.id is None or delivery.publish_time_ns is None:
        return None
    return Mark(delivery.publish_time_ns, delivery.id, delivery.ordering_key)
