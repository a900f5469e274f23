"""What a message asks for, and whom it is for."""

import pytest

from app.core.router import (
    Acknowledge,
    Audience,
    CallHandler,
    Everyone,
    Inform,
    OneUser,
    Publish,
    Request,
    Router,
    Rules,
    Subscribe,
    Subscribers,
    Unsubscribe,
)
from app.protocol.errors import ErrorCode, MessageError
from app.protocol.messages import Message

RULES = Rules(
    broadcast_types=frozenset({"alarm"}),
    pubsub_types=frozenset({"announce", "todo"}),
    custom_types=frozenset({"custom"}),
)


@pytest.fixture
def router() -> Router:
    return Router(RULES)


@pytest.mark.parametrize(
    ("message", "request_"),
    [
        (Message(type="subscribe", channel="c", sub_id="s"), Subscribe("c", "s")),
        (Message(type="unsubscribe"), Unsubscribe(None, None)),
        (Message(type="unsubscribe", channel="c"), Unsubscribe("c", None)),
        (Message(type="unsubscribe", channel="c", sub_id="s"), Unsubscribe("c", "s")),
        (Message(type="ack", id="1"), Acknowledge("1")),
        (Message(type="getInfo"), Inform(False, None)),
        (Message(type="getInfoDetail", channel="c"), Inform(True, "c")),
        (Message(type="custom"), CallHandler("custom")),
        (Message(type="announce", channel="c"), Publish(True, Subscribers("c", None))),
        (Message(type="todo"), Publish(True, Subscribers(None, None))),
        (Message(type="broadcast"), Publish(False, Everyone())),
        (Message(type="alarm"), Publish(False, Everyone())),
        (Message(type="notification", user_tag="u"), Publish(False, OneUser("u"))),
    ],
)
def test_each_type_asks_for_its_thing(router: Router, message: Message, request_: Request) -> None:
    assert router.request_of(message) == request_


def test_broadcast_types_travel_as_broadcast_does() -> None:
    router = Router(Rules(broadcast_types=frozenset({"alarm"}), pubsub_types=frozenset({"broadcast"})))
    assert router.publish_of(Message(type="alarm")) == Publish(True, Everyone())


@pytest.mark.parametrize(
    ("message", "audience"),
    [
        (Message(type="announce"), Subscribers(None, None)),
        (Message(type="announce", channel="c"), Subscribers("c", None)),
        (Message(type="announce", channel="c", sub_id="s"), Subscribers("c", "s")),
        (Message(type="anything", channel="c"), Subscribers("c", None)),
        (Message(type="broadcast", channel="c"), Everyone()),
        (Message(type="alarm", channel="c"), Everyone()),
        (Message(type="notification", user_tag="u"), OneUser("u")),
    ],
)
def test_each_type_has_its_audience(router: Router, message: Message, audience: Audience) -> None:
    assert router.audience_of(message) == audience


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (Message(type="subscribe"), ErrorCode.MISSING_FIELD),
        (Message(type="subscribe", channel="c"), ErrorCode.MISSING_FIELD),
        (Message(type="ack"), ErrorCode.MISSING_FIELD),
        (Message(type="notification"), ErrorCode.MISSING_FIELD),
        (Message(type="cloud-sockets.logout"), ErrorCode.RESERVED_TYPE),
        (Message(type="welcome"), ErrorCode.UNSUPPORTED_TYPE),
        (Message(type="error"), ErrorCode.UNSUPPORTED_TYPE),
        (Message(type="disconnect"), ErrorCode.UNSUPPORTED_TYPE),
        (Message(type="anything"), ErrorCode.UNSUPPORTED_TYPE),
    ],
)
def test_what_a_client_may_not_say_has_its_code(router: Router, message: Message, code: ErrorCode) -> None:
    with pytest.raises(MessageError) as refused:
        router.request_of(message)
    assert refused.value.code is code


@pytest.mark.parametrize("kind", ["subscribe", "unsubscribe", "ack", "getInfo", "getInfoDetail", "welcome", "error"])
def test_commands_and_replies_cannot_be_published(router: Router, kind: str) -> None:
    with pytest.raises(MessageError, match="cannot be published"):
        router.audience_of(Message(type=kind))
