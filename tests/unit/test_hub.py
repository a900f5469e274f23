"""The hub without sockets: what leaves it for each connection."""

import gc
import json
import re
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from app.connection import Connection
from app.core.channels import POSITION_BYTES
from app.core.rate import SenderRate
from app.core.router import Rules
from app.hub import Hub
from app.protocol import codec
from app.protocol.errors import MessageError
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


@pytest.mark.parametrize("shared", [frozenset({"announce"}), frozenset()])
async def test_what_is_published_in_process_is_delivered_before_the_next_message_is_read(
    shared: frozenset[str],
) -> None:
    hub = make_hub(rules=Rules(pubsub_types=shared))
    await hub.open()
    ann, bob = (hub.connect(None, None, outlet=FakeOutlet()) for _ in range(2))
    for connection in (ann, bob):
        connection.open()
    for client, text in (
        (bob, '{"type":"subscribe","channel":"news","subId":"1"}'),
        (ann, '{"type":"announce","channel":"news","payload":1,"ackId":1}'),
        (bob, '{"type":"unsubscribe","channel":"news"}'),
        (ann, '{"type":"announce","channel":"news","payload":2,"ackId":2}'),
        (ann, '{"type":"announce","channel":"news","payload":2,"id":"again","ackId":3}'),
        (ann, '{"type":"announce","channel":"news","payload":2,"id":"again","ackId":4}'),
    ):
        assert hub.receive_at_once(client, text)
    for connection in (ann, bob):
        connection.flush()
    assert isinstance(ann.outlet, FakeOutlet)
    assert isinstance(bob.outlet, FakeOutlet)
    replies = [json.loads(text) for text in ann.outlet.texts[1:]]
    assert [(reply["ackId"], reply.get("duplicate")) for reply in replies] == [
        (1, None),
        (2, None),
        (3, None),
        (4, True),
    ]
    types = [json.loads(text)["type"] for text in bob.outlet.texts]
    assert types == ["welcome", "ack", "announce", "ack"]
    fanout = "shared" if shared else "local"
    assert counts(hub, f'messages_published_total{{fanout="{fanout}",result="accepted"}}') == "3.0"
    await hub.close()


async def test_what_is_published_as_soon_as_the_hub_is_open_is_delivered() -> None:
    hub = make_hub(rules=Rules(pubsub_types=frozenset({"announce"})))
    await hub.open()
    outlet = FakeOutlet()
    connection = hub.connect(None, None, outlet=outlet)
    connection.open()
    hub.subscribe(connection, "news", "1")
    await hub.emit("news", None, "announce", 1)
    connection.flush()
    assert json.loads(outlet.texts[-1])["payload"] == 1
    await hub.close()


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


def subscribes(hub: Hub, connection: Connection, channel: str, sub_id: str = "1", **more: str) -> None:
    """Let a client subscribe by a message, as it does."""
    message = {"type": "subscribe", "channel": channel, "subId": sub_id, **more}
    assert hub.receive_at_once(connection, json.dumps(message, ensure_ascii=False))


def last_answer(connection: Connection, outlet: FakeOutlet) -> dict[str, Any]:
    connection.flush()
    answer: dict[str, Any] = json.loads(outlet.texts[-1])
    outlet.writes.clear()
    return answer


@asynccontextmanager
async def a_client(**limits: Any) -> AsyncIterator[tuple[Hub, Connection, FakeOutlet]]:
    hub = make_hub(**limits)
    await hub.open()
    outlet = FakeOutlet()
    connection = hub.connect(None, None, outlet=outlet)
    connection.open()
    try:
        yield hub, connection, outlet
    finally:
        await hub.close()


async def test_the_subscriptions_of_a_connection_have_a_limit_in_number() -> None:
    async with a_client(max_subscriptions=3) as (hub, connection, outlet):
        for number in range(4):
            subscribes(hub, connection, f"channel-{number}")
        error = last_answer(connection, outlet)
        assert (error["code"], error["value"]) == (
            "too_many_subscriptions",
            "a connection can have at most 3 subscriptions",
        )
        subscribes(hub, connection, "channel-0")  # once more
        assert last_answer(connection, outlet)["type"] == "ack"


