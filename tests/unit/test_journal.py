"""What the journal keeps, answers and bounds, where hubs and sockets do not show it."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from weakref import ref

import pytest

from app import journal as module
from app.connection import Connection
from app.core.history import EVERYONE, Stream
from app.core.router import Rules
from app.fanout.embedded import EmbeddedFanout
from app.hub import Hub
from app.protocol.close_codes import CloseCode
from tests.support.deadline import until
from tests.support.hubs import HISTORY, make_hub
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


async def test_whoever_has_most_waiting_makes_room_for_who_wants_less(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_REPLAYING", 5)
    before = await place(hub)
    await announce(hub, 1, 2, 3)
    later = await place(hub)
    await announce(hub, 4)
    greedy, greedy_outlet = connect(hub)
    hub.subscribe(greedy, "news", "1", position=before)  # not flushed: all four wait
    for _ in range(3):
        modest, outlet = connect(hub)
        hub.subscribe(modest, "news", "1", position=later)
        assert [message.get("recovered", message.get("payload")) for message in came(modest, outlet)] == [True, 4]
    assert [greedy.close_code] == [None]  # there was room for both
    waiting = [connect(hub)[0] for _ in range(2)]
    for connection in waiting:
        hub.subscribe(connection, "news", "1", position=later)
    assert greedy.close_code == CloseCode.SLOW_CONSUMER
    assert payloads(came(greedy, greedy_outlet)) == []
    assert [each.close_code for each in waiting] == [None, None]
    assert b'cloud_sockets_connections_shed_total{reason="replay"} 1.0' in hub.metrics.render()


async def test_what_waits_already_counts_for_who_wants_more(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REPLAYING", 9)
    before = await place(hub)
    await announce(hub, 1)
    later = await place(hub)
    await announce(hub, 2, 3, 4)
    innocent, _ = connect(hub)
    hub.subscribe(innocent, "news", "1", position=before)
    greedy, outlet = connect(hub)
    for sub_id in ("1", "2"):
        hub.subscribe(greedy, "news", sub_id, position=later)
    hub.unsubscribe(greedy, "news")  # what it wants no more does not wait
    hub.subscribe(greedy, "news", "1", position=later)
    assert innocent.close_code is None
    assert [message["recovered"] for message in came(greedy, outlet) if "recovered" in message] == [True, False, True]


async def test_who_takes_nothing_of_a_replay_is_ended_and_who_takes_little_is_not(hub: Hub) -> None:
    position = await place(hub)
    await announce(hub, *("x" * 1000 for _ in range(300)))
    stuck, stuck_outlet = connect(hub)
    slow, slow_outlet = connect(hub)
    for connection, outlet in ((stuck, stuck_outlet), (slow, slow_outlet)):
        outlet.untaken = 90_000  # so much is yet to be taken of what was written: there is no room for more
        hub.subscribe(connection, "news", "1", position=position)
        connection.flush()
    for second in range(20):
        slow_outlet.untaken -= 100
        assert hub._journal.stalled(float(second)) == ([stuck] if second >= module.REPLAY_STALL_SECONDS else [])
    hub._end_replay(stuck)
    assert stuck.close_code == CloseCode.SLOW_CONSUMER
    assert hub._journal.stalled(20.0) == []
    assert hub._journal._replaying.of(stuck) == 0


async def test_to_ask_for_more_is_not_to_take_and_nobody_is_to_blame_for_a_pause_of_the_process(hub: Hub) -> None:
    position = await place(hub)
    await announce(hub, *("x" * 1000 for _ in range(300)))
    stuck, outlet = connect(hub)
    outlet.untaken = 90_000
    hub.subscribe(stuck, "news", "1", position=position)
    stuck.flush()
    assert hub._journal.stalled(1000.0) == []
    assert hub._journal.stalled(1100.0) == []
    for second in (1101, 1102):
        hub.unsubscribe(stuck, "news", "1")
        hub.subscribe(stuck, "news", "1", position=position)
        assert hub._journal.stalled(float(second)) == []
    assert hub._journal.stalled(1103.0) == [stuck]


async def test_one_line_a_second_tells_of_all_who_were_ended(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    position = await place(hub)
    await announce(hub, 1)
    for _ in range(3):
        connection, _ = connect(hub)
        hub.subscribe(connection, "news", "1", position=position)
        hub._end_replay(connection)
        hub._end_replay(connection)  # it is ended, and not gone yet
    caplog.clear()
    for _ in range(2):
        hub._look_around(asyncio.get_running_loop())
    assert [record.getMessage() for record in caplog.records] == [
        "ended 3 clients that took too little of their replay"
    ]
    assert b'cloud_sockets_connections_shed_total{reason="replay"} 3.0' in hub.metrics.render()


async def test_one_client_that_floods_many_channels_leaves_others_what_they_missed() -> None:
    history = replace(HISTORY, max_bytes=300_000)
    hub = make_hub(EmbeddedFanout(), rules=Rules(pubsub_types=frozenset({"announce", "broadcast"})), history=history)
    await hub.open()
    await until(lambda: not hub.unready_reasons())
    flood, _ = connect(hub)
    message = '{"type":"broadcast","payload":0}'
    assert hub.receive_at_once(flood, message)  # the first to everyone
    position = await place(hub)
    await announce(hub, *range(20))
    for number in range(1000):
        assert hub.receive_at_once(flood, f'{{"type":"announce","channel":"flood{number}"}}')
        if number % 100 == 0:
            await asyncio.sleep(0)
    await until(lambda: hub._journal._history.evicted["bytes"] > 500)
    connection, outlet = connect(hub)
    hub.subscribe(connection, "news", "1", position=position)
    assert payloads(came(connection, outlet)) == [*range(20)]
    (owner,) = [each for each in hub._journal._history._owners.values() if each.streams > 1]
    assert owner.name == hub.identity.process + flood.id
    assert hub._journal._history._logs[EVERYONE].owner is None
    await hub.close()


async def test_replay_of_what_the_history_let_go_of_ends_the_connection_without_a_hole() -> None:
    history = replace(HISTORY, size=3)
    hub = make_hub(EmbeddedFanout(), rules=Rules(pubsub_types=frozenset({"announce"})), history=history)
    await hub.open()
    await until(lambda: not hub.unready_reasons())
    position = await place(hub)
    await announce(hub, 1, 2, 3)
    connection, outlet = connect(hub)
    hub.subscribe(connection, "news", "1", position=position)  # nothing of it is written yet
    await announce(hub, 4)  # the first is let go of
    assert payloads(came(connection, outlet)) == []
    assert connection.close_code == CloseCode.SLOW_CONSUMER
    assert hub._journal._replaying.total == 0
    hub.disconnect(connection)
    again, outlet = connect(hub)
    hub.subscribe(again, "news", "1", position=position)
    assert [message["recovered"] for message in came(again, outlet)] == [False]
    await hub.close()


async def test_waiting_replay_keeps_no_message_that_the_history_let_go_of(hub: Hub) -> None:
    position = await place(hub)
    await announce(hub, 1)
    connection, _ = connect(hub)
    hub.subscribe(connection, "news", "1", position=position)
    (entry,) = hub._journal._history.logs([Stream.channel("news")])[0].entries
    arrival = ref(entry.message)
    del entry
    hub._journal.expire(10**9)
    assert arrival() is None


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


async def test_who_asks_again_begins_there_again_and_gets_nothing_else_twice(hub: Hub) -> None:
    oldest = await place(hub)
    await announce(hub, 1, 2)
    connection, outlet = connect(hub)
    hub.subscribe(connection, "news", "1")
    await announce(hub, 3, 4)
    newer = came(connection, outlet)[-1]["position"]
    await announce(hub, 5)
    hub.subscribe(connection, "news", "1", position=newer)
    hub.subscribe(connection, "news", "2", position=oldest)
    assert payloads(came(connection, outlet)) == [3, 4, 5, 1, 2, 5]
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
    *_, second, first = came(connection, outlet)
    assert payloads([second, first]) == ["second", "first"]
    for last, rest in ((second, ["first"]), (first, [])):
        again, outlet = connect(hub)  # a client has one position for a channel
        for sub_id in ("1", "2"):
            hub.subscribe(again, "news", sub_id, position=last["position"])
        assert payloads(came(again, outlet)) == rest


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
    assert (hub._journal._joins, hub._journal._behind, hub._journal._progress) == ({}, {}, {})
    assert len(hub._journal._replaying) == hub._journal._replaying.total == 0


def acks(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [message for message in messages if message["type"] == "ack"]


async def test_a_reply_in_the_middle_of_a_replay_names_no_place_behind_it(hub: Hub) -> None:
    position = await place(hub)
    await announce(hub, 1, 2, 3)
    connection, outlet = connect(hub)
    hub.subscribe(connection, "news", "1", position=position)
    hub.subscribe(connection, "news", "2", position=position)
    hub.subscribe(connection, "news", "3")
    assert isinstance(connection.pending, list)
    one, two, three = acks([json.loads(frame.text) for frame in connection.pending])
    assert (one["recovered"], two["recovered"]) == (True, True)
    for reply in (one, two, three):
        again, its = connect(hub)
        hub.subscribe(again, "news", "1", position=reply["position"])
        assert payloads(came(again, its)) == [1, 2, 3]
    assert payloads(came(connection, outlet)) == [1, 2, 3]


async def test_who_is_cut_off_between_two_replays_of_a_channel_goes_on_without_a_hole(hub: Hub) -> None:
    position = await place(hub)
    for number in range(6):
        await announce(hub, number, sub_id=str(number % 3) if number % 3 else None)
    connection, outlet = connect(hub)
    for sub_id in ("1", "2"):
        hub.subscribe(connection, "news", sub_id, position=position)
    messages = [message for message in came(connection, outlet) if "payload" in message]
    assert payloads(messages) == [0, 1, 2, 3, 4, 5]
    for message in messages:
        again, its = connect(hub)
        for sub_id in ("2", "1"):
            hub.subscribe(again, "news", sub_id, position=message["position"])
        assert payloads(came(again, its)) == [*range(message["payload"] + 1, 6)]


async def test_who_leaves_takes_nothing_from_the_other_subscription(hub: Hub) -> None:
    position = await place(hub)
    await announce(hub, 1, 2)
    await announce(hub, "first", sub_id="1")
    connection, outlet = connect(hub)
    for sub_id in ("1", "2"):
        hub.subscribe(connection, "news", sub_id, position=position)
    await announce(hub, "new first", sub_id="1")
    await announce(hub, 3)
    hub.unsubscribe(connection, "news", "1")
    assert payloads(came(connection, outlet)) == [1, 2, 3]
    assert connection.buffered == 0


async def test_after_a_leave_was_answered_nothing_of_the_channel_comes(hub: Hub) -> None:
    position = await place(hub)
    await announce(hub, 1, 2)
    connection, outlet = connect(hub)
    hub.subscribe(connection, "news", "1", position=position)
    await announce(hub, 3)
    hub.unsubscribe(connection, "news", "1")
    hub.subscribe(connection, "news", "1")
    await announce(hub, 4)
    assert payloads(came(connection, outlet)) == [4]


async def test_who_asks_again_from_where_it_is_gets_the_rest_again_in_order(hub: Hub) -> None:
    await announce(hub, 0)
    connection, outlet = connect(hub)
    for sub_id in ("1", "2"):
        hub.subscribe(connection, "news", sub_id)
    await announce(hub, 1, 2, 3)
    taken = came(connection, outlet)
    position = taken[2]["position"]  # it had no room for what came behind it
    assert taken[2]["payload"] == 1
    for _ in range(2):
        start = len(outlet.texts)
        for sub_id in ("2", "1"):
            hub.subscribe(connection, "news", sub_id, position=position)
        await announce(hub, len(taken) - 1)
        connection.flush()
        new = [json.loads(text) for text in outlet.texts[start:]]
        assert [message["recovered"] for message in acks(new)] == [True, True]
        assert payloads(new) == [*range(2, len(taken))]
        taken.append({})


async def test_a_broadcast_that_names_a_channel_comes_behind_its_replay_with_the_inbox_behind_it(hub: Hub) -> None:
    position = await place(hub)
    await announce(hub, 1, 2)
    connection, outlet = connect(hub)
    hub.subscribe(connection, "news", "1", position=position)
    await hub.emit("news", None, "broadcast", "named")
    await hub.emit(None, None, "broadcast", "all")
    await announce(hub, 3)
    order = payloads(came(connection, outlet))
    assert order == [1, 2, "named", 3, "all"]  # what is behind it in the two lanes has no order
