"""Who reads first, and hears of the end in time: over real sockets, without a server."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.server.first_reader import FirstReader
from tests.support.deadline import soon, until


class End:
    """One end of a connection as the service has it, and the other as its client has it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: socket.socket) -> None:
        self.reader = reader
        self.writer = writer
        self.transport: Any = writer.transport
        self.client = client
        self.first = FirstReader.of(self.transport)
        self.taken: list[bytes] = []

    def take(self, data: bytes) -> bool:
        """Whether it is a word."""
        if b" " not in data:
            self.taken.append(data)
        return b" " not in data

    async def say(self, data: bytes) -> None:
        """Have it come by itself."""
        await asyncio.get_running_loop().sock_sendall(self.client, data)


@pytest.fixture
async def end() -> AsyncIterator[End]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        ours, _ = listening.accept()
    client.setblocking(False)
    made = End(*await asyncio.open_connection(sock=ours), client)
    yield made
    made.transport.abort()
    client.close()
    await asyncio.sleep(0)


async def test_what_is_taken_comes_to_nobody_else(end: End) -> None:
    end.first.read(end.take)
    await end.say(b"word")
    await until(lambda: end.taken == [b"word"])
    await end.say(b"two words")
    assert await soon(end.reader.read(100)) == b"two words"


async def test_what_comes_behind_what_was_not_taken_waits_until_that_is_handled(end: End) -> None:
    end.first.read(end.take)
    await end.say(b"two words")
    assert await soon(end.reader.read(100)) == b"two words"
    await end.say(b"word")
    assert await soon(end.reader.read(100)) == b"word"
    end.first.handled(9)
    await end.say(b"another")
    assert await soon(end.reader.read(100)) == b"another"  # since the one before is not handled yet
    end.first.handled(4)
    end.first.handled(7)
    await end.say(b"last")
    await until(lambda: end.taken == [b"last"])


async def test_without_somebody_who_takes_all_is_read_as_before(end: End) -> None:
    await end.say(b"word")
    assert await soon(end.reader.read(100)) == b"word"


async def test_there_is_one_for_a_transport(end: End) -> None:
    assert FirstReader.of(end.transport) is end.first
    assert end.transport.get_protocol() is end.first


async def test_the_stream_hears_of_the_end_and_of_what_it_may_write(end: End) -> None:
    data = bytes(1 << 23)
    end.writer.write(data)
    draining = asyncio.create_task(end.writer.drain())
    await asyncio.sleep(0)
    assert not draining.done()
    received = 0
    while received < len(data):
        received += len(await soon(asyncio.get_running_loop().sock_recv(end.client, 1 << 20)))
    await soon(draining)
    end.client.shutdown(socket.SHUT_WR)
    assert await soon(end.reader.read()) == b""
    end.writer.close()
    await soon(end.writer.wait_closed())


@pytest.mark.parametrize("how", ["abort", "close", "close with something waiting", "reset", "end of file"])
async def test_the_end_is_told_while_the_socket_is_open(end: End, how: str) -> None:
    """Its number is another's as soon as it is closed."""
    sock: socket.socket = end.transport._sock
    told: list[bool] = []
    end.first.tell_of_the_end(lambda: told.append(sock.fileno() != -1))
    match how:
        case "abort":
            end.transport.abort()
        case "close":
            end.writer.close()
        case "close with something waiting":
            end.writer.write(bytes(1 << 24))
            end.writer.close()
            assert not told
            end.client.close()
        case "reset":
            end.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.client.close()
        case _:
            end.client.close()
            assert await soon(end.reader.read()) == b""
            end.writer.close()
    await until(lambda: bool(told))
    assert told == [True]
    await until(lambda: sock.fileno() == -1)


async def test_who_fails_to_hear_of_the_end_keeps_nobody_from_it(end: End) -> None:
    def fail() -> None:
        raise RuntimeError("as in a bug")

    errors: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: errors.append(context["message"]))
    end.first.tell_of_the_end(fail)
    end.client.close()
    assert await soon(end.reader.read()) == b""
    end.transport.abort()
    await until(end.reader.at_eof)
    await until(lambda: end.transport._sock is None)
    await soon(end.writer.wait_closed())
    assert len(errors) == 1
