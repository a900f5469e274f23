"""A client's message, read in one go where it came whole.

What is read from a socket is nearly always one message in one frame, no more and no less. To find out what else it may
be takes wsproto 10 us more; whatever is no plain text, such as what is compressed, wsproto reads.
"""

LONGEST = 4096
"""Bytes. Of what is longer less is gained, since the mask here takes longer than wsproto's."""

_TEXT = 0x81
"""The first byte of a text that is one frame (RFC 6455, 5.2) and not compressed."""
_MASKED = 0x80
_LENGTH_FOLLOWS = 126
"""In the second byte, for lengths that take two more."""
_MASK = 4


def text_in(data: bytes) -> str | None:
    """The text that these bytes are, no more and no less; None where they are anything else, or more than `LONGEST`."""
    if not 2 + _MASK <= len(data) <= LONGEST or data[0] != _TEXT:
        return None
    length, start = data[1] - _MASKED, 2
    if length == _LENGTH_FOLLOWS:
        length, start = int.from_bytes(data[2:4], "big"), 4
        if length < _LENGTH_FOLLOWS:
            return None  # it could have been said in one byte, and so must be
    elif not 0 <= length < _LENGTH_FOLLOWS:
        return None
    text_at = start + _MASK
    if len(data) != text_at + length:
        return None
    # The fastest way to apply a mask to something short: both are taken for numbers.
    mask = data[start:text_at] * (length // _MASK + 1)
    text = int.from_bytes(data[text_at:], "little") ^ int.from_bytes(mask[:length], "little")
    try:
        return text.to_bytes(length, "little").decode()
    except UnicodeDecodeError:
        return None
