"""Custom message handlers, as a user of the service writes them."""

import asyncio
import threading
import time
from typing import Any

Fields = dict[str, Any]


async def echo(connection: Any, message: Fields, director: Any) -> None:
    director.send_message(connection, {"type": "echo", "payload": message["payload"], "user": connection.session_user})


def plain(connection: Any, message: Fields, director: Any) -> None:
    in_worker = threading.current_thread() is not threading.main_thread()
    sent = director.announce({"type": "note", "payload": message["payload"], "inWorker": in_worker}, message["channel"])
    director.send_message(connection, {"type": "done", "payload": sent.id})


async def everything(connection: Any, message: Fields, director: Any) -> None:
    """Each of the director's eight methods, on the event loop."""
    director.subscribe(connection, "made", "by-handler")
    await director.announce({"payload": "to a subscription"}, "made", "by-handler")
    await director.announce({"payload": "to a channel"}, "made")
    await director.announce({"payload": "to all"})
    formatted = director.format_message({"type": "x", "payload": [1]})
    director.send_message(connection, {"type": "formatted", "payload": formatted})
    info, detail = director.get_info(), director.get_info_detail(channel="made")
    director.send_message(connection, {"type": "infos", "payload": [info, detail]})
    director.get_info(connection)
    director.get_info_detail(connection)
    await director.handle_msg(connection, {"type": "subscribe", "channel": "handled", "subId": "1", "ackId": "inner"})
    director.unsubscribe(connection, "made")


def everything_plain(connection: Any, message: Fields, director: Any) -> None:
    """The same from a worker thread."""
    director.subscribe(connection, "made", "by-handler")
    director.announce({"payload": "to a channel"}, "made")
    director.handle_msg(connection, {"type": "getInfo", "ackId": "inner"})
    director.send_message(connection, {"type": "formatted", "payload": director.format_message({"type": "x"})})
    director.send_message(connection, {"type": "infos", "payload": [director.get_info(), director.get_info_detail()]})
    director.unsubscribe(connection)


async def halves(connection: Any, message: Fields, director: Any) -> None:
    """Half a surrogate pair, as slicing leaves it, in every way that a handler has to send one."""
    half = message["payload"]["half"]
    director.send_message(connection, {"type": "sent", "payload": {half: [half]}, half: 1})
    await director.announce({"type": "announce", "payload": half}, "news")
    await director.hub.emit("news", None, "announce", [half])
    director.send_message(
        connection, {"type": "formatted", "payload": director.format_message({"type": "x", "a": half})}
    )
    for own in (
        {"type": "announce", "channel": "news", "own": half},
        f'{{"type":"announce","channel":"news","own":"{half}"}}',
    ):
        await director.handle_msg(connection, own)
    await director.handle_msg(connection, {"type": "subscribe", "channel": half, "subId": "1", "ackId": 5})


async def burst(connection: Any, message: Fields, director: Any) -> None:
    for number in range(message["payload"]):
        director.send_message(connection, {"type": "burst", "payload": number})


async def fails(connection: Any, message: Fields, director: Any) -> None:
    raise RuntimeError("the password is 1234")


def fails_plain(connection: Any, message: Fields, director: Any) -> None:
    raise RuntimeError("the password is 1234")


async def slow(connection: Any, message: Fields, director: Any) -> None:
    director.send_message(connection, {"type": "began", "payload": message["payload"]})
    await asyncio.sleep(message["payload"])
    director.send_message(connection, {"type": "ended", "payload": message["payload"]})


def hangs(connection: Any, message: Fields, director: Any) -> None:
    director.send_message(connection, {"type": "hanging"})
    time.sleep(60)


async def emit(connection: Any, message: Fields, director: Any) -> None:
    await director.hub.emit(*message["payload"])


def emit_threadsafe(connection: Any, message: Fields, director: Any) -> None:
    director.hub.emit_threadsafe(*message["payload"]).result(5)


async def logout(connection: Any, message: Fields, director: Any) -> None:
    await director.hub.logout(message["payload"])


async def reach(connection: Any, message: Fields, director: Any) -> None:
    """What the seed hangs on a request is within reach."""
    hub = director.hub
    found = [hub.director is director, connection.id in hub.connections, list(hub.channels.channels)]
    director.send_message(connection, {"type": "reached", "payload": found})


async def relay(connection: Any, message: Fields, director: Any) -> None:
    await director.announce({"type": "note", "id": message["id"], "payload": connection.id}, "news")


HANDLERS = {
    "callEcho": echo,
    "callPlain": plain,
    "callEverything": everything,
    "callEverythingPlain": everything_plain,
    "callBurst": burst,
    "callHalves": halves,
    "callFails": fails,
    "callFailsPlain": fails_plain,
    "callSlow": slow,
    "callHangs": hangs,
    "callEmit": emit,
    "callEmitThreadsafe": emit_threadsafe,
    "callLogout": logout,
    "callReach": reach,
    "callRelay": relay,
    "callLambda": lambda connection, message, director: echo(connection, message, director),  # noqa: PLW0108  # a lambda that returns a coroutine
}

OVER_A_BUILT_IN = {"announce": echo}
OVER_A_SHARED = {"todo": echo}
NOT_CALLABLE = {"x": 1}
NOT_A_MAPPING = [echo]
