"""The hub without sockets: what leaves it for each connection."""

import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from app.connection import Connection
from app.core.router import Rules
from app.hub import Hub
from app.protocol import codec
from app.protocol.frame import Frame
from tests.support.deadline import soon
from tests.support.hubs import make_hub
from tests.support.outlet import FakeOutlet


@asynccontextmanager
async def open_hub(ack_types: frozenset[str] = frozenset(), custom: frozenset[str] = frozenset()) -> AsyncIterator[Hub]:
    hub = make_hub(rules=Rules(ack_types=ack_types, custom_types=custom))
    await hub.open()
    try:
        yield hub
    finally:
        await hub.close()


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[Any]:
    """Calls of a function of the codec, from now on."""
    calls: list[Any] = []
    original: Callable[..., Any] = getattr(codec, name)

    def count(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(codec, name, count)
    return calls


@pytest.mark.parametrize("ack_types", [frozenset(), frozenset({"announce"})])
async def test_a_message_is_written_once_for_all_who_get_it(
    monkeypatch: pytest.MonkeyPatch, ack_types: frozenset[str]
) -> None:
    async with open_hub(ack_types) as hub:
        connections = [hub.connect(None, None, outlet=FakeOutlet()) for _ in range(200)]
        for connection in connections:
            hub.subscribe(connection, "news", "front")
        frames: dict[Connection, list[Frame]] = {connection: [] for connection in connections}

        def note(connection: Connection, frame: Frame) -> bool:
            frames[connection].append(frame)
            return True

        monkeypatch.setattr(Connection, "send", note)
        written = counted(monkeypatch, "encode")
        await hub.emit("news", None, "announce", {"n": 1})
        assert len(written) == (2 if ack_types else 1)  # for the fan-out, which is the frame where none adds to it
        (first,), *others = frames.values()
        assert '"payload":{"n":1}' in first.text
        assert all(len(sent) == 1 and sent[0] is first for sent in others)


async def test_who_has_gone_while_a_handler_ran_for_it_is_subscribed_to_nothing() -> None:
    async with open_hub() as hub:
        outlet = FakeOutlet()
        gone = hub.connect(None, None, outlet=outlet)
        hub.disconnect(gone)
        hub.director.subscribe(gone, "news", "front")
        await hub.receive(gone, '{"type":"subscribe","channel":"news","subId":"front"}')
        assert hub.channels.subscription_count == 0
        assert outlet.writes == []


def counts(hub: Hub, metric: str) -> str:
    """What a metric says."""
    found = re.search(f"\ncloud_sockets_{re.escape(metric)} (.*)", hub.metrics.render().decode())
    return found[1] if found else "none"


async def test_what_calls_a_handler_cannot_be_done_at_once_and_is_not_begun() -> None:
    async with open_hub(custom=frozenset({"call"})) as hub:
        connection = hub.connect(None, None, outlet=FakeOutlet())
        call = '{"type":"call","payload":1}'
        assert not hub.receive_at_once(connection, call)
        assert counts(hub, "messages_received_total") == "0.0"
        await hub.receive(connection, call)
        assert counts(hub, "messages_received_total") == "1.0"


async def test_all_else_is_done_at_once_also_what_is_wrong() -> None:
    async with open_hub() as hub:
        outlet = FakeOutlet()
        connection = hub.connect(None, None, outlet=outlet)
        connection.open()
        for text in (
            '{"type":"subscribe","channel":"news","subId":"front"}',
            '{"type":"announce","channel":"news","payload":1,"ackId":1}',
            '{"type":"getInfo"}',
            '{"type":"subscribe"}',
            "no JSON",
        ):
            assert hub.receive_at_once(connection, text)
        connection.flush()
        types = [json.loads(text)["type"] for text in outlet.texts]
        assert types == ["welcome", "ack", "ack", "getInfo", "error", "error"]
        assert counts(hub, "messages_received_total") == "4.0"
        assert counts(hub, 'messages_published_total{fanout="local",result="accepted"}') == "1.0"


async def test_each_delivery_is_counted_and_each_message_that_arrived() -> None:
    async with open_hub() as hub:
        for _ in range(3):
            connection = hub.connect(None, None, outlet=FakeOutlet())
            connection.open()
            hub.subscribe(connection, "news", "front")
        sent = float(counts(hub, "messages_sent_total"))
        for _ in range(2):
            await hub.emit("news", None, "announce")
        assert counts(hub, "messages_arrived_total") == "2.0"
        assert float(counts(hub, "messages_sent_total")) == sent + 6


async def test_a_failure_of_the_service_is_told_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_hub() as hub:
        outlet = FakeOutlet()
        connection = hub.connect(None, None, outlet=outlet)
        connection.open()
        monkeypatch.setattr(hub, "info", None)
        assert hub.receive_at_once(connection, '{"type":"getInfo","ackId":1}')
        connection.flush()
        error = json.loads(outlet.texts[-1])
        assert (error["code"], error["ackId"]) == ("internal", 1)
        assert "a message could not be handled" in caplog.text
        assert "TypeError" in caplog.text


async def test_who_has_gone_is_not_waited_for_when_the_instance_ends() -> None:
    async with open_hub() as hub:
        gone = [hub.connect(None, None, outlet=FakeOutlet()) for _ in range(3)]
        stays = FakeOutlet()
        connection = hub.connect(None, None, outlet=stays)
        for other in gone:
            hub.disconnect(other)
        await hub.drain()
        connection.open()
        assert stays.closed == (1012, "service restart")
        hub.disconnect(connection)
        await soon(hub.gone(), 0.5)