async def test_the_subscriptions_of_all_have_a_limit_in_bytes_that_leaves_room_for_newcomers() -> None:
    async with a_client(max_subscriptions=1000, max_subscription_bytes=200_000) as (hub, greedy, outlet):
        for number in range(30):
            subscribes(hub, greedy, f"channel-{number}")
        error = last_answer(greedy, outlet)
        assert error["code"] == "too_many_subscriptions"
        assert "all connections" in error["value"]
        had = hub.channels.subscription_count_of(greedy)
        assert 5 < had < 20
        with pytest.raises(MessageError, match="all connections"):
            hub.director.subscribe(greedy, "one more", "1")
        assert hub.channels.subscription_count_of(greedy) == had
        newcomer = hub.connect(None, None, outlet=(taken := FakeOutlet()))
        newcomer.open()
        subscribes(hub, newcomer, "mine")
        assert last_answer(newcomer, taken)["numConnections"] == 1
        assert counts(hub, "subscription_bytes") == str(float(hub.channels.bytes))
        for connection in (greedy, newcomer):
            hub.disconnect(connection)
        assert counts(hub, "subscription_bytes") == "0.0"


async def test_a_position_to_resume_from_is_counted_with_the_subscription() -> None:
    async with a_client() as (hub, connection, outlet):
        subscribes(hub, connection, "news")
        position = last_answer(connection, outlet)["position"]
        without = hub.channels.bytes
        subscribes(hub, connection, "news", position=position)
        assert hub.channels.bytes == without + POSITION_BYTES
        hub.unsubscribe(connection, "news")
        assert hub.channels.bytes == 0


async def test_the_journal_keeps_no_copies_of_names() -> None:
    async with a_client() as (hub, first, _):
        second = hub.connect(None, None, outlet=FakeOutlet())
        for connection in (first, second):
            subscribes(hub, connection, "channel", "subscription")
        (channel,), (again,) = hub._journal._joins[first], hub._journal._joins[second]
        assert channel is again
        (sub_id,), (again,) = hub._journal._joins[first][channel], hub._journal._joins[second][channel]
        assert sub_id is again


WIDE = "\U0001f600"


@pytest.mark.parametrize(
    ("clients", "names"),
    [
        (20, [f"{number:04}".ljust(255, WIDE) for number in range(100)]),
        (500, ["one", "two", "three"]),
    ],
)
async def test_what_is_counted_of_subscriptions_is_what_they_take(clients: int, names: list[str]) -> None:
    """All that is kept of them counts: also the journal's part, and what JSON adds to a wide name."""
    async with a_client(max_subscriptions=1000, max_subscription_bytes=10**9) as (hub, _, _):
        outlets = [FakeOutlet() for _ in range(clients)]
        connections = [hub.connect(None, None, outlet=outlet) for outlet in outlets]
        for connection in connections:
            connection.open()
        texts = [
            json.dumps({"type": "subscribe", "channel": f"{number}{name}"[:255], "subId": name}, ensure_ascii=False)
            for number in range(clients)
            for name in names
        ]
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for number, text in enumerate(texts):
                connection = connections[number // len(names)]
                assert hub.receive_at_once(connection, text)
                connection.flush()
                outlets[number // len(names)].writes.clear()
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert hub.channels.subscription_count == len(texts)
        assert 0.7 < grown / hub.channels.bytes < 1.25


async def test_who_has_gone_is_not_waited_for_when_the_instance_ends() -> None:
    async with open_hub() as hub:
        gone = [hub.connect(None, None, outlet=FakeOutlet()) for _ in range(3)]
        stays = FakeOutlet()
        connection = hub.connect(None, None, outlet=stays)
        for other in gone:
            hub.disconnect(other)
        await hub.drain()
        connection.open()
        assert stays.closed == (3001, "shutdown")
        hub.disconnect(connection)
        await soon(hub.gone(), 0.5)


async def test_message_for_a_handler_is_read_and_charged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_hub(custom=frozenset({"slow"})) as hub:
        connection = hub.connect(None, None, outlet=FakeOutlet())
        taken: list[int] = []

        def take(_rate: SenderRate, size: int, _now: float) -> float:
            taken.append(size)
            return 0.0

        monkeypatch.setattr(SenderRate, "take", take)
        read = counted(monkeypatch, "decode")
        text = '{"type":"slow"}'
        assert not hub.receive_at_once(connection, text)
        await hub.receive(connection, text)
        assert (len(read), taken) == (1, [len(text)])
        await hub.receive(connection, text)  # another of the same words is another message
        assert (len(read), taken) == (2, [len(text)] * 2)
