"""permessage-deflate (RFC 7692): a message is compressed once for all who get it, and each client keeps its context.

Where every message of ours stands for itself, a socket that compresses needs no more memory than one that does not, and
the same bytes suit all sockets. They are compressed in `app.protocol.frame`; this negotiates it, and inflates what
clients send, never beyond the largest message.

A client may refer to what it sent before, for some cannot do without, or refuse to be told. So the end of that is kept,
for who really compresses: as bytes, since an inflater that waits takes 9 kB besides.
"""

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, Opcode, RsvBits

_END_OF_BLOCK = b"\x00\x00\xff\xff"
_AFTER_FINAL = 1 + len(_END_OF_BLOCK)
"""Bytes that may follow a block that says it is the last (RFC 7692, 7.2.3.4)."""
ASKED_BITS = 10
ASKED_WINDOW: int = 2**ASKED_BITS
"""Bytes that a client may refer back to where it lets us choose: half of this is longer than most messages. So it adds
a twentieth at the most to what its connection takes."""
FULL_WINDOW: int = 2**zlib.MAX_WBITS
"""Bytes, where it does not."""
_OLD = "deflate-frame"
"""Part of the names that compression had before the standard. Netty alone offers them still; for any other than the
full window it takes a library that few have, and fails where that is missing."""
_WINDOW = "15"
"""Bits: what our messages are compressed with. A client that can take less gets them as they are."""
_COMPRESSED = RsvBits(True, False, False)


class SharedDeflate(Extension):
    """One socket's side of it, made with `max_size`: the largest message in bytes, inflated.

    `asks`: a client that offers it is asked for a small window. `has_room`: there is room for a full one.
    """

    name = "permessage-deflate"

    def __init__(self, max_size: int, *, asks: bool = True, has_room: bool = True) -> None:
        self._max_size = max_size
        self._asks = asks
        self._has_room = has_room
        self._keeps = 0
        self.window = b""
        """The end of what the client has sent compressed: its next message may refer to it."""
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

    @property
    def may_keep_much(self) -> bool:
        """Return whether the window may become larger than what any connection may take."""
        return self._keeps > ASKED_WINDOW

    def ahead(self) -> "Ahead":
        """Return what inflates messages that came whole; this knows of them when it is given the `window`."""
        return Ahead(self.window, self._keeps)

    def drop(self) -> None:
        """Forget what was received: nothing more will be read."""
        self._inflater = None
        self.window = b""

    def offer(self) -> bool:
        """Servers make no offers."""
        return False

    def accept(self, offer: str) -> str | None:
        """The answer to an offer, None to decline it. The first that suits is taken."""
        terms = None if self._enabled else _terms(offer, asks=self._asks)
        if terms is None or (terms.keeps > ASKED_WINDOW and not self._has_room):
            return None
        self._enabled = True
        self._keeps = terms.keeps
        return terms.answer

    def frame_inbound_header(self, _proto: Any, opcode: Opcode, rsv: RsvBits, _payload_length: int) -> Any:
        """See that the mark of a compressed message stands where it may."""
        self._is_control = opcode.iscontrol()
        if rsv.rsv1:
            if opcode not in (Opcode.TEXT, Opcode.BINARY):
                return CloseReason.PROTOCOL_ERROR
            self._inflater = _inflater(self.window)
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
        if len(inflated) > room:
            return CloseReason.MESSAGE_TOO_BIG
        self.window = _window(self.window, inflated, self._keeps)
        return inflated


class Ahead:
    """Inflates whole messages, one after the other, and notes what the next may refer to."""

    __slots__ = ("_keeps", "window")

    def __init__(self, window: bytes, keeps: int) -> None:
        self.window = window
        self._keeps = keeps

    def inflated(self, data: bytes, most: int) -> bytes | None:
        """Return a message; None where that cannot be told at once, or it has more than `most` bytes."""
        inflater = _inflater(self.window)
        try:
            whole: bytes = inflater.decompress(data + _END_OF_BLOCK, most + 1)
        except zlib.error:
            return None
        if len(whole) > most or inflater.unused_data:
            return None
        self.window = _window(self.window, whole, self._keeps)
        return whole


def asks_for_less(offers: Sequence[str]) -> bool:
    """Return whether the client behind these offers can be asked for a small window."""
    return not any(_OLD in offer for offer in offers)


def _inflater(window: bytes) -> Any:
    # With a full window of its own, whatever was agreed: it inflates what was compressed with any.
    return zlib.decompressobj(-zlib.MAX_WBITS, zdict=window) if window else zlib.decompressobj(-zlib.MAX_WBITS)


def _window(before: bytes, inflated: bytes, keeps: int) -> bytes:
    if not keeps:
        return b""
    return inflated[-keeps:] if len(inflated) >= keeps else (before + inflated)[-keeps:]


class _Terms(NamedTuple):
    """The answer to an offer, and how many bytes its client may refer back to."""

    answer: str
    keeps: int


def _terms(offer: str, *, asks: bool) -> _Terms | None:
    """Return what suits an offer. What it does not name is not answered: some clients take that for an error."""
    answer: list[str] = []
    seen = set()
    bits, takes_over = zlib.MAX_WBITS, True
    for parameter in offer.split(";")[1:]:
        name, _, value = (part.strip() for part in parameter.partition("="))
        value = value.strip('"')
        if name in seen:
            return None
        seen.add(name)
        match name:
            case "server_no_context_takeover" | "client_no_context_takeover" if not value:
                answer.append(name)
                takes_over = takes_over and name == "server_no_context_takeover"
            case "client_max_window_bits" if not value or _is_window(value):
                bits = int(value or bits)
            case "server_max_window_bits" if value == _WINDOW:
                answer.append(f"server_max_window_bits={_WINDOW}")
            case _:
                return None
    if takes_over and asks and "client_max_window_bits" in seen:
        bits = min(bits, ASKED_BITS)
        answer.append(f"client_max_window_bits={bits}")
    # Who says 8 may mean 9, the least that zlib has.
    return _Terms("; ".join(answer), max(2**bits, ASKED_WINDOW) if takes_over else 0)


def _is_window(value: str) -> bool:
    return (
        len(value) <= 2 and value.isascii() and value.isdigit() and 8 <= int(value) <= 15 and not value.startswith("0")
    )
