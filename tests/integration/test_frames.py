"""The fast way out: ready frames, compression, pings, and clients that do not keep up."""

import asyncio
import base64
import gc
import itertools
import json
import os
import random
import re
import socket
import struct
import weakref
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from wsproto.connection import Connection as WebSocket

from app import Settings, create_app
from app.connection import Connection
from app.hub import Hub
from app.logs import current_trace
from app.outgoing import CROWD
from app.protocol.close_codes import CloseCode
from app.server import serve
from app.server.control import server_of
from app.server.inbox import Inbox
from app.server.pings import Pings
from tests.support.client import Client, narrow_socket
from tests.support.deadline import soon, until
from tests.support.process import Server, free_port

BOTH = "server_no_context_takeover; client_no_context_takeover"


class RawSocket:
    """A client that shows the bytes on the wire. It answers nothing by itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: str) -> None:
        self.reader = reader
        self.writer = writer
        self.head = head

    @classmethod
    async def open(cls, port: int, extensions: str | None = None, sock: socket.socket | None = None) -> "RawSocket":
        where = ("127.0.0.1", port) if sock is None else ()
        reader, writer = await soon(asyncio.open_connection(*where, sock=sock))
        writer.write(cls.request(port, extensions))
        head = (await soon(reader.readuntil(b"\r\n\r\n"))).decode()
        return cls(reader, writer, head)

    @staticmethod
    def request(port: int, extensions: str | None = None) -> bytes:
        """The upgrade."""
        key = base64.b64encode(os.urandom(16)).decode()
        lines = ["GET /ws HTTP/1.1", f"Host: 127.0.0.1:{port}", "Upgrade: websocket", "Connection: Upgrade"]
        lines += [f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13"]
        if extensions is not None:
            lines.append(f"Sec-WebSocket-Extensions: {extensions}")
        return "\r\n".join([*lines, "", ""]).encode()

    @property
    def agreed(self) -> str | None:
        """The extensions that the server agreed to."""
        found = re.search(r"^sec-websocket-extensions: (.*)\r$", self.head, re.MULTILINE | re.IGNORECASE)
        return found[1] if found else None

    async def frame(self) -> tuple[int, bytes]:
        """The next frame: its first byte and its payload."""
        first, length = await soon(self.reader.readexactly(2))
        if length == 126:
            (length,) = struct.unpack("!H", await soon(self.reader.readexactly(2)))
        elif length == 127:
            (length,) = struct.unpack("!Q", await soon(self.reader.readexactly(8)))
        return first, await soon(self.reader.readexactly(length))

    def send(self, text: str) -> None:
        data = text.encode()
        size = bytes((0x80 | len(data),)) if len(data) < 126 else bytes((0x80 | 126,)) + struct.pack("!H", len(data))
        self.writer.write(b"\x81" + size + bytes(4) + data)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()


def inflate(data: bytes) -> bytes:
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data + b"\x00\x00\xff\xff")


@pytest.mark.parametrize(
    ("offer", "agreed"),
    [
        (None, None),
        ("permessage-deflate", "permessage-deflate"),
        ("permessage-deflate; client_max_window_bits", "permessage-deflate; client_max_window_bits=10"),
        ("permessage-deflate; client_no_context_takeover", "permessage-deflate; client_no_context_takeover"),
        (f"permessage-deflate; {BOTH}", f"permessage-deflate; {BOTH}"),
        ("permessage-deflate; server_max_window_bits=10", None),
        ("permessage-deflate; server_max_window_bits=10, permessage-deflate", "permessage-deflate"),
        ("permessage-deflate;client_max_window_bits,deflate-frame,x-webkit-deflate-frame", "permessage-deflate"),
        ("x-webkit-deflate-frame", None),
    ],
)
async def test_compression_is_agreed_on_in_the_words_of_the_offer_or_not_at_all(
    offer: str | None, agreed: str | None
) -> None:
    async with Server() as server, await RawSocket.open(server.port, offer) as raw:
        assert " 101 " in raw.head
        assert raw.agreed == agreed


@pytest.mark.parametrize(
    ("offer", "bits"), [("permessage-deflate", 15), ("permessage-deflate; client_max_window_bits", 10)]
)
@pytest.mark.parametrize("parts", [1, 3])
async def test_a_client_may_refer_to_what_it_sent_before(offer: str, bits: int, parts: int) -> None:
    """Short messages that are read in one go, long ones, and some in parts, from one that keeps its context."""
    async with Server() as server, await RawSocket.open(server.port, offer) as raw:
        compressor = zlib.compressobj(wbits=-bits)
        await raw.frame()
        for number, size in enumerate((10, 10, 3000, 10, 60_000, 10, 3000)):
            message = {"type": "getInfo", "ackId": number, "payload": "one and the same" + "xy" * (size // 2)}
            data = compressor.compress(json.dumps(message).encode()) + compressor.flush(zlib.Z_SYNC_FLUSH)
            data = data[:-4]
            step = -(-len(data) // parts)
            pieces = [data[at : at + step] for at in range(0, len(data), step)]
            for at, piece in enumerate(pieces):
                first = (0 if at else 0x41) | (0x80 if at == len(pieces) - 1 else 0)
                raw.writer.write(bytes((first, 0xFE if len(piece) > 125 else 0x80 | len(piece))))
                raw.writer.write((len(piece).to_bytes(2, "big") if len(piece) > 125 else b"") + bytes(4) + piece)
                await raw.writer.drain()
            first, data = await raw.frame()
            reply = json.loads(inflate(data) if first == 0xC1 else data)
            assert (reply["type"], reply["ackId"]) == ("getInfo", number)


async def test_a_message_is_the_same_bytes_for_all_that_compress() -> None:
    async with Server() as server, Client(server.url) as ann:
        async with (
            await RawSocket.open(server.port, "permessage-deflate") as first,
            await RawSocket.open(server.port, "permessage-deflate; client_max_window_bits") as second,
            await RawSocket.open(server.port) as plain,
        ):
            for raw in (first, second, plain):
                assert b'"welcome"' in (inflate if raw.agreed else bytes)((await raw.frame())[1])
                raw.send('{"type":"subscribe","channel":"news","subId":"1"}')
                assert (await raw.frame())[0] == 0x81
            await ann.send({"type": "announce", "channel": "news", "payload": "x" * 2000})
            await ann.send({"type": "announce", "channel": "news", "payload": "y" * 2000})
            for _ in range(2):
                frames = [await raw.frame() for raw in (first, second, plain)]
                assert [frame[0] for frame in frames] == [0xC1, 0xC1, 0x81]
                assert frames[0] == frames[1]
                assert inflate(frames[0][1]) == frames[2][1]
                assert len(frames[0][1]) < 400


@pytest.mark.parametrize("factory", [
    ClientPerMessageDeflateFactory(),
    ClientPerMessageDeflateFactory(client_max_window_bits=9),
    ClientPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True),
    ClientPerMessageDeflateFactory(server_max_window_bits=9, client_max_window_bits=9),
])  # fmt: skip
async def test_clients_compress_as_they_like(factory: ClientPerMessageDeflateFactory) -> None:
    async with Server() as server, Client(server.url, compression=None, extensions=[factory]) as ann:
        await ann.subscribe("news")
        async with Client(server.url) as bob:
            for number in range(5):
                await bob.send({"type": "announce", "channel": "news", "payload": [number, "z" * 3000]})
                assert (await ann.receive())["payload"] == [number, "z" * 3000]
                reply = await ann.ask({"type": "announce", "channel": "other", "payload": "w" * 3000})
                assert reply["type"] == "ack"


async def test_compression_can_be_turned_off() -> None:
    async with Server(CLOUD_SOCKETS_PER_MESSAGE_DEFLATE="false") as server:
        async with await RawSocket.open(server.port, "permessage-deflate") as raw:
            assert raw.agreed is None


def peak_memory(server: Server) -> int:
    """What the process needed at most so far, in bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


