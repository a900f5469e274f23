"""Log lines cost money and hide each other: an attacker does not write the service's log."""

import asyncio
import re
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from tests.security.programs import KEPT, Attacker, log_entries
from tests.security.wire import PING, RawSocket, frame
from tests.support.deadline import soon, until
from tests.support.process import Server

pytestmark = [pytest.mark.once, pytest.mark.alone]

CAUSES = ["resets", "refused_origins", "bad_upgrades", "broken_frames", "failing_handlers"]
AT_FIRST = 3
"""Log entries that all causes together may have at first; each later second has one."""
OF_ITS_OWN = {"Running on", "stopping:", "stopped"}
"""How the entries begin that any run of the service has."""
HANDLERS = {"CLOUD_SOCKETS_CUSTOM_MSG_HANDLERS": "tests.support.handlers:HANDLERS"}


async def entries_of(server: Server) -> Counter[str]:
    """End a server; count its log's entries by their first line, without what differs between two of one cause."""
    server.terminate()
    assert await server.wait() == 0
    lines = [entry.splitlines()[0].partition("]")[2].strip() for entry in log_entries(server.log)]
    lines = [line for line in lines if not line.startswith(tuple(OF_ITS_OWN))]
    return Counter(re.sub(r"'[^']*'|\"[^\"]*\"|[\da-f-]{8,}|\d+", "_", line) for line in lines)


@pytest.mark.parametrize("cause", CAUSES)
async def test_repeated_cause_is_logged_once_a_second(cause: str) -> None:
    """An attacker that repeats itself adds about one line a second to the log."""
    async with Server(**KEPT, **HANDLERS) as server:
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with Attacker(cause, server.port, connections=5, rest=0.01) as attacker:
            counts = await attacker.over()
        assert counts.total() >= 20, counts
        assert (await server.get("/health/live")).status == 200
        seconds = loop.time() - began
        entries = await entries_of(server)
    most = AT_FIRST + seconds
    assert entries.total() <= most, (entries, counts)


async def test_attackers_of_all_kinds_share_one_line_a_second() -> None:
    """Attackers that each cause lines of another kind add about one line a second in all, and each kind has its own."""
    async with Server(**KEPT, **HANDLERS) as server, AsyncExitStack() as stack:
        loop = asyncio.get_running_loop()
        began = loop.time()
        attackers = [
            await stack.enter_async_context(Attacker(cause, server.port, seconds=5, connections=2, rest=0.01))
            for cause in CAUSES
        ]
        for attacker in attackers:
            await attacker.over()
        seconds = loop.time() - began
        entries = await entries_of(server)
    assert len(entries) >= 2, entries
    assert entries.total() <= AT_FIRST + seconds, entries


async def test_reset_before_the_pongs_is_logged_once_at_most() -> None:
    """A socket that sends 3,000 pings and resets leaves two log lines at most."""
    async with Server(**KEPT) as server:
        attacker = await RawSocket.open(server.port)
        await soon(attacker.send(frame(PING, b"x" * 100) * 3000))
        attacker.reset()

        async def is_gone() -> bool:
            return await server.metric("connections") == 0

        await until(is_gone)
        entries = await entries_of(server)
    assert entries.total() <= 2, entries
