"""Messages that a connection has yet to acknowledge, and when each is due to be sent again.

All entries share one delay and one timeout, so the order in which they were put is the order in which they fall due:
two OrderedDicts, no heap. (A dict that is emptied from its front looks at ever more empty places on the way.)
"""

import builtins
import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, TypeVar

from app.core.largest import Largest
from app.core.router import Subscribers
from app.core.sizes import compact, text_bytes

C = TypeVar("C", bound=Hashable)

# Measured on 64-bit CPython 3.11 with tracemalloc; test_acknowledgements.py holds them to it.
MESSAGE_BYTES = 150
"""A message, beside its id and its JSON."""
AUDIENCE_BYTES = 80
"""The subscriptions that it is for, beside their names."""
ENTRY_BYTES = 400
"""A message that one connection has yet to acknowledge."""
CONNECTION_BYTES = 500
"""A connection that has anything to acknowledge."""
SAME_ID_BYTES = 500
"""An entry beside an older one of the same connection and id."""


class SentMessage:
    """Message as it was sent. All connections that have to acknowledge it share it, in one queue; it counts once."""

    # The JSON, not a Message: this is all that sending it again takes, and all of what it takes is known. The payload
    # of a Message is a view into what came, which it keeps whole, and so do its other fields.
    __slots__ = ("_number", "audience", "data", "id", "owed_by", "size")

    def __init__(self, id: str, data: bytes, number: int | None = None, audience: Subscribers | None = None) -> None:
        """Take what is sent; `number` (above 0) is the same where a message is sent as new for a second time."""
        self.id = id
        self._number = number
        self.audience = audience
        """The subscriptions by which it came; None: it came to its receivers whatever they are subscribed to."""
        self.data = data
        """The JSON, in UTF-8."""
        self.size = MESSAGE_BYTES + text_bytes(id) + len(data)
        if audience is not None:
            self.size += AUDIENCE_BYTES + sum(text_bytes(name) for name in audience if name is not None)
        """Bytes that keeping it takes."""
        self.owed_by = 0
        """How many connections have yet to acknowledge it; the queue counts them."""

    @property
    def mark(self) -> int:
        """Return what tells it from others with its id, as long as it is kept."""
        return -builtins.id(self) if self._number is None else self._number


@dataclass(slots=True, eq=False)
class PendingAck(Generic[C]):
    """One message that one connection has not acknowledged. Times are in seconds of the caller's clock."""

    connection: C
    message: SentMessage
    sent: float
    """When it was sent first: the timeout counts from here."""
    resend: float
    """When it is due again."""
    key: str | int = ""
    """Under which the queue has it among those of its connection."""


class GivenUp(NamedTuple, Generic[C]):
    """Entry that is waited for no longer: its connection owes too many, or all connections together too many bytes."""

    entry: PendingAck[C]
    reason: Literal["too_many", "too_large"]


class Due(NamedTuple, Generic[C]):
    """What time has brought: entries to send again, and entries that were given up."""

    resend: list[PendingAck[C]]
    given_up: list[PendingAck[C]]


