"""Sending again what was not acknowledged, when its time has come."""

import asyncio
import logging
from collections.abc import Callable, Iterable

from app.clock import Clock
from app.connection import Connection
from app.core.acknowledgements import AckQueue, PendingAck, SentMessage
from app.core.router import Subscribers
from app.metrics import Metrics
from app.protocol import codec
from app.protocol.frame import Frame

RESENT_IN_ONE_TURN = 1000
"""Messages that are sent again before everything else has its turn."""
RESENT_BYTES_IN_ONE_TURN = 256 * 1024
"""Bytes sent again in one turn: to compress so many takes about 5 ms; a thousand of the largest would take 5 s."""

logger = logging.getLogger(__name__)


class Resender:
    """The pending acknowledgements of an instance and the one timer they need.

    `delay` and `timeout` are in seconds; `max_bytes` bounds what waits for all connections together.
    """

    def __init__(self, delay: float, timeout: float, max_bytes: int, clock: Clock, metrics: Metrics) -> None:
        self.pending: AckQueue[Connection] = AckQueue(delay, timeout, max_bytes=max_bytes)
        self._clock = clock
        self._metrics = metrics
        self._crowded: set[Connection] = set()
        """Who owes so much that the oldest is given up: it is said once of each."""
        self._put_off: set[Connection] = set()
        """Connections that were behind when a message of theirs was due: no other is sent again before all that is due
        had its turn."""
        self._timer: asyncio.TimerHandle | None = None

    def expect(self, message: SentMessage, connections: Iterable[Connection]) -> None:
        """Wait for these connections to acknowledge a message that they were sent."""
        now = self._clock.monotonic()
        add = self.pending.add
        for connection in connections:
            for given_up in add(connection, message, now):
                self._metrics.acks_given_up.labels(given_up.reason).inc()
                self._tell_of_crowded(given_up.entry)
        self._schedule()

    def _tell_of_crowded(self, given_up: PendingAck[Connection]) -> None:
        connection = given_up.connection
        if connection not in self._crowded:
            self._crowded.add(connection)
            logger.warning(
                "gave up %s, and more from now on: connection %s acknowledges too little",
                given_up.message.id,
                connection.id,
            )

    def unsubscribed(
        self, connection: Connection, channel: str | None, sub_id: str | None, belongs: Callable[[Subscribers], bool]
    ) -> None:
        """Wait no longer for what came by a subscription that was left; `belongs` as `AckQueue.unsubscribe` has it."""
        if ended := self.pending.unsubscribe(connection, channel, sub_id, belongs):
            self._metrics.acks_given_up.labels("unsubscribed").inc(ended)

    def logged_out(self, connection: Connection) -> None:
        """A connection's user was logged out: all that it owed is over, before the connection is."""
        if forgotten := self.pending.forget(connection):
            self._metrics.acks_given_up.labels("logged_out").inc(forgotten)

    def forget(self, connection: Connection) -> None:
        """A connection is gone, and all that it owed."""
        self._crowded.discard(connection)
        self._put_off.discard(connection)
        if forgotten := self.pending.forget(connection):
            self._metrics.acks_given_up.labels("disconnected").inc(forgotten)
            logger.info("gave up %d messages: connection %s went without acknowledging them", forgotten, connection.id)

    def close(self) -> None:
        """Send nothing again from now on."""
        if self._timer is not None:
            self._timer.cancel()

    def _schedule(self) -> None:
        if self._timer is None and (due := self.pending.next_due()) is not None:
            wait = max(0.0, due - self._clock.monotonic())
            self._timer = asyncio.get_running_loop().call_later(wait, self._resend)

    def _resend(self) -> None:
        self._timer = None
        now = self._clock.monotonic()
        due = self.pending.due(now, RESENT_IN_ONE_TURN, RESENT_BYTES_IN_ONE_TURN)
        self._schedule()  # first: whatever becomes of these, the others have their turn
        for entry in due.given_up:
            self._metrics.acks_given_up.labels("timeout").inc()
            logger.warning("gave up %s: connection %s never acknowledged it", entry.message.id, entry.connection.id)
        frames: dict[SentMessage, Frame] = {}  # one encoding for all that owe this message
        for entry in due.resend:
            if self._is_put_off(entry.connection):
                self._metrics.acks_put_off.inc()
                continue
            frame = frames.get(entry.message)
            if frame is None:
                frame = frames[entry.message] = self._again(entry.message)
            if entry.connection.send(frame):
                self._metrics.acks_resent.inc()
                self._metrics.sent.inc()
        if (next_due := self.pending.next_due()) is None or next_due > now:
            self._put_off.clear()

    def _is_put_off(self, connection: Connection) -> bool:
        # It may not have come to this message yet; another would wait behind it. What is due may take many turns, in
        # which the client catches up: later messages must not overtake those that were put off.
        if connection in self._put_off:
            return True
        if connection.is_behind:
            self._put_off.add(connection)
            return True
        return False

    def _again(self, message: SentMessage) -> Frame:
        return Frame(codec.completed(message.data, isRetry=True, lastRetryDateTime=self._clock.now()))