async def test_a_decompression_bomb_is_never_inflated_whole(both_ways: str) -> None:
    async with Server() as server, Client(server.url) as ann:
        before = peak_memory(server)
        async with connect(server.url, compression="deflate", max_size=None) as bomber:
            await soon(bomber.recv())
            with suppress(ConnectionClosed):
                await soon(bomber.send('{"type":"announce","payload":"' + "0" * 200_000_000 + '"}'), 60)
            await soon(bomber.wait_closed())
            assert bomber.close_code == 1009
        assert peak_memory(server) - before < 50_000_000
        assert (await ann.ask({"type": "getInfo"}))["type"] == "getInfo", both_ways


async def test_a_burst_to_one_client_leaves_in_few_writes() -> None:
    """Frames that fall into one turn of the loop arrive in one piece: a handler sends them there."""
    handlers = {"CLOUD_SOCKETS_CUSTOM_MSG_HANDLERS": "tests.support.handlers:HANDLERS"}
    async with Server(**handlers) as server, await RawSocket.open(server.port) as raw:
        await raw.frame()
        raw.send('{"type":"callBurst","payload":64}')
        piece = await soon(raw.reader.read(1_000_000))
        assert piece.count(b'"type":"burst"') == 64


async def test_one_slow_client_goes_and_the_others_wait_for_nothing(both_ways: str) -> None:
    async with Server(CLOUD_SOCKETS_MAX_BUFFERED="100000") as server:
        async with Client(server.url) as ann, Client(server.url) as bob, Client(server.url, narrow=True) as slow:
            for client in (bob, slow):
                await client.subscribe("news")

            async def gone() -> bool:
                return await server.metric('connections_closed_total{code="3008"}') == 1

            async def told_bob() -> bool:
                await ann.send({"type": "announce", "channel": "news", "payload": "x" * 50_000})
                assert len((await bob.receive())["payload"]) == 50_000
                return await gone()

            await until(told_bob, what=both_ways)

            async def nothing_waits() -> bool:
                return await server.metric("buffered_bytes") == 0

            await until(nothing_waits)


