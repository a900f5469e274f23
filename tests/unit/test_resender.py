"""What is not acknowledged is sent again, as far as there is room, and given up in words."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator

import pytest

from app import resender as module
from app.clock import Clock
from app.connection import Connection
from app.core.router import Rules
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
    hub = make_hub(rules=Rules(ack_types=frozenset({"announce"})), clock=Clock(monotonic=lambda: time.now))
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


async def test_who_owes_too_much_is_named_once(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    connection, _ = connect(hub)
    with caplog.at_level(logging.WARNING):
        for _ in range(1003):
            await hub.emit("news", None, "announce")
    assert [record.getMessage() for record in caplog.records if connection.id in record.getMessage()] == [
        caplog.records[-1].getMessage()
    ]
    assert b'acks_given_up_total{reason="too_many"} 3.0' in hub.metrics.render()
