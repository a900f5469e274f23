"""Memory: what attackers hoard is bounded for all of them together, and innocents still get their own."""

import asyncio
import zlib
from contextlib import AsyncExitStack
from hashlib import sha256

import pytest
from websockets.asyncio.client import connect

from tests.security.attackers import WIDE
from tests.security.programs import KEPT, MEGABYTE, SMALL, Attacker, Innocent, PeakMemory, memory_of
from tests.security.wire import RawSocket, frame, text
from tests.support.client import Client
from tests.support.deadline import soon
from tests.support.process import Server

pytestmark = [pytest.mark.once, pytest.mark.alone]

HANDLERS = {"CLOUD_SOCKETS_CUSTOM_MSG_HANDLERS": "tests.support.handlers:HANDLERS"}
HOLDERS = 700
"""Connections that each hold an unfinished message of 250 kB: 167 MiB, and more where they come again."""
UNFINISHED = 32
"""MiB that messages in the making may take in all, by default."""
WINDOWS = 16
"""MiB that clients that compress may refer back to in all, by default."""
CONNECTION = 0.1
"""MiB that a connection may take besides: one that only waits takes 0.02, the rest is for holes in what was freed."""


async def test_unacknowledged_messages_are_bounded_in_bytes() -> None:
    """Five that never acknowledge big messages cost 64 MiB at most; an innocent's message is still sent again."""
    async with Server(
        **KEPT, CLOUD_SOCKETS_ACK_MESSAGE_TYPES="announce", CLOUD_SOCKETS_MSG_RESEND_DELAY="2000"
    ) as server:
        async with Innocent(server.port, acknowledges=True) as innocent, Client(server.url) as forgetful:
            await forgetful.subscribe("quiet")
            await server.post("/api/messages", {"type": "announce", "channel": "quiet", "payload": "remember"})
            first = await forgetful.receive()
            memory = PeakMemory(server)
            async with Attacker("unacknowledged", server.port, seconds=4, connections=5) as attacker:
                counts = await attacker.over()
                assert counts["sent"] >= 60, counts
            assert memory.growth < 2 * 32 + 150, (memory.growth, counts)
            again = await forgetful.receive()
            assert (again["id"], again["isRetry"]) == (first["id"], True)
            assert (await innocent.report(20)).whole
            await forgetful.send({"type": "ack", "id": first["id"]})


async def test_subscriptions_are_bounded_in_bytes() -> None:
    """A hundred clients with a thousand long names each cost 126 MiB at most; an innocent can still subscribe."""
    async with Server(**KEPT) as server:
        memory = PeakMemory(server)
        async with Attacker("subscriptions", server.port, seconds=8, connections=100) as attacker:
            async with Innocent(server.port) as innocent:  # which subscribes while they do
                counts = await attacker.over()
                assert (await innocent.report(20)).whole
        assert counts["done"] >= 50, counts
        assert counts["too_many_subscriptions"] >= 1000, counts
        assert counts["subscribed"] >= 5000, counts
        assert memory.growth < 64 * 1.5 + 30, (memory.growth, counts)


@pytest.mark.parametrize("kind", ["unfinished", "unfinished_deflated", "half_posts"])
async def test_unfinished_messages_are_bounded_in_bytes(kind: str) -> None:
    """Hundreds of messages that never end cost 64 MiB at most; one in slow pieces gets through beside them."""
    async with Server(**KEPT) as server, Client(server.url) as reader:
        await reader.subscribe("slow")
        slow = await RawSocket.open(server.port)
        message = b'{"type":"announce","channel":"slow","payload":"' + b"x" * 200_000 + b'"}'
        pieces = [message[at : at + 20_000] for at in range(0, len(message), 20_000)]
        memory = PeakMemory(server)
        async with Attacker(kind, server.port, seconds=4, connections=HOLDERS, rest=0.2) as attacker:
            over = asyncio.create_task(attacker.over())
            for at, piece in enumerate(pieces):
                await slow.send(frame(0 if at else 1, piece, fin=at == len(pieces) - 1))
                await asyncio.wait({over}, timeout=0.4)  # the pace of a slow client
            assert len((await reader.receive())["payload"]) == 200_000
            counts = await over
        assert counts["held"] >= 0.9 * HOLDERS, counts
        assert memory.growth < 2 * UNFINISHED + CONNECTION * HOLDERS, (memory.growth, counts)
        slow.close()


async def test_messages_that_wait_for_a_handler_are_bounded_in_bytes() -> None:
    """A hundred connections, each with 64 big messages behind a slow handler, cost 64 MiB at most."""
    async with Server(**KEPT, **HANDLERS) as server:
        memory = PeakMemory(server)
        async with Innocent(server.port) as innocent:
            async with Attacker("waiting_for_a_handler", server.port, seconds=4, connections=100) as attacker:
                counts = await attacker.over()
            assert (await innocent.report(20)).whole
        assert counts["held"] >= 100, counts
        assert memory.growth < 2 * UNFINISHED + CONNECTION * 100, (memory.growth, counts)


async def test_ids_are_kept_in_bounded_memory() -> None:
    """A hundred thousand ids of 255 wide characters cost less than 100 MB, and a repeat is still known."""
    async with Server(**KEPT, CLOUD_SOCKETS_HISTORY_SIZE="10") as server, Client(server.url) as ann:
        own = WIDE * 255
        message = {"type": "announce", "channel": "ids", "id": own}
        await ann.ask(message)
        memory = PeakMemory(server)
        async with Attacker("ids", server.port, seconds=20, connections=26) as attacker:
            counts = await attacker.over()
        assert counts["sent"] >= 100_000, counts
        assert await server.metric("messages_received_total") >= 100_000
        assert memory.growth < 100, (memory.growth, counts)
        # Without shares the flood has pushed out what others sent.
        await ann.ask(message)
        assert await server.metric('duplicates_dropped_total{by="id"}') == 1


