"""Compression as it is negotiated, and what comes compressed."""

import zlib
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.extensions import PerMessageDeflate

from app.server.deflate import ASKED_WINDOW, FULL_WINDOW, SharedDeflate, asks_for_less

MAX_SIZE = 10_000


BOTH = "server_no_context_takeover; client_no_context_takeover"


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        ("permessage-deflate", ""),
        ("permessage-deflate; client_max_window_bits", "client_max_window_bits=10"),  # every browser's
        ("permessage-deflate; client_max_window_bits=12", "client_max_window_bits=10"),
        ("permessage-deflate; client_max_window_bits=9", "client_max_window_bits=9"),
        ('permessage-deflate; client_max_window_bits="15"', "client_max_window_bits=10"),
        ("permessage-deflate; server_no_context_takeover", "server_no_context_takeover"),
        ("permessage-deflate; client_no_context_takeover", "client_no_context_takeover"),
        ("permessage-deflate; server_no_context_takeover; client_no_context_takeover", BOTH),
        # Without a context there is no need for a small window.
        ("permessage-deflate; client_no_context_takeover; client_max_window_bits", "client_no_context_takeover"),
        ("permessage-deflate;server_max_window_bits=15", "server_max_window_bits=15"),
        ("permessage-deflate; server_max_window_bits=14", None),
        ("permessage-deflate; server_max_window_bits=8", None),
        ("permessage-deflate; server_max_window_bits", None),
        ("permessage-deflate; client_max_window_bits=7", None),
        ("permessage-deflate; client_max_window_bits=16", None),
        ("permessage-deflate; client_max_window_bits=010", None),
        ("permessage-deflate; server_no_context_takeover=1", None),
        ("permessage-deflate; server_no_context_takeover; server_no_context_takeover", None),
        ("permessage-deflate; speed=11", None),
    ],
)
def test_an_offer_is_taken_only_where_all_of_it_can_be_kept_and_answered_in_its_own_words(
    offer: str, answer: str | None
) -> None:
    deflate = SharedDeflate(MAX_SIZE)
    assert deflate.accept(offer) == answer
    assert deflate.enabled() == (answer is not None)


@pytest.mark.parametrize(
    ("offer", "asks", "answer"),
    [
        ("permessage-deflate", True, None),
        ("permessage-deflate; client_max_window_bits", True, "client_max_window_bits=10"),
        ("permessage-deflate; client_max_window_bits", False, None),
        ("permessage-deflate; client_no_context_takeover", True, "client_no_context_takeover"),
    ],
)
def test_where_there_is_no_room_for_a_full_window_who_needs_one_does_without_compression(
    offer: str, asks: bool, answer: str | None
) -> None:
    assert SharedDeflate(MAX_SIZE, asks=asks, has_room=False).accept(offer) == answer


def test_who_offers_what_was_before_the_standard_is_asked_for_no_small_window() -> None:
    netty = ["permessage-deflate;client_max_window_bits", "deflate-frame", "x-webkit-deflate-frame"]
    assert not asks_for_less(netty)
    assert SharedDeflate(MAX_SIZE, asks=asks_for_less(netty)).accept(netty[0]) == ""
    assert asks_for_less(["permessage-deflate; client_max_window_bits"])


def test_of_several_offers_the_first_that_suits_is_taken() -> None:
    deflate = SharedDeflate(MAX_SIZE)
    assert deflate.accept("permessage-deflate; server_max_window_bits=10") is None
    assert deflate.accept("permessage-deflate; server_max_window_bits=15") is not None
    assert deflate.accept("permessage-deflate") is None


def server() -> Connection:
    deflate = SharedDeflate(MAX_SIZE)
    deflate.accept("permessage-deflate")
    return Connection(ConnectionType.SERVER, [deflate])


def client(agreed: str = "") -> Connection:
    """Make a client that keeps its context, unless it was agreed otherwise."""
    deflate = PerMessageDeflate(client_max_window_bits=15)
    deflate.finalize(f"permessage-deflate; {agreed}")
    return Connection(ConnectionType.CLIENT, [deflate])


def read(connection: Connection, data: bytes) -> list[Event]:
    connection.receive_data(data)
    return list(connection.events())


def texts(events: list[Event]) -> str:
    return "".join(event.data for event in events if isinstance(event, TextMessage))


@given(st.lists(st.text(max_size=500), max_size=5), st.integers(1, 200))
def test_what_a_client_compresses_is_read_in_whatever_pieces_it_comes(messages: list[str], piece: int) -> None:
    sender, receiver = client(), server()
    for message in messages:
        wire = sender.send(TextMessage(data=message))
        events = [event for at in range(0, len(wire), piece) for event in read(receiver, wire[at : at + piece])]
        assert texts(events) == message


