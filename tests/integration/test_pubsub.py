"""Several processes on one topic of the real emulator."""

import asyncio
import json
from typing import Any

from tests.support.client import Client
from tests.support.cluster import PROJECT, Topic, clients, cluster
from tests.support.deadline import soon, until
from tests.support.emulator import Emulator
from tests.support.process import Server


async def payloads(client: Client, count: int) -> list[Any]:
    return [message["payload"] for message in await client.collect(count)]


async def test_what_anyone_publishes_reaches_every_client_once_and_in_order(emulator_address: str, topic: str) -> None:
    count = 20
    async with cluster(emulator_address, topic, 3) as (published, servers):
        async with (
            clients(servers) as receivers,
            clients(servers, origin="http://localhost:3000", compression="deflate") as senders,
        ):
            for client in receivers:
                await client.subscribe("news")

            async def from_browser(client: Client, name: str) -> None:
                for number in range(count):
                    reply = await client.ask({"type": "announce", "channel": "news", "payload": [name, number]})
                    assert (reply["type"], bool(reply["pubsubId"])) == ("ack", True)

            async def over_http(server: Server) -> None:
                for number in range(count):
                    answer = await server.post(
                        "/api/messages", {"type": "announce", "channel": "news", "payload": ["http", number]}
                    )
                    assert (answer.status, bool(answer.json["pubsubId"])) == (202, True)

            await asyncio.gather(
                *(from_browser(client, f"browser-{at}") for at, client in enumerate(senders)),
                over_http(servers[1]),
                published.publish_from_another_process("news", count),
            )
            sources = ["browser-0", "browser-1", "browser-2", "http", "whole", "alone"]
            for client in receivers:
                got = await client.collect(count * len(sources))
                assert await client.nothing_came()
                for source in sources:
                    numbers = [message["payload"][1] for message in got if message["payload"][0] == source]
                    assert numbers == list(range(count)), source
                assert len({message["pubsubId"] for message in got}) == len(got)
                assert all(message["own"] for message in got if message["payload"][0] == "whole")

        assert len(await published.subscriptions()) == 3
        for server in servers:
            server.terminate()
        assert [await server.wait(9) for server in servers] == [0, 0, 0]
        assert await published.subscriptions() == []


async def test_a_message_is_the_same_on_all_instances(emulator_address: str, topic: str) -> None:
    async with cluster(emulator_address, topic, 2) as (published, servers), clients(servers) as receivers:
        for client in receivers:
            await client.subscribe("news")
        message_id = await published.publish(b'{"n":1e400}', type="announce", channel="news", subId="1", ignored="x")
        texts = [await client.receive_text() for client in receivers]
        assert texts[0] == texts[1]
        assert '"payload":{"n":1e400},' in texts[0]
        message = json.loads(texts[0])
        assert (message["id"], message["pubsubId"], message["subId"]) == (message_id, message_id, "1")
        assert "ignored" not in message

        await published.publish(
            b'{"type":"announce","channel":"news","id":"own","sentDateTime":"forged","position":"forged"}'
        )
        one, two = [await client.receive() for client in receivers]
        assert one == two
        assert (one["id"], one["sentDateTime"].startswith("20")) == ("own", True)
        assert one["position"] != "forged"


async def test_users_broadcasts_and_logouts_reach_all_instances(emulator_address: str, topic: str) -> None:
    async with cluster(
        emulator_address, topic, 2,
        CLOUD_SOCKETS_AUTH="session",
        CLOUD_SOCKETS_SESSION_PARSER="tests.support.sessions:from_header_async",
        CLOUD_SOCKETS_CUSTOM_MSG_HANDLERS="tests.support.handlers:HANDLERS",
        CLOUD_SOCKETS_BROADCAST_MESSAGE_TYPES="alarm",
    ) as (_, servers):  # fmt: skip
        ann = {"additional_headers": {"X-User": "ann"}}
        async with clients(servers, **ann) as anns, clients(servers, additional_headers={"X-User": "bob"}) as bobs:
            await bobs[0].ask({"type": "notification", "userTag": "ann", "payload": 1})
            assert [await payloads(client, 1) for client in anns] == [[1], [1]]
            for kind in ("broadcast", "alarm"):
                await bobs[0].send({"type": kind, "payload": kind})
                assert [await payloads(client, 1) for client in (*anns, *bobs)] == [[kind]] * 4
            # Whether a user is online elsewhere cannot be known here: it is accepted.
            assert (await bobs[0].ask({"type": "notification", "userTag": "nobody"}))["type"] == "ack"
            await bobs[0].send({"type": "callLogout", "payload": "ann"})
            assert [(await client.closed())[0] for client in anns] == [3503, 3503]
            for client in bobs:
                assert await client.nothing_came()


