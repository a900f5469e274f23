"""Attackers, each bounded in time, in connections and in what it keeps; they reach nothing but this machine's loopback.

`python -m tests.security.attackers NAME PORT SECONDS [OPTIONS]` prints `attacking` once it has
begun, and a line of JSON at its end: how often what happened. It runs as a process of its own, and yields the CPU to
the service and its clients: out in the world it would have a machine of its own.
"""

import argparse
import asyncio
import contextlib
import json
import os
import string
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from tests.security import wire
from tests.security.wire import PING, PONG, RawSocket, RefusedError, deflated, frame, post, text

BATCH = 65536
"""Bytes that a flood sends at once."""
LONGEST = 600.0
"""Seconds that any attack lasts at most."""
NICENESS = 10
BIG = 250_000
"""Bytes of a big message, below the service's largest."""
WIDE = "\N{MATHEMATICAL FRAKTUR SMALL A}"
"""A character that takes four bytes, on the wire and in memory."""
NAME_LENGTH = 255
DIGITS = string.digits + string.ascii_lowercase


class Attack:
    """An attack under way: its orders, and its counts."""

    def __init__(self, port: int, seconds: float, connections: int, rest: float, type: str, messages: int) -> None:
        self.port = port
        self.connections = connections
        self.type = type
        """Of whole messages that are none of the service's commands."""
        self.messages = messages
        """How many a channel is filled with whose history is asked for."""
        self.counts: Counter[str] = Counter()
        self._rest = rest
        self._end = time.monotonic() + min(seconds, LONGEST)

    @property
    def goes_on(self) -> bool:
        """Tell whether there is time left."""
        return time.monotonic() < self._end

    @property
    def left(self) -> float:
        """Seconds to the end."""
        return max(0.0, self._end - time.monotonic())

    async def rest(self) -> None:
        """Let the event loop turn, and rest as long as the attacker was told to."""
        await asyncio.sleep(self._rest)

    async def on_each(self, act: Callable[["Attack", int], Awaitable[None]], *, once: bool = False) -> None:
        """Do the same on all connections at once, again and again where one ends, until the time is over."""

        async def again(number: int) -> None:
            while self.goes_on:
                try:
                    await act(self, number)
                    if once:
                        return
                except RefusedError as refused:
                    self.counts[f"refused_{refused.status}"] += 1
                except OSError:
                    self.counts["broken"] += 1
                await asyncio.sleep(max(0.01, self._rest))

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.left):
                await asyncio.gather(*(again(number) for number in range(self.connections)))

    async def open(self, **options: Any) -> RawSocket:
        """Open a WebSocket, and count it."""
        opened = await RawSocket.open(self.port, **options)
        self.counts["opened"] += 1
        return opened

    async def flood(self, connection: RawSocket, data: bytes, *, opening: bytes = b"") -> None:
        """Send the same bytes until the time is over or the service ends the connection, and read what it says."""
        reading = asyncio.create_task(connection.discard())
        try:
            if opening:
                await connection.send(opening)
            at = 0
            while self.goes_on and not reading.done():
                await connection.send(data[at : at + BATCH])
                self.counts["bytes"] += len(data[at : at + BATCH])
                at = at + BATCH if at + BATCH < len(data) else 0
                await self.rest()
        finally:
            if not reading.done():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(reading), 0.2)  # a close code that is on its way
            if connection.close_code is not None:
                self.counts[f"closed_{connection.close_code}"] += 1
            await end(reading)
            connection.close()


