"""Senders: nobody stands for somebody else, by an id, by an origin, or by a connection that they name."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from app.connection import Connection
from app.core.router import Rules
from app.fanout import PROCESS, Delivery, Publication
from app.fanout.embedded import Bus, EmbeddedFanout
from app.hub import Hub
from app.protocol import codec
from app.protocol.errors import MessageError
from tests.support.client import Client
from tests.support.deadline import soon, until
from tests.support.hubs import make_hub
from tests.support.outlet import FakeOutlet
from tests.support.process import Server

SHARED = Rules(pubsub_types=frozenset({"announce", "broadcast", "notification", "spread"}))
STAMP = '"sentDateTime":"2026-01-31T12:00:00.123Z"}'


class Numbering(EmbeddedFanout):
    """A fan-out whose deliveries have an id and a time, as Pub/Sub's have, and which takes a turn to deliver."""

    at_once = None

    async def publish(self, publication: Publication) -> str:  # type: ignore[override]
        self._bus.sequence += 1
        number = self._bus.sequence
        delivery = Delivery(publication.data, publication.attributes, str(number), number * 10**9, "k")
        for deliver in tuple(self._bus.members.values()):
            asyncio.get_running_loop().call_soon(deliver, delivery)
        return str(number)


class Place:
    """A client of a hub that is not there, and what it was sent."""

    def __init__(self, hub: Hub, *, channel: str | None = None) -> None:
        self.outlet = FakeOutlet()
        self.hub = hub
        self.connection: Connection = hub.connect(None, None, outlet=self.outlet)
        self.connection.open()
        if channel is not None:
            hub.subscribe(self.connection, channel, "1")
        self.connection.flush()

    def say(self, text: str) -> None:
        assert self.hub.receive_at_once(self.connection, text)

    def came(self, kind: str) -> list[dict[str, Any]]:
        self.connection.flush()
        return [message for text in self.outlet.texts if (message := json.loads(text))["type"] == kind]


@asynccontextmanager
async def hubs(*instance_ids: str, numbering: bool = False) -> AsyncIterator[tuple[list[Hub], EmbeddedFanout]]:
    """Instances on one bus, and a publisher there who has no other right than to publish."""
    bus = Bus()
    kind = Numbering if numbering else EmbeddedFanout
    opened = [make_hub(kind(bus), rules=SHARED, instance_id=instance_id) for instance_id in instance_ids]
    for hub in opened:
        await hub.open()
    await until(lambda: len(bus.members) == len(opened))
    try:
        yield opened, kind(bus)
    finally:
        for hub in opened:
            await hub.close()


def duplicates(hub: Hub, by: str) -> float:
    return float(hub.metrics.duplicates.labels(by)._value.get())


# The id of a message


async def test_an_id_counts_within_its_type_and_address() -> None:
    """Over HTTP all publishers are one sender: what one says to ann is no repeat of what another says to bob."""
    async with Server() as server, Client(server.url) as ann, Client(server.url) as bob:
        await ann.subscribe("ann")
        await bob.subscribe("bob", "1")
        for channel in ("ann", "bob"):
            answer = await server.post("/api/messages", {"type": "announce", "channel": channel, "id": "1"})
            assert (answer.status, answer.json) == (202, {"id": "1"})
        assert (await ann.receive())["channel"] == "ann"
        assert (await bob.receive())["channel"] == "bob"
        for fields in ({"subId": "1"}, {"type": "other"}):
            body = {"type": "announce", "channel": "bob", "id": "1", **fields}
            assert "duplicate" not in (await server.post("/api/messages", body)).json
            assert (await bob.receive())["type"] == body["type"]
        assert await ann.nothing_came()


