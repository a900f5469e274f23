"""Subscriptions are those that were asked for last, on every socket."""

import asyncio
import math
from typing import Any

import pytest

from app import client as client_module
from app.client import Client, Recovery, RequestError
from tests.clients.application import App, all_taken, rotate, subscribed
from tests.support.deadline import soon, until
from tests.support.scripted_server import Message, Peer, ScriptedServer

TEMPORARY = {"type": "error", "value": "later", "temporary": True}


async def requests(peer: Peer, client: Client) -> list[Message]:
    """All that the peer was asked so far; none of it is answered."""
    asking = asyncio.create_task(client.get_info())
    found: list[Message] = []
    while (request := await peer.heard())["type"] != "getInfo":
        found.append(request)
    await peer.say(type="getInfo", ackId=request["ackId"])
    await soon(asking)
    return found


def shown(found: list[Message]) -> list[tuple[Any, ...]]:
    return [(request["type"], request.get("channel"), request.get("subId")) for request in found]


async def in_one_turn(*calls: Any) -> list["asyncio.Task[Any]"]:
    tasks = [asyncio.create_task(call) for call in calls]
    await asyncio.sleep(0)
    return tasks


# The last call wins


async def test_what_is_left_before_it_is_answered_is_not_there_after_a_reconnect(
    server: ScriptedServer, app: App
) -> None:
    async with app.client(server.url) as client:
        peer = await server.accept()
        entering, leaving = await in_one_turn(client.subscribe("news", "1"), client.unsubscribe("news", "1"))
        asked = [await peer.heard(), await peer.heard()]
        assert [request["type"] for request in asked] == ["subscribe", "unsubscribe"]
        for request in asked:
            await peer.acknowledge(request, removedConnectionCount=1)
        await soon(asyncio.gather(entering, leaving))
        peer.cut()
        peer = await server.accept()
        assert await requests(peer, client) == []


async def test_what_is_left_while_nobody_is_there_is_not_asked_for(server: ScriptedServer, app: App) -> None:
    may_go_on = asyncio.Event()

    async def sleep(_: float) -> None:
        await may_go_on.wait()

    async with app.client(server.url, sleep=sleep) as client:
        (await server.accept()).cut()
        await until(lambda: client.state.value == "waiting")
        entering, leaving, staying = await in_one_turn(
            client.subscribe("news", "1"), client.unsubscribe("news", "1"), client.subscribe("news", "2")
        )
        assert (await soon(leaving))["removedConnectionCount"] == 0
        with pytest.raises(RequestError, match="unsubscribe"):
            await soon(entering)
        may_go_on.set()
        peer = await server.accept()
        await peer.subscribed()
        await soon(staying)
        assert await requests(peer, client) == []
        assert list(client.positions) == []


async def test_who_enters_again_in_the_same_turn_is_in(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url) as client:
        peer = await server.accept()
        tasks = await in_one_turn(
            client.subscribe("news", "1"), client.unsubscribe("news", "1"), client.subscribe("news", "1")
        )
        for _ in range(3):
            await peer.acknowledge(await peer.heard(), removedConnectionCount=1)
        await soon(asyncio.gather(*tasks))
        peer.cut()
        peer = await server.accept()
        assert shown(await requests(peer, client)) == [("subscribe", "news", "1")]


async def test_a_call_that_is_cancelled_is_given_up(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url) as client:
        peer = await server.accept()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.subscribe("news", "1"), 0.01)
        assert [(await peer.heard())["type"] for _ in range(2)] == ["subscribe", "unsubscribe"]
        peer.cut()
        peer = await server.accept()
        assert await requests(peer, client) == []


async def test_a_call_that_is_cancelled_takes_nothing_from_another(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url) as client:
        peer = await server.accept()
        first, second = await in_one_turn(client.subscribe("news", "1"), client.subscribe("news", "1"))
        first.cancel()
        await peer.subscribed()
        await soon(second)
        third = asyncio.create_task(client.subscribe("news", "1"))
        await peer.heard()
        third.cancel()
        await asyncio.gather(third, return_exceptions=True)
        assert await requests(peer, client) == []
        peer.cut()
        peer = await server.accept()
        assert shown(await requests(peer, client)) == [("subscribe", "news", "1")]


# While a socket is replaced