async def end(task: "asyncio.Task[Any]") -> None:
    """Cancel a task that reads or writes, and wait until it has let go of its socket: another may get its number."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def times(data: bytes) -> bytes:
    """Repeat bytes to about a batch."""
    return data * max(1, BATCH // len(data))


def big(type: str = "announce", channel: str = "attack", **fields: Any) -> dict[str, Any]:
    """A message of nearly the largest size."""
    return {"type": type, "channel": channel, **fields, "payload": "x" * BIG}


def brackets() -> bytes:
    """A message of deep brackets and a string of escaped quotes that never ends."""
    return b'{"type":"announce","channel":"attack","payload":' + b"[" * 200 + b'"' + b'\\"' * 130_000


def keys(*, repeated: bool) -> bytes:
    """A message of 32,000 keys, the last two of which may be the same."""
    names = [a + b + c for a in DIGITS for b in DIGITS for c in DIGITS][:32_000]
    if repeated:
        names[-1] = names[-2]
    return b'{"type":"announce","ackId":1,' + ",".join(f'"{name}":1' for name in names).encode() + b"}"


def spaced(type: str = "announce") -> bytes:
    """A big message with one space, in 300 bytes when it is compressed."""
    return f'{{"type":"{type}", "channel":"attack","payload":['.encode() + b"[]," * 80_000 + b"0]}"


# Floods


async def pongs(attack: Attack) -> None:
    """Pongs that nobody asked for."""
    data = times(frame(PONG))
    await attack.on_each(lambda attack, _: _flood(attack, data))


async def pings(attack: Attack) -> None:
    """Pings, each of which is to be answered."""
    data = times(frame(PING))
    await attack.on_each(lambda attack, _: _flood(attack, data))


async def _flood(attack: Attack, data: bytes, opening: bytes = b"", **options: Any) -> None:
    await attack.flood(await attack.open(**options), data, opening=opening)


async def fragments(attack: Attack) -> None:
    """Messages in fragments of one byte."""
    message = b'{"type":"getInfo","payload":"' + b"x" * 200_000 + b'"}'
    last = len(message) - 1
    data = b"".join(frame(0 if at else wire.TEXT, message[at : at + 1], fin=at == last) for at in range(last + 1))
    await attack.on_each(lambda attack, _: _flood(attack, data))


async def empty_fragments(attack: Attack) -> None:
    """One message that never ends, in fragments without a byte."""
    data, opening = times(frame(0, fin=False)), frame(wire.TEXT, fin=False)
    await attack.on_each(lambda attack, _: _flood(attack, data, opening))


async def errors(attack: Attack) -> None:
    """Small messages that are errors."""
    data = times(text("x"))
    await attack.on_each(lambda attack, _: _flood(attack, data))


async def details(attack: Attack) -> None:
    """getInfoDetail where there are a thousand channels of long names."""
    hoard = await attack.open()
    await hoard.send(b"".join(text(_subscription(number)) for number in range(1000)))
    reading = asyncio.create_task(hoard.discard())
    data = text({"type": "getInfoDetail"}) * 100
    await attack.on_each(lambda attack, _: _flood(attack, data))
    await end(reading)
    hoard.close()


async def messages(attack: Attack) -> None:
    """Whole messages as fast as they go, to nobody."""
    data = times(text({"type": attack.type, "channel": "attack", "payload": 1}))
    await attack.on_each(lambda attack, _: _flood(attack, data))


async def reconnects(attack: Attack) -> None:
    """Connections that end as soon as they are welcomed, and come again."""

    async def come_and_go(attack: Attack, _: int) -> None:
        while attack.goes_on:
            (await attack.open()).close()
            await attack.rest()

    await attack.on_each(come_and_go)


# Texts that take long to read


async def _send_each(attack: Attack, data: bytes, **options: Any) -> None:
    """Send a text again and again, and count the answers."""

    async def send(attack: Attack, _: int) -> None:
        connection = await attack.open(**options)
        try:
            while attack.goes_on:
                await connection.send(data)
                answer = await connection.receive()
                attack.counts[f"error_{answer.get('code')}"] += 1
                await attack.rest()
        finally:
            if connection.close_code is not None:
                attack.counts[f"closed_{connection.close_code}"] += 1
            connection.close()

    await attack.on_each(send)


async def deep_texts(attack: Attack) -> None:
    """Deep brackets before a string of escaped quotes that never ends."""
    await _send_each(attack, text(brackets()))


async def deep_deflated(attack: Attack) -> None:
    """Deep brackets before an unending string, compressed to a thousandth."""
    await _send_each(attack, deflated(brackets()), deflate=True)


async def deep_posts(attack: Attack) -> None:
    """Deep brackets before an unending string, over HTTP."""
    data = post(brackets())

    async def send(attack: Attack, _: int) -> None:
        raw = await wire.connect(attack.port)
        loop = asyncio.get_running_loop()
        try:
            while attack.goes_on:
                await loop.sock_sendall(raw, data)
                answer = await loop.sock_recv(raw, wire.CHUNK)
                if not answer:
                    return
                if not answer.startswith(b"HTTP/"):
                    continue  # the rest of an answer
                attack.counts[f"status_{answer.split(None, 2)[1].decode()}"] += 1
                await attack.rest()
        finally:
            raw.close()

    await attack.on_each(send)


async def many_keys(attack: Attack) -> None:
    """As many keys as fit into a message."""
    await _send_each(attack, text(keys(repeated=False)))


async def repeated_keys(attack: Attack) -> None:
    """As many keys as fit, one of them twice."""
    await _send_each(attack, text(keys(repeated=True)))


async def bombs(attack: Attack) -> None:
    """Big texts with one space that are 300 bytes when compressed, as fast as they go."""
    data = deflated(spaced(attack.type)) * 50
    await attack.on_each(lambda attack, _: _flood(attack, data, deflate=True))


# Hoarders


def _subscription(number: int, owner: int = 0) -> dict[str, Any]:
    name = f"{owner}/{number}/".ljust(NAME_LENGTH, WIDE)
    return {"type": "subscribe", "channel": name, "subId": name}


async def subscriptions(attack: Attack) -> None:
    """A thousand long names on each connection, in 500 subscriptions that are held to the end."""

    async def hoard(attack: Attack, owner: int) -> None:
        connection = await attack.open()
        sending = asyncio.create_task(
            connection.send(b"".join(text(_subscription(number, owner)) for number in range(500)))
        )
        try:
            for _ in range(500):
                reply = await connection.receive()
                attack.counts[str(reply.get("code", "subscribed"))] += 1
            attack.counts["done"] += 1
            await asyncio.sleep(attack.left)
        finally:
            await end(sending)
            connection.close()

    await attack.on_each(hoard)


async def unacknowledged(attack: Attack) -> None:
    """Subscribers of a channel each that acknowledge nothing, and a sender that fills them with big messages."""

    async def receive(attack: Attack, number: int) -> None:
        connection = await attack.open()
        try:
            await connection.ask({"type": "subscribe", "channel": f"attack-{number}", "subId": "1"})
            await attack.flood(connection, frame(PONG))
        finally:
            connection.close()

    async def send() -> None:
        frames = [deflated(big(channel=f"attack-{number}")) for number in range(attack.connections)]
        connection = await attack.open(deflate=True)
        reading = asyncio.create_task(connection.discard())
        try:
            while attack.goes_on and not reading.done():
                for each in frames:
                    await connection.send(each)
                    attack.counts["sent"] += 1
                await attack.rest()
        finally:
            await end(reading)
            connection.close()

    sending = asyncio.create_task(_until_the_end(attack, send))
    await attack.on_each(receive)
    await end(sending)


async def _until_the_end(attack: Attack, act: Callable[[], Awaitable[None]]) -> None:
    while attack.goes_on:
        try:
            await act()
        except OSError:
            attack.counts["broken"] += 1
        await asyncio.sleep(0.05)


async def forgetful(attack: Attack) -> None:
    """Clients that read all there is for everyone, and acknowledge nothing."""
    await _hold(attack, frame(PONG))


async def unfinished(attack: Attack) -> None:
    """Messages whose last fragment never comes."""
    data = frame(wire.TEXT, b'{"type":"getInfo","payload":"' + b"x" * (BIG - 50), fin=False)
    await _hold(attack, data)


async def unfinished_deflated(attack: Attack) -> None:
    """Compressed messages whose last fragment never comes: a few hundred bytes each, big once they are inflated."""
    data = wire.deflate(b'{"type":"getInfo","payload":"' + b"x" * (BIG - 50))
    await _hold(attack, frame(wire.TEXT, data, fin=False, compressed=True), deflate=True)


async def _hold(attack: Attack, data: bytes, **options: Any) -> None:
    """Send the same on each connection, once, and keep it open as long as the service does; then come again."""

    async def hold(attack: Attack, _: int) -> None:
        connection = await attack.open(**options)
        try:
            await connection.send(data)
            attack.counts["held"] += 1
            await asyncio.wait_for(connection.discard(), attack.left + 1)
        finally:
            if connection.close_code is not None:
                attack.counts[f"closed_{connection.close_code}"] += 1
            connection.close()

    await attack.on_each(hold)


async def half_posts(attack: Attack) -> None:
    """Requests whose body ends in its middle."""
    await _hold_http(attack, post(b"x" * BIG, size=BIG + 10_000))


async def _hold_http(attack: Attack, data: bytes) -> None:
    async def hold(attack: Attack, _: int) -> None:
        raw = await wire.connect(attack.port)
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(raw, data)
            attack.counts["held"] += 1
            while await loop.sock_recv(raw, wire.CHUNK):
                pass
            attack.counts["ended"] += 1
        finally:
            raw.close()

    await attack.on_each(hold)


async def half_heads(attack: Attack) -> None:
    """Requests whose head ends in its middle."""
    await _hold_http(attack, b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX-Half: ")


async def waiting_for_a_handler(attack: Attack) -> None:
    """Big messages that wait behind a slow handler; 300 bytes each on the wire."""
    data = deflated({"type": "callSlow", "payload": 600, "padding": "x" * BIG}) * 64
    await _hold(attack, data, deflate=True)


async def ids(attack: Attack) -> None:
    """Messages with the longest ids there are, each once: 4,000 on each connection, what its rate lets it send."""

    async def send(attack: Attack, owner: int) -> None:
        connection = await attack.open()
        try:
            for batch in range(40):
                named = [f"{owner}/{batch}/{number}/".ljust(NAME_LENGTH, WIDE) for number in range(100)]
                await connection.send(
                    b"".join(text({"type": "announce", "channel": "attack", "id": each}) for each in named)
                )
                attack.counts["sent"] += len(named)
                await attack.rest()
            await connection.ask({"type": "getInfo"})
        finally:
            connection.close()

    await attack.on_each(send, once=True)


async def refused_origins(attack: Attack) -> None:
    """Upgrades from pages that may not open a socket."""

    async def knock(attack: Attack, _: int) -> None:
        await attack.open(Origin="https://evil.example")

    await attack.on_each(knock)


BAD_UPGRADES = [
    wire.upgrade(Sec_WebSocket_Version="7"),
    wire.upgrade(Sec_WebSocket_Key=""),
    wire.upgrade(Connection="close"),
    wire.upgrade(Sec_WebSocket_Extensions="permessage-deflate; " * 50),
    wire.upgrade()[:-2] + b"X-Broken\r\n\r\n",
    wire.upgrade()[:60],
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100,
    b"\r\n" * 100,
    b"GET / HTTP/9.9\r\n\r\n",
    post(b"{")[:80],
]


async def bad_upgrades(attack: Attack) -> None:
    """Heads that are no upgrade, or none that is whole; some of them end with a reset."""

    async def knock(attack: Attack, number: int) -> None:
        for turn, head in enumerate(BAD_UPGRADES):
            raw = await wire.connect(attack.port)
            try:
                await asyncio.get_running_loop().sock_sendall(raw, head)
                attack.counts["sent"] += 1
                await attack.rest()
            finally:
                if (turn + number) % 2:
                    wire.reset(raw)
                raw.close()

    await attack.on_each(knock)


BROKEN_FRAMES = [
    frame(15),
    frame(3, b"x"),
    frame(0, b"x"),
    frame(PING, b"x" * 200),
    frame(PING, fin=False),
    frame(wire.TEXT, b"\xff\xfe"),
    frame(wire.TEXT, b"x", compressed=True),
    frame(wire.CLOSE, b"\x00\x01"),
    b"\x81\x05hello",
    b"\x81\xff" + b"\xff" * 8,
    frame(wire.TEXT, b"x" * 300_000),
]


async def broken_frames(attack: Attack) -> None:
    """Frames against the protocol; half of the attackers do not wait for the answer."""

    async def send(attack: Attack, number: int) -> None:
        for turn, data in enumerate(BROKEN_FRAMES):
            connection = await attack.open()
            try:
                with contextlib.suppress(OSError):
                    await connection.send(data)
                    if (turn + number) % 2:
                        await asyncio.wait_for(connection.discard(), 2)
                attack.counts["sent"] += 1
            finally:
                connection.reset()

    await attack.on_each(send)


async def resets(attack: Attack) -> None:
    """Three thousand pings, and a reset before they are answered."""

    async def send(attack: Attack, _: int) -> None:
        connection = await attack.open()
        with contextlib.suppress(OSError):
            await connection.send(frame(PING, b"x" * 100) * 3000)
        connection.reset()
        attack.counts["reset"] += 1
        await attack.rest()

    await attack.on_each(send)


async def failing_handlers(attack: Attack) -> None:
    """Messages whose handler raises."""
    data = times(text({"type": "callFails"}))
    await attack.on_each(lambda attack, _: _flood(attack, data))


async def replays(attack: Attack) -> None:
    """Clients that ask for all of a channel's history and read nothing of it, but give signs of life."""

    async def fill() -> str:
        connection = await attack.open(deflate=True)
        reply = await connection.ask({"type": "subscribe", "channel": "attack", "subId": "1"})
        position = str(reply["position"])
        await connection.ask({"type": "unsubscribe", "channel": "attack"})
        data = deflated({"type": "announce", "channel": "attack", "payload": "x" * 10_000})
        await connection.send(data * attack.messages)
        await connection.ask({"type": "getInfo"})
        connection.close()
        return position

    position = await fill()

    async def ask(attack: Attack, _: int) -> None:
        connection = await attack.open(narrow=True)
        try:
            await connection.send(text({"type": "subscribe", "channel": "attack", "subId": "1", "position": position}))
            attack.counts["asked"] += 1
            while attack.goes_on:
                await connection.send(frame(PONG))
                await asyncio.sleep(0.5)  # a sign of life
        finally:
            connection.close()

    await attack.on_each(ask)


