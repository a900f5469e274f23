"""Compression as it is negotiated, and what comes compressed."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.extensions import PerMessageDeflate

from app.server.deflate import SharedDeflate

AGREED = "server_no_context_takeover; client_no_context_takeover"
MAX_SIZE = 10_000


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        ("permessage-deflate", AGREED),
        ("permessage-deflate; client_max_window_bits", AGREED),  # every browser's
        ("permessage-deflate; client_max_window_bits=10", AGREED),
        ('permessage-deflate; client_max_window_bits="15"', AGREED),
        ("permessage-deflate; server_no_context_takeover; client_no_context_takeover", AGREED),
        ("permessage-deflate;server_max_window_bits=15", AGREED + "; server_max_window_bits=15"),
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
def test_an_offer_is_taken_only_where_all_of_it_can_be_kept(offer: str, answer: str | None) -> None:
    deflate = SharedDeflate(MAX_SIZE)
    assert deflate.accept(offer) == answer
    assert deflate.enabled() == (answer is not None)


def test_of_several_offers_the_first_that_suits_is_taken() -> None:
    deflate = SharedDeflate(MAX_SIZE)
    assert deflate.accept("permessage-deflate; server_max_window_bits=10") is None
    assert deflate.accept("permessage-deflate; server_max_window_bits=15") is not None
    assert deflate.accept("permessage-deflate") is None


def server() -> Connection:
    deflate = SharedDeflate(MAX_SIZE)
    deflate.accept("permessage-deflate")
    return Connection(ConnectionType.SERVER, [deflate])


def client() -> Connection:
    deflate = PerMessageDeflate(client_no_context_takeover=True)
    deflate.finalize(f"permessage-deflate; {AGREED}")
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


def test_nothing_is_kept_between_messages() -> None:
    deflate = SharedDeflate(MAX_SIZE)
    deflate.accept("permessage-deflate")
    receiver = Connection(ConnectionType.SERVER, [deflate])
    read(receiver, client().send(TextMessage(data="x" * 5000)))
    kept = [value for value in vars(deflate).values() if isinstance(value, type(zlib.decompressobj()))]
    assert kept == []


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
