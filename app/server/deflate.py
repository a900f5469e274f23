"""permessage-deflate (RFC 7692) without context takeover: a message is compressed once for all who get it.

Where every message stands for itself, a socket that compresses needs no more memory than one that does not, and the
same bytes suit all sockets. Our own messages are compressed in `app.protocol.frame`; this negotiates it, and inflates
what clients send, never beyond the largest message.
"""

import zlib
from typing import Any

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, Opcode, RsvBits

_END_OF_BLOCK = b"\x00\x00\xff\xff"
_AFTER_FINAL = 1 + len(_END_OF_BLOCK)
"""Bytes that may follow a block that says it is the last (RFC 7692, 7.2.3.4)."""
_WINDOW = "15"
"""Bits: what our messages are compressed with. A client that can take less gets them as they are."""
_COMPRESSED = RsvBits(True, False, False)


class SharedDeflate(Extension):
    """One socket's side of it, made with `max_size`: the largest message in bytes, inflated."""

    name = "permessage-deflate"

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._enabled = False
        self._inflater: Any = None
        """Of the message that is being received, if that is compressed."""
        self._is_control = False
        self._inflated = 0

    def enabled(self) -> bool:
        """Whether the client has it too."""
        return self._enabled

    @property
    def is_inflating(self) -> bool:
        """Return whether more of a compressed message is to come."""
        return self._inflater is not None

    def drop(self) -> None:
        """Forget the message that is being received: nothing more of it will be read."""
        self._inflater = None

    def offer(self) -> bool:
        """Servers make no offers."""
        return False

    def accept(self, offer: str) -> str | None:
        """The answer to an offer, None to decline it. The first that suits is taken."""
        if self._enabled or (answer := _answer(offer)) is None:
            return None
        self._enabled = True
        return answer

    def frame_inbound_header(self, _proto: Any, opcode: Opcode, rsv: RsvBits, _payload_length: int) -> Any:
        """See that the mark of a compressed message stands where it may."""
        self._is_control = opcode.iscontrol()
        if rsv.rsv1:
            if opcode not in (Opcode.TEXT, Opcode.BINARY):
                return CloseReason.PROTOCOL_ERROR
            self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
            self._inflated = 0
        return _COMPRESSED

    def frame_inbound_payload_data(self, _proto: Any, data: bytes) -> Any:
        """Inflate a part of a message."""
        return data if self._inflater is None or self._is_control else self._inflate(bytes(data))

    def frame_inbound_complete(self, _proto: Any, fin: bool) -> Any:
        """Inflate the end of a message."""
        if self._inflater is None or self._is_control or not fin:
            return None
        rest = self._inflate(_END_OF_BLOCK)
        self._inflater = None
        return rest

    def _inflate(self, data: bytes) -> bytes | CloseReason:
        room = self._max_size - self._inflated
        try:
            inflated: bytes = self._inflater.decompress(data, room + 1)  # 0 would mean without end
        except zlib.error:
            return CloseReason.INVALID_FRAME_PAYLOAD_DATA
        self._inflated += len(inflated)
        if len(self._inflater.unused_data) > _AFTER_FINAL:  # it would be kept, whatever comes
            return CloseReason.INVALID_FRAME_PAYLOAD_DATA
        return inflated if len(inflated) <= room else CloseReason.MESSAGE_TOO_BIG


def inflated(data: bytes, most: int) -> bytes | None:
    """A whole message that was compressed; None where that cannot be told at once, or it has more than `most` bytes."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        whole = inflater.decompress(data + _END_OF_BLOCK, most + 1)
    except zlib.error:
        return None
    return whole if len(whole) <= most and not inflater.unused_data else None


def _answer(offer: str) -> str | None:
    answer = ["server_no_context_takeover", "client_no_context_takeover"]
    seen = set()
    for parameter in offer.split(";")[1:]:
        name, _, value = (part.strip() for part in parameter.partition("="))
        value = value.strip('"')
        if name in seen:
            return None
        seen.add(name)
        match name:
            case "server_no_context_takeover" | "client_no_context_takeover" if not value:
                pass
            case "client_max_window_bits" if not value or _is_window(value):
                pass  # whatever its window, ours inflates it
            case "server_max_window_bits" if value == _WINDOW:
                answer.append(f"server_max_window_bits={_WINDOW}")
            case _:
                return None
    return "; ".join(answer)


def _is_window(value: str) -> bool:
    return (
        len(value) <= 2 and value.isascii() and value.isdigit() and 8 <= int(value) <= 15 and not value.startswith("0")
    )
