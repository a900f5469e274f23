"""trio-websocket."""

import sys

import trio
from trio_websocket import ConnectionClosed, open_websocket_url

from tests.interop.adapters.lines import LONGEST, URL, say, split


async def main() -> None:
    async with (
        open_websocket_url(URL, max_message_size=LONGEST) as socket,
        trio.open_nursery() as nursery,
    ):
        say("open")

        async def orders() -> None:
            while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
                word, rest = split(line)
                if word == "text":
                    await socket.send_message(rest)
                else:
                    await socket.aclose(1000, "bye")

        nursery.start_soon(orders)
        try:
            while True:
                say("text", await socket.get_message())
        except ConnectionClosed as ended:
            say("close", ended.reason.code, ended.reason.reason)


trio.run(main)
