"""Cloud Run takes an instance's CPU away: what happened to its sockets meanwhile is found out."""

import asyncio
import signal

import pytest

from tests.support import quick_pings
from tests.support.client import Client
from tests.support.crowd import Crowd
from tests.support.deadline import until
from tests.support.process import Server


async def test_after_a_stop_the_sockets_that_died_are_noticed_and_the_others_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 30 clients 10 hang up while the instance stands still, 10 vanish without a word, and 10 are there."""
    monkeypatch.setattr(Server, "module", "tests.support.quick_pings")
    async with Server() as server:
        living = [Client(server.url, ping_interval=None) for _ in range(10)]
        for client in living:
            await client.__aenter__()
        hanging_up, vanishing = await Crowd.open(server.port, 10), await Crowd.open(server.port, 10)  # neither pongs

        async def connections() -> float:
            return await server.metric("connections")

        assert await connections() == 30
        server.terminate(signal.SIGSTOP)
        hanging_up.abort()
        await asyncio.sleep(2 * (quick_pings.INTERVAL + quick_pings.TIMEOUT))  # the stop is what is tested
        server.terminate(signal.SIGCONT)

        async def only_the_living() -> bool:
            return await connections() == 10

        await until(only_the_living, 15)
        assert await server.metric('connections_closed_total{code="3012"}') == 10
        await asyncio.sleep(2 * quick_pings.INTERVAL)  # they are asked again, and stay
        for client in living:
            assert await client.nothing_came()
            await client.socket.close()
        vanishing.abort()
