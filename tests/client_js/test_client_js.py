"""The tests of the browser client, which are written in its language and run in Node."""

import asyncio
import os
import subprocess
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

from tests.support.deadline import soon
from tests.support.process import Server
from tests.support.tools import missing

HERE = Path(__file__).parent
WEBSOCKET = "--experimental-websocket"
"""Node has the WebSocket class of browsers behind this option from 20.10 on, and without it from 22 on."""


def _need_node() -> None:
    missing("node")
    if subprocess.run(["node", WEBSOCKET, "--eval", ""], capture_output=True, check=False).returncode != 0:
        missing("node 20.10 or later")


KEPT = {"CLOUD_SOCKETS_PUBSUB_MESSAGE_TYPES": "announce,broadcast"}


async def node(test: str, **variables: str) -> None:
    """Run a file of tests; all have to pass."""
    _need_node()
    process = await asyncio.create_subprocess_exec(
        "node",
        WEBSOCKET,
        "--no-warnings",
        "--test",
        "--test-reporter=spec",
        HERE / test,
        stdout=PIPE,
        stderr=STDOUT,
        env={**os.environ, **variables},
    )
    output, _ = await soon(process.communicate(), 90)
    assert process.returncode == 0, output.decode()


async def test_the_rules() -> None:
    await node("rules.test.js")


async def test_the_client_at_the_server() -> None:
    _need_node()
    acked = {"CLOUD_SOCKETS_ACK_MESSAGE_TYPES": "announce"}
    async with Server(**KEPT, **acked) as server:

        async def start_again() -> None:
            await server.process.wait()
            await server.start()

        restarting = asyncio.create_task(start_again())
        try:
            await node("server.test.js", URL=server.url, SERVER_PID=str(server.process.pid))
        finally:
            restarting.cancel()


async def test_the_client_while_its_sockets_rotate() -> None:
    _need_node()
    async with Server(**KEPT, CLOUD_SOCKETS_REQUEST_TIMEOUT="6") as server:
        await node("rotation.test.js", URL=server.url)
        # It closes the old socket itself, when the new one is there.
        assert await server.metric('connections_closed_total{code="3011"}') == 0