async def test_a_type_that_is_not_shared_stays_on_its_instance(emulator_address: str, topic: str) -> None:
    shared = {"CLOUD_SOCKETS_PUBSUB_MESSAGE_TYPES": "announce,todo"}
    async with cluster(emulator_address, topic, 2, **shared) as (_, servers), clients(servers) as receivers:
        here, there = receivers
        for client in receivers:
            await client.subscribe("news")
        await here.send({"type": "broadcast", "payload": "local"})
        local = await here.receive()
        assert "pubsubId" not in local
        await here.send({"type": "todo", "channel": "news", "payload": "shared"})
        assert (await here.receive())["payload"] == "shared"
        assert (await there.receive())["payload"] == "shared"
        assert await there.nothing_came()


async def test_poison_is_dropped_once_and_what_follows_arrives(emulator_address: str, topic: str) -> None:
    async with cluster(emulator_address, topic, 1, CLOUD_SOCKETS_MAX_PAYLOAD="1000") as (published, (server,)):
        async with Client(server.url) as ann:
            await ann.subscribe("news")
            poison = [
                await published.publish(b"not json"),
                await published.publish(b"\xff\xfe", type="announce", channel="news"),
                await published.publish(b"[1]"),
                await published.publish(b'{"type":"subscribe","channel":"news","subId":"1"}'),
                await published.publish(b"1", type="error"),
                await published.publish(b"1", type="notification"),
                await published.publish(b"1", type="announce", subId="1"),
                await published.publish(b'"' + b"x" * 1000 + b'"', type="announce", channel="news"),
                await published.publish(b"1", type="cloud-sockets.logout", userTag="ann"),
            ]
            await published.publish(b"1", type="announce", channel="news")
            assert await payloads(ann, 1) == [1]
            assert await ann.nothing_came()
            for message_id in poison:
                assert server.log.count(f"dropped the malformed message {message_id}:") == 1
            assert await server.metric('malformed_dropped_total{code="too_large"}') == 1
            assert await server.metric('malformed_dropped_total{code="invalid_json"}') == 2


async def test_publishers_duplicates_are_dropped(emulator_address: str, topic: str) -> None:
    async with cluster(emulator_address, topic, 1) as (published, (server,)), Client(server.url) as ann:
        await ann.subscribe("news")
        for _ in range(2):
            await published.publish(b'{"type":"announce","channel":"news","id":"same","payload":1}')
            await server.post("/api/messages", {"type": "announce", "channel": "news", "id": "same", "payload": 2})
            numbered = b'{"type":"announce","channel":"news","payload":3}'
            await published.publish(numbered, type="announce", channel="news", origin="elsewhere", seq="1", sender="x")
        first, second = await payloads(ann, 2)
        assert {first, second} in ({1, 3}, {2, 3})
        await published.publish(b'{"type":"announce","channel":"news","payload":"last"}')
        assert await payloads(ann, 1) == ["last"]
        assert await server.metric('duplicates_dropped_total{by="id"}') == 3
        assert await server.metric('duplicates_dropped_total{by="sequence"}') == 1


async def test_after_the_violent_death_of_one_instance_the_others_go_on(emulator_address: str, topic: str) -> None:
    async with cluster(emulator_address, topic, 3) as (_, servers):
        async with clients(servers[:2]) as (ann, bob), Client(servers[2].url) as lost:
            for client in (ann, bob, lost):
                await client.subscribe("news")
            servers[2].kill()
            assert (await lost.closed())[0] == 1006
            for number in range(10):
                await ann.ask({"type": "announce", "channel": "news", "payload": number})
            assert await payloads(bob, 10) == list(range(10))


