"""Requests: in time, in order, answered whatever waits for the application, and what they carry."""

import asyncio
import json
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from app import client as client_module
from app.client import Client, RequestError, State
from tests.clients.application import App, all_taken, subscribed
from tests.support.deadline import soon, until
from tests.support.scripted_server import Message, Peer, ScriptedServer

PACE = 0.1
"""Seconds between two things that come, where they are to come for longer than a timeout of 1 s."""
LATER = {"type": "error", "code": "unavailable", "value": "later", "temporary": True}


# In time


async def test_an_answer_is_not_late_while_something_comes(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url, request_timeout=1) as client:
        peer = await server.accept()
        loop = asyncio.get_running_loop()
        began = loop.time()
        asking = asyncio.create_task(client.announce("news", 1))
        request = await peer.heard()
        number = 0
        while loop.time() - began < 2:
            number += 1
            await peer.announce(number, channel=None)
            await asyncio.sleep(PACE)
        assert not asking.done()
        await peer.say(type="ack", ackId=request["ackId"], id=request["id"])
        await soon(asking)


async def test_parts_of_a_long_message_count_too_and_pongs_do_not(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url, request_timeout=1, ping_interval=0.02) as client:
        peer = await server.accept()
        loop = asyncio.get_running_loop()
        began = loop.time()
        asking = asyncio.create_task(client.announce("news", 1))
        request = await peer.heard()
        text = json.dumps({"type": "ack", "ackId": request["ackId"], "id": "m1"})

        async def parts() -> Any:
            while loop.time() - began < 2:
                yield " " * 1000
                await asyncio.sleep(PACE)
            yield text

        await peer.socket.send(parts())
        assert (await soon(asking))["id"] == "m1"
        began = loop.time()
        with pytest.raises(RequestError, match="timeout"):
            await soon(client.announce("news", 2), 5)
        assert loop.time() - began >= 0.9


async def test_a_new_socket_gets_its_time_for_as_long_as_something_comes(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url, request_timeout=1) as client:
        peer = await server.accept()
        await subscribed(peer, client, position="p0")
        await subscribed(peer, client, "other", position="p0")
        peer.cut()
        peer = await server.accept()
        first, second = await peer.heard(), await peer.heard()
        await peer.acknowledge(first, recovered=True, position="p0")
        for number in range(1, 21):
            await peer.announce(number, channel=first["channel"])
            await asyncio.sleep(PACE)
        assert client.state is State.OPEN, "one waits for an answer, not for all"
        await peer.acknowledge(second, recovered=True, position="p0")
        await app.has(*range(1, 21))
        assert server.nobody_came()


async def test_a_new_socket_that_is_silent_is_given_up(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url, request_timeout=0.1) as client:
        peer = await server.accept()
        await subscribed(peer, client, position="p0")
        peer.cut()
        peer = await server.accept()
        assert (await peer.heard())["position"] == "p0"
        assert (await (await server.accept()).heard())["position"] == "p0"


async def test_math_inf_is_for_ever(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url, request_timeout=math.inf, ping_interval=math.inf) as client:
        peer = await server.accept()
        await all_taken(client, peer)


@pytest.mark.parametrize("name", ["request_timeout", "open_timeout", "ping_interval", "ping_timeout", "close_timeout"])
@pytest.mark.parametrize("value", [0, -1, -0.5, math.nan, -math.inf, True, "10", [1]])
def test_a_time_that_is_none_is_told_at_once(name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=name):
        Client("ws://localhost/ws", **{name: value})


@pytest.mark.parametrize("name", ["first_wait", "longest_wait"])
@pytest.mark.parametrize("value", [-1, math.nan, math.inf, "1", None])
def test_so_is_a_wait(name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=name):
        Client("ws://localhost/ws", **{name: value})


# In order


async def heard_numbers(peer: Peer, count: int) -> tuple[list[int], list[Message]]:
    found = [await peer.heard() for _ in range(count)]
    return [request["payload"] for request in found], found