async def test_memory_for_slow_clients_is_bounded_for_all_together() -> None:
    budget = 2_000_000
    async with Server(CLOUD_SOCKETS_MAX_BUFFERED_TOTAL=str(budget)) as server, Client(server.url) as ann:
        slow = [Client(server.url, narrow=True) for _ in range(10)]
        for client in slow:
            await client.__aenter__()
            await client.subscribe("news")
        highest = 0.0
        for number in range(200):
            await ann.ask({"type": "announce", "channel": "news", "payload": [number, "x" * 50_000]})
            highest = max(highest, await server.metric("buffered_bytes"))
        assert 0 < highest <= budget

        async def some_are_gone() -> bool:
            return await server.metric('connections_closed_total{code="3008"}') > 0

        await until(some_are_gone)
        for client in slow:
            client.abort()


@asynccontextmanager
async def serving(pings: Pings) -> AsyncIterator[tuple[Hub, int]]:
    """The service in this process, with pings that are asked sooner."""
    app = create_app(Settings(custom_msg_handlers="tests.support.handlers:HANDLERS", message_rate=0))
    hub: Hub = app.extensions["cloud_sockets"]
    port, stop = free_port(), asyncio.Event()

    async def until_stopped() -> None:
        await stop.wait()
        await hub.drain()
        await hub.gone()
        await hub.close()

    running = asyncio.create_task(
        serve(app, port=port, max_payload=10_000, deflate=True, until=until_stopped, pings=pings)
    )
    try:
        yield hub, port
    finally:
        stop.set()
        await soon(running)


async def is_up(port: int) -> None:
    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    await until(answers)


def counted(hub: Hub, code: int) -> Callable[[], bool]:
    return lambda: f'closed_total{{code="{code}"}} 1.0' in hub.metrics.render().decode()


async def test_a_client_that_answers_no_ping_is_closed_with_3012() -> None:
    async with serving(Pings(interval=0.2, timeout=0.1)) as (hub, port):
        await is_up(port)
        async with await RawSocket.open(port) as silent:
            frames: list[tuple[int, bytes]] = [await silent.frame() for _ in range(5)]
            # welcome, ping, the message "ping", disconnect, close
            assert [first for first, _ in frames] == [0x81, 0x89, 0x81, 0x81, 0x88]
            asked = json.loads(frames[2][1])
            assert asked["type"] == "ping"
            assert set(asked) == {"type", "id", "sentDateTime"}
            assert b'"code":3012' in frames[3][1]
            assert b'"reconnect":true' in frames[3][1]
            assert struct.unpack("!H", frames[4][1][:2]) == (3012,)
            await until(counted(hub, 3012))
            assert hub.connections == {}


