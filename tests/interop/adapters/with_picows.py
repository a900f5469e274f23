"""picows."""

import asyncio
from typing import Any

from picows import WSCloseCode, WSListener, WSMsgType, ws_connect

from tests.interop.adapters.lines import LONGEST, URL, obey, say


class Listener(WSListener):
    def on_ws_connected(self, transport: Any) -> None:  # noqa: ARG002
        say("open")

    def on_ws_frame(self, transport: Any, frame: Any) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            say("text", frame.get_payload_as_utf8_text())
        elif frame.msg_type == WSMsgType.CLOSE:
            say("close", int(frame.get_close_code()), (frame.get_close_message() or b"").decode())
            transport.send_close(frame.get_close_code())
            transport.disconnect()


async def main() -> None:
    transport, _ = await ws_connect(Listener, URL, max_frame_size=LONGEST)
    await obey(
        lambda text: transport.send(WSMsgType.TEXT, text.encode()), lambda: transport.send_close(WSCloseCode.OK, b"bye")
    )


asyncio.run(main())