async def test_what_is_entered_and_left_while_a_socket_is_replaced_is_so_on_the_new_one(
    server: ScriptedServer, app: App
) -> None:
    async with app.client(server.url) as client:
        old = await server.accept()
        await subscribed(old, client, "stays", position="s0")
        await subscribed(old, client, "left", position="l0")
        await rotate(old)
        new = await server.accept()
        asked = [await new.heard(), await new.heard()]
        assert {request["channel"] for request in asked} == {"stays", "left"}
        entering, leaving = await in_one_turn(client.subscribe("entered", "1"), client.unsubscribe("left", "1"))
        for _ in range(2):
            await old.acknowledge(await old.heard(), position="e5", removedConnectionCount=1)
        await soon(asyncio.gather(entering, leaving))
        asked += [await new.heard(), await new.heard()]
        assert shown(asked[2:]) == [("subscribe", "entered", "1"), ("unsubscribe", "left", None)] or shown(
            asked[2:]
        ) == [("subscribe", "entered", "1"), ("unsubscribe", "left", "1")]
        for request in asked[:2]:
            await new.acknowledge(request, recovered=True, position=request["position"])
        await new.acknowledge(asked[2], position="e7")
        await new.acknowledge(asked[3], removedConnectionCount=1)
        # The old one had it first: what came there since is to be had from the new one, too.
        again = await new.subscribed(recovered=True, position="e5")
        assert (again["channel"], again["position"]) == ("entered", "e5")
        assert await old.ended() == 1000
        await new.announce(6, channel="entered")
        await app.has(6)
        new.cut()
        peer = await server.accept()
        found = await requests(peer, client)
        assert {request["channel"]: request["position"] for request in found} == {"stays": "s0", "entered": "p6"}


async def test_what_was_asked_on_a_socket_that_is_gone_is_answered_by_the_next(
    server: ScriptedServer, app: App
) -> None:
    async with app.client(server.url) as client:
        old = await server.accept()
        await rotate(old)
        new = await server.accept()
        await until(lambda: client._link is not None and client._link.resumed)
        old.cut()
        entering = asyncio.create_task(client.subscribe("news", "1"))
        await new.subscribed(numConnections=3)
        assert (await soon(entering))["numConnections"] == 3


# What the server would not have


@pytest.mark.parametrize("code", ["unavailable", "rate_limited"])
async def test_what_is_refused_for_now_is_asked_for_again(server: ScriptedServer, app: App, code: str) -> None:
    async with app.client(server.url) as client:
        peer = await server.accept()
        entering = asyncio.create_task(client.subscribe("news", "1"))
        request = await peer.heard()
        await peer.say(**TEMPORARY, code=code, ackId=request["ackId"], retryAfterMs=3000)
        with pytest.raises(RequestError, match=code):
            await soon(entering)
        assert shown([await peer.subscribed()]) == [("subscribe", "news", "1")]
        assert app.waits == [3 + 1]
        await all_taken(client, peer)


async def test_after_a_timeout_it_is_subscribed_all_the_same_as_soon_as_it_can_be(
    server: ScriptedServer, app: App
) -> None:
    async with app.client(server.url, request_timeout=0.05) as client:
        peer = await server.accept()
        with pytest.raises(RequestError) as late:
            await soon(client.subscribe("news", "1"))
        assert (late.value.code, late.value.temporary) == ("timeout", True)
        await peer.subscribed()
        peer.cut()
        peer = await server.accept()
        assert shown([await peer.subscribed()]) == [("subscribe", "news", "1")]


async def test_a_leave_that_is_refused_for_now_is_said_again(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url) as client:
        peer = await server.accept()
        await subscribed(peer, client)
        leaving = asyncio.create_task(client.unsubscribe("news", "1"))
        request = await peer.heard()
        await peer.say(**TEMPORARY, code="rate_limited", ackId=request["ackId"])
        with pytest.raises(RequestError, match="rate_limited"):
            await soon(leaving)
        assert shown([await peer.heard()]) == [("unsubscribe", "news", "1")]


async def test_a_channel_whose_only_subscription_is_refused_did_not_go_on(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url) as client:
        peer = await server.accept()
        await subscribed(peer, client, position="p0")
        peer.cut()
        peer = await server.accept()
        request = await peer.heard()
        await peer.say(type="error", code="permission_denied", value="no", temporary=False, ackId=request["ackId"])
        await until(lambda: len(app.errors) == 1)
        await all_taken(client, peer)
        assert [recovery.channel for recovery in app.recoveries] == [None]