@pytest.mark.parametrize("types", ["announce,broadcast,notification,spread", "spread"])
async def test_a_repeat_is_answered_as_one(types: str) -> None:
    """Each way in says `duplicate` of what it drops: HTTP, sockets, types that are shared and that stay here."""
    variables = {"CLOUD_SOCKETS_PUBSUB_MESSAGE_TYPES": types, "CLOUD_SOCKETS_BROADCAST_MESSAGE_TYPES": "loud"}
    async with Server(**variables) as server, Client(server.url) as ann, Client(server.url) as bob:
        await bob.subscribe("news")
        for kind in ("announce", "broadcast", "loud", "spread"):
            message = {"type": kind, "channel": "news", "id": "1"}
            first = await server.post("/api/messages", message)
            assert (first.status, first.json) == (202, {"id": "1"})
            again = await server.post("/api/messages", {**message, "ackId": 7})
            assert (again.status, again.json) == (202, {"id": "1", "duplicate": True})
            assert (await bob.receive())["type"] == kind
            if kind in ("broadcast", "loud"):
                assert (await ann.receive())["type"] == kind
        for kind in ("announce", "spread"):
            message = {"type": kind, "channel": "news", "id": "1"}  # another sender than HTTP
            answers = [await ann.ask(message) for _ in range(2)]
            assert [answer.get("duplicate") for answer in answers] == [None, True]
            assert [answer["id"] for answer in answers] == ["1", "1"]
            assert (await bob.receive())["type"] == kind
        assert await bob.nothing_came()
        assert await server.metric('duplicates_dropped_total{by="id"}') == 6


async def test_a_repeat_of_what_has_not_come_back_is_told_so() -> None:
    """On a fan-out that delivers later the first of two is known by being on its way."""
    async with hubs("a" * 12, "b" * 12, numbering=True) as ((hub, other), _):
        place, elsewhere = Place(hub, channel="news"), Place(other, channel="news")
        message = codec.from_object({"type": "announce", "channel": "news", "id": "1"})
        answers = await soon(asyncio.gather(hub.publish_from_outside(message), hub.publish_from_outside(message)))
        assert [(answer.pubsub_id, answer.duplicate) for answer in answers] == [("1", False), ("2", True)]
        await until(lambda: duplicates(other, "id") == 1)
        assert len(place.came("announce")) == len(elsewhere.came("announce")) == 1
        late = [await hub.publish_from_outside(message), await other.publish_from_outside(message)]
        assert [(answer.pubsub_id, answer.duplicate) for answer in late] == [(None, True), (None, True)]
        assert len(hub._on_their_way) == 0


async def test_what_failed_may_be_sent_again() -> None:
    """A message that the fan-out refused is no repeat of itself."""
    async with hubs("a" * 12, numbering=True) as ((hub,), _):
        place = Place(hub, channel="news")
        message = codec.from_object({"type": "announce", "channel": "news", "id": "1"})
        hub._backlog._limit = 0
        with pytest.raises(MessageError):
            await hub.publish_from_outside(message)
        hub._backlog._limit = 1000
        assert not (await hub.publish_from_outside(message)).duplicate
        await until(lambda: len(place.came("announce")) == 1)


async def test_embedders_are_senders_of_their_own() -> None:
    """Two handlers may pass on messages of one id; `emit` and `announce` are told what became of each."""
    async with hubs("a" * 12) as ((hub,), _):
        place = Place(hub, channel="news")
        message = {"type": "announce", "channel": "news", "id": "1"}
        published = [await hub.director.announce(message) for _ in range(2)]
        emitted = await hub.emit("news", None, "announce", 1)
        assert [each.duplicate for each in (*published, emitted)] == [False, False, False]
        assert len(place.came("announce")) == 3


# Who may publish to the topic, and nothing else


def as_the_hub_writes(fields: dict[str, str], id: str) -> bytes:
    return (json.dumps({**fields, "id": id}, separators=(",", ":"))[:-1] + "," + STAMP).encode()


async def test_a_publisher_cannot_silence_an_instance_by_its_origin() -> None:
    """The name of an instance is in each welcome; to use up its numbers takes more."""
    async with hubs("a" * 12, "b" * 12) as ((hub, other), publisher):
        place = Place(other, channel="news")
        for number in range(50):
            for process in ({}, {PROCESS: ""}, {PROCESS: "0" * 32}, {PROCESS: "a" * 12}):
                forged = {"type": "news", "channel": "x", "origin": "a" * 12, "seq": str(number), **process}
                await publisher.publish(Publication(b"{}", forged))
        for number in range(20):
            await hub.emit("news", None, "announce", number)
        assert [message["payload"] for message in place.came("announce")] == [*range(20)]


