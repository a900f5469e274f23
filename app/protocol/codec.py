"""JSON in and out: the only module that knows how a message is written.

A message is taken apart at its top level only. Every value that the service does not have to understand stays the JSON
text that it was, so that numbers, escapes and the order of keys in a payload reach the receivers as they were sent.
"""

import json
import re
from array import array
from collections.abc import Mapping
from contextlib import suppress
from itertools import accumulate
from operator import add
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw

from app.protocol.errors import ErrorCode, MessageError
from app.protocol.frame import Frame
from app.protocol.messages import MAX_NAME_LENGTH, NAME_RULE, SUBSCRIBE, Message, is_name

MAX_DEPTH = 128
MAX_PROPERTIES = 1000
"""How many properties a message may have at its top level; what the service adds to it on its way is not counted."""
MAX_SHOWN_LENGTH = 1024
"""How many characters of an unreadable message come back in its error."""

_SET_BY_SERVICE = ("sentDateTime", "pubsubId", "position", "isRetry", "lastRetryDateTime", "recovered")
_MAX_ADDED = len(_SET_BY_SERVICE) + len(("id",))
_NAMES = {"type": "type", "channel": "channel", "subId": "sub_id", "userTag": "user_tag", "id": "id"}
_ID = b',"id":"'
_SENT = b'","sentDateTime":"'
_AFTER_ID = _SENT + b'2026-01-31T12:00:00.123Z"}'
_MAX_ID_BYTES = len(_ID) + 4 * MAX_NAME_LENGTH
_INTEGER = re.compile(rb"-?[0-9]{1,255}")
_NEITHER_QUOTE_NOR_BRACKET = bytes(byte for byte in range(256) if byte not in b'"[]{}')
_SPLIT_AT_ONCE = 16_384
"""Bytes: the parts of so many find room where those before them were; all of them at once take twice as long."""
_ONE_IF_IT_OPENS = bytes(ord("1") if byte in b"[{" else ord("0") for byte in range(256))
_EIGHT_LEAD = bytes((2 * byte.bit_count() - 8) % 256 for byte in range(256))
_EIGHT_REACH = bytes(max(2 * (byte >> (8 - taken)).bit_count() - taken for taken in range(9)) for byte in range(256))
"""For eight brackets, packed into a byte with a 1 for each that opens: how much deeper they lead (a signed byte), and
how much deeper they reach in between."""
_SPACES = (b" ", b"\n", b"\r", b"\t")
_SHORTEST_PROPERTY = len(b'"":1,')
_OBJECT = msgspec.json.Decoder(dict[str, Raw])
_STRING = msgspec.json.Decoder(str)
_HALF_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
"""Half a surrogate pair, as JSON may write it. It is JSON by its grammar, and the decoder refuses it."""
_HALF = re.compile("[\ud800-\udfff]")
_BLANK = b"\x7f"
"""Stands for a byte of such an escape while a text is split: as long, JSON too, and in no name."""
_skip_space = re.compile(rb"[ \t\n\r]*").match
_SCALAR = r'(?:"[^"\\]*"|[-+.0-9a-zA-Z]+)'
_ACK_ID = r'"ackId"\s*:\s*(-?[0-9]{1,255}|"[^"\\]{1,255}")\s*'
_ACK_ID_AT_THE_BEGIN = re.compile(rf'\s*\{{\s*(?:"[^"\\]*"\s*:\s*{_SCALAR}\s*,\s*){{0,20}}{_ACK_ID}[,}}]')
_ACK_ID_AT_THE_END = re.compile(rf"[{{,]\s*{_ACK_ID}\}}\s*\Z")
_BEGIN, _END = 4096, 600
"""Characters in which these are looked for."""


class _Key:
    """Stand for a key in a dict that shall keep equal ones, too."""


class _Enough(Exception):
    """End a decoding that has noted all the keys it was to note."""


class _TooManyProperties(MessageError):
    """Refuse a message for the number of its properties."""

    def __init__(self, most: int) -> None:
        text = f"a message may have at most {most} properties at its top level; this one has more"
        super().__init__(ErrorCode.INVALID_FIELD, text)


