"""The tests of the browser client, which are written in its language and run in Node."""

import asyncio
import hashlib
import os
import shutil
import subprocess
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

from tests.support.deadline import soon
from tests.support.link import slow_link
from tests.support.process import ROOT, Server
from tests.support.tools import missing

HERE = Path(__file__).parent
CACHE = ROOT / ".cache" / "client_js"
WEBSOCKET = "--experimental-websocket"
"""Node has the WebSocket class of browsers behind this option from 20.10 on, and without it from 22 on."""


def _need_node() -> None:
    missing("node")
    if subprocess.run(["node", WEBSOCKET, "--eval", ""], capture_output=True, check=False).returncode != 0:
        missing("node 20.10 or later")


SLOW = 1_200_000
"""Bytes a second of a slow link."""
ROTATING = 4
"""Clients that are there while sockets rotate; each ends its last socket itself in any case."""
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


async def test_the_promises() -> None:
    await node("promises.test.js")


async def test_the_client_behind_a_slow_link() -> None:
    _need_node()
    async with Server(**KEPT) as server, slow_link(server.port, SLOW) as port:
        await node("slow.test.js", URL=server.url, SLOW=f"ws://127.0.0.1:{port}/ws")


async def test_a_burst_whose_handlers_ask() -> None:
    _need_node()
    async with Server(**KEPT, CLOUD_SOCKETS_HISTORY_SIZE="5000") as server:
        await node("burst.test.js", URL=server.url)


def _class_of_sockets() -> str:
    """The module of `ws`, installed as the lock has it."""
    missing("npm")
    files = [HERE / name for name in ("package.json", "package-lock.json", ".npmrc")]
    key = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
    folder = CACHE / key
    module = folder / "node_modules" / "ws" / "wrapper.mjs"
    if not module.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copy(file, folder)
        flags = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
        subprocess.run(["npm", "ci", *flags], cwd=folder, check=True, timeout=80)
    return str(module)


async def test_a_class_of_sockets_that_is_handed_in() -> None:
    _need_node()
    module = await asyncio.to_thread(_class_of_sockets)
    async with Server() as server:
        await node("ws.test.js", URL=server.url, CLASS=module)


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
    async with Server(**KEPT, CLOUD_SOCKETS_REQUEST_TIMEOUT="6", CLOUD_SOCKETS_MESSAGE_RATE="0") as server:
        await node("rotation.test.js", URL=server.url)
        # It closes the old socket itself, when the new one is there; on a busy machine the server may be before it.
        ended = await server.metric('connections_closed_total{code="0"}')
        assert ended > ROTATING, "all sockets were ended by the server, but for the last of each client"