async def test_a_publisher_cannot_silence_an_instance_of_the_release_before() -> None:
    """That one tells no process. What it said counts with its number: to use that up takes to have read it."""
    async with hubs("a" * 12) as ((hub,), publisher):
        place = Place(hub, channel="news")
        address = {"type": "announce", "channel": "news"}
        for number in range(1, 4):
            forged = {**address, "channel": "x", "origin": "b" * 12, "seq": str(number)}
            await publisher.publish(Publication(b"{}", forged))
            real = Publication(
                as_the_hub_writes(address, f"m{number}"), {**address, "origin": "b" * 12, "seq": str(number)}
            )
            for _ in range(2):  # a request that is tried again stores it twice
                await publisher.publish(real)
        assert [message["id"] for message in place.came("announce")] == ["m1", "m2", "m3"]
        assert duplicates(hub, "sequence") == 3


async def test_a_publisher_cannot_use_up_the_ids_of_a_connection() -> None:
    """Whoever names a connection of somebody else's as the sender is another sender."""
    async with hubs("a" * 12) as ((hub,), publisher):
        ann, bob = Place(hub), Place(hub, channel="news")
        address = {"type": "announce", "channel": "news"}
        for process in ({}, {PROCESS: "0" * 32}):
            forged = {**address, "origin": "a" * 12, "sender": ann.connection.id, **process}
            await publisher.publish(Publication(as_the_hub_writes(address, "1"), forged))
        ann.say('{"type":"announce","channel":"news","id":"1","ackId":1}')
        await until(lambda: len(ann.came("ack")) == 1)
        assert "duplicate" not in ann.came("ack")[0]
        assert len(bob.came("announce")) == 3


async def test_a_publisher_cannot_have_a_connection_left_out() -> None:
    """An announce comes back to no sender; who that is only its own instance says."""
    async with hubs("a" * 12) as ((hub,), publisher):
        ann = Place(hub, channel="news")
        address = {"type": "announce", "channel": "news"}
        forged = {**address, "origin": "a" * 12, "sender": ann.connection.id}
        await publisher.publish(Publication(as_the_hub_writes(address, "1"), forged))
        assert [message["id"] for message in ann.came("announce")] == ["1"]
        ann.say('{"type":"announce","channel":"news","id":"2","ackId":1}')
        await until(lambda: ann.came("ack")[-1].get("ackId") == 1)
        assert [message["id"] for message in ann.came("announce")] == ["1"]


@pytest.mark.parametrize("kind", ["disconnect", "welcome", "error", "cloud-sockets.logout", "broadcast"])
async def test_a_publisher_cannot_say_what_only_the_service_says(kind: str) -> None:
    """A delivery that claims to be a hub's is checked: its attributes tell whom it is for, and the message the same."""
    async with hubs("a" * 12) as ((hub,), publisher):
        ann = Place(hub, channel="news")
        before = len(ann.outlet.texts)
        for id, process in (("1", {}), ("2", {PROCESS: "0" * 32})):
            data = as_the_hub_writes({"type": kind, "channel": "news"}, id)
            attributes = {"type": "announce", "channel": "news", "origin": "a" * 12, **process}
            await publisher.publish(Publication(data, attributes))
        ann.connection.flush()
        assert len(ann.outlet.texts) == before
        assert hub.metrics.malformed.labels("invalid_field")._value.get() == 2


async def test_raw_bytes_of_a_publisher_reach_nobody_as_they_are() -> None:
    """Only what this process wrote is sent without being read."""
    async with hubs("a" * 12) as ((hub,), publisher):
        ann = Place(hub, channel="news")
        before = len(ann.outlet.texts)
        attributes = {"type": "announce", "channel": "news", "origin": "a" * 12}
        data = as_the_hub_writes({"type": "announce", "channel": "news"}, "1").replace(b',"id"', b',,"id"')
        await publisher.publish(Publication(data, attributes))
        ann.connection.flush()
        assert len(ann.outlet.texts) == before


async def test_no_client_sees_what_tells_a_process() -> None:
    async with hubs("a" * 12) as ((hub,), _):
        ann = Place(hub, channel="news")
        await hub.emit("news", None, "announce", 1)
        ann.say('{"type":"getInfoDetail"}')
        ann.say("{")
        ann.connection.flush()
        assert len(ann.outlet.texts) == 5
        assert not any(hub.identity.process in text for text in ann.outlet.texts)
        assert hub.identity.process not in json.dumps([hub.info(), hub.info_detail()])
        assert hub.identity.process not in hub.metrics.render().decode()


