"""How sockets end because the service says so: who is told to leave, when, and with which words.

A planned ending is announced by a `disconnect`. At a rotation (3011) the old socket goes on until it is closed, so that
the client may open its next one before; a drain (3001) has no time for that, and spreads the clients' return instead.
"""

import asyncio
import logging

from app.clock import Clock
from app.connection import Connection
from app.core.departures import Departures, Reason, return_window, slots
from app.core.expiries import Expiries
from app.core.revisions import newest_after
from app.fanout import Fanout
from app.metrics import Metrics
from app.protocol import codec, messages
from app.protocol.close_codes import CloseCode
from app.protocol.frame import Frame

logger = logging.getLogger(__name__)

BATCH = 50
"""Sockets that are told or closed in one turn of the event loop; each is about a tenth of a millisecond."""
PAUSE = 0.05
"""Seconds between two batches, for all that the loop has to do beside."""
TICK, TICK_PART = 0.5, 1 / 60
"""Seconds between two looks at who is due, and at most this part of the request timeout."""
LOOK_FOR_NEWER = 5.0
"""Seconds between two looks at the revisions of all other instances, of which there may be thousands."""
TELL_WINDOW = 1.0
"""Seconds in which a drain has told all clients, if the machine is fast enough."""
GONE_TIMEOUT = 3.0
"""Seconds in which they go after that; the rest is cut."""
WORDS = {
    Reason.DRAIN: "shutdown",
    Reason.AGE: "rotation",
    Reason.ROLLOVER: "a newer revision serves",
    Reason.DEAFNESS: "the instance does not hear what is published",
    Reason.GAP: "messages may be missing",
}


