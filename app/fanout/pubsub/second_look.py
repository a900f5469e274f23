"""What the emulator leaves out, and the real service does not.

A new subscription on a topic that retains messages gets them all from the emulator, but for those that are published
while it is being made: with a publisher at work, 8 of 16 new ones missed one message or two. A second subscription,
made just after the first, has what the first one missed, and is not needed any more when it has been read.
"""

from collections.abc import Callable, Collection
from typing import Any

from app.fanout import Delivery
from app.fanout.pubsub.client import PubSubClient

MARGIN = 10**9
"""Nanoseconds around the making of a subscription in which something may be missing."""


class SecondLook:
    """Reads what was published between `begin_ns` and `end_ns` (Unix time) from a subscription of its own.

    They are the moments before the first was made and after this one was.
    """

    def __init__(self, client: PubSubClient, subscription: str, client_id: str, begin_ns: int, end_ns: int) -> None:
        self.begin_ns = begin_ns - MARGIN
        self._end_ns = end_ns + MARGIN
        self._client = client
        self.subscription = subscription
        self._client_id = client_id

    async def read(
        self, keys: Collection[str], is_canary: Callable[[Any], bool], delivery_of: Callable[[Any], Delivery]
    ) -> list[Delivery]:
        """Read until each of these ordering keys has brought a canary. Raises PubSubError."""
        awaited = set(keys)
        found = []
        stream = self._client.open_stream(self.subscription, self._client_id)
        try:
            await stream.open()
            while awaited and (received := await stream.read()) is not None:
                for item in received:
                    if is_canary(item.message):
                        awaited.discard(item.message.ordering_key)
                        continue
                    delivery = delivery_of(item.message)
                    if self.begin_ns <= (delivery.publish_time_ns or 0) <= self._end_ns:
                        found.append(delivery)
                if received:
                    await stream.acknowledge([item.ack_id for item in received])
        finally:
            await stream.half_close()
            stream.cancel()
        return found


def in_order(*parts: Collection[Delivery]) -> list[Delivery]:
    """All of these, each once, as the emulator counted them."""
    unique = {delivery.id: delivery for part in parts for delivery in part}
    return sorted(unique.values(), key=lambda delivery: (delivery.publish_time_ns or 0, int(delivery.id or 0)))