# A deployment: the release before and this one share a topic

OLD_ATTRIBUTES = {"type", "channel", "subId", "userTag", "origin", "sender", "seq"}
"""Attributes that the release before writes, and reads."""


@contextmanager
def overheard(publisher: EmbeddedFanout) -> Iterator[list[Delivery]]:
    """Give the deliveries that an instance of the release before would be handed."""
    heard: list[Delivery] = []
    publisher._bus.members[publisher] = heard.append
    try:
        yield heard
    finally:
        del publisher._bus.members[publisher]


async def test_the_release_before_reads_what_this_one_writes() -> None:
    """Numbers, origin and sender of a message are where they were, and one attribute is new."""
    async with hubs("a" * 12, numbering=True) as ((hub,), publisher):
        ann = Place(hub)
        with overheard(publisher) as heard:
            ann.say('{"type":"announce","channel":"news","subId":"1","id":"1"}')
            await until(lambda: len(heard) == 1)
            await hub.logout("bob")
            await until(lambda: len(heard) == 2)
        attributes = dict(heard[0].attributes)
        process = attributes.pop(PROCESS)
        assert (len(process), process) == (32, hub.identity.process)
        assert attributes == {
            "type": "announce", "channel": "news", "subId": "1",
            "origin": "a" * 12, "sender": ann.connection.id, "seq": "1",
        }  # fmt: skip
        assert set(heard[1].attributes) - {PROCESS} <= OLD_ATTRIBUTES
        assert (heard[1].attributes["type"], heard[1].attributes["userTag"]) == ("cloud-sockets.logout", "bob")


async def test_this_release_reads_what_the_one_before_writes() -> None:
    """Recorded from it: an announce of a connection there, its repeat by id, one to all, and a log-out."""
    sender = "5a3c9d2e-0f1b-4c8d-9e7a-112233445566"
    old = {"origin": "b" * 12}
    announce = {"type": "announce", "channel": "news"}
    async with hubs("a" * 12) as ((hub,), publisher):
        place = Place(hub, channel="news")
        numbers = iter(range(1, 9))
        for fields, id, by in (
            (announce, "1", {"sender": sender}),
            (announce, "1", {"sender": sender}),
            (announce, "1", {"sender": sender[::-1]}),
            ({"type": "broadcast"}, "2", {}),
        ):
            attributes = {**fields, **old, **by, "seq": str(next(numbers))}
            assert set(attributes) <= OLD_ATTRIBUTES
            await publisher.publish(Publication(as_the_hub_writes(fields, id), attributes))
        assert [message["id"] for message in place.came("announce")] == ["1", "1"]
        assert [message["id"] for message in place.came("broadcast")] == ["2"]
        assert duplicates(hub, "id") == 1
        assert place.came("announce")[0]["sentDateTime"] == "2026-01-31T12:00:00.123Z"


# Acknowledgements


async def test_two_messages_of_one_id_wait_each_for_its_acknowledgement() -> None:
    """Whoever gives their message the id of another's takes nothing from its receiver."""
    variables = {"CLOUD_SOCKETS_ACK_MESSAGE_TYPES": "announce", "CLOUD_SOCKETS_MSG_RESEND_DELAY": "300"}
    async with Server(**variables) as server, Client(server.url) as ann:
        await ann.subscribe("news")
        async with Client(server.url) as bob, Client(server.url) as carol:
            for sender, payload in ((bob, "bob's"), (carol, "carol's")):
                await sender.ask({"type": "announce", "channel": "news", "id": "1", "payload": payload})
        again = [message["payload"] for message in await ann.collect(4)]
        assert again[:2] == ["bob's", "carol's"]
        assert sorted(again[2:]) == ["bob's", "carol's"]
        await ann.send({"type": "ack", "id": "1"})
        while (await ann.receive())["payload"] != "carol's":
            pass
        await ann.send({"type": "ack", "id": "1"})

        async def all_done() -> bool:
            return await server.metric("acks_pending") == 0

        await until(all_done)
        assert await server.metric('acks_given_up_total{reason="timeout"}') == 0


# What getInfo shows to whom

CLOUD = {"K_SERVICE": "hub", "CLOUD_SOCKETS_AUTH": "anonymous", "CLOUD_SOCKETS_API_KEYS": "key"}


