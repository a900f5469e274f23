"""How a connection begins: whoever reads its head, in one go or bit by bit, the answer is the same."""

import asyncio
import gc
import socket
import weakref
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, cast

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.protocol.h11 import H11Protocol
from quart import Quart

from app.connection import Connection
from app.hub import Hub
from app.server.config import ServerConfig
from app.server.pings import Pings
from app.server.tcp_connection import TCPConnection, UpgradedProtocol
from tests.integration.test_frames import is_up, serving
from tests.support.client import Client
from tests.support.deadline import soon, until
from tests.support.process import Server

UPGRADE = (
    "GET /ws HTTP/1.1", "Host: localhost", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)  # fmt: skip
GET = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
ACCEPT = b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""The answer to that key (RFC 6455, 1.3)."""


def head(*, without: str = "", more: Iterable[str] = ()) -> bytes:
    """An upgrade without the lines that begin so, and with more."""
    lines = [line for line in UPGRADE if not without or not line.startswith(without)]
    return "\r\n".join([*lines, *more, "", ""]).encode()


async def answer(port: int, parts: Iterable[bytes], *, end: bytes = b"") -> bytes:
    """What comes for these, each sent once the one before has arrived; up to `end`, or until the service closes."""
    reader, writer = await soon(asyncio.open_connection("127.0.0.1", port))
    try:
        for part in parts:
            writer.write(part)
            # Another one's answer shows that the service has had its turn, and has read what was there.
            await _ask(port, GET)
        return await soon(reader.readuntil(end) if end else reader.read())
    finally:
        writer.transport.abort()


async def _ask(port: int, request: bytes) -> None:
    reader, writer = await soon(asyncio.open_connection("127.0.0.1", port))
    writer.write(request)
    await soon(reader.read())
    writer.close()


def bits(data: bytes) -> list[bytes]:
    """The same, so that no part of it is a head by itself."""
    return [data[:3], data[3:-2], data[-2:]]


async def test_an_upgrade_is_answered_at_once_together_with_the_welcome() -> None:
    async with Server() as server:
        reader, writer = await soon(asyncio.open_connection("127.0.0.1", server.port))
        writer.write(head())
        first = await soon(reader.read(65536))
        answer, _, frame = first.partition(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101 ")
        assert ACCEPT in answer
        assert b'"type":"welcome"' in frame
        writer.transport.abort()


async def test_a_plain_upgrade_asks_neither_h11_nor_quart(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(Pings()) as (hub, port):
        await is_up(port)
        monkeypatch.setattr(H11Protocol, "__init__", None)
        monkeypatch.setattr(Quart, "handle_websocket", None)
        async with Client(f"ws://127.0.0.1:{port}/ws") as ann:
            assert (await ann.ask({"type": "getInfo"}))["type"] == "getInfo"
            assert len(hub.connections) == 1


async def test_an_upgrade_that_comes_bit_by_bit_is_answered_all_the_same() -> None:
    async with Server() as server:
        found = await answer(server.port, bits(head()), end=b'"type":"welcome"')
        assert found.startswith(b"HTTP/1.1 101 ")
        assert ACCEPT in found


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (head(more=["Origin: https://elsewhere.example"]), 403),
        (head(without="GET", more=[]).replace(b"Host", b"GET /nowhere HTTP/1.1\r\nHost", 1), 404),
        (head(without="Sec-WebSocket-Key"), 400),
        (head(without="Sec-WebSocket-Version", more=["Sec-WebSocket-Version: 12"]), 426),
        (head(more=["Host: there"]), 400),
        (head(without="Upgrade"), 426),
        (head(without="Upgrade", more=["Upgrade: something"]), 426),
    ],
)
async def test_what_is_refused_is_refused_in_the_same_words(request_head: bytes, status: int) -> None:
    async with Server() as server:
        closing = request_head.replace(b"Connection: Upgrade", b"Connection: Upgrade, close")
        answers = [await answer(server.port, parts) for parts in ([closing], bits(closing))]
        lines = [[line for line in found.split(b"\r\n") if not line.startswith(b"date:")] for found in answers]
        assert lines[0] == lines[1]
        assert int(answers[0].split()[1]) == status


async def test_who_says_nothing_is_sent_away_and_who_comes_late_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.server.tcp_connection.FIRST_WORD", 0.05)
    monkeypatch.setattr(ServerConfig, "keep_alive_timeout", 1.0)
    async with serving(Pings()) as (_, port):
        await is_up(port)
        reader, _ = await soon(asyncio.open_connection("127.0.0.1", port))
        late, writer = await soon(asyncio.open_connection("127.0.0.1", port))
        await asyncio.sleep(0.2)  # there is nothing to wait for: nothing comes
        writer.write(head())
        assert (await soon(late.readline())).startswith(b"HTTP/1.1 101 ")
        assert await soon(reader.read()) == b""
        writer.transport.abort()


async def test_who_goes_without_a_word_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ServerConfig, "keep_alive_timeout", 1000.0)
    async with serving(Pings()) as (_, port):
        await is_up(port)
        reader, writer = await soon(asyncio.open_connection("127.0.0.1", port))
        writer.write_eof()
        assert await soon(reader.read()) == b""
        writer.close()


async def test_who_is_ended_before_it_is_let_in_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = Hub.connect

    def connect_and_end(*arguments: Any, **named: Any) -> Connection:
        connection = connect(*arguments, **named)
        connection.overflow()
        return connection

    monkeypatch.setattr(Hub, "connect", connect_and_end)
    async with serving(Pings()) as (_, port):
        await is_up(port)
        found = await answer(port, [head()], end=b"slow consumer")
        assert found.startswith(b"HTTP/1.1 101 ")
        assert b"\r\n\r\n\x88\x0f\x0b\xc0slow consumer" in found  # 3008, and nothing between


async def test_where_the_service_fails_before_its_first_word_the_handshake_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_connection: Connection) -> None:
        raise RuntimeError("as in a bug")

    monkeypatch.setattr(Connection, "open", fail)
    async with serving(Pings()) as (_, port):
        await is_up(port)
        found = await answer(port, [head()], end=b"\x03\xf3")
        assert found.startswith(b"HTTP/1.1 101 ")
        assert found.endswith(b"\r\n\r\n\x88\x02\x03\xf3")  # 1011


async def test_a_head_that_was_answered_is_not_kept() -> None:
    async with serving(Pings()) as (hub, port):
        await is_up(port)
        async with Client(f"ws://127.0.0.1:{port}/ws") as ann:
            (connection,) = hub.connections.values()
            protocol: Any = connection.outlet._begin_close.__self__.send.__self__  # type: ignore[attr-defined]
            assert isinstance(protocol, UpgradedProtocol)
            await ann.ask({"type": "getInfo"})
            assert protocol._head == b""


async def test_a_connection_that_is_cancelled_as_it_begins_is_closed() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        reader, writer = await asyncio.open_connection(sock=ours)
        loop = asyncio.get_running_loop()
        connection = TCPConnection(
            cast("Any", None), loop, ServerConfig(), WorkerContext(None), cast("Any", {}), reader, writer
        )
        running = asyncio.create_task(connection.run())
        await asyncio.sleep(0)  # it has begun to read
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(running)
        assert writer.transport.is_closing()


async def test_who_says_nothing_does_not_hold_up_the_end() -> None:
    async with Server() as server:
        opened = [await soon(asyncio.open_connection("127.0.0.1", server.port)) for _ in range(3)]
        await answer(server.port, [GET])  # so those before it are accepted
        server.terminate()
        assert await soon(server.process.wait()) == 0
        assert "did not end in time" not in server.log
        for reader, writer in opened:
            with suppress(ConnectionError):
                assert await soon(reader.read()) == b""
            writer.close()


async def test_idle_connection_over_http_2_ends() -> None:
    async with Server(CLOUD_SOCKETS_HTTP2="true") as server:
        reader, writer = await soon(asyncio.open_connection("127.0.0.1", server.port))
        http = H2Connection(H2Configuration(client_side=True))
        http.initiate_connection()
        writer.write(http.data_to_send())
        await soon(reader.read(), 10)  # to its end: it never asks for anything
        writer.close()


async def test_http_2_is_spoken_only_where_that_is_configured() -> None:
    async with Server() as server:
        reader, writer = await soon(asyncio.open_connection("127.0.0.1", server.port))
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert (await soon(reader.read())).startswith(b"HTTP/1.1 505 ")
        writer.close()
        head = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings, close\r\n"
        reader, writer = await soon(asyncio.open_connection("127.0.0.1", server.port))
        writer.write(head + b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n")
        assert (await soon(reader.read())).startswith(b"HTTP/1.1 200 ")
        writer.close()
        assert "Traceback" not in server.log


async def test_a_connection_that_was_no_socket_leaves_nothing_to_collect(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[object]] = []

    class Watched(TCPConnection):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(weakref.ref(self))

    monkeypatch.setattr("app.server.tcp_connection.TCPConnection", Watched)
    async with serving(Pings()) as (_, port):
        await is_up(port)
        await answer(port, [GET])  # what is made once is made
        gc.collect()
        gc.disable()
        try:
            made.clear()
            assert (await answer(port, [GET])).startswith(b"HTTP/1.1 ")
            await until(lambda: bool(made) and not any(each() for each in made))
        finally:
            gc.enable()


async def test_a_connection_that_breaks_as_it_begins_harms_nobody() -> None:
    async with Server() as server:
        for words in (b"", b"GET", head()):
            _, writer = await soon(asyncio.open_connection("127.0.0.1", server.port))
            writer.write(words)
            writer.transport.abort()
        async with Client(server.url) as ann:
            assert (await ann.ask({"type": "getInfo"}))["type"] == "getInfo"
        assert "Traceback" not in server.log
