"""Messages that a connection has yet to acknowledge, and when each is due to be sent again.

All entries share one delay and one timeout, so the order in which they were put is the order in which they fall due:
two OrderedDicts, no heap. (A dict that is emptied from its front looks at ever more empty places on the way.)
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from app.protocol.messages import Message

C = TypeVar("C", bound=Hashable)


@dataclass(slots=True)
class PendingAck(Generic[C]):
    """One message that one connection has not acknowledged. Times are in seconds of the caller's clock."""

    connection: C
    message: Message
    sent: float
    """When it was sent first: the timeout counts from here."""
    resend: float
    """When it is due again."""


class Due(NamedTuple, Generic[C]):
    """What time has brought: entries to send again, and entries that were given up."""

    resend: list[PendingAck[C]]
    given_up: list[PendingAck[C]]


class AckQueue(Generic[C]):
    """The pending acknowledgements of all connections of one instance.

    `delay` and `timeout` are in seconds; a connection has at most `limit` entries.
    """

    def __init__(self, delay: float, timeout: float, limit: int = 1000) -> None:
        self._delay = delay
        self._timeout = timeout
        self._limit = limit
        self._by_age: OrderedDict[tuple[C, str], PendingAck[C]] = OrderedDict()
        self._by_resend: OrderedDict[tuple[C, str], PendingAck[C]] = OrderedDict()
        self._of: dict[C, dict[str, None]] = {}

    def add(self, connection: C, message: Message, now: float) -> PendingAck[C] | None:
        """Wait for this connection's acknowledgement; answers the entry that had to be given up for it, if any."""
        if message.id is None:
            raise ValueError("only a message with an id can be acknowledged")
        own = self._of.setdefault(connection, {})
        crowded_out = None
        if message.id in own:
            self._remove(connection, message.id)
            own = self._of.setdefault(connection, {})
        elif len(own) >= self._limit:
            crowded_out = self._remove(connection, next(iter(own)))
            own = self._of.setdefault(connection, own)
        own[message.id] = None
        key = (connection, message.id)
        self._by_age[key] = self._by_resend[key] = PendingAck(connection, message, now, now + self._delay)
        return crowded_out

    def acknowledge(self, connection: C, message_id: str) -> bool:
        """End the waiting for one message; answers whether there was any."""
        if message_id not in self._of.get(connection, ()):
            return False
        self._remove(connection, message_id)
        return True

    def forget(self, connection: C) -> int:
        """End all waiting for a connection that is gone; answers for how many messages."""
        own = tuple(self._of.get(connection, ()))
        for message_id in own:
            self._remove(connection, message_id)
        return len(own)

    def due(self, now: float, limit: int) -> Due[C]:
        """Take what is due: what is answered as `resend` is put off by another delay, what is `given_up` is gone.

        At most `limit` entries are answered as `resend`; the rest stays due.
        """
        given_up = []
        while self._by_age and (entry := next(iter(self._by_age.values()))).sent + self._timeout <= now:
            given_up.append(entry)
            self._remove(entry.connection, entry.message.id or "")
        resend: list[PendingAck[C]] = []
        while len(resend) < limit and self._by_resend and (entry := next(iter(self._by_resend.values()))).resend <= now:
            resend.append(entry)
            entry.resend = now + self._delay
            self._by_resend.move_to_end((entry.connection, entry.message.id or ""))
        return Due(resend, given_up)

    def next_due(self) -> float | None:
        """When to ask for `due` again; None while nothing waits."""
        if not self._by_age:
            return None
        oldest = next(iter(self._by_age.values()))
        return min(oldest.sent + self._timeout, next(iter(self._by_resend.values())).resend)

    def message_ids(self) -> Iterator[str]:
        """The ids of all that waits, oldest first; an id comes once for each connection that owes it."""
        return (message_id for _, message_id in self._by_age)

    @property
    def connection_count(self) -> int:
        """How many connections owe an acknowledgement."""
        return len(self._of)

    def __len__(self) -> int:
        return len(self._by_age)

    def _remove(self, connection: C, message_id: str) -> PendingAck[C]:
        key = (connection, message_id)
        del self._by_resend[key]
        own = self._of[connection]
        del own[message_id]
        if not own:
            del self._of[connection]
        return self._by_age.pop(key)