async def test_a_client_that_answers_a_message_only_stays() -> None:
    """Some keep their pong until they are sent something else; whatever comes from them shows that they are there."""
    async with serving(Pings(interval=0.3, timeout=0.1)) as (hub, port):
        await is_up(port)
        async with await RawSocket.open(port) as late:
            for turn in range(3):
                while b'"type":"ping"' not in (await late.frame())[1]:
                    pass
                if turn == 1:
                    late.writer.write(b"\x8a\x80" + bytes(4))
                else:
                    late.send('{"type":"getInfo"}')
            assert len(hub.connections) == 1


async def test_a_client_that_answers_stays() -> None:
    async with serving(Pings(interval=0.3, timeout=0.25)) as (hub, port):
        await is_up(port)
        async with Client(f"ws://127.0.0.1:{port}/ws", ping_interval=None) as ann:
            pinged = asyncio.get_running_loop().time() + 1.2
            while asyncio.get_running_loop().time() < pinged:
                assert (await ann.ask({"type": "getInfo"}))["type"] == "getInfo"
            assert len(hub.connections) == 1


async def test_a_crowd_gets_each_message_whole_and_in_order_also_who_is_behind() -> None:
    """Some take nothing for a while, so that what they are written takes only a part; the others do not feel it."""
    count, size = 110, 45_000
    async with Server(CLOUD_SOCKETS_MAX_BUFFERED=str(4 * count * size)) as server, AsyncExitStack() as stack:
        if os.environ.get("CI"):
            assert await server.metric("sends_to_many") == 1, server.log
        crowd = []
        for number in range(CROWD + 16):
            behind = number % 7 == 3
            sock = narrow_socket() if behind else socket.socket()
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", server.port))
            offer = "permessage-deflate" if number % 5 == 0 else None
            raw = await stack.enter_async_context(await RawSocket.open(server.port, offer, sock))
            await raw.frame()  # the welcome
            raw.send('{"type":"subscribe","channel":"news","subId":"1"}')
            await raw.frame()
            crowd.append((raw, behind))
        ann = await stack.enter_async_context(Client(server.url))

        async def read_all(raw: RawSocket) -> None:
            for number in range(count):
                first, data = await raw.frame()
                message = json.loads(inflate(data) if first == 0xC1 else data)
                assert message["payload"] == f"{number:05} {noise}"

        noise = base64.b64encode(os.urandom(size)).decode()[:size]
        for number in range(count):
            await ann.send({"type": "announce", "channel": "news", "payload": f"{number:05} {noise}"})
        await asyncio.gather(*(read_all(raw) for raw, behind in crowd if not behind))
        assert await server.metric("buffered_bytes") > 0
        await asyncio.gather(*(read_all(raw) for raw, behind in crowd if behind))
        await until(lambda: no_bytes_wait(server))


async def no_bytes_wait(server: Server) -> bool:
    return await server.metric("buffered_bytes") == 0


async def test_where_the_server_takes_no_frames_it_is_counted_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Server, "module", "tests.support.by_message")
    async with Server() as server, Client(server.url), Client(server.url):
        assert await server.metric("connections_by_message_total") == 2
        assert server.log.count("takes no ready frames") == 1


async def test_where_it_does_nothing_is_said() -> None:
    async with Server() as server, Client(server.url):
        assert await server.metric("connections_by_message_total") == 0
        assert "ready frames" not in server.log