class Endings:
    """The planned endings of an instance's sockets, and the one timer that they need.

    `timeout` is the request timeout, `rollover` the time in which sockets leave for a newer revision (None: they stay);
    both in seconds.
    """

    def __init__(
        self,
        fanout: Fanout,
        metrics: Metrics,
        clock: Clock,
        *,
        timeout: float,
        rollover: float | None,
        revision: str | None,
    ) -> None:
        self.draining = False
        """Whether the instance is being stopped: then sockets that still come are sent away at once."""
        self._fanout = fanout
        self._metrics = metrics
        self._clock = clock
        self._rollover = rollover
        self._revision = revision
        self._departures: Departures[Connection] = Departures(timeout)
        self._sessions: Expiries[Connection] = Expiries()
        """Those of users, by the time of day, which goes on while the process is stopped."""
        self._tick = min(TICK, TICK_PART * timeout)
        self._deaf = False
        self._newer: str | None = None
        self._look_for_newer_at = 0.0
        self._all_told = asyncio.Event()
        self._all_gone = asyncio.Event()
        self._return_window = 0.0
        self._timer: asyncio.TimerHandle | None = None

    # Life

    def open(self) -> None:
        """Begin to look at who is due."""
        self._timer = asyncio.get_running_loop().call_later(self._tick, self._turn)

    def close(self) -> None:
        """Whoever still comes is sent away, and no one else."""
        self.draining = True
        if self._timer is not None:
            self._timer.cancel()

    def join(self, connection: Connection, session_ends: float | None = None) -> None:
        """Take in a connection that was welcomed; `session_ends` in Unix seconds."""
        self._departures.join(connection, self._clock.monotonic(), self._clock.chance.random)
        if session_ends is not None:
            self._sessions.set(connection, session_ends)
        if self.draining:  # it slipped in while its upgrade was under way
            self._drain(connection, self._clock.chance.random() * self._return_window)

    def leave(self, connection: Connection) -> None:
        """A connection is gone."""
        self._departures.leave(connection)
        self._sessions.leave(connection)
        if not self._departures.sockets:
            self._all_gone.set()

    def end(self, connection: Connection, code: CloseCode, reason: str, retry_after: float = 0) -> None:
        """Tell a client why, and close it. `retry_after`: the seconds that it shall stay away."""
        connection.close(code, reason, self._disconnect(code, reason, retry_after))

    def _disconnect(self, code: CloseCode, reason: str, retry_after: float) -> Frame:
        return codec.encode_reply(
            {
                "type": messages.DISCONNECT,
                "code": int(code),
                "reason": reason,
                "reconnect": code.reconnect,
                "retryAfterMs": round(retry_after * 1000),
                "id": self._clock.new_id(),
                "sentDateTime": self._clock.now(),
            }
        )

    # Drain

    async def drain(self) -> None:
        """Tell all clients when to come back, elsewhere, and close them (3001), batch by batch.

        Returns when that is under way for all; `gone` tells when they have taken it.
        """
        self.close()
        here = list(self._departures.sockets)
        window = self._return_window = return_window(len(here))
        returns = slots(len(here), window, self._clock.chance.random)
        pause = min(PAUSE, TELL_WINDOW * BATCH / max(1, len(here)))
        loop = asyncio.get_running_loop()
        began = loop.time()
        for number, (connection, slot) in enumerate(zip(here, returns, strict=True)):
            if number and number % BATCH == 0:  # a turn of the loop at least, also where this is behind its time
                await asyncio.sleep(max(0.0, began + number // BATCH * pause - loop.time()))
            # The slots are on one scale for all, whenever each is told.
            self._drain(connection, max(0.0, began + slot - loop.time()))
        self._all_told.set()

    def _drain(self, connection: Connection, retry_after: float) -> None:
        self._metrics.connections_sent_elsewhere.labels(Reason.DRAIN.value).inc()
        self.end(connection, CloseCode.SHUTDOWN, WORDS[Reason.DRAIN], retry_after)

    async def gone(self) -> None:
        """Beside `drain`, or after it: return when all connections are gone; cut those that take too long for it."""
        await self._all_told.wait()
        if not self._departures.sockets:
            return
        self._all_gone.clear()
        try:
            async with asyncio.timeout(GONE_TIMEOUT):
                await self._all_gone.wait()
        except TimeoutError:
            logger.warning("%d clients did not take their close frame and are cut", len(self._departures.sockets))
            for connection in tuple(self._departures.sockets):
                connection.cut()

    # Rotation

    def close_all(self, reason: Reason) -> None:
        """Close all at once (3011), so that none hears anything more here; their return is spread as at a drain."""
        here = list(self._departures.sockets)
        returns = slots(len(here), return_window(len(here)), self._clock.chance.random)
        for connection, slot in zip(here, returns, strict=True):
            self._metrics.connections_sent_elsewhere.labels(reason.value).inc()
            self.end(connection, CloseCode.ROTATION, WORDS[reason], slot)

    def _turn(self) -> None:
        """Look at what has changed, and do what is due."""
        wait = self._tick
        try:
            now = self._clock.monotonic()
            self._look_at_hearing(now)
            if self._rollover is not None and now >= self._look_for_newer_at:
                self._look_for_newer_at = now + LOOK_FOR_NEWER
                self._look_for_newer(now, self._rollover)
            expired = self._sessions.due(self._clock.unix_ns() / 1e9, BATCH)
            for connection in expired:
                self.end(connection, CloseCode.EXPIRED, "session expired")
            steps = self._departures.due(now, BATCH)
            if BATCH in (len(steps), len(expired)):
                wait = min(wait, PAUSE)  # there may be more
            for connection, reason, closes in steps:
                if closes:
                    connection.close(CloseCode.ROTATION, WORDS[reason])
                elif connection.send(self._disconnect(CloseCode.ROTATION, WORDS[reason], 0)):
                    self._metrics.connections_sent_elsewhere.labels(reason.value).inc()
        finally:
            self._timer = asyncio.get_running_loop().call_later(wait, self._turn)

    def _look_at_hearing(self, now: float) -> None:
        deaf = self._fanout.deaf
        if deaf == self._deaf:
            return
        self._deaf = deaf
        if deaf:
            count = len(self._departures.sockets)
            over = return_window(count)
            logger.error("deaf: %d connections are sent elsewhere within %.0f s", count, over)
            self._departures.hurry(Reason.DEAFNESS, over, now, self._clock.chance.random)
        else:
            self._departures.calm(Reason.DEAFNESS, now, self._clock.chance.random)

    def _look_for_newer(self, now: float, over: float) -> None:
        heard = {peer.revision for peer in self._fanout.peers.values()}
        newer = newest_after(self._revision, heard)
        before, self._newer = self._newer, newer
        if newer is not None and before is None:
            count = len(self._departures.sockets)
            logger.info("%s is newer: %d connections leave within %.0f s", newer, count, over)
            self._departures.hurry(Reason.ROLLOVER, over, now, self._clock.chance.random)
        elif newer is None and before is not None:
            logger.info("%s is no longer heard: connections stay", before)
            self._departures.calm(Reason.ROLLOVER, now, self._clock.chance.random)
