"""Nothing lost across reconnects: positions, replay, and the truth where there is no proof (contract, section 5)."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.client import Client, Message
from tests.support.deadline import soon, until
from tests.support.process import Server

KEPT = {"CLOUD_SOCKETS_PUBSUB_MESSAGE_TYPES": "announce,broadcast,notification"}
USERS = {"CLOUD_SOCKETS_AUTH": "session", "CLOUD_SOCKETS_SESSION_PARSER": "tests.support.sessions:from_header_async"}


async def announce(client: Client, *payloads: object, channel: str = "news", **fields: object) -> None:
    """Announce, and wait until all is accepted."""
    for payload in payloads:
        reply = await client.ask({"type": "announce", "channel": channel, "payload": payload, **fields})
        assert reply["type"] == "ack", reply


def payloads(messages: Sequence[Message]) -> list[Any]:
    return [message["payload"] for message in messages]


async def test_where_a_client_is_stands_in_all_that_it_is_sent() -> None:
    async with Server(**KEPT) as server, Client(server.url) as ann, Client(server.url) as bob:
        assert isinstance(ann.welcome["position"], str)
        assert "recovered" not in ann.welcome
        reply = await ann.subscribe("news")
        assert isinstance(reply["position"], str)
        assert "recovered" not in reply
        await announce(bob, 1)
        await bob.send({"type": "broadcast", "payload": 2})
        announced, broadcast = await ann.collect(2)
        assert isinstance(announced["position"], str)
        assert isinstance(broadcast["position"], str)
        assert announced["position"] != reply["position"]


@pytest.mark.usefixtures("both_ways")
async def test_what_was_missed_is_replayed_in_order_before_anything_new() -> None:
    async with Server(**KEPT) as server, Client(server.url) as bob:
        async with Client(server.url) as ann:
            await ann.subscribe("news")
            await announce(bob, 1)
            seen = await ann.receive()
        await announce(bob, *range(2, 50))
        async with Client(server.url) as ann:
            reply = await ann.subscribe("news", position=seen["position"])
            assert reply["recovered"] is True
            await announce(bob, 50)
            missed = await ann.collect(49)
            assert payloads(missed) == list(range(2, 51))
            assert await ann.nothing_came()
        # Each of them is a place to go on from, as when the client was cut off in the middle of the replay.
        for message in (missed[0], missed[20], missed[-1]):
            async with Client(server.url) as ann:
                assert (await ann.subscribe("news", position=message["position"]))["recovered"] is True
                rest = list(range(message["payload"] + 1, 51))
                assert payloads(await ann.collect(len(rest))) == rest
                assert await ann.nothing_came()


async def test_a_reply_is_a_place_to_go_on_from_too() -> None:
    async with Server(**KEPT) as server, Client(server.url) as bob:
        async with Client(server.url) as ann:
            empty = (await ann.subscribe("news"))["position"]
        await announce(bob, 1, 2)
        async with Client(server.url) as ann:
            reply = await ann.subscribe("news", position=empty)
            assert reply["recovered"] is True
            assert payloads(await ann.collect(2)) == [1, 2]
            # The replay was still to come when the reply was written, so the reply is no place behind it.
        async with Client(server.url) as ann:
            await ann.subscribe("news", position=reply["position"])
            assert payloads(await ann.collect(2)) == [1, 2]
        async with Client(server.url) as ann:
            behind = (await ann.subscribe("news"))["position"]
        await announce(bob, 3)
        async with Client(server.url) as ann:
            await ann.subscribe("news", position=behind)
            assert payloads(await ann.collect(1)) == [3]
            assert await ann.nothing_came()


async def test_a_subscription_is_given_what_was_for_it_and_a_connection_everything_once() -> None:
    async with Server(**KEPT) as server, Client(server.url) as bob:
        async with Client(server.url) as ann:
            position = (await ann.subscribe("news", "1"))["position"]
        await announce(bob, "one", subId="1")
        await announce(bob, "two", subId="2")
        await announce(bob, "all")
        await announce(bob, "two again", subId="2")
        async with Client(server.url) as ann:
            await ann.subscribe("news", "1", position=position)
            first = await ann.collect(2)
            assert payloads(first) == ["one", "all"]
            await ann.subscribe("news", "2", position=position)
            second = await ann.collect(2)
            assert payloads(second) == ["two", "two again"]
            await ann.subscribe("news", "2", position=position)  # once more: it begins there again
            assert payloads(await ann.collect(3)) == ["two", "all", "two again"]
            assert await ann.nothing_came()
            await ann.subscribe("news", "3", position=first[0]["position"])
            assert await ann.nothing_came()
        async with Client(server.url) as ann:  # the last of a replay is the end of all that there was
            await ann.subscribe("news", "1", position=first[-1]["position"])
            await ann.subscribe("news", "2", position=second[-1]["position"])
            assert await ann.nothing_came()
        async with Client(server.url) as ann:  # who joined now is given what was before, and not twice what came since
            await ann.subscribe("news", "1")
            await announce(bob, "live")
            assert payloads(await ann.collect(1)) == ["live"]
            await ann.subscribe("news", "2", position=position)
            assert payloads(await ann.collect(3)) == ["two", "all", "two again"]
            assert await ann.nothing_came()


async def test_what_is_gone_is_not_recovered() -> None:
    async with Server(**KEPT, CLOUD_SOCKETS_HISTORY_SIZE="3") as server, Client(server.url) as bob:
        async with Client(server.url) as ann:
            position = (await ann.subscribe("news"))["position"]
        await announce(bob, 1, 2, 3)
        async with Client(server.url) as ann:
            assert (await ann.subscribe("news", position=position))["recovered"] is True
            assert payloads(await ann.collect(3)) == [1, 2, 3]
        await announce(bob, 4)
        async with Client(server.url) as ann:
            reply = await ann.subscribe("news", position=position)
            assert reply["recovered"] is False
            assert await ann.nothing_came()
            await announce(bob, 5)
            assert payloads(await ann.collect(1)) == [5]
        async with Client(server.url) as ann:
            assert (await ann.subscribe("news", position=reply["position"]))["recovered"] is True
            assert payloads(await ann.collect(1)) == [5]


async def test_what_is_too_old_is_not_recovered() -> None:
    async with Server(**KEPT, CLOUD_SOCKETS_HISTORY_TTL="1") as server, Client(server.url) as bob:
        position = (await bob.subscribe("news"))["position"]
        async with Client(server.url) as eve:
            await announce(eve, 1)

        async def let_go() -> bool:
            return await server.metric('history_evicted_total{reason="age"}') == 1

        await until(let_go)
        async with Client(server.url) as ann:
            assert (await ann.subscribe("news", position=position))["recovered"] is False


@pytest.mark.parametrize("off", ["SIZE", "TTL", "BYTES"])
async def test_without_a_history_nothing_is_recovered(off: str) -> None:
    async with Server(**KEPT, **{f"CLOUD_SOCKETS_HISTORY_{off}": "0"}) as server, Client(server.url) as ann:
        reply = await ann.subscribe("news")
        assert (await ann.subscribe("news", position=reply["position"]))["recovered"] is False
        await announce(ann, 1, channel="other")


async def test_a_position_of_another_process_is_not_recovered() -> None:
    async with Server(**KEPT) as first, Server(**KEPT) as second:
        async with Client(first.url) as ann:
            position = (await ann.subscribe("news"))["position"]
        async with Client(f"{second.url}?position={ann.welcome['position']}") as ann:
            assert ann.welcome["recovered"] is False
            assert (await ann.subscribe("news", position=position))["recovered"] is False


@pytest.mark.parametrize("position", ["", "x", "1..0", "1.", "\x00", "1.a.ffffffffffffffffff", "é" * 10_000])
async def test_what_is_no_position_is_not_recovered(position: str) -> None:
    async with Server(**KEPT) as server, Client(server.url) as ann:
        reply = await ann.subscribe("news", position=position)
        assert reply["recovered"] is False
        assert isinstance(reply["position"], str)


@pytest.mark.parametrize("position", [1, {}, [], True])
async def test_a_position_that_is_no_string_is_refused(position: object) -> None:
    async with Server(**KEPT) as server, Client(server.url) as ann:
        error = await ann.ask({"type": "subscribe", "channel": "news", "subId": "1", "position": position})
        assert (error["type"], error["code"]) == ("error", "invalid_field")
        assert "position" in error["value"]
        assert (await ann.ask({"type": "getInfo"}))["channelInfo"]["totalChannels"] == 0


async def test_in_its_inbox_a_user_finds_what_came_meanwhile() -> None:
    async with Server(**KEPT, **USERS) as server:
        ann_headers = {"additional_headers": {"X-User": "ann"}}
        async with Client(server.url, additional_headers={"X-User": "bob"}) as bob:
            async with Client(server.url, **ann_headers) as ann:
                position = ann.welcome["position"]
                await ann.subscribe("news")
            async with Client(server.url, **ann_headers):
                await bob.ask({"type": "notification", "userTag": "ann", "payload": "for ann"})
            await bob.send({"type": "notification", "userTag": "bob", "payload": "for bob"})
            assert payloads(await bob.collect(1)) == ["for bob"]
            await bob.send({"type": "broadcast", "payload": "for all"})
            assert payloads(await bob.collect(1)) == ["for all"]
            await bob.ask({"type": "announce", "payload": "for all who subscribe"})
            await announce(bob, "in a channel")
            async with Client(f"{server.url}?position={position}", **ann_headers) as ann:
                assert ann.welcome["recovered"] is True
                missed = await ann.collect(3)
                assert payloads(missed) == ["for ann", "for all", "for all who subscribe"]
                assert await ann.nothing_came()
                await bob.ask({"type": "notification", "userTag": "ann", "payload": "new"})
                new = await ann.receive()
            for message, rest in ((missed[0], ["for all", "for all who subscribe", "new"]), (new, [])):
                async with Client(f"{server.url}?position={message['position']}", **ann_headers) as ann:
                    assert ann.welcome["recovered"] is True
                    assert payloads(await ann.collect(len(rest))) == rest
                    assert await ann.nothing_came()
            async with Client(f"{server.url}?position=x", **ann_headers) as ann:
                assert ann.welcome["recovered"] is False
                assert await ann.nothing_came()


@pytest.mark.usefixtures("both_ways")
async def test_a_long_replay_is_paced_by_the_socket_and_what_is_new_comes_behind_it() -> None:
    size, count = 10_000, 600
    async with Server(**KEPT, CLOUD_SOCKETS_MAX_BUFFERED="200000") as server, Client(server.url) as bob:
        async with Client(server.url) as ann:
            position = (await ann.subscribe("news"))["position"]
        await announce(bob, *((number, "x" * size) for number in range(count)))
        async with Client(server.url, narrow=True) as ann:
            assert (await ann.subscribe("news", position=position))["recovered"] is True
            await announce(bob, (count, ""))
            assert await server.metric("messages_replayed_total") < count  # it waits for the client
            numbers = [number for number, _ in payloads(await ann.collect(count + 1))]
            assert numbers == list(range(count + 1))
            assert await ann.nothing_came()


@pytest.mark.usefixtures("both_ways")
async def test_who_does_not_take_a_replay_is_ended_and_goes_on_from_where_it_was() -> None:
    async with Server(**KEPT, CLOUD_SOCKETS_MAX_BUFFERED="100000") as server, Client(server.url) as bob:
        async with Client(server.url) as ann:
            position = (await ann.subscribe("news"))["position"]
        await announce(bob, *((number, "x" * 10_000) for number in range(600)))  # more than the kernel takes
        got: list[int] = []
        codes: list[int] = []
        async with Client(server.url, narrow=True) as ann:
            await ann.subscribe("news", position=position)
            await announce(bob, *((number, "x" * 10_000) for number in range(600, 620)))  # more than can be held
            code, before = await ann.closed()
            codes.append(code)
            got += [message["payload"][0] for message in before]
            position = before[-1]["position"]
        assert codes == [3008]
        assert got == list(range(len(got)))
        async with Client(server.url) as ann:
            assert (await ann.subscribe("news", position=position))["recovered"] is True
            rest = await ann.collect(620 - len(got))
            assert got + [message["payload"][0] for message in rest] == list(range(620))


@pytest.mark.usefixtures("both_ways")
async def test_who_leaves_in_the_middle_of_a_replay_is_sent_no_more_of_it() -> None:
    async with Server(**KEPT, CLOUD_SOCKETS_MAX_BUFFERED="100000") as server, Client(server.url) as bob:
        async with Client(server.url) as ann:
            position = (await ann.subscribe("news"))["position"]
        await announce(bob, *((number, "x" * 10_000) for number in range(600)))
        async with Client(server.url, narrow=True) as ann:
            await ann.subscribe("news", position=position)
            await ann.send({"type": "unsubscribe", "channel": "news", "ackId": "left"})
            messages = []
            while (message := await ann.receive()).get("ackId") != "left":
                messages.append(message)
            assert len(messages) < 600
            assert await ann.nothing_came()


async def test_what_has_to_be_acknowledged_survives_the_reconnect() -> None:
    acked = {"CLOUD_SOCKETS_ACK_MESSAGE_TYPES": "announce", "CLOUD_SOCKETS_MSG_RESEND_DELAY": "100"}
    async with Server(**KEPT, **acked) as server, Client(server.url) as bob:
        async with Client(server.url) as ann:
            await ann.subscribe("news")
            await announce(bob, 1, 2, 3)
            first, *_ = await ann.collect(3)
            await ann.send({"type": "ack", "id": first["id"]})  # the end of what is acknowledged without a hole
        async with Client(server.url) as ann:
            await ann.subscribe("news", position=first["position"])
            again = await ann.collect(2)
            assert payloads(again) == [2, 3]
            retried = await ann.receive()
            assert (retried["isRetry"], retried["payload"]) == (True, 2)
            for message in again:
                await ann.send({"type": "ack", "id": message["id"]})

            async def nothing_pending() -> bool:
                return await server.metric("acks_pending") == 0

            await until(nothing_pending)


@pytest.mark.usefixtures("both_ways")
async def test_without_any_setting_what_was_missed_comes_and_who_is_offline_is_told_of() -> None:
    async with Server() as server, Client(server.url) as bob:
        async with Client(server.url) as ann:
            start = (await ann.subscribe("news"))["position"]
            inbox = ann.welcome["position"]
            ann.abort()
        await announce(bob, 1, 2)
        await bob.send({"type": "broadcast", "payload": 3})
        assert (await bob.receive())["payload"] == 3
        async with Client(f"{server.url}?position={inbox}") as ann:
            assert ann.welcome["recovered"] is True
            assert payloads([await ann.receive()]) == [3]
            assert (await ann.subscribe("news", position=start))["recovered"] is True
            assert payloads(await ann.collect(2)) == [1, 2]
            assert await ann.nothing_came()
        refused = await bob.ask({"type": "notification", "userTag": "ann", "payload": 4})
        assert (refused["type"], refused["code"]) == ("error", "user_offline")
        info = await bob.ask({"type": "getInfo"})
        assert info["serverInfo"]["options"]["pubsubMessageTypes"] == ["announce", "broadcast", "notification"]


async def test_with_an_empty_list_nothing_is_kept() -> None:
    async with Server(CLOUD_SOCKETS_PUBSUB_MESSAGE_TYPES="") as server, Client(server.url) as bob:
        async with Client(server.url) as ann:
            start = (await ann.subscribe("news"))["position"]
            await announce(bob, 1)
            assert "position" not in await ann.receive()
        async with Client(server.url) as ann:
            assert (await ann.subscribe("news", position=start))["recovered"] is False
            assert await ann.nothing_came()


async def test_a_type_that_is_not_listed_has_no_position() -> None:
    async with (
        Server(CLOUD_SOCKETS_PUBSUB_MESSAGE_TYPES="notification") as server,
        Client(server.url) as ann,
        Client(server.url) as bob,
    ):
        reply = await ann.subscribe("news")
        await announce(bob, 1)
        assert "position" not in await ann.receive()
        assert "position" in reply
        assert (await bob.subscribe("news", position=reply["position"]))["recovered"] is True  # of what is kept
        assert await bob.nothing_came()


async def test_a_client_cannot_say_where_others_are() -> None:
    async with Server(**KEPT) as server, Client(server.url) as ann, Client(server.url) as bob:
        await ann.subscribe("news")
        await announce(bob, 1, position="mine", recovered=True)
        message = await ann.receive()
        assert message["position"] != "mine"
        assert "recovered" not in message


@pytest.mark.usefixtures("both_ways")
async def test_while_others_publish_a_client_that_comes_and_goes_gets_everything_once() -> None:
    count, rounds = 600, 12
    async with Server(**KEPT) as server, Client(server.url) as bob:
        async with Client(server.url) as ann:
            position = (await ann.subscribe("news"))["position"]

        async def publish() -> None:
            for number in range(count):
                await bob.send({"type": "announce", "channel": "news", "payload": number})
                await asyncio.sleep(0)

        publishing = asyncio.create_task(publish())
        got: list[int] = []
        for round_ in range(rounds):
            async with Client(server.url) as ann:
                reply = await ann.ask({"type": "subscribe", "channel": "news", "subId": "1", "position": position})
                assert reply["recovered"] is True
                wanted = count if round_ == rounds - 1 else len(got) + count // (2 * rounds)
                while len(got) < wanted:
                    message = await ann.receive()
                    got.append(message["payload"])
                    position = message["position"]
                ann.abort()  # with more on its way to it
        await soon(publishing)
        assert got == list(range(count))


async def test_an_inbox_brings_no_place_in_a_channel() -> None:
    """What names a channel and is replayed out of an inbox must not lead a client over what it missed there."""
    async with Server(**KEPT) as server, Client(server.url) as bob:
        async with Client(server.url) as ann:
            place = (await ann.subscribe("news"))["position"]
        await announce(bob, 1)
        await bob.send({"type": "broadcast", "channel": "news", "payload": 2})
        assert (await bob.receive())["payload"] == 2
        async with Client(f"{server.url}?position={ann.welcome['position']}") as ann:
            assert ann.welcome["recovered"] is True
            replayed = await ann.receive()
            assert (replayed["payload"], "position" in replayed) == (2, False)
            assert (await ann.subscribe("news", position=place))["recovered"] is True
            assert (await ann.receive())["payload"] == 1
