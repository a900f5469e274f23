"""What a text becomes, and what is written again."""

import json
import sys
import time
from types import FrameType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.protocol import codec
from app.protocol.codec import MAX_DEPTH, MAX_PROPERTIES, decode, decode_attributes, decode_published, encode
from app.protocol.errors import ErrorCode, MessageError
from app.protocol.messages import Message
from bench.reading import LARGEST, SHAPES


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
        ('{"type":"\\ud800"}', ErrorCode.INVALID_FIELD),
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


@pytest.mark.parametrize("length", range(8))
def test_text_that_ends_before_its_brackets_do_is_as_deep_as_it_came(length: int) -> None:
    text = '{"a":' + "[]," * 10 + "[],[]" + "[" * (MAX_DEPTH - 1)
    assert code_of(text + "]" * length) is ErrorCode.INVALID_JSON
    assert code_of(text + "[" + "]" * length) is ErrorCode.TOO_DEEP


def test_brackets_in_strings_and_side_by_side_are_not_depth() -> None:
    text = json.dumps({"type": "a", "payload": [["[{" * 200, '"[', "\\"], *([] for _ in range(500))]})
    assert read(text).payload is not None


def test_an_unreadable_text_is_shown_cut_and_a_readable_one_whole() -> None:
    assert refused("x" * 5000).shown == "x" * 1024
    shown = refused('{"channel":  "c"}').shown
    assert bytes(shown) == b'{"channel":  "c"}'  # type: ignore[arg-type]


def test_white_space_and_escapes_in_keys_are_no_duplicates() -> None:
    assert read(' {\n"type" : "a", "x\\u0041": 1, "payload" : 2 }\t').payload is not None


@pytest.mark.parametrize("space", [" ", "\\u0020", "\\n"])
def test_white_space_in_a_value_hides_no_duplicate(space: str) -> None:
    for count in range(40):
        assert code_of(f'{{"type":"a","x":"{space * count}","y":1,"y":1}}') is ErrorCode.DUPLICATE_KEY
        assert code_of(f'{{"type":"a","{space * count}":1, "y" :1,"y":1}}') is ErrorCode.DUPLICATE_KEY


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


def with_properties(count: int, *others: str, key: str = "k{}") -> str:
    """A message with so many properties, besides others that come first."""
    return "{" + ",".join((*others, *(f'"{key.format(number)}":{number}' for number in range(count)))) + "}"


def test_message_with_most_properties_is_read() -> None:
    assert len(read(with_properties(MAX_PROPERTIES - 1, '"type":"a"')).extras) == MAX_PROPERTIES - 1
    assert len(read(with_properties(MAX_PROPERTIES - 2, '"type":"a"', '"at":"12:30"')).extras) == MAX_PROPERTIES - 1


@pytest.mark.parametrize("count", [MAX_PROPERTIES, 30_000])
@pytest.mark.parametrize("key", ["k{}", "k", "\\u0065{}", "\\u0065"])
def test_message_with_more_properties_is_refused_with_its_ack_id(count: int, key: str) -> None:
    """Equal keys count as often as they stand."""
    text = with_properties(count, '"type":"a"', key=key)
    for written in ('{"ackId":7,' + text[1:], text[:-1] + ',"ackId":7}'):
        error, ack_id, shown = refused(written)
        assert (error.code, ack_id and bytes(ack_id), shown) == (ErrorCode.INVALID_FIELD, b"7", written[:1024])
        assert error.value == "a message may have at most 1000 properties at its top level; this one has more"


@pytest.mark.parametrize("ack_id", ["null", '""', "[7]"])
def test_error_for_too_many_properties_carries_no_bad_ack_id(ack_id: str) -> None:
    error, found, _ = refused(with_properties(MAX_PROPERTIES, '"type":"a"', f'"ackId":{ack_id}'))
    assert (error.code, found, "properties" in error.value) == (ErrorCode.INVALID_FIELD, None, True)


def test_text_that_is_no_json_behind_too_many_properties_is_invalid_json() -> None:
    assert code_of(with_properties(5000)[:-1]) is ErrorCode.INVALID_JSON
    assert code_of(with_properties(5000)[:-1] + ',"x":[}') is ErrorCode.INVALID_JSON


