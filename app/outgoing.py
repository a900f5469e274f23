"""What leaves for all connections together: a turn's frames, one write for each connection, one call for many."""

import asyncio
import logging
import socket
from collections.abc import Collection, Iterable, Iterator, Sized
from itertools import compress
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from app.core.channels import Members
from app.protocol.frame import Frame, wire_form
from app.sending import Data, OpenSockets, SendToEach, one_by_one

if TYPE_CHECKING:
    from app.connection import Connection

logger = logging.getLogger(__name__)

LOOK_AGAIN = 0.1
"""Seconds between two looks at how much waits for clients that are behind."""
CROWD = 32
"""So many members are sent to as a crowd; for fewer it does not pay."""
MOST_APART = 0.25
"""The part of a crowd that may be apart; where it is more, each is looked at."""
CROWD_BYTES = 64 * 1024
"""Bytes that are noted for a crowd in one turn; what is more is noted for each of it."""
WRITTEN_TOGETHER = 256 * 1024
"""Bytes from which on what a turn has for connections that are no crowd is sent before more of it is written."""
FEW_APART = 16
"""Up to so many are left out by their place; to look at each of a crowd takes longer."""

Pending: TypeAlias = Frame | list[Frame] | None
"""What was sent to a connection in this turn; a list only where it is more than one, which is seldom."""