class _DuplicateKey(MessageError):
    """Refuse a message that says a property twice."""

    def __init__(self, key: str) -> None:
        super().__init__(ErrorCode.DUPLICATE_KEY, f"the key {json.dumps(key[:MAX_NAME_LENGTH])} stands twice")
        self.key = key


class _Marked(msgspec.Struct):
    """As much of a message as its request's mark."""

    ackId: Raw | msgspec.UnsetType = msgspec.UNSET  # noqa: N815  # the wire's name


_MARK = msgspec.json.Decoder(_Marked)


class Decoded(NamedTuple):
    """A message that was read, and the object that it was read from."""

    message: Message
    shown: Raw


class Refused(NamedTuple):
    """A text that is no message: the error that its sender is told, the request's `ack_id`, and what came (`shown`)."""

    error: MessageError
    ack_id: Raw | None
    shown: Raw | str


def decode(text: str) -> Decoded | Refused:
    """Read a client's message. Never raises for any text."""
    text = well_formed(text)
    data = text.encode()
    fields: dict[str, Raw] | None = None
    ack_id: Raw | None = None
    try:
        fields = _split(data, MAX_PROPERTIES)
        ack_id = _take_ack_id(fields)
        message = _message(fields, ack_id)
    except MessageError as error:
        if fields is not None:
            return Refused(error, ack_id, Raw(data))
        is_told_apart = not isinstance(error, _DuplicateKey) or error.key != "ackId"
        return Refused(error, ack_id_of(text) if is_told_apart else None, text[:MAX_SHOWN_LENGTH])
    return Decoded(message, Raw(data))


def well_formed(text: str) -> str:
    """Write halves of surrogate pairs, which a handler may have in its text, as escapes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return _escape_halves(text)
    return text


def _escape_halves(text: str) -> str:
    return _HALF.sub(lambda half: f"\\u{ord(half[0]):04x}", text)


def shown(text: str) -> Raw | str:
    """Return what an error shows of a message that was not read: its text, cut where it is long."""
    return text[:MAX_SHOWN_LENGTH]


def ack_id_of(text: str) -> Raw | None:
    """Return a request's own mark without reading the rest of it; None where that cannot be told."""
    data = well_formed(text).encode()
    try:
        value = _mark_of(data)
    except msgspec.DecodeError:
        return None
    except RecursionError:
        value = _mark_beside_depths(text)
    return Raw(bytes(value)) if value is not None and _is_ack_id(value) else None


def _mark_of(data: bytes) -> Raw | None:
    try:
        value = _MARK.decode(data).ackId
    except msgspec.DecodeError:
        if not _HALF_ESCAPE.search(data):
            raise
        value = _MARK.decode(_without_escapes(data)).ackId
    return None if value is msgspec.UNSET else value


def _mark_beside_depths(text: str) -> Raw | None:
    """The mark of a request that is too deep to be read through, where it is among the first properties or the last."""
    found = _ACK_ID_AT_THE_BEGIN.match(text[:_BEGIN]) or _ACK_ID_AT_THE_END.search(text[-_END:])
    return None if found is None else Raw(found[1].encode())


def decode_published(data: bytes) -> Message:
    """Read a message that was published as a whole (form 1 of section 4). Raises MessageError."""
    _check_utf8(data)
    fields = _split(data, MAX_PROPERTIES + _MAX_ADDED)
    fields.pop("ackId", None)
    sent_date_time = _string(fields.get("sentDateTime"))
    return msgspec.structs.replace(_message(fields, None), sent_date_time=sent_date_time)


def id_at_the_end(data: bytes) -> str | None:
    """The id in a message as `encode` writes one, whose last properties are id and sentDateTime; None where it cannot
    be told without reading it all.
    """
    end = len(data) - len(_AFTER_ID)
    start = data.rfind(_ID, max(0, end - _MAX_ID_BYTES), end) + len(_ID)
    written = data[start:end]
    if start < len(_ID) or b"\\" in written or b'"' in written or data[end : end + len(_SENT)] != _SENT:
        return None
    return written.decode(errors="replace")


