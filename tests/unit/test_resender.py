"""What is not acknowledged is sent again, as far as there is room, and given up in words."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator

import pytest

from app import resender as module
from app.clock import Clock
from app.connection import Connection
from app.core.acknowledgements import AUDIENCE_BYTES, CONNECTION_BYTES, ENTRY_BYTES, MESSAGE_BYTES
from app.core.router import Rules
from app.core.sizes import text_bytes
from app.core.users import User
from app.hub import Hub
from tests.support.deadline import until
from tests.support.hubs import make_hub
from tests.support.outlet import FakeOutlet


class Time:
    now = 0.0


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def hub(time: Time) -> AsyncIterator[Hub]:
    """One whose clock says what the test says, and which looks every millisecond of the real one."""
    hub = make_hub(
        rules=Rules(ack_types=frozenset({"announce"})),
        clock=Clock(monotonic=lambda: time.now),
        max_payload=100_000,
        max_buffered=10_000_000,
        max_awaiting_bytes=1_000_000,
    )
    await hub.open()
    yield hub
    await hub.close()


def connect(hub: Hub) -> tuple[Connection, FakeOutlet]:
    outlet = FakeOutlet()
    connection = hub.connect(None, None, outlet)
    connection.open()
    hub.subscribe(connection, "news", "1")
    return connection, outlet


def retries(outlet: FakeOutlet) -> list[str]:
    return [message["id"] for message in map(json.loads, outlet.texts) if message.get("isRetry")]


async def look(hub: Hub, time: Time, seconds: float) -> None:
    """Let so much time go by, and what is due be done."""
    time.now += seconds
    hub._resender._resend()
    await asyncio.sleep(0)


async def test_who_is_behind_is_sent_nothing_again_until_it_has_caught_up(hub: Hub, time: Time) -> None:
    connection, outlet = connect(hub)
    other, taken = connect(hub)
    message = await hub.emit("news", None, "announce")
    await asyncio.sleep(0)
    outlet.untaken = 10
    hub.tell(connection, type="error")
    connection.flush()
    await look(hub, time, 61)
    assert (retries(outlet), retries(taken)) == ([], [message.id])
    assert b"acks_put_off_total 1.0" in hub.metrics.render()
    outlet.untaken = 0
    await look(hub, time, 61)
    assert (retries(outlet), retries(taken)) == ([message.id], [message.id] * 2)
    assert other.close_code is None


async def test_one_turn_sends_no_more_again_than_it_may(hub: Hub, time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESENT_IN_ONE_TURN", 3)
    _, outlet = connect(hub)
    sent = [(await hub.emit("news", None, "announce")).id for _ in range(7)]
    await look(hub, time, 61)
    assert retries(outlet) == sent[:3]
    await until(lambda: retries(outlet) == sent)  # by itself


async def test_a_message_is_written_once_more_for_all_who_owe_it(hub: Hub, time: Time) -> None:
    outlets = [connect(hub)[1] for _ in range(3)]
    message = await hub.emit("news", None, "announce", {"n": 1})
    await look(hub, time, 61)
    assert [retries(outlet) for outlet in outlets] == [[message.id]] * 3
    again = {id(outlet.writes[-1][-1]) for outlet in outlets}
    assert len(again) == 1
    first, last = (json.loads(text) for text in (outlets[0].texts[-2], outlets[0].texts[-1]))
    assert last == {**first, "isRetry": True, "lastRetryDateTime": last["lastRetryDateTime"]}


async def test_one_turn_sends_no_more_bytes_again_than_it_may(
    hub: Hub, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others have their turn in between, and the order stays."""
    monkeypatch.setattr(module, "RESENT_BYTES_IN_ONE_TURN", 25_000)
    _, outlet = connect(hub)
    sent = [(await hub.emit("news", None, "announce", "x" * 10_000)).id for _ in range(7)]
    await look(hub, time, 61)
    assert retries(outlet) == sent[:3]
    await until(lambda: retries(outlet) == sent)  # by itself


