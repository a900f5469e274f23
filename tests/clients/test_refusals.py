"""The client tells what does not work, and it tells it at once."""

import asyncio
import logging
from typing import Any

import pytest
from websockets.asyncio.client import connect

from app import client as client_module
from app.client import Client, ClosedError, RequestError, State
from tests.clients.application import App, all_taken, subscribed
from tests.support.deadline import soon, until
from tests.support.process import free_port
from tests.support.scripted_server import Peer, ScriptedServer

# No socket


@pytest.mark.parametrize(("status", "words"), [(401, "who this is"), (403, "does not let"), (404, "this path")])
async def test_a_refusal_for_good_is_told_with_its_status_and_ends_the_client(
    server: ScriptedServer, app: App, status: int, words: str
) -> None:
    server.refusals = [(status, {})]
    order: list[Any] = []
    client = app.client(server.url, on_refused=lambda refused: order.append(refused.error), on_state=order.append)
    with pytest.raises(ClosedError) as closed:
        await asyncio.wait_for(client.connect(), 1)
    assert closed.value.code == status
    error = order[1]
    assert (error.status, error.code, error.temporary) == (status, None, False)
    assert words in str(error)
    assert order == [State.CONNECTING, error, State.CLOSED]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
async def test_a_refusal_for_now_is_told_and_tried_again(server: ScriptedServer, app: App, status: int) -> None:
    server.refusals = [(status, {}), (status, {})]
    async with app.client(server.url, on_refused=app.refuse):
        await server.accept()
        assert [(error.status, error.temporary) for error in app.refused] == [(status, True)] * 2


async def test_nobody_there_is_told_within_a_second_and_at_every_try(app: App) -> None:
    port = free_port()
    client = app.client(f"ws://127.0.0.1:{port}/ws", on_refused=app.refuse)
    opening = asyncio.create_task(client.connect())
    await until(lambda: len(app.refused) >= 3, 1)
    assert [(error.status, error.code, error.temporary) for error in app.refused[:3]] == [(None, None, True)] * 3
    assert f"nobody answers at 127.0.0.1:{port}" in str(app.refused[0])
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    assert client.state is State.CLOSED


async def test_what_is_no_websocket_is_told(app: App) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 smtp.example.com\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as other:
        port = other.sockets[0].getsockname()[1]
        opening = asyncio.create_task(app.client(f"ws://127.0.0.1:{port}/ws", on_refused=app.refuse).connect())
        await until(lambda: bool(app.refused), 1)
        assert "does not answer as a WebSocket does" in str(app.refused[0])
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)


@pytest.mark.parametrize("greeted", [True, False])
async def test_a_session_that_has_expired_is_told_and_ends_the_client(
    server: ScriptedServer, app: App, *, greeted: bool
) -> None:
    server.welcomes = [{} if greeted else None]
    order: list[Any] = []
    client = app.client(
        server.url,
        on_refused=lambda refused: order.append(refused.error),
        on_state=order.append,
    )
    opening = asyncio.create_task(client.connect())
    peer = await server.accept()
    await peer.say(type="disconnect", code=3500, reason="a session is needed", reconnect=False)
    await peer.socket.close(3500, "a session is needed")
    await asyncio.gather(opening, return_exceptions=True)
    await until(lambda: client.state is State.CLOSED, 1)
    error: Any = next(each for each in order if isinstance(each, Exception))
    assert (error.code, error.status, error.temporary) == (3500, None, False)
    assert "a session is needed" in str(error)
    assert order[-2:] == [error, State.CLOSED]
    with pytest.raises(ClosedError) as closed:
        await client.get_info()
    assert closed.value.code == 3500
    assert server.nobody_came()


async def test_a_socket_that_ends_before_the_welcome_is_told_once_a_try(server: ScriptedServer, app: App) -> None:
    server.welcomes = [None]
    opening = asyncio.create_task(app.client(server.url, on_refused=app.refuse).connect())
    for count in (1, 2):
        await (await server.accept()).close(1013)
        await until(lambda: len(app.refused) == count)  # noqa: B023
    assert [(error.code, error.temporary) for error in app.refused] == [(1013, True)] * 2
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)


async def test_what_is_refused_later_is_told_to_both_callbacks_if_it_is_for_good(
    server: ScriptedServer, app: App
) -> None:
    async with app.client(server.url, on_refused=app.refuse) as client:
        peer = await server.accept()
        await subscribed(peer, client)
        peer.cut()
        peer = await server.accept()
        request = await peer.heard()
        await peer.say(type="error", ackId=request["ackId"], code="unavailable", value="later", temporary=True)
        request = await peer.heard()
        await peer.say(type="error", ackId=request["ackId"], code="permission_denied", value="no", temporary=False)
        await until(lambda: len(app.refused) == 2)
        assert [error.code for error in app.refused] == ["unavailable", "permission_denied"]
        assert [error.code for error in app.errors] == ["permission_denied"]
        await all_taken(client, peer)


