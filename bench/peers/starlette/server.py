"""Starlette on uvicorn, with all that uvicorn takes to be fast: uvloop, httptools, websockets."""

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from bench.peers.channels import Channels

channels = Channels()


async def serve(socket: WebSocket) -> None:
    """One socket, from the upgrade to its end."""
    await socket.accept()
    send = socket.send_text
    joined: list[tuple[str, str]] = []
    await channels.welcome(send)
    try:
        while True:
            await channels.receive(send, await socket.receive_text(), joined)
    except WebSocketDisconnect:
        pass
    finally:
        channels.forget(send, joined)


if __name__ == "__main__":
    app = Starlette(routes=[WebSocketRoute("/ws", serve)])
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), loop="uvloop", backlog=2048, log_level="critical")
