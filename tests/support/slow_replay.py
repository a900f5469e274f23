"""A bench for clients on a slow link: much to catch up with, by more than one subscription of a channel.

`python -m tests.support.slow_replay` serves it until it is stopped, for clients that are no Python: it prints a line of
JSON with what `SlowReplay` has.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from tests.support.client import Client
from tests.support.link import slow_link
from tests.support.process import Server

MISSED = 900
SIZE = 8_000
"""Messages that were missed, and bytes of each."""
RATE = 200_000
"""Bytes a second that the link carries to a client."""
SUB_IDS = ("1", "2")
SETTINGS = {"CLOUD_SOCKETS_PUBSUB_MESSAGE_TYPES": "announce,broadcast,notification"}
AT_ONCE = 50


@dataclass(frozen=True)
class SlowReplay:
    """A hub behind a slow link, and channels of which a client has missed the messages 0 to `missed` - 1.

    The payload of each is `{"n": number, "x": "xx…"}`; none has a subId, so that every subscription wants it.
    """

    server: Server
    port: int
    """Of the link."""
    positions: dict[str, str]
    """For each channel the position before the first of them."""
    missed: int

    @property
    def url(self) -> str:
        """The address at which a client connects over the link."""
        return f"ws://127.0.0.1:{self.port}/ws"


@asynccontextmanager
async def slow_replay(
    *channels: str, missed: int = MISSED, size: int = SIZE, rate: int = RATE, **variables: str
) -> AsyncIterator[SlowReplay]:
    """Serve it; the channel is `news` where none is named."""
    names = channels or ("news",)
    async with Server(**SETTINGS, **variables) as server:
        async with Client(server.url) as publisher:
            positions = {}
            for name in names:
                positions[name] = str((await publisher.subscribe(name, "before"))["position"])
                await publisher.ask({"type": "unsubscribe", "channel": name})
            for name in names:
                for number in range(missed):
                    message = {"type": "announce", "channel": name, "payload": {"n": number, "x": "x" * size}}
                    if number % AT_ONCE == AT_ONCE - 1 or number == missed - 1:
                        await publisher.ask(message)
                    else:
                        await publisher.send(message)
        async with slow_link(server.port, rate) as port:
            yield SlowReplay(server, port, positions, missed)


async def _serve() -> None:
    async with slow_replay() as bench:
        told = {"url": bench.url, "hub": bench.server.url, "positions": bench.positions, "missed": bench.missed}
        print(json.dumps(told), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, input)  # until its starter goes


if __name__ == "__main__":
    with suppress(EOFError):
        asyncio.run(_serve())