class Outgoing:
    """What leaves for all connections together.

    Frames for one connection that fall into one turn of the event loop leave in one write, at the turn's end. What is
    sent to a crowd is noted once for all of them, see `_Crowd`: to look at each connection, and to note it there, would
    take as long as all else of ours. Over `limit`, in bytes that wait for clients to take them, those of connections
    that are ending go first, then the slowest.
    """

    def __init__(self, limit: int, send_to_each: SendToEach = one_by_one, crowd_bytes: int = CROWD_BYTES) -> None:
        self._limit = limit
        self._send_to_each = send_to_each
        self._crowd_bytes = crowd_bytes
        """No more than may wait for one connection, since it is not counted there."""
        self._this_turn: dict[Connection, None] = {}
        """Who has something pending."""
        self._noted: _Noted | None = None
        self._no_crowd: Members[Connection, Any] | None = None
        """Who was found to be none in this turn."""
        self._is_turn = False
        """Whether the end of this turn is awaited."""
        self._apart: set[Connection] = set()
        """Who is not open yet, is closing, or has an outlet without a socket; who is gone is not here."""
        self._behind: dict[Connection, int] = {}
        """Who has not taken all that was written, and how many bytes wait for each."""
        self._awaiting_room: dict[Connection, None] = {}
        """Connections that are sent more again once their clients have taken some of what is on its way."""
        self._look_again: asyncio.TimerHandle | None = None
        self.bytes = 0

    # A turn

    def send(self, frame: Frame, connections: Collection["Connection"], left_out: "Connection | None" = None) -> int:
        """Send a frame to all of these but one; answers how many get it."""
        if isinstance(connections, Members) and len(connections) >= CROWD:
            sent = self._send_to_crowd(frame, connections, left_out)
            if sent is not None:
                return sent
        return self._note_for_each(frame, connections, left_out)

    def _note_for_each(
        self, frame: Frame, connections: Collection["Connection"], left_out: "Connection | None" = None
    ) -> int:
        # A call saved here is saved for each delivery: nearly always this is the turn's only frame.
        if connections:
            self._await_end_of_turn()
        noted = self._noted
        turn = self._this_turn
        size = frame.size
        sent = 0
        for connection in connections:
            if connection is left_out:
                continue
            if noted is not None:
                self.take_out(connection)
            if connection.pending is None and connection.later is None and connection.close_code is None:
                connection.pending = frame
                connection.buffered += size
                turn[connection] = None
                sent += 1
            elif connection.send(frame):
                sent += 1
        return sent

    def _send_to_crowd(
        self, frame: Frame, members: "Members[Connection, Any]", left_out: "Connection | None"
    ) -> int | None:
        """The same for many at once; None where that does not go now."""
        noted = self._noted
        if noted is None:
            noted = None if members is self._no_crowd else self._note_for(members)
            if noted is None:
                self._no_crowd = members
                return None
            self._noted = noted
            self._await_end_of_turn()
        elif noted.crowd is not members.kept or noted.size + frame.size > self._crowd_bytes:
            return None
        if left_out is not None:
            if noted.frames:
                self.take_out(left_out)
            elif left_out in members:
                noted.apart.add(left_out)
        noted.frames.append(frame)
        noted.size += frame.size
        apart = [connection for connection in noted.apart if connection is not left_out]
        together = len(members) - len(noted.apart)
        return together + self._note_for_each(frame, apart)

    def _note_for(self, members: "Members[Connection, Any]") -> "_Noted | None":
        keys = members.keys()
        missing = self._apart & keys if self._apart else set()
        known = (self._behind, self._this_turn, self._awaiting_room)
        apart = missing.union(*(others.keys() & keys for others in known if others))
        if len(apart) > MOST_APART * len(members):
            return None
        crowd = members.kept
        if not isinstance(crowd, _Crowd) or not crowd.missing <= missing:
            crowd = _Crowd(members, missing)
            if not crowd.is_alive:
                return None
            members.kept = crowd
        return _Noted(crowd, members, apart)

    def take_out(self, connection: "Connection") -> None:
        """What was noted for this one with others is its own from now on."""
        noted = self._noted
        if noted is not None and noted.is_for(connection):
            noted.hand_over(connection, self._this_turn)

    def at_the_end_of_this_turn(self, connection: "Connection") -> None:
        """Have a connection flush what it has."""
        self.take_out(connection)
        self._this_turn[connection] = None
        self._await_end_of_turn()

    def _await_end_of_turn(self) -> None:
        if not self._is_turn:
            self._is_turn = True
            asyncio.get_running_loop().call_soon(self._flush)

    def set_apart(self, connection: "Connection") -> None:
        """From now on nothing goes to this one with others."""
        self.take_out(connection)
        self._apart.add(connection)

    def readmit(self, connection: "Connection") -> None:
        """It is open: what is sent to others may go to it with them, if that can be."""
        if connection.outlet.sock is not None and connection.close_code is None:
            self._apart.discard(connection)

    def forget(self, connection: "Connection") -> None:
        """It has ended, and is about to leave all to which it belongs."""
        self._apart.discard(connection)
        self._awaiting_room.pop(connection, None)

    def _flush(self) -> None:
        turn, self._this_turn = self._this_turn, {}
        noted, self._noted = self._noted, None
        self._is_turn, self._no_crowd = False, None
        try:
            if noted is not None:
                self._flush_crowd(noted, turn)
            self._flush_each(turn)
        except Exception:  # such as for want of memory; none of these may go on with a hole in what it got
            logger.exception("what was sent in this turn could not be written")
            for connection in (*turn, *(noted.crowd if noted is not None else ())):
                connection.cut()

    def _flush_each(self, turn: "dict[Connection, None]") -> None:
        behind = self._behind
        same: Pending = None
        plain: bytes | None = None
        deflated: bytes | None = None
        together = _Together()
        for connection in turn:
            outlet = connection.outlet
            pending = connection.pending
            sock = outlet.sock
            if (
                pending is None
                or sock is None
                or outlet.backlog
                or connection.later is not None
                or (behind and connection in behind)  # what is known of it is to be brought up to date
            ):
                self._flush_one(connection)
                continue
            if pending is not same and pending != same:
                same, plain, deflated = pending, None, None
            data = deflated if outlet.deflates else plain
            if data is None:
                data = _written(pending, (connection,), deflates=outlet.deflates)
                if data is None:
                    continue
                plain, deflated = (plain, data) if outlet.deflates else (data, deflated)
                together.size += len(data)
            connection.pending = None
            connection.buffered = 0
            together.connections.append(connection)
            together.sockets.append(sock)
            together.data.append(data)
            if together.size > WRITTEN_TOGETHER:
                self._send(together.connections, together.sockets, together.what())
                together = _Together()
        if together.connections:
            self._send(together.connections, together.sockets, together.what())

    def _flush_crowd(self, noted: "_Noted", turn: "dict[Connection, None]") -> None:
        crowd = noted.crowd
        pending = noted.pending()
        for kind in crowd.kinds:
            if any(kind.backlogs):  # such as a pong that went not at once
                for connection in kind.connections:
                    if connection.outlet.backlog and connection not in noted.apart:
                        noted.hand_over(connection, turn)
            connections, sockets = kind.without(noted.apart)
            data = _written(pending, connections, deflates=kind.deflates) if connections else None
            if data is not None:
                self._send(connections, sockets, data)

    def _send(self, connections: "list[Connection]", sockets: list[socket.socket], data: Data) -> None:
        """Send to all of these, for whom nothing waits."""
        try:
            counts = self._send_to_each(sockets, data)
            if isinstance(data, bytes):
                if counts.count(len(data)) == len(counts):
                    return
                data = [data] * len(counts)
            for connection, count, its in zip(connections, counts, data, strict=True):
                if count != len(its):
                    self._flush_one(connection, its, count)
        except Exception as error:
            _cut(connections, error)

    def _flush_one(self, connection: "Connection", data: bytes = b"", taken: int = 0) -> None:
        try:
            if data:
                connection.has_waiting(connection.outlet.rest(data, taken))
            else:
                connection.flush()
        except Exception:  # the others of this turn shall not suffer for it
            logger.exception("a connection could not be written to")
            connection.cut()

    # What waits

    def waits(self, connection: "Connection", before: int, size: int) -> None:
        """Count what a connection has yet to take, and end the slowest while that is too much for all together."""
        self.bytes += size - before
        if size:
            self._behind[connection] = size
        else:
            self._behind.pop(connection, None)
        while self.bytes > self._limit and self._behind:
            self._cut_slowest()
        if self._behind:
            self._await_look()

    def await_room(self, connection: "Connection") -> None:
        """Have a connection flush what it has once its client has taken some of what is on its way."""
        self._awaiting_room[connection] = None
        self._await_look()

    def _await_look(self) -> None:
        if self._look_again is None:
            self._look_again = asyncio.get_running_loop().call_later(LOOK_AGAIN, self._look)

    def _cut_slowest(self) -> None:
        # Those that are ending anyway first. What waits for them counts until it is gone, so a close frame behind it,
        # and seconds in which to take it, would not help the others.
        ending = {connection: size for connection, size in self._behind.items() if connection.close_code is not None}
        among = ending or self._behind
        slowest = max(among, key=among.__getitem__)
        slowest.overflow()
        slowest.cut()

    def _look(self) -> None:
        self._look_again = None
        awaiting, self._awaiting_room = self._awaiting_room, {}
        for connection in awaiting | self._behind:
            try:
                connection.measure()
            except Exception:  # as in a turn
                logger.exception("a connection could not be written to")
                connection.cut()


