"""The message table of the contract, row by row, over real sockets."""

import json
import re

import pytest

from tests.support.client import Client
from tests.support.deadline import until
from tests.support.process import Server

pytestmark = pytest.mark.usefixtures("both_ways")

UUID = re.compile(r"[0-9a-f-]{36}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


async def test_a_new_connection_is_welcomed() -> None:
    async with Server() as server, Client(server.url) as ann, Client(server.url) as bob:
        welcome = bob.welcome
        assert welcome["type"] == "welcome"
        assert welcome["message"] == "Welcome to the cloud-sockets WebSocket"
        assert (welcome["numConnections"], welcome["numUsers"]) == (2, 0)
        assert re.fullmatch(r"[0-9a-f]{12}", welcome["instanceId"])
        assert welcome["instanceId"] == ann.welcome["instanceId"]
        assert welcome["connectionId"] != ann.welcome["connectionId"]
        assert UUID.fullmatch(welcome["id"])
        assert TIME.fullmatch(welcome["sentDateTime"])


async def test_subscribing_is_acknowledged_and_idempotent() -> None:
    async with Server() as server, Client(server.url) as ann, Client(server.url) as bob:
        assert (await ann.subscribe("news", "a"))["numConnections"] == 1
        reply = await bob.subscribe("news", "a")
        assert (reply["type"], reply["channel"], reply["subId"], reply["numConnections"]) == ("ack", "news", "a", 2)
        assert (await bob.subscribe("news", "a"))["numConnections"] == 2
        await ann.send({"type": "announce", "channel": "news", "payload": 1})
        assert (await bob.receive())["payload"] == 1
        assert await bob.nothing_came()


async def test_the_three_forms_of_unsubscribe_answer_what_they_took_away() -> None:
    async with Server() as server, Client(server.url) as ann, Client(server.url) as bob:
        for channel in ("news", "sport"):
            for sub_id in ("a", "b"):
                await ann.subscribe(channel, sub_id)
        await bob.subscribe("news", "a")

        async def counts(**place: str) -> tuple[int, int, int]:
            reply = await ann.ask({"type": "unsubscribe", **place})
            assert reply["type"] == "ack"
            assert {key: reply[key] for key in place} == place
            return reply["removedConnectionCount"], reply["subscriptionsDeleted"], reply["channelsDeleted"]

        assert await counts(channel="news", subId="a") == (1, 0, 0)
        assert await counts(channel="news", subId="a") == (0, 0, 0)
        assert await counts(channel="news") == (1, 1, 0)
        assert await counts(channel="nowhere") == (0, 0, 0)
        assert await counts() == (2, 2, 1)
        assert await counts() == (0, 0, 0)


async def test_announce_reaches_a_subscription_a_channel_or_all_that_are_subscribed() -> None:
    async with (
        Server() as server,
        Client(server.url) as sender,
        Client(server.url) as a,
        Client(server.url) as b,
        Client(server.url) as c,
        Client(server.url) as none,
    ):
        await a.subscribe("news", "a")
        await b.subscribe("news", "b")
        await c.subscribe("sport", "c")
        await sender.send({"type": "announce", "channel": "news", "subId": "a", "payload": "subscription"})
        await sender.send({"type": "announce", "channel": "news", "payload": "channel"})
        await sender.send({"type": "announce", "payload": "all"})
        assert [message["payload"] for message in await a.collect(3)] == ["subscription", "channel", "all"]
        assert [message["payload"] for message in await b.collect(2)] == ["channel", "all"]
        assert [message["payload"] for message in await c.collect(1)] == ["all"]
        for client in (a, b, c, none, sender):
            assert await client.nothing_came()


async def test_a_connection_in_two_sub_ids_gets_a_channel_announce_once() -> None:
    async with Server() as server, Client(server.url) as sender, Client(server.url) as ann:
        await ann.subscribe("news", "a")
        await ann.subscribe("news", "b")
        await sender.send({"type": "announce", "channel": "news"})
        await sender.send({"type": "announce"})
        assert [message["type"] for message in await ann.collect(2)] == ["announce", "announce"]
        assert await ann.nothing_came()


async def test_an_announce_does_not_come_back_to_the_socket_that_sent_it() -> None:
    async with Server() as server, Client(server.url) as ann, Client(server.url) as other_tab:
        for client in (ann, other_tab):
            await client.subscribe("news")
        for place in ({"channel": "news", "subId": "1"}, {"channel": "news"}, {}):
            await ann.send({"type": "announce", **place})
            assert (await other_tab.receive())["type"] == "announce"
        assert await ann.nothing_came()


async def test_a_broadcast_reaches_all_connections_the_sender_too() -> None:
    async with Server() as server, Client(server.url) as ann, Client(server.url) as bob:
        await ann.send({"type": "broadcast", "payload": "hello"})
        for client in (ann, bob):
            message = await client.receive()
            assert (message["type"], message["payload"]) == ("broadcast", "hello")


async def test_a_broadcast_type_does_the_same_under_its_own_name() -> None:
    async with Server(CLOUD_SOCKETS_BROADCAST_MESSAGE_TYPES="alarm,broadcast") as server:
        async with Client(server.url) as ann, Client(server.url) as bob:
            await ann.send({"type": "alarm", "payload": 1})
            await ann.send({"type": "broadcast", "payload": 2})
            for client in (ann, bob):
                assert [message["type"] for message in await client.collect(2)] == ["alarm", "broadcast"]


async def test_a_shared_type_is_an_announce_of_that_type_and_comes_back_to_its_sender() -> None:
    async with Server(CLOUD_SOCKETS_PUBSUB_MESSAGE_TYPES="todo") as server:
        async with Client(server.url) as ann, Client(server.url) as bob:
            await ann.subscribe("news", "a")
            await bob.subscribe("news", "b")
            await ann.send({"type": "todo", "channel": "news", "payload": 1})
            await ann.send({"type": "todo", "channel": "news", "subId": "b", "payload": 2})
            assert (await ann.receive())["payload"] == 1
            assert [message["payload"] for message in await bob.collect(2)] == [1, 2]
            assert await ann.nothing_came()


async def test_everything_the_server_sends_has_an_id_and_a_time_and_a_clients_own_id_is_kept() -> None:
    async with Server() as server, Client(server.url) as ann, Client(server.url) as bob:
        await bob.subscribe("news")
        await ann.send({"type": "announce", "channel": "news", "id": "mine"})
        await ann.send({"type": "announce", "channel": "news"})
        await ann.send("nonsense")
        own, given = await bob.collect(2)
        assert own["id"] == "mine"
        assert UUID.fullmatch(given["id"])
        for message in (own, given, await ann.receive(), await ann.ask({"type": "getInfo"})):
            assert message["id"]
            assert TIME.fullmatch(message["sentDateTime"])


async def test_a_message_with_the_same_id_from_the_same_sender_is_delivered_once() -> None:
    async with Server() as server, Client(server.url) as ann, Client(server.url) as eve, Client(server.url) as bob:
        await bob.subscribe("news")
        for sender, payload in ((ann, 1), (ann, 2), (eve, 3)):
            reply = await sender.ask({"type": "announce", "channel": "news", "id": "same", "payload": payload})
            assert (reply["type"], reply["id"]) == ("ack", "same")
        assert [message["payload"] for message in await bob.collect(2)] == [1, 3]
        assert await bob.nothing_came()


@pytest.mark.parametrize("mark", [1, -5, 12345678901234567890, "x", "é"])
async def test_a_reply_carries_the_mark_of_its_request_and_receivers_never_see_it(mark: int | str) -> None:
    async with Server() as server, Client(server.url) as ann, Client(server.url) as bob:
        await bob.subscribe("news")
        await ann.send({"type": "announce", "channel": "news", "ackId": mark})
        reply = await ann.receive()
        message = await bob.receive()
        assert (reply["type"], reply["ackId"], reply["id"]) == ("ack", mark, message["id"])
        assert "ackId" not in message
        assert "pubsubId" not in reply


PAYLOADS = [
    "1e400",
    "12345678901234567890",
    "-0.0",
    '"\\u00e9\\ud83d\\ude00 é😀"',
    '{"b":1,"a":[1, 2 ,3],"b":2}',
    '{ "spaced" : [ ] }',
    '""',
    "null",
    "[" * 126 + "]" * 126,
    '"\\ud83d"',
    '{"\\uD83D" : ["\\ude00\\uD83d", "\\\\ud83d"]}',
]


@pytest.mark.parametrize("payload", PAYLOADS)
async def test_a_payload_and_unknown_properties_travel_byte_for_byte(payload: str) -> None:
    async with Server() as server, Client(server.url) as ann, Client(server.url) as bob:
        await bob.subscribe("news")
        await ann.send(f'{{"type":"announce","channel":"news","payload":{payload},"own":{payload},"z\\u0041":1.0}}')
        text = await bob.receive_text()
        assert f'"payload":{payload},' in text
        assert f'"own":{payload},' in text
        assert '"zA":1.0' in text


async def test_what_the_service_sets_itself_cannot_be_forged() -> None:
    forged = ["sentDateTime", "pubsubId", "position", "isRetry", "lastRetryDateTime", "recovered"]
    async with Server() as server, Client(server.url) as ann, Client(server.url) as bob:
        await bob.subscribe("news")
        await ann.send({"type": "announce", "channel": "news", **dict.fromkeys(forged, "forged")})
        message = await bob.receive()
        assert "forged" not in message.values()
        assert set(message) == {"type", "channel", "id", "sentDateTime", "position"}


async def test_info_is_in_the_seeds_shape() -> None:
    async with (
        Server(
            CLOUD_SOCKETS_ACK_MESSAGE_TYPES="announce",
            K_REVISION="hub-00042",
            SECRET_KEY="hush",
            CLOUD_SOCKETS_API_KEYS="quiet",
        ) as server,
        Client(server.url) as ann,
        Client(server.url) as bob,
    ):
        await bob.subscribe("todoList1234", "todo1234")
        await bob.subscribe("todoList1234", "todo5678")
        for number in range(3):
            await ann.ask({"type": "announce", "channel": "todoList1234", "id": f"m{number}"})
        info = await ann.ask({"type": "getInfo"})
        assert info["type"] == "getInfo"
        server_info = info["serverInfo"]
        assert server_info["instanceId"] == ann.welcome["instanceId"]
        assert server_info["revision"] == "hub-00042"
        assert server_info["eventEmitterListeners"] == ["todoList1234"]
        assert server_info["customPubSub"] is False
        assert server_info["options"]["ackMessageTypes"] == ["announce"]
        assert server_info["options"]["msgResendDelay"] == 60000
        assert info["connectionInfo"] == {"totalConnections": 2}
        assert info["messageInfo"] == {"totalConnectionsAwaitingAck": 1, "totalAwaitingMsgs": 3}
        assert info["channelInfo"] == {"totalConnections": 1, "totalChannels": 1, "totalSubscriptions": 2}
        assert info["uniqUserNameCount"] == 0

        assert (await ann.ask({"type": "getInfoDetail"}))["messageInfo"]["awaitingMessages"] == []  # bob's are bob's
        await bob.collect(3)
        detail = await bob.ask({"type": "getInfoDetail"})
        assert detail["type"] == "getInfoDetail"
        assert {key: detail[key] for key in ("serverInfo", "connectionInfo")} == {
            "serverInfo": server_info,
            "connectionInfo": info["connectionInfo"],
        }
        assert detail["messageInfo"]["awaitingMessages"] == ["m0", "m1", "m2"]
        assert detail["uniqUserNames"] == []
        assert detail["channelInfo"]["channels"] == {
            "todoList1234": [{"subId": "todo1234", "numConnections": 1}, {"subId": "todo5678", "numConnections": 1}]
        }
        assert "hush" not in json.dumps(detail)
        assert "quiet" not in json.dumps(detail)


async def test_info_of_one_channel_lists_that_channel_only() -> None:
    async with Server() as server, Client(server.url) as ann:
        await ann.subscribe("news")
        await ann.subscribe("sport")
        detail = await ann.ask({"type": "getInfoDetail", "channel": "sport"})
        assert detail["channelInfo"]["channels"] == {"sport": [{"subId": "1", "numConnections": 1}]}
        assert detail["channelInfo"]["totalChannels"] == 2
        nowhere = await ann.ask({"type": "getInfoDetail", "channel": "nowhere"})
        assert nowhere["channelInfo"]["channels"] == {}


async def test_long_lists_are_cut_and_say_so() -> None:
    async with Server(CLOUD_SOCKETS_MAX_SUBSCRIPTIONS="2000") as server, Client(server.url) as ann:
        for number in range(1000):
            await ann.send({"type": "subscribe", "channel": f"c{number}", "subId": "1"})
        await ann.collect(1000)
        whole = await ann.ask({"type": "getInfoDetail"})
        assert len(whole["channelInfo"]["channels"]) == 1000
        assert "truncated" not in whole
        await ann.subscribe("one more")
        cut = await ann.ask({"type": "getInfoDetail"})
        assert len(cut["channelInfo"]["channels"]) == 1000
        assert cut["truncated"] is True
        assert (await ann.ask({"type": "getInfo"}))["truncated"] is True


async def test_a_listener_is_there_exactly_while_a_channel_has_a_subscription() -> None:
    async with Server() as server, Client(server.url) as ann:

        async def listeners() -> list[str]:
            info = await ann.ask({"type": "getInfo"})
            return list(info["serverInfo"]["eventEmitterListeners"])

        assert await listeners() == []
        async with Client(server.url) as bob:
            await bob.subscribe("news", "a")
            await bob.subscribe("news", "b")
            await bob.ask({"type": "unsubscribe", "channel": "news", "subId": "a"})
            assert await listeners() == ["news"]

        async def nobody() -> bool:
            return await listeners() == []

        await until(nobody)  # bob's end is noticed a moment later
        assert await server.metric("channels") == 0


async def test_what_a_client_says_just_before_it_closes_is_heard() -> None:
    async with Server() as server, Client(server.url) as ann:
        await ann.subscribe("news")
        for number in range(20):
            async with Client(server.url) as bob:
                await bob.send({"type": "announce", "channel": "news", "payload": number})
            assert (await ann.receive())["payload"] == number
