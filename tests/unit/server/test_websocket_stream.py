"""When messages that came whole are passed on past wsproto: a stream without a connection."""

import zlib
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypercorn.protocol.ws_stream import ASGIWebsocketState
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection

from app.server.config import ServerConfig
from app.server.control import MAX_WAITING
from app.server.deflate import SharedDeflate
from app.server.websocket_stream import WebSocketStream

HELLO = b"\x81\x85" + bytes(4) + b"hello"


@pytest.fixture
def stream() -> WebSocketStream:
    unused: Any = None
    made = WebSocketStream(unused, ServerConfig(), unused, unused, False, unused, unused, unused, 1)
    made._control.limit()
    return made


def accept(stream: WebSocketStream) -> None:
    stream.state = ASGIWebsocketState.CONNECTED
    stream.connection = Connection(ConnectionType.SERVER)


def said(stream: WebSocketStream) -> list[str | bytes]:
    """What was passed on."""
    return list(stream._control.unread())


def test_it_is_passed_on_and_shows_that_the_client_is_there(stream: WebSocketStream) -> None:
    accept(stream)
    stream._heard = False
    assert not stream.take(HELLO[:-1])
    assert not stream._heard
    assert stream.take(HELLO)
    assert said(stream) == ["hello"]
    assert not stream.silent()


def test_nothing_is_before_the_handshake_is_done(stream: WebSocketStream) -> None:
    assert not stream.take(HELLO)
    accept(stream)
    stream.state = ASGIWebsocketState.CLOSED
    assert not stream.take(HELLO)
    assert said(stream) == []


def test_nothing_is_that_comes_behind_our_close_frame(stream: WebSocketStream) -> None:
    accept(stream)
    stream.connection.send(CloseConnection(1002))
    assert not stream.take(HELLO)
    assert said(stream) == []


def test_nothing_is_while_a_message_has_begun(stream: WebSocketStream) -> None:
    accept(stream)
    for begun in (b"\x81", b"\x81\x85" + bytes(4), b"\x01\x81" + bytes(4) + b"x"):
        stream.connection = Connection(ConnectionType.SERVER)
        stream.connection.receive_data(begun)
        list(stream.connection.events())
        assert not stream.take(HELLO)


async def test_where_that_fails_the_socket_is_closed_with_a_word(
    stream: WebSocketStream, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_text: str) -> bool:
        raise MemoryError

    spawned: list[Any] = []
    accept(stream)
    stream._control.on_text = fail
    stream.task_group = cast("Any", SimpleNamespace(spawn=lambda _function, *arguments: spawned.extend(arguments)))
    assert stream.take(HELLO)
    assert spawned == [{"type": "websocket.close", "code": 1011, "reason": ""}]
    assert "a message could not be handled" in caplog.text
    assert said(stream) == []


def test_nothing_is_that_is_too_big(stream: WebSocketStream) -> None:
    accept(stream)
    cast("Any", stream.config).websocket_max_message_size = len("hello") - 1
    assert not stream.take(HELLO)
    stream.config.websocket_max_message_size = len("hello")
    assert stream.take(2 * HELLO)
    assert said(stream) == ["hello", "hello"]


def test_what_is_compressed_is_passed_on_where_that_was_agreed(stream: WebSocketStream) -> None:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    data = (compressor.compress(b"hello") + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
    message = bytes((0xC1, 0x80 | len(data))) + bytes(4) + data
    accept(stream)
    assert not stream.take(message)
    stream._deflate = SharedDeflate(1000)
    assert stream.take(message)
    assert said(stream) == ["hello"]


def test_what_is_left_to_wsproto_is_not_counted_twice_as_what_may_be_referred_to(stream: WebSocketStream) -> None:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    data = (compressor.compress(b"hello") + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
    message = bytes((0xC1, 0x80 | len(data))) + bytes(4) + data
    accept(stream)
    stream._deflate = deflate = SharedDeflate(1000)
    deflate.accept("permessage-deflate")
    assert not stream.take(MAX_WAITING * message)
    assert deflate.window == b""
    assert stream.take(2 * message)
    assert deflate.window == b"hellohello"


def test_its_window_counts_while_it_is_there(stream: WebSocketStream) -> None:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    data = (compressor.compress(b"hello" * 500) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
    message = bytes((0xC1, 0x80 | len(data))) + bytes(4) + data
    accept(stream)
    stream._deflate = SharedDeflate(10_000)
    stream._deflate.accept("permessage-deflate")
    assert stream.take(message)
    assert stream.config.windows.bytes == 2500
    stream._let_go()
    assert stream.config.windows.bytes == 0


def test_nothing_is_of_more_than_may_wait(stream: WebSocketStream) -> None:
    accept(stream)
    assert not stream.take(MAX_WAITING * HELLO)
    assert said(stream) == []
    assert stream.take((MAX_WAITING - 1) * HELLO)
    assert len(said(stream)) == MAX_WAITING - 1


async def test_behind_one_that_fails_nothing_is_handled(stream: WebSocketStream) -> None:
    handled: list[str] = []

    def fail(text: str) -> bool:
        handled.append(text)
        raise MemoryError

    accept(stream)
    stream._control.on_text = fail
    stream.task_group = cast("Any", SimpleNamespace(spawn=lambda _function, *_arguments: None))
    assert stream.take(2 * HELLO)
    assert handled == ["hello"]
    assert said(stream) == []
