"""The rules of the Python client, each against a server that follows a script. Nobody sleeps: waits are noted."""

import asyncio
import random

import pytest

from app import client as client_module
from app.client import Client, ClosedError, Recovery, RequestError, State, comes_back
from tests.clients.application import App, all_taken, rotate, subscribed
from tests.support.deadline import soon, until
from tests.support.scripted_server import Peer, ScriptedServer

# Coming back


@pytest.mark.parametrize(
    "code", [1000, 1001, 1005, 1006, 1011, 1012, 1013, 1014, 3000, 3001, 3005, 3008, 3011, 3012, 3499, 4000]
)
def test_these_close_codes_ask_a_client_back(code: int) -> None:
    assert comes_back(code)


@pytest.mark.parametrize("code", [1002, 1003, 1007, 1008, 1009, 1010, 3500, 3501, 3503, 3507, 3999])
def test_these_do_not(code: int) -> None:
    assert not comes_back(code)


@pytest.mark.parametrize("code", [1001, 1011, 1012, 1013, 3001, 3005, 3008, 3012])
async def test_it_opens_a_new_socket_and_subscribes_from_where_it_was(
    server: ScriptedServer, app: App, code: int
) -> None:
    async with app.client(server.url) as client:
        peer = await server.accept()
        await subscribed(peer, client, position="p0")
        await subscribed(peer, client, "quiet", position="p7")
        await peer.announce(1)
        await app.has(1)
        await peer.close(code)
        peer = await server.accept()
        asked = [await peer.subscribed(recovered=True, position="p1") for _ in range(2)]
        assert {(request["channel"], request["position"]) for request in asked} == {("news", "p1"), ("quiet", "p7")}
        await peer.announce(2)
        await app.has(1, 2)


async def test_a_connection_that_is_cut_is_opened_anew(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url):
        (await server.accept()).cut()
        await server.accept()


@pytest.mark.parametrize("code", [1003, 1008, 1009, 3500, 3501, 3503, 3507])
async def test_it_stays_away_and_says_why(server: ScriptedServer, app: App, code: int) -> None:
    async with app.client(server.url, on_message=None) as client:
        peer = await server.accept()
        await peer.announce(1)
        await peer.close(code)
        assert (await anext(client))["payload"] == 1
        with pytest.raises(ClosedError) as end:
            await anext(client)
        assert end.value.code == code
        assert app.states[-1] is State.CLOSED
        with pytest.raises(ClosedError):
            await client.get_info()
    assert server.nobody_came()


async def test_what_the_disconnect_message_says_counts_more_than_the_code(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url) as client:
        peer = await server.accept()
        await peer.say(type="disconnect", code=3503, reason="logged out", reconnect=False)
        peer.cut()  # a proxy swallowed the close frame
        await until(lambda: client.state is State.CLOSED)
    assert server.nobody_came()


async def test_waits_double_up_to_a_bound_and_begin_anew_after_a_socket_that_lasted(
    server: ScriptedServer, app: App
) -> None:
    async with app.client(server.url):
        for _ in range(7):
            (await server.accept()).cut()
        peer = await server.accept()
        assert app.waits == [1, 2, 4, 8, 16, 30, 30]
        await until(lambda: app.states[-1] is State.OPEN)
        app.now += 10
        peer.cut()
        await server.accept()
        assert app.waits[7:] == [1]


async def test_waits_are_drawn_from_zero_up() -> None:
    client = Client("ws://localhost/ws", chance=random.Random(1))
    drawn = [client._jitter(3) for _ in range(1000)]
    assert min(drawn) < 0.5
    assert 7.5 < max(drawn) <= 8


@pytest.mark.parametrize("shown", [3001, 1012, 1002, None])
async def test_it_stays_away_as_long_as_the_disconnect_message_wants(
    server: ScriptedServer, app: App, shown: int | None
) -> None:
    """Whatever the socket shows behind it; None: its close frame is lost."""
    async with app.client(server.url):
        peer = await server.accept()
        await peer.say(type="disconnect", code=3001, reason="shutdown", reconnect=True, retryAfterMs=700)
        if shown is None:
            peer.cut()
        else:
            await peer.close(shown)
        await server.accept()
        assert app.waits == [0.7 + 1]