async def test_a_hypercorn_that_does_not_fit_serves_sockets_as_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.server.teach.misfits", lambda: ["WSStream.handle"])
    async with serving(Pings()) as (hub, port):
        await is_up(port)
        async with Client(f"ws://127.0.0.1:{port}/ws") as ann, Client(f"ws://127.0.0.1:{port}/ws") as bob:
            await bob.subscribe("news")
            await ann.send({"type": "announce", "channel": "news", "payload": "hello"})
            assert (await bob.receive())["payload"] == "hello"
            assert "connections_by_message_total 2.0" in hub.metrics.render().decode()


def test_hypercorn_is_as_it_was_checked() -> None:
    """The docstring names the versions, the lock has them."""
    text = (Path(__file__).parents[2] / "app/server/websocket_stream.py").read_text()
    lock = (Path(__file__).parents[2] / "requirements.lock").read_text()
    found: Any = re.search(r"checked with Hypercorn ([\d.]+) and wsproto ([\d.]+)", text)
    for name, version in zip(("hypercorn", "wsproto"), found.groups(), strict=True):
        assert re.search(rf"^{name}=={re.escape(version)}\.", lock, re.MULTILINE), name


async def test_junk_behind_a_close_frame_harms_nobody() -> None:
    async with serving(Pings(interval=0.3, timeout=0.25)) as (hub, port):
        await is_up(port)
        async with Client(f"ws://127.0.0.1:{port}/ws") as ann:
            for _ in range(3):
                async with await RawSocket.open(port) as rude:
                    for _ in range(60):
                        rude.send("no JSON")
                    first = 0
                    while first != 0x88:
                        first, _ = await rude.frame()
                    rude.writer.write(b"\x88\x80" + bytes(4))
                    await rude.writer.drain()
                    rude.writer.write(b"\xff" * 200_000)
                    with suppress(ConnectionError):
                        await soon(rude.reader.read())
            await until(lambda: len(hub.connections) == 1)
            assert (await ann.ask({"type": "getInfo"}))["type"] == "getInfo"
            async with await RawSocket.open(port) as silent:  # pings still go out
                first = 0
                while first != 0x89:
                    first, _ = await silent.frame()


async def test_a_message_that_comes_whole_is_handled_at_once_with_its_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    traces: list[str | None] = []
    receive_at_once = Hub.receive_at_once

    def noting(hub: Hub, connection: Connection, text: str) -> bool:
        traces.append(current_trace.get())
        return receive_at_once(hub, connection, text)

    monkeypatch.setattr(Hub, "receive_at_once", noting)
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    async with serving(Pings()) as (_, port):
        await is_up(port)
        headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
        async with Client(f"ws://127.0.0.1:{port}/ws", additional_headers=headers) as ann:
            await ann.ask({"type": "getInfo", "payload": "long" * 2000})  # wsproto reads it
            assert traces == []
            monkeypatch.setattr(WebSocket, "receive_data", None)  # wsproto's
            monkeypatch.setattr(Inbox, "add", None)
            assert (await ann.ask({"type": "getInfo"}))["type"] == "getInfo"
            assert traces == [trace]
            monkeypatch.undo()


async def test_what_looks_like_a_message_within_a_message_is_none() -> None:
    """The network may cut a frame so that what comes next, by itself, could be one."""
    chance = random.Random(0)
    inner = b'{"type":"getInfo","ackId":"smuggled"}'
    mask = b"\x80" * 4  # of which ASCII becomes bytes that again are ASCII when they are masked so
    smuggled = bytes((0x81, 0x80 | len(inner))) + mask + bytes(byte ^ 0x80 for byte in inner)
    outer = bytes((0x81, 0x80 | len(smuggled))) + mask
    in_a_head = b"\x81" + b"\x81\x80\x01\x02\x03" + bytes((ord("1") ^ 0x80,))
    async with serving(Pings()) as (_, port):
        await is_up(port)
        async with await RawSocket.open(port) as raw:
            await raw.frame()  # the welcome
            for first, second, code in (
                (outer, smuggled, "invalid_json"),
                (in_a_head[:1], in_a_head[1:], "not_an_object"),  # it is a 1, and its rest an empty text
            ):
                raw.writer.write(first)
                for _ in range(5):
                    await asyncio.sleep(0)
                raw.writer.write(second)
                assert json.loads((await raw.frame())[1])["code"] == code
            raw.writer.write(client_frame(0x01, b"{", chance))
            for _ in range(5):
                await asyncio.sleep(0)
            raw.send('{"type":"getInfo"}')  # within the message that began
            assert await raw.frame() == (0x88, struct.pack("!H", 1002))


