"""Sockets that move on because of their age, a newer revision, or a deaf instance: real processes and clients."""

import asyncio
import itertools
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from websockets.exceptions import InvalidStatus

from app.client import Client as ReturningClient
from app.client import Recovery
from tests.support.client import Client
from tests.support.cluster import clients, cluster
from tests.support.deadline import soon, until
from tests.support.process import Server

SOON = {"CLOUD_SOCKETS_REQUEST_TIMEOUT": "6"}
"""Sockets are told after 4.8 to 5.4 s, and closed 0.3 s later."""


async def test_a_socket_is_told_before_its_time_is_up_and_is_served_until_it_is_closed() -> None:
    loop = asyncio.get_running_loop()
    async with Server(**SOON) as server:
        async with Client(server.url) as ann, Client(server.url) as bob:
            opened = loop.time()
            await ann.subscribe("news")
            farewell = await ann.receive()
            told = loop.time() - opened
            assert {key: farewell[key] for key in ("type", "code", "reason", "reconnect", "retryAfterMs")} == {
                "type": "disconnect", "code": 3011, "reason": "rotation", "reconnect": True, "retryAfterMs": 0,
            }  # fmt: skip
            assert 0.75 * 6 < told < 0.95 * 6
            assert (await ann.ask({"type": "announce", "channel": "news"}))["type"] == "ack"
            await server.post("/api/messages", {"type": "announce", "channel": "news", "payload": "still there"})
            assert (await ann.receive())["payload"] == "still there"
            assert await ann.closed() == (3011, [])
            assert loop.time() - opened < 6
            assert (await bob.closed())[0] == 3011
            assert await server.metric('connections_sent_elsewhere_total{reason="age"}') == 2


async def test_a_client_of_the_services_own_rotates_and_nothing_is_lost_doubled_or_late() -> None:
    """Messages come all the time while each of the clients has its socket replaced at least twice."""
    loop = asyncio.get_running_loop()
    async with Server(**SOON) as server:
        got: list[list[Any]] = [[] for _ in range(4)]
        async with (
            listener(server.url, got[0]),
            listener(server.url, got[1]),
            listener(server.url, got[2]),
            listener(server.url, got[3]),
            ReturningClient(server.url, first_wait=0.05) as publisher,
        ):
            began, count = loop.time(), 0
            while loop.time() - began < 12:
                for _ in range(5):
                    count += 1
                    await server.post("/api/messages", {"type": "announce", "channel": "news", "payload": count})
                await publisher.announce("news", f"from a socket {count}", attempts=5)
                await asyncio.sleep(0.01)
            last = (await publisher.announce("news", "the last"))["id"]
            assert last
            await until(lambda: all(found[-1:] == ["the last"] for found in got))
        for found in got:
            numbers = [payload for payload in found if isinstance(payload, int)]
            assert numbers == list(range(1, count + 1))
            assert len(found) == len(set(found))
            assert found == got[0]
        assert await server.metric('connections_sent_elsewhere_total{reason="age"}') >= 10
        # All close the old socket themselves, when the new one is there.
        assert await server.metric('connections_closed_total{code="3011"}') == 0


async def test_from_one_instance_to_another_nothing_is_lost_doubled_or_late(emulator_address: str, topic: str) -> None:
    """The instances hear the same at different times: what a client missed between them it is given again."""
    async with cluster(emulator_address, topic, 2, **SOON) as (_, servers), balancer(servers) as url:
        got: list[list[Any]] = [[] for _ in range(6)]
        recoveries: list[Recovery] = []
        async with AsyncExitStack() as stack:
            for payloads in got:
                await stack.enter_async_context(listener(url, payloads, recoveries))
            loop = asyncio.get_running_loop()
            began, count = loop.time(), 0
            while loop.time() - began < 12:
                count += 1
                await servers[0].post("/api/messages", {"type": "announce", "channel": "news", "payload": count})
            await until(lambda: all(found[-1:] == [count] for found in got))
        assert got == [list(range(1, count + 1))] * 6
        assert len(recoveries) >= 2 * 12
        assert all(recovery.recovered for recovery in recoveries)
        assert min([await server.metric("connections_opened_total") for server in servers]) > 3


