"""JSON in and out: the only module that knows how a message is written.

A message is taken apart at its top level only. Every value that the service does not have to understand stays the JSON
text that it was, so that numbers, escapes and the order of keys in a payload reach the receivers as they were sent.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw

from app.protocol.errors import ErrorCode, MessageError
from app.protocol.frame import Frame
from app.protocol.messages import MAX_NAME_LENGTH, NAME_RULE, SUBSCRIBE, Message, is_name

MAX_DEPTH = 128
MAX_SHOWN_LENGTH = 1024
"""How many characters of an unreadable message come back in its error."""

_SET_BY_SERVICE = ("sentDateTime", "pubsubId", "position", "isRetry", "lastRetryDateTime", "recovered")
_NAMES = {"type": "type", "channel": "channel", "subId": "sub_id", "userTag": "user_tag", "id": "id"}
_ID = b',"id":"'
_SENT = b'","sentDateTime":"'
_AFTER_ID = _SENT + b'2026-01-31T12:00:00.123Z"}'
_MAX_ID_BYTES = len(_ID) + 4 * MAX_NAME_LENGTH
_INTEGER = re.compile(rb"-?[0-9]{1,255}")
_BRACKETS_OUTSIDE_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"|[^\[\]{}"]+', re.DOTALL)
_OBJECT = msgspec.json.Decoder(dict[str, Raw])
_STRING = msgspec.json.Decoder(str)
_PAIRS = json.JSONDecoder(object_pairs_hook=list, parse_int=str, parse_float=str)


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
    data = text.encode()
    fields: dict[str, Raw] | None = None
    ack_id: Raw | None = None
    try:
        fields = _split(text, data)
        ack_id = _take_ack_id(fields)
        message = _message(fields, ack_id)
    except MessageError as error:
        readable = fields is not None
        return Refused(error, ack_id, Raw(data) if readable else text[:MAX_SHOWN_LENGTH])
    return Decoded(message, Raw(data))


def decode_published(data: bytes) -> Message:
    """Read a message that was published as a whole (form 1 of section 4). Raises MessageError."""
    fields = _split(_text(data), data)
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
    _check_depth(_text(data))
    try:
        return Raw(bytes(msgspec.json.decode(data, type=Raw)))
    except msgspec.DecodeError as error:
        raise MessageError(ErrorCode.INVALID_JSON, f"the payload is not JSON: {_lower(error)}") from None


def from_object(value: Mapping[str, Any]) -> Message:
    """Make a message of a dict that a handler or embedder wrote. Raises MessageError; TypeError for what is no JSON."""
    data = msgspec.json.encode(value)
    fields = _split(data.decode(), data)
    fields.pop("ackId", None)
    return _message(fields, None)


def to_object(message: Message) -> dict[str, Any]:
    """A message as a dict with its values decoded, as custom handlers read it. Raises MessageError."""
    try:
        decoded: dict[str, Any] = json.loads(msgspec.json.encode(_fields(message, with_ack_id=True)))
    except ValueError as error:
        raise MessageError(ErrorCode.INVALID_FIELD, f"a number cannot be read: {_lower(error)}") from None
    return decoded


def encode(message: Message, **marks: object) -> bytes:
    """Write a message; `marks` are further top-level properties (such as isRetry=True)."""
    fields = _fields(message)
    return msgspec.json.encode(fields | marks if marks else fields)


def completed(data: bytes, **marks: str) -> bytes:
    """A message as `encode` writes one, with further top-level properties; what it says already is not read again."""
    return data[:-1] + b"," + msgspec.json.encode(marks)[1:] if marks else data


def encode_frame(message: Message, **marks: object) -> Frame:
    """Write a message as the frame that its receivers get."""
    return Frame(encode(message, **marks))


def encode_reply(fields: Mapping[str, object]) -> Frame:
    """Write what the service itself says to one client; what is None is left out."""
    return Frame(msgspec.json.encode({key: value for key, value in fields.items() if value is not None}))


def encode_json(value: object) -> bytes:
    """Write any plain value, such as a payload or an HTTP answer. Raises TypeError where a value has no JSON."""
    return msgspec.json.encode(value)


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


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise MessageError(ErrorCode.INVALID_JSON, f"not UTF-8 at byte {error.start}") from None


def _split(text: str, data: bytes) -> dict[str, Raw]:
    """Split an object into its top-level properties, each as the JSON it was; `data` is the same in UTF-8."""
    _check_depth(text)
    try:
        fields = _OBJECT.decode(data)
    except msgspec.ValidationError:
        raise MessageError(ErrorCode.NOT_AN_OBJECT, 'a message is a JSON object, such as {"type": "getInfo"}') from None
    except msgspec.DecodeError as error:
        raise MessageError(ErrorCode.INVALID_JSON, f"not JSON: {_lower(error)}") from None
    _check_duplicate_keys(text, data, fields)
    return fields


def _lower(error: Exception) -> str:
    text = str(error).removeprefix("JSON is malformed: ")
    return text[:1].lower() + text[1:]


def _check_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= MAX_DEPTH:  # nearly always: not enough brackets to be too deep
        return
    depth = 0
    for bracket in _BRACKETS_OUTSIDE_STRINGS.sub("", text):
        if bracket in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise MessageError(ErrorCode.TOO_DEEP, f"JSON may be at most {MAX_DEPTH} levels deep")
        elif bracket in "]}":
            depth -= 1


def _check_duplicate_keys(text: str, data: bytes, fields: Mapping[str, Raw]) -> None:
    # The decoder keeps the last of two equal keys. The encoder writes the shortest text that has just these fields; one
    # of that length has no room for another key, so only one with white space, with keys that are escaped and need not
    # be, or with a duplicate is read a second time.
    if len(data) == len(msgspec.json.encode(fields)):
        return
    try:
        pairs = _PAIRS.decode(text)
    except (ValueError, RecursionError):  # stricter than the first reading, for instance about white space
        raise MessageError(ErrorCode.INVALID_JSON, "not JSON") from None
    if len(pairs) != len(fields):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise MessageError(ErrorCode.DUPLICATE_KEY, f"the key {json.dumps(twice)} stands twice")


def _string(written: Raw | None) -> str | None:
    """The string that this JSON is, None for any other value."""
    return _STRING.decode(written) if written is not None and bytes(written).startswith(b'"') else None


def _not_a_name(key: str) -> MessageError:
    return MessageError(ErrorCode.INVALID_FIELD, f"{key} must be {NAME_RULE}")


def _take_ack_id(fields: dict[str, Raw]) -> Raw | None:
    value = fields.pop("ackId", None)
    if value is None:
        return None
    if _INTEGER.fullmatch(value) or is_name(_string(value)):
        return Raw(bytes(value))
    raise MessageError(ErrorCode.INVALID_FIELD, f"ackId must be an integer or {NAME_RULE}")


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
