"""Tornado."""

import asyncio

from tornado.websocket import websocket_connect

from tests.interop.adapters.lines import DEFLATE, URL, obey, say


async def main() -> None:
    socket = await websocket_connect(URL, compression_options={} if DEFLATE else None)
    say("open")
    obeying = asyncio.create_task(obey(socket.write_message, lambda: socket.close(1000)))
    while (text := await socket.read_message()) is not None:
        say("text", text)
    say("close", socket.close_code, socket.close_reason)
    await obeying


asyncio.run(main())
