"""What a text becomes, and what is written again."""

import json

import pytest

from app.protocol import codec
from app.protocol.codec import MAX_DEPTH, decode, decode_attributes, decode_published, encode
from app.protocol.errors import ErrorCode, MessageError
from app.protocol.messages import Message


def read(text: str) -> Message:
    decoded = decode(text)
    assert isinstance(decoded, codec.Decoded), decoded.error
    return decoded.message


def refused(text: str) -> codec.Refused:
    decoded = decode(text)
    assert isinstance(decoded, codec.Refused)
    return decoded


def code_of(text: str) -> ErrorCode:
    return refused(text).error.code


PAYLOADS = [
    "1e400",
    "-0",
    "1E+5",
    "12345678901234567890123",
    "1.10",
    '"\\u00e9\\/\\n\\ud83d\\ude00"',
    '"é😀\u2028"',
    '{"b": 1,  "a":[ ],"b":2}',
    "[[[[[]]]]]",
    '""',
    "{}",
    "null",
    "false",
]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_payload_is_written_as_it_was_read(payload: str) -> None:
    written = encode(read(f'{{"type":"a","payload":{payload}}}')).decode()
    assert written == f'{{"type":"a","payload":{payload}}}'


def test_unknown_properties_travel_untouched_and_in_order() -> None:
    text = '{"type":"a","z":1.0,"y":{"k" : [1,2]},"channel":"c","x":"\\u0041"}'
    assert encode(read(text)).decode() == '{"type":"a","channel":"c","z":1.0,"y":{"k" : [1,2]},"x":"\\u0041"}'


def test_properties_that_the_service_sets_are_not_taken_from_a_client() -> None:
    sets = ["sentDateTime", "pubsubId", "position", "isRetry", "lastRetryDateTime", "recovered"]
    text = json.dumps({"type": "a", **dict.fromkeys(sets, "forged")})
    assert encode(read(text)) == b'{"type":"a"}'


def test_the_requests_mark_is_kept_apart_and_never_written() -> None:
    message = read('{"type":"a","ackId":"mine"}')
    assert bytes(message.ack_id or b"") == b'"mine"'
    assert encode(message) == b'{"type":"a"}'


@pytest.mark.parametrize("ack_id", ["7", "-7", '"x"', '"\\u00e9"', "9" * 255])
def test_a_mark_is_an_integer_or_a_name(ack_id: str) -> None:
    assert bytes(read(f'{{"type":"a","ackId":{ack_id}}}').ack_id or b"").decode() == ack_id


@pytest.mark.parametrize("ack_id", ["null", "true", "1.5", "1e3", '""', "[]", "{}", '"a\\u0000"', "9" * 256])
def test_any_other_mark_is_an_invalid_field(ack_id: str) -> None:
    decoded = refused(f'{{"type":"a","ackId":{ack_id}}}')
    assert decoded.error is not None
    assert decoded.error.code is ErrorCode.INVALID_FIELD
    assert decoded.ack_id is None


def test_an_error_after_a_good_mark_carries_the_mark() -> None:
    assert bytes(refused('{"type":"","ackId":5}').ack_id or b"") == b"5"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", ErrorCode.INVALID_JSON),
        ("{", ErrorCode.INVALID_JSON),
        ("nonsense", ErrorCode.INVALID_JSON),
        ('{"type":"a",}', ErrorCode.INVALID_JSON),
        ('{"type":"a","payload":NaN}', ErrorCode.INVALID_JSON),
        ('{"type":"a","payload":01}', ErrorCode.INVALID_JSON),
        ('{"type":"a"}{}', ErrorCode.INVALID_JSON),
        ('{"type":"\\ud800"}', ErrorCode.INVALID_JSON),
        ("\ufeff{}", ErrorCode.INVALID_JSON),
        ("[]", ErrorCode.NOT_AN_OBJECT),
        ("42", ErrorCode.NOT_AN_OBJECT),
        ('"a"', ErrorCode.NOT_AN_OBJECT),
        ("null", ErrorCode.NOT_AN_OBJECT),
        ('{"type":"a","type":"a"}', ErrorCode.DUPLICATE_KEY),
        ('{"type":"a","x":1,"x":1}', ErrorCode.DUPLICATE_KEY),
        ('{"type":"a","typ\\u0065":"b"}', ErrorCode.DUPLICATE_KEY),
        ('{ "type" : "a" , "x" : 1 , "x" : 2 }', ErrorCode.DUPLICATE_KEY),
        ("{}", ErrorCode.MISSING_FIELD),
        ('{"channel":"c"}', ErrorCode.MISSING_FIELD),
        ('{"type":"a","subId":"s"}', ErrorCode.MISSING_FIELD),
    ],
)
def test_each_bad_text_has_its_code(text: str, code: ErrorCode) -> None:
    assert code_of(text) is code


