"""Sending again what was not acknowledged, when its time has come."""

import asyncio
import logging

from app.clock import Clock
from app.connection import Connection
from app.core.acknowledgements import AckQueue
from app.metrics import Metrics
from app.protocol import codec
from app.protocol.frame import Frame
from app.protocol.messages import Message

RESENT_IN_ONE_TURN = 1000
"""Messages that are sent again before everything else has its turn."""

logger = logging.getLogger(__name__)


class Resender:
    """The pending acknowledgements of an instance and the one timer they need. `delay` and `timeout` are in seconds."""

    def __init__(self, delay: float, timeout: float, clock: Clock, metrics: Metrics) -> None:
        self.pending: AckQueue[Connection] = AckQueue(delay, timeout)
        self._clock = clock
        self._metrics = metrics
        self._crowded: set[Connection] = set()
        """Who owes so much that the oldest is given up: it is said once of each."""
        self._timer: asyncio.TimerHandle | None = None

    def expect(self, connection: Connection, message: Message) -> None:
        """A message was sent that this connection has to acknowledge."""
        if given_up := self.pending.add(connection, message, self._clock.monotonic()):
            self._metrics.acks_given_up.labels("too_many").inc()
            if connection not in self._crowded:
                self._crowded.add(connection)
                logger.warning(
                    "gave up %s, and more from now on: connection %s acknowledges too little",
                    given_up.message.id,
                    connection.id,
                )
        self._schedule()

    def forget(self, connection: Connection) -> None:
        """A connection is gone, and all that it owed."""
        self._crowded.discard(connection)
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
        due = self.pending.due(self._clock.monotonic(), RESENT_IN_ONE_TURN)
        for entry in due.given_up:
            self._metrics.acks_given_up.labels("timeout").inc()
            logger.warning("gave up %s: connection %s never acknowledged it", entry.message.id, entry.connection.id)
        frames: dict[str | None, Frame] = {}  # by message id: one encoding for all that owe this message
        for entry in due.resend:
            if entry.connection.is_behind:  # it may not have come to this message yet; another would wait behind it
                self._metrics.acks_put_off.inc()
                continue
            frame = frames.get(entry.message.id)
            if frame is None:
                now = self._clock.now()
                frame = codec.encode_frame(entry.message, isRetry=True, lastRetryDateTime=now)
                frames[entry.message.id] = frame
            if entry.connection.send(frame):
                self._metrics.acks_resent.inc()
                self._metrics.sent.inc()
        self._schedule()
