"""Replays: clients that ask for everything and read nothing keep nobody else from recovering."""

import asyncio

import pytest

from tests.security.programs import KEPT, MEGABYTE, SMALL, Attacker, PeakMemory, memory_of
from tests.security.wire import RawSocket
from tests.support.deadline import until
from tests.support.process import Server

pytestmark = [pytest.mark.once, pytest.mark.alone]

GREEDY = 200
"""Clients that ask for 1,000 messages each."""
ENDED = 140
"""Those of them, at the least, that are promised a replay; the others are told `recovered: false`."""
PATIENCE = 10.0
"""Seconds after which they are ended."""


async def recovers(server: Server, position: str) -> bool:
    """Come back to a channel of five messages; tell whether all are replayed, with the proof that they are all."""
    back = await RawSocket.open(server.port)
    reply = await back.ask({"type": "subscribe", "channel": "news", "subId": "1", "position": position})
    found = reply.get("recovered") is True and [(await back.receive())["payload"] for _ in range(5)] == [0, 1, 2, 3, 4]
    back.close()
    return found


async def test_clients_that_read_no_replay_are_ended_and_others_recover() -> None:
    """Clients that read nothing of the replay they asked for are ended in ten seconds; others recover meanwhile."""
    small = SMALL | {"CLOUD_SOCKETS_HISTORY_BYTES": str(64 * MEGABYTE)}  # else there is nothing to ask for
    async with Server(**KEPT, **small) as server:
        memory = PeakMemory(server)
        ann = await RawSocket.open(server.port)
        position = str((await ann.ask({"type": "subscribe", "channel": "news", "subId": "1"}))["position"])
        bob = await RawSocket.open(server.port)
        for number in range(5):
            await bob.ask({"type": "announce", "channel": "news", "payload": number})
        ann.close()
        assert await recovers(server, position)

        async with Attacker("replays", server.port, seconds=12, connections=GREEDY) as attacker:

            async def all_asked() -> bool:
                return await server.metric("connections_opened_total") >= GREEDY

            await until(all_asked)
            asked = asyncio.get_running_loop().time()
            while (ended := await server.metric('connections_closed_total{code="3008"}')) < ENDED:
                assert await recovers(server, position)
                assert asyncio.get_running_loop().time() - asked < PATIENCE, ended
                await asyncio.sleep(0.1)  # a client of ten a second
            counts = await attacker.over()
        assert counts["asked"] >= GREEDY, counts
        assert await recovers(server, position)
        assert memory.peak < memory_of(server), (memory.peak, memory_of(server))