@asynccontextmanager
async def balancer(servers: list[Server]) -> AsyncIterator[str]:
    """Brings each connection to the next of these; answers its URL."""
    ports = itertools.cycle(server.port for server in servers)
    under_way: set[asyncio.Task[None]] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", next(ports))
        for pair in ((reader, there[1]), (there[0], writer)):
            task = asyncio.create_task(copy(*pair))
            under_way.add(task)
            task.add_done_callback(under_way.discard)

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"
    server.close()
    for task in under_way:
        task.cancel()


@asynccontextmanager
async def listener(url: str, payloads: list[Any], recoveries: list[Recovery] | None = None) -> AsyncIterator[None]:
    """A client that notes what it gets of the news."""
    async with ReturningClient(
        url,
        on_message=lambda message: payloads.append(message["payload"]),
        on_recovery=([] if recoveries is None else recoveries).append,
        first_wait=0.05,
    ) as client:
        await client.subscribe("news", "1")
        yield


REVISIONS = ("hub-00041-abc", "hub-00042-xyz")


async def test_sockets_leave_an_older_revision_when_a_newer_one_is_heard(emulator_address: str, topic: str) -> None:
    settings = {"CLOUD_SOCKETS_ROLLOVER": "3", "CLOUD_SOCKETS_REQUEST_TIMEOUT": "60"}
    async with cluster(emulator_address, topic, 1, K_REVISION=REVISIONS[0], **settings) as (published, [old]):
        async with clients([old] * 20) as olds, published.server(K_REVISION=REVISIONS[1], **settings) as new:
            async with clients([new] * 5) as news, Client(old.url) as late:
                ends = await asyncio.gather(*(client.closed() for client in [*olds, late]))
                for code, before in ends:
                    assert code == 3011
                    assert before[-1]["reason"] == "a newer revision serves"
                assert await old.metric('connections_sent_elsewhere_total{reason="rollover"}') == 21
                await old.logged(f"{REVISIONS[1]} is newer: ")
                for client in news:
                    assert await client.nothing_came()
                assert await new.metric('connections_sent_elsewhere_total{reason="rollover"}') == 0


async def test_unless_it_is_set_sockets_stay_with_the_older_revision(emulator_address: str, topic: str) -> None:
    async with cluster(emulator_address, topic, 1, K_REVISION=REVISIONS[0]) as (published, [old]):
        async with clients([old]) as [ann], published.server(K_REVISION=REVISIONS[1]) as new:
            async with Client(new.url) as bob:
                await ann.subscribe("news")
                await bob.ask({"type": "announce", "channel": "news"})
                assert (await ann.receive())["type"] == "announce"  # so it has heard the newer one
                assert await ann.nothing_came()


async def test_a_deaf_instance_sends_its_clients_elsewhere_and_takes_no_new_ones_until_it_hears() -> None:
    deaf = {"CLOUD_SOCKETS_PUBSUB_PROVIDER": "tests.support.providers:HardOfHearing"}
    async with Server(**deaf) as server, Client(server.url) as ann:
        server.terminate(signal.SIGUSR1)
        farewell = await ann.receive()
        assert (farewell["code"], farewell["reconnect"]) == (3011, True)

        async def refused() -> int:
            try:
                async with Client(server.url):
                    return 101
            except InvalidStatus as answer:
                return answer.response.status_code if answer.response.headers["Retry-After"] == "1" else 0

        assert await refused() == 503
        assert await server.metric('connections_refused_total{reason="deaf"}') == 1
        assert await server.metric('connections_sent_elsewhere_total{reason="deafness"}') == 1
        server.terminate(signal.SIGUSR1)

        async def comes_in() -> bool:
            return await refused() == 101

        await until(comes_in)
        async with ReturningClient(server.url, first_wait=0.05) as bob:
            server.terminate(signal.SIGUSR1)

            async def is_told() -> bool:
                return await server.metric('connections_sent_elsewhere_total{reason="deafness"}') == 2

            async def has_tried() -> bool:
                return await server.metric('connections_refused_total{reason="deaf"}') > 1

            await until(is_told)
            await until(has_tried)
            assert (await bob.get_info())["type"] == "getInfo"  # it has its old socket while there is no other
            server.terminate(signal.SIGUSR1)
            welcome = bob.welcome
            await until(lambda: bob.welcome is not welcome)
            assert (await soon(bob.get_info()))["type"] == "getInfo"