async def test_a_503_is_waited_out_as_long_as_it_says(server: ScriptedServer, app: App) -> None:
    server.refusals = [(503, {"Retry-After": "5"}), (429, {}), (500, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})]
    async with app.client(server.url):
        await server.accept()
    assert app.waits == [5 + 1, 2, 4]
    assert app.states[:4] == [State.CONNECTING, State.WAITING, State.CONNECTING, State.WAITING]


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_refusal_for_good_is_told_at_once(server: ScriptedServer, app: App, status: int) -> None:
    server.refusals = [(status, {})]
    with pytest.raises(ClosedError) as refused:
        async with app.client(server.url):
            pass
    assert refused.value.code == status
    assert app.waits == []


async def test_a_server_that_is_not_there_yet_is_tried_again(server: ScriptedServer) -> None:
    nobody = App()
    tried = asyncio.Event()

    async def sleep(seconds: float) -> None:
        tried.set()
        await asyncio.Event().wait()

    opening = asyncio.create_task(nobody.client("ws://127.0.0.1:9/ws", sleep=sleep).__aenter__())
    await soon(tried.wait())
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert nobody.states == [State.CONNECTING, State.WAITING, State.CLOSED]


def test_what_is_no_address_is_told_at_once() -> None:
    with pytest.raises(ValueError, match="not the URL"):
        Client("http://localhost/ws")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("ws://a..b/ws", "1 to 63 characters"),
        (f"ws://{'a' * 64}.example/ws", "1 to 63 characters"),
        ("ws://a b/ws", "space"),
        ("ws://a:99999/ws", "65535"),
        ("ws://a:0/ws", "65535"),
        ("ws://[::1/ws", "IPv6"),
        ("ws://a/ws#b", "#"),
        ("ws://user@a/ws", "password"),
        ("/ws", "ws://"),
    ],
)
def test_neither_is_one_that_no_socket_can_be_opened_to(url: str, told: str) -> None:
    with pytest.raises(ValueError, match="not the URL of a WebSocket") as error:
        Client(url)
    assert told in str(error.value)


@pytest.mark.parametrize(
    "url", ["ws://a/", "wss://a.b./ws?c=d", "ws://[::1]:80/ws", f"ws://{'a' * 63}.b/ws", "ws://bücher.example/ws"]
)
def test_others_are_addresses(url: str) -> None:
    Client(url)


async def test_it_closes_in_order_and_leaves_no_task_behind(server: ScriptedServer, app: App) -> None:
    before = asyncio.all_tasks()
    async with app.client(server.url) as client:
        peer = await server.accept()
        asking = asyncio.create_task(client.announce("news"))
        await peer.heard()
    assert await peer.ended() == 1000
    with pytest.raises(ClosedError):
        await asking
    await client.close()
    left = {task for task in asyncio.all_tasks() - before if "app/client.py" in str(task.get_coro())}
    assert not left


# Positions


async def test_the_inbox_goes_on_from_the_welcome_and_from_what_came_without_a_channel(
    server: ScriptedServer, app: App
) -> None:
    server.welcomes = [{"position": "w1", "recovered": False}, {"position": "w3", "recovered": True}]
    async with app.client(f"{server.url}?token=a%20b", position="kept") as client:
        peer = await server.accept()
        assert peer.query == {"token": ["a b"], "position": ["kept"]}
        await until(lambda: client.inbox_position == "w1")
        await peer.announce(2, channel=None)
        await app.has(2)
        peer.cut()
        peer = await server.accept()
        assert peer.query["position"] == ["p2"]
        assert app.recoveries[0] == Recovery(None, recovered=False)


async def test_a_welcomes_position_does_not_jump_over_the_replay_behind_it(server: ScriptedServer, app: App) -> None:
    server.welcomes = [{"position": "w1"}, {"position": "w9", "recovered": True}]
    async with app.client(server.url):
        (await server.accept()).cut()
        peer = await server.accept()  # and then it dies
        peer.cut()
        peer = await server.accept()
        assert peer.query["position"] == ["w1"]
        await until(lambda: app.recoveries == [Recovery(None, recovered=True)] * 2)
        app.now += 60
        peer.cut()
        peer = await server.accept()
        assert peer.query["position"] == ["w9"]


