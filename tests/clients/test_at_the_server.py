"""The Python client at the real service: what the one promises is what the other needs."""

import asyncio
from typing import Any

import pytest

from app import client as client_module
from app.client import Client, ClosedError, Recovery, RequestError, State
from tests.support.deadline import soon, until
from tests.support.process import Server

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


@pytest.mark.parametrize(("kept", "came"), [("announce", (1, 2, 3)), ("", (1, 3))])
async def test_a_client_that_was_cut_off_goes_on_or_knows_of_the_gap(kept: str, came: tuple[int, ...]) -> None:
    notes = Notes()
    may_go_on = asyncio.Event()

    async def sleep(_: float) -> None:
        await may_go_on.wait()

    async with (
        Server(CLOUD_SOCKETS_PUBSUB_MESSAGE_TYPES=kept) as server,
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
        await until(lambda: notes.recovery_of("news") == [bool(kept)])
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