def test_properties_of_a_payload_are_not_counted() -> None:
    assert read('{"type":"a","payload":' + with_properties(30_000) + "}").payload is not None


def test_message_with_most_properties_is_read_again_from_the_topic() -> None:
    """What the service adds on the way makes no other instance refuse a message that its sender was told is sent."""
    message = read(with_properties(MAX_PROPERTIES - 1, '"type":"a"'))
    stamped = message.stamped(id="i", sent_date_time="then")
    assert decode_published(encode(stamped)).extras == message.extras
    with pytest.raises(MessageError, match="properties"):
        decode_published(with_properties(MAX_PROPERTIES + 100, '"type":"a"').encode())


def test_dict_with_too_many_properties_is_an_error() -> None:
    with pytest.raises(MessageError, match="properties"):
        codec.from_object({"type": "a", **dict.fromkeys(map(str, range(MAX_PROPERTIES)), 1)})


def test_error_for_a_duplicate_shows_the_beginning_of_a_long_key() -> None:
    key = '"' + "k" * 100_000 + '":1'
    assert len(refused('{"type":"a",' + key + "," + key + "}").error.value) < 300


def test_text_with_a_string_without_end_is_read_at_once() -> None:
    """Looking for its end anew from each escaped quote took minutes."""
    text = "[" * 200 + '"' + '\\"' * 64_000
    before = time.process_time()
    assert code_of(text) is ErrorCode.TOO_DEEP
    assert time.process_time() - before < 1


def steps(text: str) -> int:
    """Count the instructions of Python that reading a text takes."""
    count = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    others = sys.gettrace()
    sys.settrace(trace)
    try:
        decode(text)
    finally:
        sys.settrace(others)
    return count


