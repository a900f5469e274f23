"""A message that came out of a fan-out, read only as far as it is needed.

On a large cluster most of what an instance hears is for nobody there. What a hub published says in its attributes whom
it is for, so that its JSON is not looked at before there is somebody to send it to.
"""

from typing import NamedTuple

from app.clock import Clock, rfc3339
from app.core.position import Position
from app.core.sizes import text_bytes
from app.fanout import Delivery, process_of
from app.protocol import codec, messages
from app.protocol.errors import ErrorCode, MessageError
from app.protocol.messages import Message


class Address(NamedTuple):
    """What tells whom a message is for."""

    type: str
    channel: str | None
    sub_id: str | None
    user_tag: str | None


def sender_of(process: str, connection_id: str | None) -> str:
    """Return who sent a message: a connection of a process. Empty: whoever publishes by HTTP or to the topic.

    Of a connection that a publisher names on its own it is none of ours, whose process it cannot know.
    """
    return "" if connection_id is None else process + connection_id


class Arrival:
    """One delivery, as it may be kept. Making it, `id` and `message` raise MessageError for what is out of shape."""

    __slots__ = (
        "__weakref__",
        "_is_whole",
        "_message",
        "address",
        "carrier_id",
        "data",
        "is_from_here",
        "is_own",
        "number",
        "position",
        "publish_time_ns",
        "sender",
    )

    def __init__(self, delivery: Delivery, process: str = "") -> None:
        """Take in a delivery; `process` is what tells the messages that were published here."""
        get = delivery.attributes.get
        kind = get("type")
        self.data = delivery.data
        self.carrier_id = delivery.id
        self.publish_time_ns = delivery.publish_time_ns
        published_by = process_of(delivery.attributes)
        self.is_from_here = process != "" and published_by == process
        """True: this instance published the message."""
        connection_id = get("sender")
        self.sender = sender_of(published_by, connection_id)
        self.is_own = kind is not None and get("origin") is not None
        """True: the message is written as a hub writes it. Whoever may publish can write so, too."""
        self.number = 0
        """How many were kept before it (see app.journal)."""
        self.position: Position | None = None
        """Position that the message bears in its stream; None: the history does not keep it."""
        self._is_whole = self.is_own or kind is None
        self._message: Message | None = None
        if self.is_own:
            self.address = Address(kind or "", get("channel"), get("subId"), get("userTag"))
            return
        if kind is None:
            message = codec.decode_published(self.data)
        else:
            message = codec.decode_attributes(delivery.attributes, self.data)
        self._message = message
        self.address = Address(message.type, message.channel, message.sub_id, message.user_tag)

    @property
    def message(self) -> Message:
        """The message as it was published."""
        if self._message is None:
            self._message = self._read()
        return self._message

    def _read(self) -> Message:
        if self._is_whole:
            message = codec.decode_published(self.data)
            # Of what a hub published it is the attributes that were looked at: whether it may be published at all, too.
            if (message.type, message.channel, message.sub_id, message.user_tag) != self.address:
                raise MessageError(ErrorCode.INVALID_FIELD, "its attributes say something else than the message")
            return message
        names = zip(("type", "channel", "subId", "userTag"), self.address, strict=True)
        return codec.decode_attributes({name: value for name, value in names if value is not None}, self.data)

    def release(self) -> None:
        """Keep only what it came as: what was read of it can be read again."""
        self._message = None

    @property
    def id(self) -> str | None:
        """The id that its sender, or the sender's hub, gave it."""
        if not self._is_whole:
            return None
        return (codec.id_at_the_end(self.data) if self.is_own else None) or self.message.id

    @property
    def is_between_hubs(self) -> bool:
        """Whether it is what the instances tell each other."""
        return self.is_own and self.address.type.startswith(messages.OWN_PREFIX)

    @property
    def size(self) -> int:
        """What keeping it takes beside the object itself, in bytes."""
        texts = (*self.address, self.carrier_id, self.sender)
        return len(self.data) + sum(text_bytes(text) for text in texts if text)

    def completed(self, position: str | None, clock: Clock) -> Message:
        """The message with what all instances agree on: its own id and time where a hub set them, else its carrier's.

        `clock` is for what has neither, as from a carrier that tells nothing.
        """
        message = self._message or self._read()
        sent_date_time = message.sent_date_time if self.is_own else None
        if sent_date_time is None:
            sent_date_time = clock.now() if self.publish_time_ns is None else rfc3339(self.publish_time_ns)
        return message.arrived(
            id=message.id or self.carrier_id or clock.new_id(),
            sent_date_time=sent_date_time,
            pubsub_id=self.carrier_id,
            position=position,
        )
