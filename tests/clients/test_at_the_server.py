"""The Python client at the real service: what the one promises is what the other needs."""

import asyncio
import random
from typing import Any

import pytest

from app import client as client_module
from app.client import Client, ClosedError, Recovery, RequestError, State
from tests.support.deadline import soon, until
from tests.support.process import Server
from tests.support.slow_replay import slow_replay

HANDLERS = {"CLOUD_SOCKETS_CUSTOM_MSG_HANDLERS": "tests.support.handlers:HANDLERS"}


class Notes:
    """What a client tells its application."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.told: list[Any] = []

    def client(self, server: Server, **options: Any) -> Client:
        return Client(
            server.url,
            **{
                "on_message": lambda message: self.messages.append(message["payload"]),
                "on_recovery": self.told.append,
                "on_state": self.told.append,
                "first_wait": 0.05,
                **options,
            },
        )

    def recovery_of(self, channel: str | None) -> list[bool]:
        return [told.recovered for told in self.told if isinstance(told, Recovery) and told.channel == channel]

    async def has(self, *messages: Any) -> None:
        await until(lambda: len(self.messages) >= len(messages), what=f"only {self.messages} came")
        assert self.messages == list(messages)


async def test_messages_reach_subscribers_and_every_request_is_answered() -> None:
    async with Server() as server, Client(server.url) as ann, Client(server.url) as bob:
        assert (await ann.subscribe("news", "today"))["numConnections"] == 1
        published = await bob.announce("news", {"n": 1}, sub_id="today")
        message = await soon(anext(ann))
        assert (message["type"], message["payload"], message["id"]) == ("announce", {"n": 1}, published["id"])
        assert (await bob.get_info())["channelInfo"]["totalChannels"] == 1
        detail = await bob.get_info(detail=True, channel="news")
        assert list(detail["channelInfo"]["channels"]) == ["news"]
        assert (await ann.unsubscribe("news"))["removedConnectionCount"] == 1
        await bob.publish("broadcast", payload="all")
        assert (await soon(anext(ann)))["payload"] == "all"
        with pytest.raises(RequestError) as refused:
            await bob.publish("nonsense")
        assert (refused.value.code, refused.value.temporary) == ("unsupported_type", False)
        with pytest.raises(RequestError, match="user_offline"):
            await bob.publish("notification", user_tag="nobody")


async def test_what_is_taken_is_acknowledged_and_comes_once() -> None:
    acked = {"CLOUD_SOCKETS_ACK_MESSAGE_TYPES": "announce", "CLOUD_SOCKETS_MSG_RESEND_DELAY": "50"}
    notes = Notes()
    failed = asyncio.Event()

    async def take(message: dict[str, Any]) -> None:
        notes.messages.append(message["payload"])
        if message["payload"] == 2 and not failed.is_set():
            failed.set()
            raise ValueError("not now")

    async with Server(**acked) as server, Client(server.url) as bob:
        async with notes.client(server, on_message=take, ack_types=["announce"]) as ann:
            await ann.subscribe("news", "1")
            for number in (1, 2, 3):
                await bob.announce("news", number)

            async def nothing_pending() -> bool:
                return bool((await bob.get_info())["messageInfo"]["totalAwaitingMsgs"] == 0)

            await until(lambda: notes.messages.count(2) == 2)
            await until(nothing_pending)
            assert sorted(notes.messages) == [1, 2, 2, 3]


async def test_a_service_that_restarts_has_its_clients_back_and_they_know_of_the_gap() -> None:
    notes = Notes()
    async with Server() as first, notes.client(first) as ann:
        await ann.subscribe("news", "1")
        first.terminate()
        assert await first.wait() == 0
        await first.start()
        await until(lambda: notes.recovery_of("news") == [False])  # another process, embedded: nothing is proven
        async with Client(first.url) as bob:
            await bob.announce("news", "after")
        await notes.has("after")
        assert State.WAITING in notes.told


NOTHING_KEPT = {"CLOUD_SOCKETS_PUBSUB_MESSAGE_TYPES": ""}


@pytest.mark.parametrize(("variables", "came"), [({}, (1, 2, 3)), (NOTHING_KEPT, (1, 3))])
async def test_a_client_that_was_cut_off_goes_on_or_knows_of_the_gap(
    variables: dict[str, str], came: tuple[int, ...]
) -> None:
    notes = Notes()
    may_go_on = asyncio.Event()

    async def sleep(_: float) -> None:
        await may_go_on.wait()

    async with (
        Server(**variables) as server,
        notes.client(server, sleep=sleep) as ann,
        Client(server.url) as bob,
    ):
        await ann.subscribe("news", "1")
        await bob.announce("news", 1)
        await notes.has(1)
        next(iter(ann._links)).socket.transport.abort()
        await until(lambda: ann.state is State.WAITING)
        await bob.announce("news", 2)
        may_go_on.set()
        await until(lambda: notes.recovery_of("news") == [not variables])
        await bob.announce("news", 3)
        await notes.has(*came)


async def test_a_user_who_is_logged_out_stays_out() -> None:
    session = {
        "CLOUD_SOCKETS_AUTH": "session",
        "SECRET_KEY": "secret",
        "CLOUD_SOCKETS_SESSION_PARSER": "tests.support.sessions:from_header_async",
    }
    async with Server(**session, **HANDLERS) as server:
        with pytest.raises(ClosedError) as unknown:
            async with Client(server.url):
                pass
        assert unknown.value.code == 401
        async with Client(server.url, additional_headers={"X-User": "ann"}) as ann:
            assert ann.welcome["message"].startswith("Welcome ann")
            async with Client(server.url, additional_headers={"X-User": "bob"}) as bob:
                await bob.publish("callLogout", payload="ann")
                with pytest.raises(ClosedError) as out:
                    await soon(anext(ann))
                assert out.value.code == 3503


async def test_a_slow_consumer_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "QUEUE", 4)
    notes = Notes()
    may_go_on = asyncio.Event()

    async def take(message: dict[str, Any]) -> None:
        await may_go_on.wait()
        notes.messages.append(message["payload"])

    async with Server(CLOUD_SOCKETS_MAX_BUFFERED="100000") as server, Client(server.url) as bob:
        async with notes.client(server, on_message=take, max_queue=1, compression=None) as ann:
            await ann.subscribe("news", "1")

            async def told_until_gone() -> bool:
                await bob.announce("news", "x" * 50_000)
                return await server.metric('connections_closed_total{code="3008"}') == 1

            await until(told_until_gone)
            may_go_on.set()
            await until(lambda: len(notes.recovery_of("news")) == 1)
            await bob.announce("news", "caught up")
            await until(lambda: notes.messages[-1:] == ["caught up"])


async def test_a_service_that_is_full_is_waited_for() -> None:
    notes = Notes()
    async with Server(CLOUD_SOCKETS_MAX_CONNECTIONS="1") as server:
        waited = asyncio.Event()
        may_go_on = asyncio.Event()
        waits: list[float] = []

        async def sleep(seconds: float) -> None:
            waits.append(seconds)
            waited.set()
            await may_go_on.wait()

        async with Client(server.url):
            opening = asyncio.create_task(notes.client(server, sleep=sleep).__aenter__())
            await soon(waited.wait())
            assert waits[0] >= 1  # Retry-After
        may_go_on.set()
        await (await soon(opening)).close()


async def test_a_slow_link_gets_done_and_everything_is_answered_meanwhile() -> None:
    """Two subscriptions of a channel, 900 messages of 8 kB missed, 200 kB/s: 36 s for what was missed."""
    loop = asyncio.get_running_loop()
    async with slow_replay("news") as bench:
        notes = Notes()
        async with Client(
            bench.url,
            on_message=lambda message: notes.messages.append(message["payload"]["n"]),
            on_recovery=notes.told.append,
            on_state=notes.told.append,
            max_queue=1,
        ) as ann:
            began = loop.time()
            position = bench.positions["news"]
            await asyncio.gather(*(ann.subscribe("news", sub_id, position=position) for sub_id in ("1", "2")))
            await ann.announce("elsewhere", 1)
            assert loop.time() - began < 5
            assert len(notes.messages) < 900
            await until(lambda: len(notes.messages) >= 900, 120, f"{len(notes.messages)} of 900 came")
            await ann.get_info()
        assert notes.messages == list(range(900))
        assert notes.told == [State.CONNECTING, State.OPEN, Recovery("news", recovered=True), State.CLOSED]


@pytest.mark.parametrize(
    ("count", "may_wait", "history"), [(6000, client_module.QUEUE_WITH_REQUESTS, "1000"), (3000, 1000, "10000")]
)
async def test_a_handler_that_awaits_a_request_for_each_message_of_a_burst(
    monkeypatch: pytest.MonkeyPatch, count: int, may_wait: int, history: str
) -> None:
    """More than the service keeps of a channel; and more than may wait, which the service still has."""
    monkeypatch.setattr(client_module, "QUEUE_WITH_REQUESTS", may_wait)
    notes = Notes()

    async def take(message: dict[str, Any]) -> None:
        notes.messages.append(message["payload"])
        await ann.announce("seen", message["payload"])

    large = {"CLOUD_SOCKETS_HISTORY_SIZE": history, "CLOUD_SOCKETS_MESSAGE_RATE": "0"}
    async with Server(**large) as server, Client(server.url) as bob:
        async with notes.client(server, on_message=take) as ann:
            await ann.subscribe("news", "1")
            await asyncio.gather(*(bob.announce("news", number) for number in range(count)))
            await until(lambda: len(notes.messages) >= count, 60, f"{len(notes.messages)} of {count} came")
            assert notes.messages == list(range(count))
            assert notes.recovery_of("news") == []
            assert await server.metric("connections_opened_total") == 2


async def test_a_page_without_a_session_is_told_and_stays_away() -> None:
    session = {
        "CLOUD_SOCKETS_AUTH": "session",
        "SECRET_KEY": "secret",
        "CLOUD_SOCKETS_SESSION_PARSER": "tests.support.sessions:from_header_async",
    }
    async with Server(**session) as server:
        told: list[Any] = []
        client = Client(
            server.url,
            origin=f"http://127.0.0.1:{server.port}",
            on_refused=lambda refused: told.append(refused.error),
            on_state=told.append,
        )
        await asyncio.gather(asyncio.wait_for(client.connect(), 1), return_exceptions=True)
        await until(lambda: client.state is State.CLOSED, 1)
        error: Any = next(each for each in told if isinstance(each, Exception))
        assert error.code == 3500
        assert told[-2:] == [error, State.CLOSED]


@pytest.mark.parametrize("ends", ["rotation", "cuts", "both"])
async def test_rooms_that_are_entered_and_left_while_sockets_end_are_right(ends: str) -> None:
    """After each answer the room is what was asked for last; nothing is lost, doubled or out of order."""
    loop = asyncio.get_running_loop()
    came: list[tuple[str, int]] = []
    told: list[Recovery] = []
    rotating = {"CLOUD_SOCKETS_REQUEST_TIMEOUT": "3"} if ends != "cuts" else {}
    async with (
        Server(CLOUD_SOCKETS_PUBSUB_MESSAGE_TYPES="announce", **rotating) as server,
        Client(server.url, first_wait=0.05) as bob,
        Client(
            server.url,
            on_message=lambda message: came.append((message["channel"], message["payload"])),
            on_recovery=told.append,
            first_wait=0.05,
            longest_wait=0.1,
        ) as ann,
    ):
        chance = random.Random(7)
        rooms = {f"room {number}": False for number in range(5)}
        owed: set[tuple[str, int]] = set()
        foreign: set[tuple[str, int]] = set()
        cuts, number, began = 0, 0, loop.time()
        while loop.time() - began < 12 or (ends == "cuts" and cuts < 100):
            room = chance.choice(list(rooms))
            if rooms[room]:
                turn = [ann.unsubscribe(room, "1")]
                if ends != "rotation":  # who leaves while there is no socket has given up what was missed
                    owed -= {each for each in owed if each[0] == room and each not in came}
            elif chance.random() < 0.3:
                turn = [ann.subscribe(room, "1"), ann.unsubscribe(room, "1"), ann.subscribe(room, "1")]
            else:
                turn = [ann.subscribe(room, "1")]
            calls = [asyncio.create_task(call) for call in turn]
            if ends != "rotation" and chance.random() < 0.3:
                for _ in range(chance.randrange(3)):
                    await asyncio.sleep(0)
                for link in tuple(ann._links):
                    link.socket.transport.abort()
                    cuts += 1
            *before, last = await soon(asyncio.gather(*calls, return_exceptions=True))
            assert isinstance(last, dict)
            assert all(isinstance(each, dict | RequestError) for each in before)
            rooms[room] = not rooms[room]
            for name, is_in in rooms.items():
                number += 1
                await bob.announce(name, number, attempts=5)
                (owed if is_in else foreign).add((name, number))
        await until(lambda: owed <= set(came), what=f"lost: {sorted(owed - set(came))}")
        await ann.get_info()
        assert all(recovery.recovered for recovery in told)
        assert len(came) == len(set(came)), "doubled"
        assert not foreign & set(came)
        for name in rooms:
            numbers = [number for channel, number in came if channel == name]
            assert numbers == sorted(numbers)
        if ends != "cuts":
            assert await server.metric('connections_sent_elsewhere_total{reason="age"}') >= 3


async def test_a_handle_whose_loop_is_left_stops_nobody() -> None:
    async with Server(CLOUD_SOCKETS_MESSAGE_RATE="0") as server, Client(server.url) as ann, Client(server.url) as bob:
        news, weather = ann.channel("news"), ann.channel("weather")
        got: list[Any] = []
        weather.on("announce", lambda message: got.append(message["payload"]))
        await asyncio.gather(news.subscribe(), weather.subscribe(), bob.announce("news", -1))

        async def first() -> None:
            async for _ in news:
                break

        leaving = asyncio.create_task(first())
        await bob.announce("news", 0)
        await soon(leaving)
        await asyncio.gather(*(bob.announce("news", number) for number in range(1, 701)))
        await asyncio.gather(*(bob.announce("weather", number) for number in range(5)))
        await until(lambda: got == [0, 1, 2, 3, 4], what=f"only {got} came")
        assert (await soon(anext(news)))["payload"] == 445, "the latest 256 are kept"


async def test_half_an_emoji_reaches_the_others() -> None:
    async with Server() as server, Client(server.url) as ann, Client(server.url) as bob:
        await ann.subscribe("news", "1")
        assert await bob.announce("news", "half of \ud83d", attempts=3)
        assert (await soon(anext(ann)))["payload"] == "half of \ud83d"
        assert await server.metric("connections_opened_total") == 2


async def test_one_id_to_two_channels_is_two_messages() -> None:
    async with Server() as server, Client(server.url) as ann, Client(server.url) as bob:
        for channel in ("a", "b"):
            await bob.subscribe(channel, "1")
        await bob.announce("elsewhere", "bob's own", id="1")
        await asyncio.gather(*(ann.announce(channel, channel, id="1") for channel in ("a", "b")))
        assert {(await soon(anext(bob)))["payload"] for _ in range(2)} == {"a", "b"}
