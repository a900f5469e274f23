"""aiohttp."""

import asyncio

from aiohttp import ClientSession

from tests.interop.adapters.lines import DEFLATE, URL, obey, say


async def main() -> None:
    async with (
        ClientSession() as session,
        session.ws_connect(URL, compress=15 if DEFLATE else 0, max_msg_size=0) as socket,
    ):
        say("open")
        obeying = asyncio.create_task(obey(socket.send_str, socket.close))
        async for message in socket:
            say("text", message.data)
        say("close", socket.close_code)
        await obeying


asyncio.run(main())