async def recovers(server: Server, position: str) -> bool:
    """Tell whether the quiet channel's message is replayed after a position, with the proof that it is all."""
    async with Client(server.url) as back:
        reply = await back.subscribe("quiet", position=position)
        return reply["recovered"] is True and (await back.receive())["payload"] == "remember"


async def remember(server: Server) -> str:
    """Publish the one message of a quiet channel; returns the position before it."""
    async with Client(server.url) as ann, Client(server.url) as bob:
        position = str((await ann.subscribe("quiet"))["position"])
        await bob.ask({"type": "announce", "channel": "quiet", "payload": "remember"})
        await ann.receive()
        return position


async def test_flood_of_busy_channels_leaves_a_quiet_one_its_history() -> None:
    """A flood on 300 channels evicts its own messages; the one message of a quiet channel is still recovered."""
    async with Server(**KEPT, **SMALL | {"CLOUD_SOCKETS_HISTORY_BYTES": str(2 * MEGABYTE)}) as server:
        memory = PeakMemory(server)
        position = await remember(server)
        async with Client(server.url) as eve:
            for turn in range(5):
                flood = (
                    text({"type": "announce", "channel": f"busy-{at}", "payload": "x" * 3000}) for at in range(300)
                )
                eve.socket.transport.write(b"".join(flood))
                assert (await eve.ask({"type": "getInfo", "payload": turn}))["type"] == "getInfo"
            assert await recovers(server, position)
            assert memory.peak < memory_of(server), (memory.peak, memory_of(server))


async def test_flood_of_tiny_channels_leaves_a_quiet_one_its_history() -> None:
    """One connection that begins 20,000 channels evicts its own messages, not those of others."""
    small = SMALL | {"CLOUD_SOCKETS_HISTORY_BYTES": str(2 * MEGABYTE), "CLOUD_SOCKETS_MESSAGE_RATE": "0"}
    async with Server(**KEPT, **small) as server:
        memory = PeakMemory(server)
        position = await remember(server)
        async with Client(server.url) as eve:
            for turn in range(20):
                flood = (text({"type": "announce", "channel": f"{turn}-{at}"}) for at in range(1000))
                eve.socket.transport.write(b"".join(flood))
                assert (await soon(eve.ask({"type": "getInfo"})))["type"] == "getInfo"
            assert await recovers(server, position)
            assert memory.peak < memory_of(server), (memory.peak, memory_of(server))


async def test_what_clients_refer_back_to_is_bounded_and_costs_nobody_a_window_who_had_one() -> None:
    """Of 700 that keep their context as many are read on as there is room for; who had a window before keeps it."""
    async with Server(**KEPT) as server, AsyncExitStack() as stack:
        memory = PeakMemory(server)
        sockets = [await RawSocket.open(server.port, deflate=True) for _ in range(HOLDERS + 2)]
        for each in sockets:
            stack.callback(each.close)
        old, growing, *attackers = sockets
        payload = b"".join(sha256(b"%d" % number).hexdigest().encode() for number in range(700))
        compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)

        def said(text: bytes) -> bytes:
            data = compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH)
            return frame(1, data.removesuffix(b"\x00\x00\xff\xff"), compressed=True)

        first = said(b'{"type":"getInfo","payload":"' + payload + b'"}')
        second = said(b'{"type":"getInfo","ackId":2,"payload":"' + payload[-20_000:] + b'"}')
        assert len(second) < 1000  # it refers to the first
        await old.send(first)
        await old.receive()
        await growing.send(first)
        await growing.receive()
        for at in range(0, HOLDERS, 20):  # what is not handled yet has a bound of its own
            await asyncio.gather(*(attacker.send(first) for attacker in attackers[at : at + 20]))
            await asyncio.gather(*(_answered(attacker) for attacker in attackers[at : at + 20]))
        read_on = sum(await asyncio.gather(*(_answered(attacker) for attacker in attackers)))
        room = WINDOWS * MEGABYTE // 32768
        assert 0.9 * room <= read_on <= room
        assert await server.metric('connections_shed_total{reason="window"}') == HOLDERS - read_on
        assert await server.metric("window_bytes") <= WINDOWS * MEGABYTE
        late = await RawSocket.open(server.port, deflate=True)
        stack.callback(late.close)
        for client, message in ((old, second), (growing, second), (late, text({"type": "getInfo", "ackId": 2}))):
            await client.send(message)
            assert (await soon(client.receive()))["ackId"] == 2
        assert memory.growth < 1.5 * WINDOWS + CONNECTION * HOLDERS, memory.growth
        async with connect(server.url) as browser:  # which is asked for a small one
            await soon(browser.recv())
            await browser.send(payload.decode())
            assert "error" in str(await soon(browser.recv()))


async def _answered(client: RawSocket) -> bool:
    """Tell whether a client is still connected once all is handled that it said."""
    try:
        await client.send(text({"type": "getInfo", "ackId": "last"}))
        while (await soon(client.receive())).get("ackId") != "last":
            pass
    except ConnectionError:
        assert client.close_code == 3008
        return False
    return True
