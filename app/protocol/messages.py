"""The shape of a message (contract, section 3) and the names of the built-in types."""

import re
from collections.abc import Mapping
from types import MappingProxyType

from msgspec import Raw, Struct
from msgspec.structs import replace

from app.protocol.errors import ErrorCode, MessageError

Json = Raw
"""JSON text that is passed on as it came."""

SUBSCRIBE = "subscribe"
UNSUBSCRIBE = "unsubscribe"
ACK = "ack"
GET_INFO = "getInfo"
GET_INFO_DETAIL = "getInfoDetail"
ANNOUNCE = "announce"
BROADCAST = "broadcast"
NOTIFICATION = "notification"
WELCOME = "welcome"
ERROR = "error"
DISCONNECT = "disconnect"
PING = "ping"

COMMANDS = frozenset({SUBSCRIBE, UNSUBSCRIBE, ACK, GET_INFO, GET_INFO_DETAIL})
"""What a socket asks of its own instance; never published."""
REPLIES = frozenset({ACK, WELCOME, ERROR, DISCONNECT, PING})
"""What only the service says."""
PUBLISHED = frozenset({ANNOUNCE, BROADCAST, NOTIFICATION})
"""The built-in types that travel from one client to others."""
BUILT_IN = COMMANDS | REPLIES | PUBLISHED

OWN_PREFIX = "cloud-sockets."
"""Types that begin so are what the instances tell each other on the topic."""
LOGOUT = "cloud-sockets.logout"

MAX_NAME_LENGTH = 255
_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,255}", re.DOTALL)
NAME_RULE = f"a string of 1 to {MAX_NAME_LENGTH} characters without control characters or halves of surrogate pairs"


def is_name(value: object) -> bool:
    """Whether this can be a type, channel, subId, userTag or id."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


class Message(Struct, frozen=True, kw_only=True):
    """A message in well-formed shape. What is `Json` is text as it came, which travels on byte for byte.

    `ack_id` is the request's own mark, for the reply alone; `position` is where a subscriber goes on from, or where a
    receiver is with this message; `extras` are the top-level properties that the service does
    not know.
    """

    type: str
    channel: str | None = None
    sub_id: str | None = None
    user_tag: str | None = None
    id: str | None = None
    sent_date_time: str | None = None
    pubsub_id: str | None = None
    position: str | None = None
    ack_id: Json | None = None
    payload: Json | None = None
    extras: Mapping[str, Json] = MappingProxyType({})

    def __post_init__(self) -> None:
        if self.sub_id is not None and self.channel is None:
            raise MessageError(ErrorCode.MISSING_FIELD, "subId needs a channel")

    def stamped(self, *, id: str, sent_date_time: str) -> "Message":
        """The same message as it travels: with an id (its own if it has one) and a time, without the request's mark."""
        return replace(self, id=self.id or id, sent_date_time=sent_date_time, ack_id=None)

    def arrived(self, *, id: str, sent_date_time: str, pubsub_id: str | None, position: str | None) -> "Message":
        """The same message as it came out of a fan-out."""
        return replace(self, id=id, sent_date_time=sent_date_time, pubsub_id=pubsub_id, position=position)