async def test_what_was_lost_with_a_socket_is_sent_again_in_the_order_of_the_calls(
    server: ScriptedServer, app: App
) -> None:
    app_sleep = app.sleep
    drawn = iter([0.05, 0.01, 0.04, 0.02, 0.03] * 20)

    async def sleep(seconds: float) -> None:
        await app_sleep(seconds)
        await asyncio.sleep(next(drawn))  # as chance has it

    async with app.client(server.url, sleep=sleep) as client:
        peer = await server.accept()
        calls = [asyncio.create_task(client.announce("news", number, attempts=3)) for number in range(10)]
        assert (await heard_numbers(peer, 2))[0] == [0, 1]
        peer.cut()
        calls += [asyncio.create_task(client.announce("news", number, attempts=2)) for number in range(10, 13)]
        peer = await server.accept()
        numbers, found = await heard_numbers(peer, 13)
        assert numbers == list(range(13))
        for request in found:
            await peer.say(type="ack", ackId=request["ackId"], id=request["id"])
        await soon(asyncio.gather(*calls))


async def test_what_was_refused_is_accepted_before_a_later_call_is_sent(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url) as client:
        peer = await server.accept()
        calls = [asyncio.create_task(client.announce("news", number, attempts=4)) for number in range(4)]
        _, found = await heard_numbers(peer, 4)
        for request in found:
            await peer.say(ackId=request["ackId"], **LATER)
        await until(lambda: len(app.waits) == 4)
        calls.append(asyncio.create_task(client.announce("news", 4)))
        accepted: list[int] = []
        refusals = iter([True, False, True, True, False, False, False])
        while len(accepted) < 5:
            request = await peer.heard()
            if next(refusals, False):
                await peer.say(ackId=request["ackId"], **LATER)
            else:
                accepted.append(request["payload"])
                await peer.say(type="ack", ackId=request["ackId"], id=request["id"])
        assert accepted == [0, 1, 2, 3, 4]
        await soon(asyncio.gather(*calls))


async def test_a_call_that_is_given_up_holds_up_nobody(server: ScriptedServer, app: App) -> None:
    never = asyncio.Event()

    async def sleep(_: float) -> None:
        await never.wait()

    async with app.client(server.url, sleep=sleep) as client:
        peer = await server.accept()
        first = asyncio.create_task(client.announce("news", 1, attempts=9))
        await peer.say(ackId=(await peer.heard())["ackId"], **LATER)
        await all_taken(client, peer)
        second = asyncio.create_task(client.announce("news", 2))
        await all_taken(client, peer)
        first.cancel()
        request = await peer.heard()
        assert request["payload"] == 2
        await peer.say(type="ack", ackId=request["ackId"], id=request["id"])
        await soon(second)


async def test_what_waits_and_is_given_up_is_forgotten(server: ScriptedServer, app: App) -> None:
    never = asyncio.Event()

    async def sleep(_: float) -> None:
        await never.wait()

    async with app.client(server.url, sleep=sleep) as client:
        (await server.accept()).cut()
        await until(lambda: client.state is State.WAITING)
        for _ in range(5):
            calls = [asyncio.create_task(client.announce("news", number)) for number in range(50)]
            await asyncio.sleep(0)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        assert len(client._publishes._waiting) <= 1


# Whatever waits for the application