class AckQueue(Generic[C]):
    """The pending acknowledgements of all connections of one instance.

    `delay` and `timeout` are in seconds. A connection has at most `limit` entries; all of them together take at most
    `max_bytes`.
    """

    def __init__(self, delay: float, timeout: float, limit: int = 1000, max_bytes: int = sys.maxsize) -> None:
        self.bytes = 0
        """Memory that all that waits takes."""
        self._delay = delay
        self._timeout = timeout
        self._limit = limit
        self._max_bytes = max_bytes
        self._by_age: OrderedDict[PendingAck[C], None] = OrderedDict()
        self._by_resend: OrderedDict[PendingAck[C], None] = OrderedDict()
        self._of: dict[C, dict[str | int, PendingAck[C]]] = {}
        """By message id, oldest first; what comes while another of its id waits, by its mark."""
        self._same: dict[tuple[C, str], dict[int, PendingAck[C]]] = {}
        """Those by mark again, by connection and id, oldest first."""
        # A message counts in full for each connection that owes it. So a connection that leaves big messages lying
        # comes first, also where others owe them too.
        self._owed: Largest[C] = Largest()

    def add(self, connection: C, message: SentMessage, now: float) -> Sequence[GivenUp[C]]:
        """Wait for a connection's acknowledgement. Return the entries that had to be given up for it.

        A message takes the place of itself, sent before, and of no other, whatever its id. One that is larger than all
        may be is given up itself.
        """
        entry = PendingAck(connection, message, now, now + self._delay, message.id)
        own_size = message.size + ENTRY_BYTES
        if own_size + CONNECTION_BYTES > self._max_bytes:
            return (GivenUp(entry, "too_large"),)
        given_up: list[GivenUp[C]] = []
        own = self._of.get(connection)
        if own is not None:
            if (before := self._sent_before(own, message)) is not None:
                self._remove(before)
            elif len(own) >= self._limit:
                given_up.append(GivenUp(self._remove(next(iter(own.values()))), "too_many"))
        if not own:  # new, or taken away with its only entry
            own = self._of[connection] = {}
            self.bytes += CONNECTION_BYTES
        elif message.id in own or (connection, message.id) in self._same:
            entry.key = message.mark
            self._same.setdefault((connection, message.id), {})[message.mark] = entry
            own_size += SAME_ID_BYTES
        own[entry.key] = entry
        self._by_age[entry] = self._by_resend[entry] = None
        self.bytes += own_size - message.size if message.owed_by else own_size
        message.owed_by += 1
        self._owed.add(connection, own_size)
        while self.bytes > self._max_bytes and (debtor := self._owed.top()) is not None:
            given_up.append(GivenUp(self._remove(next(iter(self._of[debtor].values()))), "too_large"))
        return given_up

    @staticmethod
    def _sent_before(own: dict[str | int, PendingAck[C]], message: SentMessage) -> PendingAck[C] | None:
        """The entry of this very message."""
        first = own.get(message.id)
        return first if first is not None and first.message.mark == message.mark else own.get(message.mark)

    def acknowledge(self, connection: C, message_id: str) -> bool:
        """End the waiting for one message; answers whether there was any.

        Of several with this id it is the oldest: a client that acknowledges each message ends the waiting for all, and
        none is taken for acknowledged that the client may not have read yet.
        """
        entry = self._of.get(connection, {}).get(message_id)
        if entry is None:
            same = self._same.get((connection, message_id))
            if same is None:
                return False
            entry = next(iter(same.values()))
        self._remove(entry)
        return True

    def forget(self, connection: C) -> int:
        """End all waiting for a connection that is gone; answers for how many messages."""
        own = tuple(self._of.get(connection, {}).values())
        for entry in own:
            self._remove(entry)
        return len(own)

    def unsubscribe(
        self, connection: C, channel: str | None, sub_id: str | None, belongs: Callable[[Subscribers], bool]
    ) -> int:
        """End the waiting for what came by a subscription that was left, and by no other; answers for how many.

        The three forms are those of `ChannelManager.unsubscribe`. `belongs` tells whether the connection is one of
        these subscribers yet.
        """
        own = self._of.get(connection)
        if own is None:
            return 0
        over: dict[Subscribers, bool] = {}  # of the few that differ
        ended = []
        for entry in own.values():
            audience = entry.message.audience
            if audience is None:
                continue
            of, sub = audience
            if channel is not None and of is not None and (of != channel or (sub_id and sub and sub != sub_id)):
                continue  # it has nothing to do with what was left
            is_over = over.get(audience)
            if is_over is None:
                is_over = over[audience] = not belongs(audience)
            if is_over:
                ended.append(entry)
        for entry in ended:
            self._remove(entry)
        return len(ended)

    def due(self, now: float, limit: int, max_bytes: int = sys.maxsize) -> Due[C]:
        """Take what is due: what is answered as `resend` is put off by another delay, what is `given_up` is gone.

        At most `limit` entries are answered as each of the two, and as `resend` no more than one beyond `max_bytes`;
        the rest stays due.
        """
        given_up: list[PendingAck[C]] = []
        while (
            len(given_up) < limit and self._by_age and (entry := next(iter(self._by_age))).sent + self._timeout <= now
        ):
            given_up.append(self._remove(entry))
        resend: list[PendingAck[C]] = []
        size = 0
        while (
            len(resend) < limit
            and size < max_bytes
            and self._by_resend
            and (entry := next(iter(self._by_resend))).resend <= now
        ):
            resend.append(entry)
            size += len(entry.message.data)
            entry.resend = now + self._delay
            self._by_resend.move_to_end(entry)
        return Due(resend, given_up)

    def next_due(self) -> float | None:
        """When to ask for `due` again; None while nothing waits."""
        if not self._by_age:
            return None
        return min(next(iter(self._by_age)).sent + self._timeout, next(iter(self._by_resend)).resend)

    def message_ids(self) -> Iterator[str]:
        """The ids of all that waits, oldest first; an id comes once for each connection that owes it."""
        return (entry.message.id for entry in self._by_age)

    def message_ids_of(self, connection: C) -> Iterator[str]:
        """The ids of what one connection has yet to acknowledge, oldest first."""
        return (entry.message.id for entry in self._of.get(connection, {}).values())

    def count_of(self, connection: C) -> int:
        """How many messages one connection has yet to acknowledge."""
        return len(self._of.get(connection, ()))

    @property
    def connection_count(self) -> int:
        """How many connections owe an acknowledgement."""
        return len(self._of)

    def __len__(self) -> int:
        return len(self._by_age)

    def _remove(self, entry: PendingAck[C]) -> PendingAck[C]:
        del self._by_age[entry]
        del self._by_resend[entry]
        connection, message = entry.connection, entry.message
        own = self._of[connection]
        del own[entry.key]
        own_size = message.size + ENTRY_BYTES
        if isinstance(entry.key, int):
            same = self._same[connection, message.id]
            del same[entry.key]
            if not same:
                del self._same[connection, message.id]
            own_size += SAME_ID_BYTES
        if not own:
            del self._of[connection]
            self.bytes -= CONNECTION_BYTES
        elif not len(own) % 4:  # to look each time would take a fifth of all this
            compact(own)
        message.owed_by -= 1
        self.bytes -= own_size - message.size if message.owed_by else own_size
        self._owed.add(connection, -own_size)
        return entry
