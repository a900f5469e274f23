"""A message that came out of a fan-out, read only as far as it is needed.

On a large cluster most of what an instance hears is for nobody there. What a hub published says in its attributes whom
it is for, so that its JSON is not looked at before there is somebody to send it to.
"""

from typing import NamedTuple

from app.fanout import Delivery
from app.protocol import codec, messages
from app.protocol.messages import Message


class Address(NamedTuple):
    """What tells whom a message is for."""

    type: str
    channel: str | None
    sub_id: str | None
    user_tag: str | None


class Arrival:
    """One delivery. Making it, `id` and `message` raise MessageError for what is out of shape."""

    __slots__ = ("_message", "address", "delivery", "is_own")

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        attributes = delivery.attributes
        self.is_own = "origin" in attributes and "type" in attributes
        """Whether a hub published it."""
        self._message: Message | None = None
        if self.is_own:
            get = attributes.get
            self.address = Address(attributes["type"], get("channel"), get("subId"), get("userTag"))
        else:
            message = self.message
            self.address = Address(message.type, message.channel, message.sub_id, message.user_tag)

    @property
    def message(self) -> Message:
        """The message as it was published."""
        if self._message is None:
            delivery = self.delivery
            if self.is_own or "type" not in delivery.attributes:
                self._message = codec.decode_published(delivery.data)
            else:
                self._message = codec.decode_attributes(delivery.attributes, delivery.data)
        return self._message

    @property
    def id(self) -> str | None:
        """The id that its sender, or the sender's hub, gave it."""
        return (codec.id_at_the_end(self.delivery.data) if self.is_own else None) or self.message.id

    @property
    def is_between_hubs(self) -> bool:
        """Whether it is what the instances tell each other."""
        return self.is_own and self.address.type.startswith(messages.OWN_PREFIX)