async def test_the_position_is_that_of_what_the_application_took(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url, on_message=None) as client:
        peer = await server.accept()
        await subscribed(peer, client, position="p0")
        for number in (1, 2, 3):
            await peer.announce(number)
        assert (await anext(client))["payload"] == 1
        assert client.positions == {"news": "p0"}
        assert (await anext(client))["payload"] == 2
        assert client.positions == {"news": "p1"}
        await peer.close(1012)
        peer = await server.accept()
        assert (await peer.heard())["position"] == "p1"


async def test_a_position_goes_on_over_what_is_replayed_and_known(server: ScriptedServer, app: App) -> None:
    """The answer bears where the replay begins, and what is replayed where it ends, had it come before or not."""
    async with app.client(server.url, on_message=None) as client:
        peer = await server.accept()
        await subscribed(peer, client, position="p0")
        await peer.announce(1)
        await all_taken(client, peer)
        peer.cut()
        peer = await server.accept()
        assert (await peer.subscribed(position="p0", recovered=True))["position"] == "p0"
        await peer.announce(1)  # it waits for the application
        await all_taken(client, peer)
        assert client.positions == {"news": "p0"}
        assert (await anext(client))["payload"] == 1
        await peer.announce(2)
        assert (await anext(client))["payload"] == 2
        assert client.positions == {"news": "p1"}
        peer.cut()
        peer = await server.accept()
        assert (await peer.subscribed(position="p1", recovered=True))["position"] == "p1"
        await peer.announce(2)
        await all_taken(client, peer)
        assert client.positions == {"news": "p1"}, "2 is with the application"
        peer.cut()
        assert (await (await server.accept()).subscribed(recovered=True))["position"] == "p1"


async def test_a_client_of_an_earlier_process_goes_on(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url) as client:
        peer = await server.accept()
        asking = asyncio.create_task(client.subscribe("news", "1", position="p5"))
        request = await peer.heard()
        assert request["position"] == "p5"
        await peer.announce(6)
        assert client.positions == {"news": "p5"}
        await peer.acknowledge(request, position="p8", recovered=True)
        await asking
        await app.has(6)
        await until(lambda: client.positions == {"news": "p8"})
        assert app.recoveries == [Recovery("news", recovered=True)]


async def test_each_subscription_of_a_channel_goes_on_from_where_it_was_answered(
    server: ScriptedServer, app: App
) -> None:
    async with app.client(server.url) as client:
        peer = await server.accept()
        await subscribed(peer, client, sub_id="a")
        await subscribed(peer, client, sub_id="b", position="p1")
        peer.cut()
        peer = await server.accept()
        requests = [await peer.heard(), await peer.heard()]
        assert [request["position"] for request in requests] == ["p1", "p1"]
        await peer.announce(9)
        await peer.acknowledge(requests[0], position="p9", recovered=True)
        await app.has(9)
        peer.cut()  # what the second was to replay, perhaps older than 9, has not come
        peer = await server.accept()
        asked = [await peer.subscribed(recovered=True) for _ in range(2)]
        assert [(request["subId"], request["position"]) for request in asked] == [("b", "p1"), ("a", "p9")]
        await until(lambda: app.recoveries[-1] == Recovery("news", recovered=True))
        assert sum(recovery.channel == "news" for recovery in app.recoveries) == 1


async def test_a_subscription_of_a_channel_goes_on_from_its_own_start(server: ScriptedServer, app: App) -> None:
    """The application is behind on the channel, by more than the second subscription is old."""
    app.may_go_on.clear()
    async with app.client(server.url) as client:
        peer = await server.accept()
        await subscribed(peer, client, sub_id="a", position="p0")
        await peer.announce(1, subId="a")
        await subscribed(peer, client, sub_id="b", position="p2")
        await peer.announce(3, subId="b")
        await all_taken(client, peer)
        assert client.positions == {"news": "p0"}
        for _ in range(2):  # it keeps that however often it is asked for
            peer.cut()
            peer = await server.accept()
            requests = [await peer.heard(), await peer.heard()]
            assert [(request["subId"], request["position"]) for request in requests] == [("a", "p0"), ("b", "p2")]
        for request in requests:
            await peer.acknowledge(request, position="p4", recovered=True)
        app.may_go_on.set()
        await app.has(1, 3)
        await until(lambda: client.positions == {"news": "p4"})
        peer.cut()
        peer = await server.accept()
        assert [(await peer.subscribed(recovered=True))["position"] for _ in range(2)] == ["p4", "p4"]


