"""Sizes in memory, so that a limit in bytes is one of memory."""

import sys
from typing import Any

_ASCII_BYTES = sys.getsizeof("")
COMPACT_FROM = 1024
"""Bytes of a dict from which on its empty places are looked at."""


def text_bytes(text: str) -> int:
    """Return the bytes that a str takes at most: the same for equal texts, so that no sum of them drifts."""
    if text.isascii():
        return _ASCII_BYTES + len(text)
    # One character more makes a new str: as wide as this one, 1 to 4 bytes a character, and without the copy in UTF-8
    # that CPython keeps with a str once it was written as JSON. That copy is counted whether it is there or not:
    # 255 wide characters take 1,096 bytes before, 2,117 after.
    return sys.getsizeof(text + " ") + len(text.encode(errors="surrogatepass"))


def compact(places: dict[Any, Any]) -> None:
    """Take a dict's memory back once it is nearly empty. Call it when entries were deleted.

    The dict stays the same one, and its order too.
    """
    # A dict never shrinks by itself: one entry left of 1,000 would take what 1,000 took, and be counted as one. A dict
    # that only grew takes 30 to 60 bytes an entry; above four times that, most of its entries were deleted, and each
    # of them pays for its share of this.
    size = sys.getsizeof(places)
    if size > COMPACT_FROM and size > 240 * len(places):
        left = list(places.items())
        places.clear()
        places.update(left)