async def test_an_event_whose_callback_is_slow_waits_and_too_many_are_left_out(
    server: ScriptedServer, app: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(client_module, "MAX_TOLD", 3)
    caplog.set_level(logging.WARNING)
    may_go_on = asyncio.Event()
    told: list[str] = []

    async def refuse(refused: Any) -> None:
        await may_go_on.wait()
        told.append(refused.error.value)

    async with app.client(server.url, on_refused=refuse) as client:
        peer = await server.accept()
        await peer.say(type="error", code="x", value="0", temporary=True)
        await all_taken(client, peer)
        for number in range(1, 6):
            await peer.say(type="error", code="x", value=str(number), temporary=True)
        await all_taken(client, peer)
        may_go_on.set()
        await until(lambda: told == ["0", "3", "4", "5"])
    assert "an event is left out" in caplog.text


# Mistakes


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("acktypes", "ack_types"),
        ("on_messages", "on_message"),
        ("aditional_headers", "additional_headers"),
        ("zzz", ""),
    ],
)
def test_an_unknown_option_is_told_at_once_with_the_nearest_that_is_known(name: str, near: str) -> None:
    unknown: dict[str, Any] = {name: None}
    with pytest.raises(TypeError) as told:
        Client("ws://localhost/ws", **unknown)
    assert repr(name) in str(told.value)
    assert (repr(near) in str(told.value)) if near else "is it" not in str(told.value)


def test_options_of_sockets_are_known() -> None:
    Client(
        "wss://localhost/ws", additional_headers={}, proxy=None, ssl=True, server_hostname="x", local_addr=None,
        happy_eyeballs_delay=0.25, ping_interval=None, open_timeout=None, max_queue=1, compression=None,
    )  # fmt: skip


def test_one_type_that_is_no_collection_is_told() -> None:
    with pytest.raises(TypeError, match="ack_types"):
        Client("ws://localhost/ws", ack_types="announce")


# Opening, closing and opening again


def test_a_socket_may_take_long_to_open() -> None:
    assert Client("ws://localhost/ws")._options["open_timeout"] >= 60


async def test_a_client_that_was_never_open_can_be_closed(server: ScriptedServer, app: App) -> None:
    client = app.client(server.url)
    await client.close()
    async with client:
        await server.accept()


async def test_a_close_before_it_is_open_ends_the_connect(server: ScriptedServer, app: App) -> None:
    server.welcomes = [None]
    client = app.client(server.url)
    opening = asyncio.create_task(client.connect())
    peer = await server.accept()
    await soon(client.close())
    with pytest.raises(ClosedError):
        await soon(opening)
    await peer.ended()  # in the middle of the handshake, or behind it
    # And in the very turn in which it was begun.
    opening = asyncio.create_task(client.connect())
    await asyncio.sleep(0)
    await soon(client.close())
    with pytest.raises(ClosedError):
        await soon(opening)


async def test_it_can_be_opened_again_and_goes_on_from_where_it_was(server: ScriptedServer, app: App) -> None:
    server.welcomes = [{"position": "w0"}, {"position": "w0", "recovered": True}]
    client = app.client(server.url, on_message=None)
    async with client:
        peer = await server.accept()
        await subscribed(peer, client, position="p0")
        await peer.announce(1)
        assert (await soon(anext(client)))["payload"] == 1
        await peer.announce(2)
        await all_taken(client, peer)
    assert client.state is State.CLOSED
    with pytest.raises(ClosedError):
        await client.get_info()
    assert (await soon(anext(client)))["payload"] == 2  # it came before the end
    with pytest.raises(StopAsyncIteration):
        await anext(client)
    opening = asyncio.create_task(client.connect())
    peer = await server.accept()
    await soon(opening)
    assert app.states[-1] is State.OPEN
    request = await peer.subscribed(recovered=True, position="p2")
    assert request["position"] == "p2"
    assert peer.query["position"] == ["w0"]
    await peer.announce(2)
    await peer.announce(3)
    assert (await soon(anext(client)))["payload"] == 3
    await client.connect()  # it is open
    await client.close()


