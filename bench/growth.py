"""(h) What an operation costs the more there is: in process, on the real hub, with connections that go nowhere."""

import asyncio
import gc
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sized
from functools import partial

from app.bootstrap import create_app
from app.connection import Connection
from app.hub import Hub
from app.protocol.frame import Frame
from app.settings import Settings
from bench.machine import SERVER_CORE
from bench.processes import pinned
from bench.results import Cell, Results
from bench.tools import ROOT

GROWTH = "growth"
CHANNEL_COUNTS = (10, 1_000, 100_000)
OPERATIONS = ("subscribe", "announce", "unsubscribe", "disconnect")
STEP = 7919
"""A prime: which channel is next is hard to foresee for a cache."""
TIMEOUT = 300


class Nowhere:
    """An outlet whose client takes everything at once."""

    sock: socket.socket | None = None
    backlog: Sized = ()
    deflates = False
    on_end: Callable[[], object] | None = None

    def rest(self, _data: bytes, _taken: int) -> int:
        """There is none."""
        return 0

    def write(self, frames: list[Frame]) -> int:
        """Take them."""
        for frame in frames:
            frame.plain()
        return 0

    def waiting(self) -> int:
        """Nothing waits."""
        return 0

    def unacknowledged(self) -> int:
        return self.waiting()

    def unsent(self) -> int:
        return self.waiting()

    def close(self, code: int, reason: str) -> None:
        """Nothing to close."""

    def abort(self) -> None:
        """Nothing to cut."""


def growth(results: Results, *, short: bool) -> None:
    """Measure each number of channels in a process of its own, round after round."""
    for _ in range(1 if short else 5):
        for count in (10, 1_000) if short else CHANNEL_COUNTS:
            command = [sys.executable, "-m", "bench.growth", str(count), str(200 if short else 5000)]
            environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
            done = subprocess.run(
                pinned(SERVER_CORE, command),
                env=environment,
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                check=False,
            )
            if done.returncode:
                results.failures[GROWTH] = done.stderr.strip().rpartition("\n")[2]
                return
            for operation, microseconds in json.loads(done.stdout).items():
                results.add(Cell(GROWTH, operation, subscribers=count), cpu_us=microseconds)


async def measure(channel_count: int, times: int) -> dict[str, float]:
    """CPU time of each operation in microseconds, while so many channels have one subscriber each."""
    hub: Hub = create_app(Settings(auth="anonymous", pubsub_message_types=())).extensions["cloud_sockets"]
    await hub.open()

    def connect() -> Connection:
        connection = hub.connect(None, None, Nowhere())
        connection.open()
        return connection

    def text(type: str, number: int) -> str:
        payload = {"payload": "x" * 128} if type == "announce" else {}
        return json.dumps({"type": type, "channel": f"channel-{number}", "subId": "all", **payload})

    for number in range(channel_count):
        await hub.receive(connect(), text("subscribe", number))
    await asyncio.sleep(0)
    gc.collect()  # the setting up is not measured
    spent = dict.fromkeys(OPERATIONS, 0)

    async def timed(name: str, doing: Callable[[], Awaitable[None]]) -> None:
        before = time.process_time_ns()
        await doing()
        await asyncio.sleep(0)  # what leaves at the end of the turn
        spent[name] += time.process_time_ns() - before

    async def disconnect(connection: Connection) -> None:
        hub.disconnect(connection)

    for turn in range(times):
        guest = connect()
        number = turn * STEP % channel_count  # all over the place
        for name in ("subscribe", "announce", "unsubscribe"):
            await timed(name, partial(hub.receive, guest, text(name, number)))
        await hub.receive(guest, text("subscribe", number))
        await timed("disconnect", partial(disconnect, guest))
    await hub.close()
    return {name: nanoseconds / times / 1e3 for name, nanoseconds in spent.items()}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(int(sys.argv[1]), int(sys.argv[2])))))