@pytest.mark.parametrize("bound", ["QUEUE_WITH_REQUESTS", "MAX_UNTAKEN"])
async def test_a_handler_that_awaits_requests_gets_all_its_answers(
    server: ScriptedServer, app: App, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    """A burst above all that may wait; answers stand behind it. What is left out is asked for again, in order."""
    monkeypatch.setattr(client_module, bound, {"QUEUE_WITH_REQUESTS": 1000, "MAX_UNTAKEN": 200_000}[bound])
    count = 3000
    async with app.client(server.url, on_message=None, request_timeout=5) as client:
        peer = await server.accept()
        await subscribed(peer, client, position="p0")
        serving = asyncio.create_task(_serve_a_history(peer, count))
        got = []
        for _ in range(count):
            message = await soon(anext(client))
            got.append(message["payload"])
            await client.announce("other", message["payload"])
        assert got == list(range(1, count + 1))
        assert app.recoveries == []
        assert server.nobody_came()
        serving.cancel()


async def _serve_a_history(peer: Peer, count: int) -> None:
    """All at once; answers, and what is asked for again, come behind it."""
    for number in range(1, count + 1):
        await peer.announce(number)
    while True:
        request = await peer.heard()
        if request["type"] == "subscribe":
            await peer.acknowledge(request, recovered=True, position=request["position"])
            for number in range(int(request["position"][1:]) + 1, count + 1):
                await peer.announce(number)
        elif request["type"] == "unsubscribe":
            await peer.acknowledge(request, removedConnectionCount=1)
        else:
            await peer.say(type="ack", ackId=request["ackId"], id=request["id"])


async def test_what_waits_is_bounded_while_answers_are_awaited(
    server: ScriptedServer, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "QUEUE", 4)
    monkeypatch.setattr(client_module, "QUEUE_WITH_REQUESTS", 16)
    async with app.client(server.url, on_message=None) as client:
        peer = await server.accept()
        await subscribed(peer, client, position="p0")
        asking = asyncio.create_task(client.announce("other", 1))
        request = await peer.heard()
        for number in range(1, 101):
            await peer.announce(number)
        assert (await peer.heard())["type"] == "unsubscribe"
        assert len(client._inbox) == 16
        await peer.say(type="ack", ackId=request["ackId"], id=request["id"])
        await soon(asking)
        assert [(await soon(anext(client)))["payload"] for _ in range(8)] == list(range(1, 9))
        again = await peer.heard()
        assert (again["type"], again["position"]) == ("subscribe", "p16")
        assert client.positions == {"news": "p7"}
        await peer.announce(101)  # it stands before the answer, and is sent again behind it
        await peer.acknowledge(again, recovered=True, position="p16")
        for number in range(17, 102):
            await peer.announce(number)
        assert [(await soon(anext(client)))["payload"] for _ in range(93)] == list(range(9, 102))
        assert app.recoveries == []


async def test_a_burst_below_that_is_read_and_the_channel_kept(server: ScriptedServer, app: App) -> None:
    """More than a server may keep of a channel."""
    async with app.client(server.url, on_message=None) as client:
        peer = await server.accept()
        await subscribed(peer, client, position="p0")
        asking = asyncio.create_task(client.announce("other", 1))
        request = await peer.heard()
        for number in range(1, 6001):
            await peer.announce(number)
        await peer.say(type="ack", ackId=request["ackId"], id=request["id"])
        await soon(asking)
        assert [(await soon(anext(client)))["payload"] for _ in range(6000)] == list(range(1, 6001))
        asking = asyncio.create_task(client.get_info())
        assert (await peer.heard())["type"] == "getInfo", "it left nothing"
        asking.cancel()


async def test_large_messages_are_not_read_ahead(
    server: ScriptedServer, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "MAX_UNTAKEN", 100_000)
    async with app.client(server.url, on_message=None, max_queue=1) as client:
        peer = await server.accept()
        await subscribed(peer, client, position="p0")
        for number in range(1, 6):
            await peer.announce(number, filler="x" * 40_000)
        await until(lambda: client._link is not None and client._link.paused)
        assert len(client._inbox) == 3
        assert [(await soon(anext(client)))["payload"] for _ in range(5)] == [1, 2, 3, 4, 5]


async def test_what_was_answered_is_no_reason_to_read_on(
    server: ScriptedServer, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "QUEUE", 4)
    async with app.client(server.url, on_message=None) as client:
        peer = await server.accept()
        await subscribed(peer, client, position="p0")
        asking = asyncio.create_task(client.announce("other", 1))
        request = await peer.heard()
        for number in range(1, 11):
            await peer.announce(number)
        await peer.say(type="ack", ackId=request["ackId"], id=request["id"])
        for number in range(11, 21):
            await peer.announce(number)
        await soon(asking)
        await until(lambda: client._link is not None and client._link.paused)
        assert len(client._inbox) == 10
        assert [(await soon(anext(client)))["payload"] for _ in range(20)] == list(range(1, 21))


async def test_a_channel_that_was_left_for_a_while_tells_of_a_gap(
    server: ScriptedServer, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "QUEUE", 4)
    monkeypatch.setattr(client_module, "QUEUE_WITH_REQUESTS", 8)
    async with app.client(server.url, on_message=None) as client:
        peer = await server.accept()
        await subscribed(peer, client, position="p0")
        asking = asyncio.create_task(client.announce("other", 1))
        await peer.heard()
        for number in range(1, 21):
            await peer.announce(number)
        await peer.heard()
        asking.cancel()
        for _ in range(4):
            await soon(anext(client))
        await peer.acknowledge(await peer.heard(), recovered=False, position="p30")
        await peer.announce(31)
        assert [(await soon(anext(client)))["payload"] for _ in range(5)] == [5, 6, 7, 8, 31]
        assert [(recovery.channel, recovery.recovered) for recovery in app.recoveries] == [("news", False)]


@pytest.mark.parametrize("event", ["message", "recovery", "state", "refused"])
async def test_every_callback_may_await_a_request(server: ScriptedServer, app: App, event: str) -> None:
    server.welcomes = [{"recovered": True}]
    answered = asyncio.Event()

    async def ask(_: object) -> None:
        if event != "state" or client.state is State.OPEN:
            await client.get_info()
            answered.set()

    if event == "refused":
        server.refusals = [(503, {})]
    client = app.client(server.url, position="w0", **{f"on_{event}": ask})
    async with client:
        peer = await server.accept()
        await peer.announce(1, channel=None)
        request = await peer.heard()
        await peer.say(type="getInfo", ackId=request["ackId"])
        await soon(answered.wait())


@pytest.mark.parametrize("how", ["on_message", "handle"])
async def test_what_a_callback_fails_on_is_not_taken_whatever_its_type(
    server: ScriptedServer, app: App, how: str
) -> None:
    app.fails_on = {2}
    options = {"on_message": None} if how == "handle" else {}
    async with app.client(server.url, **options) as client:
        peer = await server.accept()
        handle = client.channel("news")
        if how == "handle":
            handle.on("announce", app.take)
        entering = asyncio.create_task(handle.subscribe("1"))
        await peer.subscribed(position="p0")
        await soon(entering)
        for number in (1, 2, 3):
            await peer.announce(number)
        await app.has(1, 2, 3)
        assert client.positions == {"news": "p1"}
        peer.cut()
        app.fails_on = set()
        peer = await server.accept()
        request = await peer.heard()
        assert request["position"] == "p1"
        await peer.acknowledge(request, recovered=True, position="p1")
        await peer.announce(2)
        await peer.announce(3)
        await app.has(1, 2, 3, 2)
        await until(lambda: client.positions == {"news": "p3"})


# What they carry


@pytest.mark.parametrize("text", ["\ud83d", "a\udc00b", "\ud83d\ude00 and \ud83d"])
async def test_half_an_emoji_travels(server: ScriptedServer, app: App, text: str) -> None:
    async with app.client(server.url) as client:
        peer = await server.accept()
        asking = asyncio.create_task(client.announce("news", {"text": text}))
        raw = await soon(peer.socket.recv())
        request = json.loads(raw)
        assert request["payload"]["text"].encode("utf-16", "surrogatepass") == text.encode("utf-16", "surrogatepass")
        await peer.say(type="ack", ackId=request["ackId"], id=request["id"])
        await soon(asking)
        await peer.socket.send(json.dumps({"type": "announce", "payload": text}))
        await app.has(json.loads(json.dumps(text)))
        assert server.nobody_came()


@pytest.mark.parametrize("payload", [math.nan, {"at": math.inf}, {1, 2}, object()])
async def test_what_is_not_json_is_told_at_once_and_sends_nothing(
    server: ScriptedServer, app: App, payload: object
) -> None:
    async with app.client(server.url) as client:
        peer = await server.accept()
        with pytest.raises((TypeError, ValueError)):
            await client.announce("news", payload)
        await all_taken(client, peer)
        assert client._link is not None
        assert not client._link.requests


# Before and after


async def test_nothing_can_be_asked_before_connect(app: App) -> None:
    client = app.client("ws://127.0.0.1:9/ws")
    asks: list[Callable[[], Awaitable[Any]]] = [
        lambda: client.subscribe("news", "1"),
        lambda: client.unsubscribe("news"),
        lambda: client.announce("news"),
        client.get_info,
        lambda: client.channel("news").subscribe(),
        client.check,
    ]
    for ask in asks:
        with pytest.raises(RuntimeError, match="connect"):
            await asyncio.wait_for(ask(), 1)
    await client.close()