def decode_attributes(attributes: Mapping[str, str], data: bytes) -> Message:
    """Read a payload that was published with the rest in attributes (form 2 of section 4). Raises MessageError."""
    names = {}
    for key in ("type", "channel", "subId", "userTag"):
        value = attributes.get(key)
        if value is None:
            continue
        if not is_name(value):
            raise _not_a_name(key)
        names[_NAMES[key]] = value
    return Message(**names, payload=_payload(data))  # type: ignore[arg-type]


def _payload(data: bytes) -> Raw | None:
    if not data:
        return None
    _check_utf8(data)
    _check_depth(data)
    try:
        return Raw(bytes(msgspec.json.decode(data, type=Raw)))
    except msgspec.DecodeError as error:
        problem = error
    if _HALF_ESCAPE.search(data):
        begin = _after_space(data, 0)
        with suppress(msgspec.DecodeError):
            return Raw(data[begin : begin + len(bytes(msgspec.json.decode(_without_escapes(data), type=Raw)))])
    raise MessageError(ErrorCode.INVALID_JSON, f"the payload is not JSON: {_lower(problem)}")


def from_object(value: Mapping[str, Any]) -> Message:
    """Make a message of a dict that a handler or embedder wrote. Raises MessageError; TypeError for what is no JSON."""
    fields = _split(encode_json(value), MAX_PROPERTIES)
    fields.pop("ackId", None)
    return _message(fields, None)


def to_object(message: Message) -> dict[str, Any]:
    """A message as a dict with its values decoded, as custom handlers read it. Raises MessageError."""
    try:
        decoded: dict[str, Any] = json.loads(encode_json(_fields(message, with_ack_id=True)))
    except ValueError as error:
        raise MessageError(ErrorCode.INVALID_FIELD, f"a number cannot be read: {_lower(error)}") from None
    return decoded


def encode(message: Message, **marks: object) -> bytes:
    """Write a message; `marks` are further top-level properties (such as isRetry=True)."""
    fields = _fields(message)
    return encode_json(fields | marks if marks else fields)


def completed(data: bytes, **marks: object) -> bytes:
    """A message as `encode` writes one, with further top-level properties; what it says already is not read again."""
    return data[:-1] + b"," + msgspec.json.encode(marks)[1:] if marks else data


def encode_frame(message: Message, **marks: object) -> Frame:
    """Write a message as the frame that its receivers get."""
    return Frame(encode(message, **marks))


def encode_reply(fields: Mapping[str, object]) -> Frame:
    """Write what the service itself says to one client; what is None is left out."""
    return Frame(encode_json({key: value for key, value in fields.items() if value is not None}))