async def test_a_subscription_that_somebody_deletes_is_made_anew(emulator_address: str, topic: str) -> None:
    async with cluster(emulator_address, topic, 2) as (published, servers), clients(servers) as (ann, bob):
        await bob.subscribe("news")
        await ann.ask({"type": "announce", "channel": "news", "payload": "before"})
        assert await payloads(bob, 1) == ["before"]
        lost = f"{topic}-{bob.welcome['instanceId']}"
        await published.delete_subscription(lost)
        await ann.ask({"type": "announce", "channel": "news", "payload": "meanwhile"})
        assert await payloads(bob, 1) == ["meanwhile"]
        assert await bob.nothing_came()
        assert f"{lost}-2" in await published.subscriptions()


async def test_an_emulator_that_stops_for_twenty_seconds_loses_nothing_that_comes_later(
    own_emulator: Emulator, topic: str
) -> None:
    async with cluster(own_emulator.address, topic, 2) as (_, servers), clients(servers) as (ann, bob):
        await bob.subscribe("news")
        await ann.ask({"type": "announce", "channel": "news", "payload": "before"})
        assert await payloads(bob, 1) == ["before"]
        own_emulator.pause()
        stopped = asyncio.get_running_loop().time()
        # Meanwhile: what is not shared goes on, and what is shared is answered with the truth.
        await ann.send({"type": "announce", "channel": "news", "payload": "doubtful", "ackId": "doubtful"})
        assert (await bob.ask({"type": "getInfo"}))["type"] == "getInfo"
        reply = await soon(ann.receive(), 20)
        assert (reply["type"], reply["code"], reply["temporary"]) == ("error", "unavailable", True)
        assert reply["ackId"] == "doubtful"
        await asyncio.sleep(20 - (asyncio.get_running_loop().time() - stopped))  # the outage is what is tested
        own_emulator.resume()

        async def accepted(number: int) -> None:
            while (await ann.ask({"type": "announce", "channel": "news", "payload": number, "id": f"m{number}"}))[
                "type"
            ] != "ack":
                pass

        for number in range(10):
            await soon(accepted(number), 60)
        got: list[Any] = []
        while 9 not in got:
            got += await soon(payloads(bob, 1), 60)
        assert [payload for payload in got if payload != "doubtful"] == list(range(10))
        assert got.count("doubtful") <= 1


async def test_an_emulator_that_is_killed_and_started_anew_is_recovered_from(
    own_emulator: Emulator, topic: str
) -> None:
    async with cluster(own_emulator.address, topic, 2) as (_, servers), clients(servers) as (ann, bob):
        await bob.subscribe("news")
        await ann.ask({"type": "announce", "channel": "news", "payload": "before"})
        assert await payloads(bob, 1) == ["before"]
        own_emulator.kill()

        async def all_say(status: int) -> bool:
            return {(await server.get("/health/ready")).status for server in servers} == {status}

        await until(lambda: all_say(503))
        reasons = (await servers[0].get("/health/ready")).json["reasons"]
        assert "Pub/Sub" in reasons[0]
        own_emulator.start()
        await until(lambda: all_say(200), 60)
        # What the emulator held is gone, so nobody may go on as if nothing had been missed.
        assert [(await client.closed())[0] for client in (ann, bob)] == [3011, 3011]
        async with clients(servers) as (eve, joe):
            await joe.subscribe("news")
            await eve.ask({"type": "announce", "channel": "news", "payload": "after"})
            assert await payloads(joe, 1) == ["after"]


