"""The rules: what a message asks for, and whom it is for. The router decides, the hub does."""

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from app.protocol import messages
from app.protocol.errors import ErrorCode, MessageError
from app.protocol.messages import Message


@dataclass(frozen=True, slots=True)
class Rules:
    """The types that are given a meaning by the configuration (contract, section 2)."""

    ack_types: frozenset[str] = field(default_factory=frozenset)
    broadcast_types: frozenset[str] = field(default_factory=frozenset)
    pubsub_types: frozenset[str] = field(default_factory=frozenset)
    custom_types: frozenset[str] = field(default_factory=frozenset)


# What a client's message asks for


class Subscribe(NamedTuple):
    channel: str
    sub_id: str
    position: str | None = None
    """Where the client goes on from; None: from now."""


class Unsubscribe(NamedTuple):
    channel: str | None
    sub_id: str | None


class Acknowledge(NamedTuple):
    message_id: str


class Inform(NamedTuple):
    detail: bool
    channel: str | None


class CallHandler(NamedTuple):
    type: str


class Publish(NamedTuple):
    """Hand it to the fan-out: the shared one, or (`shared` is false) the instance's own."""

    shared: bool
    audience: "Audience"


Request = Subscribe | Unsubscribe | Acknowledge | Inform | CallHandler | Publish


# Whom a published message is for

_NEVER_PUBLISHED = messages.COMMANDS | messages.REPLIES


@dataclass(frozen=True, slots=True)
class Everyone:
    """Every connection."""


class Subscribers(NamedTuple):
    """The connections of a subscription, of a channel (no subId), or with any subscription (no channel)."""

    channel: str | None
    sub_id: str | None


class OneUser(NamedTuple):
    """Every connection of one user."""

    user_tag: str


Audience = Everyone | Subscribers | OneUser


class Addressed(Protocol):
    """A message, or as much of it as tells whom it is for."""

    @property
    def type(self) -> str: ...
    @property
    def channel(self) -> str | None: ...
    @property
    def sub_id(self) -> str | None: ...
    @property
    def user_tag(self) -> str | None: ...


class Router:
    """Applies the rules to a message. Pure: the same message always gets the same answer."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules

    def request_of(self, message: Message) -> Request:
        """What a client asks for. Raises MessageError for what a client may not say."""
        match message.type:
            case messages.SUBSCRIBE:
                channel, sub_id = _need(message.channel, "channel", message), _need(message.sub_id, "subId", message)
                return Subscribe(channel, sub_id, message.position)
            case messages.UNSUBSCRIBE:
                return Unsubscribe(message.channel, message.sub_id)
            case messages.ACK:
                return Acknowledge(_need(message.id, "id", message))
            case messages.GET_INFO | messages.GET_INFO_DETAIL as kind:
                return Inform(kind == messages.GET_INFO_DETAIL, message.channel)
            case kind if kind in self.rules.custom_types:
                return CallHandler(kind)
            case kind if (
                kind in messages.PUBLISHED or kind in self.rules.broadcast_types or kind in self.rules.pubsub_types
            ):
                return self.publish_of(message)
            case kind if kind.startswith(messages.OWN_PREFIX):
                raise _reserved()
            case kind:
                raise MessageError(ErrorCode.UNSUPPORTED_TYPE, f"a message of type {kind!r} cannot be sent here")

    def publish_of(self, message: Message) -> Publish:
        """Which fan-out a message takes, by its type, and whom it is for. Raises MessageError as `audience_of`."""
        kind = messages.BROADCAST if message.type in self.rules.broadcast_types else message.type
        return Publish(kind in self.rules.pubsub_types, self.audience_of(message))

    def audience_of(self, message: Addressed) -> Audience:
        """Whom a published message is for. Raises MessageError for what cannot be published."""
        kind = message.type
        if kind == messages.BROADCAST or kind in self.rules.broadcast_types:
            return Everyone()
        if kind == messages.NOTIFICATION:
            return OneUser(_need(message.user_tag, "userTag", message))
        if kind in _NEVER_PUBLISHED:
            raise MessageError(ErrorCode.UNSUPPORTED_TYPE, f"a message of type {kind!r} cannot be published")
        if kind.startswith(messages.OWN_PREFIX):
            raise _reserved()
        return Subscribers(message.channel, message.sub_id)


def _need(value: str | None, name: str, message: Addressed) -> str:
    if value is None:
        raise MessageError(ErrorCode.MISSING_FIELD, f"{name} is missing: a message of type {message.type!r} needs it")
    return value


def _reserved() -> MessageError:
    return MessageError(ErrorCode.RESERVED_TYPE, f"types that begin with {messages.OWN_PREFIX!r} are the service's own")