async def test_a_short_message_may_be_too_big_as_well() -> None:
    async with Server(CLOUD_SOCKETS_MAX_PAYLOAD="1024") as server, await RawSocket.open(server.port) as raw:
        await raw.frame()
        text = '{"type":"getInfo","payload":"%s"}'
        raw.send(text % ("x" * 900))
        assert json.loads((await raw.frame())[1])["type"] == "getInfo"
        raw.send(text % ("x" * 1024))
        first, data = await raw.frame()
        assert (first, data[:2]) == (0x88, struct.pack("!H", 1009))


@pytest.mark.parametrize("seed", range(4))
async def test_messages_are_handled_in_their_order_however_they_come(seed: int) -> None:
    """Whole, in parts, compressed, long, with pings between and within, and cut anywhere by the network."""
    chance = random.Random(seed)
    async with serving(Pings()) as (_, port):
        await is_up(port)
        async with await RawSocket.open(port, "permessage-deflate") as raw:
            await raw.frame()  # the welcome
            count, data, cuts = 150, b"", [0]
            for number in range(count):
                kind = chance.choice(["callEcho", "getInfo", "getInfo", "getInfo"])
                filling = "ü" * chance.choice([0, 0, 50, 300, 3000])
                text = json.dumps({"type": kind, "ackId": number, "payload": filling}, ensure_ascii=False).encode()
                data += b"".join(frames_of(text, chance))
                cuts.append(len(data))  # each by itself, if it is not cut again
            cuts += chance.sample(range(len(data)), 60)
            cuts.sort()
            reading = asyncio.create_task(answered(raw, count))
            for start, end in itertools.pairwise(cuts):
                raw.writer.write(data[start:end])
                for _ in range(chance.choice([0, 3, 3])):
                    await asyncio.sleep(0)  # the service, in this loop, may read
            assert await reading == list(range(count))


def frames_of(text: bytes, chance: random.Random) -> list[bytes]:
    """A message as clients may write it."""
    match chance.choice(["whole", "whole", "whole", "compressed", "parts"]):
        case "whole":
            return [client_frame(0x81, text, chance)]
        case "compressed":
            compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
            data = compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH)
            return [client_frame(0xC1, data[:-4], chance)]
        case _:
            cut = chance.randrange(len(text))
            parts = [client_frame(0x01, text[:cut], chance), client_frame(0x80, text[cut:], chance)]
            return [parts[0], client_frame(0x89, b"there?", chance), parts[1], client_frame(0x8A, b"", chance)]


def client_frame(first: int, payload: bytes, chance: random.Random) -> bytes:
    size = len(payload)
    length = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    mask = chance.randbytes(4)
    return bytes((first,)) + length + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


async def answered(raw: RawSocket, count: int) -> list[int]:
    """The marks of so many answers, in the order in which they come."""
    marks: list[int] = []
    while len(marks) < count:
        first, data = await raw.frame()
        if first in (0x81, 0xC1):
            message = json.loads(inflate(data) if first == 0xC1 else data)
            if message["type"] in ("ack", "getInfo"):
                marks.append(message["ackId"])
            else:
                assert message["type"] == "echo"
    return marks


async def test_a_client_whose_messages_wait_for_a_handler_is_not_taken_for_silent() -> None:
    """While it is held back its pongs are not read either."""
    async with serving(Pings(interval=1.2, timeout=1.0)) as (_, port):
        await is_up(port)
        async with Client(f"ws://127.0.0.1:{port}/ws", ping_interval=None) as ann:
            await ann.send({"type": "callSlow", "payload": 4.0})
            for number in range(200):
                await ann.send({"type": "getInfo", "ackId": number})
            assert [message["type"] for message in await ann.collect(2)] == ["began", "ended"]
            assert [message["ackId"] for message in await ann.collect(200)] == list(range(200))