@pytest.mark.parametrize("field", ["type", "channel", "subId", "userTag", "id"])
@pytest.mark.parametrize("value", ["null", "1", "true", "[]", "{}", '""', f'"{"x" * 256}"', '"a\\u0007"', '"\\u007f"'])
def test_a_name_that_is_none_is_an_invalid_field(field: str, value: str) -> None:
    fields = {"type": '"a"', "channel": '"c"', field: value}
    text = "{" + ",".join(f'"{key}":{value}' for key, value in fields.items()) + "}"
    error = refused(text).error
    assert error is not None
    assert (error.code, field in error.value) == (ErrorCode.INVALID_FIELD, True)


def test_a_name_has_up_to_255_characters_of_any_script() -> None:
    assert read(json.dumps({"type": "a", "channel": "é" * 255}, ensure_ascii=False)).channel == "é" * 255


def nested(depth: int, opening: str = "[", closing: str = "]") -> str:
    """A message that is `depth` levels deep, its own object included."""
    return f'{{"type":"a","payload":{opening * (depth - 1)}{closing * (depth - 1)}}}'


def test_the_deepest_message_passes_and_one_level_more_does_not() -> None:
    assert read(nested(MAX_DEPTH)).payload is not None
    assert code_of(nested(MAX_DEPTH + 1)) is ErrorCode.TOO_DEEP


def test_a_depth_bomb_is_an_error_and_no_crash() -> None:
    assert code_of(nested(100_000)) is ErrorCode.TOO_DEEP
    assert code_of('{"a":' * 100_000) is ErrorCode.TOO_DEEP


def test_brackets_in_strings_and_side_by_side_are_not_depth() -> None:
    text = json.dumps({"type": "a", "payload": [["[{" * 200, '"[', "\\"], *([] for _ in range(500))]})
    assert read(text).payload is not None


def test_an_unreadable_text_is_shown_cut_and_a_readable_one_whole() -> None:
    assert refused("x" * 5000).shown == "x" * 1024
    shown = refused('{"channel":  "c"}').shown
    assert bytes(shown) == b'{"channel":  "c"}'  # type: ignore[arg-type]


def test_white_space_and_escapes_in_keys_are_no_duplicates() -> None:
    assert read(' {\n"type" : "a", "x\\u0041": 1, "payload" : 2 }\t').payload is not None


def test_published_messages_lose_what_only_a_request_has() -> None:
    message = decode_published(b'{"type":"a","id":"i","sentDateTime":"then","ackId":1,"pubsubId":"forged","x":1}')
    assert (message.id, message.sent_date_time, message.ack_id, message.pubsub_id) == ("i", "then", None, None)
    assert encode(message) == b'{"type":"a","x":1,"id":"i","sentDateTime":"then"}'


def test_published_bytes_must_be_utf8() -> None:
    with pytest.raises(MessageError, match="not UTF-8 at byte 21"):
        decode_published(b'{"type":"a","payload"\xff:1}')


def test_a_payload_alone_gets_the_rest_from_attributes() -> None:
    attributes = {"type": "announce", "channel": "c", "subId": "s", "userTag": "u", "other": "ignored"}
    message = decode_attributes(attributes, b' {"n":1e400} ')
    assert encode(message) == b'{"type":"announce","channel":"c","subId":"s","userTag":"u","payload":{"n":1e400}}'


def test_no_payload_at_all_is_a_message_without_one() -> None:
    assert encode(decode_attributes({"type": "a"}, b"")) == b'{"type":"a"}'


@pytest.mark.parametrize(
    ("attributes", "data"),
    [
        ({"type": "a"}, b"hello"),
        ({"type": "a"}, b"\xff"),
        ({"type": "a"}, b"1 2"),
        ({"type": "a"}, b"[" * 1000),
        ({"type": ""}, b"1"),
        ({"type": "a", "channel": "x" * 256}, b"1"),
        ({"type": "a", "subId": "s"}, b"1"),
    ],
)
def test_a_bad_payload_or_attribute_is_an_error(attributes: dict[str, str], data: bytes) -> None:
    with pytest.raises(MessageError):
        decode_attributes(attributes, data)


def test_a_handler_reads_a_dict_and_writes_one() -> None:
    message = read('{"type":"a","payload":{"n":[1,2.5,"x"]},"own":true,"ackId":3}')
    value = codec.to_object(message)
    assert value == {"type": "a", "payload": {"n": [1, 2.5, "x"]}, "own": True, "ackId": 3}
    assert encode(codec.from_object(value)) == b'{"type":"a","payload":{"n":[1,2.5,"x"]},"own":true}'


def test_a_number_that_python_will_not_read_is_an_error_and_no_crash() -> None:
    with pytest.raises(MessageError, match="number"):
        codec.to_object(read('{"type":"a","payload":' + "9" * 5000 + "}"))