async def test_a_client_sees_counts_and_what_is_its_own() -> None:
    """On Cloud Run; an API key sees all, by HTTP."""
    variables = CLOUD | {
        "CLOUD_SOCKETS_ACK_MESSAGE_TYPES": "announce",
        "CLOUD_SOCKETS_ALLOWED_ORIGINS": "https://a.example",
    }
    async with Server(wait_for="/health/ready", **variables) as server:
        async with Client(server.url) as ann, Client(server.url) as bob:
            await ann.subscribe("hers", "1")
            await bob.subscribe("his", "1")
            await bob.subscribe("his", "2")
            await bob.ask({"type": "announce", "channel": "hers", "id": "for-ann"})
            await ann.receive()
            detail = await bob.ask({"type": "getInfoDetail"})
            assert detail["connectionInfo"] == {"totalConnections": 2}
            assert detail["messageInfo"] == {
                "totalConnectionsAwaitingAck": 1, "totalAwaitingMsgs": 1, "awaitingMessages": [],
            }  # fmt: skip
            counts = [{"subId": "1", "numConnections": 1}, {"subId": "2", "numConnections": 1}]
            assert detail["channelInfo"] == {
                "totalConnections": 2, "totalChannels": 2, "totalSubscriptions": 3, "channels": {"his": counts},
            }  # fmt: skip
            assert detail["serverInfo"]["eventEmitterListeners"] == ["his"]
            assert (await bob.ask({"type": "getInfo"}))["serverInfo"]["eventEmitterListeners"] == ["his"]
            assert (await bob.ask({"type": "getInfoDetail", "channel": "hers"}))["channelInfo"]["channels"] == {}
            hers = await ann.ask({"type": "getInfoDetail"})
            assert hers["messageInfo"]["awaitingMessages"] == ["for-ann"]
            assert list(hers["channelInfo"]["channels"]) == ["hers"]

            assert (await server.get("/api/info/detail")).status == 401
            whole = (await server.get("/api/info/detail", authorization="Bearer key")).json
            assert set(whole["channelInfo"]["channels"]) == {"hers", "his"}
            assert whole["messageInfo"]["awaitingMessages"] == ["for-ann"]
            connections = {each.pop("connectionId"): each for each in whole["connectionInfo"]["connections"]}
            assert connections.keys() == {ann.welcome["connectionId"], bob.welcome["connectionId"]}
            his = connections[bob.welcome["connectionId"]]
            assert his.pop("ageSeconds") in range(60)
            assert his == {"channels": 1, "subscriptions": 2, "awaitingMsgs": 0, "bufferedBytes": 0}
            assert connections[ann.welcome["connectionId"]]["awaitingMsgs"] == 1


async def test_on_a_laptop_everybody_sees_the_channels_and_nobody_else_s_ids() -> None:
    async with Server(CLOUD_SOCKETS_ACK_MESSAGE_TYPES="announce") as server:
        async with Client(server.url) as ann, Client(server.url) as bob:
            await ann.subscribe("hers")
            await bob.ask({"type": "announce", "channel": "hers", "id": "for-ann"})
            detail = await bob.ask({"type": "getInfoDetail"})
            assert list(detail["channelInfo"]["channels"]) == ["hers"]
            assert detail["messageInfo"]["awaitingMessages"] == []
            assert "connections" not in detail["connectionInfo"]


async def test_who_asks_by_http_is_told_of_a_thousand_connections() -> None:
    async with hubs("a" * 12) as ((hub,), _):
        for _ in range(999):
            hub.connect(None, None, outlet=FakeOutlet())
        place = Place(hub, channel="news")
        assert len(hub.info_detail()["connectionInfo"]["connections"]) == 1000
        assert "truncated" not in hub.info_detail()
        hub.connect(None, None, outlet=FakeOutlet())
        assert len(hub.info_detail()["connectionInfo"]["connections"]) == 1000
        assert hub.info_detail()["truncated"] is True
        shown = hub.director.get_info_detail(place.connection)
        assert ("connections" in shown["connectionInfo"], list(shown["channelInfo"]["channels"])) == (False, ["news"])
        assert shown["channelInfo"] == place.came("getInfoDetail")[0]["channelInfo"]
        assert "connections" in hub.director.get_info_detail()["connectionInfo"]
