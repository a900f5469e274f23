"""Texts that are read in one go are what wsproto reads; what is anything else is left to it."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import TextMessage

from app.server.deflate import FULL_WINDOW, Ahead, SharedDeflate
from app.server.whole_texts import LONGEST, texts_in

MASK = b"\x01\x02\x03\x04"


def masked(payload: bytes, mask: bytes = MASK) -> bytes:
    return mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def length(size: int) -> bytes:
    """A length as short as it can be said, and that a mask follows."""
    if size < 126:
        return bytes((0x80 | size,))
    return b"\xfe" + size.to_bytes(2, "big") if size < 65536 else b"\xff" + size.to_bytes(8, "big")


def frame(payload: bytes, first: int = 0x81, mask: bytes = MASK) -> bytes:
    return bytes((first,)) + length(len(payload)) + masked(payload, mask)


def deflated(data: bytes, flush: int = zlib.Z_SYNC_FLUSH) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    written = compressor.compress(data) + compressor.flush(flush)
    return written[:-4] if flush == zlib.Z_SYNC_FLUSH else written


def compressed(data: bytes) -> bytes:
    return frame(deflated(data), first=0xC1)


def ahead() -> Ahead:
    """Return what inflates the first messages of a client that keeps its context."""
    return Ahead(b"", FULL_WINDOW)


def read_by_wsproto(data: bytes, *, deflates: bool) -> list[object]:
    deflate = SharedDeflate(10 * LONGEST)
    deflate.accept("")
    connection = Connection(ConnectionType.SERVER, [deflate] if deflates else [])
    connection.receive_data(data)
    connection.receive_data(b"\x89\x80" + bytes(4))  # a ping, which is seen only by who is between two frames
    return list(connection.events())


def are_whole(data: bytes, texts: list[str], *, deflates: bool = False) -> bool:
    """Whether wsproto finds these texts, each of them whole, and nothing else."""
    *found, last = read_by_wsproto(data, deflates=deflates)
    return found == [TextMessage(data=text) for text in texts] and type(last).__name__ == "Ping"


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 125, 126, 127, 1000, LONGEST])
def test_a_whole_text_is_read(size: int) -> None:
    text = ("a text" * size)[:size]
    data = frame(text.encode())
    assert texts_in(data, 1) == [text]
    assert are_whole(data, [text])


def test_a_text_of_any_letters_is_read() -> None:
    assert texts_in(frame('"Grüße, 世界 🌊 \x00"'.encode()), 1) == ['"Grüße, 世界 🌊 \x00"']


def test_several_texts_are_read_up_to_as_many_as_are_wanted() -> None:
    texts = ["one", "", "x" * 126, "four", "ä"]
    data = b"".join(frame(text.encode()) for text in texts)
    assert texts_in(data, 5) == texts
    assert are_whole(data, texts)
    assert texts_in(data, 4) is None


@pytest.mark.parametrize("size", [0, 1, 125, 1000, LONGEST])
def test_a_compressed_text_is_read_where_that_was_agreed(size: int) -> None:
    text = ("a text" * size)[:size]
    data = compressed(text.encode()) + HELLO + compressed(b"and more")
    assert texts_in(data, 9, ahead=ahead()) == [text, "hello", "and more"]
    assert are_whole(data, [text, "hello", "and more"], deflates=True)
    assert texts_in(data, 9) is None


def test_each_compressed_text_may_refer_to_those_before_it() -> None:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    texts = [f"one of three, and much the same: {number}" for number in range(3)]
    data = b"".join(
        frame((compressor.compress(text.encode()) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4], first=0xC1)
        for text in texts
    )
    inflates = ahead()
    assert texts_in(data, 3, ahead=inflates) == texts
    assert inflates.window == "".join(texts).encode()
    assert are_whole(data, texts, deflates=True)
    assert texts_in(data, 3, ahead=Ahead(b"", 0)) is None


def test_no_compressed_text_is_read_that_is_longer_than_wanted() -> None:
    data = compressed(b"x" * 1000)
    assert len(data) < 30
    assert texts_in(data, 9, longest=1000, ahead=ahead()) == ["x" * 1000]
    assert texts_in(data, 9, longest=999, ahead=ahead()) is None


@pytest.mark.parametrize(
    "payload",
    [
        b"\xff\xff\xff",  # no DEFLATE
        deflated(b"hello", zlib.Z_FINISH),  # nothing may follow what says that it is the last, but it may be so
        deflated(b"hello", zlib.Z_FINISH) + b"\x00",
        deflated(b"\xff"),  # no UTF-8
    ],
)
def test_what_is_compressed_in_another_way_is_left_to_wsproto(payload: bytes) -> None:
    assert texts_in(frame(payload, first=0xC1), 9, ahead=ahead()) is None


def test_no_text_is_read_that_is_longer_than_wanted() -> None:
    data = HELLO + frame(b"x" * 11) + HELLO
    assert texts_in(data, 9, longest=11) == ["hello", "x" * 11, "hello"]
    assert texts_in(data, 9, longest=10) is None


HELLO = frame(b"hello")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        HELLO[:1],
        HELLO[:5],
        HELLO[:-1],
        HELLO + b"\x81",
        HELLO + HELLO[:5],
        HELLO + HELLO[:-1],
        HELLO + frame(b"hello", first=0x89),
        HELLO + frame(b"\xff"),
        frame(b"hello", first=0x01),  # the first part of a message
        frame(b"hello", first=0x80),  # the last
        frame(b"hello", first=0x82),  # binary
        frame(b"hello", first=0x88),  # close
        frame(b"hello", first=0x89),  # ping
        frame(b"hello", first=0xC1),  # compressed
        frame(b"hello", first=0xA1),
        frame(b"hello", first=0x91),
        frame(b"\xff"),  # no UTF-8
        frame("ä".encode()[:1]),
        frame(b"\xed\xa0\x80"),  # half of a pair, which UTF-8 does not have
        b"\x81\x05hello",  # without a mask
        b"\x81\x7e\x00\x7e" + bytes(126),
        b"\x81\xfe\x00\x05" + masked(b"hello"),  # a length that could have been said in one byte
        b"\x81\xfe\x00\x7d" + masked(b"x" * 125),
        b"\x81\xff" + (200).to_bytes(8, "big") + masked(b"x" * 200),
        b"\x81\xff" + (70_000).to_bytes(8, "big") + bytes(4) + b"x" * 119,  # the beginning of a long one
        frame(b"x" * 65536),
        frame(b"x" * (LONGEST + 1)),
    ],
)
def test_whatever_is_not_plain_is_left_to_wsproto(data: bytes) -> None:
    assert texts_in(data, 9) is None


@given(
    first=st.sampled_from([0x81, 0x81, 0x81, 0xC1, 0xC1, 0x01, 0x80, 0x82, 0x89, 0x41]),
    said=st.one_of(st.none(), st.binary(min_size=1, max_size=9)),
    payload=st.one_of(st.text(max_size=300).map(str.encode), st.binary(max_size=300)),
    mask=st.binary(min_size=4, max_size=4),
    cut=st.integers(0, 3),
    before=st.sampled_from([b"", b"", HELLO, 2 * HELLO, compressed(b"hello")]),
    deflates=st.booleans(),
    is_deflated=st.booleans(),
    more=st.sampled_from([b"", b"", b"\x81", HELLO]),
)
def test_what_is_read_is_what_wsproto_reads(
    first: int,
    said: bytes | None,
    payload: bytes,
    mask: bytes,
    cut: int,
    before: bytes,
    more: bytes,
    deflates: bool,
    is_deflated: bool,
) -> None:
    payload = deflated(payload) if is_deflated else payload
    data = bytes((first,)) + (length(len(payload)) if said is None else said) + masked(payload, mask)
    data = before + data[: len(data) - cut] + more
    texts = texts_in(data, 4, ahead=ahead() if deflates else None)
    if texts is not None:
        assert are_whole(data, texts, deflates=deflates)