def _written(pending: Frame | list[Frame], connections: "Collection[Connection]", *, deflates: bool) -> bytes | None:
    """What is sent to these; None where it cannot be written."""
    try:
        return wire_form(pending, deflates=deflates)
    except Exception as error:  # such as for want of memory; the others of this turn shall not suffer for it
        _cut(connections, error)
        return None


def _cut(connections: "Collection[Connection]", error: Exception) -> None:
    """None of these may go on with a hole in what it got."""
    logger.error("%d connections could not be written to", len(connections), exc_info=error)
    for connection in connections:
        connection.cut()


class _Together:
    """Connections that are written to by one call, and what each gets. The lists are in step."""

    __slots__ = ("connections", "data", "size", "sockets")

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self.sockets: list[socket.socket] = []
        self.data: list[bytes] = []
        self.size = 0
        """Of what was written for them, in bytes."""

    def what(self) -> Data:
        """What they get; as nearly always, all the same."""
        first = self.data[0]
        return first if self.data.count(first) == len(self.data) else self.data


class _Crowd:
    """Many connections as they are written to, worked out once and good for as long as the same belong together.

    What may come between a crowd and one of its connections is known to `Outgoing` at once; all but one thing: what
    waits in a transport's buffer, which others write to as well, is looked at before each write. It takes about 28
    bytes for each, and 100 more once somebody was left out.
    """

    __slots__ = ("is_alive", "kinds", "missing")

    def __init__(self, members: "Iterable[Connection]", apart: "set[Connection]") -> None:
        self.missing = frozenset(apart)
        """Members that were apart then, and are in none of the kinds."""
        together = [connection for connection in members if connection not in apart]
        self.is_alive = all(each.close_code is None and each.outlet.sock is not None for each in together)
        """False where there is one that has ended, and should have left."""
        kinds = ([each for each in together if each.outlet.deflates is deflates] for deflates in (False, True))
        self.kinds = tuple(_Kind(connections) for connections in kinds if connections)

    def __contains__(self, connection: "Connection") -> bool:
        return any(connection in kind.places for kind in self.kinds)

    def __iter__(self) -> "Iterator[Connection]":
        return (connection for kind in self.kinds for connection in kind.connections)


