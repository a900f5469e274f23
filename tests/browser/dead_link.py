"""A way to a service that goes dead: what was opened carries nothing any more, and nobody is told."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class DeadLink:
    """Connections to a port. What is opened after `die` works."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._alive = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    def die(self) -> None:
        """All connections that there are carry nothing any more."""
        self._alive.set()
        self._alive = asyncio.Event()

    async def begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        dead = self._alive
        there, back = await asyncio.open_connection("127.0.0.1", self._to)

        async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    if dead.is_set():
                        await asyncio.Event().wait()
                    target.write(data)
                    await target.drain()
                if not dead.is_set():
                    target.close()

        try:
            await asyncio.gather(carry(reader, back), carry(there, writer))
            await dead.wait()
        finally:
            self._tasks.discard(task)
            back.close()
            writer.close()

    async def end(self) -> None:
        """Cut all."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def dead_link(port: int) -> AsyncIterator[DeadLink]:
    """A link to a service's port, which lives until `die`."""
    link = DeadLink(port)
    server = await asyncio.start_server(link.begin, "127.0.0.1", 0)
    link.port = int(server.sockets[0].getsockname()[1])
    try:
        yield link
    finally:
        server.close()
        await link.end()
