"""httpx-ws, over httpx."""

import asyncio

from httpx_ws import WebSocketDisconnect, aconnect_ws

from tests.interop.adapters.lines import LONGEST, URL, obey, say


async def main() -> None:
    async with aconnect_ws(URL, max_message_size_bytes=LONGEST) as socket:
        say("open")
        obeying = asyncio.create_task(obey(socket.send_text, socket.close))
        try:
            while True:
                say("text", await socket.receive_text())
        except WebSocketDisconnect as ended:
            say("close", ended.code, ended.reason)
        await obeying


asyncio.run(main())
