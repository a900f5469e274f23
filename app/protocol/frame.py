"""A WebSocket text frame (RFC 6455, RFC 7692) that is made once and sent to many."""

import struct
import zlib
from typing import Any

DEFLATE_FROM = 256
"""Bytes: what is shorter saves less than compressing it costs."""
_LEVEL = 1
"""Of zlib: a message is compressed while all its receivers wait, and a higher level takes six times as long on large
ones to save a tenth."""
_SHORT, _SHORT_WINDOW, _SHORT_MEMORY = 4096, 12, 5
"""Up to so many bytes zlib gets a window of 2**12 and a hash table to match. It clears its tables before it begins, and
with the usual ones that takes ten times as long as compressing a short message; what comes out is as short."""
_TEXT = 0x81
_COMPRESSED_TEXT = 0xC1
_END_OF_BLOCK = 4
"""Bytes at the end of a flushed block that permessage-deflate leaves out."""


class Frame:
    """A text message with its wire forms, each made when it is first asked for. The same for all its receivers."""

    __slots__ = ("_deflated", "_plain", "data", "order", "size")

    def __init__(self, data: bytes) -> None:
        self.data = data
        """The message, in UTF-8."""
        self.size = len(data)
        """Of the message, in bytes."""
        self.order: Any = None
        """Tells app.replaying what it must not overtake; None: it may overtake all."""
        self._plain: bytes | None = None
        self._deflated: bytes | None = None

    @property
    def text(self) -> str:
        """The message."""
        return self.data.decode()

    def plain(self) -> bytes:
        """The frame as it is written to a socket."""
        if self._plain is None:
            self._plain = _header(_TEXT, len(self.data)) + self.data
        return self._plain

    def deflated(self) -> bytes:
        """The frame for a socket that compresses: compressed where that saves, and referring to no other."""
        if self._deflated is None:
            self._deflated = self._compress()
        return self._deflated

    def _compress(self) -> bytes:
        if len(self.data) < DEFLATE_FROM:
            return self.plain()
        is_short = len(self.data) <= _SHORT
        window, memory = (_SHORT_WINDOW, _SHORT_MEMORY) if is_short else (zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL)
        compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, -window, memory)
        data = compressor.compress(self.data) + compressor.flush(zlib.Z_SYNC_FLUSH)
        if len(data) - _END_OF_BLOCK >= len(self.data):
            return self.plain()
        return _header(_COMPRESSED_TEXT, len(data) - _END_OF_BLOCK) + data[:-_END_OF_BLOCK]


def wire_form(frames: Frame | list[Frame], *, deflates: bool) -> bytes:
    """One or more frames as they are written to a socket, in one piece."""
    if isinstance(frames, Frame):
        return frames.deflated() if deflates else frames.plain()
    return b"".join([frame.deflated() if deflates else frame.plain() for frame in frames])


def _header(first: int, length: int) -> bytes:
    if length < 126:
        return bytes((first, length))
    if length < 65536:
        return struct.pack("!BBH", first, 126, length)
    return struct.pack("!BBQ", first, 127, length)
