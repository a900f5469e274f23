#!/usr/bin/env bash
# What: Tornado's WebSocket client with compression, and a server that answers `client_no_context_takeover`.
# Version: tornado 6.6.1, against the server of websockets 17.4.
# Behaviour: the client ends up without the parameter, since it stands there without a value, and goes on with the
#   window of its first message. The server inflates each message by itself, as it said, and cannot inflate the second.
# Seen: the server reads one of two equal texts; the client's close code is 1002, "decompression failed".
# What one would expect: RFC 7692, 7.1.1.2: a client that is answered so begins each message with an empty window.
# For users: compression_options=None (the default) is safe; a server that wants such clients keeps their window.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tornado==6.6.1 websockets==17.4
cat > "$folder/program.py" <<'PYTHON'
import asyncio
import logging

from tornado.websocket import websocket_connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory

logging.disable()
TEXT = "the same words again and again " * 3
DEFLATE = ServerPerMessageDeflateFactory(client_no_context_takeover=True)


async def main() -> None:
    read = []

    async def handler(connection: ServerConnection) -> None:
        try:
            async for message in connection:
                read.append(message)
        except ConnectionClosed:
            pass

    async with serve(handler, "127.0.0.1", 0, compression=None, extensions=[DEFLATE]) as server:
        port = server.sockets[0].getsockname()[1]
        client = await websocket_connect(f"ws://127.0.0.1:{port}", compression_options={})
        for _ in range(2):
            await client.write_message(TEXT)
        assert await asyncio.wait_for(client.read_message(), 10) is None
        print(len(read), client.close_code, client.close_reason)
        assert (len(read), client.close_code) == (1, 1002), "the behaviour has changed"


asyncio.run(main())
PYTHON
"$folder/venv/bin/python" "$folder/program.py"
