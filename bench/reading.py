"""`python -m bench.reading`: shows that reading takes time in proportion to a message's length, however hostile it is.

Each shape is read at half the largest length and at the largest; the best of several times counts, of the CPU's. Twice
the length may take 2.6 times as long (caches and tables that grow account for what is above 2), and nothing may take
more than 8 ms.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, product

from app.protocol import codec

LARGEST = 262_144
"""Bytes: the default of CLOUD_SOCKETS_MAX_PAYLOAD."""
MAX_RATIO = 2.6
MAX_MILLISECONDS = 8.0
MIN_MEASURABLE = 0.5
"""Milliseconds. In less, fresh memory for the text is most of it, which the kernel hands out in leaps; whatever grows
with the square of the length takes far longer."""
TIMES = 9
ATTEMPTS = 3
"""Whoever else uses the machine's caches disturbs one attempt, but hardly all."""
_DEEP = "[" * 120 + "]" * 120
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_ACCENTED = "".join(map(chr, range(0xC0, 0x180)))


def _filled(size: int, before: str, piece: str, after: str) -> str:
    room = size - len(before.encode()) - len(after.encode())
    return before + piece * (room // len(piece.encode())) + after


def _payload_of(piece: str, before: str = "[[],[],", after: str = "1]") -> Callable[[int], str]:
    """Make messages whose payload repeats a piece, behind so many brackets that their depth is looked at."""
    begin = '{"type":"a","payload":' + before + "[]," * 130
    return lambda size: _filled(size, begin, piece, after + "}")


def _repeated(piece: str, before: str = "", after: str = "") -> Callable[[int], str]:
    """Make texts that repeat a piece."""
    return lambda size: _filled(size, before, piece, after)


def _with_keys(keys: Callable[[], Iterator[str]], value: str, colon: str = ":") -> Callable[[int], str]:
    """Make objects with as many of these keys at their top level as there is room for."""

    def make(size: int) -> str:
        members, length = [], len("{}")
        for key in keys():
            member = f'"{key}"{colon}{value}'
            length += len(member.encode()) + len(",")
            if length > size:
                break
            members.append(member)
        return "{" + ",".join(members) + "}"

    return make


def _few(make: Callable[[], Iterator[str]]) -> Callable[[], Iterator[str]]:
    return lambda: islice(make(), codec.MAX_PROPERTIES)


def _plain() -> Iterator[str]:
    return map("".join, product(_LETTERS, repeat=3))


def _accented() -> Iterator[str]:
    return map("".join, product(_ACCENTED, _LETTERS, _LETTERS))


def _escaped() -> Iterator[str]:
    return (f"\\u{number:04x}" for number in range(0x4000, 0xD000))


def _same() -> Iterator[str]:
    return iter(lambda: "", None)


SHAPES: dict[str, Callable[[int], str]] = {
    "brackets, then a string without end": _repeated('\\"', "[" * 200 + '"'),
    "brackets, then quotes": _repeated('"', "[" * 100 + "]" * 100 + "[" * 100),
    "only opening brackets": _repeated("["),
    "only closing brackets": _repeated("]", "[" * 129),
    "objects in objects": _repeated('{"":'),
    "pairs of brackets": _payload_of("[],"),
    "as deep as allowed": _payload_of(_DEEP + ","),
    "brackets in strings": _payload_of('"[",'),
    "brackets between empty strings": _repeated('""{[', "[" * 129),
    "brackets between strings": _payload_of('[["["],["]"]],'),
    "brackets and quotes": _repeated('"[[', "[" * 129),
    "empty strings": _payload_of('"",'),
    "strings and pairs": _payload_of('{"":[]},{"a":""},'),
    "escaped quotes": _payload_of('\\"', '["', '[]",1]'),
    "escaped backslashes": _payload_of('"\\\\",'),
    "escapes in a string": _payload_of("\\n", '["\\"', '",1]'),
    "numbers": _payload_of("1,"),
    "floats": _payload_of("-1.5e+10,"),
    "one long number": _repeated("1", '{"type":"a","payload":', "}"),
    "white space": _repeated(" ", '{"type":"a"', "}"),
    "white space in the payload": _payload_of("\n 1,"),
    "white space at all keys": _with_keys(_few(_plain), "1", " :\t"),
    "text of two bytes": _repeated("é", '{"type":"a","payload":"', '"}'),
    "text of four bytes": _repeated("😀", '{"type":"a","payload":"', '"}'),
    "a long type": _repeated("\\u0041", '{"type":"', '"}'),
    "a long escaped key": _repeated("\\n", '{"type":"a","', '":1}'),
    "a long mark": _repeated("\\u00e9", '{"type":"a","ackId":"', '"}'),
    "a long position": _repeated("1", '{"type":"subscribe","position":"', '"}'),
    "many keys": _with_keys(_plain, "1"),
    "many keys with lists": _with_keys(_accented, "[]"),
    "many escaped keys": _with_keys(_escaped, "1"),
    "the same key": _with_keys(_same, "1"),
    "keys in the payload": lambda size: '{"type":"a","x" :1,"payload":' + _with_keys(_plain, "1")(size - 40) + "}",
    "a thousand escaped keys": _with_keys(_few(_escaped), '"' + "x" * 240 + '"'),
    "many keys, the first twice": lambda size: _with_keys(_few(_plain), "1" * 300)(size - 9)[:-1] + ',"aaa":1}',
}
"""Texts of a size that cost the most, each of a kind of its own."""


def milliseconds(texts: Sequence[str]) -> list[float]:
    """Measure how much CPU time each text takes to read, at best; they take turns."""
    best = [float("inf")] * len(texts)
    for _ in range(TIMES):
        for number, text in enumerate(texts):
            before = time.process_time_ns()
            codec.decode(text)
            best[number] = min(best[number], (time.process_time_ns() - before) / 1e6)
    return best


def main() -> int:
    """Measure all; return 1 where a shape takes too long, else 0."""
    failed, worst = False, (0.0, "")
    for name, make in SHAPES.items():
        texts = make(LARGEST // 2), make(LARGEST)
        for _ in range(ATTEMPTS):
            half, whole = milliseconds(texts)
            is_slow = whole > MAX_MILLISECONDS or (whole > MIN_MEASURABLE and whole / half > MAX_RATIO)
            if not is_slow:
                break
        print(f"{name:40} {half:8.3f} ms {whole:8.3f} ms  x {whole / half:.2f}{'  TOO SLOW' * is_slow}")
        worst = max(worst, (whole, name))
        failed = failed or is_slow
    print(f"worst: {worst[1]}, {worst[0]:.2f} ms")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
