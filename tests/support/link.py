"""A slow link between a service and its clients: it carries so many bytes a second to each of them, and no more."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

TICK = 0.01
"""Seconds between two parcels."""
BUFFER = 32 * 1024
"""Bytes that the kernel keeps on the way, so that the service feels how slow the link is."""
SEGMENT = 1400
"""Bytes of a packet, as out in the world: with those of the loopback, 64 kB, the kernel would keep megabytes."""


@asynccontextmanager
async def slow_link(port: int, rate: int) -> AsyncIterator[int]:
    """Carry connections to a service's port; yields the port at which clients connect. `rate` is in bytes a second."""
    tasks: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        service = socket.socket()
        service.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        service.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
        service.setblocking(False)
        await loop.sock_connect(service, ("127.0.0.1", port))

        async def up() -> None:
            while data := await reader.read(65536):
                await loop.sock_sendall(service, data)

        sending = loop.create_task(up())
        try:
            due = loop.time()
            while data := await loop.sock_recv(service, int(rate * TICK)):
                writer.write(data)
                await writer.drain()
                due = max(due, loop.time() - 5 * TICK) + len(data) / rate
                await asyncio.sleep(due - loop.time())  # the speed of the link itself
        finally:
            sending.cancel()
            service.close()
            writer.close()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(_quietly(carry(reader, writer)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(begin, "127.0.0.1", 0)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _quietly(carrying: "asyncio.Future[None] | object") -> None:
    with contextlib.suppress(OSError):
        await carrying  # type: ignore[misc]