@pytest.mark.parametrize("answer", [{"recovered": False}, {}])
async def test_a_gap_is_told_in_its_place_among_the_messages(
    server: ScriptedServer, app: App, answer: dict[str, bool]
) -> None:
    server.welcomes = [{}, {"recovered": True}]
    order: list[object] = []
    async with app.client(server.url, on_message=lambda m: order.append(m["payload"]), on_recovery=order.append) as c:
        peer = await server.accept()
        await subscribed(peer, c, position="p0")
        await peer.announce(1)
        await until(lambda: order == [1])
        peer.cut()
        peer = await server.accept()
        await peer.subscribed(position="p5", **answer)
        await peer.announce(6)
        gap = Recovery("news", recovered=False)
        await until(lambda: order == [1, Recovery(None, recovered=True), gap, 6])
        assert c.positions == {"news": "p6"}


# Once


async def test_a_gap_is_told_though_who_waits_for_a_message_gives_up(server: ScriptedServer, app: App) -> None:
    server.welcomes = [{}, {"recovered": True}]
    told: list[Recovery] = []
    begun, may_go_on = asyncio.Event(), asyncio.Event()

    async def tell(recovery: Recovery) -> None:
        begun.set()
        await may_go_on.wait()
        told.append(recovery)

    async with app.client(server.url, on_message=None, on_recovery=tell) as client:
        peer = await server.accept()
        await subscribed(peer, client, position="p0")
        peer.cut()
        peer = await server.accept()
        await peer.subscribed(position="p5", recovered=False)
        await peer.announce(6)
        waiting = asyncio.create_task(anext(client))
        await soon(begun.wait())
        waiting.cancel()
        await asyncio.wait({waiting})
        waiting = asyncio.create_task(anext(client))
        await all_taken(client, peer)
        assert (told, waiting.done()) == ([], False)
        may_go_on.set()
        assert (await soon(waiting))["payload"] == 6
        assert told == [Recovery(None, recovered=True), Recovery("news", recovered=False)]


async def test_a_gap_that_is_told_when_the_client_is_closed_is_told_to_its_end(
    server: ScriptedServer, app: App
) -> None:
    server.welcomes = [{"recovered": True}]
    told: list[Recovery] = []
    closing: list[asyncio.Task[None]] = []
    is_open = asyncio.Event()

    async def tell(recovery: Recovery) -> None:
        await is_open.wait()
        closing.append(asyncio.create_task(client.close()))
        await until(lambda: client.state is State.CLOSED)
        told.append(recovery)

    client = app.client(server.url, position="w0", on_recovery=tell)
    async with client:
        await server.accept()
        is_open.set()
        await until(lambda: bool(closing))
        await soon(closing[0])
    assert told == [Recovery(None, recovered=True)]


async def test_repeats_are_dropped(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url) as client:
        peer = await server.accept()
        await subscribed(peer, client)
        for number in (1, 2, 1, 2, 3):
            await peer.announce(number)
        await peer.announce(4, id="m1")  # another sender's message with the same id
        await peer.announce(5, pubsubId="1", sentDateTime="later")  # of an emulator that was started anew
        await app.has(1, 2, 3, 4, 5)


async def test_without_a_pubsub_id_repeats_are_known_by_their_id(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url) as client:
        peer = await server.accept()
        await subscribed(peer, client)
        for number in (1, 1, 2):
            await peer.say(type="announce", channel="news", payload=number, id=f"m{number}", sentDateTime="t")
        await peer.say(type="announce", channel="news", payload=3, id="m1", sentDateTime="later: another's")
        await peer.say(type="announce", channel="news", payload=4)
        await peer.say(type="announce", channel="news", payload=4)
        await app.has(1, 2, 3, 4, 4)