ATTACKS: dict[str, Callable[[Attack], Awaitable[None]]] = {
    act.__name__: act
    for act in (
        pongs, pings, fragments, empty_fragments, errors, details, messages, reconnects, deep_texts, deep_deflated,
        deep_posts, many_keys, repeated_keys, bombs, subscriptions, unacknowledged, unfinished, unfinished_deflated,
        half_posts, half_heads, waiting_for_a_handler, ids, refused_origins, bad_upgrades, broken_frames, resets,
        failing_handlers, replays, forgetful,
    )
}  # fmt: skip


async def main(name: str, attack: Attack) -> None:
    """Attack, and say what came of it."""
    print("attacking", flush=True)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(attack.left + 2):
            try:
                await ATTACKS[name](attack)
            except OSError as error:
                attack.counts[f"ended by {error}"] += 1
    print(json.dumps(attack.counts), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=ATTACKS)
    parser.add_argument("port", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--connections", type=int, default=20)
    parser.add_argument("--rest", type=float, default=0.0, help="seconds after each batch")
    parser.add_argument("--type", default="announce", help="of whole messages")
    parser.add_argument("--messages", type=int, default=1000, help="with which a channel is filled")
    arguments = parser.parse_args()
    os.nice(NICENESS)
    options = vars(arguments)
    asyncio.run(main(options.pop("name"), Attack(**options)))
