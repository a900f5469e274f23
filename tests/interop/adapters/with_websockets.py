"""websockets, by asyncio."""

import asyncio

from websockets.asyncio.client import connect

from tests.interop.adapters.lines import DEFLATE, URL, obey, say


async def main() -> None:
    socket = await connect(URL, compression="deflate" if DEFLATE else None, max_size=None)
    say("open")
    obeying = asyncio.create_task(obey(socket.send, socket.close))
    try:
        async for text in socket:
            say("text", text)
    except Exception as error:
        say("ended", repr(error))
    say("close", socket.close_code, socket.close_reason)
    await obeying


asyncio.run(main())