async def test_one_id_to_two_addresses_is_two_messages(server: ScriptedServer, app: App) -> None:
    """An id counts within its sender, type and address: here too, and for what the client has announced itself."""
    async with app.client(server.url) as client:
        peer = await server.accept()
        await subscribed(peer, client)
        await subscribed(peer, client, "other")
        asking = asyncio.create_task(client.announce("elsewhere", "mine", id="m1"))
        request = await peer.heard()
        await peer.acknowledge({"ackId": request["ackId"]}, id="m1")
        await asking
        same = {"id": "m1", "sentDateTime": "t"}
        await peer.say(type="announce", channel="news", payload=1, **same)
        await peer.say(type="announce", channel="other", payload=2, **same)
        await peer.say(type="announce", channel="news", subId="today", payload=3, **same)
        await peer.say(type="todo", channel="news", payload=4, **same)
        await peer.say(type="announce", channel="elsewhere", payload="mine", **same)
        await peer.say(type="announce", channel="news", payload=5)
        await app.has(1, 2, 3, 4, 5)


async def test_what_it_remembers_is_bounded(server: ScriptedServer, app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "REMEMBERED", 2)
    async with app.client(server.url) as client:
        peer = await server.accept()
        await subscribed(peer, client)
        for number in (1, 2, 3, 1):
            await peer.announce(number)
        await app.has(1, 2, 3, 1)
        assert len(client._seen._deliveries) == 2


async def test_its_own_announce_does_not_come_back_on_a_new_socket(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url) as client:
        peer = await server.accept()
        await subscribed(peer, client, position="p0")
        asking = asyncio.create_task(client.announce("news", "mine", id="m1"))
        request = await peer.heard()
        await peer.acknowledge({"ackId": request["ackId"]}, id="m1", pubsubId="1001")
        assert (await asking)["pubsubId"] == "1001"
        peer.cut()
        peer = await server.accept()
        request = await peer.heard()
        await peer.announce(1)
        await peer.acknowledge(request, recovered=True)
        await peer.announce(2)
        await app.has(2)


# Acknowledgements


async def test_what_was_taken_is_acknowledged(server: ScriptedServer, app: App) -> None:
    app.may_go_on.clear()
    async with app.client(server.url, ack_types=["announce"]) as client:
        peer = await server.accept()
        await subscribed(peer, client)
        await peer.announce(1)
        await all_taken(client, peer)  # received, and nothing acknowledged before the answer to this
        app.may_go_on.set()
        assert await peer.heard() == {"type": "ack", "id": "m1"}
        await peer.announce(1, isRetry=True)  # it crossed the acknowledgement
        assert await peer.heard() == {"type": "ack", "id": "m1"}
        await app.has(1)


async def test_a_retry_is_acknowledged_whatever_its_type(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url) as client:
        peer = await server.accept()
        await subscribed(peer, client)
        await peer.announce(1, isRetry=True)
        assert await peer.heard() == {"type": "ack", "id": "m1"}


async def test_what_the_application_refused_holds_the_position_and_is_handed_over_again(
    server: ScriptedServer, app: App
) -> None:
    app.fails_on = {2}
    async with app.client(server.url, ack_types=["announce"]) as client:
        peer = await server.accept()
        await subscribed(peer, client, position="p0")
        for number in (1, 2, 3):
            await peer.announce(number)
        assert [(await peer.heard())["id"] for _ in range(2)] == ["m1", "m3"]
        assert client.positions == {"news": "p1"}
        app.fails_on = set()
        peer.cut()
        peer = await server.accept()
        request = await peer.heard()
        assert request["position"] == "p1"
        await peer.announce(2)
        await peer.announce(3)
        await peer.acknowledge(request, recovered=True, position="p3")
        assert {(await peer.heard())["id"] for _ in range(2)} == {"m2", "m3"}
        await app.has(1, 2, 3, 2)
        await until(lambda: client.positions == {"news": "p3"})


# Make before break