def test_what_a_client_leaves_uncompressed_is_read_too() -> None:
    plain = Connection(ConnectionType.CLIENT, [])
    assert texts(read(server(), plain.send(TextMessage(data="hello")))) == "hello"


def test_a_ping_between_the_parts_of_a_message_is_not_inflated() -> None:
    sender, receiver = client(), server()
    first = sender.send(TextMessage(data="a" * 100, message_finished=False))
    ping = sender.send(Ping(payload=b"there?"))
    last = sender.send(TextMessage(data="b" * 100))
    events = read(receiver, first + ping + last)
    assert [event.payload for event in events if isinstance(event, Ping)] == [b"there?"]
    assert texts(events) == "a" * 100 + "b" * 100


@pytest.mark.parametrize("size", [MAX_SIZE + 1, 50_000_000])
def test_a_message_that_is_too_big_inflated_is_never_inflated_whole(size: int) -> None:
    events = read(server(), client().send(BytesMessage(data=bytes(size))))
    assert [event.code for event in events if isinstance(event, CloseConnection)] == [1009]
    assert sum(len(event.data) for event in events if isinstance(event, BytesMessage)) <= MAX_SIZE + 1


def test_a_message_of_the_largest_size_is_read() -> None:
    assert texts(read(server(), client().send(TextMessage(data="x" * MAX_SIZE)))) == "x" * MAX_SIZE


def test_what_is_no_compression_breaks_the_protocol() -> None:
    noise = b"\xff" * 20
    wire = bytes((0xC1, 0x80 | len(noise), 0, 0, 0, 0)) + noise
    assert [event.code for event in read(server(), wire) if isinstance(event, CloseConnection)] == [1007]


@pytest.mark.parametrize("first", [0xC9, 0xC0])  # a ping, and a continuation
def test_the_mark_of_compression_stands_at_the_beginning_of_messages_only(first: int) -> None:
    sender, receiver = client(), server()
    begun = sender.send(TextMessage(data="a", message_finished=False)) if first == 0xC0 else b""
    events = read(receiver, begun + bytes((first, 0x80, 0, 0, 0, 0)))
    assert [event.code for event in events if isinstance(event, CloseConnection)] == [1002]


@pytest.mark.parametrize(
    ("offer", "agreed", "kept"),
    [
        ("permessage-deflate", "", FULL_WINDOW),
        ("permessage-deflate; client_max_window_bits", "client_max_window_bits=10", ASKED_WINDOW),
        ("permessage-deflate; client_max_window_bits=9", "client_max_window_bits=9", ASKED_WINDOW),
        ("permessage-deflate; client_no_context_takeover", "client_no_context_takeover", 0),
    ],
)
def test_between_messages_the_end_of_what_came_is_kept_and_no_inflater(offer: str, agreed: str, kept: int) -> None:
    """As many bytes as the client may refer back to: no fewer, or its next message could not be read, and no more."""
    deflate = SharedDeflate(2 * FULL_WINDOW)
    assert deflate.accept(offer) == agreed
    sender, receiver = client(agreed), Connection(ConnectionType.SERVER, [deflate])
    assert deflate.window == b""
    random = Random(7)
    all_of_it = ""
    for size in (1, 500, 200, 3000, 40_000, 300, 1):
        text = "".join(random.choices("abcdef", k=size)) + all_of_it[-2 * size :]
        assert texts(read(receiver, sender.send(TextMessage(data=text)))) == text
        all_of_it += text
        assert deflate.window == (all_of_it[-kept:].encode() if kept else b"")
        assert not [each for each in vars(deflate).values() if isinstance(each, type(zlib.decompressobj()))]


def test_what_comes_uncompressed_is_none_of_what_may_be_referred_to() -> None:
    deflate = SharedDeflate(MAX_SIZE)
    deflate.accept("permessage-deflate")
    receiver = Connection(ConnectionType.SERVER, [deflate])
    read(receiver, Connection(ConnectionType.CLIENT, []).send(TextMessage(data="plain")))
    assert deflate.window == b""


def test_what_follows_a_last_block_without_end_is_not_kept() -> None:
    compressor = zlib.compressobj(wbits=-15)
    data = compressor.compress(b"a") + compressor.flush() + bytes(1000)
    wire = bytes((0xC1, 0x80 | 126)) + len(data).to_bytes(2, "big") + bytes(4) + data
    assert [event.code for event in read(server(), wire) if isinstance(event, CloseConnection)] == [1007]


def test_a_message_whose_last_block_says_so_is_read() -> None:
    compressor = zlib.compressobj(wbits=-15)
    data = compressor.compress(b"hello") + compressor.flush() + bytes(1)
    wire = bytes((0xC1, 0x80 | len(data), 0, 0, 0, 0)) + data
    assert texts(read(server(), wire)) == "hello"
