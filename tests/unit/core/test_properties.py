"""Whatever comes in, the codec and the router have an answer for it."""

import json
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.router import Router, Rules
from app.protocol import codec
from app.protocol.errors import MessageError
from app.protocol.messages import BUILT_IN

ROUTER = Router(Rules(broadcast_types=frozenset({"b"}), pubsub_types=frozenset({"p"}), custom_types=frozenset({"c"})))
KEYS = ["type", "channel", "subId", "userTag", "id", "ackId", "payload", "sentDateTime", "pubsubId", "extra"]

VALUES = [
    *["null", "true", "false", "0", "-0", "1", "1.5", "1e400", "12345678901234567890", "NaN", "01"],
    *['""', '"x"', '"a:b"', '"\\u0000"', '"\\ud800"', '"\\u00e9"', '"é😀"', '"1"'],
    *["[]", "{}", "[[],{}]", "[1,]", "{1:2}", "tru"],
    '"' + "x" * 256 + '"',
    '{"type":"a"}',
    "[" * 200 + "]" * 200,
    '"two words"',
]
TYPES = [json.dumps(kind) for kind in (*sorted(BUILT_IN), "b", "p", "c", "cloud-sockets.x", "other")]

# Joined from pieces, and then perhaps damaged: cheap enough for ten thousand of them.
pairs = st.tuples(st.sampled_from(KEYS), st.sampled_from(VALUES))
near_messages = st.builds(
    lambda kind, rest, separator: (
        "{" + separator.join([f'"type":{kind}', *(f'"{key}":{value}' for key, value in rest)]) + "}"
    ),
    st.sampled_from([*TYPES, *VALUES]),
    st.lists(pairs, max_size=5),
    st.sampled_from([",", ", ", "\n,\t", ";"]),
)
damaged = st.builds(
    lambda text, at, piece: text[: at % (len(text) + 1)] + piece + text[at % (len(text) + 1) + 1 :],
    near_messages,
    st.integers(0, 1000),
    st.sampled_from(["", '"', "\\", "{", "}", "[", ",", ":", "\x00", "é", " ", "\ufeff", "0"]),
)
texts = near_messages | damaged | st.text()

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
objects = st.dictionaries(st.sampled_from(KEYS) | st.text(), json_values, max_size=5)


def encodable(text: str) -> bool:
    """Whether this text can come out of UTF-8: a lone surrogate cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


@settings(max_examples=10_000, deadline=None)
@given(texts.filter(encodable))
def test_ten_thousand_generated_messages_are_answered_and_never_raise(text: str) -> None:
    decoded = codec.decode(text)
    codec.encode_reply({"msg": decoded.shown})
    if isinstance(decoded, codec.Refused):
        codec.encode_reply({"ackId": decoded.ack_id, "value": decoded.error.value})
        return
    for question in (ROUTER.request_of, ROUTER.audience_of):
        with suppress(MessageError):
            question(decoded.message)
    assert isinstance(codec.decode(codec.encode(decoded.message).decode()), codec.Decoded)


@settings(max_examples=300, deadline=None)
@given(objects)
def test_what_is_accepted_is_what_a_json_reader_reads(value: dict[str, object]) -> None:
    value["type"] = "a"
    text = json.dumps(value)
    decoded = codec.decode(text)
    if isinstance(decoded, codec.Decoded):
        dropped = {"ackId", "sentDateTime", "pubsubId", "position", "recovered", "isRetry", "lastRetryDateTime"}
        expected = {key: item for key, item in json.loads(text).items() if key not in dropped}
        assert json.loads(codec.encode(decoded.message)) == expected


@settings(max_examples=1_000, deadline=None)
@given(st.dictionaries(st.sampled_from(["type", "channel", "subId", "userTag", "origin"]), st.text()), st.binary())
def test_nothing_on_the_topic_raises_anything_but_a_message_error(attributes: dict[str, str], data: bytes) -> None:
    with suppress(MessageError):
        ROUTER.audience_of(codec.decode_attributes({"type": "a", **attributes}, data))
    with suppress(MessageError):
        ROUTER.audience_of(codec.decode_published(data))