async def test_a_rotation_loses_and_doubles_nothing_and_keeps_the_order(server: ScriptedServer, app: App) -> None:
    server.welcomes = [{}, {"recovered": True}]
    async with app.client(server.url) as client:
        old = await server.accept()
        await subscribed(old, client, position="p0")
        await old.announce(1)
        await app.has(1)
        await rotate(old)
        new = await server.accept()
        request = await new.heard()
        assert request["position"] == "p1"
        await new.announce(2)
        await new.announce(3)
        await new.announce(4)
        await old.announce(2)  # the old instance is behind
        await app.has(1, 2)
        await old.announce(3)
        await app.has(1, 2, 3)
        await new.acknowledge(request, recovered=True)
        assert await old.ended() == 1000
        await new.announce(5)
        await app.has(1, 2, 3, 4, 5)
        assert State.WAITING not in app.states[1:]
        assert app.recoveries == [Recovery(None, recovered=True), Recovery("news", recovered=True)]


async def test_while_a_socket_is_replaced_requests_go_through(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url) as client:
        old = await server.accept()
        await subscribed(old, client)
        await rotate(old)
        new = await server.accept()
        subscribe = await new.heard()
        publishing = asyncio.create_task(client.publish("news", payload=1))
        request = await old.heard()  # the new one is not ready
        await new.acknowledge(subscribe)
        await until(lambda: client._link is not None and client._link.resumed)
        await old.acknowledge({"ackId": request["ackId"]}, id="m1")  # and it is waited for before the old one goes
        assert (await publishing)["id"] == "m1"
        assert await old.ended() == 1000


async def test_an_old_socket_that_is_cut_while_it_is_replaced_is_no_harm(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url) as client:
        old = await server.accept()
        await subscribed(old, client, position="p0")
        await rotate(old)
        new = await server.accept()
        request = await new.heard()
        old.cut()
        await new.announce(1)
        await new.acknowledge(request, recovered=True)
        await new.announce(2)
        await app.has(1, 2)


async def test_a_new_socket_that_is_cut_before_it_is_ready_is_tried_again(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url) as client:
        old = await server.accept()
        await subscribed(old, client, position="p0")
        await rotate(old)
        new = await server.accept()
        await new.announce(1)
        new.cut()
        new = await server.accept()
        request = await new.heard()
        assert request["position"] == "p0"
        await new.announce(1)
        await new.acknowledge(request, recovered=True)
        await app.has(1)


async def test_more_than_can_be_held_lets_the_old_socket_go(
    server: ScriptedServer, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "QUEUE", 4)
    async with app.client(server.url) as client:
        old = await server.accept()
        await subscribed(old, client, position="p0")
        await rotate(old)
        new = await server.accept()
        request = await new.heard()
        for number in range(1, 10):
            await new.announce(number)
        await new.acknowledge(request, recovered=True)
        assert await old.ended() == 1000
        await app.has(*range(1, 10))


# Bounds


async def test_a_slow_application_slows_the_socket_down_and_loses_nothing(
    server: ScriptedServer, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "QUEUE", 4)
    app.may_go_on.clear()
    async with app.client(server.url, max_queue=1) as client:
        peer = await server.accept()
        await subscribed(peer, client)
        sending = asyncio.create_task(_send_many(peer, 400))
        await until(lambda: len(client._inbox._items) == 4)
        assert not sending.done()
        app.may_go_on.set()
        await soon(sending)
        await app.has(*range(400))


async def _send_many(peer: Peer, count: int) -> None:
    for number in range(count):
        await peer.announce(number, filler="x" * 50_000)


async def test_an_answer_gets_through_to_an_application_that_waits_for_it(
    server: ScriptedServer, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "QUEUE", 4)
    async with app.client(server.url, on_message=None) as client:
        peer = await server.accept()
        for number in range(8):
            await peer.announce(number)
        await until(lambda: len(client._inbox._items) == 4)
        await all_taken(client, peer)  # while this application takes nothing
        assert [(await anext(client))["payload"] for _ in range(8)] == list(range(8))


# Asking


async def test_an_error_is_raised_with_what_it_says(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url) as client:
        peer = await server.accept()
        asking = asyncio.create_task(client.subscribe("news", "1"))
        request = await peer.heard()
        error = {"code": "permission_denied", "value": "not for you", "temporary": False}
        await peer.say(type="error", ackId=request["ackId"], **error)
        with pytest.raises(RequestError, match="permission_denied: not for you") as refused:
            await asking
        assert (refused.value.code, refused.value.value, refused.value.temporary) == tuple(error.values())
        peer.cut()
        peer = await server.accept()
        await all_taken(client, peer)  # which is the first that it says: it does not subscribe again


