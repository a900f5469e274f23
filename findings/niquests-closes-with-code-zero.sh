#!/usr/bin/env bash
# What: the close frame that niquests sends where the application closes a WebSocket without naming a code.
# Version: niquests 3.21.2 (urllib3-future 2.25.904, wsproto 1.3.2), against the server of websockets 17.4.
# Behaviour: `response.extension.close()` sends close code 0, which is no code that may stand in a close frame.
# Seen: the server fails the connection with 1002, "invalid status code".
# What one would expect: 1000, or a close frame without a code (RFC 6455, 7.4.2: 0 to 999 are not used).
# For users: each ordinary goodbye of such a client counts as a protocol error in a server's log and metrics.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check niquests==3.21.2 urllib3-future==2.25.904 wsproto==1.3.2 websockets==17.4
cat > "$folder/program.py" <<'PYTHON'
import asyncio

import niquests
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed


async def main() -> None:
    ended: asyncio.Future[ConnectionClosed] = asyncio.get_running_loop().create_future()

    async def handler(connection: ServerConnection) -> None:
        try:
            await connection.recv()
        except ConnectionClosed as error:
            ended.set_result(error)

    async with serve(handler, "127.0.0.1", 0, ping_interval=None) as server:
        port = server.sockets[0].getsockname()[1]

        def visit() -> None:
            with niquests.Session() as session:
                response = session.get(f"ws://127.0.0.1:{port}/")
                assert response.status_code == 101
                response.extension.close()

        await asyncio.to_thread(visit)
        sent = (await asyncio.wait_for(ended, 10)).sent
        print(sent)
        assert sent is not None and (int(sent.code), sent.reason) == (1002, "invalid status code"), "it has changed"


asyncio.run(main())
PYTHON
"$folder/venv/bin/python" "$folder/program.py"