async def test_nothing_is_written_behind_a_close_frame() -> None:
    async with serving(Pings()) as (hub, port):
        await is_up(port)
        async with await RawSocket.open(port) as rude:
            await rude.frame()
            rude.send('{"type":"subscribe","channel":"news","subId":"1"}')
            await rude.frame()
            rude.writer.write(b"\x81\x82" + bytes(4) + b"\xff\xff")  # no UTF-8
            while hub.connections:
                await hub.emit("news", None, "announce")
                await asyncio.sleep(0)
            frames = []
            with suppress(asyncio.IncompleteReadError):
                while True:
                    frames.append(await rude.frame())
            assert frames[-1] == (0x88, struct.pack("!H", 1007) + frames[-1][1][2:])
            assert [first for first, _ in frames].count(0x88) == 1


@pytest.mark.parametrize("ending", ["close", "vanish", "junk", "closed by the service"])
async def test_a_connection_that_is_gone_leaves_nothing_to_collect(ending: str) -> None:
    """What refers to itself in a circle stays until Python looks for such; so nothing of ours does."""
    async with serving(Pings()) as (hub, port):
        await is_up(port)
        async with await RawSocket.open(port, "permessage-deflate") as raw:
            await raw.frame()
            raw.send('{"type":"subscribe","channel":"news","subId":"1"}')
            await raw.frame()
            (connection,) = hub.connections.values()
            stream = connection.outlet._begin_close.__self__  # type: ignore[attr-defined]
            gone = [
                weakref.ref(each) for each in (connection, connection.outlet, stream, server_of(stream.send.__self__))
            ]
            del connection, stream
            gc.collect()
            gc.disable()
            try:
                match ending:
                    case "close":
                        raw.writer.write(b"\x88\x80" + bytes(4))
                    case "vanish":
                        raw.writer.transport.abort()
                    case "junk":
                        raw.writer.write(b"\xff" * 100)
                    case _:
                        for end in tuple(hub.connections.values()):
                            end.close(CloseCode.LOGGED_OUT, "logged out")
                        del end
                with suppress(ConnectionError):
                    await soon(raw.reader.read())
                raw.writer.close()
                await until(lambda: [each() for each in gone] == [None] * 4)
            finally:
                gc.enable()


@pytest.mark.parametrize("last", [b"\x88\x82\0\0\0\0\x03\xe8", b"\x81\x81\0\0\0\0\xff"], ids=["close", "no UTF-8"])
async def test_nothing_is_written_behind_a_close_frame_that_has_to_wait(last: bytes) -> None:
    """The client is behind, so that the close frame stands in a queue while more is published."""
    async with serving(Pings()) as (hub, port):
        await is_up(port)
        narrow = narrow_socket()
        await asyncio.get_running_loop().sock_connect(narrow, ("127.0.0.1", port))
        async with await RawSocket.open(port, sock=narrow) as raw:
            raw.send('{"type":"subscribe","channel":"news","subId":"1"}')
            await raw.frame()  # the welcome
            await raw.frame()
            (connection,) = hub.connections.values()
            while connection.outlet.waiting() < 150_000:
                await hub.emit("news", None, "announce", "x" * 2000)
                await asyncio.sleep(0)
            waiting = connection.outlet.waiting()
            raw.writer.write(last)
            await until(lambda: connection.outlet.waiting() > waiting or not hub.connections)
            for _ in range(3):
                await hub.emit("news", None, "announce", "too late")
                await asyncio.sleep(0)
            with suppress(asyncio.IncompleteReadError):
                while (frame := await raw.frame())[0] != 0x88:
                    assert b"too late" not in frame[1]
            assert await soon(raw.reader.read()) == b""


async def test_who_speaks_before_the_handshake_is_done_is_refused_and_gets_nothing_else() -> None:
    async with serving(Pings()) as (hub, port):
        await is_up(port)
        reader, writer = await soon(asyncio.open_connection("127.0.0.1", port))
        writer.write(RawSocket.request(port) + b"\x81\x80" + bytes(4))
        answer = await soon(reader.read())
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.endswith(b"\r\n\r\n")
        await until(lambda: not hub.connections)
        writer.close()
