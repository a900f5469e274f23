"""The process flow in the seed's document, all of its steps, over real sockets."""

import pytest

from tests.support.client import Client
from tests.support.deadline import until
from tests.support.process import Server

pytestmark = pytest.mark.usefixtures("both_ways")


async def test_the_whole_flow() -> None:
    async with Server(
        CLOUD_SOCKETS_ACK_MESSAGE_TYPES="announce", CLOUD_SOCKETS_MSG_RESEND_DELAY="150"
    ) as server, Client(server.url), Client(server.url) as sender:  # fmt: skip

        async def detail() -> dict[str, object]:
            answer = (await server.get("/api/info/detail")).json
            return {
                "listeners": answer["serverInfo"]["eventEmitterListeners"],
                "connections": answer["connectionInfo"]["totalConnections"],
                "channels": answer["channelInfo"]["channels"],
                "awaiting": answer["messageInfo"]["awaitingMessages"],
            }

        # 1, 2: the client connects and is welcomed
        client = Client(server.url)
        await client.__aenter__()
        assert client.welcome["type"] == "welcome"
        assert await detail() == {"listeners": [], "connections": 3, "channels": {}, "awaiting": []}

        # 3 to 8: it subscribes; channel, subscription and listener are there; it gets an ack
        reply = await client.subscribe("todoList1234", "todo1234")
        assert (reply["type"], reply["channel"], reply["subId"]) == ("ack", "todoList1234", "todo1234")
        subscribed = {"todoList1234": [{"subId": "todo1234", "numConnections": 1}]}
        assert await detail() == {
            "listeners": ["todoList1234"],
            "connections": 3,
            "channels": subscribed,
            "awaiting": [],
        }

        # 9 to 12: announces to the subscription, to the channel, to all; each gets id and sentDateTime
        announce = {"type": "announce", "payload": {"subject": "New todo"}}
        for place in ({"channel": "todoList1234", "subId": "todo1234"}, {"channel": "todoList1234"}, {}):
            await sender.send({**announce, **place})
            message = await client.receive()
            assert message["payload"] == {"subject": "New todo"}
            assert message["id"]
            assert message["sentDateTime"]
            # 13: it waits for the acknowledgement, is sent again without, and no more with it
            assert (await detail())["awaiting"] == [message["id"]]
            retry = await client.receive()
            assert (retry["id"], retry["isRetry"]) == (message["id"], True)
            await client.send({"type": "ack", "id": message["id"]})
            assert await client.nothing_came()
            assert (await detail())["awaiting"] == []

        # 14 to 17: it unsubscribes from the channel
        reply = await client.ask({"type": "unsubscribe", "channel": "todoList1234"})
        assert (reply["removedConnectionCount"], reply["channelsDeleted"]) == (1, 1)
        assert await detail() == {"listeners": [], "connections": 3, "channels": {}, "awaiting": []}

        # 18 to 21: it leaves while it is subscribed; all that was its own goes with it
        await client.subscribe("todoList1234", "todo1234")
        await sender.send({**announce, "channel": "todoList1234"})
        await client.receive()
        await client.__aexit__(None, None, None)

        async def all_is_gone() -> bool:
            return await detail() == {"listeners": [], "connections": 2, "channels": {}, "awaiting": []}

        await until(all_is_gone)
