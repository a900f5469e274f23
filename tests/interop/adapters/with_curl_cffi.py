"""curl_cffi, which brings libcurl."""

import asyncio

from curl_cffi import AsyncSession, WebSocketClosed

from tests.interop.adapters.lines import URL, obey, say


async def main() -> None:
    async with AsyncSession() as session:
        socket = await session.ws_connect(URL)
        say("open")
        obeying = asyncio.create_task(obey(socket.send_str, socket.close))
        try:
            while True:
                say("text", await socket.recv_str())
        except WebSocketClosed as ended:
            say("close", ended.code, ended)
        await obeying


asyncio.run(main())
