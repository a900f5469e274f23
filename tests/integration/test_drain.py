"""How an instance with many sockets ends, in a real process."""

import asyncio
from contextlib import AsyncExitStack

from tests.support.client import Client
from tests.support.cluster import Topic, clients, cluster
from tests.support.crowd import Crowd
from tests.support.deadline import soon, until
from tests.support.emulator import Emulator
from tests.support.pubsub_server import PubSubServer


async def test_a_thousand_sockets_are_drained_in_time_and_no_subscription_is_left(
    emulator_address: str, topic: str
) -> None:
    loop = asyncio.get_running_loop()
    async with cluster(emulator_address, topic, 1) as (published, [server]):
        crowd = await Crowd.open(server.port, 1000)
        assert len(await published.subscriptions()) == 1
        began = loop.time()
        server.terminate()
        ended = await crowd.ended()
        assert await server.wait(8) == 0
        assert loop.time() - began < 8
        assert await published.subscriptions() == []
    assert {(end.code, end.farewell["code"], end.farewell["reconnect"]) for end in ended} == {(3001, 3001, True)}
    # 200 come back in a second, whenever each was told: their times of return are spread evenly over 5 s.
    waits = sorted(end.farewell["retryAfterMs"] for end in ended)
    returns = sorted(end.time + end.farewell["retryAfterMs"] / 1000 - began for end in ended)
    assert 0 <= waits[0] < 100
    assert 3000 < waits[-1] <= 5000
    for second in range(1, 4):
        assert 100 < sum(second <= time < second + 1 for time in returns) < 300
    assert returns[-1] < 6.5


async def test_clients_that_do_not_go_take_no_time_from_publishing(pubsub_server: PubSubServer) -> None:
    """What was published before the end is stored after it began, and the subscription is deleted."""
    topic = Topic(pubsub_server.address, "news")
    loop = asyncio.get_running_loop()
    async with topic.server() as server, Client(server.url) as ann:
        crowd = await Crowd.open(server.port, 100)
        gate = pubsub_server.faults.publish_gate = asyncio.Event()
        for number in range(50):
            await ann.send({"type": "announce", "channel": "news", "payload": number})

        async def all_wait() -> bool:
            return await server.metric("publish_backlog_messages") == 50

        await until(all_wait)
        server.terminate()
        await server.logged("stopping")
        loop.call_later(0.5, gate.set)
        await until(lambda: not pubsub_server.subscriptions)
        assert await server.metric("connections") >= 100  # none has answered its close frame
        assert await server.wait(8) == 0
        payloads = [message.data for message in pubsub_server.published if b'"payload"' in message.data]
        assert len(payloads) == 50
        crowd.abort()
    await topic.close()


async def test_it_ends_in_time_when_everything_is_slow(own_emulator: Emulator, topic: str) -> None:
    """The clients do not read, Pub/Sub does not answer, messages wait to be published, a request is under way."""
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        _, [server] = await stack.enter_async_context(cluster(own_emulator.address, topic, 1))
        crowd = await Crowd.open(server.port, 300)
        [ann] = await stack.enter_async_context(clients([server]))
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST /api/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        own_emulator.pause()
        await ann.send({"type": "announce", "channel": "news"})
        assert (await ann.ask({"type": "getInfo"}))["type"] == "getInfo"
        began = loop.time()
        server.terminate()
        assert await soon(server.wait(), 8) == 0
        assert loop.time() - began < 8
        crowd.abort()
        writer.close()
        own_emulator.resume()