async def test_with_a_full_backlog_the_sender_gets_a_temporary_error(own_emulator: Emulator, topic: str) -> None:
    async with cluster(own_emulator.address, topic, 1, CLOUD_SOCKETS_PUBLISH_BACKLOG="2000") as (_, (server,)):
        async with Client(server.url) as ann:
            own_emulator.pause()
            await ann.send({"type": "announce", "channel": "news", "payload": "x" * 1000})
            error = await ann.ask({"type": "announce", "channel": "news", "payload": "x" * 1000})
            assert (error["code"], error["temporary"]) == ("unavailable", True)
            answer = await server.post("/api/messages", {"type": "announce", "channel": "news", "payload": "x" * 1000})
            assert (answer.status, answer.json["code"], answer.json["temporary"]) == (503, "unavailable", True)
            assert answer.headers["retry-after"]
            assert await server.metric("publish_backlog_messages") == 1
            assert await server.metric('messages_published_total{fanout="shared",result="refused"}') == 2


async def test_it_ends_in_time_with_pubsub_out_of_reach(own_emulator: Emulator, topic: str) -> None:
    async with cluster(own_emulator.address, topic, 1) as (_, (server,)), Client(server.url) as ann:
        own_emulator.pause()
        await ann.send({"type": "announce", "channel": "news"})
        server.terminate()
        assert (await ann.closed())[0] == 3001
        assert await server.wait(9) == 0


async def test_what_was_accepted_is_flushed_at_the_end(emulator_address: str, topic: str) -> None:
    async with cluster(emulator_address, topic, 2) as (_, (first, second)), Client(second.url) as bob:
        await bob.subscribe("news")
        async with Client(first.url) as ann:
            for number in range(50):
                await ann.send({"type": "announce", "channel": "news", "payload": number})
            await ann.ask({"type": "getInfo"})  # all fifty have been taken
            first.terminate()
            assert await payloads(bob, 50) == list(range(50))
            assert await first.wait(9) == 0


async def test_the_names_of_subscriptions_have_the_prefix_that_is_set(emulator_address: str, topic: str) -> None:
    name = f"projects/{PROJECT}/topics/{topic}"
    async with Server(
        PUBSUB_EMULATOR_HOST=emulator_address,
        CLOUD_SOCKETS_PUBSUB_TOPIC_NAME=name,
        CLOUD_SOCKETS_PUBSUB_SUBSCRIPTION_NAME="prefix",
    ) as server, Client(server.url) as ann:  # fmt: skip
        published = Topic(emulator_address, topic)
        assert await published.subscriptions() == [f"prefix-{ann.welcome['instanceId']}"]
        await published.close()


async def test_without_a_project_it_does_not_start() -> None:
    server = Server(CLOUD_SOCKETS_PUBSUB_TOPIC_NAME="news", PUBSUB_EMULATOR_HOST="127.0.0.1:1", HOME="/nonexistent")
    await server.start()
    assert await server.wait(30) == 2
    assert "GOOGLE_CLOUD_PROJECT is not set" in server.log


async def test_without_credentials_it_does_not_start_and_says_what_to_do() -> None:
    server = Server(
        CLOUD_SOCKETS_PUBSUB_TOPIC_NAME="news", GOOGLE_CLOUD_PROJECT="demo", NO_GCE_CHECK="true", HOME="/nonexistent"
    )
    await server.start()
    assert await server.wait(30) == 1
    assert "gcloud auth application-default login" in server.log
    assert "Traceback" not in server.log


async def test_a_topic_that_retains_nothing_is_noted_where_readiness_is_told(emulator_address: str, topic: str) -> None:
    published = Topic(emulator_address, topic)
    try:
        await published.create()
        async with published.server() as server:
            (note,) = (await server.get("/health/ready")).json["notes"]
            assert "retains no messages" in note
            assert server.log.count(note) == 1
    finally:
        await published.close()


async def test_while_pubsub_cannot_be_reached_it_serves_but_is_not_ready() -> None:
    async with Server(
        wait_for="/health/live",
        CLOUD_SOCKETS_PUBSUB_TOPIC_NAME="news",
        GOOGLE_CLOUD_PROJECT="demo",
        PUBSUB_EMULATOR_HOST="127.0.0.1:1",
    ) as server:

        async def told() -> bool:
            ready = await server.get("/health/ready")
            return ready.status == 503 and "Pub/Sub cannot be used now (UNAVAILABLE" in ready.json["reasons"][0]

        await until(told)
        server.terminate()
        assert await server.wait(9) == 0
