"""What the journal keeps, answers and bounds, where hubs and sockets do not show it."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from app import journal as module
from app.connection import Connection
from app.core.router import Rules
from app.fanout.embedded import EmbeddedFanout
from app.hub import Hub
from tests.support.hubs import make_hub
from tests.support.outlet import FakeOutlet


class Catching(EmbeddedFanout):
    """One that can be told to be behind."""

    through: int | None = None

    @property
    def heard_through(self) -> int | None:
        return self.through


@pytest.fixture
async def fanout() -> Catching:
    return Catching()


@pytest.fixture
async def hub(fanout: Catching) -> AsyncIterator[Hub]:
    hub = make_hub(fanout, rules=Rules(pubsub_types=frozenset({"announce", "broadcast"})))
    await hub.open()
    yield hub
    await hub.close()


def came(connection: Connection, outlet: FakeOutlet) -> list[dict[str, Any]]:
    """All that a connection was sent, but for the welcome."""
    connection.flush()
    return [json.loads(text) for text in outlet.texts[1:]]


def payloads(messages: list[dict[str, Any]]) -> list[Any]:
    return [message["payload"] for message in messages if "payload" in message]


def connect(hub: Hub) -> tuple[Connection, FakeOutlet]:
    outlet = FakeOutlet()
    connection = hub.connect(None, None, outlet)
    connection.open()
    return connection, outlet


async def announce(hub: Hub, *payloads: object, sub_id: str | None = None) -> None:
    for payload in payloads:
        await hub.emit("news", sub_id, "announce", payload)


async def place(hub: Hub) -> str:
    """Where a new subscriber is."""
    connection, outlet = connect(hub)
    hub.subscribe(connection, "news", "1")
    (reply,) = came(connection, outlet)
    hub.disconnect(connection)
    return str(reply["position"])


async def test_what_waits_to_be_replayed_has_a_bound_for_all_together(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_REPLAYING", 5)
    position = await place(hub)
    await announce(hub, 1, 2, 3)
    first, _ = connect(hub)
    hub.subscribe(first, "news", "1", position=position)  # not flushed: all three wait
    second, outlet = connect(hub)
    hub.subscribe(second, "news", "1", position=position)
    assert [message.get("recovered") for message in came(second, outlet)] == [False]
    hub.disconnect(first)
    third, outlet = connect(hub)
    hub.subscribe(third, "news", "1", position=position)
    assert [message.get("recovered", message.get("payload")) for message in came(third, outlet)] == [True, 1, 2, 3]
    fourth, outlet = connect(hub)  # what was sent waits no more
    hub.subscribe(fourth, "news", "1", position=position)
    assert [message.get("recovered", message.get("payload")) for message in came(fourth, outlet)] == [True, 1, 2, 3]
    assert b"cloud_sockets_replaying 0.0" in hub.metrics.render()
    assert b'cloud_sockets_recoveries_total{result="busy"} 1.0' in hub.metrics.render()


async def test_while_it_catches_up_no_position_is_beyond_what_was_heard(hub: Hub, fanout: Catching) -> None:
    await announce(hub, 1, 2)
    position = await place(hub)
    connection, outlet = connect(hub)
    hub.subscribe(connection, "news", "1", position=position)
    fanout.through = 2
    await announce(hub, 3)
    assert (await place(hub)).split(".")[2] == "2"
    message = came(connection, outlet)[-1]
    assert (message["payload"], message["position"].split(".")[2]) == (3, "2")
    fanout.through = None
    assert (await place(hub)).split(".")[2] == "3"


async def test_who_asks_again_with_another_position_gets_nothing_twice(hub: Hub) -> None:
    oldest = await place(hub)
    await announce(hub, 1, 2)
    connection, outlet = connect(hub)
    hub.subscribe(connection, "news", "1")
    await announce(hub, 3, 4)
    newer = came(connection, outlet)[-1]["position"]
    await announce(hub, 5)
    hub.subscribe(connection, "news", "1", position=newer)
    hub.subscribe(connection, "news", "2", position=oldest)
    assert payloads(came(connection, outlet)) == [3, 4, 5, 1, 2]
    again, outlet = connect(hub)
    for position in (oldest, newer, oldest):
        hub.subscribe(again, "news", "1", position=position)
    hub.subscribe(again, "news", "2", position=oldest)
    assert payloads(came(again, outlet)) == [1, 2, 3, 4, 5]


async def test_behind_the_last_of_a_replay_there_is_nothing_of_another_subscription(hub: Hub) -> None:
    position = await place(hub)
    await announce(hub, "second", sub_id="2")
    await announce(hub, "first", sub_id="1")
    connection, outlet = connect(hub)
    for sub_id in ("1", "2"):
        hub.subscribe(connection, "news", sub_id, position=position)
    last = came(connection, outlet)[-1]
    assert last["payload"] == "second"
    again, outlet = connect(hub)  # a client has one position for a channel
    for sub_id in ("1", "2"):
        hub.subscribe(again, "news", sub_id, position=last["position"])
    assert payloads(came(again, outlet)) == []


async def test_what_is_unsubscribed_is_forgotten_and_given_again(hub: Hub) -> None:
    position = await place(hub)
    await announce(hub, 1)
    connection, outlet = connect(hub)
    for _ in range(3):  # the first two are left before their replay begins
        hub.unsubscribe(connection, "news", "1")
        hub.unsubscribe(connection)
        hub.subscribe(connection, "news", "1", position=position)
    assert payloads(came(connection, outlet)) == [1]
    hub.disconnect(connection)
    assert (hub._journal._joins, hub._journal._behind, hub._journal._replaying) == ({}, {}, {})
