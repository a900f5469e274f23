"""Plain Quart on Hypercorn: `await websocket.send()` for each delivery."""

import asyncio
import sys
from typing import Any, cast

import hypercorn.asyncio
from hypercorn.config import Config
from quart import Quart, websocket

from bench.peers.channels import Channels

app = Quart(__name__)
channels = Channels()


@app.websocket("/ws")
async def serve() -> None:
    """One socket, from the upgrade to its end."""
    send = cast("Any", websocket)._get_current_object().send  # noqa: SLF001  # other tasks send to it
    joined: list[tuple[str, str]] = []
    await channels.welcome(send)
    try:
        while True:
            await channels.receive(send, str(await websocket.receive()), joined)
    finally:
        channels.forget(send, joined)


if __name__ == "__main__":
    config = Config()
    config.bind = [f"127.0.0.1:{sys.argv[1]}"]
    config.backlog = 2048
    config.accesslog = config.errorlog = None
    asyncio.run(hypercorn.asyncio.serve(app, config))