class _Kind:
    """Those of a crowd that take the same form of a frame. The lists are in step."""

    __slots__ = ("_places", "backlogs", "connections", "deflates", "sockets")

    def __init__(self, connections: "list[Connection]") -> None:
        outlets = [connection.outlet for connection in connections]
        self.connections = connections
        self.deflates = outlets[0].deflates
        self.sockets = OpenSockets(cast("Any", outlet.sock) for outlet in outlets)
        self.backlogs: list[Sized] = [outlet.backlog for outlet in outlets]
        self._places: dict[Connection, int] | None = None

    @property
    def places(self) -> "dict[Connection, int]":
        """Where each is; made when it is first asked for."""
        if self._places is None:
            self._places = {connection: place for place, connection in enumerate(self.connections)}
        return self._places

    def without(self, some: "set[Connection]") -> "tuple[list[Connection], list[socket.socket]]":
        """The connections and their sockets, but for these."""
        if not some:
            return self.connections, self.sockets
        if len(some) > FEW_APART:
            kept = [connection not in some for connection in self.connections]
            return list(compress(self.connections, kept)), list(compress(self.sockets, kept))
        places = sorted((self.places[each] for each in some if each in self.places), reverse=True)
        connections = self.connections.copy()
        for place in places:
            del connections[place]
        return connections, self.sockets.without(places)


class _Noted:
    """What was sent to a crowd in this turn."""

    __slots__ = ("_members", "apart", "crowd", "frames", "size")

    def __init__(self, crowd: _Crowd, members: "Members[Connection, Any]", apart: "set[Connection]") -> None:
        self.crowd = crowd
        self._members = members
        self.apart = apart
        """Members to whom this does not go with the others: it is noted for each of them, or they are left out."""
        self.frames: list[Frame] = []
        self.size = 0

    def is_for(self, connection: "Connection") -> bool:
        """Whether this one is to get it with the others."""
        is_same = self._members.kept is self.crowd  # as nearly always, which saves making its places
        return connection not in self.apart and connection in (self._members if is_same else self.crowd)

    def hand_over(self, connection: "Connection", turn: "dict[Connection, None]") -> None:
        """Note it for this one alone, who has something pending in this turn from now on."""
        self.apart.add(connection)
        connection.pending = self.pending()
        connection.buffered += self.size
        turn[connection] = None

    def pending(self) -> Frame | list[Frame]:
        """The same as something noted for one connection alone."""
        return self.frames[0] if len(self.frames) == 1 else list(self.frames)
