"""Planned endings, as each client sees them; the clock is a number that the test sets."""

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from app import endings as module
from app.clock import Clock
from app.connection import Connection
from app.core.departures import RETURNS_PER_SECOND, Reason
from app.endings import BATCH, Endings
from app.fanout import Deliver, Fanout, Peer, Publication
from app.metrics import Metrics
from app.outgoing import Outgoing
from app.protocol.close_codes import CloseCode
from tests.support.deadline import soon, until
from tests.support.outlet import FakeOutlet

REVISION = "hub-00002-abc"


class SilentFanout(Fanout):
    """Carries nothing, and hears what the test says."""

    def __init__(self) -> None:
        self.is_deaf = False
        self.revisions: dict[str, str | None] = {}

    async def start(self, deliver: Deliver) -> None: ...

    async def publish(self, publication: Publication) -> None: ...

    async def close(self) -> None: ...

    @property
    def deaf(self) -> bool:
        return self.is_deaf

    @property
    def peers(self) -> Mapping[str, Peer]:
        return {name: Peer(revision, 1) for name, revision in self.revisions.items()}


class House:
    """Endings with what they need."""

    def __init__(self, rollover: float | None = 100) -> None:
        self.now = 0.0
        self.fanout = SilentFanout()
        self.metrics = Metrics()
        self.day = 0.0
        clock = Clock(
            monotonic=lambda: self.now, unix_ns=lambda: int(self.day * 1e9), chance=random.Random(1)
        )  # fmt: skip
        self.endings = Endings(
            self.fanout, self.metrics, clock, timeout=3600, rollover=rollover, revision=REVISION
        )  # fmt: skip
        self.outlets: list[FakeOutlet] = []
        self.connections: list[Connection] = []
        self._outgoing = Outgoing(10**9)

    def join(self, count: int = 1, *, is_open: bool = True, session_ends: float | None = None) -> list[FakeOutlet]:
        """Sockets that come; answers their outlets."""
        for _ in range(count):
            outlet = FakeOutlet()
            name = str(len(self.connections))
            connection = Connection(name, None, None, outgoing=self._outgoing, max_buffered=10**6, outlet=outlet)
            if is_open:
                connection.open()
            self.outlets.append(outlet)
            self.connections.append(connection)
            self.endings.join(connection, session_ends)
        return self.outlets[-count:]

    def closed(self) -> list[tuple[int, str] | None]:
        """How each was closed; None: it was not."""
        return [outlet.closed for outlet in self.outlets]

    def sent_elsewhere(self, reason: str) -> float:
        line = f'cloud_sockets_connections_sent_elsewhere_total{{reason="{reason}"}} '
        found = [text for text in self.metrics.render().decode().splitlines() if text.startswith(line)]
        return float(found[0].removeprefix(line)) if found else 0.0


def said(outlet: FakeOutlet) -> list[dict[str, Any]]:
    return [json.loads(text) for text in outlet.texts]