@pytest.mark.parametrize("shape", SHAPES)
def test_hostile_text_of_twice_the_length_takes_at_most_twice_the_steps(shape: str) -> None:
    """What is done for each byte is done in C, and for each key only as far as there may be keys.

    `python -m bench.reading` measures the time of it.
    """
    steps(SHAPES[shape](LARGEST))  # Python 3.13 tells of the instructions only of what was traced before
    half, whole = steps(SHAPES[shape](LARGEST // 2)), steps(SHAPES[shape](LARGEST))
    assert whole <= 2 * half
    assert whole < 60 * MAX_PROPERTIES


class Pairs(list[tuple[str, Any]]):
    """An object with all its keys, equal ones too."""


def no_json(text: str) -> None:
    raise ValueError(text)


def parsed(text: str | bytes) -> Any:
    """Parse by the standard library: numbers as they are written, objects as pairs."""
    return json.loads(text, object_pairs_hook=Pairs, parse_int=str, parse_float=str, parse_constant=no_json)


def expected(text: str) -> ErrorCode | Pairs:
    """Tell by the standard library what a text is: the contract's error for it, or its properties."""
    try:
        value = parsed(text)
    except ValueError:
        return ErrorCode.INVALID_JSON
    if not isinstance(value, Pairs):
        return ErrorCode.NOT_AN_OBJECT
    return ErrorCode.DUPLICATE_KEY if len(dict(value)) < len(value) else value


SPACE = st.sampled_from([*["", " ", "\n", "\t", "\r", " \n  "] * 3, "\x0b", "\xa0"])
WRITTEN_KEYS = r"""x y \u0078 é \u00e9 \u00E9 😀 \ud83d\ude00 \ud83d \ude00\ud83d \" \\ \u005c \/ / \n \u000a \u0020 } {
    , : typ\u0065 a\\\"b"""
KEYS = st.sampled_from([*WRITTEN_KEYS.split(), "", " ", "\x7f", "\x01"])
WRITTEN_VALUES = r"""1 12 1.5 1.50 1e3 -0 0 01 - NaN true null nul 123456789012345678901234567890 "" "x" "x\"" "\\"
    "}" "[{" "," "\u0041" "A" "\udead" "é" "1" """
SCALARS = st.sampled_from(WRITTEN_VALUES.split())


def members(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds('{3}"{0}"{3}:{2}{1}'.format, KEYS, values, SPACE, SPACE)


def joined(pieces: list[str], opening: str, closing: str, space: str) -> str:
    return opening + space + f"{space},".join(pieces) + space + closing


def within(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds(joined, st.lists(values, max_size=3), st.just("["), st.just("]"), SPACE),
        st.builds(joined, st.lists(members(values), max_size=3), st.just("{"), st.just("}"), SPACE),
    )


VALUES = SCALARS | within(SCALARS) | within(SCALARS | within(SCALARS))


@given(st.permutations(['"type":"a"', *[None] * 4]), st.data(), SPACE, SPACE)
def test_objects_are_read_as_the_standard_library_reads_them(
    places: list[str | None], data: st.DataObject, inner: str, outer: str
) -> None:
    """A property is neither lost nor made up, and a key that stands twice is found however it is written."""
    pieces = [place or data.draw(members(VALUES)) for place in places[: data.draw(st.integers(0, 5))]]
    text = outer + joined(pieces, "{", "}", inner) + outer
    check_against_the_standard_library(text)


@given(st.text('{}[]",:\\ 1xu0é\n', max_size=12), st.text('{}[]",:\\ 1xu0é\n', max_size=12), members(VALUES))
@example('{"x":1,"x"', ":12}", '"x":1')
@example('{"x":12,"x":1,', "}", '"y":1')
@example("{ }", "", "")
def test_damaged_texts_are_read_as_the_standard_library_reads_them(before: str, after: str, member: str) -> None:
    check_against_the_standard_library(before + member + after)
    check_against_the_standard_library('{"type":"a",' + member + before + "}" + after)


def check_against_the_standard_library(text: str) -> None:
    """See that a text has the properties, or the error, that the standard library says."""
    should, decoded = expected(text), decode(text)
    if isinstance(should, ErrorCode):
        assert isinstance(decoded, codec.Refused)
        if not text.lstrip().startswith("{"):  # what begins as another value is told to be none, read on or not
            assert decoded.error.code in (ErrorCode.INVALID_JSON, ErrorCode.NOT_AN_OBJECT)
        else:
            assert decoded.error.code is should
    elif isinstance(decoded, codec.Decoded):
        extras = [(key, parsed(bytes(value))) for key, value in decoded.message.extras.items()]
        assert [("type", decoded.message.type), *extras] == sorted(should, key=lambda pair: pair[0] != "type")
    else:
        has_type = "type" in dict(should)
        assert decoded.error.code is (ErrorCode.INVALID_FIELD if has_type else ErrorCode.MISSING_FIELD)


OPENINGS = {"[": "]", '{"k\\"[":[': "]}"}
"""What begins a value that others go into, and what ends it: a character for each level."""
ELEMENTS = st.sampled_from([*OPENINGS, "[", "]", "]", '"[[[["', '"\\\\"', '"\\"{"', '""', "1"])


@given(st.integers(MAX_DEPTH - 12, MAX_DEPTH + 2), st.lists(ELEMENTS, max_size=300))
def test_depth_is_told_exactly(begin: int, elements: list[str]) -> None:
    """Brackets count where they stand outside strings, side by side or one in another."""
    text, closings, is_first = '{"type":"a","payload":' + "[" * (begin - 1), ["]"] * (begin - 1), True
    depth = deepest = begin
    for element in elements:
        if element != "]":
            text += element if is_first else f",{element}"
            is_first = element in OPENINGS
            if is_first:
                closings.append(OPENINGS[element])
                depth += len(closings[-1])
                deepest = max(deepest, depth)
        elif len(closings) > 1:
            depth -= len(closings[-1])
            text += closings.pop()
            is_first = False
    text += "".join(reversed(closings)) + "}"
    assert json.loads(text)
    if deepest <= MAX_DEPTH:
        assert read(text).payload is not None
    else:
        assert code_of(text) is ErrorCode.TOO_DEEP


@pytest.mark.parametrize("brackets", ["[", "]", "[]{", '\\"['])
def test_brackets_of_a_long_string_are_not_depth(brackets: str) -> None:
    strings = [f'"{brackets * count}"' for count in (20_000, 1, 30_001)]
    assert read('{"type":"a","payload":[' + ",[],".join(strings) + "]}").payload is not None
    assert code_of('{"type":"a","payload":[' + ",[],".join(strings) + "," + "[" * MAX_DEPTH) is ErrorCode.TOO_DEEP