# Handles


async def test_a_handle_leaves_nothing_that_another_has(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url, on_message=None) as client:
        peer = await server.accept()
        one, other = client.channel("news"), client.channel("news")
        entering = await in_one_turn(one.subscribe("today"), other.subscribe("today"))
        await peer.subscribed()
        await soon(asyncio.gather(*entering))
        await soon(one.unsubscribe("today"))
        await soon(one.unsubscribe("today"))
        assert await requests(peer, client) == []
        await peer.announce(1, subId="today")
        assert (await soon(anext(other)))["payload"] == 1
        leaving = asyncio.create_task(other.unsubscribe("today"))
        request = await peer.heard()
        assert shown([request]) == [("unsubscribe", "news", "today")]
        await peer.acknowledge(request, removedConnectionCount=1, subscriptionsDeleted=1, channelsDeleted=1)
        assert (await soon(leaving))["removedConnectionCount"] == 1
        peer.cut()
        peer = await server.accept()
        assert await requests(peer, client) == []


async def test_handles_and_plain_calls_do_not_leave_for_each_other(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url) as client:
        peer = await server.accept()
        handle = client.channel("news")
        await subscribed(peer, client, sub_id="a")
        await subscribed(peer, client, sub_id="b")
        entering = asyncio.create_task(handle.subscribe("a"))
        await peer.subscribed()
        await soon(entering)
        leaving = asyncio.create_task(client.unsubscribe("news"))
        request = await peer.heard()
        assert shown([request]) == [("unsubscribe", "news", "b")]  # all that only the plain calls had
        await peer.acknowledge(request, removedConnectionCount=1)
        assert (await soon(leaving))["removedConnectionCount"] == 1
        closing = asyncio.create_task(handle.close())
        request = await peer.heard()
        assert shown([request]) == [("unsubscribe", "news", "a")]
        await peer.acknowledge(request, removedConnectionCount=1)
        await soon(closing)
        with pytest.raises(RuntimeError, match="handle is closed"):
            await handle.subscribe("a")


async def test_each_handle_gets_what_it_asked_for(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url, on_message=None) as client:
        peer = await server.accept()
        today, sport, weather = client.channel("news"), client.channel("news"), client.channel("weather")
        for handle, sub_id in ((today, "today"), (sport, "sport"), (weather, "default")):
            entering = asyncio.create_task(handle.subscribe(sub_id))
            await peer.subscribed()
            await soon(entering)
        got: list[tuple[str, Any]] = []

        async def note(message: Message) -> None:
            await asyncio.sleep(0)
            got.append(("sport", message["payload"]))

        stop = sport.on("goal", note)
        weather.on("announce", lambda message: got.append(("weather", message["payload"])))
        await peer.announce(1, subId="today")
        await peer.announce(2, type="goal", subId="sport")
        await peer.announce(3, type="goal", subId="today")
        await peer.announce(4)  # to the whole channel
        await peer.announce(5, channel="weather")
        await peer.announce(6, channel="weather", type="storm")
        await peer.announce(7, channel=None, type="broadcast")
        await peer.announce(8, type="goal")
        assert [(await soon(anext(today)))["payload"] for _ in range(4)] == [1, 3, 4, 8]
        await until(lambda: len(got) == 3)
        assert got == [("sport", 2), ("weather", 5), ("sport", 8)]
        stop()
        await peer.announce(9, type="goal")
        assert (await soon(anext(today)))["payload"] == 9
        await all_taken(client, peer)
        assert got[-1] == ("sport", 8)
        assert client.positions["news"] == "p8", "9 is with the iterator"


async def test_a_message_of_several_takers_is_taken_when_all_have(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url, ack_types=["announce"]) as client:
        peer = await server.accept()
        handle = client.channel("news")
        entering = asyncio.create_task(handle.subscribe("1"))
        await peer.subscribed(position="p0")
        await soon(entering)
        reading = asyncio.create_task(anext(handle))
        await asyncio.sleep(0)
        await peer.announce(1)
        assert (await soon(reading))["payload"] == 1
        await app.has(1)
        assert client.positions == {"news": "p0"}
        reading = asyncio.create_task(anext(handle))
        assert await peer.heard() == {"type": "ack", "id": "m1"}
        assert client.positions == {"news": "p1"}
        reading.cancel()


