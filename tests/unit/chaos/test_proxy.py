"""The proxy carries, chooses, and fails as it is told to."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from tests.chaos.proxy import Proxy
from tests.support.deadline import soon, until


class Echo:
    """An instance that says its name, then what it hears; `ends` counts the connections that ended."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.ends = 0
        self.writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        writer.write(self.name)
        while data := await reader.read(1000):
            writer.write(data)
        self.ends += 1
        writer.close()

    def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self.writers:
            writer.transport.abort()


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    async with Proxy(random.Random(1)) as proxy:
        yield proxy


@pytest.fixture
async def echo(proxy: Proxy) -> AsyncIterator[Echo]:
    echo = Echo(b"a")
    proxy.add(await echo.start())
    yield echo
    echo.stop()


async def connect(proxy: Proxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await soon(asyncio.open_connection("127.0.0.1", proxy.port))


async def name_of_any(proxy: Proxy) -> bytes:
    reader, writer = await connect(proxy)
    name = await soon(reader.readexactly(1))
    writer.close()
    return name


async def test_it_carries_both_ways_from_the_first_byte_to_the_end(proxy: Proxy, echo: Echo) -> None:
    reader, writer = await connect(proxy)
    writer.write(b"hello")
    assert await soon(reader.readexactly(6)) == b"ahello"
    writer.close()
    await until(lambda: echo.ends == 1)
    assert await soon(reader.read()) == b""
    await until(lambda: proxy.connections() == [])


async def test_the_end_of_an_instance_is_the_end_for_its_clients(proxy: Proxy, echo: Echo) -> None:
    reader, _ = await connect(proxy)
    assert await soon(reader.readexactly(1)) == b"a"
    echo.stop()
    assert await soon(reader.read()) == b""


async def test_new_connections_go_to_any_instance_in_rotation_that_takes_them(proxy: Proxy, echo: Echo) -> None:
    other, gone = Echo(b"b"), Echo(b"c")
    other_port, gone_port = await other.start(), await gone.start()
    gone.stop()
    proxy.add(other_port)
    proxy.add(gone_port)
    names = {await name_of_any(proxy) for _ in range(30)}
    assert names == {b"a", b"b"}
    proxy.remove(other_port)
    names = {await name_of_any(proxy) for _ in range(10)}
    assert names == {b"a"}
    other.stop()


async def test_with_no_instance_a_client_is_closed(proxy: Proxy) -> None:
    reader, _ = await connect(proxy)
    assert await soon(reader.read()) == b""


async def test_after_its_network_vanished_neither_end_hears_of_the_other(proxy: Proxy, echo: Echo) -> None:
    reader, writer = await connect(proxy)
    assert await soon(reader.readexactly(1)) == b"a"
    (connection,) = proxy.connections()
    connection.vanish()
    writer.write(b"lost")
    echo.writers[0].write(b"lost")
    other_reader, other_writer = await connect(proxy)
    other_writer.write(b"hello")
    assert await soon(other_reader.readexactly(6)) == b"ahello"
    assert proxy.connections() != [connection]
    writer.close()
    other_writer.close()
    await until(lambda: echo.ends == 1)
    assert not reader._buffer  # type: ignore[attr-defined]
    echo.writers[0].transport.abort()
    await until(lambda: connection not in proxy._connections)


async def test_who_does_not_read_is_felt_by_the_instance_and_gets_all_later(proxy: Proxy, echo: Echo) -> None:
    reader, writer = await connect(proxy)
    assert await soon(reader.readexactly(1)) == b"a"
    (connection,) = proxy.connections()
    connection.stall()
    transport = echo.writers[0].transport
    transport.write(bytes(4_000_000))
    assert transport.get_write_buffer_size() > 0
    connection.flow()
    assert len(await soon(reader.readexactly(4_000_000))) == 4_000_000
    writer.close()
