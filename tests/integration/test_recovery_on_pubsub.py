"""Nothing lost between instances: real processes on the real emulator, some of which die (contract, section 5)."""

import asyncio
import itertools
import json
from contextlib import AsyncExitStack
from typing import Any

from tests.support.client import Client, Message
from tests.support.cluster import Topic, cluster
from tests.support.deadline import soon
from tests.support.emulator import Emulator


async def announce(client: Client, *payloads: object) -> None:
    for payload in payloads:
        reply = await client.ask({"type": "announce", "channel": "news", "payload": payload})
        assert reply["type"] == "ack", reply


def payloads(messages: list[Message]) -> list[Any]:
    return [message["payload"] for message in messages]


async def test_after_the_violent_death_of_its_instance_a_client_goes_on_at_another(
    emulator_address: str, topic: str
) -> None:
    async with cluster(emulator_address, topic, 2) as (_, (first, second)), Client(second.url) as bob:
        async with Client(first.url) as ann:
            await ann.subscribe("news")
            await announce(bob, 1, 2)
            seen = await ann.collect(2)
            first.kill()
            await first.wait()
        await announce(bob, 3, 4)
        async with Client(f"{second.url}?position={ann.welcome['position']}") as ann:
            assert ann.welcome["recovered"] is True
            reply = await ann.subscribe("news", position=seen[-1]["position"])
            assert reply["recovered"] is True
            assert payloads(await ann.collect(2)) == [3, 4]
            await announce(bob, 5)
            assert payloads(await ann.collect(1)) == [5]
            assert await ann.nothing_came()


async def test_a_position_means_the_same_on_every_instance(emulator_address: str, topic: str) -> None:
    async with cluster(emulator_address, topic, 2) as (_, servers), Client(servers[0].url) as bob:
        async with Client(servers[0].url) as ann, Client(servers[1].url) as eve:
            for client in (ann, eve):
                await client.subscribe("news")
            await announce(bob, *range(10))
            places = [[message["position"] for message in await client.collect(10)] for client in (ann, eve)]
        for server in servers:
            for position in (places[0][4], places[1][4]):
                async with Client(server.url) as client:
                    assert (await client.subscribe("news", position=position))["recovered"] is True
                    assert payloads(await client.collect(5)) == [5, 6, 7, 8, 9]
                    assert await client.nothing_came()


async def test_an_instance_that_is_new_gives_what_was_before_it(emulator_address: str, topic: str) -> None:
    async with AsyncExitStack() as stack:
        shared, (old,) = await stack.enter_async_context(cluster(emulator_address, topic, 1))
        async with Client(old.url) as ann:
            position = (await ann.subscribe("news"))["position"]
            await announce(ann, 1)
        for number in (2, 3):
            await old.post("/api/messages", {"type": "announce", "channel": "news", "payload": number})
        new = await stack.enter_async_context(shared.server())
        old.terminate()
        assert await old.wait() == 0
        async with Client(new.url) as ann:
            assert (await ann.subscribe("news", position=position))["recovered"] is True
            assert payloads(await ann.collect(3)) == [1, 2, 3]
            assert await ann.nothing_came()
        assert json.loads((await new.get("/health/ready")).body).get("notes", []) == []


async def test_where_the_topic_retains_nothing_a_new_instance_says_so_and_proves_nothing(
    emulator_address: str, topic: str
) -> None:
    bare = Topic(emulator_address, topic)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(bare.close)
        await bare.create()
        old = await stack.enter_async_context(bare.server())
        async with Client(old.url) as ann:
            position = (await ann.subscribe("news"))["position"]
            await announce(ann, 1)
        new = await stack.enter_async_context(bare.server())
        async with Client(new.url) as ann:
            assert (await ann.subscribe("news", position=position))["recovered"] is False
            assert await ann.nothing_came()
        assert "retains no messages" in (await new.get("/health/ready")).body.decode()
        assert new.log.count("retains no messages") == 1


async def test_what_others_publish_without_order_may_repeat_and_is_never_lost(
    emulator_address: str, topic: str
) -> None:
    count = 20
    async with cluster(emulator_address, topic, 2) as (shared, servers):
        async with Client(servers[0].url) as ann:
            position = (await ann.subscribe("news"))["position"]

        async def publish() -> None:
            for number in range(count):
                await shared.publish(json.dumps(number).encode(), type="announce", channel="news")

        publishing = asyncio.create_task(publish())
        got: dict[str, int] = {}
        for at in itertools.cycle((0, 1)):
            async with Client(servers[at].url) as ann:
                assert (await ann.subscribe("news", position=position))["recovered"] is True
                wanted = min(len(got) + 4, count)
                while len(got) < wanted:
                    message = await ann.receive()
                    position = message["position"]
                    assert got.setdefault(message["pubsubId"], message["payload"]) == message["payload"]
                ann.abort()  # with more on its way to it
            if len(got) == count:
                break
        await soon(publishing)
        assert sorted(got.values()) == list(range(count))


async def test_a_subscription_that_is_deleted_costs_no_client_anything(emulator_address: str, topic: str) -> None:
    async with cluster(emulator_address, topic, 2) as (shared, (first, second)):
        async with Client(first.url) as ann, Client(second.url) as bob:
            await ann.subscribe("news")
            await announce(bob, 1)
            seen = await ann.collect(1)
            instance = ann.welcome["instanceId"]
            await shared.delete_subscription(f"{topic}-{instance}")
            await announce(bob, *range(2, 30))
            seen += await ann.collect(28)
            assert payloads(seen) == list(range(1, 30))
            assert f"{topic}-{instance}-2" in await shared.subscriptions()
            position = seen[10]["position"]
        async with Client(first.url) as ann:
            assert (await ann.subscribe("news", position=position))["recovered"] is True
            assert payloads(await ann.collect(18)) == list(range(12, 30))


async def test_without_cpu_for_long_what_is_old_is_kept_and_no_news(emulator_address: str, topic: str) -> None:
    async with cluster(emulator_address, topic, 2, CLOUD_SOCKETS_MAX_AGE="2") as (_, (first, second)):
        async with Client(first.url) as ann, Client(second.url) as bob:
            position = (await ann.subscribe("news"))["position"]
            first.pause()
            await announce(bob, "old")
            await asyncio.sleep(2.5)  # the age itself
            first.resume()
            await announce(bob, "new")
            assert payloads(await ann.collect(1)) == ["new"]

            assert await first.metric("messages_stale_total") == 1
            async with Client(first.url) as eve:
                assert (await eve.subscribe("news", position=position))["recovered"] is True
                assert payloads(await eve.collect(2)) == ["old", "new"]


async def test_an_emulator_that_stands_still_holds_up_everything_and_loses_nothing(
    own_emulator: Emulator, topic: str
) -> None:
    async with cluster(own_emulator.address, topic, 2) as (_, (first, second)):
        async with Client(first.url) as ann, Client(second.url) as bob:
            position = (await ann.subscribe("news"))["position"]
            own_emulator.pause()
            await bob.send({"type": "announce", "channel": "news", "payload": 1, "ackId": 1})
            async with Client(second.url) as eve:
                assert (await eve.subscribe("news", position=position))["recovered"] is True
                own_emulator.resume()
                assert (await bob.receive())["type"] == "ack"
                assert payloads(await ann.collect(1)) == payloads(await eve.collect(1)) == [1]
