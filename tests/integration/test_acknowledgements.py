"""Messages that are sent again until they are acknowledged."""

from typing import Any

import pytest

from tests.support.client import Client
from tests.support.deadline import until
from tests.support.process import Server

pytestmark = pytest.mark.usefixtures("both_ways")

ACKED = {"CLOUD_SOCKETS_ACK_MESSAGE_TYPES": "announce,notice", "CLOUD_SOCKETS_MSG_RESEND_DELAY": "100"}


async def test_a_message_comes_again_until_it_is_acknowledged() -> None:
    async with Server(**ACKED) as server, Client(server.url) as ann, Client(server.url) as bob:
        await bob.subscribe("news")
        await ann.send({"type": "announce", "channel": "news", "payload": [1, 2], "own": 1})
        first, second, third = await bob.collect(3)
        assert "isRetry" not in first
        for retry in (second, third):
            assert retry["isRetry"] is True
            assert retry.pop("lastRetryDateTime") > first["sentDateTime"]
            assert {**first, "isRetry": True} == retry
        await bob.send({"type": "ack", "id": first["id"]})
        info = await bob.ask({"type": "getInfo"})
        assert info["messageInfo"] == {"totalConnectionsAwaitingAck": 0, "totalAwaitingMsgs": 0}


async def test_each_of_several_messages_and_receivers_is_waited_for() -> None:
    async with Server(**ACKED) as server, Client(server.url) as ann:
        async with Client(server.url) as bob, Client(server.url) as eve:
            for client in (bob, eve):
                await client.subscribe("news")
            for message_id in ("m1", "m2"):
                await ann.ask({"type": "announce", "channel": "news", "id": message_id})
            assert [message["id"] for message in await bob.collect(2)] == ["m1", "m2"]
            await bob.send({"type": "ack", "id": "m1"})
            retries: list[str] = []
            while len(retries) < 2:
                message_id = (await bob.receive())["id"]
                if retries or message_id != "m1":  # which may have come again before it was acknowledged
                    retries.append(message_id)
            assert retries == ["m2", "m2"]
            got: list[str] = []
            while min(got.count("m1"), got.count("m2")) < 2:
                got.append((await eve.receive())["id"])
            assert set(got) == {"m1", "m2"}


async def test_after_the_timeout_a_message_is_given_up_counted_and_logged() -> None:
    async with Server(**ACKED, CLOUD_SOCKETS_MSG_RESEND_TIMEOUT="450") as server:
        async with Client(server.url) as ann, Client(server.url) as bob:
            await bob.subscribe("news")
            await ann.send({"type": "announce", "channel": "news", "id": "lost"})

            async def given_up() -> bool:
                return await server.metric('acks_given_up_total{reason="timeout"}') == 1

            await until(given_up)
            await server.logged("gave up lost")
            await bob.send({"type": "getInfo", "ackId": "end"})
            got = []
            while (message := await bob.receive()).get("ackId") != "end":
                got.append(message["id"])
            assert got[:2] == ["lost", "lost"]
            assert len(got) <= 5


@pytest.mark.parametrize("left", [{"channel": "news", "subId": "1"}, {"channel": "news"}, {}])
async def test_what_a_client_has_unsubscribed_from_comes_no_more(left: dict[str, str]) -> None:
    async with Server(**ACKED) as server, Client(server.url) as ann, Client(server.url) as bob:
        await bob.subscribe("news")
        await bob.subscribe("weather")
        for channel in ("news", "weather"):
            await ann.ask({"type": "announce", "channel": channel, "id": channel})
        await bob.send({"type": "unsubscribe", **left, "ackId": "left"})
        while (await bob.receive()).get("ackId") != "left":
            pass  # some may have come again before
        if not left:  # somebody else's clock ticks
            await bob.subscribe("weather")
            await ann.ask({"type": "announce", "channel": "weather", "id": "weather"} | {"payload": 2, "id": "later"})
        waiting = "weather" if left else "later"
        came: list[Any] = []
        while came.count(waiting) < 3:
            came.append((await bob.receive())["id"])
        assert set(came) == {waiting}
        assert await server.metric('acks_given_up_total{reason="unsubscribed"}') == (1 if left else 2)
        detail = await ann.ask({"type": "getInfo"})
        assert detail["messageInfo"] == {"totalConnectionsAwaitingAck": 1, "totalAwaitingMsgs": 1}


async def test_a_message_that_another_subscription_matches_too_is_waited_for() -> None:
    async with Server(**ACKED) as server, Client(server.url) as ann, Client(server.url) as bob:
        for sub_id in ("1", "2"):
            await bob.subscribe("news", sub_id)
        await ann.ask({"type": "announce", "channel": "news", "id": "both"})
        await bob.send({"type": "unsubscribe", "channel": "news", "subId": "1", "ackId": "left"})
        while (await bob.receive()).get("ackId") != "left":
            pass
        assert [message["id"] for message in await bob.collect(2)] == ["both", "both"]


async def test_a_connection_that_ends_owes_nothing() -> None:
    async with Server(CLOUD_SOCKETS_ACK_MESSAGE_TYPES="announce") as server, Client(server.url) as ann:
        async with Client(server.url) as bob:
            await bob.subscribe("news")
            await ann.ask({"type": "announce", "channel": "news"})
            assert (await ann.ask({"type": "getInfo"}))["messageInfo"]["totalAwaitingMsgs"] == 1

        async def nothing_owed() -> bool:
            return await server.metric("acks_pending") == 0

        await until(nothing_owed)
        assert await server.metric('acks_given_up_total{reason="disconnected"}') == 1


async def test_over_a_thousand_the_oldest_is_given_up() -> None:
    async with Server(CLOUD_SOCKETS_ACK_MESSAGE_TYPES="announce") as server:
        async with Client(server.url) as ann, Client(server.url) as bob:
            await bob.subscribe("news")
            for number in range(1001):
                await ann.send({"type": "announce", "channel": "news", "id": f"m{number}"})
            await bob.collect(1001)
            assert await server.metric('acks_given_up_total{reason="too_many"}') == 1
            detail = await bob.ask({"type": "getInfoDetail"})
            waiting = detail["messageInfo"]["awaitingMessages"]
            assert (len(waiting), waiting[0], waiting[-1]) == (1000, "m1", "m1000")


async def test_an_acknowledgement_of_nothing_is_no_error() -> None:
    async with Server(**ACKED) as server, Client(server.url) as ann:
        await ann.send({"type": "ack", "id": "never sent"})
        assert await ann.nothing_came()
        reply = await ann.ask({"type": "ack", "id": "never sent"})
        assert (reply["type"], reply["id"]) == ("ack", "never sent")