def encode_json(value: object) -> bytes:
    """Write any plain value, such as a payload or an HTTP answer. Raises TypeError where a value has no JSON."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return _encode_by_hand(value)


def _encode_by_hand(value: object) -> bytes:
    """Write a value in which texts hold halves of surrogate pairs: each as an escape, as it may have come."""
    match value:
        case str():
            return _escape_halves(json.dumps(value, ensure_ascii=False)).encode()
        case Mapping():
            return (
                b"{" + b",".join(_encode_key(key) + b":" + _encode_by_hand(each) for key, each in value.items()) + b"}"
            )
        case list() | tuple() | set() | frozenset():
            return b"[" + b",".join(map(_encode_by_hand, value)) + b"]"
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return _encode_by_hand(msgspec.to_builtins(value))


def _encode_key(key: object) -> bytes:
    return _encode_by_hand(key) if isinstance(key, str) else msgspec.json.encode({key: 0})[1 : -len(":0}")]


def _fields(message: Message, *, with_ack_id: bool = False) -> dict[str, object]:
    fields = {
        "type": message.type,
        "channel": message.channel,
        "subId": message.sub_id,
        "userTag": message.user_tag,
        "payload": message.payload,
        **message.extras,
        "id": message.id,
        "sentDateTime": message.sent_date_time,
        "pubsubId": message.pubsub_id,
        "position": message.position,
        "ackId": message.ack_id if with_ack_id else None,
    }
    return {key: value for key, value in fields.items() if value is not None}


def _check_utf8(data: bytes) -> None:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise MessageError(ErrorCode.INVALID_JSON, f"not UTF-8 at byte {error.start}") from None


def _split(data: bytes, most: int) -> dict[str, Raw]:
    """Split an object into its top-level properties, each as the JSON it was; there may be so many of them."""
    _check_depth(data)
    try:
        if len(data) > most * _SHORTEST_PROPERTY and _has_more_than(most, data):
            _MARK.decode(data)  # the rest must be JSON, too
            raise _TooManyProperties(most)
        fields = _OBJECT.decode(data)
    except msgspec.ValidationError:
        raise MessageError(ErrorCode.NOT_AN_OBJECT, 'a message is a JSON object, such as {"type": "getInfo"}') from None
    except msgspec.DecodeError as error:
        if _HALF_ESCAPE.search(data):
            return _split_with_halves(data, most)
        raise MessageError(ErrorCode.INVALID_JSON, f"not JSON: {_lower(error)}") from None
    _check_duplicate_keys(data, fields)
    return fields


def _split_with_halves(data: bytes, most: int) -> dict[str, Raw]:
    """Split an object with halves of surrogate pairs in it, as `_split` does."""
    # What is as long and has blanks for them is read in their place: it tells whether all is JSON, and how long each
    # value is. Two keys may be equal there which are not.
    plain = _without_escapes(data)
    try:
        if _has_more_than(most, plain):
            _MARK.decode(plain)
            raise _TooManyProperties(most)
        values = msgspec.json.decode(plain, type=dict[_Key, Raw], dec_hook=lambda _type, _key: _Key()).values()
    except msgspec.DecodeError as error:
        raise MessageError(ErrorCode.INVALID_JSON, f"not JSON: {_lower(error)}") from None
    fields: dict[str, Raw] = {}
    at = 0
    for value in values:
        begin = plain.index(b'"', at)
        end = plain.index(b'"', begin + 1) + 1
        key = json.loads(data[begin:end])
        if key in fields:
            raise _DuplicateKey(key)
        begin = _after_space(data, plain.index(b":", end) + 1)
        at = begin + len(bytes(value))
        fields[key] = Raw(data[begin:at])
    return fields


def _without_escapes(data: bytes) -> bytes:
    """Write blanks for what may be half a surrogate pair, and for what would hide where one or a string begins."""
    data = data.replace(b"\\\\", 2 * _BLANK).replace(b'\\"', 2 * _BLANK)
    return _HALF_ESCAPE.sub(6 * _BLANK, data)


def _after_space(data: bytes, at: int) -> int:
    space = _skip_space(data, at)
    return at if space is None else space.end()


def _has_more_than(most: int, data: bytes) -> bool:
    # To build 33,000 properties takes 5 ms, to note the first 1,001 keys 0.3, to see that the colons are too few 0.01.
    return len(data) - len(data.replace(b":", b"", most + 1)) > most and len(_first_keys(data, most + 1)) > most


def _first_keys(data: bytes, most: int) -> list[str]:
    """List the keys of an object as they stand, equal ones too, but no more than so many."""
    keys: list[str] = []

    def note(_type: type, key: Any) -> _Key:
        keys.append(key)
        if len(keys) == most:
            raise _Enough
        return _Key()

    with suppress(_Enough):
        msgspec.json.decode(data, type=dict[_Key, Raw], dec_hook=note)
    return keys


def _lower(error: Exception) -> str:
    text = str(error).removeprefix("JSON is malformed: ")
    return text[:1].lower() + text[1:]


def _check_depth(data: bytes) -> None:
    if len(data) <= MAX_DEPTH:
        return
    # Nearly always there are not enough brackets to be too deep. To take out one kind, no more of it than may be, takes
    # 0.2 us for 4 kB that have none; to count them takes 1.2.
    most = MAX_DEPTH + 1
    openings = 2 * len(data) - len(data.replace(b"[", b"", most)) - len(data.replace(b"{", b"", most))
    if openings <= MAX_DEPTH:
        return
    if _depth(_brackets_outside_strings(data)) > MAX_DEPTH:
        raise MessageError(ErrorCode.TOO_DEEP, f"JSON may be at most {MAX_DEPTH} levels deep")


def _brackets_outside_strings(data: bytes) -> bytes:
    """Leave out all else; a string that has no end goes to the end of the text."""
    # All of it in C: 262,144 bytes take at most 2.5 ms, where a regular expression for strings takes 8 to 10.
    if b'\\"' in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")  # what quotes are left begin a string or end one
    # Two quotes side by side are an empty string, or one string's end and another's beginning: neither hides a bracket.
    marks = data.translate(None, _NEITHER_QUOTE_NOR_BRACKET).replace(b'""', b"")
    outside = []
    is_inside = 0
    for start in range(0, len(marks), _SPLIT_AT_ONCE):
        parts = marks[start : start + _SPLIT_AT_ONCE].split(b'"')
        outside.append(b"".join(parts[is_inside::2]))
        is_inside ^= (len(parts) - 1) & 1
    return b"".join(outside)


def _depth(brackets: bytes) -> int:
    # Eight at a time: 262,144 brackets take 2 ms; one at a time, even with all of it in C, they take 8.
    whole = brackets + b"]" * (-len(brackets) % 8)
    packed = int(b"0" + whole.translate(_ONE_IF_IT_OPENS), 2).to_bytes(len(whole) // 8)
    before = accumulate(array("b", packed.translate(_EIGHT_LEAD)), initial=0)
    return max(map(add, before, packed.translate(_EIGHT_REACH)), default=0)


def _check_duplicate_keys(data: bytes, fields: Mapping[str, Raw]) -> None:
    # The decoder keeps the last of two equal keys. The encoder writes the shortest text that has just these fields; one
    # of that length has no room for another key, nor has one that is longer by its white space alone. So only a text
    # with a duplicate, or with keys that are escaped and need not be, is read a second time.
    shortest = msgspec.json.encode(fields)
    longer = len(data) - len(shortest)
    if not longer:
        return
    for space in _SPACES:
        longer -= data.count(space) - shortest.count(space)
        if not longer:
            return
    seen: set[str] = set()
    for key in _first_keys(data, len(data)):
        if key in seen:
            raise _DuplicateKey(key)
        seen.add(key)


def _string(written: Raw | None) -> str | None:
    """The string that this JSON is; None for any other value, and for one with half a surrogate pair."""
    if written is None or not bytes(written).startswith(b'"'):
        return None
    try:
        return _STRING.decode(written)
    except msgspec.DecodeError:
        return None


def _not_a_name(key: str) -> MessageError:
    return MessageError(ErrorCode.INVALID_FIELD, f"{key} must be {NAME_RULE}")


def _take_ack_id(fields: dict[str, Raw]) -> Raw | None:
    value = fields.pop("ackId", None)
    if value is None:
        return None
    if _is_ack_id(value):
        return Raw(bytes(value))
    raise MessageError(ErrorCode.INVALID_FIELD, f"ackId must be an integer or {NAME_RULE}")


def _is_ack_id(written: Raw) -> bool:
    return _INTEGER.fullmatch(written) is not None or is_name(_string(written))


def _message(fields: dict[str, Raw], ack_id: Raw | None) -> Message:
    """Build the message; takes `fields` apart."""
    if "type" not in fields:
        raise MessageError(ErrorCode.MISSING_FIELD, "type is missing")
    position = _position(fields)
    for name in _SET_BY_SERVICE:
        fields.pop(name, None)
    names: dict[str, str] = {}
    for key, attribute in _NAMES.items():
        written = fields.pop(key, None)
        if written is None:
            continue
        value = _string(written)
        if value is None or not is_name(value):
            raise _not_a_name(key)
        names[attribute] = value
    payload = fields.pop("payload", None)
    return Message(**names, position=position, ack_id=ack_id, payload=payload, extras=fields)


def _position(fields: Mapping[str, Raw]) -> str | None:
    """Where a subscriber goes on from; in all else that comes in it says nothing."""
    written = fields.get("position")
    if written is None or _string(fields["type"]) != SUBSCRIBE or bytes(written) == b"null":
        return None
    position = _string(written)
    if position is None:
        raise MessageError(ErrorCode.INVALID_FIELD, "position must be the string that came with a message or a reply")
    return position
