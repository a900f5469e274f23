"""After an outage, or a stop of this process: what comes may be out of turn, or have a hole before it. Pure."""

import logging
from collections.abc import Collection

from app.fanout import Deliver, Delivery
from app.fanout.pubsub.second_look import in_order

logger = logging.getLogger(__name__)

MAX_HELD, MAX_HELD_BYTES = 10_000, 32 * 2**20
"""What a subscription made anew may bring before it is proven; more is let go, as behind a gap."""


class CatchingUp:
    """Begins with a stop, ends when every ordering key has brought what this instance said after the last stop."""

    def __init__(self) -> None:
        self.through_ns: int | None = None
        """What was published up to here was heard, and later things may come out of turn; None: it is up to date."""
        self.stops = 0

    def begin(self, through_ns: int) -> None:
        """There was a stop; all that was published up to then has been heard."""
        self.stops += 1
        if self.through_ns is None:
            self.through_ns = through_ns

    def end(self, stops: int) -> None:
        """All was heard that was said after so many stops."""
        if stops == self.stops:
            self.through_ns = None


class HeldBack:
    """What a subscription made anew brings: nobody may get it before it is known what is missing in front of it."""

    def __init__(self) -> None:
        self._deliveries: list[Delivery] = []
        self._bytes = 0

    def add(self, delivery: Delivery) -> bool:
        """Hold one back; answers whether there is room for more."""
        self._deliveries.append(delivery)
        self._bytes += len(delivery.data)
        return len(self._deliveries) < MAX_HELD and self._bytes < MAX_HELD_BYTES

    def let_go(self, deliver: Deliver, found: Collection[Delivery] = ()) -> None:
        """Hand all over, with what a second look has found."""
        deliveries = in_order(self._deliveries, found) if found else self._deliveries
        self.drop()
        for delivery in deliveries:
            hand_over(delivery, deliver)

    def drop(self) -> None:
        """Forget all: it comes again."""
        self._deliveries, self._bytes = [], 0


def hand_over(delivery: Delivery, deliver: Deliver) -> None:
    """Deliver one message; what goes wrong with it does not reach the others."""
    try:
        deliver(delivery)
    except Exception:
        logger.exception("the message %s could not be delivered", delivery.id)