async def test_iterations_of_handles_do_not_wait_for_each_other(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url, on_message=None) as client:
        peer = await server.accept()
        one, other = client.channel("one"), client.channel("other")
        for handle in (one, other):
            entering = asyncio.create_task(handle.subscribe())
            await peer.subscribed()
            await soon(entering)
        await peer.announce(1, channel="one")
        await peer.announce(2, channel="one")
        await peer.announce(3, channel="other")
        async for message in one:
            if message["payload"] == 1:
                assert (await soon(anext(other)))["payload"] == 3
            else:
                break
        ending = asyncio.create_task(anext(other))
        await asyncio.sleep(0)
        closing = asyncio.create_task(other.close())
        await peer.acknowledge(await peer.heard(), removedConnectionCount=1)
        with pytest.raises(StopAsyncIteration):
            await soon(ending)
        await soon(closing)


async def test_a_handle_with_which_nobody_begins_keeps_so_many_and_stops_nobody(
    server: ScriptedServer, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "QUEUE", 4)
    async with app.client(server.url, on_message=None) as client:
        peer = await server.accept()
        idle, busy = client.channel("idle"), client.channel("busy")
        for handle in (idle, busy):
            entering = asyncio.create_task(handle.subscribe())
            await peer.subscribed()
            await soon(entering)
        for number in range(20):
            await peer.announce(number, channel="idle")
        await peer.announce(20, channel="busy")
        assert (await soon(anext(busy)))["payload"] == 20
        assert [(await soon(anext(idle)))["payload"] for _ in range(4)] == [16, 17, 18, 19]