async def test_who_falls_behind_in_a_round_is_sent_no_later_message_of_it(
    hub: Hub, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RESENT_IN_ONE_TURN", 1)
    _, outlet = connect(hub)
    sent = [(await hub.emit("news", None, "announce")).id for _ in range(4)]
    await asyncio.sleep(0)
    outlet.untaken = 10
    await look(hub, time, 61)
    assert retries(outlet) == sent[:1]
    hub._resender._resend()  # the second is put off
    outlet.untaken = 0
    await until(lambda: b"acks_put_off_total 3.0" in hub.metrics.render())
    assert retries(outlet) == sent[:1]
    await look(hub, time, 61)
    await until(lambda: retries(outlet) == sent[:1] + sent)


@pytest.mark.parametrize("left", [("news", "1"), ("news", None), (None, None)])
async def test_what_a_client_has_unsubscribed_from_comes_no_more(
    hub: Hub, time: Time, left: tuple[str | None, str | None]
) -> None:
    connection, outlet = connect(hub)
    other, others = connect(hub)
    message = await hub.emit("news", None, "announce")
    direct = hub.director.send_message(connection, {"type": "announce", "channel": "news"})
    own = hub.director.send_message(connection, {"type": "announce"})
    hub.unsubscribe(connection, *left)
    await look(hub, time, 61)
    assert (retries(outlet), retries(others)) == ([own], [message.id])
    assert direct not in hub._resender.pending.message_ids()
    assert b'acks_given_up_total{reason="unsubscribed"} 2.0' in hub.metrics.render()
    assert other.close_code is None


async def test_what_another_subscription_matches_too_comes_again(hub: Hub, time: Time) -> None:
    connection, outlet = connect(hub)
    hub.subscribe(connection, "news", "2")
    hub.subscribe(connection, "weather", "1")
    first, second = [(await hub.emit("news", sub_id, "announce")).id for sub_id in ("1", "2")]
    channel = (await hub.emit("news", None, "announce")).id
    everywhere = (await hub.emit(None, None, "announce")).id
    hub.unsubscribe(connection, "news", "3")  # which it never had
    hub.unsubscribe(connection, "news", "1")
    await look(hub, time, 61)
    assert retries(outlet) == [second, channel, everywhere]
    hub.unsubscribe(connection, "news", "2")
    await look(hub, time, 61)
    assert retries(outlet)[3:] == [everywhere]
    hub.unsubscribe(connection, "weather")
    await look(hub, time, 61)
    assert len(retries(outlet)) == 4
    assert first not in retries(outlet)
    assert len(hub._resender.pending) == 0


async def test_what_was_replayed_ends_with_its_subscription_too(time: Time) -> None:
    rules = Rules(ack_types=frozenset({"announce"}), pubsub_types=frozenset({"announce"}))
    hub = make_hub(rules=rules, clock=Clock(monotonic=lambda: time.now))
    await hub.open()
    first, _ = connect(hub)
    position = hub._journal.join(first, "news", "1", None).position
    message = await hub.emit("news", None, "announce")
    outlet = FakeOutlet()
    connection = hub.connect(None, None, outlet)
    connection.open()
    hub.subscribe(connection, "news", "1", position=position)
    await until(lambda: list(hub._resender.pending.message_ids_of(connection)) == [message.id])
    hub.unsubscribe(connection, "news")
    assert hub._resender.pending.count_of(connection) == 0
    assert hub._resender.pending.count_of(first) == 1
    await hub.close()


async def test_who_is_logged_out_owes_nothing_from_then_on(hub: Hub) -> None:
    outlet = FakeOutlet()
    ann = hub.connect(User("ann", ("ann",)), None, outlet)
    ann.open()
    hub.subscribe(ann, "news", "1")
    bob, _ = connect(hub)
    await hub.emit("news", None, "announce")
    await hub.logout("ann")
    assert outlet.closed == (3503, "logged out")
    assert ann.id in hub.connections  # it is gone when its client has answered, or did not for a while
    assert [hub._resender.pending.count_of(each) for each in (ann, bob)] == [0, 1]
    hub.disconnect(ann)
    assert b'acks_given_up_total{reason="logged_out"} 1.0' in hub.metrics.render()
    assert b'reason="disconnected"' not in hub.metrics.render()


async def test_a_failure_does_not_end_the_resending(hub: Hub, time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    _, outlet = connect(hub)
    message = await hub.emit("news", None, "announce")
    monkeypatch.setattr(module, "RESENT_IN_ONE_TURN", 1)
    later = await hub.emit("news", None, "announce")
    time.now += 61
    with monkeypatch.context() as broken:
        broken.setattr(hub._resender, "_again", None)
        with pytest.raises(TypeError):
            hub._resender._resend()
    await until(lambda: retries(outlet) == [later.id])  # by itself; the other one has its next turn later
    await look(hub, time, 61)
    await until(lambda: retries(outlet) == [later.id, message.id, later.id])


async def test_what_waits_is_the_json_alone_once_for_all_who_owe_it(hub: Hub) -> None:
    """A payload is a view into what came: kept as such, it would keep all of that."""
    outlets = [connect(hub)[1] for _ in range(10)]
    message = await hub.emit("news", None, "announce", "x" * 10_000)
    await asyncio.sleep(0)
    frame = outlets[0].writes[-1][-1]
    per_connection = ENTRY_BYTES + CONNECTION_BYTES
    once = MESSAGE_BYTES + text_bytes(message.id) + frame.size + AUDIENCE_BYTES + text_bytes("news")
    assert hub._resender.pending.bytes == once + 10 * per_connection
    (kept,) = {entry.message.data for entry in hub._resender.pending._by_age}
    assert kept is frame.data
    assert f"acks_pending_bytes {float(hub._resender.pending.bytes)}".encode() in hub.metrics.render()


async def test_over_the_bytes_who_owes_most_gives_way_and_is_named_once(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    greedy, _ = connect(hub)
    innocent, _ = connect(hub)
    with caplog.at_level(logging.WARNING):
        own = hub.director.send_message(innocent, {"type": "announce", "payload": "y" * 100})
        for _ in range(30):
            hub.director.send_message(greedy, {"type": "announce", "payload": "x" * 90_000})
    assert hub._resender.pending.bytes <= 1_000_000
    assert own in list(hub._resender.pending.message_ids())
    lines = [record.getMessage() for record in caplog.records if "acknowledges too little" in record.getMessage()]
    assert len(lines) == 1
    assert greedy.id in lines[0]
    assert b'acks_given_up_total{reason="too_large"} 20.0' in hub.metrics.render()
    hub.disconnect(greedy)
    assert list(hub._resender.pending.message_ids()) == [own]
    hub.disconnect(innocent)
    assert hub._resender.pending.bytes == 0


async def test_a_message_larger_than_all_may_be_is_sent_and_not_waited_for(time: Time) -> None:
    hub = make_hub(rules=Rules(ack_types=frozenset({"announce"})), max_awaiting_bytes=1000)
    await hub.open()
    _, outlet = connect(hub)
    message = await hub.emit("news", None, "announce", "x" * 900)
    await asyncio.sleep(0)
    assert json.loads(outlet.texts[-1])["id"] == message.id
    assert len(hub._resender.pending) == 0
    assert b'acks_given_up_total{reason="too_large"} 1.0' in hub.metrics.render()
    await hub.close()


async def test_who_owes_too_much_is_named_once(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    connection, _ = connect(hub)
    with caplog.at_level(logging.WARNING):
        for _ in range(1003):
            await hub.emit("news", None, "announce")
    assert [record.getMessage() for record in caplog.records if connection.id in record.getMessage()] == [
        caplog.records[-1].getMessage()
    ]
    assert b'acks_given_up_total{reason="too_many"} 3.0' in hub.metrics.render()