@pytest.fixture
async def house(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(module, "TICK", 0.001)
    monkeypatch.setattr(module, "PAUSE", 0.001)
    monkeypatch.setattr(module, "LOOK_FOR_NEWER", 0)
    house = House()
    house.endings.open()
    yield house
    house.endings.close()


async def turns(count: int = 5) -> None:
    """So many looks at who is due, at least."""
    for _ in range(count):
        await asyncio.sleep(0.002)


async def test_a_socket_is_told_goes_on_and_is_closed_when_its_time_is_up(house: House) -> None:
    (outlet,) = house.join()
    house.now = 2879
    await turns()
    assert said(outlet) == []
    house.now = 3400
    await until(lambda: bool(outlet.texts))
    (farewell,) = said(outlet)
    assert farewell.pop("id")
    assert farewell.pop("sentDateTime")
    assert farewell == {
        "type": "disconnect", "code": 3011, "reason": "rotation", "reconnect": True, "retryAfterMs": 0,
    }  # fmt: skip
    house.now = 3429
    await turns()
    assert house.closed() == [None]
    assert house.connections[0].send(house.endings._disconnect(CloseCode.ROTATION, "still here", 0))
    house.now = 3430
    await until(lambda: house.closed() == [(3011, "rotation")])
    assert [message["reason"] for message in said(outlet)] == ["rotation", "still here"]
    assert house.sent_elsewhere("age") == 1


async def test_a_socket_that_is_closing_is_told_nothing(house: House) -> None:
    outlet, other = house.join(2)
    house.endings.end(house.connections[0], CloseCode.LOGGED_OUT, "logged out")
    house.now = 3400
    await until(lambda: bool(other.texts))
    assert [message["code"] for message in said(outlet)] == [3503]
    assert outlet.closed == (3503, "logged out")
    assert house.sent_elsewhere("age") == 1


async def test_one_turn_of_the_loop_tells_no_more_than_a_batch(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    outlets = house.join(3 * BATCH + 1)
    house.now = 3400
    per_turn: list[int] = []
    while (told := sum(bool(outlet.texts) for outlet in outlets)) < len(outlets):
        if told != sum(per_turn):
            per_turn.append(told - sum(per_turn))
        await asyncio.sleep(0)
    assert max(per_turn) <= BATCH


async def test_a_newer_revision_has_all_leave_and_those_who_come_meanwhile(house: House) -> None:
    outlets = house.join(20)
    house.fanout.revisions = {"a": "hub-00002-xyz", "b": None, "c": "hub-00001-abc", "d": "other-00009-abc"}
    await turns()
    house.now = 200
    await turns()
    assert not any(outlet.texts for outlet in outlets)
    house.fanout.revisions["e"] = "hub-00003-abc"
    await turns()
    told_at_once = sum(bool(outlet.texts) for outlet in outlets)
    assert told_at_once <= 1
    house.now = 250
    outlets += house.join(20)
    await turns()
    assert 5 < sum(bool(outlet.texts) for outlet in outlets) < 15
    house.now = 300
    await until(lambda: all(outlet.texts for outlet in outlets[:20]))
    house.now = 351
    await until(lambda: all(outlet.texts for outlet in outlets))
    assert {said(outlet)[0]["code"] for outlet in outlets} == {3011}
    assert {said(outlet)[0]["reason"] for outlet in outlets} == {"a newer revision serves"}
    assert house.sent_elsewhere("rollover") == 40


async def test_a_newer_revision_that_has_gone_has_nobody_leave(house: House) -> None:
    house.fanout.revisions["e"] = "hub-00003-abc"
    outlets = house.join(100)
    await turns()
    house.now = 50
    await until(lambda: sum(bool(outlet.texts) for outlet in outlets) > 20)
    house.fanout.revisions.clear()
    await turns()
    told = sum(bool(outlet.texts) for outlet in outlets)
    house.now = 2000
    outlets += house.join()
    await turns()
    assert sum(bool(outlet.texts) for outlet in outlets) == told < 80


async def test_unless_it_is_set_a_newer_revision_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICK", 0.001)
    house = House(rollover=None)
    house.endings.open()
    house.fanout.revisions["e"] = "hub-00003-abc"
    (outlet,) = house.join()
    house.now = 2800
    await turns()
    house.endings.close()
    assert outlet.texts == []


async def test_a_deaf_instance_sends_all_elsewhere_and_stops_when_it_hears(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    outlets = house.join(2 * RETURNS_PER_SECOND)
    house.fanout.is_deaf = True
    with caplog.at_level(logging.ERROR):
        await turns()
    assert f"deaf: {len(outlets)} connections are sent elsewhere within 2 s" in caplog.text
    house.now = 1
    late = house.join(10)
    await until(lambda: sum(bool(outlet.texts) for outlet in outlets) >= RETURNS_PER_SECOND - 1)
    house.fanout.is_deaf = False
    await turns()
    told = sum(bool(outlet.texts) for outlet in outlets)
    assert told <= RETURNS_PER_SECOND + 1
    house.now = 40
    await until(lambda: sum(outlet.closed is not None for outlet in outlets) == told)
    assert sum(bool(outlet.texts) for outlet in outlets) == told
    assert not any(outlet.texts for outlet in late)
    house.fanout.is_deaf = True
    await turns()
    house.now = 43
    await until(lambda: all(outlet.texts for outlet in outlets + late))
    assert said(late[0])[0]["reason"] == "the instance does not hear what is published"
    assert house.sent_elsewhere("deafness") == len(outlets) + 10


async def test_after_a_gap_all_are_closed_at_once_and_come_back_one_after_the_other(house: House) -> None:
    outlets = house.join(2 * RETURNS_PER_SECOND)
    house.endings.close_all(Reason.GAP)
    assert house.closed() == [(3011, "messages may be missing")] * len(outlets)
    waits = [said(outlet)[0]["retryAfterMs"] for outlet in outlets]
    assert all(5 * number <= wait <= 5 * number + 5 for number, wait in enumerate(waits))
    assert house.sent_elsewhere("gap") == len(outlets)


async def test_what_fails_once_does_not_end_it(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    (outlet,) = house.join()
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    with monkeypatch.context() as broken:
        broken.setattr(SilentFanout, "peers", property(lambda _: 1 / 0))
        await turns()
    house.now = 3400
    await until(lambda: bool(outlet.texts))


# Drain


async def test_a_drain_tells_each_when_to_return_in_slots_of_its_own(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.02)
    outlets = house.join(1000)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await soon(house.endings.drain())
    took = loop.time() - began
    waits = []
    for outlet in outlets:
        (farewell,) = said(outlet)
        assert (farewell["type"], farewell["code"], farewell["reconnect"]) == ("disconnect", 3001, True)
        assert outlet.closed == (3001, "shutdown")
        waits.append(farewell["retryAfterMs"])
    # One in each of a thousand slots of 5 ms, less the time that passed until it was told.
    for number, wait in enumerate(waits):
        passed = 20 * (number // BATCH)
        assert max(0, 5 * number - took * 1000 - 1) <= wait <= 5 * number + 6 - passed
    assert len({wait - 5 * number for number, wait in enumerate(waits)}) > 5  # and jitter
    assert house.sent_elsewhere("drain") == 1000


async def test_a_drain_lets_the_loop_turn_between_batches(house: House) -> None:
    outlets = house.join(10 * BATCH)
    sizes: list[int] = []
    draining = asyncio.create_task(house.endings.drain())
    while sum(sizes) < len(outlets):
        closed = sum(outlet.closed is not None for outlet in outlets)
        if closed > sum(sizes):
            sizes.append(closed - sum(sizes))
        await asyncio.sleep(0)
    assert max(sizes) <= BATCH
    await soon(draining)


async def test_a_drain_of_very_many_makes_shorter_pauses_rather_than_last_longer(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.25)
    monkeypatch.setattr(module, "BATCH", 1)
    house.join(1000)
    await soon(house.endings.drain(), 5)


async def test_who_comes_or_goes_during_a_drain_is_sent_elsewhere_or_forgotten(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.2)
    house.join(BATCH + 1)
    draining = asyncio.create_task(house.endings.drain())
    await until(lambda: house.outlets[0].closed is not None)
    last = house.connections[BATCH]
    last.ended()
    house.endings.leave(last)
    (late,) = house.join(is_open=False)
    house.connections[-1].open()
    await soon(draining)
    assert late.closed == (3001, "shutdown")
    assert 0 <= said(late)[0]["retryAfterMs"] <= 1000
    assert house.outlets[BATCH].texts == []
    assert house.outlets[BATCH].closed is None


async def test_those_who_do_not_go_are_cut(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GONE_TIMEOUT", 0.05)
    house.join(3)
    await house.endings.drain()
    for connection in house.connections[:2]:
        connection.ended()
        house.endings.leave(connection)
    await soon(house.endings.gone(), 1)
    assert [outlet.aborted for outlet in house.outlets] == [False, False, True]


async def test_when_all_have_gone_nothing_is_waited_for(house: House) -> None:
    await house.endings.drain()
    await soon(house.endings.gone(), 1)


async def test_who_is_yet_to_be_told_is_not_cut(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.2)
    monkeypatch.setattr(module, "GONE_TIMEOUT", 0.05)
    house.join(2 * BATCH)
    gone = asyncio.create_task(house.endings.gone())
    await house.endings.drain()
    assert not any(outlet.aborted for outlet in house.outlets)
    await soon(gone, 1)
    assert all(outlet.aborted for outlet in house.outlets)


async def test_when_the_last_has_gone_nothing_is_waited_for(house: House) -> None:
    house.join(2)
    await house.endings.drain()
    gone = asyncio.create_task(house.endings.gone())
    await asyncio.sleep(0)
    for connection in house.connections:
        assert not gone.done()
        connection.ended()
        house.endings.leave(connection)
    await soon(gone, 1)
    assert not any(outlet.aborted for outlet in house.outlets)


async def test_a_socket_that_was_told_to_rotate_is_drained_too(house: House) -> None:
    (outlet,) = house.join()
    house.now = 3400
    await until(lambda: bool(outlet.texts))
    await house.endings.drain()
    assert [message["code"] for message in said(outlet)] == [3011, 3001]
    assert outlet.closed == (3001, "shutdown")


async def test_sessions_end_by_the_time_of_day_and_those_of_nobody_never(house: House) -> None:
    house.join()
    house.join(2, session_ends=100)
    house.join(session_ends=200)
    house.day = 99
    await turns()
    assert house.closed() == [None] * 4
    house.day = 100
    await until(lambda: None not in house.closed()[1:3])
    ended = (CloseCode.EXPIRED, "session expired")
    assert house.closed() == [None, ended, ended, None]
    (farewell,) = said(house.outlets[1])
    assert (farewell["type"], farewell["code"], farewell["reconnect"]) == ("disconnect", 3005, True)
    house.endings.leave(house.connections[3])
    house.day = 1000
    await turns()
    assert house.closed() == [None, ended, ended, None]


async def test_as_many_sessions_as_may_end_at_once_do_in_batches(house: House) -> None:
    house.join(3 * BATCH, session_ends=1)
    house.day = 1
    await until(lambda: None not in house.closed())
