"""Accepting where file descriptors run out: over real sockets, in a process of its own."""

import subprocess
import sys

from tests.support.process import ROOT

PROGRAM = """
import asyncio, resource, socket
from app.server.listening import ListeningSocket

async def main():
    loop = asyncio.get_running_loop()
    reports, accepted = [], []
    loop.set_exception_handler(lambda _, context: reports.append(context["message"]))
    listening = ListeningSocket.of(socket.create_server(("127.0.0.1", 0)))
    server = await asyncio.start_server(lambda reader, writer: accepted.append(writer), sock=listening, backlog=500)
    clients = [socket.socket() for _ in range(5)]
    for client in clients:
        client.setblocking(False)
        client.connect_ex(listening.getsockname())
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    while len(reports) < 3:
        await asyncio.sleep(0.01)
    assert not accepted
    pending = [timer for timer in loop._scheduled if "_start_serving" in repr(timer)]
    assert len(pending) == 1, pending
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    while len(accepted) < 5:
        await asyncio.sleep(0.01)
    assert len(reports) <= 4, reports

asyncio.run(asyncio.wait_for(main(), 30))
"""


def test_want_of_descriptors_is_reported_once_a_second_and_ends_by_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
