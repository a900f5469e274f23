"""A fan-out of one's own, as a third party writes it: over a relay that repeats each line to everyone.

The relay stands for whatever carries messages at your place. Used by
CLOUD_SOCKETS_PUBSUB_PROVIDER=tests.support.relay:make with RELAY=host:port.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator

from app.fanout import Deliver, Delivery, Fanout, Publication


class RelayFanout(Fanout):
    """Thirty lines: start, publish, close."""

    async def start(self, deliver: Deliver) -> None:
        host, port = os.environ["RELAY"].split(":")
        self._reader, self._writer = await asyncio.open_connection(host, int(port))
        self._listening = asyncio.create_task(self._listen(deliver))

    async def _listen(self, deliver: Deliver) -> None:
        while line := await self._reader.readline():
            number, attributes, data = json.loads(line)
            deliver(Delivery(data.encode(), attributes, id=str(number)))

    async def publish(self, publication: Publication) -> None:
        self._writer.write(json.dumps([dict(publication.attributes), publication.data.decode()]).encode() + b"\n")
        await self._writer.drain()

    async def close(self) -> None:
        if hasattr(self, "_listening"):
            self._writer.close()
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)


def make() -> Fanout:
    """What CLOUD_SOCKETS_PUBSUB_PROVIDER names."""
    return RelayFanout()


@contextlib.asynccontextmanager
async def relay() -> AsyncIterator[str]:
    """The relay itself; answers its address."""
    members: list[asyncio.StreamWriter] = []
    count = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        members.append(writer)
        while line := await reader.readline():
            count += 1
            for member in members:
                member.write(json.dumps([count, *json.loads(line)]).encode() + b"\n")
        members.remove(writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield "{}:{}".format(*server.sockets[0].getsockname())
    server.close()
