"""A client's messages, read in one go where they came whole.

What is read from a socket is nearly always one message in one frame, or, of who sends many, some of them, no more and
no less. To find out what else it may be takes wsproto 10 us more for each; whatever is no whole text, wsproto reads.
"""

from app.server.deflate import Ahead

LONGEST = 5120
"""Bytes: a payload of 4 kB with what is around it. Of what is longer less is gained: the mask here takes longer than
wsproto's."""
INFLATED_AT_ONCE = 64 * 1024
"""Bytes. Of what is compressed no more is inflated in one go: what takes 16 kB may become 16 MB."""

_TEXT = 0x81
"""The first byte of a text that is one frame (RFC 6455, 5.2)."""
COMPRESSED = 0xC1
"""The same where it is compressed (RFC 7692, 6)."""
_MASKED = 0x80
_LENGTH_FOLLOWS = 126
"""In the second byte, for lengths that take two more."""
_MASK = 4


def texts_in(data: bytes, most: int, longest: int = LONGEST, ahead: Ahead | None = None) -> list[str] | None:
    """The texts that these bytes are, no more and no less; they may be compressed where that was agreed: see `ahead`.

    None where they are anything else, or more than `most`, or one of them has more than `longest` bytes.
    """
    texts: list[str] = []
    room = INFLATED_AT_ONCE
    at, end = 0, len(data)
    while at < end:
        if end - at < 2 + _MASK or len(texts) == most:
            return None
        is_compressed = ahead is not None and data[at] == COMPRESSED
        if not is_compressed and data[at] != _TEXT:
            return None
        length, start = data[at + 1] - _MASKED, at + 2
        if length == _LENGTH_FOLLOWS:
            length, start = int.from_bytes(data[start : start + 2], "big"), start + 2
            if length < _LENGTH_FOLLOWS:
                return None  # it could have been said in one byte, and so must be
        elif not 0 <= length < _LENGTH_FOLLOWS:
            return None
        text_at = start + _MASK
        at = text_at + length
        if length > longest or at > end:
            return None
        # The fastest way to apply a mask to something short: both are taken for numbers.
        mask = data[start:text_at] * (length // _MASK + 1)
        masked = int.from_bytes(data[text_at:at], "little") ^ int.from_bytes(mask[:length], "little")
        written = masked.to_bytes(length, "little")
        if is_compressed and ahead is not None:
            text = ahead.inflated(written, longest)
            if text is None or (room := room - len(text)) < 0:
                return None
            written = text
        try:
            texts.append(written.decode())
        except UnicodeDecodeError:
            return None
    return texts or None