async def test_what_was_with_a_callback_at_the_end_comes_again(server: ScriptedServer, app: App) -> None:
    app.may_go_on.clear()
    client = app.client(server.url)
    async with client:
        peer = await server.accept()
        await subscribed(peer, client, position="p0")
        await peer.announce(1)
        await all_taken(client, peer)
    app.may_go_on.set()
    async with client:
        peer = await server.accept()
        request = await peer.subscribed(recovered=True, position="p0")
        assert request["position"] == "p0"
        await peer.announce(1)
        await app.has(1)


@pytest.mark.parametrize("event", ["message", "state", "refused"])
async def test_a_callback_may_close_the_client(server: ScriptedServer, app: App, event: str) -> None:
    async def close(_: object) -> None:
        if event != "state" or client.state is State.OPEN:
            await client.close()

    client = app.client(server.url, **{f"on_{event}": close})
    opening = asyncio.create_task(client.connect())
    peer = await server.accept()
    await peer.announce(1)
    await peer.say(type="error", code="x", value="y", temporary=False)
    assert await peer.ended() == 1000
    await asyncio.gather(opening, return_exceptions=True)
    await until(lambda: client.state is State.CLOSED)
    await soon(client.close())


async def test_requests_that_wait_for_a_socket_fail_when_it_is_closed(server: ScriptedServer, app: App) -> None:
    never = asyncio.Event()

    async def sleep(_: float) -> None:
        await never.wait()

    client = app.client(server.url, sleep=sleep)
    async with client:
        (await server.accept()).cut()
        await until(lambda: client.state is State.WAITING)
        asks = [client.announce("news", attempts=3), client.subscribe("news", "1"), client.get_info()]
        asking = [asyncio.create_task(ask) for ask in asks]
        await asyncio.sleep(0)
    for error in await soon(asyncio.gather(*asking, return_exceptions=True)):
        assert isinstance(error, ClosedError | RequestError)


@pytest.mark.parametrize("ask", ["announce", "subscribe", "get_info"])
async def test_requests_that_are_under_way_when_it_is_closed_say_so(server: ScriptedServer, app: App, ask: str) -> None:
    async with app.client(server.url) as client:
        peer = await server.accept()
        arguments = {"announce": ("news", 1), "subscribe": ("news", "1"), "get_info": ()}[ask]
        asking = asyncio.create_task(getattr(client, ask)(*arguments))
        await peer.heard()
    with pytest.raises(ClosedError) as closed:
        await soon(asking)
    assert closed.value.code == 1000


async def test_whatever_fails_while_it_connects_is_told_and_tried_again(
    server: ScriptedServer, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = iter([ValueError("embedded"), LookupError("nowhere")])

    def fail(*arguments: Any, **options: Any) -> Any:
        if (error := next(failing, None)) is not None:
            raise error
        return connect(*arguments, **options)

    client = app.client(server.url, on_refused=app.refuse)
    monkeypatch.setattr(client_module, "connect", fail)
    async with client:
        await server.accept()
    assert [(type(error).__name__, error.temporary) for error in app.refused] == [("ConnectError", True)] * 2
    assert "ValueError: embedded" in str(app.refused[0])
    assert "LookupError: nowhere" in str(app.refused[1])


# A socket that may be dead


async def test_a_good_socket_is_found_good(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url) as client:
        await server.accept()
        assert await soon(client.check())
        assert server.nobody_came()


async def test_a_dead_socket_is_replaced_at_once(server: ScriptedServer, app: App) -> None:
    async with app.client(server.url) as client:
        peer = await server.accept()
        await subscribed(peer, client, position="p0")
        peer.socket.transport.pause_reading()  # nothing is answered any more
        assert not await asyncio.wait_for(client.check(0.1), 2)
        peer = await server.accept()
        assert (await peer.subscribed(recovered=True))["position"] == "p0"


async def test_a_client_that_waits_tries_at_once_when_it_is_asked(server: ScriptedServer, app: App) -> None:
    never = asyncio.Event()

    async def sleep(_: float) -> None:
        await never.wait()

    async with app.client(server.url, sleep=sleep) as client:
        (await server.accept()).cut()
        await until(lambda: client.state is State.WAITING)
        assert not await client.check()
        await server.accept()


async def test_a_socket_that_brings_more_than_the_application_takes_is_not_asked(
    server: ScriptedServer, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "QUEUE", 4)
    app.may_go_on.clear()
    async with app.client(server.url) as client:
        peer = await server.accept()
        await _announce_until_it_is_full(peer, client)
        peer.socket.transport.pause_reading()
        assert await asyncio.wait_for(client.check(0.1), 2)
        app.may_go_on.set()


async def _announce_until_it_is_full(peer: Peer, client: Client) -> None:
    for number in range(10):
        await peer.announce(number)
    await until(lambda: any(link.paused for link in client._links))
