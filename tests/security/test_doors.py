"""Connections that take room and say little: upgrades under way, half requests, file descriptors."""

import asyncio
import contextlib
import resource
import socket
from collections import Counter
from pathlib import Path

import pytest

from tests.security import wire
from tests.security.programs import KEPT, log_entries
from tests.security.wire import RawSocket, RefusedError
from tests.support.deadline import soon, until
from tests.support.process import Server

pytestmark = [pytest.mark.once, pytest.mark.alone]

IDLE_LIMIT = 15.0
"""Seconds after which a connection that says nothing, or stops within a request, is ended."""
BODY_LIMIT = 25.0
"""Seconds after which a request is ended whose body has not come, however much of it trickles in."""
LIVE = 1.0
"""Seconds in which the service's health is answered."""
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
"""HTTP/2 without asking: the preface and empty SETTINGS."""
HALF_BODY = "half a body"
SILENCES = {
    "nothing at all": b"",
    "a request, and then nothing": b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "half a head": b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX-Half: ",
    "HTTP/2": PREFACE,
    HALF_BODY: wire.post(b'{"type":"announce",', size=1000),
}


async def test_slow_session_parser_lets_in_no_more_than_there_is_room_for() -> None:
    """Sixty upgrades at once, with a limit of five: five are let in, the others get 503 without waiting."""
    async with Server(
        CLOUD_SOCKETS_MAX_CONNECTIONS="5",
        CLOUD_SOCKETS_AUTH="session",
        CLOUD_SOCKETS_SESSION_PARSER="tests.support.sessions:slow",
    ) as server:
        loop = asyncio.get_running_loop()
        began = loop.time()
        times: dict[int, list[float]] = {101: [], 503: []}
        opened: list[RawSocket] = []

        async def knock() -> None:
            try:
                opened.append(await RawSocket.open(server.port, X_User="ann"))
                times[101].append(loop.time() - began)
            except RefusedError as refused:
                times[refused.status].append(loop.time() - began)

        await soon(asyncio.gather(*(knock() for _ in range(60))))
        assert (len(times[101]), len(times[503])) == (5, 55)
        assert max(times[503]) < min(times[101]), times
        for each in opened:
            each.close()

        async def has_room() -> bool:
            try:
                (await RawSocket.open(server.port, X_User="bob")).close()
            except RefusedError:
                return False
            return True

        await until(has_room)


async def live_answers(server: Server) -> float:
    """Ask for the service's health on a new connection; returns how long the answer took, in seconds."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(wire.HOST, server.port)
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 200"), answer
    return loop.time() - began


async def lifetime(raw: socket.socket) -> float:
    """Read to the end of a connection; returns how long that took, in seconds."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        while await loop.sock_recv(raw, 65536):
            pass
    except OSError:
        pass  # a reset is an end, too
    finally:
        raw.close()
    return loop.time() - began


async def trickle(raw: socket.socket) -> None:
    """Send a byte of a body each second, to the end of the connection."""
    with contextlib.suppress(OSError):
        while True:
            await asyncio.get_running_loop().sock_sendall(raw, b"x")
            await asyncio.sleep(1)


async def test_silent_connections_are_ended() -> None:
    """Five hundred connections that stop, within a request or before it, are ended; beside them health is answered."""
    async with Server() as server:
        loop = asyncio.get_running_loop()
        ends: dict[asyncio.Task[float], str] = {}
        for kind, data in SILENCES.items():
            for _ in range(100):
                raw = await wire.connect(server.port)
                await loop.sock_sendall(raw, data)
                ends[loop.create_task(lifetime(raw))] = kind
        raw = await wire.connect(server.port)
        await loop.sock_sendall(raw, wire.post(b"", size=1000))
        ends[loop.create_task(lifetime(raw))] = HALF_BODY
        trickling = loop.create_task(trickle(raw))

        pending = set(ends)
        slowest = 0.0
        deadline = loop.time() + BODY_LIMIT
        while pending and loop.time() < deadline:
            slowest = max(slowest, await live_answers(server))
            _, pending = await asyncio.wait(pending, timeout=0.5)
        lasted: Counter[str] = Counter()
        for task, kind in ends.items():
            lasted[kind] = max(lasted[kind], round(BODY_LIMIT if task in pending else task.result()))
        trickling.cancel()
        for task in pending:
            task.cancel()
        assert slowest < LIVE
        assert not pending, lasted
        assert max(time for kind, time in lasted.items() if kind != HALF_BODY) < IDLE_LIMIT, lasted


@pytest.mark.parametrize("kind", ["silent", "sockets"])
async def test_exhausted_descriptors_leave_the_health_check_and_heal(kind: str) -> None:
    """Two hundred connections where there are file descriptors for forty: health is answered, and all heals."""
    async with Server(**KEPT) as server:
        pid = server.process.pid
        used = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 40, hard))
        before = len(server.log)
        loop = asyncio.get_running_loop()
        held = []
        for _ in range(200):
            raw = await wire.connect(server.port)
            if kind == "sockets":
                await loop.sock_sendall(raw, wire.upgrade())
            held.append(raw)
        assert await live_answers(server) < 2
        for raw in held:
            raw.close()

        async def opens() -> bool:
            try:
                opened = await RawSocket.open(server.port)
            except OSError:
                return False
            opened.close()
            return True

        await until(opens, 3)
        entries = log_entries(server.log[before:])
    assert len(entries) <= 3, entries[:5]