async def test_a_temporary_error_is_tried_again_with_the_same_id(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url) as client:
        peer = await server.accept()
        asking = asyncio.create_task(client.publish("notification", user_tag="ann", payload=[1], attempts=3))
        first = await peer.heard()
        error = {"type": "error", "code": "unavailable", "value": "later", "temporary": True}
        await peer.say(ackId=first["ackId"], **error)
        second = await peer.heard()
        assert {**first, "ackId": 0} == {**second, "ackId": 0}
        assert second["ackId"] != first["ackId"]
        peer.cut()
        peer = await server.accept()
        third = await peer.heard()
        assert third["id"] == first["id"]
        await peer.say(ackId=third["ackId"], **error)
        with pytest.raises(RequestError, match="unavailable"):
            await asking


async def test_a_subscribe_outlives_the_socket_that_it_was_sent_on(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url) as client:
        peer = await server.accept()
        asking = asyncio.create_task(client.subscribe("news", "1"))
        await peer.heard()
        peer.cut()
        peer = await server.accept()
        await peer.subscribed(numConnections=1)
        assert (await asking)["numConnections"] == 1
        await all_taken(client, peer)  # it asked once


async def test_no_answer_is_an_error_too(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url, request_timeout=0.01) as client:
        await server.accept()
        with pytest.raises(RequestError) as late:
            await client.get_info()
        assert (late.value.code, late.value.temporary) == ("timeout", True)


async def test_a_ping_is_none_of_the_applications(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url) as client:
        peer = await server.accept()
        await subscribed(peer, client)
        await peer.say(type="ping", id="p1", sentDateTime="2026-01-01T00:00:00.000Z", payload=0)
        await peer.announce(1)
        await all_taken(client, peer)
        await app.has(1)


async def test_a_subscription_that_is_refused_after_a_reconnect_is_told_of(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url) as client:
        peer = await server.accept()
        await subscribed(peer, client)
        peer.cut()
        peer = await server.accept()
        request = await peer.heard()
        await peer.say(type="error", ackId=request["ackId"], code="permission_denied", value="no", temporary=False)
        await until(lambda: [error.request["channel"] for error in app.errors] == ["news"])
        await all_taken(client, peer)


async def test_unsubscribed_is_not_subscribed_again(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url) as client:
        peer = await server.accept()
        await subscribed(peer, client, "a")
        await subscribed(peer, client, "b")
        asking = asyncio.create_task(client.unsubscribe("a"))
        request = await peer.heard()
        await peer.acknowledge(request, removedConnectionCount=1)
        assert (await asking)["removedConnectionCount"] == 1
        peer.cut()
        peer = await server.accept()
        assert (await peer.subscribed())["channel"] == "b"
        await all_taken(client, peer)


async def test_a_frame_that_is_no_message_is_left_out(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url):
        peer = await server.accept()
        for text in ("{", "[]", "1", "null", "[" * 100_000):
            await peer.socket.send(text)
        await peer.announce(1)
        await app.has(1)


async def test_a_callback_that_fails_does_not_end_the_client(server: ScriptedServer, app: App) -> None:
    app.fails_on = {1}
    async with app.client(server.url):
        peer = await server.accept()
        await peer.announce(1)
        await peer.announce(2)
        await app.has(1, 2)


async def test_an_end_by_cancelling_its_tasks_again_and_again_fails_nothing(server: ScriptedServer, app: App) -> None:
    before = asyncio.all_tasks()
    client = app.client(server.url)
    opening = asyncio.create_task(client.__aenter__())
    await server.accept()
    await soon(opening)
    tasks = {task for task in asyncio.all_tasks() - before if "Client." in repr(task)}
    for _ in range(3):  # as asyncio.run does, and a task group then once more
        for task in tasks:
            task.cancel()
        await asyncio.sleep(0)
    await soon(asyncio.wait(tasks))
    assert [task.exception() for task in tasks if not task.cancelled()] == []
