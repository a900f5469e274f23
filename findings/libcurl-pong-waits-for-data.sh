#!/usr/bin/env bash
# What: libcurl's WebSocket API, and a server's ping to a client that only listens.
# Version: pycurl 7.49.0 with libcurl 8.23.0, against the server of websockets 17.4.
# Behaviour: the pong is not written when the ping is read, however often the application asks for data (ws_recv). It
#   leaves with the next data message that comes, or with the next that the application sends.
# Seen: no pong within 3 s of the ping; a pong within milliseconds of the text that the server sends then.
# What one would expect: RFC 6455, 5.5.2: a pong as soon as is practical.
# For users: such a listener is taken for dead by whoever counts pongs only. It may send something now and then; a
#   server may send a text before it gives up, since a second ping does not bring the pong out.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pycurl==7.49.0 websockets==17.4
cat > "$folder/program.py" <<'PYTHON'
import asyncio
import threading

import pycurl
from websockets.asyncio.server import ServerConnection, serve


async def comes(pong, seconds: float) -> bool:
    done, _ = await asyncio.wait({pong}, timeout=seconds)
    return bool(done)


async def main() -> None:
    answers: asyncio.Future[tuple[bool, bool]] = asyncio.get_running_loop().create_future()

    async def handler(connection: ServerConnection) -> None:
        pong = asyncio.ensure_future(await connection.ping())
        idle = await comes(pong, 3)
        await connection.send("data")
        answers.set_result((idle, await comes(pong, 3)))

    async with serve(handler, "127.0.0.1", 0, ping_interval=None, compression=None) as server:
        port = server.sockets[0].getsockname()[1]
        over = threading.Event()

        def listen() -> None:
            curl = pycurl.Curl()
            curl.setopt(pycurl.URL, f"ws://127.0.0.1:{port}/")
            curl.setopt(pycurl.CONNECT_ONLY, 2)
            curl.perform()
            while not over.wait(0.01):
                try:
                    curl.ws_recv(100)
                except (pycurl.error, BlockingIOError):
                    pass  # nothing yet

        listening = threading.Thread(target=listen)
        listening.start()
        idle, after_data = await asyncio.wait_for(answers, 10)
        over.set()
        await asyncio.to_thread(listening.join)
        print(f"pong while idle: {idle}, pong after data: {after_data}")
        assert (idle, after_data) == (False, True), "the behaviour has changed"


asyncio.run(main())
PYTHON
"$folder/venv/bin/python" "$folder/program.py"