@pytest.mark.parametrize("whose", ["handle", "client"])
async def test_a_loop_that_is_left_holds_up_nobody(
    server: ScriptedServer, app: App, monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    monkeypatch.setattr(client_module, "QUEUE", 4)
    async with app.client(server.url, on_message=None) as client:
        peer = await server.accept()
        idle, busy = client.channel("idle"), client.channel("busy")
        for handle in (idle, busy):
            entering = asyncio.create_task(handle.subscribe())
            await peer.subscribed()
            await soon(entering)
        got: list[Any] = []
        busy.on("announce", lambda message: got.append(message["payload"]))
        left = idle if whose == "handle" else client
        await peer.announce(0, channel="idle")

        async def take_one() -> None:
            async for message in left:
                assert message["payload"] == 0
                break

        await soon(take_one())
        for number in range(1, 20):
            await peer.announce(number, channel="idle")
        await peer.announce(20, channel="busy")
        await until(lambda: got == [20], what=f"{got}")
        again = [(await soon(anext(left)))["payload"] for _ in range(4)]
        assert again == ([16, 17, 18, 19] if whose == "handle" else [17, 18, 19, 20])
        await peer.announce(21, channel="idle")
        assert (await soon(anext(left)))["payload"] == 21


async def test_who_left_a_loop_and_listens_has_nothing_kept(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url, on_message=None) as client:
        peer = await server.accept()
        handle = client.channel("news")
        entering = asyncio.create_task(handle.subscribe("1"))
        await peer.subscribed(position="p0")
        await soon(entering)
        handle.on("announce", app.take)
        await peer.announce(1)
        loop = aiter(handle)
        assert (await soon(anext(loop)))["payload"] == 1
        await peer.announce(2)
        await app.has(1, 2)
        await loop.aclose()
        await peer.announce(3)
        await app.has(1, 2, 3)
        assert client.positions == {"news": "p0"}, "1 was not taken for certain"
        reading = asyncio.create_task(anext(handle))
        await until(lambda: client.positions == {"news": "p3"})
        reading.cancel()


# What was left


@pytest.mark.parametrize("leaves", ["channel", "subscription"])
async def test_what_waits_of_a_room_that_was_left_is_not_handed_over(
    server: ScriptedServer, app: App, leaves: str
) -> None:
    app.may_go_on.clear()
    async with app.client(server.url, ack_types=["announce"]) as client:
        peer = await server.accept()
        await subscribed(peer, client, sub_id="1", position="p0")
        await subscribed(peer, client, "other", position="p0")
        for number in range(1, 6):
            await peer.announce(number, subId="1")
        await peer.announce(6, channel="other")
        await all_taken(client, peer)
        leaving = asyncio.create_task(client.unsubscribe(*(("news",) if leaves == "channel" else ("news", "1"))))
        request = await peer.heard()
        await peer.announce(7, subId="1")  # it was on its way
        await peer.announce(8)
        await peer.acknowledge(request, removedConnectionCount=1)
        await soon(leaving)
        app.may_go_on.set()
        await app.has(1, 6)  # 1 was with the callback
        await all_acknowledged(peer, 8)
        await subscribed(peer, client, sub_id="1", position="p8")
        await peer.announce(9, subId="1")
        await app.has(1, 6, 9)


async def all_acknowledged(peer: Peer, count: int) -> None:
    """Check that dropped messages are done with: the server does not send them again."""
    assert {(await peer.heard())["id"] for _ in range(count)} == {f"m{number}" for number in range(1, count + 1)}


async def test_neither_is_what_a_new_socket_holds(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url) as client:
        old = await server.accept()
        await subscribed(old, client, position="p0")
        await subscribed(old, client, "other", position="p0")
        asking = asyncio.create_task(client.announce("news", 0))  # it is awaited before the old socket is left
        owed = await old.heard()
        await rotate(old)
        new = await server.accept()
        for _ in range(2):
            await new.subscribed(recovered=True, position="p0")
        await new.announce(1)
        await new.announce(2, channel="other")
        await until(lambda: any(len(link.held) >= 5 for link in client._links))
        leaving = asyncio.create_task(client.unsubscribe("news"))
        for peer in (new, old):
            await peer.acknowledge(await peer.heard(), removedConnectionCount=1)
        await soon(leaving)
        await old.say(type="ack", ackId=owed["ackId"], id=owed["id"])
        await soon(asking)
        await app.has(2)


async def test_what_is_remembered_of_rooms_that_were_left_is_bounded(
    server: ScriptedServer, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "REMEMBERED", 10)
    async with app.client(server.url) as client:
        peer = await server.accept()
        for number in range(20):
            await subscribed(peer, client, f"room{number}")
            leaving = asyncio.create_task(client.unsubscribe(f"room{number}"))
            await peer.acknowledge(await peer.heard(), removedConnectionCount=1)
            await soon(leaving)
        assert len(client._wishes._left) == 10


async def test_a_handle_announces(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url) as client:
        peer = await server.accept()
        asking = asyncio.create_task(client.channel("news").announce([1], type="goal", sub_id="sport", id="m1"))
        request = await peer.heard()
        assert {**request, "ackId": 0} == {
            "type": "goal", "channel": "news", "subId": "sport", "payload": [1], "id": "m1", "ackId": 0,
        }  # fmt: skip
        await peer.say(type="ack", ackId=request["ackId"], id="m1")
        await soon(asking)


# Positions of several subscriptions


async def test_a_try_goes_on_from_what_was_taken_however_often_it_is_cut(server: ScriptedServer, app: App) -> None:
    """A server that answers the second behind the replay of the first; each socket brings three messages."""
    count, each = 12, 3
    async with app.client(server.url) as client:
        peer = await server.accept()
        await subscribed(peer, client, sub_id="a", position="p0")
        await subscribed(peer, client, sub_id="b", position="p0")
        for _ in range(4 * count // each):
            peer.cut()
            peer = await server.accept()
            first, second = await peer.heard(), await peer.heard()
            begin = int(first["position"][1:])
            await peer.acknowledge(first, recovered=True, position=first["position"])
            brought = range(begin + 1, min(begin + each, count) + 1)
            for number in brought:
                await peer.announce(number)
            if len(brought) < each:
                break
            await all_taken(client, peer)
        else:
            pytest.fail(f"it never got done: {app.messages}")
        await peer.acknowledge(second, recovered=True, position=f"p{count}")
        await app.has(*range(1, count + 1))
        await until(lambda: app.recoveries[-1] == Recovery("news", recovered=True))


def test_a_request_timeout_of_math_inf_is_for_ever() -> None:
    Client("ws://localhost/ws", request_timeout=math.inf)
